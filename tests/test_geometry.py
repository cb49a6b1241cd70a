# SPDX-License-Identifier: GPL-3.0-or-later
import numpy as np
import pytest

from downsample_plugin.core.downsampler import split_shift
from downsample_plugin.core.geometry import largest_prime_factor, nearest_even_box, round_half_away, window_slices
from downsample_plugin.core.plan import Recenter


@pytest.mark.parametrize(
    "box, apix, target, expected",
    [
        (320, 1.31, 3.0, 140),  # 139.7
        (255, 1.1, 3.3, 86),  # 85 exactly, though 255 * 1.1 / 3.3 is not in floating point: a tie, the larger
        (510, 0.55, 3.3, 86),
        (256, 1.0, 1.0, 256),
        (255, 1.0, 1.0, 255),  # the same pixel size keeps an odd box
        (255, 1.0, 1.0000005, 255),
        (255, 1.0, 1.001, 254),  # nearest even, not above the box
        (256, 1.0, 1.003, 256),  # 255.2: nearest is 256
        (100, 1.0, 2.0, 50),
    ],
)
def test_nearest_even_box(box, apix, target, expected):
    assert nearest_even_box(box, apix, target) == expected


def test_rounding_is_half_away_from_zero():
    values = np.array([0.5, -0.5, 1.5, -1.5, 2.5, 2.4999, -2.5, 0.0, 2.5 - 1e-12])
    assert round_half_away(values).tolist() == [1, -1, 2, -2, 3, 2, -3, 0, 3]


@pytest.mark.parametrize("shift", [(2.5, -3.49), (0.0, 7.75), (-0.5, 0.5)])
def test_shifts_are_split_without_a_rest(shift):
    whole = split_shift(shift, Recenter.WHOLE_PIXELS)
    assert np.array_equal(whole.applied, np.sign(shift) * np.floor(np.abs(shift) + 0.5))
    exact = split_shift(shift, Recenter.EXACT)
    assert np.array_equal(exact.applied, shift)
    assert np.abs(exact.fraction).max() <= 0.5
    assert np.array_equal(split_shift(shift, Recenter.NONE).applied, (0, 0))


@pytest.mark.parametrize("box_in", [7, 8])
@pytest.mark.parametrize("box_out", [4, 5, 7, 8, 12, 13])
@pytest.mark.parametrize("shift", range(-30, 31))
def test_window_slices_against_the_definition(box_in, box_out, shift):
    taken, placed = window_slices(box_in, box_out, shift)
    pairs = list(zip(range(box_in)[taken], range(box_out)[placed]))
    expected = [
        (j - box_out // 2 + box_in // 2 - shift, j)
        for j in range(box_out)
        if 0 <= j - box_out // 2 + box_in // 2 - shift < box_in
    ]
    assert pairs == expected


def test_largest_prime_factor():
    assert [largest_prime_factor(n) for n in (1, 2, 8, 98, 254, 360, 397)] == [1, 2, 2, 7, 127, 5, 397]
