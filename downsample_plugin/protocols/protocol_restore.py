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
    """Restore full-size particles: unbin, that is, go back from downsampled (binned) particles to the original images.

    After downsampling, classification, selection and refinement, get the remaining particles back at full size, with
    the alignment that was found on the small images. There is no need to re-extract them or to match coordinates.
    Shifts are scaled to full-size pixels, and the shift that recentring (recentering) applied to the images is added
    back, so that no shift is lost or applied twice.
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
            help="The small particles in their current state: downsampled particles, or 2D or 3D classes of them, "
            "after any other protocols (classification, selection, refinement, join, symmetry expansion), or "
            "exported to another program and imported again. From classes, the particles of all enabled classes "
            "are used. The full-size particles get the alignment of these particles.",
        )
        form.addParam(
            "downsampled",
            params.PointerParam,
            pointerClass="SetOfParticles",
            important=True,
            label="Downsampled particles",
            help="The output of the _downsample particles_ run that the input particles come from. That run recorded "
            "what it did to each particle, and which full-size particle it came from. If its own input had been "
            "downsampled before, the particles are traced back through that run too, to the original ones.",
        )
        form.addParam(
            "fullSizeParticles",
            params.PointerParam,
            pointerClass="SetOfParticles",
            allowsNull=True,
            label="Full-size particles",
            help="Optional. The particles to go back to, instead of those that were downsampled, such as the same "
            "particles after polishing, or the output of the first of two downsampling runs. They must have the "
            "same ids; their pixel size may differ.",
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
                problems.append(
                    f"{label}: the set does not exist yet, expected a finished output; run the protocol "
                    "that creates it first."
                )
            elif particles.first() is None:
                problems.append(f"{label}: the set is empty, expected one or more particles; connect another set.")
            elif not particles.apix:
                problems.append(f"{label}: the set has no sampling rate, expected its pixel size; set it first.")
        if not problems and self.alignment().kind == ALIGN_3D:
            problems.append(
                "Input particles: their alignment is '3D', which is for volumes, expected 2D or projection "
                "alignment, or none; connect other particles."
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
            f"The alignment of {particles} was transferred to the full-size images with scipion-em-downsample "
            f"{__version__} in Scipion [delaRosaTrevin2016]."
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
        yield f"Traced back through {' and '.join(map(nameOf, restored.runs)) or 'the shifts recorded on them'}"
        if restored.byId:
            yield f"{restored.byId} of them found by their ids, since another protocol has rewritten their images"
        if restored.byPlace:
            yield (
                f"{restored.byPlace} of them found by their positions in the micrographs, since their images were "
                "rewritten and their records are lost"
            )
        if alignment.kind == ALIGN_NONE:
            yield "The input particles have no alignment: the full-size particles keep theirs"
        elif alignment.kind == ALIGN_2D:
            yield f"Alignment from {alignment.describe()}"
            yield from alignment.caution(output)
        if restored.isExpanded:
            yield (
                "Several entries per particle: they keep the ids of the input; _fullSizeId holds the full-size "
                "particle's id"
            )
        yield from leftOut.describe("that could not be found")

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
