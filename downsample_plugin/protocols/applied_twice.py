# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether recentred particles carry the shift that was applied to their images already: it would count twice."""

from __future__ import annotations

import itertools

import numpy as np

from ..core.alignment import shifts_of
from .alignments import MATRIX
from .image_tables import columnsOf, sourcesOf
from .results import SHIFT_RECORDS

_LOOKED_AT = 2000  # particles
_LARGE = 2.0  # px; smaller shifts are left by proper refinements too
_SAME = 1.0  # px
_NEARLY_ALL = 0.9
_ENOUGH = 3  # particles


class AppliedTwice:
    """Counts particles whose alignment holds the shift that their images were moved by."""

    def __init__(self, apix):
        """`apix` is the pixel size (Å) of the particles."""
        self._apix, self._moved, self._again = apix, 0, 0

    def add(self, shifts, applied):
        """Particles with shifts (n, 2 or 3) in px, whose images were moved by (n, 2) in Å; nan where not known."""
        applied = np.asarray(applied, dtype=np.float64) / self._apix
        moved = np.hypot(*applied.T) > _LARGE  # not where it is nan
        self._moved += int(moved.sum())
        self._again += int((np.hypot(*(shifts[:, :2] - applied).T)[moved] <= _SAME).sum())

    def describe(self, label):
        """A line if this is so of nearly all, `label` being what they are called."""
        if self._moved >= _ENOUGH and self._again >= _NEARLY_ALL * self._moved:
            yield (
                f"WARNING: {label}: got shifts as large as those that recentring has already applied to the images "
                f"({self._again} of {self._moved} particles that were moved by more than {_LARGE:g} px), expected "
                "only the rest of each shift: they would be applied twice. Was an alignment of the full-size "
                "particles assigned to the recentred ones? Use the alignment of the recentred particles, or one "
                "found on them"
            )


def shiftsAppliedTwice(particles, alignment, label):
    """The line of AppliedTwice, by the first of InputParticles and their alignment, if it has to be said."""
    found = AppliedTwice(particles.apix)
    for source in sourcesOf(particles)[:1]:
        if SHIFT_RECORDS[0] in source.table:
            labels = (MATRIX, *SHIFT_RECORDS)
            for block in itertools.islice(source.table.blocks(labels, "enabled=1", rows=_LOOKED_AT), 1):
                shifts = shifts_of(alignment.of(block).matrices, alignment.convention)
                found.add(shifts, columnsOf(block, SHIFT_RECORDS))
    return list(found.describe(label))
