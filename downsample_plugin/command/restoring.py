# SPDX-License-Identifier: GPL-3.0-or-later
"""From a STAR file of downsampled particles, refined since, back to the full-size ones: the way back outside Scipion.

Each row of downsampled particles names the image that it was made of, and how far its content was moved, d in Å
(``relion_labels.RECORD``); RELION keeps columns that it does not know. So the row of the original image is found, and
its origin is that of the downsampled image plus d.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Callable, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..engine.tables import INDEX_BITS
from ..errors import NAMED_IN_A_MESSAGE, DataError, PlanError
from ..files import relion_labels as labels
from ..files.relion_star import LONGEST_INDEX, RelionStar
from ..files.star import BYTES_AT_ONCE, Block, read_again, read_blocks
from ..files.star_rows import Rows, find_rows
from ..files.whole_files import whole_binary_file

MISSING = -1  # instead of a place
ORIGINS = tuple(zip(labels.ORIGINS_ANGSTROM, labels.ORIGINS_PIXELS))  # the same origin or prior in Å and in px


class Restored(NamedTuple):
    """How many particles were brought back to full size, and how many have no original."""

    particles: int
    missing: int


def restore(
    refined: RelionStar, original: RelionStar, output: str, skip_missing: bool, force: bool = False
) -> Restored:
    """Write the STAR file of the full-size particles for refined downsampled ones, in their order.

    Each row is that of the original, with what ``docs/star_files.md`` says of the refined one. DataError if a row has
    no original, unless those may be left out, or if files are not what they should be.
    """
    lacking = [label for label in labels.RECORD if label not in refined.table.labels]
    if lacking:
        raise DataError(
            f"{refined.path}: {lacking[0]} is missing, expected the record that downsample-particles writes to each "
            "row and RELION keeps; give a STAR file that RELION made from its particles.star"
        )
    index = _Index(original)
    found = list(_find(refined, index))
    missing = sum(int((places == MISSING).sum()) for _, places, _ in found)
    if missing and not skip_missing:
        named = [name for *_, names in found for name in names][:NAMED_IN_A_MESSAGE]
        raise DataError(
            f"{missing} of the particles in {refined.path} have no original in {original.path}, expected all: "
            f"{', '.join(named)}{' …' if missing > len(named) else ''}; give the file that was downsampled, or add "
            "--skip-missing to leave them out"
        )
    count = sum(len(places) for _, places, _ in found) - missing
    if not count:
        raise DataError(
            f"{refined.path}: none of its particles has an original in {original.path}, expected some; "
            "give the file that was downsampled"
        )
    rows = _RowMaker(refined, original, index)
    index.check_shared([places for _, places, _ in found], rows.from_original)
    with whole_binary_file(output, force) as file:
        for piece in _pieces(original, rows, index.end, found):
            file.write(piece)
        for star in (refined, original):
            star.file.check_unchanged()
    return Restored(count, missing)


def check_output(output: str, inputs: Sequence[str], force: bool) -> None:
    """Raise PlanError if a file may not be written: it is an input, or is there and not to be written over."""
    if os.path.isdir(output):
        raise PlanError([f"-o: {output} is a folder, expected the name of a STAR file to write; give one."])
    if os.path.realpath(output) in map(os.path.realpath, inputs):
        raise PlanError([f"-o: {output} is an input, expected another file; give another name."])
    if os.path.lexists(output) and not force:
        raise PlanError([f"{output}: it exists already; add --force to overwrite it, or give another name."])


Found = tuple[Block, NDArray[np.int64], list[str]]


def _find(refined: RelionStar, index: _Index) -> Iterator[Found]:
    """Blocks of refined rows, the places of their originals, and the first few names of images that have none."""
    for block, rows in read_blocks(refined.file, refined.table):
        names = rows.values(refined.table.column(labels.RECORD[0]))
        places = index.find(names)
        yield block, places, [names[row] for row in np.flatnonzero(places == MISSING)[:NAMED_IN_A_MESSAGE]]


def _pieces(original: RelionStar, rows: _RowMaker, end: int, found: Sequence[Found]) -> Iterator[bytes]:
    """The text of the new file: that of the original, with other rows."""
    table = original.table
    yield original.file.read(0, table.labels_end)
    yield table.more_labels(rows.added)
    yield original.file.read(table.labels_end, table.start - table.labels_end)
    for block, places, _ in found:
        yield rows.make(block, places)
    while piece := original.file.read(end, BYTES_AT_ONCE):
        yield piece
        end += len(piece)


class _Index:
    """The rows of the original file, to be found by their images. Takes 32 bytes a row.

    Attributes
    ----------
    end : where the rows have ended in the file
    """

    def __init__(self, star: RelionStar):
        self._star = star
        self._files: dict[str, int] = {}
        keys, starts, ends = [np.empty(0, np.int64)], [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        self.end = star.table.start
        for block, rows in read_blocks(star.file, star.table):
            names = rows.values(star.table.column(labels.IMAGE))
            keys.append(self._keys(names, self._new_number))
            starts.append(block.offset + rows.lines[:, 0])
            ends.append(block.offset + rows.lines[:, 1])
            self.end = block.offset + block.length
            star.apix_of(block, rows)  # its groups are known from now on
        all_keys = np.concatenate(keys)
        self._order = np.argsort(all_keys, kind="stable")
        self._rising = all_keys[self._order]
        self._starts, self._ends = np.concatenate(starts), np.concatenate(ends)

    def _new_number(self, file: str) -> int:
        return self._files.setdefault(file, len(self._files))

    def _known_number(self, file: str) -> int:
        return self._files.get(file, MISSING)

    @staticmethod
    def _keys(names: Sequence[str], number: Callable[[str], int]) -> NDArray[np.int64]:
        """A whole number for each image: that of its file, then its own in there; MISSING where it has none."""
        found = []
        for name in names:
            index, at, file = name.partition("@")
            index, file = (index, file) if at else ("0", name)
            file_number = number(os.path.normpath(file))
            fits = index.isascii() and index.isdigit() and len(index) <= LONGEST_INDEX and file_number != MISSING
            found.append((file_number << INDEX_BITS) + int(index) if fits else MISSING)
        return np.array(found, dtype=np.int64)

    def find(self, names: Sequence[str]) -> NDArray[np.int64]:
        """Places (n,) of the first rows of images; MISSING where there is none."""
        keys = self._keys(names, self._known_number)
        first = np.searchsorted(self._rising, keys)
        there = (first < len(self._rising)) & (keys != MISSING)
        there[there] = self._rising[first[there]] == keys[there]
        places = np.full(len(keys), MISSING, dtype=np.int64)
        places[there] = self._order[first[there]]
        return places

    def text(self, places: NDArray[np.int64]) -> bytes:
        """The text of rows, in this order."""
        starts, ends = self._starts[places], self._ends[places]
        breaks = np.flatnonzero(starts[1:] != ends[:-1]) + 1  # rows that follow each other are read at once
        pieces = []
        for run in np.split(np.arange(len(places)), breaks):
            start, end = int(starts[run[0]]), int(ends[run[-1]])
            piece = self._star.file.read(start, end - start)
            pieces.append(piece if piece.endswith(b"\n") else piece + b"\n")  # the file may end without
        return b"".join(pieces)

    def check_shared(self, used: Sequence[NDArray[np.int64]], columns: Sequence[int]) -> None:
        """Raise DataError if rows of one image, one of which is used, differ in what is taken from them."""
        is_shared = np.zeros(len(self._rising), dtype=bool)
        is_shared[1:] = self._rising[1:] == self._rising[:-1]
        if not is_shared.any():
            return
        firsts = np.zeros(len(self._rising), dtype=bool)
        for places in used:
            firsts[places[places != MISSING]] = True
        first = np.where(is_shared, 0, np.arange(len(self._rising)))
        first = self._order[np.maximum.accumulate(first)]  # of the rows of the same image, in the order of the keys
        wanted = is_shared & firsts[first]
        for some in np.array_split(np.flatnonzero(wanted), max(np.count_nonzero(wanted) >> 12, 1)):
            if not len(some):
                continue
            texts = [self._values(places, columns) for places in (self._order[some], first[some])]
            if texts[0] != texts[1]:
                row = next(i for i, (one, other) in enumerate(zip(*texts)) if one != other)
                image = self._values(self._order[some[row : row + 1]], [self._star.table.column(labels.IMAGE)])[0][0]
                raise DataError(
                    f"{self._star.path}: several rows of image {image} differ in more than their alignment, expected "
                    "the same values for one image; give a file with one row for each image"
                )

    def _values(self, places: NDArray[np.int64], columns: Sequence[int]) -> list[tuple[str, ...]]:
        rows, _ = find_rows(self.text(places), len(self._star.table.labels))
        return list(zip(*(rows.values(column) for column in columns)))


class _RowMaker:
    """Makes rows of the original file with the results of refined ones.

    Attributes
    ----------
    added : labels that the original file lacks
    from_original : numbers of the columns that are the original's, but for the image, which is found by its name
    """

    def __init__(self, refined: RelionStar, original: RelionStar, index: _Index):
        self._refined, self._original, self._index = refined, original, index
        there, new = original.table.labels, refined.table.labels
        self._copied = [label for label in labels.REFINED if label in new and label in there]
        #: labels of the original, each with those that it is made of in the refined file, in Å and in px
        self._origins: dict[str, tuple[str, str]] = {}
        for pair in ORIGINS:
            if set(pair) & set(new):
                targets = [label for label in pair if label in there] or [pair[0] if original.optics else pair[1]]
                self._origins.update(dict.fromkeys(targets, pair))
        origins = {label for pair in ORIGINS for label in pair}
        self._more = [label for label in new if label not in {*there, *labels.OF_IMAGE, *origins}]
        self._more_origins = [label for label in self._origins if label not in there]
        self.added = [*self._more, *self._more_origins]
        changed = {*self._copied, *self._origins}
        self.from_original = [i for i, label in enumerate(there) if label not in changed and label != labels.IMAGE]

    def make(self, block: Block, places: NDArray[np.int64]) -> bytes:
        """The text of rows for a block of refined ones, whose originals are at these places, where they have one."""
        there = places != MISSING
        if not there.any():
            return b""
        refined, original = self._refined, self._original
        new = read_again(refined.path, refined.file.descriptor, refined.table, block)
        old, _ = find_rows(self._index.text(places[there]), len(original.table.labels))
        origins = self._new_origins(block, new, old, there)
        changes = {original.table.column(label): new.raw(refined.table.column(label), there) for label in self._copied}
        more = [new.raw(refined.table.column(label), there) for label in self._more]
        more += [origins.pop(label) for label in self._more_origins]
        changes.update((original.table.column(label), texts) for label, texts in origins.items())
        return old.replaced(changes, more)

    def _new_origins(self, block: Block, new: Rows, old: Rows, there: NDArray[np.bool_]) -> dict[str, list[str]]:
        """Origins and priors of the originals, by their labels."""
        refined = self._refined
        moved = [refined.floats(block, new, label)[there] for label in labels.RECORD[1:]]
        apix = refined.apix_of(block, new)[there]
        old_apix = self._original.apix_of(block, old)
        found = {}
        for label, (in_angstrom, in_pixels) in self._origins.items():
            d = moved[labels.ORIGINS_ANGSTROM[in_angstrom]]
            use_pixels = in_pixels in refined.table.labels and (
                refined.optics is None or in_angstrom not in refined.table.labels
            )
            source = in_pixels if use_pixels else in_angstrom
            value = np.zeros(len(d))
            if source in refined.table.labels:
                value = refined.floats(block, new, source)[there] * (apix if use_pixels else 1.0)
            value = (value + d) / (old_apix if label == in_pixels else 1.0)
            found[label] = [f"{number:.6f}" for number in (value + 0.0).tolist()]
        return found
