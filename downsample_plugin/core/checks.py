# SPDX-License-Identifier: GPL-3.0-or-later
"""What a request is refused for, and what may surprise: the one source of these sentences.

Form, program and tests show them as they are. A refusal says what, the value, the allowed range, where the
bound comes from, and what to do.
"""

from __future__ import annotations

import math

from ..errors import PlanError
from .geometry import largest_prime_factor
from .names import FORM, Names
from .plan import DownsamplePlan, FilterShape, Recenter

SMALLEST_BOX = 8  # px; less is no image
LARGEST_BOX = 4096  # px; no particle comes near, and no more memory is given on a header's word
LARGEST_NUMBER = 1e9  # Å, Å/px, px: beyond, products overflow
FAR_OFF = 0.05  # of the desired pixel size: more is worth a question before the run
SLOW_PRIME_FACTOR = 13  # FFT libraries have their own code for factors up to here


def check(plan: DownsamplePlan) -> None:
    """Raise PlanError with all that stands in the way, if anything does."""
    found = impossibilities(plan)
    if found:
        raise PlanError(found)


def impossibilities(plan: DownsamplePlan, names: Names = FORM) -> list[str]:
    """Why this cannot be done; empty if it can. Later checks build on earlier ones."""
    return (
        _input_problems(plan, names)
        or _box_problems(plan, names)
        or _filter_problems(plan, names) + _normalize_problems(plan, names)
    )


def problems(plan: DownsamplePlan, names: Names = FORM) -> list[str]:
    """Why a user's request is refused: it cannot be done, or would do nothing; empty if it is not."""
    return impossibilities(plan, names) or _nothing_to_do(plan)


def _input_problems(plan: DownsamplePlan, names: Names) -> list[str]:
    found = []
    if not SMALLEST_BOX <= plan.box_in <= LARGEST_BOX:
        found.append(
            f"Box of the particles: got {plan.box_in} px, expected {SMALLEST_BOX} to {LARGEST_BOX} px; "
            "connect other particles."
        )
    if not positive(plan.apix_in):
        found.append(
            f"{names.apix}: got {plan.apix_in} Å/px, expected a number above 0; set the pixel size of the particles "
            "first."
        )
    return found


def _box_problems(plan: DownsamplePlan, names: Names) -> list[str]:
    if plan.target_pixel_size is not None and plan.fourier_crop_size is not None:
        return [
            f"{names.pixel_size} ({plan.target_pixel_size} Å/px) and {names.fourier_crop} ({plan.fourier_crop_size} "
            "px) are both given, expected only one of them; give one."
        ]
    if plan.crop_size is not None and not SMALLEST_BOX <= plan.crop_size <= LARGEST_BOX:
        return [
            f"{names.crop}: got {plan.crop_size} px, expected {SMALLEST_BOX} to {LARGEST_BOX} px; give a box in that "
            f"range, or {names.leave_out} to keep the box."
        ]
    return _pixel_size_problems(plan, names) or _fourier_crop_problems(plan, names)


def _pixel_size_problems(plan: DownsamplePlan, names: Names) -> list[str]:
    target = plan.target_pixel_size
    if target is None:
        return []
    what = f"{names.pixel_size}: got {target} Å/px, expected "
    if not positive(target):
        return [what + f"a number above 0; give a pixel size in Å/px or {names.leave_out}."]
    if target < plan.apix_in and not math.isclose(target, plan.apix_in, rel_tol=1e-6):
        return [
            what + f"{plan.apix_in:.5g} Å/px or more (the pixel size of the input: downsampling cannot add detail); "
            "give a larger pixel size."
        ]
    if plan.box_out < SMALLEST_BOX:
        return [
            what + f"at most {plan.apix_in * plan.box_crop / SMALLEST_BOX:.5g} Å/px (an output box of "
            f"{SMALLEST_BOX} px); give a smaller pixel size."
        ]
    return []


def _fourier_crop_problems(plan: DownsamplePlan, names: Names) -> list[str]:
    if SMALLEST_BOX <= plan.box_out <= plan.box_crop:
        return []
    return [
        f"{names.fourier_crop}: got {plan.box_out} px, expected {SMALLEST_BOX} to {plan.box_crop} px (the box after "
        "cropping: downsampling cannot add detail); give a box in that range."
    ]


def _filter_problems(plan: DownsamplePlan, names: Names) -> list[str]:
    found = []
    for name, resolution in (
        (names.lowpass, plan.lowpass_resolution),
        (names.highpass, plan.highpass_resolution),
    ):
        if resolution is not None and not positive(resolution):
            found.append(
                f"{name}: got {resolution} Å, expected a number above 0; give a resolution in Å or {names.leave_out}."
            )
    if found:
        return found
    field_of_view = plan.box_crop * plan.apix_in
    if plan.lowpass_resolution is not None and plan.lowpass_resolution > field_of_view:
        found.append(
            f"{names.lowpass}: got {plan.lowpass_resolution:g} Å, expected at most {field_of_view:.5g} Å (the width "
            "of the box: nothing but the mean would remain); give a resolution in Å, such as 8."
        )
    if plan.highpass_resolution is not None:
        finest = max(plan.nyquist_resolution, plan.lowpass_resolution or 0)
        if plan.highpass_resolution <= finest:
            found.append(
                f"{names.highpass}: got {plan.highpass_resolution} Å, expected more than {finest:.5g} Å (the finest "
                "detail that the output pixel size or the lowpass keeps: nothing would remain); give a larger "
                "number, such as 200."
            )
    if plan.filtered and plan.filter_shape is FilterShape.BUTTERWORTH and not 1 <= plan.filter_order <= 1000:
        found.append(f"Filter order: got {plan.filter_order}, expected 1 to 1000; 8 is usual.")
    if plan.filtered and plan.filter_shape is FilterShape.RAISED_COSINE and not positive(plan.filter_width):
        found.append(f"Filter width: got {plan.filter_width} Fourier shells, expected a number above 0; 2 is usual.")
    return found


