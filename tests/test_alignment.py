# SPDX-License-Identifier: GPL-3.0-or-later
import numpy as np
import pytest

from downsample_plugin.core.alignment import Reading, matrix_of_output, shift_from_matrix
from downsample_plugin.errors import DataError
from downsample_plugin.simulate import in_plane_rotation, random_rotation

RNG = np.random.default_rng(0)


def a_matrix(reading, mirror=False):
    m = np.eye(4)
    m[:3, :3] = random_rotation(RNG) if reading is Reading.PROJECTION else in_plane_rotation(0.7, mirror)
    m[:3, 3] = RNG.normal(size=3)
    return m


def test_projection_shift_by_the_definition():
    m = a_matrix(Reading.PROJECTION)
    assert shift_from_matrix(m, Reading.PROJECTION) == pytest.approx(-np.linalg.inv(m)[:3, 3])


@pytest.mark.parametrize("mirror", [False, True])
def test_2d_shifts_by_the_definition(mirror):
    m = a_matrix(Reading.SHIFT_THEN_ROTATE, mirror)
    assert np.array_equal(shift_from_matrix(m, Reading.SHIFT_THEN_ROTATE), m[:3, 3])
    s = shift_from_matrix(m, Reading.ROTATE_THEN_SHIFT)
    assert s[:2] == pytest.approx(np.linalg.inv(m[:2, :2]) @ m[:2, 3])
    assert s[2] == m[2, 3]


def test_xmipp_centres_a_blob_by_minus_the_rotated_position():
    """Measured with xmippLib: a blob at p, rotation R, is centred by the shift -R p."""
    p, rotation = np.array([5.0, -2.0]), in_plane_rotation(0.4)
    m = np.eye(4)
    m[:3, :3] = rotation
    m[:2, 3] = -rotation[:2, :2] @ p
    assert shift_from_matrix(m, Reading.ROTATE_THEN_SHIFT)[:2] == pytest.approx(-p)


@pytest.mark.parametrize("reading", list(Reading))
@pytest.mark.parametrize("mirror", [False, True])
def test_what_is_left_is_read_back(reading, mirror):
    m = a_matrix(reading, mirror)
    s, d, q = shift_from_matrix(m, reading), (3.0, -1.0), 0.4
    left = matrix_of_output(m, d, q, reading)
    assert np.array_equal(left[:3, :3], m[:3, :3])
    assert shift_from_matrix(left, reading) == pytest.approx((s - [*d, 0]) * q)


@pytest.mark.parametrize(
    "broken",
    [np.diag([1.0, 0.0, 1.0, 1.0]), np.full((4, 4), np.nan), np.diag([1.0, 1.0, np.inf, 1.0]), np.zeros((4, 4))],
)
def test_matrices_that_cannot_be_inverted(broken):
    with pytest.raises(DataError, match=r"alignment matrix: .*expected"):
        shift_from_matrix(broken, Reading.PROJECTION)
