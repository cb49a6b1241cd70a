# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the particles of a run stand in the boxes of their images, before and after, by their alignments alone."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..core.alignment import shifts_of
from ..core.downsampler import downsample_images
from ..core.plan import DownsamplePlan, Recenter
from ..files.image_readers import ImageReader
from ..protocols.alignments import MATRIX
from ..protocols.set_columns import tableOf
from ..protocols.wanted import FILE, INDEX


class Standing(NamedTuple):
    """A particle in its box: the image (B, B) of `apix` Å/px, what it is, and the same image moved to the centre.

    `before` and `after` are where it stands, (x, y) in Å from the origin, y down the image; None if that is not known.
    """

    image: np.ndarray
    apix: float
    place: str
    centred: np.ndarray
    before: np.ndarray | None
    after: np.ndarray | None


class Centers:
    """The particles of an output and where they stand; a sequence of Standing, in the order of their ids.

    Attributes
    ----------
    before, after : (n, 2) in Å from the origin of the box, y down the image, of all that are aligned
    box, apix : of the output's images, px and Å/px
    """

    def __init__(self, given, made, sameIds):
        """`given` and `made` are (InputParticles, alignment) of input and output.

        `sameIds` says that both have their images in common, and the ids.
        """
        self._given, self._made, self._sameIds = given, made, sameIds
        self.before, self.after = _places(*given), _places(*made)
        output = made[0]
        self.box, self.apix = output.box(), output.apix
        (self._images,) = output.sets()
        self._ids = np.concatenate([block.ids for block in tableOf(self._images).blocks()])

    def __len__(self):
        return len(self._ids)

    def __getitem__(self, number):
        wanted = self._ids[number : number + 1]
        row = tableOf(self._images).rows(wanted, (INDEX, FILE, MATRIX))
        path, index = row.texts(FILE)[0], int(row.integers(INDEX, 0)[0])
        with ImageReader() as reader:
            stack = reader.open(path)
            image = stack.read(stack.number_of(index)).astype(np.float32)
        after = _placeOf(row, *self._made)
        before = None
        for images in self._given[0].sets() if self._sameIds else ():
            before = _placeOf(tableOf(images).rows(wanted, (MATRIX,)), *self._given)
        plan = DownsamplePlan(len(image), self.apix, recenter=Recenter.WHOLE_PIXELS)
        shifts = np.zeros((1, 2)) if after is None else -after[None] / self.apix
        centred = downsample_images(image[None], plan, shifts)[0][0]
        return Standing(image, self.apix, f"{index}@{path}" if index else path, centred, before, after)


def _placeOf(row, particles, alignment):
    """Where a particle stands, by a Block of it alone; None if it has no usable alignment."""
    (place,) = _placesIn(row, particles, alignment) if len(row) else [None]
    return place if place is not None and np.isfinite(place).all() else None


def _places(particles, alignment):
    """(n, 2) of all enabled InputParticles that have a usable alignment."""
    found = [np.empty((0, 2))]
    for images in particles.sets():
        found += [
            _placesIn(block, particles, alignment) for block in tableOf(images).blocks((MATRIX,), where="enabled=1")
        ]
    places = np.concatenate(found)
    return places[np.isfinite(places).all(axis=1)]


def _placesIn(block, particles, alignment):
    """(n, 2) of the particles of a Block, nan where there is no usable alignment."""
    return -shifts_of(alignment.of(block).matrices, alignment.convention)[:, :2] * particles.apix
