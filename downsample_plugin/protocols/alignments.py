# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the shifts of a run come from: the particles themselves or a connected set, in one interface."""

from __future__ import annotations

import numpy as np
from pwem.constants import ALIGN_2D, ALIGN_3D, ALIGN_NONE, ALIGN_PROJ
from pwem.objects import SetOfClasses

from ..core.alignment import Reading

CONNECTED_3D, CONNECTED_2D, OWN = "Alignments 3D", "Alignments 2D", "the particles' own alignment"


class AlignmentSource:
    """Matrices of particles, by id, in the pixels of the particles that are downsampled.

    Attributes
    ----------
    name : which input this is, for people
    kind : Scipion's word for it, such as ALIGN_PROJ
    reading : how the matrices hold the shifts
    connected : whether it is a set of its own: particles that it lacks are left out
    """

    def __init__(self, name, alignmentSet, convention):
        """`convention` is a 2D Reading, or None to choose by the attributes of the items."""
        self.name = name
        self.connected = name != OWN
        self._set = alignmentSet
        first = next(_items(alignmentSet), None)
        self.kind = ALIGN_NONE if first is None else _alignmentOf(alignmentSet)
        self.reading = Reading.PROJECTION
        self.chosenByItems = False
        if self.kind == ALIGN_2D:
            self.chosenByItems = convention is None
            self.reading = convention or _readingOfItem(first)

    @classmethod
    def choose(cls, particles, alignments3D, alignments2D, convention):
        """3D alignments before 2D ones, before the particles' own."""
        if alignments3D is not None:
            return cls(CONNECTED_3D, alignments3D, convention)
        if alignments2D is not None:
            return cls(CONNECTED_2D, alignments2D, convention)
        return cls(OWN, particles, convention)

    def problems(self, recentering):
        """Why the shifts cannot be had, as sentences; empty if they can."""
        wanted = {CONNECTED_3D: ALIGN_PROJ, CONNECTED_2D: ALIGN_2D}
        if self.connected and self.kind != wanted[self.name]:
            return [
                f"{self.name}: the set has alignment '{self.kind}', expected '{wanted[self.name]}'; connect a set "
                f"that was aligned {'to a 3D reference' if self.name == CONNECTED_3D else 'in 2D'}, or leave it empty."
            ]
        if self.connected and not _apixOf(self._set):
            return [
                f"{self.name}: the set has no sampling rate, expected the pixel size that its shifts are counted in; "
                "set its sampling rate first."
            ]
        if not recentering or self.kind in (ALIGN_PROJ, ALIGN_2D):
            return []
        if self.kind == ALIGN_3D:
            return [
                "Recenter using aligned shifts: the particles carry alignment '3D', which is for volumes, expected "
                "2D or projection alignment; connect alignments or switch recentring off."
            ]
        return [
            "Recenter using aligned shifts: the particles have no alignment, expected shifts to recentre by; "
            "connect Alignments 3D or Alignments 2D, or switch recentring off."
        ]

    def describe(self):
        """For summaries: the source, and for 2D which reading is used and why."""
        if self.kind != ALIGN_2D:
            return self.name
        why = "automatic" if self.chosenByItems else "as chosen"
        return f"{self.name} (2D, {self.reading.value}: {why})"

    def load(self, apix):
        """Read the matrices of a connected set, their shifts scaled to pixels of `apix` Å."""
        if self.connected:
            self._ids, self._matrices = _readMatrices(self._set, apix)
        return self

    def matrixOf(self, particle):
        """The matrix (4, 4) of a particle, or None where it has none."""
        if not self.connected:
            return _matrix(particle)
        place = np.searchsorted(self._ids, particle.getObjId())
        if place == len(self._ids) or self._ids[place] != particle.getObjId():
            return None
        return self._matrices[place]


def _items(alignmentSet):
    """Enabled items of particles or of enabled classes."""
    if isinstance(alignmentSet, SetOfClasses):
        return alignmentSet.iterClassItems()
    return (item for item in alignmentSet.iterItems() if item.isEnabled())


def _alignmentOf(alignmentSet):
    if isinstance(alignmentSet, SetOfClasses):
        return next(alignmentSet.iterItems()).getAlignment()
    return alignmentSet.getAlignment()


def _apixOf(alignmentSet):
    """Pixel size (Å/px) that the shifts of a set are counted in."""
    if isinstance(alignmentSet, SetOfClasses):
        return alignmentSet.getFirstItem().getSamplingRate() or alignmentSet.getSamplingRate()
    return alignmentSet.getSamplingRate()


def _readingOfItem(item):
    """Xmipp's reading where an item carries Xmipp's attributes, RELION's otherwise."""
    if any(name.startswith("_xmipp_") for name, _ in item.getAttributes()):
        return Reading.ROTATE_THEN_SHIFT
    return Reading.SHIFT_THEN_ROTATE


def _readMatrices(alignmentSet, apix):
    """Ids (count,), rising, and matrices (count, 4, 4) with shifts in pixels of `apix`."""
    found = [(item.getObjId(), _matrix(item)) for item in _items(alignmentSet) if item.getTransform() is not None]
    ids = np.array([particleId for particleId, _ in found], dtype=np.int64)
    matrices = np.array([matrix for _, matrix in found]).reshape(-1, 4, 4)
    matrices[:, :3, 3] *= _apixOf(alignmentSet) / apix
    order = np.argsort(ids, kind="stable")
    return ids[order], matrices[order]


def _matrix(item):
    transform = item.getTransform()
    return None if transform is None else np.asarray(transform.getMatrix(), dtype=np.float64)
