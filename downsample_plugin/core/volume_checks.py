# SPDX-License-Identifier: GPL-3.0-or-later
"""What a request for maps and masks is refused for, and what may surprise: the one source of these sentences."""

from __future__ import annotations

from ..errors import PlanError
from . import checks
from .checks import SMALLEST_BOX
from .names import FORM, Names
from .plan import DownsamplePlan
from .volume_plan import VolumePlan

LARGEST_VOLUME_BOX = 2048  # px; 32 GB


def check(plan: VolumePlan, names: Names = FORM) -> None:
    """Raise PlanError with all that a request is refused for, if anything."""
    found = problems(plan, names)
    if found:
        raise PlanError(found)


def problems(plan: VolumePlan, names: Names = FORM) -> list[str]:
    """Why a request is refused: it cannot be done, or would do nothing; empty if it is not."""
    return impossibilities(plan, names) or _nothing_to_do(plan)


def impossibilities(plan: VolumePlan, names: Names = FORM) -> list[str]:
    """Why this cannot be done; empty if it can. Later checks build on earlier ones."""
    return _input_problems(plan) or _size_problems(plan, names) or _other_problems(plan, names)


def warnings(plan: VolumePlan, names: Names = FORM) -> list[str]:
    """What may surprise, for a plan without problems."""
    return checks.resolution_warnings(plan, names) + _finer_warning(plan)


def _input_problems(plan: VolumePlan) -> list[str]:
    found = []
    if not SMALLEST_BOX <= plan.box_in <= LARGEST_VOLUME_BOX:
        found.append(
            f"Box of the volume: got {plan.box_in} px, expected {SMALLEST_BOX} to {LARGEST_VOLUME_BOX} px; "
            "give another volume."
        )
    if not checks.positive(plan.apix_in):
        found.append(
            f"Sampling rate of the volume: got {plan.apix_in} Å/px, expected a number above 0; "
            "set the pixel size of the volume first."
        )
    return found


def _size_problems(plan: VolumePlan, names: Names) -> list[str]:
    if plan.like_box is None:
        if plan.crop_size is not None and plan.crop_size > LARGEST_VOLUME_BOX:
            return [
                f"{names.crop}: got {plan.crop_size} px, expected {SMALLEST_BOX} to {LARGEST_VOLUME_BOX} px; give a "
                f"box in that range, or {names.leave_out} to keep the box."
            ]
        return []
    if (plan.crop_size, plan.target_pixel_size, plan.fourier_crop_size) != (None, None, None):
        return [
            f"{names.like}: given together with a box or a pixel size, expected only one of them; give one or the "
            "other."
        ]
    return _like_problems(plan.like_box, plan, names)


def _like_problems(like_box: int, plan: VolumePlan, names: Names) -> list[str]:
    what = f"{names.like}: "
    if not checks.positive(plan.apix_out):
        return [f"{what}got {plan.like_apix} Å/px, expected a number above 0; set their pixel size first."]
    if not SMALLEST_BOX <= like_box <= LARGEST_VOLUME_BOX:
        return [f"{what}got a box of {like_box} px, expected {SMALLEST_BOX} to {LARGEST_VOLUME_BOX} px; give others."]
    if plan.box_crop < SMALLEST_BOX:
        return [
            f"{what}their box is {like_box * plan.apix_out:.4g} Å wide, expected at least {SMALLEST_BOX} voxels of the "
            f"volume ({SMALLEST_BOX * plan.apix_in:.4g} Å); check the pixel sizes."
        ]
    return []


def _other_problems(plan: VolumePlan, names: Names) -> list[str]:
    if plan.is_mask and plan.highpass_resolution is not None:
        return [
            f"{names.highpass}: got {plan.highpass_resolution:g} Å, expected none for a mask (only its edge would "
            f"remain); {names.leave_out}."
        ]
    return checks.impossibilities(plan if plan.like_box is None else _filters_of(plan), names)


def _filters_of(plan: VolumePlan) -> DownsamplePlan:
    """The filters of a plan that fits others, for a box of the output's: nothing else is left to check."""
    return DownsamplePlan(
        plan.box_out,
        plan.apix_out,
        lowpass_resolution=plan.lowpass_resolution,
        highpass_resolution=plan.highpass_resolution,
        filter_shape=plan.filter_shape,
        filter_order=plan.filter_order,
        filter_width=plan.filter_width,
    )


def _nothing_to_do(plan: VolumePlan) -> list[str]:
    if plan.resampled or plan.box_out != plan.box_in or plan.filtered or plan.float16:
        return []
    return [
        f"Nothing to do: the volume would not change ({plan.box_in} px, {plan.apix_in:.5g} Å/px); give particles or a "
        "volume to fit, a box to crop to, a pixel size or a Fourier crop box, or a filter."
    ]


def _finer_warning(plan: VolumePlan) -> list[str]:
    if plan.step >= 1 - 1e-6:
        return []
    return [
        f"Pixel size: the output is finer ({plan.apix_out:.5g} Å/px) than the volume ({plan.apix_in:.5g} Å/px); it "
        f"holds no detail beyond the volume's own Nyquist limit of {2 * plan.apix_in:.4g} Å."
    ]
