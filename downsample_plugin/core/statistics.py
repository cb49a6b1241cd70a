# SPDX-License-Identifier: GPL-3.0-or-later
"""What the header of a stack says of its pixels."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class ImageStatistics(NamedTuple):
    """Of the pixels of one image, as stored; not finite where a pixel is not. Sums in float64."""

    smallest: float
    largest: float
    mean: float
    variance: float


def image_statistics(image: NDArray[np.generic], scratch: NDArray[np.float64]) -> ImageStatistics:
    """Statistics of an image; `scratch` is memory of its shape, which is overwritten."""
    np.copyto(scratch, image)
    values = scratch.reshape(-1)
    mean = float(values.sum()) / values.size
    variance = max(float(values @ values) / values.size - mean**2, 0.0)
    fast = image if image.dtype == np.float32 else scratch  # float16 is slow to compare
    return ImageStatistics(float(fast.min()), float(fast.max()), mean, variance)
