# SPDX-License-Identifier: GPL-3.0-or-later
"""The protocol "move particle center": a point of the reference becomes its origin."""

from __future__ import annotations

import numpy as np
from pwem.constants import ALIGN_PROJ
from pyworkflow.protocol import params
from pyworkflow.protocol.constants import LEVEL_ADVANCED

from .. import __version__
from ..core.alignment import Convention, shifts_of, translations_about_point
from ..core.geometry import origin
from ..errors import DataError
from ..files.volumes import center_of_mass, read_volume
from ..words import counted
from .alignments import MATRIX, OwnAlignment
from .left_out import LeftOut, othersThan, withoutUse
from .messages import emptyProblems
from .one_step import OneStepProtocol
from .set_columns import tableOf, textsMoved
from .set_writer import SetWriter

FROM_POINT, FROM_VOLUME = range(2)
IN_ANGSTROMS, IN_PIXELS = range(2)
# What a point's height along the beam, towards the electron source, changes the defocus by: factors of the height
DEFOCUS_CHANGES = [0, -1, 1]
_DEFOCUS, _RATIO = ("_ctfModel._defocusU", "_ctfModel._defocusV"), "_ctfModel._defocusRatio"
AXES = ("xCenter", "yCenter", "zCenter")


class ProtShiftParticleCenter(OneStepProtocol):
    """Move particle center: shift the origin of all particles to a point of the reference, in their alignments only.

    This is the first step towards sub-particles (subparticles, localized reconstruction): run "downsample particles"
    on the output to recenter (recentre) the images on that point and crop them to the size of the part. Each particle
    then becomes a sub-particle (subparticle) around the point; after symmetry expansion, it gives one for each copy.
    """

    _label = "move particle center"
    keepsImages = True
    namesOfPlaces = ("old center", "new center")

    # --------------------------- form -----------------------------------------------
    def _defineParams(self, form):
        form.addSection(label="Input")
        form.addParam(
            "inputParticles",
            params.PointerParam,
            pointerClass="SetOfParticles",
            pointerCondition="hasAlignmentProj",
            important=True,
            label="Input particles",
            help="Particles aligned to a 3D reference; they may be symmetry-expanded. Only their alignments change. "
            "To move the images as well, run _downsample particles_ on the output, with _Recenter using aligned "
            "shifts_ and a crop box large enough for the part; this moves the coordinates too.",
        )
        form.addParam(
            "centerFrom",
            params.EnumParam,
            choices=["point", "volume"],
            default=FROM_POINT,
            display=params.EnumParam.DISPLAY_HLIST,
            label="New center from",
            help="_point_: enter it, or pick it with the wizard.\n"
            "_volume_: the centre of mass of a volume or mask, such as a mask around the part you want to study.",
        )
        form.addParam(
            "inputVolume",
            params.PointerParam,
            pointerClass="Volume,VolumeMask",
            allowsNull=True,
            label="Volume or mask",
            help="It must match the box and frame of the reference that the particles were aligned to; its pixel "
            "size may differ. With _volume_, its centre of mass is the new centre. With _point_, it is only "
            "shown by the wizard.",
        )
        form.addParam(
            "volumeThreshold",
            params.FloatParam,
            default=0.0,
            condition=f"centerFrom == {FROM_VOLUME}",
            label="Density threshold",
            help="Voxels at or below this value are ignored; those above it are weighted by their value. 0 suits a "
            "mask. For a map, give the level at which you display it, so that noise does not pull the centre to "
            "the middle of the box.",
        )
        line = form.addLine(
            "New center",
            condition=f"centerFrom == {FROM_POINT}",
            help="The point relative to the origin of the reference, which is voxel B // 2 of a box of B voxels "
            "(that voxel is 0, 0, 0). A point 40 Å to the right of the centre, seen along z, is 40, 0, 0. The "
            "wizard picks it on _Volume or mask_.",
        )
        for name in AXES:
            line.addParam(name, params.FloatParam, default=0.0, label=name[0].upper())
        form.addParam(
            "centerUnit",
            params.EnumParam,
            choices=["Å", "px"],
            default=IN_ANGSTROMS,
            display=params.EnumParam.DISPLAY_HLIST,
            condition=f"centerFrom == {FROM_POINT}",
            label="Unit",
            help="Unit of the new centre: Å, or pixels of the input particles.",
        )
        form.addParam(
            "excludeOutside",
            params.BooleanParam,
            default=False,
            label="Leave out what lies outside the box",
            help="A point far from the origin may project outside a particle's box, where there is no image. _Yes_: "
            "such particles are left out. _No_: they are kept. The summary says how many there are.",
        )
        form.addParam(
            "defocusByHeight",
            params.EnumParam,
            choices=["no", "lower towards the source", "higher towards the source"],
            default=0,
            expertLevel=LEVEL_ADVANCED,
            label="Move defocus by height",
            help="A part that lies higher in the ice than the particle's origin has a different defocus. The height "
            "is the z coordinate of the point after the particle's rotation, in Å.\n"
            "_lower towards the source_: the height is subtracted from defocus U and V, as in localrec; correct "
            "if the reference has the correct hand and z points towards the electron source.\n"
            "_higher towards the source_: it is added; correct if the hand is inverted.\n"
            "At 300 kV, a height of 50 Å changes the phase at 3 Å by 20°.",
        )
        form.addParallelSection(threads=0, mpi=0)

    # --------------------------- steps ----------------------------------------------
    def makeOutput(self):
        """The particles with the alignment to the new centre, and what to say of them."""
        particles, point = self.particles(), self.newCenter()
        mover = _Mover(
            self.alignment(),
            point / particles.apix,
            particles.box(),
            self.excludeOutside.get(),
            DEFOCUS_CHANGES[self.defocusByHeight.get()] * particles.apix,
            LeftOut(self._getExtraPath()),
        )
        output = particles.newOutput(self._getPath())
        mover.fill(output, particles)
        mover.leftOut.close(output)
        return output, self._describe(output, point, mover)

    def relate(self, output):
        """The output is the input, aligned about another point."""
        self._defineTransformRelation(self.inputParticles, output)

    def alignment(self):
        """The alignment of the input particles."""
        return OwnAlignment(self.particles(), None)

    def newCenter(self):
        """The new centre (x, y, z) in Å from the reference's origin; DataError if the volume does not give it."""
        if self.centerFrom.get() == FROM_VOLUME:
            volume = self.inputVolume.get()
            try:
                voxels = read_volume(volume.getFileName(), volume.getIndex())
                return center_of_mass(voxels, self.volumeThreshold.get()) * volume.getSamplingRate()
            except DataError as error:
                raise DataError(f"Volume or mask, {volume.getFileName()}: {error}") from error
        point = np.array([getattr(self, name).get() for name in AXES])
        return point if self.centerUnit.get() == IN_ANGSTROMS else point * self.particles().apix

    # --------------------------- info -----------------------------------------------
    def _validate(self):
        particles = self.particles()
        if not particles.exists:
            return []  # pyworkflow says so
        problems = emptyProblems(self) or particles.imageProblems("Input particles")
        if problems:
            return problems
        if particles.alignment != ALIGN_PROJ:
            problems.append(
                f"Input particles: they have alignment '{particles.alignment}', expected '{ALIGN_PROJ}'; connect "
                "particles that were aligned to a 3D reference."
            )
        if not particles.apix:
            problems.append("Input particles: the set has no sampling rate, expected its pixel size; set it first.")
        if self.centerFrom.get() == FROM_VOLUME:
            volume = self.inputVolume.get()
            if volume is None:
                problems.append("Volume or mask: none is given, expected one to find the centre of; connect one.")
            elif not volume.getSamplingRate():
                problems.append("Volume or mask: it has no sampling rate, expected its voxel size; set it first.")
            if not np.isfinite(self.volumeThreshold.get()):
                problems.append("Density threshold: it is not finite, expected a level of the map; give a number.")
        elif not all(np.isfinite(getattr(self, name).get()) for name in AXES):
            problems.append("New center: it is not finite, expected a point; give numbers.")
        return problems

    def _warnings(self):
        if not self.particles().exists or self._validate():
            return []
        half = self.particles().box() * self.particles().apix / 2
        try:
            distance = np.linalg.norm(self.newCenter())
        except DataError as error:
            return [str(error)]
        if distance <= half:
            return []
        return [
            f"New center: it is {distance:.4g} Å from the origin, more than half the particles' box ({half:.4g} Å), "
            "so it lies outside the images of many particles; check the point and its unit, or leave these particles "
            "out."
        ]

    def methodsSentence(self, count):
        """What was done to so many particles, as a sentence for a paper."""
        particles = counted(count, "particle")
        return (
            f"The origin of {particles} was moved to a point of the reference, as in localized reconstruction "
            f"[Ilca2015], with scipion-em-downsample {__version__} in Scipion [delaRosaTrevin2016]."
        )

    def _citations(self):
        return ["delaRosaTrevin2016", "Ilca2015"]

    def _describe(self, output, point, mover):
        x, y, z = point
        count = counted(output.getSize(), "particle")
        yield f"{count} aligned about the point ({x:.4g}, {y:.4g}, {z:.4g}) Å of the reference"
        if mover.outside and not mover.excludes:
            yield f"For {mover.outside} of them, the point lies outside the box"
        if self.defocusByHeight.get():
            yield f"Defocus changed by the height of the point: {self.getEnumText('defocusByHeight')}"
        yield from mover.leftOut.describe("(no usable alignment, or the point outside the box)")


