# SPDX-License-Identifier: GPL-3.0-or-later
"""The protocol "downsample particles": from a form to a job, from its results to a set."""

from __future__ import annotations

import contextlib
import enum
import math
import os
import shlex
import subprocess
import sys
import time

from pwem.objects import SetOfParticles
from pwem.protocols import EMProtocol
from pyworkflow.constants import NEW
from pyworkflow.object import Set
from pyworkflow.protocol import getProtocolFromDb

from ..core import checks
from ..core.plan import DownsamplePlan, Recenter
from ..errors import DataError, PlanError
from ..job import BAD_PARTICLES_NAME, Job, check_done, job_problems, refusal, stack_count
from ..picture import draw_result
from ..sample import Sample
from .alignments import READINGS_2D, Connected2D, Connected3D, OwnAlignment, particleRows
from .form_downsample import (
    FILTER_SHAPES,
    HALF_THE_OUTPUT_BOX,
    RECENTER_MODES,
    defineDownsampleForm,
)
from .messages import emptyProblems, toldToTheUser
from .particles import InputParticles
from .results import Results, Tally, describeRun, methodsSentence, newOutput
from .stream import Batches, ParticleStream

SHORTEST_SLEEP = 0.1  # s; without any sleep, waiting would cost a whole core
LONGEST_AGE_OF_PICTURE = 60  # s, while a run follows an open set: drawing takes longer than a small batch
MOST_STACKS_IN_A_BATCH = 20  # so that the first particles of a large set are there before the last
MOST_JOBS_IN_THE_QUEUE = 64  # at once; each has a thread that waits for it


class DownsampleOutputs(enum.Enum):
    """What the protocol makes."""

    outputParticles = SetOfParticles


