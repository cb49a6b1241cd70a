# SPDX-License-Identifier: GPL-3.0-or-later
"""Particles by their images: tables of whole numbers, and from the particles of one set to those of another."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..engine.tables import INDEX_BITS
from .micrographs import NAME, NUMBERS, areNamed, namesOrNumbers
from .results import SHIFT_RECORDS
from .set_columns import ItemTable, tableOf
from .wanted import FILE, INDEX, PLACE

NO_IMAGE = -1  # where a key stands otherwise
SAME_SHIFT = 1e-3  # Å; records are exact
IMAGE = (INDEX, FILE)


class ImageKeys:
    """Whole numbers for images: that of the file, as files come, then INDEX_BITS for the number in the file."""

    def __init__(self, files, resolve=str):
        """`files` are names of those that get the first numbers: `areOfFirst` tells their images.

        `resolve` is called once for each name, and gives one name for all names of a file.
        """
        self._numbers = _Numbers()
        self._resolved = _Resolved(resolve)
        for name in files:
            self._numbers[self._resolved[name]]
        self._end = len(self._numbers) << INDEX_BITS

    def of(self, block):
        """Keys (n,) of the images of a Block that was read with IMAGE."""
        names = map(self._resolved.__getitem__, block.texts(FILE))
        files = np.fromiter(map(self._numbers.__getitem__, names), np.int64, len(block))
        return (files << INDEX_BITS) + block.integers(INDEX, 0)

    def areOfFirst(self, keys):
        """(n,) bool: whether images are in the files that came first."""
        return (keys >= 0) & (keys < self._end)


class _Numbers(dict):
    """Whole numbers for names, as they come."""

    def __missing__(self, name):
        self[name] = number = len(self)
        return number


class _Resolved(dict):
    """What a function makes of names, which it is asked once each."""

    def __init__(self, resolve):
        self._resolve = resolve

    def __missing__(self, name):
        self[name] = found = self._resolve(name) if name else name
        return found


class Source(NamedTuple):
    """A set, or a class of a set of classes: its ItemTable and its pixel size (Å), 0 if it does not know it."""

    table: ItemTable
    apix: float


def sourcesOf(particles):
    """List of the Sources of InputParticles. Not while those are iterated: that would end there."""
    return [Source(tableOf(images), images.getSamplingRate() or 0.0) for images in particles.sets()]


def readImages(sources, imageKeys):
    """Of all enabled particles of Sources: ids (n,), keys of their images (n,), and recorded shifts (n, 2) in Å, nan
    where there is none, or None if none has any.
    """
    recorded = any(SHIFT_RECORDS[0] in source.table for source in sources)
    ids, keys, records = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.int64)], [np.empty((0, 2))]
    for source in sources:
        for block in source.table.blocks((*IMAGE, *SHIFT_RECORDS), "enabled=1"):
            ids.append(block.ids)
            keys.append(imageKeys.of(block))
            if recorded:
                records.append(columnsOf(block, SHIFT_RECORDS))
    return np.concatenate(ids), np.concatenate(keys), np.concatenate(records) if recorded else None


def columnsOf(block, labels):
    """(n, number of labels) float64, nan where there is no value."""
    return np.stack([block.floats(label) for label in labels], axis=1)


def areKnown(values):
    """(n,) bool: which rows of values (n, …) hold no nan."""
    return ~np.isnan(values).any(axis=tuple(range(1, values.ndim)))


def areSameShifts(some, others):
    """(n,) bool: which shifts (n, 2) are the same; those that are not known are not."""
    return (np.abs(some - others) <= SAME_SHIFT).all(axis=1)


# ---- tables ----------------------------------------------------------------------------------------------


class ImageTable:
    """Particles, to be found by their images, which several of them may share.

    Attributes
    ----------
    ids, keys : (n,), in the order of the keys, then of the ids
    """

    def __init__(self, ids, keys):
        """`ids` and `keys` are in that order already."""
        self.ids, self.keys = ids, keys

    @classmethod
    def of(cls, sources, imageKeys):
        """Of all enabled particles of Sources."""
        ids, keys, _ = readImages(sources, imageKeys)
        order = _orderOf(ids, keys)
        return cls(ids[order], keys[order])

    def has(self, keys):
        """(m,) bool: whether there is any particle of an image."""
        return _firstOf(self.keys, keys) >= 0

    def find(self, keys, ids):
        """Places (m,) of particles of some images; where several share one, that of an id (m,) if it is among them.

        -1 where there is none. And (m,) bool each: whether there are several; whether the id is that of the one.
        """
        first = _firstOf(self.keys, keys)
        counts = np.where(first < 0, 0, np.searchsorted(self.keys, keys, "right") - first)
        places, areOwn = first.copy(), np.zeros(len(first), dtype=bool)
        for further in range(counts.max(initial=0)):
            here = np.flatnonzero(counts > further)
            own = here[self.ids[first[here] + further] == ids[here]]
            places[own] = first[own] + further
            areOwn[own] = True
        return places, counts > 1, areOwn


class Link:
    """From the output of a run to its input.

    Attributes
    ----------
    made : ImageTable of the output
    shifts : (n, 2) recorded on the particles there, Å
    sources : (n,) keys of the images that they were made of, NO_IMAGE where the input has none of the id
    sourceRecords : (n, 2) shifts recorded on the particles of the input, or None without any
    unclear : keys of images, rising, which several particles share that lead to different places
    """

    def __init__(self, made, sources, imageKeys):
        """`made` are Sources of the output, `sources` those of the input, which may be none."""
        ids, keys, records = readImages(made, imageKeys)
        order = _orderOf(ids, keys)
        self.made = ImageTable(ids[order], keys[order])
        del ids, keys  # there may be many
        self.shifts = np.full((len(order), 2), np.nan) if records is None else records[order]
        del records, order
        ids, keys, records = readImages(sources, imageKeys)
        rising = np.argsort(ids, kind="stable")  # of classes they come class by class
        places = _firstOf(ids[rising], self.made.ids)
        places[places >= 0] = rising[places[places >= 0]]
        self.sources = np.append(keys, NO_IMAGE)[places]
        self.sourceRecords = None
        if records is not None:
            self.sourceRecords = np.append(records, [[np.nan, np.nan]], axis=0)[places]
        self.unclear = self._unclearKeys()

    def _unclearKeys(self):
        shared = np.flatnonzero(self.made.keys[1:] == self.made.keys[:-1])
        isSame = self.sources[shared] == self.sources[shared + 1]
        shifts, others = self.shifts[shared], self.shifts[shared + 1]
        isSame &= areSameShifts(shifts, others) | ~(areKnown(shifts) | areKnown(others))
        return np.unique(self.made.keys[shared[~isSame]])


class PlaceTable:
    """Particles, to be found by where they stand in which micrograph. Takes 16 bytes for each."""

    _BITS = 20  # of x and of y
    _AROUND = [(x << 20) + y for x in (-1, 0, 1) for y in (-1, 0, 1)]
    NONE, SEVERAL = -1, -2  # instead of ids

    def __init__(self, sources):
        """Of all enabled particles of Sources that have a place, in a micrograph with a name or a number."""
        self._micrographs = _Numbers()
        ids, keys = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.int64)]
        for source in sources:
            for block in source.table.blocks((NAME, *NUMBERS, *PLACE), "enabled=1"):
                names = namesOrNumbers(block)
                numbers = np.fromiter(map(self._micrographs.__getitem__, names), np.int64, len(block))
                found = self._keys(numbers, areNamed(names), columnsOf(block, PLACE))
                ids.append(block.ids[found >= 0])
                keys.append(found[found >= 0])
        placed = np.concatenate(keys)
        order = np.argsort(placed, kind="stable")
        self._ids, self._placed = np.concatenate(ids)[order], placed[order]

    @classmethod
    def _keys(cls, numbers, where, places):
        """(n,) int64, those of near places near each other; -1 where there is no place or not `where`."""
        half = 1 << (cls._BITS - 1)
        inside = where & (np.abs(np.nan_to_num(places, nan=np.inf)) < half - 2).all(axis=1)
        x, y = (np.rint(np.where(inside[:, None], places, 0)).astype(np.int64) + half).T
        return np.where(inside, (((numbers << cls._BITS) + x) << cls._BITS) + y, -1)

    def __len__(self):
        return len(self._ids)

    def find(self, names, places):
        """(n,) ids of those that stand at places (n, 2), in px, to a pixel, in micrographs of plain names (n,).

        NONE where there is none, SEVERAL where there are several.
        """
        numbers = np.array([self._micrographs.get(name, -1) for name in names], dtype=np.int64)
        keys = self._keys(numbers, areNamed(names) & (numbers >= 0), places)
        counts, found = np.zeros(len(keys), dtype=np.int64), np.full(len(keys), self.NONE)
        for step in self._AROUND:
            wanted = np.where(keys < 0, -1, keys + step)
            first = _firstOf(self._placed, wanted)
            there = first >= 0
            found[there] = self._ids[first[there]]
            counts[there] += np.searchsorted(self._placed, wanted[there], "right") - first[there]
        found[counts > 1] = self.SEVERAL
        return found


def _orderOf(ids, keys):
    return np.lexsort((ids, keys))


def _firstOf(rising, wanted):
    """Places (m,) of the first of each wanted value (m,) among rising ones; -1 where there is none."""
    places = np.searchsorted(rising, wanted)
    there = places < len(rising)
    there[there] = rising[places[there]] == wanted[there]
    return np.where(there, places, -1)
