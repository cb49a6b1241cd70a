# SPDX-License-Identifier: GPL-3.0-or-later
"""Particles that a protocol cannot take over: counted for the summary, and listed in a file."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections import Counter

import numpy as np

from ..core.alignment import matrix_problem
from ..engine.tables import BadParticle, list_bad_particles
from ..errors import DataError
from ..words import counted
from .wanted import FILE, INDEX

LEFT_OUT_NAME = "left_out_particles.star"
_IN_MEMORY = 2**20  # bytes of notes, before they go to a file
_FEW = 3, 0.01  # particles, and part of all: so many are nothing to be warned of
_MOST_SORTS = 100  # of reasons that are counted


def withoutUse(aligned, shifts):
    """{place: why} of particles whose alignments, Aligned, are not there or give no shifts (n, 3)."""
    reasons = {}
    for place in np.flatnonzero(~np.isfinite(shifts).all(axis=1)).tolist():
        isThere = aligned.texts[place] is not None
        reasons[place] = matrix_problem(aligned.matrices[place]) if isThere else "it has no alignment"
    return reasons


def othersThan(places, count):
    """Which of so many there are beside some places: (count,) bool."""
    others = np.ones(count, dtype=bool)
    others[list(places)] = False
    return others


class LeftOut:
    """Particles left out of an output, each with its reason; listed in ``left_out_particles.star``.

    Attributes
    ----------
    path : of the list
    count : number of particles so far
    """

    def __init__(self, folder):
        self.path = os.path.join(folder, LEFT_OUT_NAME)
        self.count, self._first = 0, None
        self._sorts: Counter = Counter()
        # there may be millions: they wait on the disk, in a file without a name, until the list is written
        self._notes = tempfile.SpooledTemporaryFile(_IN_MEMORY, "w+", encoding="utf-8", dir=folder)  # noqa: SIM115

    def add(self, table, ids, reasons):
        """Note items of an ItemTable, which has them by ids (n,), and why: {place in `ids`: text or error}."""
        why = {int(ids[place]): str(reason) for place, reason in reasons.items()}
        block = table.rows(sorted(why), (INDEX, FILE))
        for itemId, index, name in zip(block.ids.tolist(), block.integers(INDEX, 0).tolist(), block.texts(FILE)):
            particle = BadParticle(itemId, index, name, why[itemId])
            self._first = self._first or particle
            self._notes.write(json.dumps(particle) + "\n")
            self.count += 1
            self._countReason(why[itemId])

    def _countReason(self, reason):
        sort = re.sub(r"\d+", "…", reason.partition(": ")[0])
        if sort in self._sorts or len(self._sorts) < _MOST_SORTS:
            self._sorts[sort] += 1

    def close(self, output):
        """Write the list; an old one goes. DataError if nothing is left for the output set."""
        with self._notes:
            self._notes.seek(0)
            if self.count:
                list_bad_particles(self.path, (BadParticle(*json.loads(line)) for line in self._notes))
            elif os.path.exists(self.path):
                os.remove(self.path)
        if not output.getSize():
            raise DataError(
                f"All {self.count} particles are left out, expected some usable ones. The first: {self._first}\n"
                f"All are listed in {self.path}"
            )

    def warn(self, total):
        """A line for the top of the summary if more than a few of `total` particles are left out, with the reason that
        most of them have.
        """
        few, part = _FEW
        if self.count > max(few, part * total):
            ((reason, count), *_) = self._sorts.most_common(1)
            yield (
                f"WARNING: {self.count} of {total} input particles are left out, {count} of them because: {reason}. "
                f"All are listed with their reasons in {self.path}"
            )

    def describe(self, what):
        """A line for the summary if there are any, `what` they are included."""
        if self.count:
            yield f"Left out: {counted(self.count, 'particle')} {what}, listed in {self.path}"
