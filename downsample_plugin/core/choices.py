# SPDX-License-Identifier: GPL-3.0-or-later
"""What the wizards for boxes and pixel sizes offer: tables of choices with their consequences."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from . import checks
from .geometry import largest_prime_factor
from .plan import DownsamplePlan

FAST_PRIME_FACTOR = 7  # Fourier transforms of boxes without larger prime factors are fast in all programs
SMALLEST_OFFERED_BOX = 16  # px
BIN_FACTORS = (1, 2, 3, 4, 5, 6, 8)  # offered where they give a whole number of pixels
LARGEST_PADDING = 2  # boxes up to so many times the particles' are offered to pad to


class Choice(NamedTuple):
    """A row of a wizard's table: the value that it sets, and what the table shows."""

    value: float
    cells: Sequence[str]


class Choices(NamedTuple):
    """A wizard's table: names of its columns, rows, and the number of the row that is chosen at first."""

    columns: Sequence[str]
    rows: list[Choice]
    first: int


OUTPUT_COLUMNS = ("Output box (px)", "Bin factor", "Pixel size (Å/px)", "Nyquist (Å)", "Fourier transform")


def fourier_crop_choices(plan: DownsamplePlan) -> Choices:
    """Output boxes that transform fast or bin by a whole number, with what comes of them.

    Even boxes come before odd ones, which some programs cannot use. At first the one nearest to the plan's is chosen.
    """
    fast = _fast_boxes(SMALLEST_OFFERED_BOX, plan.box_crop)
    boxes = _even_first({*fast, *_binned(plan.box_crop)})
    rows = [Choice(box, _output_cells(_with_output_box(plan, box))) for box in boxes]
    return Choices(OUTPUT_COLUMNS, rows, _nearest(boxes, plan.box_out))


def pixel_size_choices(plan: DownsamplePlan) -> Choices:
    """All pixel sizes that even boxes give; at first what really comes out of the plan's desired pixel size.

    Last comes that of an odd box as it is.
    """
    every = range(SMALLEST_OFFERED_BOX, plan.box_crop + 1)
    boxes = _even_first(box for box in every if box % 2 == 0 or box == plan.box_crop)
    plans = [_with_output_box(plan, box) for box in boxes]
    rows = [Choice(each.apix_out, _output_cells(each)) for each in plans]
    return Choices(OUTPUT_COLUMNS, rows, _nearest(boxes, plan.box_out))


def crop_choices(plan: DownsamplePlan) -> Choices:
    """Boxes to crop or pad to that transform fast, with what comes of them; at first the nearest to the plan's."""
    boxes = _fast_boxes(SMALLEST_OFFERED_BOX, LARGEST_PADDING * plan.box_in)
    plans = [dataclasses.replace(plan, crop_size=box) for box in boxes]
    possible = [each for each in plans if each.box_out <= each.box_crop and each.box_out >= checks.SMALLEST_BOX]
    rows = [
        Choice(each.box_crop, (f"{each.box_crop}", f"{each.box_crop * plan.apix_in:.0f}", _verb(each), *cells))
        for each, cells in ((each, _output_cells(each)) for each in possible)
    ]
    columns = ("Crop box (px)", "Width (Å)", "Crop or pad", *OUTPUT_COLUMNS)
    return Choices(columns, rows, _nearest([each.box_crop for each in possible], plan.box_crop))


def _fast_boxes(smallest: int, largest: int) -> list[int]:
    """Even boxes without large prime factors."""
    return [box for box in range(smallest, largest + 1, 2) if largest_prime_factor(box) <= FAST_PRIME_FACTOR]


def _binned(box: int) -> list[int]:
    """What binning by whole numbers makes of a box, where that is a whole number of pixels."""
    return [box // factor for factor in BIN_FACTORS if box % factor == 0 and box // factor >= SMALLEST_OFFERED_BOX]


def _even_first(boxes: Iterable[int]) -> list[int]:
    """Even boxes, the largest first, then odd ones."""
    return sorted(boxes, key=lambda box: (box % 2, -box))


def _with_output_box(plan: DownsamplePlan, box: int) -> DownsamplePlan:
    return dataclasses.replace(plan, fourier_crop_size=box, target_pixel_size=None)


def _output_cells(plan: DownsamplePlan) -> Sequence[str]:
    factor = largest_prime_factor(plan.box_out)
    speed = "fast" if factor <= FAST_PRIME_FACTOR else f"prime factor {factor}"
    if plan.box_out % 2:
        speed += "; odd: not for RELION 3.1"
    bin_factor = f"÷{plan.box_crop / plan.box_out:.3g}"
    return f"{plan.box_out}", bin_factor, f"{plan.apix_out:.5g}", f"{plan.nyquist_resolution:.4g}", speed


def _verb(plan: DownsamplePlan) -> str:
    if plan.box_crop == plan.box_in:
        return "unchanged"
    return "crop" if plan.box_crop < plan.box_in else "pad"


def _nearest(boxes: Sequence[int], wanted: int) -> int:
    return min(range(len(boxes)), key=lambda i: abs(boxes[i] - wanted), default=0)
