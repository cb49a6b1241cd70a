# SPDX-License-Identifier: GPL-3.0-or-later
"""Shifts in and out of alignment matrices, many at once.

Scipion keeps one 4x4 matrix M = [A | t] per particle. All conventions come down to ``t = B s``: s is the shift
that brings the particle to the origin, B the part of M that acts on it before it is stored in the last column.
"""

from __future__ import annotations

from enum import Enum

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import DataError

Matrices = NDArray[np.float64]


class Convention(str, Enum):
    """How a matrix holds the shift s of its particle."""

    PROJECTION = "projection"  #: s = -translation(inverse(M)); all Scipion plugins agree
    SHIFT_THEN_ROTATE = "shift then rotate"  #: 2D, s = translation(M); RELION, cryoSPARC, pwem
    ROTATE_THEN_SHIFT = "rotate then shift"  #: 2D, s = A^-1 translation(M), A 2x2 with mirror; Xmipp


def shifts_of(matrices: Matrices, convention: Convention) -> Matrices:
    """The shifts (count, 3), (sx, sy, sz), in the pixels of the matrices, that bring the particles to the origin.

    Not finite where a matrix (count, 4, 4) is singular or not finite; ``matrix_problem`` says so of one.
    """
    basis, translations = _shift_basis(matrices, convention), matrices[:, :3, 3]
    a, b, c = basis[:, :, 0], basis[:, :, 1], basis[:, :, 2]
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        adjugate = np.stack([np.cross(b, c), np.cross(c, a), np.cross(a, b)], axis=1)
        determinants = (a * adjugate[:, 0]).sum(axis=1)
        shifts: Matrices = np.matmul(adjugate, translations[:, :, None])[:, :, 0] / determinants[:, None]
        shifts[~np.isfinite(matrices).all(axis=(1, 2))] = np.nan
    return shifts


def matrix_problem(matrix: Matrices) -> DataError:
    """Why a matrix gives no shift: it is singular or not finite."""
    if matrix.shape != (4, 4) or not np.all(np.isfinite(matrix)):
        return DataError(
            f"alignment matrix: got {matrix.tolist()}, expected 4x4 finite numbers; repeat the alignment or remove "
            "this particle from the input"
        )
    return DataError(
        f"alignment matrix: its rotation {np.round(matrix[:3, :3], 4).tolist()} is singular, expected an invertible "
        "rotation; repeat the alignment or remove this particle from the input"
    )


def translations_of_output(matrices: Matrices, applied: ArrayLike, scale: float, convention: Convention) -> Matrices:
    """The translations (count, 3) that hold the shifts that are left, ``(s - d) * scale``, in the same convention.

    Rotations (and mirrors) stay as they are.

    Parameters
    ----------
    matrices : (count, 4, 4), in input pixels
    applied : (count, 2), d = (dx, dy), what the content of each image was moved by, in input pixels
    scale : output pixels per input pixel; shifts along z are scaled by it too
    """
    d = np.zeros((len(matrices), 3))
    d[:, :2] = applied
    moved = np.matmul(_shift_basis(matrices, convention), d[:, :, None])[:, :, 0]
    translations: Matrices = scale * (matrices[:, :3, 3] - moved)
    return translations


def translations_of_full_size(matrices: Matrices, applied: ArrayLike, scale: float, convention: Convention) -> Matrices:
    """The way back: the translations (count, 3) that hold ``s / scale + d``, in the same convention.

    Parameters
    ----------
    matrices : (count, 4, 4), in pixels of the downsampled images
    applied : (count, 2), d = (dx, dy), what their contents were moved by, in pixels of the full-size images
    scale : pixels of the downsampled images per pixel of the full-size ones
    """
    return translations_of_output(matrices, -scale * np.asarray(applied), 1 / scale, convention)


def translations_about_point(matrices: Matrices, point: ArrayLike) -> Matrices:
    """The translations (count, 3) of the alignment to the same reference with its origin moved to a point.

    For the projection convention. A point p of the reference stands at ``A^-1 (p - t)`` from the origin of the
    image; p is to take the place of the reference's origin, so t becomes ``t - p``.

    Parameters
    ----------
    matrices : (count, 4, 4), M = [A | t]
    point : (x, y, z) from the reference's origin, in the pixels of the matrices
    """
    translations: Matrices = matrices[:, :3, 3] - np.asarray(point, dtype=np.float64)
    return translations


def _shift_basis(matrices: Matrices, convention: Convention) -> Matrices:
    """B of each matrix, (count, 3, 3)."""
    if convention is Convention.PROJECTION:
        return matrices[:, :3, :3]
    basis = np.zeros((len(matrices), 3, 3))
    basis[:] = np.eye(3)
    if convention is Convention.ROTATE_THEN_SHIFT:
        basis[:, :2, :2] = matrices[:, :2, :2]
    return basis
