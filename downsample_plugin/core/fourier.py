# SPDX-License-Identifier: GPL-3.0-or-later
"""The Fourier crop: a pruned real transform, one pass over the small spectrum, a small inverse.

An image is taken as a trigonometric polynomial about its origin, cut at ``|k| <= n / 2`` in x and in y and
sampled on the grid of the small box. Rows are transformed first, then only the columns that are kept; of
those, only the frequencies that are kept are transformed back. Small images are cropped several at once, since calls
take as long as small transforms; what an image becomes does not depend on the others.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyfftw
from numpy.typing import NDArray

from .filters import Gain
from .geometry import origin
from .memory import CACHE_LINE, aligned_zeros, in_turn

# A plan that is looked up, not timed: timed plans differ from run to run, and with them the last bits of
# the images; the same input must give the same bytes.
PLANNING = "FFTW_ESTIMATE"
FORWARD, BACKWARD, DESTROY = "FFTW_FORWARD", "FFTW_BACKWARD", "FFTW_DESTROY_INPUT"
BYTES_AT_ONCE = 1 << 18  # of images
ROW_PADDING = 8  # complex numbers; rows a power of two apart would fall on the same cache lines

Spectra = NDArray[Any]  # complex64


def images_at_once(block: int, box: int, cropped_box: int) -> int:
    """How many images of a block, of which that is a whole fraction, are best cropped at once.

    So many that calls take little time beside the work, and that what lies between stays in the processor's
    second-level cache: one of 256 px takes a sixth less time alone than four do together.
    """
    fewest = max(BYTES_AT_ONCE // (4 * box**2), 1)
    fits = (
        count
        for count in range(fewest, block)
        if block % count == 0 and not any(4 * size**2 * count % CACHE_LINE for size in (box, cropped_box))
    )
    return next(fits, block)


class FourierCropper:
    """Fourier crops images of one box C to one box n <= C, so many at once, with a filter and sub-pixel shifts.

    Memory and plans are made once. Images are in memory that starts where ``aligned_zeros`` does.

    Parameters
    ----------
    images : (count, C, C), some of those that will be cropped, C even or odd
    cropped : (count, n, n), where they may go, n even or odd
    gain : filter gains on the half spectrum of the small box, shape (n, n // 2 + 1), ky in FFT order
    """

    def __init__(self, images: NDArray[np.float32], cropped: NDArray[np.float32], gain: Gain):
        box, cropped_box = images.shape[1], cropped.shape[1]
        self._box = box
        self._kx = np.arange(cropped_box // 2 + 1)
        self._ky = np.fft.fftfreq(cropped_box, 1.0 / cropped_box)
        self._nyquist = cropped_box // 2 if cropped_box % 2 == 0 else None  # index of kx = n/2 and ky = -n/2

        # Gain times the phase that moves the origin: pixel C // 2 of the large box becomes pixel n // 2
        turn = origin(box) / box - origin(cropped_box) / cropped_box
        phase_x, phase_y = _phases(turn, self._kx), _phases(turn, self._ky)
        middle = cropped_box // 2
        gain = np.ascontiguousarray(gain.T) / box**2  # FFTW does not normalise
        factor = gain * phase_x[:, None] * phase_y[None, :]
        opposite = gain[:, middle] * phase_x * phase_y[middle].conj()  # at ky = +n/2
        if self._nyquist is not None:  # the coefficient there is the mean of those at ky = -n/2 and +n/2
            factor[:, self._nyquist] *= 0.5
            opposite *= 0.5
        columns = _PackedColumns if box % 2 == 0 else _RealColumns
        self._columns: _RealColumns | _PackedColumns = columns(images, factor, opposite)

        # From the columns to the small rows, spectra are transposed: kx down, ky along
        spectra = self._columns.spectra
        self._small_rows = self._columns.small_rows
        # Left to destroy its input, FFTW has faster ways
        self._backward_columns = _transform(spectra, self._small_rows.transpose(0, 2, 1), 2, BACKWARD, DESTROY)
        self._backward_rows = _transform(self._small_rows, cropped, 2, BACKWARD, DESTROY)

    def crop(
        self, images: NDArray[np.float32], shifts: NDArray[np.float64] | None, cropped: NDArray[np.float32]
    ) -> None:
        """Crop images (count, C, C), which stay, into (count, n, n).

        Their content moves by `shifts` (count, 2), (x, y) in pixels of the large box; not at all without.
        """
        spectra, opposite, nyquist = self._columns.spectra, self._columns.opposite, self._nyquist
        self._columns.transform(images)
        if shifts is not None:
            phase_x = _phases(-shifts[:, 0:1] / self._box, self._kx)
            phase_y = _phases(-shifts[:, 1:2] / self._box, self._ky)
            spectra *= (phase_x[:, :, None] * phase_y[:, None, :]).astype(np.complex64)
            opposite *= (phase_x * phase_y[:, len(self._ky) // 2, None].conj()).astype(np.complex64)
        if nyquist is not None:
            spectra[:, :, nyquist] += opposite
        self._backward_columns.execute()
        if nyquist is not None:
            # The mean of those at kx = -n/2 and +n/2 is the real part of either, since the image is real
            self._small_rows[:, :, nyquist].imag = 0
        self._backward_rows.update_arrays(self._small_rows, cropped)
        self._backward_rows.execute()


class _LowFrequencies:
    """The frequencies of columns that are kept.

    Parameters
    ----------
    columns : (…, C), transforms of columns, in FFT order
    cropped_box : n
    """

    def __init__(self, columns: Spectra, cropped_box: int):
        nonnegative, negative = (cropped_box + 1) // 2, cropped_box // 2
        self._split = nonnegative
        self._low = columns[..., :nonnegative], columns[..., columns.shape[-1] - negative :]
        self._opposite = columns[..., negative]

    def copy_into(self, spectra: Spectra, opposite: Spectra) -> None:
        """Write the low ky in FFT order into spectra (…, n), and that of ky = +n/2 into opposite (…)."""
        spectra[..., : self._split], spectra[..., self._split :] = self._low
        opposite[...] = self._opposite


class _RealColumns:
    """The low frequencies of real images, whose rows FFTW's real transform does: for odd boxes.

    Times a factor (kept, n), and those at ky = +n/2, which have no place of their own, times another (kept,):
    ``spectra`` (count, kept, n) and ``opposite`` (count, kept). What is made of them may go into ``small_rows``
    (count, n, kept).
    """

    def __init__(self, images: NDArray[np.float32], factor: Spectra, opposite: Spectra):
        count, box, _ = images.shape
        kept, cropped_box = factor.shape
        rows, columns, self.spectra, self.small_rows = in_turn(
            (count, box, box // 2 + 1), (count, kept, box), (count, kept, cropped_box), (count, cropped_box, kept)
        )
        self._rows = _transform(images, rows, 2, FORWARD)
        self._columns = _transform(rows[:, :, :kept], columns.transpose(0, 2, 1), 1, FORWARD)
        self._low = _LowFrequencies(columns, cropped_box)
        self._factor, self._opposite_factor = factor.astype(np.complex64), opposite.astype(np.complex64)
        self.opposite = aligned_zeros((count, kept))

    def transform(self, images: NDArray[np.float32]) -> None:
        """From images to ``spectra`` and ``opposite``."""
        self._rows.update_arrays(images, self._rows.output_array)
        self._rows.execute()
        self._columns.execute()
        self._low.copy_into(self.spectra, self.opposite)
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
        first = half - kept + 1  # of the mirrored columns
        spare = first % 2  # FFTW takes three times as long from an odd one on
        # Both terms beside each other: NumPy is several times faster along whole arrays than along parts of them
        rows, columns, self._terms, self.spectra, self.small_rows = in_turn(
            (count, box, half + ROW_PADDING),
            (2, count, kept + spare, box),
            (2, count, kept, cropped_box),
            (count, kept, cropped_box),
            (count, cropped_box, kept),
        )
        self._rows = _transform(images.view(np.complex64), rows[:, :, :half], 2, FORWARD)
        self._zero, self._wrapped = rows[:, :, 0], rows[:, :, half]  # Z(C/2) = Z(0)
        self._direct = _transform(rows[:, :, :kept], columns[0, :, :kept].transpose(0, 2, 1), 1, FORWARD)
        # Turned round, for they come in the order of rising C/2 - k; the spare one is last then
        mirrored = columns[1, :, ::-1].transpose(0, 2, 1)
        self._mirrored = _transform(rows[:, :, first - spare : half + 1], mirrored, 1, BACKWARD)
        self._low = _LowFrequencies(columns[:, :, :kept], cropped_box)
        self._opposite_terms, self.opposite = aligned_zeros((2, count, kept)), aligned_zeros((count, kept))
        turned = 1j * np.exp(-2j * np.pi * np.arange(kept) / box)
        a, b = (1 - turned) / 2, (1 + turned) / 2
        self._factors = np.stack([a[:, None] * factor, (b[:, None] * factor).conj()])[:, None].astype(np.complex64)
        self._opposite_factors = np.stack([a * opposite, (b * opposite).conj()])[:, None].astype(np.complex64)

    def transform(self, images: NDArray[np.float32]) -> None:
        """From images to ``spectra`` and ``opposite``."""
        self._rows.update_arrays(images.view(np.complex64), self._rows.output_array)
        self._rows.execute()
        self._wrapped[:] = self._zero
        self._direct.execute()
        self._mirrored.execute()
        self._low.copy_into(self._terms, self._opposite_terms)
        _add_up(self._terms, self._factors, self.spectra)
        _add_up(self._opposite_terms, self._opposite_factors, self.opposite)


def _add_up(terms: Spectra, factors: Spectra, out: Spectra) -> None:
    """The first term times its factor, plus the conjugate of the second times its own."""
    np.multiply(terms, factors, out=terms)
    np.conjugate(terms[1], out=out)
    np.add(out, terms[0], out=out)


def _phases(turn: Any, frequency: NDArray[Any]) -> Spectra:
    """Phases of a shift by `turn` cycles per unit of frequency."""
    phases: Spectra = np.exp(2j * np.pi * turn * frequency)
    return phases


def _transform(source: Spectra, target: Spectra, axis: int, direction: str, *flags: str) -> pyfftw.FFTW:
    return pyfftw.FFTW(source, target, axes=(axis,), direction=direction, flags=(PLANNING, *flags))
