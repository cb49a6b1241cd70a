# SPDX-License-Identifier: GPL-3.0-or-later
"""The protocol "downsample volumes": maps and masks that fit downsampled particles, and back."""

from __future__ import annotations

import enum
import os
import time

from pwem.objects import SetOfVolumes, Volume, VolumeMask
from pyworkflow.protocol import params
from pyworkflow.utils import prettySize

from ..core import volume_checks
from ..core.volume_plan import VolumePlan
from ..errors import DataError
from ..pictures.maps import MapSample, draw_map_result
from .base import PluginProtocol
from .form_downsample import FILTER_SHAPES, defineBox, defineFilters
from .messages import emptyProblems, toldToTheUser
from .particles import InputParticles
from .volumes_made import VolumesMade, boxLike, boxOf, methodsSentence


class VolumeOutputs(enum.Enum):
    """What the protocol makes: one of these, of the kind of its input."""

    outputVolume = Volume
    outputMask = VolumeMask
    outputVolumes = SetOfVolumes


class ProtDownsampleVolumes(PluginProtocol):
    """Downsample volumes: bring maps and masks to the box and pixel size of downsampled particles, and back.

    3D classification and refinement need the reference and the mask to have the box, pixel size and origin of the
    particles. A mask that was made on a small map is brought back to full size in the same way. The output is of the
    same kind as the input: a volume with its half maps, a mask, or a set of volumes.
    """

    _label = "downsample volumes"
    _possibleOutputs = VolumeOutputs

    # --------------------------- form -----------------------------------------------
    def _defineParams(self, form):
        form.addSection(label="Input")
        form.addParam(
            "inputVolumes",
            params.PointerParam,
            pointerClass="Volume,VolumeMask,SetOfVolumes",
            important=True,
            label="Input volumes",
            help="The volume, mask or set of volumes to downsample. Half maps are downsampled too. The output is of "
            "the same kind. A mask is padded with 0 and stays between 0 and 1; a volume is padded with the mean "
            "of the outermost layer of its box. Grey values keep their scale.",
        )
        form.addParam(
            "likeParticles",
            params.PointerParam,
            pointerClass="SetOfParticles,Volume,VolumeMask",
            allowsNull=True,
            label="Particles or volume to fit",
            help="The output gets their box and pixel size, about the same origin. Choose downsampled particles to "
            "make a reference or a mask for them; choose a full-size map or full-size particles to bring back a "
            "mask that was made on a small map. Their pixel size may be finer than that of the volume; this "
            "adds voxels, but no detail. Give this, or a box or pixel size under _Downsampling_, not both.",
        )
        form.addSection(label="Downsampling")
        defineBox(form)
        form.getParam("cropSize").help.set(
            "Box size, in input pixels, to crop the volumes to before anything else; the pixel size does not change. "
            "If it is larger than the input box, the volumes are padded. Empty: keep the box.\n"
            "If the particles were cropped, give the same box; or use _Particles or volume to fit_ instead."
        )
        defineFilters(form)
        form.getParam("highpassResolution").help.set(
            "Remove variation slower than this; this also removes the mean. The gain is 1/2 at this resolution. "
            "Rarely useful for a reference, and not possible for a mask. Empty: no filter. Example: 400"
        )

    # --------------------------- steps ----------------------------------------------
    def _insertAllSteps(self):
        # Quick, so it is simply done again on "continue", whatever has changed
        self._insertFunctionStep(self.createOutputStep, time.time(), needsGPU=False)

    def createOutputStep(self, launched):
        """Make the output and say what was done."""
        with toldToTheUser():
            plan = self.plan()
            volume_checks.check(plan)
            work = VolumesMade(plan, self._getExtraPath(), self.info)
            output = self._newSet(work) if self._isSet() else work.newVolume(self.inputVolumes.get(), 1)
        self._drawResult(work)
        self.describeRun(self._describe(work), methodsSentence(plan, work.count))
        self._defineOutputs(**{self.outputName(): output})
        self._defineTransformRelation(self.inputVolumes, output)

    def _newSet(self, work):
        """The set of what comes of all enabled volumes of the input set."""
        source = self.inputVolumes.get()
        output = source.getClass().create(self._getPath())
        output.copyInfo(source)
        output.setSamplingRate(work.plan.apix_out)
        volumes = [volume.clone() for volume in source.iterItems() if volume.isEnabled()]
        work.checkAll(volumes)
        for volume in volumes:
            new = work.newVolume(volume, volume.getObjId())
            new.setObjId(volume.getObjId())
            output.append(new)
        if not volumes:
            raise DataError("Input volumes: none are enabled, expected one or more; enable some.")
        return output

    def _drawResult(self, work):
        """Draw the result picture of the first volume. A run is not to fail for it, whatever goes wrong with fonts."""
        try:
            volume, path = work.first
            sample = MapSample.of_files(work.plan, volume.getFileName(), volume.getIndex(), path)
            draw_map_result(self.picturePath(), sample, os.path.basename(volume.getFileName()))
        except Exception as error:
            self.warning(f"The result picture could not be drawn ({error!r}); the volumes are not affected.")

    def pairOf(self, number):
        """A volume of the input and what came of it; of a set those of a number, from 1. DataError if there is none."""
        source, output = self.inputVolumes.get(), getattr(self, self.outputName())
        if not self._isSet():
            return source, output
        made = [volume.clone() for volume in output.iterItems()]
        if not (number and 1 <= number <= len(made)):
            raise DataError(f"Volume: got {number}, expected 1 to {len(made)} (the volumes of the output)")
        return source[made[number - 1].getObjId()].clone(), made[number - 1]

    # --------------------------- info -----------------------------------------------
    def _validate(self):
        if self.inputVolumes.get() is None:
            return []  # pyworkflow says so
        problems = emptyProblems(self) or self._inputProblems()
        if problems:
            return problems
        try:
            return volume_checks.problems(self.plan())
        except DataError as error:
            return [str(error)]

    def _inputProblems(self):
        source = self.inputVolumes.get()
        if self._isSet() and source.isEmpty():
            return ["Input volumes: the set is empty, expected one or more volumes; connect another set."]
        if not source.getSamplingRate():
            return ["Input volumes: the sampling rate is missing, expected the voxel size; set it first."]
        like = self.likeParticles.get()
        if self.likeParticles.hasValue() and like is None:
            return [
                "Particles or volume to fit: they do not exist yet, expected a finished output; run the protocol "
                "that creates them first."
            ]
        if like is not None and not isinstance(like, Volume):
            problems = InputParticles(like).imageProblems("Particles or volume to fit")
            if problems:
                return problems
        if like is not None and not like.getSamplingRate():
            return [
                "Particles or volume to fit: the sampling rate is missing, expected their pixel size; set it first."
            ]
        return []

    def checkInput(self):
        """Raise DataError if there is no input to show boxes for."""
        if self.inputVolumes.get() is None:
            raise DataError("Input volumes: none are given, but this wizard shows their values; choose them first.")
        problems = self._inputProblems()
        if problems:
            raise DataError("\n".join(problems))

    def _warnings(self):
        if self.inputVolumes.get() is None or self._validate():
            return []
        return volume_checks.warnings(self.plan())

    def summaryBefore(self):
        """The summary while there is no output."""
        if self.inputVolumes.get() is None or self._validate():
            return ["Output volumes not ready yet."]
        return [f"Planned: {self.plan().summary()}"]

    def _citations(self):
        return ["delaRosaTrevin2016"]

    def _describe(self, work):
        noun = "mask" if work.plan.is_mask else "volume"
        yield f"{work.count} {noun}{'s' if work.count > 1 else ''}: {work.plan.summary()}"
        if work.halfMaps:
            yield f"{work.halfMaps} half maps as well"
        if self.likeParticles.hasValue():
            yield f"Box and pixel size of {self.getObjectTag('likeParticles')}"
        yield f"On disk: {prettySize(work.bytes)}"

    # --------------------------- from the form --------------------------------------
    def _isSet(self):
        return isinstance(self.inputVolumes.get(), SetOfVolumes)

    def outputName(self):
        """What the output is called, by the kind of the input."""
        source = self.inputVolumes.get()
        for output in (VolumeOutputs.outputVolumes, VolumeOutputs.outputMask):
            if isinstance(source, output.value):
                return output.name
        return VolumeOutputs.outputVolume.name

    def firstVolume(self):
        """The input volume, or the first of several."""
        source = self.inputVolumes.get()
        return source.getFirstItem() if self._isSet() else source

    def plan(self):
        """The request of the form, for the input; DataError if a file of it cannot be read."""
        source, like = self.inputVolumes.get(), self.likeParticles.get()
        return VolumePlan(
            box_in=boxOf(self.firstVolume(), "Input volumes"),
            apix_in=source.getSamplingRate(),
            crop_size=self.cropSize.get(),
            target_pixel_size=self.targetPixelSize.get(),
            fourier_crop_size=self.fourierCropSize.get(),
            lowpass_resolution=self.lowpassResolution.get(),
            highpass_resolution=self.highpassResolution.get(),
            filter_shape=FILTER_SHAPES[self.filterShape.get()],
            filter_order=self.filterOrder.get(),
            filter_width=self.filterWidth.get(),
            like_box=None if like is None else boxLike(like),
            like_apix=None if like is None else like.getSamplingRate(),
            is_mask=isinstance(source, VolumeMask),
        )
