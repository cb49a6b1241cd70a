# SPDX-License-Identifier: GPL-3.0-or-later
"""Radial low-pass filters as gains over frequency, and the gain of a whole plan on its small spectrum."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .plan import DownsamplePlan, FilterShape

Gain = NDArray[np.float64]


def butterworth(frequency: ArrayLike, corner: float, order: float) -> Gain:
    """Low-pass gain ``1 / (1 + (f / fc)^(2 order))``: 1 at zero, 1/2 at the corner, as Xmipp and cryoSPARC draw it.

    `frequency` and `corner` in the same unit (1/Å).
    """
    with np.errstate(over="ignore"):  # far beyond the corner the power overflows to a gain of 0
        gain: Gain = 1.0 / (1.0 + (np.asarray(frequency, dtype=np.float64) / corner) ** (2 * order))
    return gain


def raised_cosine(frequency: ArrayLike, corner: float, width: float) -> Gain:
    """Low-pass gain with a cosine edge of full `width` about the corner: 1 below, 1/2 at it, 0 above.

    The shape of RELION's ``lowPassFilterMap``; the corner is not rounded to a whole shell as there.
    All three in the same unit (1/Å).
    """
    across = np.clip((np.asarray(frequency, dtype=np.float64) - corner) / width, -0.5, 0.5)
    gain: Gain = 0.5 - 0.5 * np.sin(np.pi * across)
    return gain


def plan_gain(plan: DownsamplePlan, frequency: ArrayLike) -> Gain:
    """Gain of all filters of a plan at radial frequencies (1/Å)."""
    gain = np.ones_like(np.asarray(frequency, dtype=np.float64))
    if plan.lowpass_resolution is not None:
        gain = gain * _lowpass(plan, frequency, plan.lowpass_resolution)
    if plan.highpass_resolution is not None:
        gain = gain * (1.0 - _lowpass(plan, frequency, plan.highpass_resolution))
    return gain


def spectrum_gain(plan: DownsamplePlan) -> Gain:
    """Gain on the half spectrum of the output box: shape (n, n // 2 + 1), rows ky in FFT order, columns kx >= 0."""
    n = plan.box_out
    field_of_view = n * plan.apix_out  # Å; the same before and after the Fourier crop
    ky = np.fft.fftfreq(n, 1.0 / n)[:, None]
    kx = np.arange(n // 2 + 1)[None, :]
    return plan_gain(plan, np.hypot(kx, ky) / field_of_view)


def _lowpass(plan: DownsamplePlan, frequency: ArrayLike, resolution: float) -> Gain:
    if plan.filter_shape is FilterShape.BUTTERWORTH:
        return butterworth(frequency, 1.0 / resolution, plan.filter_order)
    shell = 1.0 / (plan.box_out * plan.apix_out)  # 1/Å
    return raised_cosine(frequency, 1.0 / resolution, plan.filter_width * shell)
