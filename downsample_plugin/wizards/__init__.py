# SPDX-License-Identifier: GPL-3.0-or-later
"""The wizards beside the parameters of the forms: each shows what a value means before it is used."""

from __future__ import annotations

import contextlib
import dataclasses

from pwem.wizards import EmWizard
from pyworkflow.gui.dialog import showError

from ..core import checks, volume_checks
from ..core.choices import crop_choices, fourier_crop_choices, pixel_size_choices
from ..core.downsampler import downsample_images
from ..core.geometry import origin
from ..core.plan import DownsamplePlan, Recenter
from ..core.resampling import downsample_volume
from ..core.volume_plan import VolumePlan
from ..errors import DataError, DownsampleError, PlanError
from ..files.image_readers import ImageReader
from ..files.maps import MapFile
from ..files.volumes import read_volume
from ..pictures.particles import draw_image
from ..protocols import ProtDownsampleParticles, ProtDownsampleVolumes, ProtShiftParticleCenter
from ..protocols.protocol_shift_center import AXES, IN_ANGSTROMS
from ..protocols.wanted import wantedParticles
from .dialogs import CenterDialog, ChoiceDialog, FilterDialog, RadiusDialog

COARSEST_LOWPASS, COARSEST_HIGHPASS = 60.0, 1000.0  # Å, where the sliders end
OFFERED = 1000  # particles to choose from, of the first ones
LARGEST_MAP_SHOWN = 96  # voxels; a filter takes less than 0.1 s
EMPTY = ""  # in a form: one of two parameters that exclude each other gives way
USUAL_LOWPASS, USUAL_HIGHPASS = 20.0, 400.0  # Å, where they begin if no value is given


class _Wizard(EmWizard):
    """Shows a window for the form's values and puts what is chosen there into the form."""

    def show(self, form, *params):
        """Scipion's hook: the wizard's button was pressed."""
        with _shown(form):
            value = self.ask(form.root, form.protocol)
            if value is not None:
                for name, each in value.items():
                    form.setVar(name, each)


@contextlib.contextmanager
def _shown(form):
    """Errors are shown in a window."""
    try:
        yield
    except DownsampleError as error:
        showError("Wizard", str(error), form.root)


def _particlesOf(protocol):
    """The input particles; DataError if the wizard cannot work with them."""
    particles = protocol.particles()
    if not particles.exists:
        raise DataError("Input particles: none are given, but this wizard shows their values; choose them first.")
    problems = particles.imageProblems("Input particles")
    if not problems and not particles.apix:
        problems = ["Input particles: the set has no sampling rate, expected its pixel size; set it first."]
    if problems:
        raise DataError("\n".join(problems))
    return particles


def _boxPlanOf(protocol, own, **cleared):
    """The form's plan for its boxes and pixel sizes alone, with some values taken out that stand in the way.

    The field `own`, for which the wizard is, is taken out too if it makes no sense; PlanError if another does not.
    """
    if isinstance(protocol, ProtDownsampleVolumes):
        protocol.checkInput()
    else:
        _particlesOf(protocol)
    asked = protocol.plan()
    fields = {name: getattr(asked, name) for name in ("crop_size", "target_pixel_size", "fourier_crop_size")}
    plan = DownsamplePlan(asked.box_in, asked.apix_in, **{**fields, **cleared})
    if checks.impossibilities(plan):
        plan = DownsamplePlan(asked.box_in, asked.apix_in, **{**fields, **cleared, own: None})
    checks.check(plan)
    return plan


def _choose(root, title, choices, message):
    """The chosen value, or None."""
    if not choices.rows:
        raise DataError(f"{title}: no box fits the other values of the form; change those first.")
    return ChoiceDialog(root, title, choices, message).value


