# SPDX-License-Identifier: GPL-3.0-or-later
"""Following open sets: batches of particles as they come, and one output that grows."""

from __future__ import annotations

import math
import os
import time
from typing import NamedTuple

from pwem.protocols import EMProtocol
from pyworkflow.object import Set
from pyworkflow.protocol import getProtocolFromDb

from ..engine.job import refusal
from ..engine.tables import list_bad_particles
from ..errors import DataError, PlanError
from .results import Results, Tally, newOutput
from .stream import Batches, ParticleStream

SHORTEST_SLEEP = 0.1  # s; without any sleep, waiting would cost a whole core
LONGEST_AGE_OF_PICTURE = 60  # s, while a run follows an open set: drawing takes longer than a small batch
MOST_STACKS_IN_A_BATCH = 20  # so that the first particles of a large set are there before the last


class Pace(NamedTuple):
    """How open sets are followed."""

    #: particles in a full stack
    perStack: int
    #: whether corrupt particles are left out
    skipCorrupt: bool
    #: s from one look at the inputs to the next
    sleep: float
    #: s that particles wait for a full stack
    longestWait: float


class Follower:
    """Downsamples the particles of open sets in batches, until the sets are closed.

    What only the protocol can do, `run` does: it knows the form (``particles``, ``connected``, ``plan``, ``alignment``,
    ``problems``, ``someoneFills``), runs the program (``runProgram``), and shows what there is (``outputSoFar``,
    ``publish``, ``describe``, ``drawResult``).
    """

    def __init__(self, run, pace, folder, outputFolder):
        """`folder` is for the batches, `outputFolder` for the output set."""
        self._run, self._pace, self._outputFolder = run, pace, outputFolder
        self._batches = Batches(folder)
        self._stream = ParticleStream(run.particles(), next(iter(run.connected()), None))
        self._output = None

    def follow(self):
        """Downsample particles as they come, until the inputs are closed."""
        stream = self._stream
        stream.look()  # what the project says of the inputs may be old
        self._takeUp()
        while True:
            stream.look()
            if stream.hasNews:
                self._collect()
            count = self._readyToTake()
            if count:
                block, bad = stream.take(count)
                self._finishBatch(self._batches.write(self._run.plan(), block, self._pace.perStack, bad))
            elif stream.isClosed or (stream.isEmpty and not self._run.someoneFills() and not stream.look()):
                break
            else:
                self._sleep()
        self._close()

    def _sleep(self):
        time.sleep(max(self._pace.sleep, SHORTEST_SLEEP))

    def _takeUp(self):
        """Finish what an earlier launch of this run has begun."""
        self._output = self._run.outputSoFar()
        while self._batches.jobs and self._stream.isEmpty:  # the file of the input cannot be read just now
            self._sleep()
            self._stream.look()
        published = self._output.getIdSet() if self._output else set()
        self._stream.passOver(list(published))
        for job in self._batches.jobs:
            self._checkSamePlan(job)
            ids = set(job.rows()["particle_id"].tolist())
            self._stream.passOver([*ids, *(bad.particle_id for bad in job.bad_before())])
            if ids & published:
                self._checkPublished(job, ids & published)
                self._batches.count(job)
            else:
                job.look_at_inputs()
                self._finishBatch(job)
        if self._output:
            self._run.publish(self._output, Set.STREAM_OPEN)

    def _checkPublished(self, job, published):
        """The stacks of a batch that is in the output are to stay as they are: their images have their places there."""
        if job.has_bad_particles() and not self._pace.skipCorrupt:
            raise PlanError(
                [
                    "Skip corrupt particles: it was on, and the output lacks the corrupt particles of stacks that it "
                    "refers to, expected the same; switch it on, or restart the run."
                ]
            )
        if job.is_finished():
            return
        job.look_at_inputs()
        self._run.runProgram(job, job.stacks)
        results = job.results()
        if set(results["particle_id"][results["index"] > 0].tolist()) != published:
            raise DataError(
                f"{job.folder}: stacks that the output refers to were lost, and made again from the input they have "
                "other particles, expected the same; restart the run"
            )

    def _collect(self):
        """Take note of what has come; PlanError if it cannot be worked on."""
        problems = self._run.problems()
        if problems:
            raise PlanError(problems)
        plan = self._run.plan()
        self._stream.collect(self._run.alignment(), plan)
        if self._stream.bad and not self._pace.skipCorrupt:
            raise self._refusal()

    def _refusal(self):
        """The error that there are particles that cannot be used; all are listed."""
        bad = self._listBad()
        return refusal(bad, len(bad), self._run.badPath())

    def _listBad(self):
        """All particles that cannot be used, so far, listed for people."""
        bad = sorted([*self._batches.bad, *self._stream.bad], key=lambda bad: bad.particle_id)
        if bad:
            list_bad_particles(self._run.badPath(), bad)
        return bad

    def _readyToTake(self):
        """How many particles a batch is to take now: full stacks, or all if no more come or they have waited."""
        count, full = self._stream.readyCount, self._pace.perStack
        if not self._stream.isClosed and self._stream.waited() < self._pace.longestWait:
            count -= count % full
        return min(count, MOST_STACKS_IN_A_BATCH * full)

    def _checkSamePlan(self, job):
        """What is appended to an output must be like what it has."""
        if job.plan != self._run.plan():
            raise PlanError(
                [
                    f"The parameters have been changed since the run began ({job.plan.summary()}), expected the same, "
                    "since what comes is appended to the same set; set them back, or restart the run."
                ]
            )

    def _finishBatch(self, job):
        """Make what a batch is to make, and append it to the output."""
        if not job.is_finished() or job.has_bad_particles():
            self._run.runProgram(job, job.stacks)
        self._batches.count(job)
        if job.has_bad_particles() and not self._pace.skipCorrupt:
            raise self._refusal()
        if job.made_count:
            self._append(job)

    def _append(self, job):
        """Append what a batch has made to the output."""
        job.check_inputs()
        job.flush()
        particles = self._run.particles()
        alignment = self._stream.alignment or self._run.alignment()
        if self._output is None:
            self._output = newOutput(particles, alignment, job.plan, self._outputFolder)
        else:
            self._output.enableAppend()
        Results(job).fillBatch(self._output, particles, alignment)
        self._run.describe(job.plan, self._tally(), alignment, self._output)
        self._run.publish(self._output, Set.STREAM_OPEN)
        if _age(self._run.picturePath()) > LONGEST_AGE_OF_PICTURE:
            self._run.drawResult(self._batches.jobs)

    def _tally(self):
        """The numbers so far; the corrupt particles are listed."""
        corrupt = len(self._listBad())
        batches, stream = self._batches, self._stream
        size = self._output.getSize()
        return Tally(size, batches.images, stream.unaligned, stream.disabled, corrupt, batches.bytesOnDisk)

    def _close(self):
        """The inputs are closed: so is the output."""
        if self._output is None:
            raise DataError("Particles: none has come that can be downsampled; check the inputs and continue the run.")
        plan = self._batches.jobs[-1].plan
        self._run.describe(plan, self._tally(), self._run.alignment(), self._output)
        self._run.drawResult(self._batches.jobs)
        self._run.publish(self._output, Set.STREAM_CLOSED)


def someoneFills(project, pointers):
    """Whether a protocol that makes an input still runs: a set without particles does not even say it is closed."""
    for pointer in pointers:
        maker = pointer.getObjValue()
        if isinstance(maker, EMProtocol) and os.path.exists(os.path.join(project.getPath(), maker.getDbPath())):
            maker = getProtocolFromDb(project.getPath(), maker.getDbPath(), maker.getObjId())
        if isinstance(maker, EMProtocol) and maker.isActive():
            return True
    return False


def _age(path):
    return time.time() - os.path.getmtime(path) if os.path.exists(path) else math.inf
