# SPDX-License-Identifier: GPL-3.0-or-later
"""The result picture: particles before and after, their spectra, and the shifts; drawn for people."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from .core.filters import spectrum_gain
from .core.geometry import origin
from .core.plan import Recenter
from .sample import SHOWN, Sample, for_the_eye

CONTRAST_PERCENTILES = (1, 99)
PICTURE_INCHES = (15.0, 7.4)
# Where the parts stand in the picture, as (left, bottom, width, height) in parts of it
PARTICLES_PLACE, SPECTRA_PLACE, SHIFTS_PLACE = (
    (0.01, 0.01, 0.6, 0.93),
    (0.67, 0.56, 0.28, 0.36),
    (0.67, 0.08, 0.28, 0.36),
)
PITCH_ACROSS, PITCH_DOWN = 1.05, 1.2  # from one particle to the next, in widths of the wider box
EYE_RESOLUTION = 20.0  # Å; particles show at it, most of the noise does not
EYE_OVER_NYQUIST = 2.5  # unless the images are so coarse that it must be coarser than their Nyquist limit
BEFORE, AFTER, FILTER = "tab:blue", "tab:orange", "tab:green"
BAR_COLOR = "gold"


def draw_result(path: str, sample: Sample) -> None:
    """Write the result picture, a PNG."""
    figure = Figure(figsize=PICTURE_INCHES, dpi=110)
    FigureCanvasAgg(figure)
    figure.suptitle(sample.plan.summary(), fontsize=11)
    draw_particles(figure.add_axes(PARTICLES_PLACE), sample)
    draw_spectra(figure.add_axes(SPECTRA_PLACE), sample)
    draw_shifts(figure.add_axes(SHIFTS_PLACE), sample)
    figure.savefig(path)


def draw_particles(axis: Any, sample: Sample) -> None:
    """Particles before and after, each as it is and as it looks without noise, in one drawing whose unit is 1 Å.

    Each image has the contrast of its own percentiles. A box that was cropped shows smaller.
    """
    plan = sample.plan
    widths = plan.box_in * plan.apix_in, plan.box_out * plan.apix_out
    widest = max(widths)
    # no coarser than the images are wide
    eye = min(max(EYE_RESOLUTION, EYE_OVER_NYQUIST * plan.nyquist_resolution), *widths)
    bar = round_length(widest / 3)
    across, down = widest * PITCH_ACROSS, widest * PITCH_DOWN
    rows = (
        (sample.before, plan.apix_in, False, f"before: {plan.box_in} px, {plan.apix_in:.4g} Å/px; bar {bar:g} Å"),
        (sample.after, plan.apix_out, False, f"after: {plan.box_out} px, {plan.apix_out:.4g} Å/px; bar {bar:g} Å"),
        (sample.before, plan.apix_in, True, f"before, at {eye:.0f} Å for the eye"),
        (sample.after, plan.apix_out, True, f"after, at {eye:.0f} Å for the eye"),
    )
    for row, (images, apix, smooth, title) in enumerate(rows):
        axis.text(-widest / 2, widest * 0.52 - row * down, title, fontsize=9, verticalalignment="bottom")
        for column, image in enumerate(images):
            draw_image(axis, for_the_eye(image, apix, eye) if smooth else image, apix, (column * across, -row * down))
        if images:
            edge = edges(len(images[0]), apix)[0]
            draw_scale_bar(axis, bar, (edge, edge - row * down))
    axis.set(xlim=(-widest / 2, (SHOWN - 1) * across + widest / 2), ylim=(-3 * down - widest / 2, widest * 0.65))
    axis.set(aspect="equal", anchor="W")
    axis.axis("off")


def draw_image(axis: Any, image: NDArray[np.generic], apix: float, at: tuple[float, float] = (0.0, 0.0)) -> None:
    """An image (rows are y, the first row lowest) with its origin at a point, in Å."""
    low, high = contrast_limits(image)
    begin, end = edges(len(image), apix)
    extent = (at[0] + begin, at[0] + end, at[1] + begin, at[1] + end)
    axis.imshow(image, cmap="gray", vmin=low, vmax=high, extent=extent, origin="lower", interpolation="nearest")


def edges(box: int, apix: float) -> tuple[float, float]:
    """Where a box of so many px of `apix` Å begins and ends, in Å from the centre of its origin pixel."""
    return (-0.5 - origin(box)) * apix, (box - 0.5 - origin(box)) * apix


def draw_scale_bar(axis: Any, length: float, corner: tuple[float, float]) -> None:
    """A bar of so many Å in the lower left corner of an image."""
    start, y = corner[0] + 0.15 * length, corner[1] + 0.2 * length
    axis.plot([start, start + length], [y, y], color=BAR_COLOR, linewidth=3, solid_capstyle="butt")


def draw_spectra(axis: Any, sample: Sample) -> None:
    """Radial power before and after, the gain of the filters, and both Nyquist limits."""
    plan, before, after = sample.plan, sample.spectrum_before, sample.spectrum_after
    if before.count:
        scale = _scale_of_normalization(sample) if plan.normalize else 1.0
        label = "before, on the scale of the normalised" if plan.normalize else "before"
        axis.semilogy(before.frequency, scale * before.power, color=BEFORE, label=label)
        axis.semilogy(after.frequency, after.power, color=AFTER, label="after")
        _spare_the_filtered_away(axis, scale * before.power)
    ends = 1 / (2 * plan.apix_in), 1 / plan.nyquist_resolution
    for end, color, name in zip(ends, (BEFORE, AFTER), ("before", "after")):
        axis.axvline(end, color=color, linestyle=":", label=f"Nyquist {name}: {1 / end:.3g} Å")
    axis.set(xlim=(0, 1.05 * max(ends)), xlabel="resolution (Å)", ylabel="radial power")
    axis.xaxis.set_major_formatter(lambda f, _: f"{1 / f:.3g}" if f > 0 else "∞")
    axis.set_title(f"Power spectrum of {before.count} particles, in the same box", loc="left", fontsize=9)
    lines, labels = axis.get_legend_handles_labels()
    if plan.filtered:
        gains = axis.twinx()
        gain = after.through(spectrum_gain(plan))
        lines += gains.plot(after.frequency, gain, color=FILTER, linestyle="--")
        labels.append("gain of the filter")
        gains.set(ylim=(0, 1.05), ylabel="gain")
    axis.legend(lines, labels, fontsize=8, loc="upper right")


def _scale_of_normalization(sample: Sample) -> float:
    """What normalisation has multiplied the power by: it says nothing of the resolution."""
    after = sample.spectrum_after.power
    before = sample.spectrum_before.power[: len(after)]
    passed = (sample.spectrum_after.through(spectrum_gain(sample.plan)) > 0.9) & (before > 0)
    return float(np.median(after[passed] / before[passed])) if passed.any() else 1.0


def _spare_the_filtered_away(axis: Any, power: NDArray[np.float64]) -> None:
    """Show what is as strong as the spectrum before, not the nothing that a filter leaves."""
    shown = power[power > 0]
    if shown.size:
        axis.set_ylim(shown.min() / 30, shown.max() * 3)


def draw_shifts(axis: Any, sample: Sample) -> None:
    """How far recentring has moved the particles, and what is left to the alignment."""
    applied, left = (np.hypot(*shifts.T) for shifts in (sample.applied, sample.left))
    axis.set(xlabel="length of the shift (Å)", ylabel="particles")
    if sample.plan.recenter is Recenter.NONE:
        axis.set_title("Shifts: not recentred, so those of the alignment stay there", loc="left", fontsize=9)
        axis.set(xticks=[], yticks=[])
        return
    bins = np.linspace(0, max(applied.max(initial=0), left.max(initial=0), sample.plan.apix_in), 30)
    for lengths, color, name in ((applied, BEFORE, "applied"), (left, AFTER, "left in the alignment")):
        label = f"{name}: median {np.median(lengths) if lengths.size else 0:.3g} Å"
        axis.hist(lengths, bins, color=color, alpha=0.6, label=label)
    axis.legend(fontsize=8)
    axis.set_title(f"Shifts of {len(applied)} particles", loc="left", fontsize=9)


def contrast_limits(image: NDArray[np.generic]) -> tuple[float, float]:
    """The values that show black and white."""
    low, high = np.percentile(image.astype(np.float32), CONTRAST_PERCENTILES)
    return float(low), float(high)


def round_length(length: float) -> float:
    """The largest of 1, 2, 5, 10 … not above a length."""
    power = 10.0 ** np.floor(np.log10(length))
    return float(max(step * power for step in (1, 2, 5) if step * power <= length))
