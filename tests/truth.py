# SPDX-License-Identifier: GPL-3.0-or-later
"""Truth from outside the code under test: direct sums in float64, written from the definitions."""

from __future__ import annotations

import numpy as np


def _basis(box: int, points: np.ndarray, frequencies: np.ndarray) -> np.ndarray:
    """exp(2 pi i k (x - origin) / box) for pixel positions x: (points, frequencies)."""
    return np.exp(2j * np.pi * np.outer(points - box // 2, frequencies) / box)


def trigonometric_resample(image: np.ndarray, box_out: int, shift=(0.0, 0.0), gain=None) -> np.ndarray:
    """Fourier crop by the definition: the trigonometric polynomial about the origin, cut, sampled.

    Every frequency -n/2 … n/2 is listed with its weight: 1/2 for each of the two at n/2 when n is even. For
    n = C even, the one coefficient there is half of each. `shift` (x, y) moves the content; `gain` is a
    function of the radial frequency in cycles per input pixel.
    """
    box = len(image)
    half = box_out / 2
    k = np.arange(-(box_out // 2), box_out // 2 + 1) if box_out % 2 == 0 else np.arange(box_out) - box_out // 2
    weight = np.where(np.abs(k) == half, 0.5, 1.0)
    to_spectrum = _basis(box, np.arange(box), -k).T
    spectrum = to_spectrum @ image.astype(np.float64) @ to_spectrum.T / box**2
    spectrum = spectrum * weight[:, None] * weight[None, :]
    if gain is not None:
        spectrum = spectrum * gain(np.hypot(k[:, None], k[None, :]) / box)
    # output pixel m stands at input position origin + (m - origin_out) * C / n
    points = box // 2 + (np.arange(box_out) - box_out // 2) * box / box_out
    along_x, along_y = _basis(box, points - shift[0], k), _basis(box, points - shift[1], k)
    result = along_y @ spectrum @ along_x.T
    assert np.abs(result.imag).max() < 1e-9 * max(1.0, np.abs(result).max())
    return result.real


def trigonometric_volume(
    volume: np.ndarray, box_out: int, step: float | None = None, period: int | None = None, gain=None
) -> np.ndarray:
    """The same in three dimensions, finer than the input too, for samples that are `step` input voxels apart.

    The polynomial is that of the window of `period` voxels about the origin, 0 outside the input. Every frequency up
    to that of the output's Nyquist limit, or of the input's, is listed, with 1/2 for those at an even end.
    """
    box = len(volume)
    period = box if period is None else period
    step = period / box_out if step is None else step
    count = min(period / step, period)
    k = np.arange(-period, period + 1)
    k = k[np.abs(k) <= count / 2 + 1e-9]
    weight = np.where(np.abs(np.abs(k) - count / 2) < 1e-9, 0.5, 1.0)
    at = np.array([i for i in np.arange(box) - box // 2 if 0 <= i + period // 2 < period])
    inside = at + box // 2
    forth = weight[:, None] * np.exp(-2j * np.pi * np.outer(k, at) / period) / period
    values = volume.astype(np.float64)[np.ix_(inside, inside, inside)]
    spectrum = np.einsum("az,by,cx,zyx->abc", forth, forth, forth, values, optimize=True)
    if gain is not None:
        radius = np.sqrt(k[:, None, None] ** 2 + k[:, None] ** 2 + k**2) / period
        spectrum = spectrum * gain(radius)
    back = np.exp(2j * np.pi * np.outer((np.arange(box_out) - box_out // 2) * step, k) / period)
    result = np.einsum("za,yb,xc,abc->zyx", back, back, back, spectrum, optimize=True)
    assert np.abs(result.imag).max() < 1e-9 * max(1.0, np.abs(result).max())
    return result.real


def window(image: np.ndarray, box_out: int, shift=(0, 0)) -> np.ndarray:
    """Crop or pad pixel by pixel: output j takes input j - C//2 + N//2 - d, the mean where there is none."""
    box = len(image)
    result = np.full((box_out, box_out), image.astype(np.float64).mean())
    for y in range(box_out):
        for x in range(box_out):
            from_x = x - box_out // 2 + box // 2 - shift[0]
            from_y = y - box_out // 2 + box // 2 - shift[1]
            if 0 <= from_x < box and 0 <= from_y < box:
                result[y, x] = image[from_y, from_x]
    return result


def blob_position(image: np.ndarray) -> np.ndarray:
    """(x, y) of a Gaussian blob from the origin, in px: the logarithm of a Gaussian is a parabola."""
    values = image.astype(np.float64)
    y, x = np.unravel_index(values.argmax(), values.shape)

    def vertex(below, at, above):
        below, at, above = np.log([below, at, above])
        return 0.5 * (below - above) / (below - 2 * at + above)

    return np.array(
        [
            x + vertex(*values[y, x - 1 : x + 2]) - len(image) // 2,
            y + vertex(*values[y - 1 : y + 2, x]) - len(image) // 2,
        ]
    )
