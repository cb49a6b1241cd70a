# SPDX-License-Identifier: GPL-3.0-or-later
"""From downsampled particles to the full-size ones that they were made of, through one run or several in a row.

A particle is told by its image: number and file lead to the run that made it and, in the run's own output, to the
particle's id in the run's input. Ids alone would not do: joined and symmetry-expanded sets are numbered anew.
Only where other protocols have written the images again do ids lead back, as far as what the particles carry
agrees.
"""

from __future__ import annotations

import os
from typing import NamedTuple

import numpy as np

from ..errors import DataError
from .particles import InputParticles
from .protocol_downsample import DownsampleOutputs, ProtDownsampleParticles
from .results import shiftRecord

_INDEX_BITS = 40  # of an image's key, which are enough for its number; the rest numbers its file


class Origin(NamedTuple):
    """Where a particle comes from: the id of the full-size one, and the shift (x, y), in Å, applied on the way."""

    particleId: int
    shift: np.ndarray


class WayBack:
    """The runs that lead from downsampled particles to full-size ones.

    Attributes
    ----------
    fullSize : the full-size particles, InputParticles
    runs : the downsample runs in between, the latest first; none where only their records are here
    byImages : whether images lead back; else ids do
    problems : why there is no way, as sentences; empty if there is one
    """

    def __init__(self, project, particles, downsampled, fullSize):
        """`particles` are to be traced; `downsampled` and `fullSize` are what the user names, all InputParticles."""
        self._all = [run for run in project.getRuns() if isinstance(run, ProtDownsampleParticles)]
        self._wanted = fullSize
        self._outputs, self.fullSize, self.problems = [], fullSize, []
        files = particles.files()
        given = self._runThatMade(downsampled.files())
        self.runs = self._chain(given)
        self.byImages = self._anyIn(given, files) or bool(set(files) & set(downsampled.files()))
        if not self.byImages:
            later = self._runThatMade(files)
            self.byImages = later is not None
            if self.byImages:
                self.runs = self._chain(later)
        self._outputs = [InputParticles(getattr(run, DownsampleOutputs.outputParticles.name)) for run in self.runs]
        self._outputs = self._outputs or [downsampled]
        if self.runs and not fullSize.exists:
            self.fullSize = InputParticles(self.runs[-1].inputParticles.get())
        self.problems = self._problems(given, downsampled)

    def _problems(self, given, downsampled):
        if given is not None and given not in self.runs:
            return [
                f"Downsampled particles: they are of the run '{given.getRunName()}', and the input particles are "
                f"images of '{self.runs[0].getRunName()}', expected the run that the input particles come from; "
                "choose its output."
            ]
        if given is None and shiftRecord(downsampled.first()) is None:
            return [
                "Downsampled particles: they are not the output of a run of 'downsample particles' in this project and "
                "carry no record of their shifts, expected one or the other; choose a run's output."
            ]
        if not self.fullSize.exists or self.fullSize.byId() is None:
            return [
                "Full-size particles: they cannot be found from the downsample run, expected its input particles; "
                "choose them."
            ]
        return []

    def _chain(self, run):
        """The run, the one that made its input, and so on to the full-size particles."""
        runs = []
        while run is not None and run not in runs:
            runs.append(run)
            source = InputParticles(run.inputParticles.get())
            isThere = self._wanted.exists and source.isSameSet(self._wanted)
            run = None if isThere or not source.exists else self._runThatMade(source.files())
        return runs

    def _runThatMade(self, files):
        return next((run for run in self._all if self._anyIn(run, files)), None)

    @staticmethod
    def _anyIn(run, files):
        """Whether a run with an output has made any of the files."""
        if run is None or not hasattr(run, DownsampleOutputs.outputParticles.name):
            return False
        folder = os.path.join(run.getWorkingDir(), "")
        return any(name.startswith(folder) for name in files)

    # ---- tracing ---------------------------------------------------------------------------------------

    def load(self):
        """Read what is needed to trace particles; returns self."""
        self._files = {}  # numbers of all image files
        self._images = self._table(self._outputs[0])
        self._ids, self._shifts = self._images["id"], self._shiftsOf(self._images)
        for run, earlier in zip(self.runs, self._outputs[1:]):
            source = self._table(InputParticles(run.inputParticles.get()))
            table = self._table(earlier)
            inSource = _places(source["id"], self._ids)
            inEarlier = np.where(inSource < 0, -1, _places(table["key"], source["key"][inSource]))
            self._ids = np.where(inEarlier < 0, -1, table["id"][inEarlier])
            self._shifts = self._shifts + self._shiftsOf(table)[inEarlier]
        self._order = np.argsort(self._images["key" if self.byImages else "id"], kind="stable")
        self._sorted = self._images["key" if self.byImages else "id"][self._order]
        self._latest = self._outputs[0].byId()
        self._latest.load()
        return self

    def find(self, item):
        """The Origin of a particle. Raises DataError, which does not name it, if there is none."""
        wanted = self._key(item) if self.byImages else item.getObjId()
        place = np.searchsorted(self._sorted, wanted)
        if place == len(self._sorted) or self._sorted[place] != wanted:
            what = "image" if self.byImages else "id"
            raise DataError(f"its {what} is not among the downsampled particles")
        row = self._order[place]
        if not self.byImages:
            self._checkSame(item)
        if self._ids[row] < 0:
            raise DataError("an earlier downsample run does not have its image")
        return Origin(int(self._ids[row]), self._shifts[row])

    def _checkSame(self, item):
        """An id alone is not enough: sets may be numbered anew. What both particles carry must agree."""
        other = self._latest[item.getObjId()]
        coarsest = max(item.getSamplingRate(), other.getSamplingRate())
        for what, ofItem, ofOther, tolerance in (
            ("recorded shift", shiftRecord(item), shiftRecord(other), 1e-6),
            ("micrograph", item.getMicId(), other.getMicId(), 0),
            ("coordinate", _positionInAngstroms(item), _positionInAngstroms(other), coarsest),
        ):
            if ofItem is not None and ofOther is not None and not np.allclose(ofItem, ofOther, rtol=0, atol=tolerance):
                raise DataError(
                    "its image was written again by another protocol, and the downsampled particle of its id is "
                    f"another one: its {what} is {ofItem}, not {ofOther}"
                )

    def _table(self, particles):
        """Ids, keys of images and recorded shifts of particles, in their order."""
        rows = ((self._key(item), item.getObjId(), *(shiftRecord(item) or (0.0, 0.0))) for item in particles.items())
        return np.fromiter(rows, dtype=[("key", "i8"), ("id", "i8"), ("x", "f8"), ("y", "f8")])

    @staticmethod
    def _shiftsOf(table):
        return np.stack([table["x"], table["y"]], axis=1)

    def _key(self, item):
        file = self._files.setdefault(item.getFileName(), len(self._files))
        return (file << _INDEX_BITS) + item.getIndex()


def _positionInAngstroms(item):
    coordinate = item.getCoordinate()
    if coordinate is None or coordinate.getX() is None:
        return None
    return np.multiply(coordinate.getPosition(), item.getSamplingRate())


def _places(values, wanted):
    """Places (count,) of `wanted` in `values`, -1 for what is not there."""
    order = np.argsort(values, kind="stable")
    places = np.searchsorted(values, wanted, sorter=order)
    found = order[np.minimum(places, len(values) - 1)]
    return np.where(values[found] == wanted, found, -1)
