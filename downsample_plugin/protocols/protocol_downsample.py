# SPDX-License-Identifier: GPL-3.0-or-later
"""The protocol "downsample particles": from a form to a job, from its results to a set."""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

from ..core import checks
from ..core.plan import DownsamplePlan, Recenter
from ..engine.job import BAD_PARTICLES_NAME
from ..engine.job_checks import job_problems, stack_count, stack_problems
from ..engine.job_writing import write_job
from ..engine.progress import Progress
from ..engine.tables import BadParticle
from ..errors import DownsampleError
from ..pictures.particles import draw_result
from ..pictures.sample import Sample
from .alignments import CONVENTIONS_2D, Connected2D, Connected3D, OwnAlignment
from .applied_twice import shiftsAppliedTwice
from .base import PluginProtocol
from .first_images import areNormalised
from .following import Follower, Pace, someoneFills
from .form_downsample import FILTER_SHAPES, HALF_THE_OUTPUT_BOX, RECENTER_MODES, defineDownsampleForm
from .messages import emptyProblems, toldToTheUser
from .particles import InputParticles
from .results import OUTPUT_NAME, Results, Tally, describeRun, methodsSentence, newOutput
from .stream import Batches
from .wanted import wantedParticles

LAUNCHER = str(Path(__file__).parents[1] / "launcher" / "downsample_particles.py")
MOST_JOBS_IN_THE_QUEUE = 64  # at once; each has a thread that waits for it


