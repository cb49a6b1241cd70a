# SPDX-License-Identifier: GPL-3.0-or-later
"""The protocol "downsample particles": from a form to a job, from its results to a set."""

from __future__ import annotations

import contextlib
import enum
import shlex
import subprocess
import sys

import numpy as np
from pwem.objects import Class2D, Class3D, SetOfParticles, Transform
from pwem.protocols import EMProtocol
from pyworkflow.constants import NEW
from pyworkflow.exceptions import PyworkflowException
from pyworkflow.object import Float

from .. import __version__
from ..core import checks
from ..core.alignment import matrix_of_output, shift_from_matrix
from ..core.geometry import round_half_away
from ..core.plan import DownsamplePlan, FilterShape, Recenter
from ..errors import DataError, DownsampleError
from ..job import Job, job_problems, stack_count
from ..stacks import StackReader
from ..tables import ParticleRow
from .alignments import Connected2D, Connected3D, OwnAlignment
from .form_downsample import (
    FILTER_SHAPES,
    HALF_THE_OUTPUT_BOX,
    READINGS_2D,
    RECENTER_MODES,
    defineDownsampleForm,
    emptyProblems,
)

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
        settings = self._settings()
        job = self._insertFunctionStep(self.writeJobStep, settings, prerequisites=[], needsGPU=False)
        parts = self._numberOfParts()
        downsampled = [
            self._insertFunctionStep(self.downsampleStep, part, parts, settings, prerequisites=[job], needsGPU=False)
            for part in range(1, parts + 1)
        ]
        self._insertFunctionStep(self.createOutputStep, settings, prerequisites=downsampled, needsGPU=False)

    def writeJobStep(self, settings):
        """Write what the program is to do."""
        with _toldToTheUser():
            job = Job.write(self._getExtraPath(), self._plan(), self._particleRows(), self.particlesPerStack.get())
        return [job.path]

    def downsampleStep(self, part, parts, settings):
        """Run the program on its part of the output stacks. Only what it leaves proves that it is through."""
        with _toldToTheUser():
            job = Job.read(Job.path_in(self._getExtraPath()))
            share = f"--part {part}/{parts} " if parts > 1 else ""
            arguments = f"-m downsample_plugin {job.path} {share}--jobs {self.numberOfThreads.get()}"
            with contextlib.suppress(subprocess.CalledProcessError):
                self.runJob(shlex.quote(sys.executable), arguments)
            stacks = job.share(part, parts)
            job.check_done(stacks)
        return [path for number in stacks for path in (job.stack_path(number), job.done_path(number))]

    def createOutputStep(self, settings):
        """Make the output set from the input set and the program's results."""
        with _toldToTheUser():
            job = Job.read(Job.path_in(self._getExtraPath()))
            job.check_done(range(1, job.stack_count + 1))
            plan, results = job.plan, _Results(job)
            particles = self.inputParticles.get()
            alignment = self._alignment().load(plan.apix_in)
            output = self._newOutputSet(particles, plan, alignment)
            output.copyItems(
                particles,
                doClone=False,
                itemSelectedCallback=results.has,
                updateItemCallback=lambda particle, _: _update(particle, results.take(), plan, alignment),
            )
            results.checkAllTaken()
        self.summaryVar.set("\n".join(_describeRun(output, plan, alignment, results)))
        self.info(self.summaryVar.get())
        self.methodsVar.set(_methodsSentence(plan, output.getSize()))
        self._defineOutputs(**{DownsampleOutputs.outputParticles.name: output})
        self._defineTransformRelation(self.inputParticles, output)
        job.remove_other_stacks()

    def _numberOfParts(self):
        """How many steps share the work: one, or under "queue for steps" one per output stack."""
        particles = self.inputParticles.get()
        if particles is None or not self.useQueueForSteps():
            return 1
        return stack_count(particles.getSize(), self.particlesPerStack.get())

    def setStepsExecutor(self, executor=None):
        """Under "queue for steps", hand the queue all pieces at once: it is the scheduler."""
        super().setStepsExecutor(executor)
        if self.useQueueForSteps():
            self.getExecutor().numberOfProcs = min(self._numberOfParts(), MOST_JOBS_IN_THE_QUEUE)

    # --------------------------- info -----------------------------------------------
    def _validate(self):
        particles = self.inputParticles.get()
        if particles is None:
            return []  # pyworkflow says so
        problems = emptyProblems(self) or _imageProblems(particles)
        if problems:
            return problems
        plan = self._plan()
        return (
            job_problems(plan, self.particlesPerStack.get())
            + _threadProblems(self.numberOfThreads.get())
            + self._alignment().problems(recentering=plan.recenter is not Recenter.NONE)
        )

    def _warnings(self):
        if self.inputParticles.get() is None or self._validate():
            return []
        warnings = checks.warnings(self._plan())
        if self.alignments3D.hasValue() and self.alignments2D.hasValue():
            warnings.append("Alignments 2D: not used, since Alignments 3D is given too and wins.")
        return warnings

    def _summary(self):
        if self.summaryVar.hasValue():
            return self.summaryVar.get().split("\n")
        if self.inputParticles.get() is None or self._validate():
            return ["Output particles not ready yet."]
        return [f"Will give: {self._plan().summary()}"]

    def _methods(self):
        return [self.methodsVar.get()] if self.methodsVar.hasValue() else []

    def _citations(self):
        return ["Frigo2005", "delaRosaTrevin2016"] + (["Scheres2012"] if self.doNormalize.get() else [])

    # --------------------------- from the form --------------------------------------
    def _plan(self):
        """The request of the form, for the input particles."""
        particles = self.inputParticles.get()
        radius = self.backRadius.get()
        return DownsamplePlan(
            box_in=_dimensions(particles)[0],
            apix_in=particles.getSamplingRate() or 0.0,
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

    def _alignment(self):
        """The alignment that this run uses, not loaded yet: 3D before 2D, before the particles' own."""
        convention = READINGS_2D[self.alignment2DConvention.get()]
        for source, pointer in ((Connected3D, self.alignments3D), (Connected2D, self.alignments2D)):
            if pointer.hasValue():
                return source(pointer.get(), convention)
        return OwnAlignment(self.inputParticles.get(), convention)

    def _settings(self):
        """All that the result depends on: a step runs again on "continue" when its arguments have changed."""
        pointers = (self.inputParticles, self.alignments3D, self.alignments2D)
        inputs = [(pointer.getUniqueId(), pointer.get().getSize()) for pointer in pointers if pointer.hasValue()]
        return {
            "plan": self._plan().to_dict(),
            "particlesPerStack": self.particlesPerStack.get(),
            "alignment2DConvention": self.getEnumText("alignment2DConvention"),
            "inputs": inputs,
        }

    # --------------------------- the job --------------------------------------------
    def _particleRows(self):
        """The particles of the job, each with the shift that recentring is to use."""
        plan = self._plan()
        alignment = self._alignment().load(plan.apix_in)
        recentering = plan.recenter is not Recenter.NONE
        for particle in self.inputParticles.get().iterItems():
            matrix = alignment.matrixOf(particle)
            if not particle.isEnabled() or (matrix is None and (alignment.connected or recentering)):
                continue
            shift = (0.0, 0.0)
            if matrix is not None:  # one that is broken is refused even where its shift is not applied
                wanted = _shift(particle, matrix, alignment.reading)
                shift = wanted if recentering else shift
            yield ParticleRow(particle.getObjId(), particle.getIndex(), particle.getFileName(), *shift)

    # --------------------------- the output -----------------------------------------
    def _newOutputSet(self, particles, plan, alignment):
        """An empty set of the input's class and properties, at the new sampling rate."""
        isClass = isinstance(particles, (Class2D, Class3D))
        setClass = SetOfParticles if isClass else particles.getClass()
        output = setClass.create(self._getPath(), indexes=["_classId", "_micId"])
        output.copyInfo(particles)
        output.setSamplingRate(plan.apix_out)
        if alignment.connected:
            output.setAlignment(alignment.kind)
        return output


def _threadProblems(threads):
    if threads and threads >= 1:
        return []
    return [f"Threads: got {threads}, expected 1 or more: the worker processes of the program; 1 per core is usual."]


def _imageProblems(particles):
    """Why the images cannot be downsampled, by the first of them; empty if they can."""
    if particles.isEmpty():
        return ["Input particles: the set is empty, expected one particle or more; connect another set."]
    try:
        width, height = _dimensions(particles)
    except DataError as error:
        return [f"Input particles, {particles.getFirstItem().getFileName()}: {error}"]
    if width != height:
        return [
            f"Input particles: the images are {width} x {height} px, expected square ones; "
            "extract the particles again in a square box."
        ]
    return []


def _dimensions(particles):
    """(width, height) in px of the first image. The set's own idea is wrong for files of the other byte order."""
    with StackReader(particles.getFirstItem().getFileName()) as stack:
        return stack.box


class _Results:
    """The program's results, read along with the input set: both are in the order of the set.

    Counts the particles of the set that have no result, as `disabled` or `unaligned`.
    """

    def __init__(self, job):
        self._folder = job.folder
        self._rows = job.results()
        self._next = next(self._rows, None)
        self.disabled = self.unaligned = 0

    def has(self, particle):
        """Whether the next result is this particle's."""
        if self._next is not None and self._next.particle_id == particle.getObjId():
            return True
        if particle.isEnabled():
            self.unaligned += 1
        else:
            self.disabled += 1
        return False

    def take(self):
        """The next result."""
        taken, self._next = self._next, next(self._rows, None)
        return taken

    def checkAllTaken(self):
        """Raise DataError if a result has no particle: the set is not the one that the program worked on."""
        if self._next is not None:
            raise DataError(
                f"{self._folder}: it has a result for particle {self._next.particle_id}, which is not in the input "
                "set, expected the same particles in the same order: the set was changed meanwhile; restart the run"
            )


def _shift(particle, matrix, reading):
    """(sx, sy) of a particle's matrix; DataError with its id."""
    try:
        return shift_from_matrix(matrix, reading)[:2]
    except DataError as error:
        raise DataError(f"Particle {particle.getObjId()}: {error}") from error


def _update(particle, result, plan, alignment):
    """Turn an input particle into its output: image, alignment, coordinate, and the record of its shift."""
    applied = (result.shift_x, result.shift_y)
    particle.setLocation(result.image_index, result.image_file)
    matrix = alignment.matrixOf(particle)
    if matrix is not None:
        particle.setTransform(Transform(matrix_of_output(matrix, applied, plan.scale, alignment.reading)))
    coordinate = particle.getCoordinate()
    if coordinate is not None and coordinate.getX() is not None:
        position = round_half_away((np.array(coordinate.getPosition()) - applied) * plan.scale)
        coordinate.setPosition(*position.tolist())
    particle._downsampleShiftX = Float(result.shift_x * plan.apix_in)
    particle._downsampleShiftY = Float(result.shift_y * plan.apix_in)


def _describeRun(output, plan, alignment, results):
    """What was done, a line each."""
    yield f"{output.getSize()} particles: {plan.summary()}"
    if plan.recenter is not Recenter.NONE:
        yield f"Recentred ({plan.recenter.value}) by {alignment.describe()}"
    elif alignment.connected:
        yield f"Alignment from {alignment.describe()}"
    if results.unaligned:
        yield f"Left out: {results.unaligned} particles that {alignment.name} does not have"
    if results.disabled:
        yield f"Left out: {results.disabled} particles that are disabled in the input set"


@contextlib.contextmanager
def _toldToTheUser():
    """Our errors are sentences for the user: Scipion shows them as they are, without a traceback."""
    try:
        yield
    except DownsampleError as error:
        raise PyworkflowException(str(error)) from error


def _methodsSentence(plan, count):
    """What was done, as a sentence for a paper."""
    done = []
    if plan.recenter is not Recenter.NONE:
        how = "by whole pixels" if plan.recenter is Recenter.WHOLE_PIXELS else "with sub-pixel precision"
        done.append(f"recentred by their aligned shifts {how}")
    if plan.box_crop != plan.box_in:
        verb = "cropped" if plan.box_crop < plan.box_in else "padded with their mean"
        done.append(f"{verb} to a box of {plan.box_crop} px")
    if plan.box_out != plan.box_crop:
        done.append(f"Fourier cropped to {plan.box_out} px ({plan.apix_out:.4g} Å/px)")
    if plan.lowpass_resolution is not None:
        done.append(f"low-pass filtered at {plan.lowpass_resolution:g} Å")
    if plan.highpass_resolution is not None:
        done.append(f"high-pass filtered at {plan.highpass_resolution:g} Å")
    if plan.filtered and plan.filter_shape is FilterShape.BUTTERWORTH:
        done[-1] += f" (Butterworth, order {plan.filter_order})"
    elif plan.filtered:
        done[-1] += f" (raised cosine, {plan.filter_width:g} Fourier shells wide)"
    if plan.normalize:
        done.append(f"normalised to their background beyond {plan.background_radius_px:g} px [Scheres2012]")
    if plan.float16:
        done.append("stored in 16-bit floating point")
    actions = ", ".join(done[:-1]) + (" and " if done[:-1] else "") + done[-1]
    return (
        f"{count} particle images ({plan.box_in} px, {plan.apix_in:.4g} Å/px) were {actions} with "
        f"scipion-em-downsample {__version__} [Frigo2005] in Scipion [delaRosaTrevin2016]."
    )
