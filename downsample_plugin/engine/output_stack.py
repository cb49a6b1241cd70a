# SPDX-License-Identifier: GPL-3.0-or-later
"""An output stack of a job: where it is, what it is made of, and what of it is done.

Its files, in the folder of the job::

    particles_000001.mrcs       the images
    tables/made_000001.npy      what became of each image that was wanted (MADE)
    tables/record_000001.json   what made the stack, and its checksum; there when it is whole
    tables/bad_000001.json      its images that cannot be used, by their places in it, and why
    tables/error_000001.txt     why it could not be made at all, for people
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from mrcfile.dtypes import HEADER_DTYPE
from numpy.typing import NDArray

from .. import __version__
from ..core.plan import DownsamplePlan
from ..errors import DataError
from ..files.fingerprints import FileState, checksum, file_state, word_sums
from ..files.image_readers import open_stack
from ..files.stack_writer import StackWriter
from ..files.whole_files import alone_in, remove_abandoned, whole_file
from .tables import MADE, WANTED, read_array, read_bad, write_array, write_bad

STACK_NAME = re.compile(r"particles_\d{6,}(_\d+)?\.mrcs")
JOB_NAME = "job.json"  # of the description of a job, in its folder
IMAGES_NAME = "images.npy"  # of the images that a job wants, in its folder of tables


class Record(NamedTuple):
    """What is known of a stack that is whole."""

    #: how many it has; without any, there is no stack
    images: int
    bytes: int
    #: of its pixels and header
    checksum: str
    #: checksum of what became of each image that was wanted, and of what was wanted
    tables: str
    #: the image files that it was made of
    inputs: dict[str, FileState | None]
    #: what its file was when it had its name; None if there is none
    state: FileState | None


@dataclass(frozen=True)
class OutputStack:
    """One of the stacks that a job makes, a unit of its own.

    Attributes
    ----------
    folder, tables : those of the job
    generation : of the jobs in the folder, whose stacks have names of their own
    stack_number : from 1
    first, size : number (from 0, in the job) of its first image, and how many are wanted
    plan, fingerprint : those of the job
    """

    folder: str
    tables: str
    generation: int
    stack_number: int
    first: int
    size: int
    plan: DownsamplePlan
    fingerprint: str

    @property
    def path(self) -> str:
        """The stack: named by number, so that no two inputs can collide."""
        return os.path.join(self.folder, stack_name(self.stack_number, self.generation))

    @property
    def name(self) -> str:
        """The name of its file."""
        return os.path.basename(self.path)

    def _table(self, kind: str, suffix: str) -> str:
        return os.path.join(self.tables, f"{kind}_{self.stack_number:06d}.{suffix}")

    @property
    def made_path(self) -> str:
        """Table of what became of its images."""
        return self._table("made", "npy")

    @property
    def record_path(self) -> str:
        """What made it, and its checksum."""
        return self._table("record", "json")

    @property
    def bad_path(self) -> str:
        """List of its images that cannot be used."""
        return self._table("bad", "json")

    @property
    def error_path(self) -> str:
        """Why it could not be made, for people."""
        return self._table("error", "txt")

    # ---- what is wanted and what is there ----------------------------------------------------------------

    def wanted(self) -> NDArray[np.void]:
        """Its images (WANTED), in their order."""
        return read_array(os.path.join(self.tables, IMAGES_NAME), WANTED, self.first, self.size)

    def made(self) -> NDArray[np.void]:
        """What became of them (MADE), in the same order; DataError if that, or what is wanted, is not what it was."""
        made = read_array(self.made_path, MADE, count=self.size)
        record = self.record()
        if record is None or record.tables != self._tables_checksum(made):
            raise DataError(
                f"{self.made_path}: it is not what it was when the stack was made, expected nobody else to write "
                "there; continue the run: the stack is made again"
            )
        return made

    def _tables_checksum(self, made: NDArray[np.void]) -> str:
        return hashlib.sha256(made.tobytes() + self.wanted().tobytes()).hexdigest()

    def record(self) -> Record | None:
        """Its record, if there is one that belongs to this job."""
        try:
            with open(self.record_path, encoding="utf-8") as file:
                found = json.load(file)
            inputs = {path: state and FileState(*state) for path, state in found["inputs"].items()}
            state = found["state"] and FileState(*found["state"])
            numbers = int(found["images"]), int(found["bytes"])
            record = Record(*numbers, str(found["checksum"]), str(found["tables"]), inputs, state)
            fits = found["fingerprint"] == self.fingerprint
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
        return record if fits else None

    def image_count(self) -> int:
        """How many images it has; 0 if it is not done, or all were left out."""
        record = self.record()
        return record.images if record else 0

    def is_done(self) -> bool:
        """Whether it is there, with its tables, and fits its record in size, header and count."""
        record = self.record()
        if record is None or not os.path.exists(self.made_path):
            return False
        try:
            if record.images + len(self.bad()) != self.size:
                return False
            if not record.images:
                return True
            with open_stack(self.path) as stack:
                fits = stack.count == record.images and stack.box == (self.plan.box_out, self.plan.box_out)
            return fits and os.path.getsize(self.path) == record.bytes
        except (DataError, OSError):
            return False

    def is_intact(self) -> bool:
        """Whether, besides, all its pixels and tables are those that were written: they are read through."""
        record = self.record()
        if record is None or not self.is_done():
            return False
        sums, header = np.empty(0, dtype=np.uint64), b""
        try:
            if record.images:
                with open_stack(self.path) as stack:
                    header = _header_of(self.path)
                    sums = np.array(
                        [word_sums(stack.read(image)[None])[0] for image in range(stack.count)], dtype=np.uint64
                    )
            made = self.made()
            fits = np.flatnonzero(made["index"] == 0).tolist() == [place for place, _ in self.bad()]
            return fits and checksum(sums, header) == record.checksum
        except (DataError, OSError):
            return False

    def is_kept(self) -> bool:
        """Whether it is done and nobody has touched it since; it is read through only where its file is another."""
        record = self.record()
        if record is None or not self.is_done():
            return False
        return not record.images or record.state == file_state(self.path) or self.is_intact()

    def may_stay(self, skip_corrupt: bool) -> bool:
        """Whether it need not be made again: it is intact, and has all that it is to have."""
        return (skip_corrupt or self.image_count() == self.size) and self.is_intact()

    def has_bad(self) -> bool:
        """Whether some of its images could not be used."""
        return os.path.exists(self.bad_path)

    def is_refused(self) -> bool:
        """Whether it was not made because of those."""
        return self.has_bad() and self.record() is None

    def bad(self) -> list[list[Any]]:
        """Places (from 0) of its images that cannot be used, and why."""
        return read_bad(self.bad_path, 2) if self.has_bad() else []

    def error(self) -> str:
        """Why it could not be made; empty if nobody has said so."""
        try:
            with open(self.error_path, encoding="utf-8") as file:
                return file.read()
        except FileNotFoundError:
            return ""

    # ---- while it is made ----------------------------------------------------------------------------------

    def forget(self) -> None:
        """Remove it if it was finished once, and what earlier attempts at it have to say.

        One without a record may be about to get it.
        """
        if os.path.exists(self.record_path):
            remove_files(self.record_path, self.made_path, self.path)
        remove_files(self.bad_path, self.error_path)

    def remove(self) -> None:
        """Remove it, whatever there is of it."""
        remove_files(self.path)
        remove_abandoned(self.folder or ".", [self.name])

    def alone(self) -> contextlib.AbstractContextManager[None]:
        """Keep others from beginning a job in the folder; DataError if one has begun that this stack is not of."""
        return alone_with(self.folder, self.fingerprint, self.generation)

    def writer(self) -> StackWriter:
        """What writes it."""
        dtype = np.dtype(np.float16 if self.plan.float16 else np.float32)
        return StackWriter(self.path, self.size, self.plan.box_out, dtype, self.plan.apix_out)

    def refuse(self, bad: Sequence[tuple[int, str]]) -> None:
        """Leave word of images that cannot be used: places (from 0) and why."""
        write_bad(self.bad_path, bad)

    def finish(self, inputs: Mapping[str, FileState | None], made: NDArray[np.void], sums: NDArray[np.uint64]) -> None:
        """Leave the table and the record of a stack that is whole.

        `inputs` are the image files that it was made of, as they were; `made` tells of all images that were wanted
        (MADE), `sums` are those of the images that it has.
        """
        write_array(self.made_path, made)
        images = int(np.count_nonzero(made["index"]))
        state = file_state(self.path) if images else None
        record = {
            "version": __version__,
            "fingerprint": self.fingerprint,
            "plan": self.plan.to_dict(),
            "inputs": inputs,
            "images": images,
            "bytes": state.size_bytes if state else 0,
            "state": state,
            "checksum": checksum(sums, _header_of(self.path) if images else b""),
            "tables": self._tables_checksum(made),
        }
        write_json(self.record_path, record)
        remove_files(self.error_path)

    def leave_word(self, error: Exception) -> None:
        """Leave the reason where who started the program looks for it; a full disk may not have room even for that."""
        with (
            contextlib.suppress(OSError),
            open(self.error_path, "w", encoding="utf-8", errors="backslashreplace") as file,
        ):
            file.write(str(error))

    def flush(self) -> None:
        """Wait until it is on the disk."""
        if self.image_count():
            file = os.open(self.path, os.O_RDONLY)
            os.fsync(file)
            os.close(file)


def _header_of(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read(HEADER_DTYPE.itemsize)


@contextlib.contextmanager
def alone_with(folder: str, fingerprint: str, generation: int) -> Iterator[None]:
    """Keep others from beginning a job in a folder; DataError unless its job has this fingerprint and generation."""
    with alone_in(folder or "."):
        _check_described(folder, fingerprint, generation)
        yield


def _check_described(folder: str, fingerprint: str, generation: int) -> None:
    path = os.path.join(folder, JOB_NAME)
    try:
        with open(path, encoding="utf-8") as file:
            found = json.load(file)
        if (found["fingerprint"], found["generation"]) == (fingerprint, generation):
            return
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        pass
    raise DataError(
        f"{path}: another run was started in this folder, expected this one only; give each run its own folder, and "
        "start this one again"
    )


def stack_name(stack_number: int, generation: int) -> str:
    """Name of an output stack, by its number, from 1, and the generation of its job."""
    return f"particles_{stack_number:06d}" + (f"_{generation}" if generation > 1 else "") + ".mrcs"


def remove_files(*paths: str) -> None:
    """Remove those of some files that are there."""
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            os.remove(path)


def write_json(path: str, content: Any) -> None:
    """Write a description, which appears under its name when it is whole."""
    with whole_file(path) as file:
        json.dump(content, file, indent=2)
        file.write("\n")
