# SPDX-License-Identifier: GPL-3.0-or-later
"""Tables of a job: particles and images as NumPy arrays on disk, and lists of particles that cannot be used.

Several particles may show one image, as in symmetry-expanded sets, so there are two tables: the particles (ROW), each
with the number of its image, and the images (WANTED), each of which is made once.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from .. import __version__
from ..core.downsampler import split_shift
from ..core.plan import DownsamplePlan, Recenter
from ..errors import OF_THE_FILE, DataError
from ..files.fingerprints import FileState
from ..files.whole_files import whole_binary_file, whole_file

# A particle: its id, and the number of its image, from 0
ROW = np.dtype([("particle_id", "<i8"), ("image", "<i8")])
# An image to be made: the number of its file; its number there, from 1, or 0 for a file that holds this one image; and
# the shift that brings its particle to the origin, in px of the input
WANTED = np.dtype([("file", "<i4"), ("index", "<i8"), ("shift_x", "<f8"), ("shift_y", "<f8")])
# What became of it: its number in its output stack, from 1, or 0 if it was left out; and the shift applied to it, px
MADE = np.dtype([("index", "<i8"), ("shift_x", "<f8"), ("shift_y", "<f8")])

ROWS_AT_ONCE = 1 << 16
SAME_SHIFT = 1e-6  # px: noise of the matrices that shifts come from
INDEX_BITS = 40  # of an image's key: its number in the file; the rest numbers the file


class ParticleBlock(NamedTuple):
    """Some particles, as columns."""

    #: (count,)
    particle_ids: NDArray[np.int64]
    #: (count,), places in `file_names`
    files: NDArray[np.int32]
    file_names: Sequence[str]
    #: (count,), numbers in the files as of WANTED
    image_indices: NDArray[np.int64]
    #: (count, 2), (x, y) in px of the input, wanted
    shifts: NDArray[np.float64]


class BadParticle(NamedTuple):
    """A particle that cannot be used, and why, for people."""

    particle_id: int
    image_index: int
    image_file: str
    problem: str

    def __str__(self) -> str:
        return f"Particle {self.particle_id}, image {self.image_index} of {self.image_file}: {self.problem}"


class Particles(NamedTuple):
    """All particles of a job and the images that they need; file names by the numbers of WANTED."""

    rows: NDArray[np.void]
    images: NDArray[np.void]
    file_names: list[str]


def collect(blocks: Iterable[ParticleBlock], recenter: Recenter) -> Particles:
    """All particles of blocks. Those with the same image, to be moved by the same shift, share it."""
    numbers: dict[str, int] = {}
    ids, wanted = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=WANTED)]
    names: Sequence[str] = ()
    for block in blocks:
        if block.file_names is not names:  # blocks may have one long list in common
            names = block.file_names
            of_block = np.array([numbers.setdefault(name, len(numbers)) for name in names], dtype=np.int32)
        part = np.empty(len(block.particle_ids), dtype=WANTED)
        part["file"], part["index"] = of_block[block.files], block.image_indices
        part["shift_x"], part["shift_y"] = block.shifts.T
        ids.append(block.particle_ids)
        wanted.append(part)
    all_wanted = np.concatenate(wanted)
    del wanted
    first, image = _distinct(all_wanted, recenter)
    rows = np.empty(len(image), dtype=ROW)
    rows["particle_id"], rows["image"] = np.concatenate(ids), image
    return Particles(rows, all_wanted[first] if len(first) < len(image) else all_wanted, list(numbers))


def _distinct(wanted: NDArray[np.void], recenter: Recenter) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The places of the first of each distinct image, in their order; and for each row, which of these it has."""
    key = (wanted["file"].astype(np.int64) << INDEX_BITS) + wanted["index"]
    in_order = np.sort(key)
    if (in_order[1:] != in_order[:-1]).all():
        return (every := np.arange(len(wanted))), every
    applied = split_shift(np.stack([wanted["shift_x"], wanted["shift_y"]], axis=1), recenter).applied
    moves = np.round(applied / SAME_SHIFT)
    order = np.lexsort((moves[:, 1], moves[:, 0], key))  # stable: the first of each stays first
    is_new = np.ones(len(wanted), dtype=bool)
    is_new[1:] = (np.diff(key[order]) != 0) | (np.diff(moves[order], axis=0) != 0).any(axis=1)
    first = order[is_new]
    by_place = np.argsort(first)
    number = np.empty(len(first), dtype=np.int64)
    number[by_place] = np.arange(len(first))
    image = np.empty(len(wanted), dtype=np.int64)
    image[order] = number[np.cumsum(is_new) - 1]
    return first[by_place], image


def fingerprint(
    plan: DownsamplePlan,
    images_per_stack: int,
    particles: Particles,
    states: Sequence[FileState | None],
    bad: Sequence[BadParticle] = (),
) -> str:
    """Of all that the output depends on: plan, particles, sizes and times of their files, our version.

    A copy of a project has it too, so that its runs can be continued: inodes do not count.
    """
    found = hashlib.sha256(repr((__version__, plan, images_per_stack, list(bad))).encode("utf-8", "surrogateescape"))
    for name, state in zip(particles.file_names, states):
        size_and_time = state and (state.size_bytes, state.modified_ns)
        found.update(repr((name, size_and_time)).encode("utf-8", "surrogateescape"))
    for array in (particles.rows, particles.images):
        found.update(np.ascontiguousarray(array).view(np.uint8).data)
    return found.hexdigest()


