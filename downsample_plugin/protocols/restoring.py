# SPDX-License-Identifier: GPL-3.0-or-later
"""The full-size particles of downsampled ones: found, and written with the new alignment."""

from __future__ import annotations

import os
from typing import NamedTuple

import numpy as np
from pwem.constants import ALIGN_NONE
from pwem.objects import Transform
from pyworkflow.object import Integer

from ..core.alignment import shifts_of, translations_of_full_size
from .alignments import MATRIX
from .applied_twice import AppliedTwice
from .image_tables import sourcesOf
from .left_out import othersThan, withoutUse
from .particles import complete
from .results import SHIFT_RECORDS
from .set_columns import tableOf, textsMoved
from .set_writer import Carried, SetWriter
from .tracing import TRACED_BY
from .wanted import FILE

FULL_SIZE_ID = "_fullSizeId"  # an attribute of each output particle, if there are several for one
_CLASS_ID = "_classId"
_NAMED = 3  # files in a sentence


class Found(NamedTuple):
    """Particles of which the full-size ones are found.

    Attributes
    ----------
    ids : (n,)
    fullSizeIds : (n,)
    translations : (n, 3) of the new matrices, in px of the full-size images; None without alignment
    """

    ids: np.ndarray
    fullSizeIds: np.ndarray
    translations: np.ndarray | None

    def take(self, kept):
        """Some of them, by a mask (n,)."""
        translations = None if self.translations is None else self.translations[kept]
        return Found(self.ids[kept], self.fullSizeIds[kept], translations)


class Restored:
    """The full-size particles of the input particles.

    Attributes
    ----------
    isExpanded : whether several input particles have the same one
    runs : the runs that they have come through
    byId, byPlace : how many were found by their ids, and by their positions in the micrographs
    files : names of the full-size images' files
    appliedTwice : AppliedTwice, which has seen them all
    """

    def __init__(self, particles, way, alignment, leftOut):
        """Find them.

        Parameters
        ----------
        particles : the input, InputParticles
        way : the WayBack of the input
        alignment : that of the input; its `kind` may be none
        leftOut : LeftOut, which is told of those that cannot be found or have no usable alignment
        """
        self._particles, self._originals, self._leftOut = particles, way.fullSize.byId(), leftOut
        self._alignment = None if alignment.kind == ALIGN_NONE else alignment
        self._apix = way.fullSize.apix
        self._scale = self._apix / particles.apix
        # without a new alignment the full-size particles keep theirs, which may tell those of one image apart
        tracer = way.tracer(mustTell=self._alignment is None and way.fullSize.alignment != ALIGN_NONE)
        self.files, self.appliedTwice = set(), AppliedTwice(particles.apix)
        self._found = [(source.table, self._find(tracer, source)) for source in sourcesOf(particles)]
        self.runs, self.byId, self.byPlace = tracer.runs, tracer.byId, tracer.byPlace
        allIds = [each.fullSizeIds for _, found in self._found for each in found]
        self.isExpanded = bool(allIds) and _hasDuplicates(np.concatenate(allIds))

    def _find(self, tracer, source):
        """A list of Found, block by block, for a Source of the input."""
        labels = (*TRACED_BY, *([MATRIX] if self._alignment else []))
        return [self._findBlock(tracer, source, block) for block in source.table.blocks(labels, "enabled=1")]

    def _findBlock(self, tracer, source, block):
        origins, translations, reasons = tracer.trace(source, block), None, {}
        if self._alignment:
            aligned, convention = self._alignment.of(block), self._alignment.convention
            shifts = shifts_of(aligned.matrices, convention)
            reasons = withoutUse(aligned, shifts)
            self.appliedTwice.add(shifts, origins.shifts)
            applied = origins.shifts / self._apix
            translations = translations_of_full_size(aligned.matrices, applied, self._scale, convention)
        reasons.update(origins.reasons)
        self._leftOut.add(source.table, block.ids, reasons)
        found = Found(block.ids, origins.ids, translations).take(othersThan(reasons, len(block)))
        return self._thatAreThere(source.table, found)

    def fill(self, output):
        """Append them to an output set, with what the input particles have to say."""
        attributes = self._particles.attributesOfPrograms()
        attributes = {name: kind for name, kind in attributes.items() if name not in SHIFT_RECORDS}
        with SetWriter(output, lambda item: self._prepare(item, attributes)) as writer:
            for table, blocks in self._found:
                for found in blocks:
                    carried = Carried(table, found.ids, tuple(attributes), (_CLASS_ID,))
                    newIds = found.ids if self.isExpanded else None
                    writer.append(self._originals, found.fullSizeIds, self._changes(table, found), newIds, carried)

    def _prepare(self, item, attributes):
        """Give the first particle the attributes that all of the output have."""
        complete(item, attributes)
        if self._alignment and not item.hasTransform():
            item.setTransform(Transform())
        if self.isExpanded:
            setattr(item, FULL_SIZE_ID, Integer())

    def _thatAreThere(self, table, found):
        """Those that the full-size particles have, disabled or not."""
        rows = tableOf(self._originals).rows(np.unique(found.fullSizeIds), (FILE,))
        self.files.update(rows.texts(FILE))
        areThere = np.isin(found.fullSizeIds, rows.ids)
        reasons = {
            place: f"no full-size particle has the id {found.fullSizeIds[place]}"
            for place in np.flatnonzero(~areThere).tolist()
        }
        self._leftOut.add(table, found.ids, reasons)
        return found.take(areThere)

    def _changes(self, table, found):
        """What output particles have instead of what the full-size ones had: {label: values}."""
        changes = {}
        if self._alignment:
            # read again instead of kept: the texts take more room than all the rest
            changes[MATRIX] = textsMoved(table.rows(found.ids, (MATRIX,)).texts(MATRIX), found.translations)
        if self.isExpanded:
            changes[FULL_SIZE_ID] = found.fullSizeIds
        return changes


def missingFiles(names):
    """Those of some files that are not there, or are links to nothing, sorted. Takes a look at each."""
    return sorted(name for name in names if not os.path.exists(name))


def missingProblem(missing, count):
    """What to say of full-size image files that are missing, of so many."""
    first = ", ".join(missing[:_NAMED]) + (", …" if len(missing) > _NAMED else "")
    return (
        f"Full-size particles: {len(missing)} of their {count} image files are missing ({first}), expected the images "
        "to go back to; put the files back, or remove their particles from the input."
    )


def _hasDuplicates(ids):
    return len(np.unique(ids)) < len(ids)