def _normalize_problems(plan: DownsamplePlan, names: Names) -> list[str]:
    if not plan.normalize:
        return []
    radius = plan.background_radius_px
    if positive(radius) and radius <= plan.box_out / 2:
        return []
    return [
        f"{names.background_radius}: got {radius:g} px, expected more than 0 and at most {plan.box_out / 2:g} px "
        "(half the output box: the background is what lies outside this circle); give a radius in output pixels, or "
        "-1 for half the output box."
    ]


def _nothing_to_do(plan: DownsamplePlan) -> list[str]:
    if (
        plan.box_crop != plan.box_in
        or plan.box_out != plan.box_crop
        or plan.recenter is not Recenter.NONE
        or plan.filtered
        or plan.normalize
        or plan.float16
    ):
        return []
    return [
        f"Nothing to do: the particles would not change ({plan.box_in} px, {plan.apix_in:.5g} Å/px); give a box to "
        "crop to, a pixel size or a Fourier crop box, a filter, or switch on recentring, normalisation or 16-bit "
        "output."
    ]


def warnings(plan: DownsamplePlan, names: Names = FORM, normalised: bool = True) -> list[str]:
    """What may surprise, for a plan without problems: lines for a summary.

    `normalised`: whether the images may have a background of deviation 1.
    """
    return (
        resolution_warnings(plan, names)
        + (_deviation_warning(plan, names) if normalised else [])
        + _float16_warning(plan)
    )


def resolution_warnings(plan: DownsamplePlan, names: Names = FORM) -> list[str]:
    """What may surprise of the output's box, pixel size and resolution."""
    return (
        _pixel_size_warning(plan) + _odd_box_warning(plan, names) + _prime_warning(plan) + _lowpass_warning(plan, names)
    )


def questions(plan: DownsamplePlan, normalised: bool) -> list[str]:
    """Those of the warnings that one would want to stop for before a run: something is off.

    `normalised`: whether the images have been found to have a background of deviation 1.
    """
    asked = plan.target_pixel_size
    is_far_off = asked is not None and abs(plan.apix_out - asked) >= FAR_OFF * asked
    is_odd_by_choice = (plan.fourier_crop_size or plan.crop_size or 0) % 2 == 1
    is_other_box = plan.box_out != plan.box_in
    return (
        (_pixel_size_warning(plan) if is_far_off else [])
        + (_odd_box_warning(plan, FORM) if is_odd_by_choice else [])
        + (_prime_warning(plan) if is_other_box else [])
        + _lowpass_warning(plan, FORM)
        + (_deviation_warning(plan, FORM) if normalised else [])
    )


def _odd_box_warning(plan: DownsamplePlan, names: Names) -> list[str]:
    if plan.box_out % 2 == 0:
        return []
    return [
        f"Box of the output: {plan.box_out} px is odd. RELION 3.1 reconstructs wrong maps from odd boxes, without any "
        f"warning; for RELION, choose an even box with {names.fourier_crop} or {names.crop}."
    ]


def _pixel_size_warning(plan: DownsamplePlan) -> list[str]:
    target = plan.target_pixel_size
    if target is None or math.isclose(target, plan.apix_out, rel_tol=1e-4):
        return []
    return [
        f"Pixel size: {target:.5g} Å/px was requested; the output has {plan.apix_out:.5g} Å/px, the nearest value "
        f"that an even box ({plan.box_out} px) with the same field of view allows."
    ]


def _prime_warning(plan: DownsamplePlan) -> list[str]:
    return [
        f"Box of {box} px has the prime factor {largest_prime_factor(box)}: its Fourier transforms are slow, here and "
        "in later programs. Boxes with no prime factors other than 2, 3, 5 and 7 are fast."
        for box in sorted({plan.box_crop, plan.box_out})
        if largest_prime_factor(box) > SLOW_PRIME_FACTOR
    ]


def _lowpass_warning(plan: DownsamplePlan, names: Names) -> list[str]:
    resolution = plan.lowpass_resolution
    if resolution is None or resolution > plan.nyquist_resolution:
        return []
    return [
        f"{names.lowpass}: {resolution:.4g} Å is not coarser than the output's Nyquist limit of "
        f"{plan.nyquist_resolution:.4g} Å, so the filter has almost no effect."
    ]


def _deviation_warning(plan: DownsamplePlan, names: Names) -> list[str]:
    if plan.normalize or plan.box_out == plan.box_crop:
        return []
    return [
        "Standard deviation: averaging pixels reduces the noise. Images normalised to 1 end up with about "
        f"{plan.scale:.2g}, and RELION warns about such images. To get back to 1, {names.do_normalize}."
    ]


def _float16_warning(plan: DownsamplePlan) -> list[str]:
    if not plan.float16:
        return []
    return [
        "16-bit floating point (MRC mode 12): read by RELION 4 and later, cryoSPARC, cryoDRGN and Scipion's own "
        "viewers; not by RELION 3.1, EMAN2 before 2.99, or Xmipp programs that rewrite the images. The rounding "
        "error is about 2e-4 of the images' standard deviation."
    ]


def positive(number: float) -> bool:
    """Whether a number is above 0 and no product of it overflows."""
    return 0 < number < LARGEST_NUMBER  # never for one that is none