def tables_checksum(
    rows: Iterable[NDArray[np.void]],
    images: Iterable[NDArray[np.void]],
    file_names: Sequence[str],
    bad: Sequence[BadParticle],
) -> str:
    """Of what the tables of a job hold, in pieces of any size, but for the states of image files, which may change."""
    found = hashlib.sha256(repr((list(file_names), list(bad))).encode("utf-8", "surrogateescape"))
    for piece in itertools.chain(rows, images):
        found.update(np.ascontiguousarray(piece).view(np.uint8).data)
    return found.hexdigest()


# ---- on disk ---------------------------------------------------------------------------------------------


def write_array(path: str, array: NDArray[Any]) -> None:
    """Write a table (.npy), which appears under its name when it is whole."""
    with whole_binary_file(path) as file:
        npy.write_array(file, array, allow_pickle=False)  # type: ignore[no-untyped-call]


def read_array(path: str, dtype: np.dtype[Any], start: int = 0, count: int | None = None) -> NDArray[Any]:
    """Rows of a table, from number `start` (from 0) on, all or `count`; DataError if it is missing or lacks them."""
    try:
        with open(path, "rb") as file:
            if npy.read_magic(file) != (1, 0):  # type: ignore[no-untyped-call]
                raise ValueError("it is not a table of this version")
            shape, _, found = npy.read_array_header_1_0(file)  # type: ignore[no-untyped-call]
            if found != dtype or len(shape) != 1:
                raise ValueError("its columns differ")
            wanted = shape[0] - start if count is None else count
            there = (os.fstat(file.fileno()).st_size - file.tell()) // dtype.itemsize
            if not 0 <= start + wanted <= min(shape[0], there):
                raise ValueError(f"it has {min(shape[0], there)} rows, expected {start + wanted}")
            return np.fromfile(file, dtype, wanted, offset=start * dtype.itemsize)
    except Exception as error:  # of a header that is none, NumPy raises anything
        _raise_if_of_the_disk(error)
        raise DataError(
            f"{path}: it cannot be read as a table of a job ({error}); continue the run, which writes it again"
        ) from error


def read_in_pieces(path: str, dtype: np.dtype[Any], count: int) -> Iterator[NDArray[Any]]:
    """The `count` rows of a table, some at a time: there may be millions. DataError as of ``read_array``."""
    for start in range(0, count, ROWS_AT_ONCE):
        yield read_array(path, dtype, start, min(ROWS_AT_ONCE, count - start))


def write_files(path: str, files: Mapping[str, Sequence[int] | None]) -> None:
    """Write names of files, which may be any bytes, each with its state, None where it is not there."""
    with whole_file(path) as file:
        json.dump(list(files.items()), file)


def read_files(path: str, numbers: int) -> dict[str, list[int] | None]:
    """What ``write_files`` wrote, of states of so many numbers; DataError if there is no such list."""
    return {
        str(name): None if state is None else [int(number) for number in state]
        for name, state in _read_rows(path, 2)
        if _is_state(path, state, numbers)
    }


def _is_state(path: str, state: object, numbers: int) -> bool:
    if state is None or (isinstance(state, list) and len(state) == numbers and {int} >= set(map(type, state))):
        return True
    raise DataError(f"{path}: it cannot be read as a list of files; continue the run, which writes it again")


def write_bad(path: str, bad: Sequence[Sequence[Any]]) -> None:
    """Write a list of what cannot be used, for the program."""
    with whole_file(path) as file:
        json.dump([list(each) for each in bad], file)


def read_bad(path: str, columns: int) -> list[list[Any]]:
    """The list that ``write_bad`` wrote, of rows of so many values; DataError if it is none."""
    return _read_rows(path, columns)


def _read_rows(path: str, columns: int) -> list[list[Any]]:
    try:
        with open(path, encoding="utf-8") as file:
            found = json.load(file)
        if not isinstance(found, list):
            raise ValueError("it is not a list")
        if not all(isinstance(each, list) and len(each) == columns for each in found):
            raise ValueError(f"its rows do not have {columns} values")
        return found
    except (OSError, ValueError, RecursionError) as error:
        _raise_if_of_the_disk(error)
        raise DataError(
            f"{path}: it cannot be read as a list ({error}); continue the run, which writes it again"
        ) from error


def _raise_if_of_the_disk(error: Exception) -> None:
    """Raise it again if the file itself is not to blame."""
    if isinstance(error, OSError) and error.errno not in OF_THE_FILE:
        raise error


# ---- for people ------------------------------------------------------------------------------------------

BAD_HEAD = """\
data_bad_particles

loop_
_particleId #1
_imageIndex #2
_imageFile #3
_problem #4
"""
LISTED = re.compile(r'(-?\d+) (-?\d+) "([^"]*)" "([^"]*)"\n')


def list_bad_particles(path: str, bad: Iterable[BadParticle]) -> int:
    """Write a STAR table of particles that cannot be used, for people, and return the number of its rows."""
    count = 0
    with whole_file(path, errors="surrogateescape") as file:
        file.write(BAD_HEAD)
        for particle_id, index, name, problem in bad:
            file.write(f"{particle_id} {index} {_quoted(name)} {_quoted(problem)}\n")
            count += 1
    return count


def listed_particles(path: str, most: int) -> list[BadParticle]:
    """The first so many rows of a table that ``list_bad_particles`` wrote; none if there is no such file."""
    found: list[BadParticle] = []
    with (
        contextlib.suppress(FileNotFoundError),
        open(path, encoding="utf-8", errors="backslashreplace") as file,
    ):
        rows = filter(None, map(LISTED.fullmatch, file))
        for particle_id, index, name, problem in (row.groups() for row in itertools.islice(rows, most)):
            found.append(BadParticle(int(particle_id), int(index), name, problem))
    return found


def _quoted(text: str) -> str:
    """A text as a value of a STAR file: there is no way to write a quote or a line break within quotes."""
    return '"' + text.replace('"', "'").replace("\n", " ").replace("\r", " ") + '"'