class Preview:
    """The first particles of a form as they would come out, with some values of it taken out.

    Attributes
    ----------
    plan : the form's, without those values
    count : number of particles
    """

    choice = "Particle"

    def __init__(self, protocol, **cleared):
        """`cleared` are fields of the plan and what is in their place. DataError if there is nothing to show."""
        particles = _particlesOf(protocol)
        self.plan = dataclasses.replace(protocol.plan(), normalize=False, float16=False, **cleared)
        checks.check(self.plan)
        alignment = protocol.alignment()
        problems = alignment.problems(self.plan.recenter is not Recenter.NONE)
        if problems:
            raise DataError("\n".join(problems))
        offered = next(wantedParticles(particles, alignment, self.plan, rows=OFFERED), None)
        if offered is None or not len(offered.places):
            raise DataError(
                f"Input particles: none of the first {OFFERED} has a usable alignment; check the input "
                "and its alignments."
            )
        self._particles = offered.forJob()
        self.count = len(offered.places)
        self.image(0)

    def image(self, number, **changed):
        """What comes out of a particle, by its number from 0, with other values in some fields of the plan."""
        chosen = self._particles
        with ImageReader() as reader:
            stack = reader.open(chosen.file_names[int(chosen.files[number])])
            image = stack.read(stack.number_of(int(chosen.image_indices[number])))
        plan = dataclasses.replace(self.plan, **changed)
        return downsample_images(image[None], plan, chosen.shifts[number : number + 1])[0][0]

    def name(self, number):
        """What that is, for people."""
        return f"particle {number + 1}"

    def draw(self, axis, number, **changed):
        """Draw that image."""
        draw_image(axis, self.image(number, **changed), self.plan.apix_out)


class MapPreview:
    """Three sections of the first volume of a form, as ``Preview`` shows particles; of coarser voxels if it is large.

    Attributes
    ----------
    plan : the form's, without those values
    count : number of sections
    """

    choice, count = "Section", 3

    def __init__(self, protocol, **cleared):
        """`cleared` are fields of the plan and what is in their place. DataError if there is nothing to show."""
        protocol.checkInput()
        self.plan = dataclasses.replace(protocol.plan(), **cleared)
        self._check(self.plan)
        box = min(self.plan.box_out, LARGEST_MAP_SHOWN)
        self._apix = self.plan.apix_out * self.plan.box_out / box
        asked = {"is_mask": self.plan.is_mask, "like_box": box, "like_apix": self._apix}
        volume = protocol.firstVolume()
        try:
            with MapFile(volume.getFileName(), volume.getIndex()) as sections:
                self._volume = downsample_volume(sections, VolumePlan(self.plan.box_in, self.plan.apix_in, **asked))
        except DataError as error:
            raise DataError(f"Input volumes, {volume.getFileName()}: {error}") from error

    def image(self, number, **changed):
        """A section through the origin, by its number from 0, with other values in some fields of the plan."""
        plan = dataclasses.replace(self.plan, **changed)
        self._check(plan)
        shown = {"box_in": len(self._volume), "apix_in": self._apix, "like_box": None, "like_apix": None}
        boxes = {"crop_size": None, "fourier_crop_size": None, "target_pixel_size": None}
        volume = downsample_volume(self._volume, dataclasses.replace(plan, **shown, **boxes))
        return volume.take(origin(len(volume)), axis=number)

    @staticmethod
    def _check(plan):
        found = volume_checks.impossibilities(plan)  # a plan that does nothing is to have a filter soon
        if found:
            raise PlanError(found)

    def name(self, number):
        """What that is, for people."""
        coarse = f" (shown at {self._apix:.4g} Å/px)" if len(self._volume) < self.plan.box_out else ""
        return f"section across {'zyx'[number]}{coarse}"

    def draw(self, axis, number, **changed):
        """Draw that section, with y or z upwards."""
        draw_image(axis, self.image(number, **changed)[::-1], self._apix)


class DownsampleCropSizeWizard(_Wizard):
    """Boxes to crop or pad to."""

    _targets = [(protocol, ["cropSize"]) for protocol in (ProtDownsampleParticles, ProtDownsampleVolumes)]

    def ask(self, root, protocol):
        """The chosen value for the form, or None."""
        plan = _boxPlanOf(protocol, "crop_size")
        message = (
            f"The input has a box of {plan.box_in} px, {plan.box_in * plan.apix_in:.0f} Å wide. Boxes with fast "
            "Fourier transforms, and the result with the other values of the form:"
        )
        value = _choose(root, "Crop / pad to box size", crop_choices(plan), message)
        return None if value is None else {"cropSize": value}


class DownsampleFourierCropSizeWizard(_Wizard):
    """Boxes of the output."""

    _targets = [(protocol, ["fourierCropSize"]) for protocol in (ProtDownsampleParticles, ProtDownsampleVolumes)]

    def ask(self, root, protocol):
        """The chosen value for the form, or None."""
        plan = _boxPlanOf(protocol, "fourier_crop_size", target_pixel_size=None)
        message = (
            f"From a box of {plan.box_crop} px at {plan.apix_in:.5g} Å/px. Boxes with fast Fourier transforms, and "
            "the result:"
        )
        value = _choose(root, "Fourier crop to box size", fourier_crop_choices(plan), message)
        return None if value is None else {"fourierCropSize": value, "targetPixelSize": EMPTY}


