# SPDX-License-Identifier: GPL-3.0-or-later
"""What the header of a stack says of its pixels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# Of the pixels of one image; not finite where a pixel is not
_FIELDS = ("smallest", "largest", "mean", "variance")
STATISTICS = np.dtype([(name, "f8") for name in _FIELDS])


def image_statistics(images: NDArray[np.float32], scratch: NDArray[np.float64]) -> NDArray[np.void]:
    """Statistics of images (count, rows, columns), sums in float64: (count,) of STATISTICS.

    `scratch` is memory for one image or more (…, rows, columns), which is overwritten: so many are done at once.
    """
    found = np.empty((len(images), len(_FIELDS)))
    at_once = len(scratch)
    for start in range(0, len(images), at_once):
        pixels = images[start : start + at_once].reshape(-1, scratch[0].size)
        values = scratch[: len(pixels)].reshape(pixels.shape)
        np.copyto(values, pixels)
        rows = found[start : start + at_once]
        pixels.min(axis=1, out=rows[:, 0])
        pixels.max(axis=1, out=rows[:, 1])
        rows[:, 2] = means = values.sum(axis=1) / values.shape[1]
        squares = np.matmul(values[:, None, :], values[:, :, None])[:, 0, 0] / values.shape[1]
        np.maximum(squares - means * means, 0.0, out=rows[:, 3])
    return found.view(STATISTICS)[:, 0]
