# SPDX-License-Identifier: GPL-3.0-or-later
"""Particles before and after, side by side at the same physical scale."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

Images = Sequence[NDArray[np.generic]]
CONTRAST_PERCENTILES = (1, 99)
PANEL_INCHES = 1.6


def before_and_after(path: str, before: Images, apix_before: float, after: Images, apix_after: float) -> None:
    """Write a PNG: a row of particles before, a row of the same after, with scale bars.

    `before` and `after` are images (rows are y); pixel sizes in Å/px. Each image has the contrast of its own
    percentiles. A box that was cropped shows smaller: one Å is as long in both rows.
    """
    count = len(before)
    widest = max(len(before[0]) * apix_before, len(after[0]) * apix_after)
    bar = _round_length(widest / 3)
    figure = Figure(figsize=(PANEL_INCHES * count, PANEL_INCHES * 2 + 0.7), dpi=150)
    axes = figure.subplots(2, count, squeeze=False)
    for row, (images, apix, title) in enumerate(((before, apix_before, "before"), (after, apix_after, "after"))):
        half = len(images[0]) * apix / 2
        for axis, image in zip(axes[row], images):
            low, high = np.percentile(image.astype(np.float32), CONTRAST_PERCENTILES)
            extent = (-half, half, -half, half)
            axis.imshow(image, cmap="gray", vmin=low, vmax=high, extent=extent, interpolation="nearest")
            axis.set(xlim=(-widest / 2, widest / 2), ylim=(-widest / 2, widest / 2))
            axis.axis("off")
        axes[row][0].plot([-half + bar * 0.2, -half + bar * 1.2], [-half + bar * 0.2] * 2, color="gold", linewidth=3)
        axes[row][0].set_title(f"{title}: {len(images[0])} px, {apix:.4g} Å/px; bar {bar:g} Å", loc="left", fontsize=8)
    figure.tight_layout(pad=0.4)
    FigureCanvasAgg(figure)
    figure.savefig(path)


def _round_length(length: float) -> float:
    """The largest of 1, 2, 5, 10 … not above a length."""
    power = 10.0 ** np.floor(np.log10(length))
    return float(max(step * power for step in (1, 2, 5) if step * power <= length))
