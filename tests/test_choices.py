# SPDX-License-Identifier: GPL-3.0-or-later
"""What the wizards offer for boxes and pixel sizes."""

import pytest

from downsample_plugin.core.choices import crop_choices, fourier_crop_choices, pixel_size_choices
from downsample_plugin.core.plan import DownsamplePlan

PLAN = DownsamplePlan(320, 1.31, target_pixel_size=3.0)


def factors(number):
    for prime in (2, 3, 5, 7):
        while number % prime == 0:
            number //= prime
    return number


def test_output_boxes():
    choices = fourier_crop_choices(PLAN)
    boxes = [row.value for row in choices.rows]
    assert all(box % 2 == 0 and box <= 320 and factors(box) == 1 for box in boxes)
    assert {16, 64, 128, 144, 256, 320} <= set(boxes)
    assert not {122, 134, 286} & set(boxes)
    assert choices.rows[choices.first].value == 140
    assert choices.rows[choices.first].cells == ("140", "÷2.29", "2.9943", "5.989", "fast")


def test_even_boxes_come_first_and_whole_bin_factors_are_among_them():
    choices = fourier_crop_choices(DownsamplePlan(405, 1.31))
    boxes = [row.value for row in choices.rows]
    assert boxes == sorted(boxes, key=lambda box: (box % 2, -box))
    assert boxes[-3:] == [405, 135, 81]
    by_box = {row.value: row.cells for row in choices.rows}
    assert by_box[135][1] == "÷3"
    assert "odd: not for RELION 3.1" in by_box[135][-1]
    assert {row.value: row.cells[1] for row in fourier_crop_choices(PLAN).rows}[160] == "÷2"
    assert pixel_size_choices(DownsamplePlan(405, 1.31)).rows[-1].cells[0] == "405"
    assert "" not in crop_choices(PLAN).columns


def test_pixel_sizes_are_those_that_come_out():
    choices = pixel_size_choices(PLAN)
    chosen = choices.rows[choices.first]
    assert chosen.value == PLAN.apix_out
    for row in choices.rows:
        again = DownsamplePlan(320, 1.31, target_pixel_size=row.value)
        assert again.apix_out == row.value
        assert str(again.box_out) == row.cells[0]


@pytest.mark.parametrize("box", [319, 320])
def test_crop_boxes(box):
    plan = DownsamplePlan(box, 1.31, crop_size=250, fourier_crop_size=100)
    choices = crop_choices(plan)
    boxes = [row.value for row in choices.rows]
    assert boxes[choices.first] == 250
    assert min(boxes) == 100  # the output box is not to be larger
    assert 600 <= max(boxes) <= 2 * box
    for row in choices.rows:
        assert row.cells[2] == ("crop" if row.value < box else "unchanged" if row.value == box else "pad")
        assert row.cells[3] == "100"
        assert float(row.cells[5]) == pytest.approx(1.31 * row.value / 100, rel=1e-4)


def test_small_boxes_have_choices_or_none():
    assert fourier_crop_choices(DownsamplePlan(12, 1.0)).rows == []
    assert pixel_size_choices(DownsamplePlan(16, 1.0)).rows[0].value == 1.0
