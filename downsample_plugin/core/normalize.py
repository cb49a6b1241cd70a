# SPDX-License-Identifier: GPL-3.0-or-later
"""Background normalisation, by RELION's definition."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from .geometry import origin


class BackgroundNormalizer:
    """Gives images a flat background of mean 0 and deviation 1.

    A plane is fitted to the pixels with ``r^2 > radius^2`` about the origin and subtracted from the whole
    image; then their mean is subtracted and the image divided by their population standard deviation
    (RELION's ``normalise`` with ramp). All sums in float64.

    Parameters
    ----------
    box : box (px) of the images
    radius : radius (px) of the circle that holds the particle, at most half the box
    """

    def __init__(self, box: int, radius: float):
        across = np.arange(box, dtype=np.float64) - origin(box)
        y, x = np.meshgrid(across, across, indexing="ij")
        self._background = x**2 + y**2 > radius**2
        plane = np.stack([np.ones_like(x), x, y], axis=-1)
        self._fit = np.linalg.pinv(plane[self._background])
        self._plane = plane
        self._radius = radius

    def __call__(self, image: NDArray[np.float32]) -> NDArray[np.float64]:
        """The normalised image, float64 of the same shape; DataError if its background is constant."""
        values = image.astype(np.float64)
        values -= self._plane @ (self._fit @ values[self._background])
        background = values[self._background]
        mean, deviation = background.mean(), background.std()
        # What float32 rounding leaves of a constant background is no noise to divide by
        if not deviation > np.finfo(np.float32).eps * np.abs(image).max():
            raise DataError(
                f"background beyond radius {self._radius:g} px: its deviation is {deviation:.3g}, expected noise "
                "to normalise by; choose another background radius, switch normalisation off or drop this particle"
            )
        values -= mean
        values /= deviation
        return values
