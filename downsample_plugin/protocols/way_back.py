# SPDX-License-Identifier: GPL-3.0-or-later
"""From downsampled particles to the full-size ones that they were made of, through any number of runs.

A particle is told by its image: file and number lead to the run that made it and, in the run's own output, to the
particle's id in the run's input, whose image may be that of an earlier run. Ids alone would not do: joined and
symmetry-expanded sets are numbered anew. Only where another protocol has written an image again does the id lead
back, and only if what the particles carry speaks for it.
"""

from __future__ import annotations

import os

from .image_tables import sourcesOf
from .particles import InputParticles
from .protocol_downsample import ProtDownsampleParticles
from .results import OUTPUT_NAME, shiftRecord
from .tracing import Stage, Tracer


class WayBack:
    """The runs that lead from downsampled particles to full-size ones.

    Attributes
    ----------
    fullSize : the full-size particles, InputParticles
    files : names of its image files
    problems : why there is no way, as sentences; empty if there is one
    """

    def __init__(self, project, particles, downsampled, fullSize):
        """`particles` are to be traced; `downsampled` and `fullSize` are what the user names, all InputParticles."""
        self._particles, self._downsampled = particles, downsampled
        runs = [run for run in project.getRuns() if isinstance(run, ProtDownsampleParticles)]
        self._all = [run for run in runs if hasattr(run, OUTPUT_NAME)]
        self._folders = {os.path.join(os.path.realpath(run.getWorkingDir()), ""): run for run in self._all}
        self._given = next(iter(self._runsThatMade(downsampled.files())), None)
        self._isChosen = fullSize.exists  # by the user; else it is what the named run leads to
        self._lasting = self._resolvedFilesOf(fullSize)  # images that are full size already
        self._inputFiles = {}  # of runs; it takes a look at each particle to know them
        self.fullSize = fullSize if self._isChosen else self._endOf(self._given)
        self.files = self.fullSize.files()
        self._lasting = set(map(self._resolve, self.files))
        self._made = self._runsThatMade(particles.files())
        self.problems = self._problems()

    def _problems(self):
        if self._given is None and shiftRecord(self._downsampled.first()) is None:
            return [
                "Downsampled particles: they are not the output of a 'downsample particles' run in this project and "
                "carry no record of their shifts, expected one or the other; choose the output of a run."
            ]
        if self.fullSize.first() is None or self.fullSize.byId() is None:
            return [
                "Full-size particles: they cannot be found from the downsampling run, expected its input particles; "
                "connect them."
            ]
        if self.fullSize.isSameSet(self._particles):
            return [
                "Full-size particles: they are the input particles themselves, expected full-size ones; connect those."
            ]
        if self._given is not None and self._made and not any(self._given in self._chain(run) for run in self._made):
            names = ", ".join(map(nameOf, self._made))
            return [
                f"Downsampled particles: they are from the run {nameOf(self._given)}, but the input particles are "
                f"images from {names}, expected the run that the input particles come from; choose its output."
            ]
        return []

    def _runsThatMade(self, files):
        """The runs in whose folders any of the files are, or what they are links to."""
        names = {self._resolve(name) for name in files}
        return [
            run for run in self._all if any(name.startswith(os.path.join(run.getWorkingDir(), "")) for name in names)
        ]

    def _resolve(self, name):
        """The name that a downsample run has given to a file, where this is a link to such a file; else as it is.

        Imports link files, or folders of them. Links to other files are not followed: what two imports have linked
        are different particles, with ids of their own.
        """
        if any(name.startswith(os.path.join(run.getWorkingDir(), "")) for run in self._all):
            return name
        real = os.path.realpath(name)
        for folder, run in self._folders.items():
            if real.startswith(folder):
                return os.path.join(run.getWorkingDir(), real[len(folder) :])
        return name

    def _resolvedFilesOf(self, particles):
        return {self._resolve(name) for name in particles.files()}

    def _chain(self, run):
        """The run and all that its input comes from."""
        runs, waiting = [], [run]
        while waiting:
            run = waiting.pop()
            if run not in runs:
                runs.append(run)
                if run not in self._inputFiles:
                    self._inputFiles[run] = self._resolvedFilesOf(_inputOf(run))
                waiting += self._runsThatMade(self._inputFiles[run] - self._lasting)
        return runs

    def _endOf(self, run):
        """The particles that the first run of a chain has begun with."""
        if run is None:
            return InputParticles(None)
        return _inputOf(self._chain(run)[-1])

    def tracer(self, mustTell):
        """What traces the particles; `mustTell` is that of Tracer."""
        runs = dict.fromkeys(each for run in [*self._made, *filter(None, [self._given])] for each in self._chain(run))
        stages = {run: Stage(run, sourcesOf(_outputOf(run)), sourcesOf(_inputOf(run))) for run in runs}
        fullSize = sourcesOf(self.fullSize)
        if self._given is None:
            stages[None] = Stage(None, sourcesOf(self._downsampled), fullSize)
        return Tracer(
            sourcesOf(self._particles),
            self._particles.apix,
            list(stages.values()),
            stages[self._given],
            self._lasting,
            fullSize if self._isChosen else None,
            mustTell,
            self._resolve,
        )


def _inputOf(run):
    return InputParticles(run.inputParticles.get())


def _outputOf(run):
    return InputParticles(getattr(run, OUTPUT_NAME))


def nameOf(run):
    """How a run is called, for people: labels need not be unique."""
    return f"'{run.getRunName()}' ({run.getObjId()})"
