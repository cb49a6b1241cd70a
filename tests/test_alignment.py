# SPDX-License-Identifier: GPL-3.0-or-later
import numpy as np
import pytest

from downsample_plugin.core.alignment import (
    Convention,
    matrix_problem,
    shifts_of,
    translations_about_point,
    translations_of_full_size,
    translations_of_output,
)
from downsample_plugin.simulate import in_plane_rotation, random_rotation

RNG = np.random.default_rng(0)


def shift_of(matrix, convention):
    (shift,) = shifts_of(matrix[None], convention)
    return shift


def a_matrix(convention, mirror=False):
    m = np.eye(4)
    m[:3, :3] = random_rotation(RNG) if convention is Convention.PROJECTION else in_plane_rotation(0.7, mirror)
    m[:3, 3] = RNG.normal(size=3)
    return m


def test_projection_shift_by_the_definition():
    m = a_matrix(Convention.PROJECTION)
    assert shift_of(m, Convention.PROJECTION) == pytest.approx(-np.linalg.inv(m)[:3, 3])


@pytest.mark.parametrize("mirror", [False, True])
def test_2d_shifts_by_the_definition(mirror):
    m = a_matrix(Convention.SHIFT_THEN_ROTATE, mirror)
    assert np.array_equal(shift_of(m, Convention.SHIFT_THEN_ROTATE), m[:3, 3])
    s = shift_of(m, Convention.ROTATE_THEN_SHIFT)
    assert s[:2] == pytest.approx(np.linalg.inv(m[:2, :2]) @ m[:2, 3])
    assert s[2] == m[2, 3]


def test_xmipp_centres_a_blob_by_minus_the_rotated_position():
    """Measured with xmippLib: a blob at p, rotation R, is centred by the shift -R p."""
    p, rotation = np.array([5.0, -2.0]), in_plane_rotation(0.4)
    m = np.eye(4)
    m[:3, :3] = rotation
    m[:2, 3] = -rotation[:2, :2] @ p
    assert shift_of(m, Convention.ROTATE_THEN_SHIFT)[:2] == pytest.approx(-p)


@pytest.mark.parametrize("convention", list(Convention))
@pytest.mark.parametrize("mirror", [False, True])
def test_what_is_left_is_read_back(convention, mirror):
    m = a_matrix(convention, mirror)
    s, d, q = shift_of(m, convention), (3.0, -1.0), 0.4
    left = m.copy()
    (left[:3, 3],) = translations_of_output(m[None], [d], q, convention)
    assert shift_of(left, convention) == pytest.approx((s - [*d, 0]) * q)
    (back,) = translations_of_full_size(left[None], [d], q, convention)
    assert back == pytest.approx(m[:3, 3])


def test_many_at_once_are_as_each_alone():
    matrices = np.stack([a_matrix(Convention.PROJECTION) for _ in range(20)])
    d = RNG.normal(size=(20, 2))
    shifts = shifts_of(matrices, Convention.PROJECTION)
    translations = translations_of_output(matrices, d, 0.5, Convention.PROJECTION)
    for i in range(20):
        assert np.array_equal(shift_of(matrices[i], Convention.PROJECTION), shifts[i])
        assert np.array_equal(
            translations_of_output(matrices[i][None], d[i], 0.5, Convention.PROJECTION)[0], translations[i]
        )


def test_a_point_takes_the_place_of_the_origin():
    """p stands at A^-1 (p - t) from the origin of the image."""
    m, p = a_matrix(Convention.PROJECTION), np.array([3.0, -2.0, 5.0])
    stands_at = np.linalg.inv(m[:3, :3]) @ (p - m[:3, 3])
    moved = m.copy()
    (moved[:3, 3],) = translations_about_point(m[None], p)
    assert shift_of(moved, Convention.PROJECTION) == pytest.approx(-stands_at)


@pytest.mark.parametrize(
    "broken",
    [np.diag([1.0, 0.0, 1.0, 1.0]), np.full((4, 4), np.nan), np.diag([1.0, 1.0, np.inf, 1.0]), np.zeros((4, 4))],
)
def test_matrices_that_cannot_be_inverted(broken):
    good = a_matrix(Convention.PROJECTION)
    shifts = shifts_of(np.stack([good, broken, good]), Convention.PROJECTION)
    assert [bool(np.isfinite(shift).all()) for shift in shifts] == [True, False, True]
    assert "alignment matrix: " in str(matrix_problem(broken))
    assert ", expected" in str(matrix_problem(broken))
