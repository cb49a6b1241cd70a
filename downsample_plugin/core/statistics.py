# SPDX-License-Identifier: GPL-3.0-or-later
"""What the header of a stack says of its pixels."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

# Of the pixels of one image; not finite where a pixel is not
_FIELDS = ("smallest", "largest", "mean", "variance")
STATISTICS = np.dtype([(name, "f8") for name in _FIELDS])

FAINT = 1e-30  # mean square; below, squares of float32 lose digits or vanish


def image_statistics(images: NDArray[np.float32]) -> NDArray[np.void]:
    """Statistics of contiguous images (count, rows, columns): (count,) of STATISTICS.

    Sums along rows are in float32, whose roundings a whole image evens out, and sums of those in float64. Where
    that does not do, for contrast on a large offset and for extremes of float32, all is in float64, which takes four
    times as long.
    """
    count, height, width = images.shape
    pixels = images.reshape(count, height * width)
    smallest, largest = np.minimum.reduce(pixels, axis=1), np.maximum.reduce(pixels, axis=1)
    # Row by row: a product of all rows at once would sum in another order for another number of images
    sums = np.empty((2, count, height, 1, 1), dtype=np.float32)
    rows = images[:, :, None, :]
    np.matmul(rows, np.ones((width, 1), dtype=np.float32), out=sums[0])
    np.matmul(rows, images[:, :, :, None], out=sums[1])
    means, squares = (sums.sum(axis=(2, 3, 4), dtype=np.float64) / pixels.shape[1]).tolist()
    found = []
    for place, (mean, square) in enumerate(zip(means, squares)):
        variance = square - mean * mean
        if not (mean * mean < variance and FAINT < square < math.inf):
            mean, variance = _exactly(pixels[place])
        found.append((smallest[place], largest[place], mean, variance))
    return np.array(found, dtype=STATISTICS)


def _exactly(pixels: NDArray[np.float32]) -> tuple[float, float]:
    """Mean and variance of pixels, in float64."""
    values = pixels.astype(np.float64)
    mean = values.sum() / values.size
    values -= mean
    return float(mean), float(values @ values) / values.size
