# SPDX-License-Identifier: GPL-3.0-or-later
"""Boxes, windows, shifts and box sizes: the whole-number side of downsampling."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

# Shifts come out of matrices and text files: a half that went through a rotation is off by some
# 1e-15 px, and must round like the half it is.
HALF_PIXEL_NOISE = 1e-9


def origin(box: int) -> int:
    """Index of the pixel that is the origin of a box of `box` pixels."""
    return box // 2


def nearest_even_box(box: int, apix: float, target_apix: float) -> int:
    """Box size whose pixel size comes nearest to a desired one, over the same field of view.

    Parameters
    ----------
    box : box size (px) before the Fourier crop
    apix : its pixel size (Å/px)
    target_apix : the desired pixel size (Å/px), not below `apix`

    Returns
    -------
    The even number nearest to ``box * apix / target_apix`` and not above `box`; of two equally near, the
    larger. `box` itself, even or odd, where the desired pixel size is the present one to 1e-6.
    """
    if math.isclose(target_apix, apix, rel_tol=1e-6):
        return box
    exact = box * apix / target_apix
    # 1e-9: an odd whole number stays the tie it is when its quotient comes out one ulp low
    nearest = 2 * math.floor(exact / 2 + 0.5 + 1e-9)
    return min(nearest, box - box % 2)


def round_half_away(value: NDArray[np.float64]) -> NDArray[np.int64]:
    """Round to whole numbers, halves away from zero (as RELION's ROUND does)."""
    magnitude = np.floor(np.abs(value) + 0.5 + HALF_PIXEL_NOISE)
    rounded: NDArray[np.int64] = (np.sign(value) * magnitude).astype(np.int64)
    return rounded


def window_slices(box_in: int, box_out: int, shift: int) -> tuple[slice, slice]:
    """Which pixels a window copies, along one axis.

    The window moves the content by `shift` pixels and keeps the origin: output pixel j takes input pixel
    ``j - box_out // 2 + box_in // 2 - shift``.

    Returns
    -------
    (input slice, output slice) of the pixels that both boxes have; both empty where the shift moves the
    input out of the window altogether. The other output pixels lie outside the input.
    """
    first = origin(box_in) - origin(box_out) - shift  # input pixel of output pixel 0
    start = min(max(0, -first), box_out)
    stop = max(min(box_out, box_in - first), start)
    if start == stop:
        return slice(0, 0), slice(0, 0)
    return slice(start + first, stop + first), slice(start, stop)


def largest_prime_factor(number: int) -> int:
    """Largest prime factor of a box size: Fourier transforms slow down where it is large."""
    largest, factor = 1, 2
    while factor * factor <= number:
        while number % factor == 0:
            largest, number = factor, number // factor
        factor += 1
    return max(largest, number)
