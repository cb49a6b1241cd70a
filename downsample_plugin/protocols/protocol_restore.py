# SPDX-License-Identifier: GPL-3.0-or-later
"""The protocol "restore full-size particles": the way back from downsampled particles."""

from __future__ import annotations

from pwem.constants import ALIGN_2D, ALIGN_3D, ALIGN_NONE
from pyworkflow.protocol import params

from .. import __version__
from ..errors import DataError
from ..words import counted
from .alignments import CONVENTIONS_2D, OwnAlignment, addConventionParam
from .applied_twice import shiftsAppliedTwice
from .left_out import LeftOut
from .messages import emptyProblems
from .one_step import OneStepProtocol
from .particles import PARTICLES_OR_CLASSES, InputParticles
from .restoring import Restored, missingFiles, missingProblem
from .way_back import WayBack, nameOf

_QUICK = 1000  # files to look for before a run; in the run they are looked for in any case


class ProtRestoreFullSize(OneStepProtocol):
    """Restore full-size particles: unbin, that is go back from downsampled (binned) particles to the original images.

    Downsample, classify, select, refine; then take the particles that are left at full size, with the alignment
    that was found on the small images. There is no need to re-extract them, nor to find them by their coordinates.
    Shifts are scaled to the full-size pixels, and what recentring (recentering) has moved the images by is put back,
    so that nothing is applied twice or lost.
    """

    _label = "restore full-size particles"
    namesOfPlaces = ("downsampled particles", "full-size particles")

    # --------------------------- form -----------------------------------------------
    def _defineParams(self, form):
        form.addSection(label="Input")
        form.addParam(
            "inputParticles",
            params.PointerParam,
            pointerClass=PARTICLES_OR_CLASSES,
            important=True,
            label="Input particles",
            help="The small particles as they are now: downsampled particles, or 2D or 3D classes of them, after any "
            "number of other protocols (classification, selection, refinement, join, symmetry expansion), or after a "
            "trip through another program and an import. Of classes, the particles in all enabled classes are taken. "
            "Their alignment is what the full-size particles get.",
        )
        form.addParam(
            "downsampled",
            params.PointerParam,
            pointerClass="SetOfParticles",
            important=True,
            label="Downsampled particles",
            help="The output of the run of _downsample particles_ that the input particles come from. It has recorded "
            "what it did to each particle, and knows the full-size ones. Where its own input had been downsampled "
            "before, the way back leads through that run too, to the original particles.",
        )
        form.addParam(
            "fullSizeParticles",
            params.PointerParam,
            pointerClass="SetOfParticles",
            allowsNull=True,
            label="Full-size particles",
            help="Optional. The particles to go back to, instead of those that were downsampled: such as the same "
            "particles after polishing, or the output of the first of two downsample runs. They must have the same "
            "ids as those; their pixel size may be another.",
        )
        addConventionParam(form)
        form.addParallelSection(threads=0, mpi=0)

    # --------------------------- steps ----------------------------------------------
    def makeOutput(self):
        """The full-size particle of each input particle with the new alignment, and what to say of it."""
        way, alignment, leftOut = self._wayBack(), self.alignment(), LeftOut(self._getExtraPath())
        restored = Restored(self.particles(), way, alignment, leftOut)
        missing = missingFiles(restored.files)
        if missing:
            raise DataError(missingProblem(missing, len(restored.files)))
        output = way.fullSize.newOutput(self._getPath())
        if alignment.kind != ALIGN_NONE:
            output.setAlignment(alignment.kind)
        restored.fill(output)
        leftOut.close(output)
        return output, self._describe(output, restored, way.fullSize.apix, alignment, leftOut)

    def relate(self, output):
        """The output comes from all that is connected."""
        for source in (self.inputParticles, self.downsampled, self.fullSizeParticles):
            if source.hasValue():
                self._defineSourceRelation(source, output)

    # --------------------------- info -----------------------------------------------
    def _validate(self):
        if not self.particles().exists or not self.downsampled.hasValue():
            return []  # pyworkflow says so
        problems = emptyProblems(self)
        inputs = {"Input particles": self.particles(), "Downsampled particles": self._small()}
        if self.fullSizeParticles.hasValue():
            inputs["Full-size particles"] = self._fullSize()
        for label, particles in inputs.items():
            if not particles.exists:
                problems.append(f"{label}: the set is not there yet, expected a finished output; run what makes it.")
            elif particles.first() is None:
                problems.append(f"{label}: the set is empty, expected one particle or more; connect another set.")
            elif not particles.apix:
                problems.append(f"{label}: the set has no sampling rate, expected its pixel size; set it first.")
        if not problems and self.alignment().kind == ALIGN_3D:
            problems.append(
                "Input particles: they carry alignment '3D', which is for volumes, expected 2D or projection "
                "alignment, or none; connect particles."
            )
        if problems:
            return problems
        way = self._wayBack()
        if way.problems or len(way.files) > _QUICK:
            return way.problems
        missing = missingFiles(way.files)
        return [missingProblem(missing, len(way.files))] if len(missing) == len(way.files) else []

    def _warnings(self):
        if not self.particles().exists or not self.downsampled.hasValue() or self._validate():
            return []
        files = self._wayBack().files
        missing = missingFiles(files) if len(files) <= _QUICK else []  # of particles that are in the input, or not
        warnings = [missingProblem(missing, len(files))] if missing else []
        return warnings + shiftsAppliedTwice(self.particles(), self.alignment(), "Input particles")

    def methodsSentence(self, count):
        """What was done to so many particles, as a sentence for a paper."""
        particles = counted(count, "downsampled particle")
        return (
            f"The alignment of {particles} was carried over to full "
            f"size with scipion-em-downsample {__version__} in Scipion [delaRosaTrevin2016]."
        )

    def _citations(self):
        return ["delaRosaTrevin2016"]

    def _describe(self, output, restored, apix, alignment, leftOut):
        warnings = list(leftOut.warn(output.getSize() + leftOut.count))
        warnings += restored.appliedTwice.describe("Input particles")
        for line in warnings:
            self.warning(line)
        yield from warnings
        count = counted(output.getSize(), "particle")
        yield f"{count} at full size: pixel size {self.particles().apix:.5g} → {apix:.5g} Å/px"
        yield f"Through {' and '.join(map(nameOf, restored.runs)) or 'the shifts recorded on them'}"
        if restored.byId:
            yield f"{restored.byId} of them by their ids, since another protocol has written their images again"
        if restored.byPlace:
            yield (
                f"{restored.byPlace} of them by their places in the micrographs, since their images were written again "
                "and their records are lost"
            )
        if alignment.kind == ALIGN_NONE:
            yield "The input particles have no alignment: that of the full-size particles stays"
        elif alignment.kind == ALIGN_2D:
            yield f"Alignment from {alignment.describe()}"
            yield from alignment.caution(output)
        if restored.isExpanded:
            yield "Several entries per particle: they keep the ids of the input; _fullSizeId tells the particle's own"
        yield from leftOut.describe("that cannot be found")

    # --------------------------- from the form --------------------------------------
    def _small(self):
        return InputParticles(self.downsampled.get())

    def alignment(self):
        """The alignment of the input particles."""
        return OwnAlignment(self.particles(), CONVENTIONS_2D[self.alignment2DConvention.get()])

    def _fullSize(self):
        return InputParticles(self.fullSizeParticles.get())

    def _wayBack(self):
        return WayBack(self.getProject(), self.particles(), self._small(), self._fullSize())
