# SPDX-License-Identifier: GPL-3.0-or-later
"""Shifts in and out of alignment matrices.

Scipion keeps one 4x4 matrix M = [A | t] per particle. All readings come down to ``t = B s``: s is the shift
that brings the particle to the origin, B the part of M that acts on it before it is stored in the last column.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError

Matrix = NDArray[np.float64]


class Reading(str, Enum):
    """How a matrix holds the shift s of its particle."""

    PROJECTION = "projection"  #: s = -translation(inverse(M)); all Scipion plugins agree
    SHIFT_THEN_ROTATE = "shift then rotate"  #: 2D, s = translation(M); RELION, cryoSPARC, pwem
    ROTATE_THEN_SHIFT = "rotate then shift"  #: 2D, s = A^-1 translation(M), A 2x2 with mirror; Xmipp


def shift_from_matrix(matrix: Matrix, reading: Reading) -> Matrix:
    """The shift (sx, sy, sz), in the pixels of the matrix, that brings the particle to the origin.

    Raises
    ------
    DataError if the matrix is singular or not finite.
    """
    _check(matrix)
    basis = _shift_basis(matrix, reading)
    try:
        shift: Matrix = np.linalg.solve(basis, matrix[:3, 3])
    except np.linalg.LinAlgError:
        shift = np.full(3, np.nan)
    if not np.all(np.isfinite(shift)):
        raise DataError(
            f"alignment matrix: its rotation {np.round(matrix[:3, :3], 4).tolist()} is singular, expected a "
            "rotation that can be inverted; repeat the alignment or leave this particle out"
        )
    return shift


def matrix_of_output(matrix: Matrix, applied: Sequence[float], scale: float, reading: Reading) -> Matrix:
    """The same rotation (and mirror) with the shift that is left: ``(s - d) * scale``, in the same reading.

    Parameters
    ----------
    matrix : (4, 4), in input pixels
    applied : d = (dx, dy), what the content of the image was moved by, in input pixels
    scale : output pixels per input pixel; a shift along z is scaled by it too
    """
    d = np.array([*applied, 0.0])
    changed = matrix.copy()
    changed[:3, 3] = scale * (matrix[:3, 3] - _shift_basis(matrix, reading) @ d)
    return changed


def matrix_of_full_size(matrix: Matrix, applied: Sequence[float], scale: float, reading: Reading) -> Matrix:
    """The way back: the same rotation (and mirror) with the shift ``s / scale + d``, in the same reading.

    Parameters
    ----------
    matrix : (4, 4), in pixels of the downsampled image
    applied : d = (dx, dy), what its content was moved by, in pixels of the full-size image
    scale : pixels of the downsampled image per pixel of the full-size one
    """
    return matrix_of_output(matrix, [-scale * d for d in applied], 1 / scale, reading)


def matrix_about_point(matrix: Matrix, point: Sequence[float]) -> Matrix:
    """The alignment to the same reference with its origin moved to a point, for the projection reading.

    A point p of the reference stands at ``A^-1 (p - t)`` from the origin of the image; p is to take the place of
    the reference's origin, so t becomes ``t - p``.

    Parameters
    ----------
    matrix : (4, 4), M = [A | t]
    point : (x, y, z) from the reference's origin, in the pixels of the matrix
    """
    changed = matrix.copy()
    changed[:3, 3] -= point
    return changed


def _shift_basis(matrix: Matrix, reading: Reading) -> Matrix:
    basis = np.eye(3)
    if reading is Reading.PROJECTION:
        basis = matrix[:3, :3]
    elif reading is Reading.ROTATE_THEN_SHIFT:
        basis[:2, :2] = matrix[:2, :2]
    return basis


def _check(matrix: Matrix) -> None:
    if matrix.shape != (4, 4) or not np.all(np.isfinite(matrix)):
        raise DataError(
            f"alignment matrix: got {matrix.tolist()}, expected 4x4 finite numbers; "
            "repeat the alignment or leave this particle out"
        )
