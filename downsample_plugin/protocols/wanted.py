# SPDX-License-Identifier: GPL-3.0-or-later
"""Which particles of an input a run takes, and what they ask of it: block after block, the same at each asking."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..core.alignment import matrix_problem, shifts_of
from ..core.plan import Recenter
from ..engine.tables import BadParticle, ParticleBlock
from .alignments import MATRIX, Aligned
from .set_columns import ROWS_AT_ONCE, Block, tableOf

INDEX, FILE = "_index", "_filename"
PLACE = ("_coordinate._x", "_coordinate._y")


class Wanted(NamedTuple):
    """Particles of a block that a run takes.

    Attributes
    ----------
    images : the set, or class of a set of classes, that the block is of
    block : its rows
    places : (n,) of those that are taken, in the block
    aligned : alignments of all rows of the block
    shifts : (n, 2), wanted, in px of the input
    bad : BadParticles, those whose alignment makes no sense, even where it is not applied
    lacking : (m,) places of those that have no alignment, and are to have one
    """

    images: object
    block: Block
    places: np.ndarray
    aligned: Aligned
    shifts: np.ndarray
    bad: list
    lacking: np.ndarray

    @property
    def ids(self):
        """Ids (n,) of the particles that are taken."""
        return self.block.ids[self.places]

    def only(self, ids):
        """Of those that are taken, those of some ids."""
        chosen = np.isin(self.ids, ids)
        return self._replace(places=self.places[chosen], shifts=self.shifts[chosen])

    def forJob(self):
        """What the job is to know of them, as a ParticleBlock."""
        return particleBlock(self.block, self.places, self.shifts)


def wantedParticles(particles, alignment, plan, where="1", rows=ROWS_AT_ONCE):
    """Iterate over Wanted for the enabled InputParticles, or those of them for which an SQL condition holds."""
    for images in particles.sets():
        table = tableOf(images)
        for block in table.blocks((INDEX, FILE, MATRIX, *PLACE), f"enabled=1 AND ({where})", rows):
            yield wantedOf(images, block, alignment, plan)


def wantedOf(images, block, alignment, plan):
    """Wanted for a block that was read already."""
    recentering = plan.recenter is not Recenter.NONE
    aligned = alignment.of(block)
    areThere = aligned.areThere
    shifts = np.zeros((len(block), 3))
    shifts[areThere] = shifts_of(aligned.matrices[areThere], alignment.convention)
    areBad = ~np.isfinite(shifts).all(axis=1) | areUnplaced(block)
    mustHave = alignment.connected or recentering
    places = np.flatnonzero(~areBad & (areThere | (not mustHave)))
    wanted = shifts[places, :2] if recentering else np.zeros((len(places), 2))
    bad = _badOf(block, aligned, np.flatnonzero(areBad))
    return Wanted(images, block, places, aligned, wanted, bad, np.flatnonzero(~areThere & mustHave))


def areUnplaced(block):
    """(n,) bool: which rows have a coordinate that is no number. None at all is no fault."""
    found = np.zeros(len(block), dtype=bool)
    for label in PLACE:
        found |= np.isinf(block.floats(label))
    return found


def particleBlock(block, places, shifts):
    """Rows of a Block as a ParticleBlock."""
    names = block.texts(FILE)
    numbers: dict[str, int] = {}
    files = [numbers.setdefault(names[place], len(numbers)) for place in places.tolist()]
    indices = block.integers(INDEX, 0)[places]
    return ParticleBlock(block.ids[places], np.array(files, dtype=np.int32), list(numbers), indices, shifts)


def _badOf(block, aligned, places):
    if not len(places):
        return []
    ids, indices, names = block.ids.tolist(), block.integers(INDEX, 0).tolist(), block.texts(FILE)
    unplaced, x, y = areUnplaced(block), *(block.floats(label) for label in PLACE)
    found = []
    for place in places.tolist():
        problem = str(matrix_problem(aligned.matrices[place]))
        if unplaced[place]:
            problem = (
                f"coordinates: got ({x[place]:g}, {y[place]:g}) px, expected numbers; extract this particle again or "
                "remove it from the input"
            )
        found.append(BadParticle(ids[place], indices[place], names[place], problem))
    return found
