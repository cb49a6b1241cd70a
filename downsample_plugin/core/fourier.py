# SPDX-License-Identifier: GPL-3.0-or-later
"""The Fourier crop: a pruned real transform, one pass over the small spectrum, a small inverse.

An image is taken as a trigonometric polynomial about its origin, cut at ``|k| <= n / 2`` in x and in y and
sampled on the grid of the small box. Rows are transformed first, then only the columns that are kept; of
those, only the frequencies that are kept are transformed back.
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
FORWARD, BACKWARD, DESTROY = "FFTW_FORWARD", "FFTW_BACKWARD", "FFTW_DESTROY_INPUT"
ROW_PADDING = 8  # complex numbers; rows a power of two apart would fall on the same cache lines

Spectrum = NDArray[Any]  # complex64


class FourierCropper:
    """Fourier crops images of one box C to one box n <= C, with a filter and a sub-pixel shift.

    Write an image into ``image`` (C x C float32), call ``crop``, and find the result in ``cropped`` (n x n
    float32), which each call overwrites; ``image`` stays. Memory and plans are made once.

    Parameters
    ----------
    box : C (px), even or odd
    cropped_box : n (px), even or odd
    gain : filter gains on the half spectrum of the small box, shape (n, n // 2 + 1), ky in FFT order
    """

    def __init__(self, box: int, cropped_box: int, gain: Gain):
        self._box = box
        self._kx = np.arange(cropped_box // 2 + 1)
        self._ky = np.fft.fftfreq(cropped_box, 1.0 / cropped_box)
        self._nyquist = cropped_box // 2 if cropped_box % 2 == 0 else None  # index of kx = n/2 and ky = -n/2
        kept = len(self._kx)
        self.image: NDArray[np.float32] = _zeros((box, box), "float32")
        self.cropped: NDArray[np.float32] = _zeros((cropped_box, cropped_box), "float32")
        # From the columns to the small rows, spectra are transposed: kx down, ky along
        self._spectrum = _zeros((kept, cropped_box))
        self._small_rows = _zeros((cropped_box, kept))

        factor, opposite = self._factors(gain.T / box**2)  # FFTW does not normalise
        columns = _PackedColumns if box % 2 == 0 else _RealColumns
        self._columns: _RealColumns | _PackedColumns = columns(self.image, factor, opposite)
        # Left to destroy its input, FFTW has faster ways
        self._backward_columns = _transform(self._spectrum, self._small_rows.T, 1, BACKWARD, DESTROY)
        self._backward_rows = _transform(self._small_rows, self.cropped, 1, BACKWARD, DESTROY)

    def crop(self, shift_x: float = 0.0, shift_y: float = 0.0) -> None:
        """Transform ``image`` into ``cropped``, its content moved by a shift in pixels of the large box."""
        spectrum, nyquist = self._spectrum, self._nyquist
        opposite = self._columns.transform_into(spectrum)
        if shift_x or shift_y:
            phase_x = _phases(-shift_x / self._box, self._kx).astype(np.complex64)
            phase_y = _phases(-shift_y / self._box, self._ky).astype(np.complex64)
            spectrum *= phase_x[:, None]
            spectrum *= phase_y[None, :]
            opposite *= phase_x * phase_y[len(phase_y) // 2].conj()
        if nyquist is not None:
            # The coefficient at the Nyquist frequency is the mean of those at ky = -n/2 and +n/2 …
            spectrum[:, nyquist] += opposite
            spectrum[:, nyquist] *= 0.5
        self._backward_columns.execute()
        if nyquist is not None:
            # … and of those at kx = -n/2 and +n/2: the real part of either, since the image is real.
            self._small_rows[:, nyquist].imag = 0
        self._backward_rows.execute()

    def _factors(self, gain: Gain) -> tuple[Spectrum, Spectrum]:
        """Gain times the phase that moves the origin, and the same at ky = +n/2, which has no place of its own."""
        # Pixel C // 2 of the large box becomes pixel n // 2 of the small one
        turn = origin(self._box) / self._box - origin(len(self._ky)) / len(self._ky)
        phase_x, phase_y = _phases(turn, self._kx), _phases(turn, self._ky)
        middle = len(self._ky) // 2
        return gain * phase_x[:, None] * phase_y[None, :], gain[:, middle] * phase_x * phase_y[middle].conj()


class _Columns:
    """Low frequencies of the columns of a row transform, times a factor.

    Parameters
    ----------
    rows : (C, kept), spectra of the rows of an image at the kx that are kept
    direction : of the transform
    factor : (kept, n), over the low ky in FFT order, that of ky = -n/2 among them for even n
    opposite : (kept,), factor at ky = +n/2
    """

    def __init__(self, rows: Spectrum, direction: str, factor: Spectrum, opposite: Spectrum):
        box, (kept, cropped_box) = len(rows), factor.shape
        self._columns = _zeros((kept, box))
        self._transform = _transform(rows, self._columns.T, 0, direction)
        self._middle = cropped_box // 2
        nonnegative = (cropped_box + 1) // 2
        self._low = (  # where the low ky stand in the columns, and in the small spectrum
            (slice(0, nonnegative), slice(0, nonnegative)),
            (slice(box - self._middle, box), slice(nonnegative, cropped_box)),
        )
        self._factor, self._opposite = factor.astype(np.complex64), opposite.astype(np.complex64)

    def transform_into(self, spectrum: Spectrum) -> Spectrum:
        """Write the low frequencies into a spectrum (kept, n), and return those at ky = +n/2."""
        self._transform.execute()
        for here, there in self._low:
            np.multiply(self._columns[:, here], self._factor[:, there], out=spectrum[:, there])
        opposite: Spectrum = self._columns[:, self._middle] * self._opposite
        return opposite


class _RealColumns:
    """The low frequencies of a real image, whose rows FFTW's real transform does: for odd boxes."""

    def __init__(self, image: NDArray[np.float32], factor: Spectrum, opposite: Spectrum):
        box, kept = len(image), len(factor)
        rows = _zeros((box, box // 2 + 1))
        self._rows = _transform(image, rows, 1, FORWARD)
        self._columns = _Columns(rows[:, :kept], FORWARD, factor, opposite)

    def transform_into(self, spectrum: Spectrum) -> Spectrum:
        """Write the low frequencies into a spectrum (kept, n), and return those at ky = +n/2."""
        self._rows.execute()
        return self._columns.transform_into(spectrum)


class _PackedColumns:
    """The same for even boxes, whose rows are transformed as complex numbers of half the length.

    FFTW's complex transforms are three times as fast as its real ones. Neighbours in a row make a complex
    number, z_m = x_2m + i x_2m+1. With Z its transform, the row's is ``X(k) = a Z(k) + b conj(Z(C/2 - k))``,
    where a, b = (1 -+ i exp(-2 pi i k / C)) / 2 (Numerical Recipes, "FFT of single real function"). The two
    terms are added up where it is cheap, on the few frequencies that are kept; until then the second is
    its conjugate, whose columns the backward transform does.
    """

    def __init__(self, image: NDArray[np.float32], factor: Spectrum, opposite: Spectrum):
        box, kept = len(image), len(factor)
        half = box // 2
        rows = _zeros((box, half + ROW_PADDING))
        self._rows = _transform(image.view(np.complex64), rows[:, :half], 1, FORWARD)
        self._zero, self._wrapped = rows[:, 0], rows[:, half]  # Z(C/2) = Z(0)
        turned = 1j * np.exp(-2j * np.pi * np.arange(kept) / box)
        a, b = (1 - turned) / 2, (1 + turned) / 2
        self._direct = _Columns(rows[:, :kept], FORWARD, a[:, None] * factor, a * opposite)
        # The mirrored columns come in the order of rising C/2 - k
        mirrored = (b[:, None] * factor).conj()[::-1], (b * opposite).conj()[::-1]
        self._mirrored = _Columns(rows[:, half - kept + 1 : half + 1], BACKWARD, *mirrored)
        self._part = np.empty(factor.shape, dtype=np.complex64)

    def transform_into(self, spectrum: Spectrum) -> Spectrum:
        """Write the low frequencies into a spectrum (kept, n), and return those at ky = +n/2."""
        self._rows.execute()
        self._wrapped[:] = self._zero
        opposite = self._direct.transform_into(spectrum)
        opposite += self._mirrored.transform_into(self._part)[::-1].conj()
        np.conjugate(self._part, out=self._part)
        spectrum += self._part[::-1]
        return opposite


def _phases(turn: float, frequency: NDArray[Any]) -> Spectrum:
    """Phases of a shift by `turn` cycles per unit of frequency."""
    phases: Spectrum = np.exp(2j * np.pi * turn * frequency)
    return phases


def _zeros(shape: tuple[int, int], dtype: str = "complex64") -> NDArray[Any]:
    array: NDArray[Any] = pyfftw.zeros_aligned(shape, dtype=dtype)
    return array


def _transform(source: Spectrum, target: Spectrum, axis: int, direction: str, *flags: str) -> pyfftw.FFTW:
    return pyfftw.FFTW(source, target, axes=(axis,), direction=direction, flags=(PLANNING, *flags))
