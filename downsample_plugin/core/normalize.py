# SPDX-License-Identifier: GPL-3.0-or-later
"""Background normalisation, by RELION's definition."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from .geometry import origin


def background_deviation(image: NDArray[np.generic]) -> float:
    """Population standard deviation of an image (B, B), of any real dtype, outside the circle of half its box."""
    across = np.arange(len(image)) - origin(len(image))
    background = across[:, None] ** 2 + across**2 > (len(image) / 2) ** 2
    return float(image[background].std(dtype=np.float64))


class BackgroundNormalizer:
    """Gives images a flat background of mean 0 and deviation 1.

    A plane is fitted to the pixels with ``r^2 > radius^2`` about the origin and subtracted from the whole
    image, which leaves their mean at 0; then the image is divided by their population standard deviation
    (RELION's ``normalise`` with ramp). All sums in float64.

    Parameters
    ----------
    box : box (px) of the images
    radius : radius (px) of the circle that holds the particle, at most half the box
    """

    def __init__(self, box: int, radius: float):
        across = np.arange(box, dtype=np.float64) - origin(box)
        inside = across[:, None] ** 2 + across**2 <= radius**2
        self._background = np.where(inside, 0.0, 1.0)
        self._terms = np.stack([np.ones(box), across], axis=1)  # 1 and the coordinate, down an axis
        # Sums over the background of the products of the plane's terms 1, x, y
        one = self._background
        x, y = one * across, one * across[:, None]
        sums = [self._sums(term) for term in (one, x, y)]
        self._fit = np.linalg.inv(sums)
        self._count = one.sum()
        self._radius = radius
        self._values, self._other = np.empty((box, box)), np.empty((box, box))

    def __call__(self, image: NDArray[np.float32], level: float = 0.0) -> None:
        """Normalise an image (box, box) in place; DataError if its background is constant.

        `level` is the size of what was taken away from the image before: noise of its rounding is none.
        """
        values, other = self._values, self._other
        np.copyto(values, image)
        at_origin, slope_x, slope_y = self._fit @ self._sums(np.multiply(values, self._background, out=other))
        plane = np.matmul(self._terms @ [[at_origin, slope_x], [slope_y, 0.0]], self._terms.T, out=other)
        values -= plane
        pixels = np.multiply(values, self._background, out=other).reshape(-1)
        deviation = np.sqrt((pixels @ pixels) / self._count)
        # What float32 rounding leaves of a constant background is no noise to divide by
        if not deviation > np.finfo(np.float32).eps * max(image.max(), -image.min(), level):
            raise DataError(
                f"background outside radius {self._radius:g} px: its standard deviation is {deviation:.3g}, expected "
                "noise to normalise by; choose another background radius, switch normalisation off or remove this "
                "particle from the input"
            )
        values *= 1 / deviation
        np.copyto(image, values, casting="same_kind")

    def _sums(self, image: NDArray[np.float64]) -> list[float]:
        """Sums of an image, of the image times x, and of the image times y."""
        (total, times_x), (times_y, _) = self._terms.T @ (image @ self._terms)
        return [total, times_x, times_y]
