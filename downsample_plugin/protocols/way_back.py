# SPDX-License-Identifier: GPL-3.0-or-later
"""From downsampled particles to the full-size ones that they were made of, through any number of runs.

A particle is told by its image: file and number lead to the run that made it and, in the run's own output, to the
particle's id in the run's input, whose image may be that of an earlier run. Ids alone would not do: joined and
symmetry-expanded sets are numbered anew. Only where another protocol has written an image again does the id lead
back, and only if what the particles carry speaks for it.
"""

from __future__ import annotations

import os
from typing import NamedTuple

import numpy as np

from ..errors import DataError
from .particles import InputParticles
from .protocol_downsample import ProtDownsampleParticles
from .results import OUTPUT_NAME, shiftRecord

# A particle's image as a number, its id, recorded shift (Å), micrograph, place in that (Å), defocus U and V (Å)
_ROW = [("key", "i8"), ("id", "i8"), ("shift", "f8", 2), ("micrograph", "f8"), ("place", "f8", 2), ("defocus", "f8", 2)]
_UNKNOWN = float("nan")
_INDEX_BITS = 40  # of an image's key, which are enough for its number; the rest numbers its file
_NO_IMAGE = -1  # where a key stands otherwise
_SAME_SHIFT = 1e-3  # Å; records are exact
_SAME_DEFOCUS = 1.0  # Å
_SAME_PLACE = 2.0  # px; coordinates are rounded, by some programs cut, each time that they are scaled


class Origin(NamedTuple):
    """Where a particle comes from: the id of the full-size one, and the shift (x, y), in Å, applied on the way."""

    particleId: int
    shift: np.ndarray


class WayBack:
    """The runs that lead from downsampled particles to full-size ones.

    Attributes
    ----------
    fullSize : the full-size particles, InputParticles
    problems : why there is no way, as sentences; empty if there is one
    runs : the downsample runs that were gone through so far
    byId : number of particles that were found by their ids so far
    """

    def __init__(self, project, particles, downsampled, fullSize):
        """`particles` are to be traced; `downsampled` and `fullSize` are what the user names, all InputParticles."""
        self._particles, self._downsampled = particles, downsampled
        runs = [run for run in project.getRuns() if isinstance(run, ProtDownsampleParticles)]
        self._all = [run for run in runs if hasattr(run, OUTPUT_NAME)]
        self._given = next(iter(self._runsThatMade(downsampled.files())), None)
        self._isChosen = fullSize.exists  # by the user; else it is what the named run leads to
        self._lasting = fullSize.files()  # images that are full size already
        self.fullSize = fullSize if self._isChosen else self._endOf(self._given)
        self._lasting = self.fullSize.files()
        self.problems = self._problems()
        self.runs, self.byId = [], 0

    def _problems(self):
        if self._given is None and shiftRecord(self._downsampled.first()) is None:
            return [
                "Downsampled particles: they are not the output of a run of 'downsample particles' in this project and "
                "carry no record of their shifts, expected one or the other; choose a run's output."
            ]
        if self.fullSize.first() is None or self.fullSize.byId() is None:
            return [
                "Full-size particles: they cannot be found from the downsample run, expected its input particles; "
                "choose them."
            ]
        if self.fullSize.isSameSet(self._particles):
            return ["Full-size particles: they are the input particles themselves, expected full-size ones."]
        made = self._runsThatMade(self._particles.files())
        if self._given is not None and made and not any(self._given in self._chain(run) for run in made):
            names = ", ".join(map(nameOf, made))
            return [
                f"Downsampled particles: they are of the run {nameOf(self._given)}, and the input particles are images "
                f"of {names}, expected the run that the input particles come from; choose its output."
            ]
        return []

    def _runsThatMade(self, files):
        """The runs in whose folders any of the files are."""
        return [
            run for run in self._all if any(name.startswith(os.path.join(run.getWorkingDir(), "")) for name in files)
        ]

    def _chain(self, run):
        """The run and all that its input comes from."""
        runs, waiting = [], [run]
        while waiting:
            run = waiting.pop()
            if run not in runs:
                runs.append(run)
                files = _inputOf(run).files()
                waiting += self._runsThatMade([name for name in files if name not in self._lasting])
        return runs

    def _endOf(self, run):
        """The particles that the first run of a chain has begun with."""
        if run is None:
            return InputParticles(None)
        return _inputOf(self._chain(run)[-1])

    # ---- tracing ---------------------------------------------------------------------------------------

    def load(self):
        """Read what is needed to trace particles; returns self."""
        self._files = {}  # numbers of all image files
        last = {self._files.setdefault(name, len(self._files)) for name in self._lasting}
        self._isLast = lambda key: (int(key) >> _INDEX_BITS) in last
        runs = self._runsThatMade(self._particles.files())
        runs = {run for each in [*runs, *filter(None, [self._given])] for run in self._chain(each)}
        self._links = {run: _Link(_outputOf(run), _inputOf(run), self._row) for run in runs}
        if self._given is None:
            self._links[None] = _Link(self._downsampled, InputParticles(None), self._row)
        self._named = self._links[self._given].made
        self._fullSizeImages = _Table(self.fullSize, self._row) if self._isChosen else None
        self._isNumberedAnew = not self._particles.ids() <= set(self._named.rows["id"].tolist())
        return self

    def find(self, item):
        """The Origin of a particle. Raises DataError, which does not name it, if there is none."""
        row = np.array(self._row(item), dtype=_ROW)[()]
        if self._madeBy(row["key"]) is None:
            row = self._byId(row, item.getSamplingRate())
        shift, passed = np.zeros(2), False
        while (made := self._madeBy(row["key"])) is not None:
            run, result = made
            passed = passed or run is self._given
            if run is not None and run not in self.runs:
                self.runs.append(run)
            if _known(row["shift"]) and not np.allclose(row["shift"], result["shift"], rtol=0, atol=_SAME_SHIFT):
                _checkPlace(row, result, item.getSamplingRate(), "the run has been repeated with other particles")
            # a particle's own record tells of the image that it was aligned by, the run's output of the present one
            shift = shift + (row["shift"] if _known(row["shift"]) else result["shift"])
            row = self._links[run].sourceOf(result)
        if not passed:
            raise DataError("its image has not come through the run that is named as Downsampled particles")
        if self._isChosen:
            same = self._fullSizeImages.byKey(row["key"])
            row = row if same is None else same
        elif not self._isLast(row["key"]):
            raise DataError("it comes from other full-size particles than the run that is named")
        return Origin(int(row["id"]), shift)

    def _madeBy(self, key):
        """(run, row of its output) of an image, or None if no run has made it or it is a full-size one."""
        if self._isLast(key):
            return None
        for run, link in self._links.items():
            row = link.made.byKey(key)
            if row is not None:
                return run, row
        return None

    def _byId(self, row, apix):
        """The downsampled particle of the id, if it is the same one: sets may be numbered anew."""
        named = self._named.byId(row["id"])
        if named is None:
            raise DataError("neither its image nor its id is among the downsampled particles")
        why = "its image was written again by another protocol, and the downsampled particle of its id is another one"
        records = row["shift"], named["shift"]
        if _known(row["place"]) and _known(named["place"]):
            _checkPlace(row, named, apix, why)
        elif all(map(_known, records)) and np.any(records):
            if not np.allclose(*records, rtol=0, atol=_SAME_SHIFT):
                raise DataError(f"{why}: its recorded shift is {records[0]}, not {records[1]} Å")
        elif np.any(np.abs(row["defocus"] - named["defocus"]) > _SAME_DEFOCUS):
            raise DataError(f"{why}: its defocus is {row['defocus']}, not {named['defocus']} Å")
        elif self._isNumberedAnew:
            raise DataError(
                "its image was written again by another protocol, the set is numbered anew, and nothing tells which "
                "particle it is"
            )
        self.byId += 1
        found = named.copy()
        if _known(row["shift"]):
            found["shift"] = row["shift"]
        return found

    def _row(self, item):
        """What tells of a particle (_ROW)."""
        file = self._files.setdefault(item.getFileName(), len(self._files))
        record, micrograph = shiftRecord(item), item.getMicId()
        place = defocus = (_UNKNOWN, _UNKNOWN)
        coordinate, ctf = item.getCoordinate(), item.getCTF()
        if coordinate is not None and coordinate.getX() is not None:
            # in Å, before any shift: old = new / q + d. So it is the same whatever the run has done.
            place = np.multiply(coordinate.getPosition(), item.getSamplingRate()) + (record or 0.0)
        if ctf is not None and ctf.getDefocusU() is not None:
            defocus = ctf.getDefocusU(), ctf.getDefocusV()
        return (
            (file << _INDEX_BITS) + item.getIndex(),
            item.getObjId(),
            (_UNKNOWN, _UNKNOWN) if record is None else record,
            _UNKNOWN if micrograph is None else micrograph,
            tuple(place),
            defocus,
        )


