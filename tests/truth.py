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
