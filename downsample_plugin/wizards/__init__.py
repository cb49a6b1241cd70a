# SPDX-License-Identifier: GPL-3.0-or-later
"""The wizards beside the parameters of the forms: each shows what a value means before it is used."""

from __future__ import annotations

import contextlib

from pwem.wizards import EmWizard
from pyworkflow.gui.dialog import showError

from ..core import checks
from ..core.choices import crop_choices, fourier_crop_choices, pixel_size_choices
from ..core.plan import DownsamplePlan
from ..errors import DataError, DownsampleError
from ..files.volumes import read_volume
from ..protocols import ProtDownsampleParticles, ProtDownsampleVolumes, ProtShiftParticleCenter
from ..protocols.protocol_shift_center import AXES, IN_ANGSTROMS
from .dialogs import CenterDialog, ChoiceDialog, FilterDialog, RadiusDialog
from .previews import MapPreview, Preview, particlesOf

COARSEST_LOWPASS, COARSEST_HIGHPASS = 60.0, 1000.0  # Å, where the sliders end
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


def _boxPlanOf(protocol, own, **cleared):
    """The form's plan for its boxes and pixel sizes alone, with some values taken out that stand in the way.

    The field `own`, for which the wizard is, is taken out too if it makes no sense; PlanError if another does not.
    """
    if isinstance(protocol, ProtDownsampleVolumes):
        protocol.checkInput()
    else:
        particlesOf(protocol)
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
        unit = 1.0 if protocol.centerUnit.get() == IN_ANGSTROMS else particlesOf(protocol).apix
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
