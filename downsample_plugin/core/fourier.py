# SPDX-License-Identifier: GPL-3.0-or-later
"""The Fourier crop: a pruned real transform, one pass over the small spectrum, a small inverse.

An image is taken as a trigonometric polynomial about its origin, cut at ``|k| <= n / 2`` in x and in y and
sampled on the grid of the small box. Rows are transformed first, then only the columns that are kept; of
those, only the frequencies that are kept are transformed back. Images come in blocks, since calls take as
long as small transforms; what an image becomes does not depend on the others of its block.
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

Spectra = NDArray[Any]  # complex64


class FourierCropper:
    """Fourier crops blocks of images of one box C to one box n <= C, with a filter and sub-pixel shifts.

    Write images into ``images`` (count, C, C) float32, call ``crop``, and find the results in ``cropped``
    (count, n, n) float32, which each call overwrites; ``images`` stay. Memory and plans are made once.

    Parameters
    ----------
    count : number of images of a block
    box : C (px), even or odd
    cropped_box : n (px), even or odd
    gain : filter gains on the half spectrum of the small box, shape (n, n // 2 + 1), ky in FFT order
    """

    def __init__(self, count: int, box: int, cropped_box: int, gain: Gain):
        self._box = box
        self._kx = np.arange(cropped_box // 2 + 1)
        self._ky = np.fft.fftfreq(cropped_box, 1.0 / cropped_box)
        self._nyquist = cropped_box // 2 if cropped_box % 2 == 0 else None  # index of kx = n/2 and ky = -n/2
        kept = len(self._kx)
        self.images: NDArray[np.float32] = aligned_zeros((count, box, box), "float32")
        self.cropped: NDArray[np.float32] = aligned_zeros((count, cropped_box, cropped_box), "float32")

        # Gain times the phase that moves the origin: pixel C // 2 of the large box becomes pixel n // 2
        turn = origin(box) / box - origin(cropped_box) / cropped_box
        phase_x, phase_y = _phases(turn, self._kx), _phases(turn, self._ky)
        middle = cropped_box // 2
        gain = np.ascontiguousarray(gain.T) / box**2  # FFTW does not normalise
        factor = gain * phase_x[:, None] * phase_y[None, :]
        opposite = gain[:, middle] * phase_x * phase_y[middle].conj()  # at ky = +n/2
        columns = _PackedColumns if box % 2 == 0 else _RealColumns
        self._columns: _RealColumns | _PackedColumns = columns(self.images, factor, opposite)

        # From the columns to the small rows, spectra are transposed: kx down, ky along
        spectra = self._columns.spectra
        self._small_rows = aligned_zeros((count, cropped_box, kept))
        # Left to destroy its input, FFTW has faster ways
        self._backward_columns = _transform(spectra, self._small_rows.transpose(0, 2, 1), 2, BACKWARD, DESTROY)
        self._backward_rows = _transform(self._small_rows, self.cropped, 2, BACKWARD, DESTROY)

    def crop(self, shifts: NDArray[np.float64] | None = None) -> None:
        """Transform ``images`` into ``cropped``.

        Their content moves by `shifts` (count, 2), (x, y) in pixels of the large box; not at all without.
        """
        spectra, opposite, nyquist = self._columns.spectra, self._columns.opposite, self._nyquist
        self._columns.transform()
        if shifts is not None:
            phase_x = _phases(-shifts[:, 0:1] / self._box, self._kx)
            phase_y = _phases(-shifts[:, 1:2] / self._box, self._ky)
            spectra *= (phase_x[:, :, None] * phase_y[:, None, :]).astype(np.complex64)
            opposite *= (phase_x * phase_y[:, len(self._ky) // 2, None].conj()).astype(np.complex64)
        if nyquist is not None:
            # The coefficient at the Nyquist frequency is the mean of those at ky = -n/2 and +n/2 …
            at_nyquist = spectra[:, :, nyquist]
            opposite += at_nyquist
            np.multiply(opposite, np.float32(0.5), out=at_nyquist)
        self._backward_columns.execute()
        if nyquist is not None:
            # … and of those at kx = -n/2 and +n/2: the real part of either, since the image is real.
            self._small_rows[:, :, nyquist].imag = 0
        self._backward_rows.execute()


class _Columns:
    """Columns of a row transform, transformed, and where in them the low frequencies stand.

    Parameters
    ----------
    rows : (count, C, kept), spectra of the rows of images at the kx that are kept
    direction : of the transform
    cropped_box : n
    """

    def __init__(self, rows: Spectra, direction: str, cropped_box: int):
        count, box, kept = rows.shape
        self._columns = aligned_zeros((count, kept, box))
        self._transform = _transform(rows, self._columns.transpose(0, 2, 1), 1, direction)
        nonnegative, negative = (cropped_box + 1) // 2, cropped_box // 2
        self._low = (self._columns[:, :, :nonnegative], self._columns[:, :, box - negative :])
        self._split = nonnegative
        self._opposite = self._columns[:, :, negative]

    def transform_into(self, spectra: Spectra, opposite: Spectra) -> None:
        """Write the low ky in FFT order into spectra (count, kept, n), that of ky = +n/2 into (count, kept)."""
        self._transform.execute()
        spectra[:, :, : self._split], spectra[:, :, self._split :] = self._low
        opposite[:] = self._opposite


class _RealColumns:
    """The low frequencies of real images, whose rows FFTW's real transform does: for odd boxes.

    Times a factor (kept, n), and those at ky = +n/2, which have no place of their own, times another (kept,):
    ``spectra`` (count, kept, n) and ``opposite`` (count, kept).
    """

    def __init__(self, images: NDArray[np.float32], factor: Spectra, opposite: Spectra):
        count, box, _ = images.shape
        kept, cropped_box = factor.shape
        rows = aligned_zeros((count, box, box // 2 + 1))
        self._rows = _transform(images, rows, 2, FORWARD)
        self._columns = _Columns(rows[:, :, :kept], FORWARD, cropped_box)
        self._factor, self._opposite_factor = factor.astype(np.complex64), opposite.astype(np.complex64)
        self.spectra = aligned_zeros((count, kept, cropped_box))
        self.opposite = aligned_zeros((count, kept))

    def transform(self) -> None:
        """From the images to ``spectra`` and ``opposite``."""
        self._rows.execute()
        self._columns.transform_into(self.spectra, self.opposite)
        self.spectra *= self._factor
        self.opposite *= self._opposite_factor


class _PackedColumns:
    """The same for even boxes, whose rows are transformed as complex numbers of half the length.

    FFTW's complex transforms are three times as fast as its real ones. Neighbours in a row make a complex
    number, z_m = x_2m + i x_2m+1. With Z its transform, the row's is ``X(k) = a Z(k) + b conj(Z(C/2 - k))``,
    where a, b = (1 -+ i exp(-2 pi i k / C)) / 2 (Numerical Recipes, "FFT of single real function"). The two
    terms are added up where it is cheap, on the few frequencies that are kept; until then the second is
    its conjugate, whose columns the backward transform does.
    """

    def __init__(self, images: NDArray[np.float32], factor: Spectra, opposite: Spectra):
        count, box, _ = images.shape
        kept, cropped_box = factor.shape
        half = box // 2
        rows = aligned_zeros((count, box, half + ROW_PADDING))
        self._rows = _transform(images.view(np.complex64), rows[:, :, :half], 2, FORWARD)
        self._zero, self._wrapped = rows[:, :, 0], rows[:, :, half]  # Z(C/2) = Z(0)
        self._direct = _Columns(rows[:, :, :kept], FORWARD, cropped_box)
        self._mirrored = _Columns(rows[:, :, half - kept + 1 : half + 1], BACKWARD, cropped_box)
        # Both terms beside each other: NumPy is several times faster along whole arrays than along parts of them
        self._terms, self._opposite_terms = (
            aligned_zeros((2, count, kept, cropped_box)),
            aligned_zeros((2, count, kept)),
        )
        self._times = aligned_zeros(self._terms.shape)
        self._opposite_times = aligned_zeros(self._opposite_terms.shape)
        turned = 1j * np.exp(-2j * np.pi * np.arange(kept) / box)
        a, b = (1 - turned) / 2, (1 + turned) / 2
        self._factors = np.stack([a[:, None] * factor, (b[:, None] * factor).conj()])[:, None].astype(np.complex64)
        self._opposite_factors = np.stack([a * opposite, (b * opposite).conj()])[:, None].astype(np.complex64)
        self.spectra, self.opposite = aligned_zeros((count, kept, cropped_box)), aligned_zeros((count, kept))

    def transform(self) -> None:
        """From the images to ``spectra`` and ``opposite``."""
        self._rows.execute()
        self._wrapped[:] = self._zero
        self._direct.transform_into(self._terms[0], self._opposite_terms[0])
        # The mirrored columns come in the order of rising C/2 - k
        self._mirrored.transform_into(self._terms[1, :, ::-1], self._opposite_terms[1, :, ::-1])
        _add_up(self._terms, self._factors, self._times, self.spectra)
        _add_up(self._opposite_terms, self._opposite_factors, self._opposite_times, self.opposite)


def _add_up(terms: Spectra, factors: Spectra, times: Spectra, out: Spectra) -> None:
    """The first term times its factor, plus the conjugate of the second times its own.

    Never in place: NumPy's fast loops over complex numbers want separate memory.
    """
    np.multiply(terms, factors, out=times)
    np.conjugate(times[1], out=terms[1])
    np.add(times[0], terms[1], out=out)


def _phases(turn: Any, frequency: NDArray[Any]) -> Spectra:
    """Phases of a shift by `turn` cycles per unit of frequency."""
    phases: Spectra = np.exp(2j * np.pi * turn * frequency)
    return phases


def aligned_zeros(shape: tuple[int, ...], dtype: str = "complex64") -> NDArray[Any]:
    """Memory that starts where the processor's widest loads do."""
    array: NDArray[Any] = pyfftw.zeros_aligned(shape, dtype=dtype)
    return array


def _transform(source: Spectra, target: Spectra, axis: int, direction: str, *flags: str) -> pyfftw.FFTW:
    return pyfftw.FFTW(source, target, axes=(axis,), direction=direction, flags=(PLANNING, *flags))
