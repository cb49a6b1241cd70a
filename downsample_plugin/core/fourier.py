# SPDX-License-Identifier: GPL-3.0-or-later
"""The Fourier crop: a pruned real transform, one pass over the small spectrum, a small inverse.

An image is taken as a trigonometric polynomial about its origin, cut at ``|k| <= n / 2`` in x and in y and
sampled on the grid of the small box. Rows are transformed first, then only the columns that are kept; of
those, only the rows that are kept are transformed back.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyfftw
from numpy.typing import NDArray

from .filters import Gain
from .geometry import origin

# A plan that is looked up, not timed: timed plans differ from run to run, and with them the last bits of
# the images; the same input must give the same bytes.
PLANNING = "FFTW_ESTIMATE"

Spectrum = NDArray[Any]  # complex64; factors without a phase are float32


class FourierCropper:
    """Fourier crops images of one box C to one box n <= C, with a filter and a sub-pixel shift.

    Write an image into ``image`` (C x C float32), call ``crop``, and find the result in ``cropped`` (n x n
    float32); both are overwritten by each call. Memory and plans are made once.

    Parameters
    ----------
    box : C (px), even or odd
    cropped_box : n (px), even or odd
    gain : filter gains on the half spectrum of the small box, shape (n, n // 2 + 1), ky in FFT order
    """

    def __init__(self, box: int, cropped_box: int, gain: Gain):
        kept = cropped_box // 2 + 1
        self._half = cropped_box // 2
        self._nonnegative = (cropped_box + 1) // 2  # ky = 0 … that have no negative twin in the small box
        self._negative = cropped_box - cropped_box // 2 - 1  # ky < 0 without the Nyquist frequency
        self._nyquist = cropped_box % 2 == 0

        self.image: NDArray[np.float32] = pyfftw.zeros_aligned((box, box), dtype="float32")
        self.cropped: NDArray[np.float32] = pyfftw.zeros_aligned((cropped_box, cropped_box), dtype="float32")
        self._rows = (_PackedRows if box % 2 == 0 else _RealRows)(self.image, kept)
        # From here to the last but one transform spectra are transposed: kx down, ky along
        self._columns = pyfftw.zeros_aligned((kept, box), dtype="complex64")
        self._spectrum = pyfftw.zeros_aligned((kept, cropped_box), dtype="complex64")
        self._small_rows = pyfftw.zeros_aligned((cropped_box, kept), dtype="complex64")
        self._forward_columns = _transform(self._rows.spectrum, self._columns.T, 0, "FFTW_FORWARD")
        self._backward_columns = _transform(self._spectrum, self._small_rows.T, 1, "FFTW_BACKWARD")
        self._backward_rows = _transform(self._small_rows, self.cropped, 1, "FFTW_BACKWARD")

        self._gain = np.ascontiguousarray(gain.T / box**2, dtype=np.float32)  # FFTW does not normalise
        self._kx = np.arange(kept)
        self._ky = np.fft.fftfreq(cropped_box, 1.0 / cropped_box)
        if self._nyquist:
            self._ky[self._half] = self._half  # + n/2; what belongs to -n/2 has the opposite phase
        self._box = box
        # The phase that moves pixel C // 2 of the large box onto pixel n // 2 of the small one
        self._origin_turn = origin(box) / box - origin(cropped_box) / cropped_box
        self._moving = np.empty_like(self._spectrum)
        self._resting = self._factor(self._origin_turn, self._origin_turn, np.empty_like(self._spectrum))
        if not self._origin_turn:  # no phase at all: multiplying by real numbers is faster
            self._resting = (self._gain, self._gain[:, self._half])

    def crop(self, shift_x: float = 0.0, shift_y: float = 0.0) -> None:
        """Transform ``image`` into ``cropped``, its content moved by a shift in pixels of the large box."""
        self._rows.execute()
        self._forward_columns.execute()
        if shift_x or shift_y:
            turn_x, turn_y = (self._origin_turn - shift / self._box for shift in (shift_x, shift_y))
            self._cut(*self._factor(turn_x, turn_y, self._moving))
        else:
            self._cut(*self._resting)
        self._backward_columns.execute()
        if self._nyquist:
            # kx = n/2 stands for the mean of k = +n/2 and k = -n/2, each with its own phase: the real part of
            # the first, since the image is real.
            self._small_rows[:, -1].imag = 0
        self._backward_rows.execute()

    def _factor(self, turn_x: float, turn_y: float, out: Spectrum) -> tuple[Spectrum, Spectrum]:
        """Gain times phase over the small half spectrum, and over ky = -n/2 that has no place in it.

        Turns are in cycles per unit of kx, ky.
        """
        phase_x = np.exp(2j * np.pi * turn_x * self._kx).astype(np.complex64)
        phase_y = np.exp(2j * np.pi * turn_y * self._ky).astype(np.complex64)
        np.multiply(phase_x[:, None], phase_y[None, :], out=out)
        out *= self._gain
        opposite = self._gain[:, self._half] * phase_y[self._half].conj() * phase_x
        return out, opposite

    def _cut(self, factor: Spectrum, opposite: Spectrum) -> None:
        """Copy the low frequencies into the small spectrum, times the factor; ± Nyquist become their mean."""
        columns, spectrum = self._columns, self._spectrum
        low, high = slice(None, self._nonnegative), slice(-self._negative, None)
        np.multiply(columns[:, low], factor[:, low], out=spectrum[:, low])
        if self._negative:
            np.multiply(columns[:, high], factor[:, high], out=spectrum[:, high])
        if self._nyquist:
            half = self._half
            spectrum[:, half] = 0.5 * (columns[:, half] * factor[:, half] + columns[:, -half] * opposite)


class _RealRows:
    """Low frequencies of the rows of a real image, by FFTW's real transform: `spectrum` is (C, kept)."""

    def __init__(self, image: NDArray[np.float32], kept: int):
        box = len(image)
        rows = pyfftw.zeros_aligned((box, box // 2 + 1), dtype="complex64")
        self.spectrum: Spectrum = rows[:, :kept]
        self.execute = _transform(image, rows, 1, "FFTW_FORWARD").execute


class _PackedRows:
    """The same for even boxes, by complex transforms of half the length: FFTW's are three times faster.

    Neighbours in a row make a complex number, z_m = x_2m + i x_2m+1. With Z its transform, the row's is
    ``X(k) = a(k) Z(k) + b(k) conj(Z(C/2 - k))``, where a, b = (1 -+ i exp(-2 pi i k / C)) / 2 (Numerical
    Recipes, "FFT of single real function").
    """

    _PADDING = 8  # complex numbers; rows a power of two apart would fall on the same cache lines

    def __init__(self, image: NDArray[np.float32], kept: int):
        box = len(image)
        packed = pyfftw.zeros_aligned((box, box // 2 + self._PADDING), dtype="complex64")
        self._transform = _transform(image.view(np.complex64), packed[:, : box // 2], 1, "FFTW_FORWARD")
        self._zero, self._wrapped = packed[:, 0], packed[:, box // 2]  # Z(C/2) = Z(0)
        self._low = packed[:, :kept]
        self._mirrored = packed[:, box // 2 - kept + 1 : box // 2 + 1][:, ::-1]
        turned = 1j * np.exp(-2j * np.pi * np.arange(kept) / box)
        self._a = ((1 - turned) / 2).astype(np.complex64)
        self._b = ((1 + turned) / 2).astype(np.complex64)
        self.spectrum: Spectrum = pyfftw.zeros_aligned((box, kept), dtype="complex64")
        self._part = np.empty_like(self.spectrum)

    def execute(self) -> None:
        """Transform the image into `spectrum`."""
        self._transform.execute()
        self._wrapped[:] = self._zero
        np.conjugate(self._mirrored, out=self._part)
        np.multiply(self._part, self._b, out=self._part)
        np.multiply(self._low, self._a, out=self.spectrum)
        np.add(self.spectrum, self._part, out=self.spectrum)


def _transform(source: Spectrum, target: Spectrum, axis: int, direction: str) -> pyfftw.FFTW:
    return pyfftw.FFTW(source, target, axes=(axis,), direction=direction, flags=(PLANNING,))