class DownsampleTargetPixelSizeWizard(_Wizard):
    """Pixel sizes that can really come out."""

    _targets = [(protocol, ["targetPixelSize"]) for protocol in (ProtDownsampleParticles, ProtDownsampleVolumes)]

    def ask(self, root, protocol):
        """The chosen value for the form, or None."""
        plan = _boxPlanOf(protocol, "target_pixel_size", fourier_crop_size=None)
        wanted = plan.target_pixel_size
        message = (
            f"From a box of {plan.box_crop} px at {plan.apix_in:.5g} Å/px. "
            + (f"{wanted:.5g} Å/px gives {plan.apix_out:.5g} Å/px, the selected row. " if wanted else "")
            + "All pixel sizes possible with even boxes:"
        )
        value = _choose(root, "Pixel size", pixel_size_choices(plan), message)
        return None if value is None else {"targetPixelSize": value, "fourierCropSize": EMPTY}


class DownsampleLowpassWizard(_Wizard):
    """A particle or map as it comes out, with the filter moved by a slider."""

    _targets = [(protocol, ["lowpassResolution"]) for protocol in (ProtDownsampleParticles, ProtDownsampleVolumes)]
    name, field, title = "lowpassResolution", "lowpass_resolution", "Lowpass filter"
    usual, coarsest = USUAL_LOWPASS, COARSEST_LOWPASS

    def ask(self, root, protocol):
        """The chosen value for the form, or None."""
        kind = MapPreview if isinstance(protocol, ProtDownsampleVolumes) else Preview
        preview = kind(protocol, **{self.field: None})
        wanted = getattr(protocol, self.name).get() or self.usual
        value = FilterDialog(root, self.title, preview, self.field, wanted, self.coarsest).value
        return None if value is None else {self.name: value}


class DownsampleHighpassWizard(DownsampleLowpassWizard):
    """The same for the high-pass filter."""

    _targets = [(protocol, ["highpassResolution"]) for protocol in (ProtDownsampleParticles, ProtDownsampleVolumes)]
    name, field, title = "highpassResolution", "highpass_resolution", "Highpass filter"
    usual, coarsest = USUAL_HIGHPASS, COARSEST_HIGHPASS


class DownsampleBackgroundRadiusWizard(_Wizard):
    """A circle on a particle as it comes out."""

    _targets = [(ProtDownsampleParticles, ["backRadius"])]

    def ask(self, root, protocol):
        """The chosen value for the form, or None."""
        radius = RadiusDialog(root, Preview(protocol), int(protocol.plan().background_radius_px)).value
        return None if radius is None else {"backRadius": radius}


class ParticleCenterWizard(_Wizard):
    """A point of a volume."""

    _targets = [(ProtShiftParticleCenter, list(AXES))]

    def ask(self, root, protocol):
        """The chosen values for the form, or None."""
        volume = protocol.inputVolume.get()
        if volume is None or not volume.getSamplingRate():
            raise DataError(
                "Volume or mask: none with a sampling rate is given, expected the map that the particles were "
                "aligned to, to pick a point on; connect it first."
            )
        try:
            voxels = read_volume(volume.getFileName(), volume.getIndex())
        except DataError as error:
            raise DataError(f"Volume or mask, {volume.getFileName()}: {error}") from error
        unit = 1.0 if protocol.centerUnit.get() == IN_ANGSTROMS else _particlesOf(protocol).apix
        present = [(getattr(protocol, name).get() or 0.0) * unit for name in AXES]
        point = CenterDialog(root, voxels, volume.getSamplingRate(), present).value
        return None if point is None else {name: round(value / unit, 2) for name, value in zip(AXES, point)}


__all__ = [
    "DownsampleBackgroundRadiusWizard",
    "DownsampleCropSizeWizard",
    "DownsampleFourierCropSizeWizard",
    "DownsampleHighpassWizard",
    "DownsampleLowpassWizard",
    "DownsampleTargetPixelSizeWizard",
    "ParticleCenterWizard",
]