class _Mover:
    """Moves the centre of particles; counts those where the point is `outside` the box."""

    def __init__(self, alignment, point, box, excludes, defocusChange, leftOut):
        """`point` in px of the particles, `defocusChange` in Å per px of height."""
        self._alignment, self._point, self._box = alignment, point, box
        self._defocusChange = defocusChange
        self.excludes, self.leftOut = excludes, leftOut
        self.outside = 0

    def fill(self, output, particles):
        """Append the enabled ones of InputParticles to an output set, with their centres moved."""
        with SetWriter(output, lambda item: None) as writer:
            for images in particles.sets():
                table = tableOf(images)
                for block in table.blocks((MATRIX, *_DEFOCUS), "enabled=1"):
                    writer.append(images, *self._move(table, block))

    def _move(self, table, block):
        """Ids of the particles of a Block that stay, and what changes of them: {label: values}."""
        aligned = self._alignment.of(block)
        moved = aligned.matrices.copy()
        moved[:, :3, 3] = translations_about_point(aligned.matrices, self._point)
        shifts, newShifts = (shifts_of(matrices, Convention.PROJECTION) for matrices in (aligned.matrices, moved))
        reasons = {**withoutUse(aligned, shifts), **self._outside(newShifts)}
        self.leftOut.add(table, block.ids, reasons)
        kept = np.flatnonzero(othersThan(reasons, len(block)))
        changes = {MATRIX: textsMoved([aligned.texts[place] for place in kept.tolist()], moved[kept, :3, 3])}
        if self._defocusChange:
            changes.update(self._defocus(table, block, (shifts - newShifts)[:, 2], kept))
        return block.ids[kept], changes

    def _outside(self, shifts):
        """{place: why} of particles to be left out because the new centre is not in their boxes; counts all such."""
        places = origin(self._box) - shifts[:, :2]  # where the point stands
        outside = np.flatnonzero(((places < -0.5) | (places >= self._box - 0.5)).any(axis=1)).tolist()
        self.outside += len(outside)
        if not self.excludes:
            return {}
        return {
            place: "the new centre projects to pixel ({:.1f}, {:.1f}) of a box of {} px".format(
                *places[place], self._box
            )
            for place in outside
        }

    def _defocus(self, table, block, heights, kept):
        """What changes of the CTF by the heights (n,) of the point: {label: values}."""
        u, v = (block.floats(label) + self._defocusChange * heights for label in _DEFOCUS)
        with np.errstate(divide="ignore"):
            values = u, v, u / v
        return {label: of[kept] for label, of in zip((*_DEFOCUS, _RATIO), values) if label in table}
