# SPDX-License-Identifier: GPL-3.0-or-later
"""Radial power spectra: how strong images are at each resolution."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class RadialPower:
    """The mean power spectrum of images (B, B), in shells of one Fourier pixel from 1 to ``B // 2``.

    The power is a density: the mean of ``|F|^2`` in the shell times ``apix^2 / B^2``. A Fourier crop changes
    neither it nor the frequency of a shell, since the field of view stays, so what a filter does is its gain
    squared.

    Attributes
    ----------
    frequency : (shells,) mean radius of the coefficients in each shell, 1/Å
    count : number of images added
    """

    def __init__(self, box: int, apix: float):
        """For images of so many px at `apix` Å/px."""
        ky = np.fft.fftfreq(box, 1.0 / box)[:, None]
        kx = np.arange(box // 2 + 1)[None, :]
        radius = np.hypot(kx, ky)
        self._shell = np.rint(radius).astype(np.int64).ravel()
        # a coefficient at kx > 0 stands for the one at -kx too, which half a spectrum does not hold
        self._weight = np.broadcast_to(np.where((kx == 0) | (2 * kx == box), 1.0, 2.0), radius.shape).ravel()
        self._density = apix**2 / box**2
        self._box = box
        self._in_shell = self._summed(np.ones(radius.size))
        self._sums = np.zeros(len(self._in_shell))
        self.frequency = self._mean(self._summed(radius)) / (box * apix)
        self.count = 0

    def add(self, image: NDArray[np.generic]) -> None:
        """Add an image (B, B) of any real dtype."""
        spectrum = np.fft.rfft2(image.astype(np.float64))
        self._sums += self._summed(spectrum.real**2 + spectrum.imag**2)
        self.count += 1

    @property
    def power(self) -> Array:
        """(shells,) of the images so far; in squared units of the images times Å^2."""
        return self._mean(self._sums) * (self._density / max(self.count, 1))

    def through(self, gain: Array) -> Array:
        """(shells,) gain that a filter has for the power in each shell, from its gain on the half spectrum.

        The root of its mean square: in a steep edge that is not the gain in the middle of the shell.
        """
        return np.sqrt(self._mean(self._summed(gain**2)))

    def _mean(self, sums: Array) -> Array:
        shells: Array = (sums / self._in_shell)[1 : self._box // 2 + 1]
        return shells

    def _summed(self, values: Array) -> Array:
        return np.bincount(self._shell, values.ravel() * self._weight).astype(np.float64)
