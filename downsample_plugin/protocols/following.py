# SPDX-License-Identifier: GPL-3.0-or-later
"""The part of "downsample particles" that follows open sets: batches as they come, one output that grows."""

from __future__ import annotations

import math
import os
import time

from pwem.protocols import EMProtocol
from pyworkflow.object import Set
from pyworkflow.protocol import getProtocolFromDb

from ..engine.job import refusal
from ..engine.tables import list_bad_particles
from ..errors import DataError, PlanError
from .messages import toldToTheUser
from .results import OUTPUT_NAME, Results, Tally, newOutput
from .stream import Batches, ParticleStream

SHORTEST_SLEEP = 0.1  # s; without any sleep, waiting would cost a whole core
LONGEST_AGE_OF_PICTURE = 60  # s, while a run follows an open set: drawing takes longer than a small batch
MOST_STACKS_IN_A_BATCH = 20  # so that the first particles of a large set are there before the last


class FollowsOpenSets:
    """What ProtDownsampleParticles does while its inputs are still being filled."""

    def _isFollowing(self):
        """Whether an input is still being filled, or was when this run began."""
        isOpen = self.particles().isOpen or any(source.isOpen for source in self._connected())
        return isOpen or Batches.areIn(self._getExtraPath())

    def followStep(self, launched):
        """Downsample particles in batches as they come, until the inputs are closed."""
        with toldToTheUser():
            batches = Batches(self._getExtraPath())
            stream = ParticleStream(self.particles(), next(iter(self._connected()), None))
            stream.look()  # what the project says of the inputs may be old
            output = self._takeUp(stream, batches)
            while True:
                stream.look()
                if stream.hasNews:
                    self._collect(stream, batches)
                count = self._readyToTake(stream)
                if count:
                    block, bad = stream.take(count)
                    job = batches.write(self.plan(), block, self.particlesPerStack.get(), bad)
                    output = self._finishBatch(job, output, stream, batches)
                elif stream.isClosed or (stream.isEmpty and not self._someoneFills() and not stream.look()):
                    break
                else:
                    self._sleep()
            self._close(output, stream, batches)

    def _sleep(self):
        time.sleep(max(self.streamingSleepOnWait.get(), SHORTEST_SLEEP))

    def _takeUp(self, stream, batches):
        """Finish what an earlier launch of this run has begun; returns its output, or None."""
        output = self._outputSoFar()
        while batches.jobs and stream.isEmpty:  # the file of the input cannot be read just now
            self._sleep()
            stream.look()
        published = output.getIdSet() if output else set()
        stream.passOver(list(published))
        for job in batches.jobs:
            self._checkSamePlan(job)
            ids = set(job.rows()["particle_id"].tolist())
            stream.passOver([*ids, *(bad.particle_id for bad in job.bad_before())])
            if ids & published:
                self._checkPublished(job, ids & published)
                batches.count(job)
            else:
                job.look_at_inputs()
                output = self._finishBatch(job, output, stream, batches)
        if output:
            self._publish(output, Set.STREAM_OPEN)
        return output

    def _checkPublished(self, job, published):
        """The stacks of a batch that is in the output are to stay as they are: their images have their places there."""
        if job.has_bad_particles() and not self.skipCorrupt:
            raise PlanError(
                [
                    "Skip corrupt particles: it was on when the run began, and the output already lacks corrupt "
                    "particles, expected the same setting; switch it on, or restart the run."
                ]
            )
        if job.is_finished():
            return
        job.look_at_inputs()
        self._runProgram(job, job.stacks)
        results = job.results()
        if set(results["particle_id"][results["index"] > 0].tolist()) != published:
            raise DataError(
                f"{job.folder}: stacks of the output were lost, and made again from the input they have different "
                "particles, expected the same; restart the run"
            )

    def _someoneFills(self):
        """Whether a protocol that makes an input still runs: a set without particles does not even say it is closed."""
        path = self.getProject().getPath()
        for pointer in (self.inputParticles, self.alignments3D, self.alignments2D):
            maker = pointer.getObjValue()
            if isinstance(maker, EMProtocol) and os.path.exists(os.path.join(path, maker.getDbPath())):
                maker = getProtocolFromDb(path, maker.getDbPath(), maker.getObjId())
            if isinstance(maker, EMProtocol) and maker.isActive():
                return True
        return False

    def _collect(self, stream, batches):
        """Take note of what has come; PlanError if it cannot be worked on."""
        problems = self._problems()
        if problems:
            raise PlanError(problems)
        plan = self.plan()
        stream.collect(self.alignment(), plan)
        if stream.bad and not self.skipCorrupt:
            raise self._refusal(stream, batches)

    def _refusal(self, stream, batches):
        """The error that there are particles that cannot be used; all are listed."""
        bad = self._listBad(stream, batches)
        return refusal(bad, len(bad), self.badPath())

    def _listBad(self, stream, batches):
        """All particles that cannot be used, so far, listed for people."""
        bad = sorted([*batches.bad, *stream.bad], key=lambda bad: bad.particle_id)
        if bad:
            list_bad_particles(self.badPath(), bad)
        return bad

    def _readyToTake(self, stream):
        """How many particles a batch is to take now: full stacks, or all if no more come or they have waited."""
        count, full = stream.readyCount, self.particlesPerStack.get()
        if not stream.isClosed and stream.waited() < self.streamingBatchWait.get():
            count -= count % full
        return min(count, MOST_STACKS_IN_A_BATCH * full)

    def _checkSamePlan(self, job):
        """What is appended to an output must be like what it has."""
        if job.plan != self.plan():
            raise PlanError(
                [
                    f"The parameters have been changed since the run began ({job.plan.summary()}), expected the same, "
                    "since new particles are appended to the same set; change them back, or restart the run."
                ]
            )

    def _finishBatch(self, job, output, stream, batches):
        """Make what a batch is to make, and append it to the output."""
        if not job.is_finished() or job.has_bad_particles():
            self._runProgram(job, job.stacks)
        batches.count(job)
        if job.has_bad_particles() and not self.skipCorrupt:
            raise self._refusal(stream, batches)
        if not job.made_count:
            return output
        job.check_inputs()
        job.flush()
        particles = self.particles()
        alignment = stream.alignment or self.alignment()
        if output is None:
            output = newOutput(particles, alignment, job.plan, self._getPath())
        else:
            output.enableAppend()
        Results(job).fillBatch(output, particles, alignment)
        self._describe(job.plan, self._tally(output, stream, batches), alignment, output)
        self._publish(output, Set.STREAM_OPEN)
        if self._age(self.picturePath()) > LONGEST_AGE_OF_PICTURE:
            self._drawResult(batches.jobs)
        return output

    def _tally(self, output, stream, batches):
        """The numbers so far; the corrupt particles are listed."""
        corrupt = len(self._listBad(stream, batches))
        return Tally(output.getSize(), batches.images, stream.unaligned, stream.disabled, corrupt, batches.bytesOnDisk)

    def _publish(self, output, state):
        """Let others see what the output has now."""
        self._updateOutputSet(OUTPUT_NAME, output, state)
        if not self.getRelations():  # as after a kill too: relations come to the disk later than outputs
            self._defineTransformRelation(self.inputParticles, getattr(self, OUTPUT_NAME))
        self._store()

    def _outputSoFar(self):
        """The output that an earlier launch of this run has made, or None."""
        made = getattr(self, OUTPUT_NAME, None)
        if made is None:
            return None
        output = made.getClass()(filename=made.getFileName())
        output.loadAllProperties()
        return output

    def _close(self, output, stream, batches):
        """The inputs are closed: so is the output."""
        if output is None:
            raise DataError(
                "Particles: none that can be downsampled have arrived, expected some; check the inputs, "
                "then continue the run."
            )
        plan = batches.jobs[-1].plan
        self._describe(plan, self._tally(output, stream, batches), self.alignment(), output)
        self._drawResult(batches.jobs)
        self._publish(output, Set.STREAM_CLOSED)

    @classmethod
    def worksInStreaming(cls):
        """Scipion asks: it may be launched while its inputs are still open."""
        return True

    @staticmethod
    def _age(path):
        return time.time() - os.path.getmtime(path) if os.path.exists(path) else math.inf
