# SPDX-License-Identifier: GPL-3.0-or-later
"""Particles in RELION's STAR files: what is in them.

Both flavours: 3.1 and later, with an optics table and origins in Å, and 3.0, with a magnification and a detector pixel
size on every row and origins in pixels. A file is read in one pass, in which all values are looked at that are needed
to write it again (``relion_output``).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from . import relion_labels as labels
from .relion_groups import FoundGroup, Groups, ImageGroup, first_without_number, no_number
from .relion_tables import check_rest, find_tables
from .star import Block, StarFile, read_blocks
from .star_rows import Rows, value_of

LONGEST_INDEX = 12  # digits of the number of an image in its file


class Particles(NamedTuple):
    """Some particles of a STAR file, in its order: an element or a row for each."""

    #: where they stand in the file
    block: Block
    #: number of the row, from 1
    particle_ids: NDArray[np.int64]
    #: number of the image's file, from 0, among ``RelionStar.image_files``
    files: NDArray[np.int32]
    #: number of the image in its file, from 1; 0 where the name has none
    image_indices: NDArray[np.int64]
    #: (n, 2) x and y in px of the image: bring the particle to the origin; 0 where the file has no origins
    shifts: NDArray[np.float64]
    #: number of the group, from 0, among ``RelionStar.groups``
    groups: NDArray[np.int32]


class RelionStar:
    """A STAR file of particles, which stays open; DataError where it is none or lacks what is needed.

    Pixel sizes (Å/px) that it lacks may be given: of the images, and of the micrographs that coordinates are counted
    on. PlanError, while particles are read, where the file says otherwise. A context manager.
    """

    def __init__(self, path: str, apix: float | None = None, micrograph_apix: float | None = None):
        self.path, self.apix, self.micrograph_apix = path, apix, micrograph_apix
        self.file = StarFile(path)
        try:
            self.table, self.optics = find_tables(self.file)
            self._groups = Groups(path, self.table, self.optics, apix, micrograph_apix)
        except BaseException:
            self.close()
            raise
        #: labels whose values tell groups apart
        self.group_labels = [label for label in labels.OF_GROUP if label in self.table.labels]
        #: labels of the origins that RELION goes by: those in Å beside an optics table, else those in px, if any
        self.shift_labels = self._find_shift_labels()
        self._forget()

    def _forget(self) -> None:
        self._file_numbers: dict[str, int] = {}
        #: files of images, found from the current folder, or else from the STAR file's; all those met so far
        self.image_files: list[str] = []
        #: groups by the texts on their rows, in the order of their first particles; all those met so far
        self.found_groups: dict[tuple[str, ...], FoundGroup] = {}
        #: the same with their boxes; there when all particles were read
        self.groups: list[ImageGroup] = []
        #: where all particles stand; there when they were read
        self.blocks: list[Block] = []

    def __enter__(self) -> RelionStar:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self.file.close()

    @property
    def has_origins(self) -> bool:
        """Whether the particles carry shifts."""
        return bool(self.shift_labels)

    def _find_shift_labels(self) -> Sequence[str]:
        in_angstrom, in_pixels = ("rlnOriginXAngst", "rlnOriginYAngst"), ("rlnOriginX", "rlnOriginY")
        sorts = [in_angstrom] if self.optics else [in_pixels, in_angstrom]
        return next((sort for sort in sorts if set(sort) & set(self.table.labels)), ())

    def particles(self) -> Iterator[Particles]:
        """All particles, some thousands at a time; DataError where something is wrong with one."""
        self._forget()
        blocks, end = [], self.table.start
        for block, rows in read_blocks(self.file, self.table):
            blocks.append(block)
            end = block.offset + block.length
            if len(rows):
                yield self._particles(block, rows)
        if not self.found_groups:
            raise DataError(
                f"{self.path}: it has no rows with rlnImageName, expected particles; give a STAR file of particles"
            )
        check_rest(self.file, self.table, end)
        self.groups = [self._groups.with_box(group) for group in self.found_groups.values()]
        self.blocks = blocks

    def _particles(self, block: Block, rows: Rows) -> Particles:
        present = [label for label in labels.OF_PARTICLE if label in self.table.labels]
        values = {label: self.floats(block, rows, label) for label in present}
        files, image_indices = self._images(block, rows)
        groups = self._group_numbers(block, rows)
        for number, group in enumerate(self.found_groups.values()):
            if self._groups.needs_box(group):
                of_group = dict.fromkeys(files[groups == number].tolist())
                self._groups.look_into(group, map(self.image_files.__getitem__, of_group))
        shifts = np.zeros((len(rows), 2))
        for axis, label in enumerate(self.shift_labels):
            shifts[:, axis] = values.get(label, 0.0)
        if self.shift_labels and self.shift_labels[0] in labels.ORIGINS_ANGSTROM:
            shifts /= np.array([group.apix for group in self.found_groups.values()])[groups][:, None]
        particle_ids = np.arange(block.first, block.first + len(rows), dtype=np.int64)
        return Particles(block, particle_ids, files, image_indices, shifts, groups)

    def _error(self, block: Block, rows: Rows, row: int, problem: str) -> DataError:
        return self.file.error_at(block.offset + int(rows.lines[row, 0]), problem)

    def floats(self, block: Block, rows: Rows, label: str) -> NDArray[np.float64]:
        """Values (n,) of the rows of a block; DataError, with the line, where one is no finite number."""
        texts = rows.values(self.table.column(label))
        together = "".join(texts)
        try:
            # Python's underscores and digits are none of RELION's
            values = np.array(texts if together.isascii() and "_" not in together else [""], dtype=np.float64)
        except ValueError:
            values = np.array([np.nan])
        if not np.isfinite(values).all():
            row = first_without_number(texts)
            raise self._error(block, rows, row, no_number(label, texts[row]))
        return values

    def apix_of(self, block: Block, rows: Rows) -> NDArray[np.float64]:
        """Pixel sizes (n,), in Å/px, of the images of the rows of a block."""
        groups = self._group_numbers(block, rows)
        found: NDArray[np.float64] = np.array([group.apix for group in self.found_groups.values()])[groups]
        return found

    def _group_numbers(self, block: Block, rows: Rows) -> NDArray[np.int32]:
        columns = [rows.raw(self.table.column(label)) for label in self.group_labels]
        keys = list(zip(*columns)) if columns else [()] * len(rows)
        new = set(keys) - self.found_groups.keys()
        for key in dict.fromkeys(keys) if new else ():
            if key in new:
                try:
                    self.found_groups[key] = self._groups.find(dict(zip(self.group_labels, map(value_of, key))))
                except ValueError as error:
                    raise self._error(block, rows, keys.index(key), str(error)) from None
        numbers = {key: number for number, key in enumerate(self.found_groups)}
        return np.array([numbers[key] for key in keys], dtype=np.int32)

    # ---- images ----------------------------------------------------------------------------------------------------

    def _images(self, block: Block, rows: Rows) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Numbers of the files, and of the images in them."""
        names = rows.values(self.table.column(labels.IMAGE))
        indices, ats, files = zip(*[name.partition("@") for name in names])
        together, lengths = "".join(indices), set(map(len, indices))
        if not (all(ats) and together.isascii() and together.isdigit() and lengths <= set(range(1, LONGEST_INDEX + 1))):
            indices, files = zip(*[self._image(block, rows, row, name) for row, name in enumerate(names)])
        new = set(files) - self._file_numbers.keys()
        for file in dict.fromkeys(files) if new else ():
            if file in new:
                if not file or "\0" in file:
                    raise self._bad_name(block, rows, files.index(file), names[files.index(file)])
                self._file_numbers[file] = len(self._file_numbers)
                self.image_files.append(self._found(file))
        file_numbers = np.array([self._file_numbers[file] for file in files], dtype=np.int32)
        return file_numbers, np.array(list(map(int, indices)), dtype=np.int64)

    def _image(self, block: Block, rows: Rows, row: int, name: str) -> tuple[str, str]:
        """Index and file of an image name; without an @ there is but one image in the file."""
        index, at, file = name.partition("@")
        if not at:
            return "0", name
        if not (index.isascii() and index.isdigit() and len(index) <= LONGEST_INDEX):
            raise self._bad_name(block, rows, row, name)
        return index, file

    def _bad_name(self, block: Block, rows: Rows, row: int, name: str) -> DataError:
        expected = f"a number before the @, of up to {LONGEST_INDEX} digits, and a file after it"
        return self._error(block, rows, row, f"rlnImageName is {name[:200]}, expected {expected}; write the file again")

    def _found(self, file: str) -> str:
        """The path of an image file, looked for from the current folder, then from the STAR file's."""
        beside = os.path.join(os.path.dirname(self.path), file)
        return beside if os.path.exists(beside) and not os.path.exists(file) else file