class ProtDownsampleParticles(EMProtocol):
    """Downsample particles: crop or pad the box, recentre, Fourier crop to coarser pixels, filter, normalise.

    The output has the input's ids, order, CTF and all other attributes, with the sampling rate, shifts and
    coordinates that belong to the new images. Most steps of processing (2D and 3D classification, variability)
    need only coarse pixels and are many times faster with them.
    """

    _label = "downsample particles"
    _devStatus = NEW
    _possibleOutputs = DownsampleOutputs

    # --------------------------- form -----------------------------------------------
    def _defineParams(self, form):
        defineDownsampleForm(form)

    # --------------------------- steps ----------------------------------------------
    def _insertAllSteps(self):
        # On "continue" steps run again whose arguments have changed. Here all do: the job knows best what is done,
        # since it looks at the input's files and at its own.
        launched = time.time()
        if self._isFollowing():
            self._insertFunctionStep(self.followStep, launched, prerequisites=[], needsGPU=False)
            return
        job = self._insertFunctionStep(self.writeJobStep, launched, prerequisites=[], needsGPU=False)
        parts = self._numberOfParts()
        downsampled = [
            self._insertFunctionStep(self.downsampleStep, part, parts, launched, prerequisites=[job], needsGPU=False)
            for part in range(1, parts + 1)
        ]
        self._insertFunctionStep(self.createOutputStep, launched, prerequisites=downsampled, needsGPU=False)

    def writeJobStep(self, launched):
        """Write what the program is to do."""
        with toldToTheUser():
            plan = self.plan()
            bad = []
            rows = particleRows(self.particles().items(), self.alignment().load(plan.apix_in), plan, bad)
            Job.write(self._getExtraPath(), plan, rows, self.particlesPerStack.get(), bad)

    def downsampleStep(self, part, parts, launched):
        """Run the program on its part of the output stacks. Only what it leaves proves that it is through."""
        with toldToTheUser():
            (job,) = self.jobs()
            self._runProgram(job, job.share(part, parts), f"--part {part}/{parts} " if parts > 1 else "")

    def createOutputStep(self, launched):
        """Make the output set from the input set and the program's results."""
        with toldToTheUser():
            (job,) = self.jobs()
            corrupt = job.check_done(self.skipCorrupt.get())
            job.flush()
            particles, alignment = self.particles(), self.alignment().load(job.plan.apix_in)
            output = newOutput(particles, alignment, job.plan, self._getPath())
            results = Results(job)
            results.fill(output, particles, alignment)
        tally = Tally(results.taken, results.missing - corrupt, results.disabled, corrupt, job.bytes_on_disk)
        self._describe(job.plan, tally, alignment, output)
        self._drawResult()
        self._defineOutputs(**{DownsampleOutputs.outputParticles.name: output})
        self._defineTransformRelation(self.inputParticles, output)
        job.remove_other_stacks()

    def _runProgram(self, job, stacks, share=""):
        skip = "--skip-corrupt " if self.skipCorrupt else ""
        arguments = f"-m downsample_plugin {job.path} {share}{skip}--jobs {self.numberOfThreads.get()}"
        with contextlib.suppress(subprocess.CalledProcessError):
            self.runJob(shlex.quote(sys.executable), arguments)
        job.check_worked_on(stacks)

    def _describe(self, plan, tally, alignment, output):
        """Leave words for people."""
        badPath = os.path.join(self._getExtraPath(), BAD_PARTICLES_NAME)
        self.summaryVar.set("\n".join(describeRun(plan, tally, self.particles(), alignment, output, badPath)))
        self.info(self.summaryVar.get())
        self.methodsVar.set(methodsSentence(plan, tally.taken))

    def _drawResult(self):
        """Draw the result picture. A run is not to fail for it, whatever goes wrong with fonts, memory or libraries."""
        try:
            draw_result(self.picturePath(), Sample.of_jobs(self.jobs()))
        except Exception as error:
            self.warning(f"The result picture could not be drawn ({error!r}); the particles are not touched by that.")

    @staticmethod
    def _age(path):
        return time.time() - os.path.getmtime(path) if os.path.exists(path) else math.inf

    def picturePath(self):
        """The result picture, a PNG."""
        return self._getExtraPath("result.png")

    def jobs(self):
        """The jobs of this run: one, or those of the batches in which an open set came."""
        path = Job.path_in(self._getExtraPath())
        whole = [Job.read(path)] if os.path.exists(path) else []
        return whole + Batches(self._getExtraPath()).all()

    # --------------------------- streaming ------------------------------------------
    def _isFollowing(self):
        """Whether an input is still being filled, or was when this run began."""
        isOpen = self.particles().isOpen or any(source.isOpen for source in self._connected())
        return isOpen or bool(Batches(self._getExtraPath()).all())

    def followStep(self, launched):
        """Downsample particles in batches as they come, until the inputs are closed."""
        with toldToTheUser():
            batches = Batches(self._getExtraPath())
            output = self._outputSoFar()
            for job in self.jobs():
                self._checkSamePlan(job)
                output = self._finishBatch(job, output)
            taken = set(batches.ids()) | (output.getIdSet() if output else set())
            stream = ParticleStream(self.particles(), next(iter(self._connected()), None), taken)
            while True:
                if stream.look() and not stream.isEmpty:
                    self._collect(stream)
                count = self._readyToTake(stream)
                if count:
                    rows, bad = stream.take(count)
                    job = batches.write(self.plan(), rows, self.particlesPerStack.get(), bad)
                    output = self._finishBatch(job, output, stream)
                elif stream.isClosed or (stream.isEmpty and not self._someoneFills()):
                    break
                else:
                    time.sleep(max(self.streamingSleepOnWait.get(), SHORTEST_SLEEP))
            self._close(output, stream)

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

    def _collect(self, stream):
        """Take note of what has come; PlanError if it cannot be worked on."""
        problems = self._problems()
        if problems:
            raise PlanError(problems)
        plan = self.plan()
        stream.collect(self.alignment().load(plan.apix_in), plan)

    def _readyToTake(self, stream):
        """How many particles a batch is to take now: full stacks, or all if no more come or they have waited."""
        count, full = len(stream.ready), self.particlesPerStack.get()
        if not stream.isClosed and stream.waited() < self.streamingBatchWait.get():
            count -= count % full
        return min(count, MOST_STACKS_IN_A_BATCH * full)

    def _checkSamePlan(self, job):
        """What is appended to an output must be like what it has."""
        if job.plan != self.plan():
            raise PlanError(
                [
                    f"The parameters have been changed since the run began ({job.plan.summary()}), expected the same, "
                    "since what comes is appended to the same set; set them back, or restart the run."
                ]
            )

    def _finishBatch(self, job, output, stream=None):
        """Make what a batch is to make, if it is not made, and append it to the output, if it is not there."""
        if not job.is_finished() or job.has_bad_particles():
            self._runProgram(job, job.stacks)
        if self.skipCorrupt and not job.has_images():
            return output
        job.check_done(self.skipCorrupt.get())
        first = next(job.results()).particle_id
        if output is not None and output[first] is not None:
            return output
        job.flush()
        particles, alignment = self.particles(), self.alignment().load(job.plan.apix_in)
        if output is None:
            output = newOutput(particles, alignment, job.plan, self._getPath())
        else:
            output.enableAppend()
        ids = list(job.particle_ids())
        Results(job).fill(output, particles, alignment, f"id>={min(ids)} AND id<={max(ids)}")
        self._describe(job.plan, self._tally(output, stream), alignment, output)
        self._publish(output, Set.STREAM_OPEN)
        if self._age(self.picturePath()) > LONGEST_AGE_OF_PICTURE:
            self._drawResult()
        return output

    def _tally(self, output, stream):
        jobs = self.jobs()
        corrupt = sum(1 for job in jobs for _ in job.bad_particles(job.stacks))
        passedOver = (stream.unaligned, stream.disabled) if stream else (0, 0)
        return Tally(output.getSize(), *passedOver, corrupt, sum(job.bytes_on_disk for job in jobs))

    def _publish(self, output, state):
        """Let others see what the output has now."""
        name = DownsampleOutputs.outputParticles.name
        self._updateOutputSet(name, output, state)
        if not self.getRelations():  # as after a kill too: relations come to the disk later than outputs
            self._defineTransformRelation(self.inputParticles, getattr(self, name))
        self._store()

    def _outputSoFar(self):
        """The output that an earlier launch of this run has made, or None."""
        made = getattr(self, DownsampleOutputs.outputParticles.name, None)
        if made is None:
            return None
        output = made.getClass()(filename=made.getFileName())
        output.loadAllProperties()
        return output

    def _close(self, output, stream):
        """The inputs are closed: so is the output."""
        jobs = self.jobs()
        if stream.bad and not self.skipCorrupt:
            raise refusal(stream.bad, len(stream.bad), self._getExtraPath())
        if output is None:
            raise DataError("Particles: none has come that can be downsampled; check the inputs and continue the run.")
        check_done(jobs, self._getExtraPath(), self.skipCorrupt.get())
        plan = jobs[-1].plan
        self._describe(plan, self._tally(output, stream), self.alignment(), output)
        self._drawResult()
        self._publish(output, Set.STREAM_CLOSED)

    @classmethod
    def worksInStreaming(cls):
        """Scipion asks: it may be launched while its inputs are still open."""
        return True

    def _numberOfParts(self):
        """How many steps share the work: one, or under "queue for steps" one per output stack."""
        if not self.particles().exists or not self.useQueueForSteps():
            return 1
        return stack_count(self.particles().count, self.particlesPerStack.get())

    def setStepsExecutor(self, executor=None):
        """Under "queue for steps", hand the queue all pieces at once: it is the scheduler."""
        super().setStepsExecutor(executor)
        if self.useQueueForSteps():
            self.getExecutor().numberOfProcs = min(self._numberOfParts(), MOST_JOBS_IN_THE_QUEUE)

    # --------------------------- info -----------------------------------------------
    def _validate(self):
        if not self.particles().exists:
            return []  # pyworkflow says so
        if self._isFollowing() and any(source.first() is None for source in (self.particles(), *self._connected())):
            return emptyProblems(self)  # nothing to check by yet; when it comes, the run checks
        return self._problems()

    def _problems(self):
        problems = emptyProblems(self) or self.particles().imageProblems("Input particles")
        if problems:
            return problems
        plan = self.plan()
        return (
            job_problems(plan, self.particlesPerStack.get())
            + _threadProblems(self.numberOfThreads.get())
            + self.alignment().problems(recentering=plan.recenter is not Recenter.NONE)
        )

    def _warnings(self):
        if not self.particles().exists or self._validate():
            return []
        warnings = checks.warnings(self.plan())
        if self.alignments3D.hasValue() and self.alignments2D.hasValue():
            warnings.append("Alignments 2D: not used, since Alignments 3D is given too and wins.")
        return warnings

    def _summary(self):
        if hasattr(self, DownsampleOutputs.outputParticles.name):
            return self.summaryVar.get().split("\n")
        if not self.particles().exists or self._validate():
            return ["Output particles not ready yet."]
        return [f"Will give: {self.plan().summary()}"]

    def _methods(self):
        return [self.methodsVar.get()] if hasattr(self, DownsampleOutputs.outputParticles.name) else []

    def _citations(self):
        return ["Frigo2005", "delaRosaTrevin2016"] + (["Scheres2012"] if self.doNormalize.get() else [])

    # --------------------------- from the form --------------------------------------
    def particles(self):
        """The input particles."""
        return InputParticles(self.inputParticles.get())

    def plan(self):
        """The request of the form, for the input particles."""
        particles = self.particles()
        radius = self.backRadius.get()
        return DownsamplePlan(
            box_in=particles.dimensions()[0],
            apix_in=particles.apix,
            crop_size=self.cropSize.get(),
            target_pixel_size=self.targetPixelSize.get(),
            fourier_crop_size=self.fourierCropSize.get(),
            recenter=RECENTER_MODES[self.recenterMode.get()] if self.recenter else Recenter.NONE,
            lowpass_resolution=self.lowpassResolution.get(),
            highpass_resolution=self.highpassResolution.get(),
            filter_shape=FILTER_SHAPES[self.filterShape.get()],
            filter_order=self.filterOrder.get(),
            filter_width=self.filterWidth.get(),
            normalize=self.doNormalize.get(),
            background_radius=None if radius == HALF_THE_OUTPUT_BOX else radius,
            float16=self.saveFloat16.get(),
        )

    def _connected(self):
        """The alignment set that this run uses, if one is connected: 3D before 2D."""
        return [InputParticles(pointer.get()) for _, pointer in self._connections()[:1]]

    def _connections(self):
        found = ((Connected3D, self.alignments3D), (Connected2D, self.alignments2D))
        return [(source, pointer) for source, pointer in found if pointer.hasValue()]

    def alignment(self):
        """The alignment that this run uses, not loaded yet: 3D before 2D, before the particles' own."""
        convention = READINGS_2D[self.alignment2DConvention.get()]
        for source, pointer in self._connections():
            return source(InputParticles(pointer.get()), convention)
        return OwnAlignment(self.particles(), convention)


def _threadProblems(threads):
    if threads and threads >= 1:
        return []
    return [f"Threads: got {threads}, expected 1 or more: the worker processes of the program; 1 per core is usual."]