class ProtDownsampleParticles(PluginProtocol):
    """Downsample particles: bin or rescale the images to a coarser pixel size, and recenter, crop or filter them.

    In one pass, with every step optional and in this order: recenter (recentre) by the shifts of the alignment; crop
    or pad the box; downsample by a Fourier crop to the box or pixel size you choose (binning by 2 halves the box);
    low-pass (lowpass) and high-pass (highpass) filter; normalize the background; save in 16 bits.
    You can also use it to resize the box alone, or to scale particles to the pixel size of another data set.

    The output keeps the ids, order, CTF and all other attributes of the input; its sampling rate, shifts and
    coordinates match the new images. Most processing steps (2D and 3D classification, variability) need only
    coarse pixels and are many times faster with them. To go back to full size, use the protocol
    "restore full-size particles".
    """

    _label = "downsample particles"

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
            bad: list[BadParticle] = []
            write_job(self._getExtraPath(), plan, self._blocks(plan, bad), self.particlesPerStack.get(), bad)

    def _blocks(self, plan, bad):
        """The particles for a job, block after block; those that cannot be used go to the list `bad`."""
        for wanted in wantedParticles(self.particles(), self.alignment(), plan):
            bad += wanted.bad
            yield wanted.forJob()

    def downsampleStep(self, part, parts, launched):
        """Run the program on its part of the output stacks. Only what it leaves proves that it is through."""
        with toldToTheUser():
            (job,) = self.jobs()
            self.runProgram(job, job.share(part, parts), f"--part {part}/{parts} " if parts > 1 else "")

    def followStep(self, launched):
        """Downsample particles in batches as they come, until the inputs are closed."""
        skip, sleep, wait = self.skipCorrupt.get(), self.streamingSleepOnWait.get(), self.streamingBatchWait.get()
        pace = Pace(self.particlesPerStack.get(), skip, sleep, wait)
        with toldToTheUser():
            Follower(self, pace, self._getExtraPath(), self._getPath()).follow()

    def createOutputStep(self, launched):
        """Make the output set from the input set and the program's results."""
        with toldToTheUser():
            (job,) = self.jobs()
            corrupt = job.check_done(self.skipCorrupt.get())
            job.flush()
            particles, alignment = self.particles(), self.alignment()
            output = newOutput(particles, alignment, job.plan, self._getPath())
            results = Results(job)
            results.fill(output, particles, alignment)
        disabled = particles.countWhere("enabled<>1")
        unaligned = particles.count - disabled - job.particle_count - len(job.bad_before())
        tally = Tally(results.taken, job.made_count, unaligned, disabled, corrupt, job.bytes_on_disk)
        self.describe(job.plan, tally, alignment, output)
        self.drawResult([job])
        self._defineOutputs(**{OUTPUT_NAME: output})
        self._defineTransformRelation(self.inputParticles, output)
        job.remove_earlier_stacks()

    def runProgram(self, job, stacks, share=""):
        """Have the program make output stacks of a job."""
        skip = "--skip-corrupt " if self.skipCorrupt else ""
        arguments = f"{shlex.quote(LAUNCHER)} {job.path} {share}{skip}--jobs {self.numberOfThreads.get()}"
        with contextlib.suppress(subprocess.CalledProcessError):
            self.runJob(shlex.quote(sys.executable), arguments)
        job.check_worked_on(stacks)

    def describe(self, plan, tally, alignment, output):
        """Leave words for people."""
        warnings = shiftsAppliedTwice(self.particles(), alignment, "Input particles")
        for line in warnings:
            self.warning(line)
        words = describeRun(plan, tally, self.particles(), alignment, output, self.badPath())
        self.describeRun([*warnings, *words], methodsSentence(plan, tally.taken))

    def badPath(self):
        """The list of particles that cannot be used, there if there are any."""
        return os.path.join(self._getExtraPath(), BAD_PARTICLES_NAME)

    def drawResult(self, jobs):
        """Draw the result picture of jobs. A run is not to fail for it, whatever goes wrong with fonts or libraries."""
        try:
            draw_result(self.picturePath(), Sample.of_jobs(jobs))
        except Exception as error:
            self.warning(f"The result picture could not be drawn ({error!r}); the particles are not affected.")

    def jobs(self):
        """The jobs of this run: one, or those of the batches in which an open set came."""
        return Batches(self._getExtraPath()).jobs

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
        if self.particles().areClasses and any(source.isOpen for source in self.connected()):
            return ["Alignments: the set is still open, expected a closed one for input classes; wait until it closes."]
        isThere = all(source.exists for source in self.connected())
        if self._isFollowing() and isThere and self._nothingYet():  # the run checks when it comes
            problems = emptyProblems(self) or stack_problems(self.particlesPerStack.get())
            return problems + _threadProblems(self.numberOfThreads.get())
        return self.problems()

    def _nothingYet(self):
        """Whether an input has no particle to check anything by."""
        return any(source.first() is None for source in (self.particles(), *self.connected()))

    def problems(self):
        """Why the run cannot be done, as sentences; empty if it can."""
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
        if not self.particles().exists or self._validate() or self._nothingYet():
            return []
        warnings = checks.questions(self.plan(), areNormalised(self.particles()))
        if self.alignments3D.hasValue() and self.alignments2D.hasValue():
            warnings.append("Alignments 2D: not used, since Alignments 3D is also given and takes precedence.")
        return warnings + shiftsAppliedTwice(self.particles(), self.alignment(), "Input particles")

    def _summary(self):
        isOlder = self.isRunning() and not Batches.areIn(self._getExtraPath())  # the output, of an earlier launch
        return self.summaryBefore() if isOlder else super()._summary()

    def summaryBefore(self):
        """The summary while there is no output: how far it is, or what it will give."""
        if self.isRunning() or self.isAborted() or self.isFailed():
            return self._progress()
        if not self.particles().exists or self._validate() or self._nothingYet():
            return super().summaryBefore()
        plan = self.plan()
        return [f"Planned: {plan.summary()}", *checks.warnings(plan, normalised=areNormalised(self.particles()))]

    def _progress(self):
        """How far a run without an output is, by what it has left on the disk; nothing is computed for it."""
        with contextlib.suppress(DownsampleError, OSError):
            states = [job.progress() for job in self.jobs()]
            if states:
                done, total, perSecond = map(sum, zip(*states))
                bad = [f"Corrupt particles are listed in {self.badPath()}"] if os.path.exists(self.badPath()) else []
                rest = ["The output set is being written."] if done == total and self.isRunning() else []
                return [str(Progress(done, total, perSecond)), *rest, *bad]
        return super().summaryBefore()

    def _citations(self):
        return ["Frigo2005", "delaRosaTrevin2016"] + (["Scheres2012"] if self.doNormalize.get() else [])

    # --------------------------- open sets ------------------------------------------
    def _isFollowing(self):
        """Whether an input is still being filled, or was when this run began."""
        isOpen = self.particles().isOpen or any(source.isOpen for source in self.connected())
        return isOpen or Batches.areIn(self._getExtraPath())

    def someoneFills(self):
        """Whether a protocol that makes an input still runs."""
        return someoneFills(self.getProject(), (self.inputParticles, self.alignments3D, self.alignments2D))

    def publish(self, output, state):
        """Let others see what the output has now."""
        self._updateOutputSet(OUTPUT_NAME, output, state)
        if not self.getRelations():  # as after a kill too: relations come to the disk later than outputs
            self._defineTransformRelation(self.inputParticles, getattr(self, OUTPUT_NAME))
        self._store()

    def outputSoFar(self):
        """The output that an earlier launch of this run has made, or None."""
        made = getattr(self, OUTPUT_NAME, None)
        if made is None:
            return None
        output = made.getClass()(filename=made.getFileName())
        output.loadAllProperties()
        return output

    @classmethod
    def worksInStreaming(cls):
        """Scipion asks: it may be launched while its inputs are still open."""
        return True

    # --------------------------- from the form --------------------------------------
    def particles(self):
        """The input particles."""
        return InputParticles(self.inputParticles.get())

    def plan(self):
        """The request of the form, for the input particles."""
        particles = self.particles()
        radius = self.backRadius.get()
        return DownsamplePlan(
            box_in=particles.box(),
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

    def connected(self):
        """The alignment set that this run uses, if one is connected: 3D before 2D."""
        return [InputParticles(pointer.get()) for _, pointer in self._connections()[:1]]

    def _connections(self):
        found = ((Connected3D, self.alignments3D), (Connected2D, self.alignments2D))
        return [(source, pointer) for source, pointer in found if pointer.hasValue()]

    def alignment(self):
        """The alignment that this run uses, not loaded yet: 3D before 2D, before the particles' own."""
        convention = CONVENTIONS_2D[self.alignment2DConvention.get()]
        for source, pointer in self._connections():
            return source(InputParticles(pointer.get()), convention, self.particles().apix)
        return OwnAlignment(self.particles(), convention)


def _threadProblems(threads):
    if threads and threads >= 1:
        return []
    return [f"Threads: got {threads}, expected 1 or more worker processes; 1 per core is usual."]