class _Table:
    """Rows (_ROW) of particles, to be found by image or by id."""

    def __init__(self, particles, rowOf):
        self.rows = np.fromiter(map(rowOf, particles.items()), dtype=_ROW)
        self._orders = {name: np.argsort(self.rows[name], kind="stable") for name in ("key", "id")}
        self._sorted = {name: self.rows[name][order] for name, order in self._orders.items()}

    def byKey(self, key):
        """The row of an image, or None."""
        return self._find("key", key)

    def byId(self, particleId):
        """The row of a particle, or None."""
        return self._find("id", particleId)

    def _find(self, name, wanted):
        place = np.searchsorted(self._sorted[name], wanted)
        if place == len(self._sorted[name]) or self._sorted[name][place] != wanted:
            return None
        return self.rows[self._orders[name][place]]


class _Link:
    """From the output of a run, `made`, to its input, if that is here."""

    def __init__(self, made, source, rowOf):
        self.made = _Table(made, rowOf)
        self._source = _Table(source, rowOf) if source.exists else None

    def sourceOf(self, made):
        """The row that a row of the output was made of; without the input, what is known of it: its id."""
        if self._source is None:
            source = made.copy()
            source["key"] = _NO_IMAGE
            return source
        source = self._source.byId(made["id"])
        if source is None:
            raise DataError("the downsample run's input does not have it any more")
        return source


def _inputOf(run):
    return InputParticles(run.inputParticles.get())


def _outputOf(run):
    return InputParticles(getattr(run, OUTPUT_NAME))


def _known(values):
    return not np.isnan(values).any()


def _checkPlace(row, other, apix, why):
    """Raise DataError if micrographs or places in them, where both are known, are not the same."""
    if _known(row["micrograph"]) and _known(other["micrograph"]) and row["micrograph"] != other["micrograph"]:
        raise DataError(f"{why}: its micrograph is {row['micrograph']:.0f}, not {other['micrograph']:.0f}")
    apart = np.abs(row["place"] - other["place"])
    if np.any(apart > _SAME_PLACE * apix):
        raise DataError(f"{why}: they stand {np.hypot(*apart):.4g} Å apart in the micrograph")


def nameOf(run):
    """How a run is called, for people: labels need not be unique."""
    return f"'{run.getRunName()}' ({run.getObjId()})"
