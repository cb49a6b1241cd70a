# SPDX-License-Identifier: GPL-3.0-or-later
"""Curves and histograms of what a run did: spectra, shifts, grey values; each drawn into an axis of Matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from ..core.filters import spectrum_gain
from ..core.geometry import origin
from ..words import counted
from .sample import Sample

BEFORE, AFTER, FILTER = "tab:blue", "tab:orange", "tab:green"
# Å; what an axis may name
ROUND = (0.5, 0.6, 0.8, 1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 10, 20, 30, 40, 50, 60, 100, 200, 300, 400, 500, 600, 1000)
LEAST_GAP = 0.08  # between two of them, of the axis
BINS = 40
GREY_PERCENTILES = (0.1, 99.9)
MOST_POINTS = 5000  # of a scatter plot


def draw_spectra(axis: Any, sample: Sample) -> None:
    """Radial power before and after, the gain of the filters, and both Nyquist limits."""
    plan, before, after = sample.plan, sample.spectrum_before, sample.spectrum_after
    if before.count:
        scale = _scale_of_normalization(sample) if plan.normalize else 1.0
        label = "before, on the normalised scale" if plan.normalize else "before"
        axis.semilogy(before.frequency, scale * before.power, color=BEFORE, label=label)
        axis.semilogy(after.frequency, after.power, color=AFTER, label="after")
        _spare_the_filtered_away(axis, scale * before.power)
    ends = 1 / (2 * plan.apix_in), 1 / plan.nyquist_resolution
    for end, color, name in zip(ends, (BEFORE, AFTER), ("before", "after")):
        axis.axvline(end, color=color, linestyle=":", label=f"Nyquist {name}: {1 / end:.3g} Å")
    highest = 1.05 * max(ends)
    axis.set(xlim=(0, highest), xlabel="resolution (Å)", ylabel="radial power")
    resolutions = round_resolutions(highest)
    axis.set_xticks([0, *(1 / each for each in resolutions)], ["∞", *(f"{each:g}" for each in resolutions)])
    number = str(before.count) if before.count == sample.count else f"{before.count} of {sample.count}"
    axis.set_title(f"Power spectrum of {number} images, in the same box", loc="left", fontsize=9)
    lines, labels = axis.get_legend_handles_labels()
    if plan.filtered:
        gains = axis.twinx()
        gain = after.through(spectrum_gain(plan))
        lines += gains.plot(after.frequency, gain, color=FILTER, linestyle="--")
        labels.append("gain of the filter")
        gains.set(ylim=(0, 1.05), ylabel="gain")
    _legend_below(axis, lines, labels)


def round_resolutions(highest: float) -> list[float]:
    """Round resolutions (Å), the finest first, for an axis from 0 to a frequency (1/Å), not too close to each other."""
    kept: list[float] = []
    above = np.inf
    for each in ROUND:
        if 1 / each <= highest and above - 1 / each >= LEAST_GAP * highest <= 1 / each:
            kept.append(each)
            above = 1 / each
    return kept


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
    lengths = [np.hypot(*shifts.T) for shifts in (sample.applied, sample.left)]
    draw_lengths(axis, lengths, ("applied", "left in the alignment"), sample.plan.apix_in)
    axis.set(xlabel="length of the shift (Å)", ylabel="images")
    axis.set_title(f"Shifts of {counted(sample.count, 'image')}", loc="left", fontsize=9)


def draw_lengths(axis: Any, lengths: Sequence[NDArray[np.float64]], names: Sequence[str], shortest: float) -> None:
    """Histograms of lengths (Å) before and after, on one scale of at least `shortest`, with their medians."""
    bins = np.linspace(0, max(shortest, *(each.max(initial=0) for each in lengths)), BINS)
    for each, color, name in zip(lengths, (BEFORE, AFTER), names):
        label = f"{name}: median {np.median(each) if each.size else 0:.3g} Å"
        axis.hist(each, bins, color=color, alpha=0.6, label=label)
    _legend_below(axis, *axis.get_legend_handles_labels())


def draw_grey_values(axis: Any, sample: Sample) -> None:
    """How the pixels' values are spread before and after."""
    values = [np.concatenate([*of, []]) for of in (sample.grey_before, sample.grey_after)]
    if all(each.size for each in values):
        ends = np.percentile(np.concatenate(values), GREY_PERCENTILES)
        bins = np.linspace(ends[0], max(ends[1], np.nextafter(ends[0], np.inf)), BINS)
        for each, color, name in zip(values, (BEFORE, AFTER), ("before", "after")):
            label = f"{name}: mean {each.mean():.3g}, std. dev. {each.std():.3g}"
            weights = np.full(each.size, 100 / each.size)
            axis.hist(each, bins, weights=weights, histtype="step", linewidth=1.5, color=color, label=label)
        _legend_below(axis, *axis.get_legend_handles_labels())
    axis.set(xlabel="grey value", ylabel="pixels (%)")
    axis.set_title(f"Grey values of {counted(len(sample.grey_before), 'image')}", loc="left", fontsize=9)


def draw_places(axis: Any, places: Sequence[NDArray[np.float64]], names: Sequence[str], box: int, apix: float) -> None:
    """Where particles stand in a box of so many px, seen as their images are: points (n, 2) in Å from the origin."""
    begin, end = edges(box, apix)
    axis.add_patch(Rectangle((begin, begin), end - begin, end - begin, fill=False, color="black"))
    for points, color, name in zip(places, (BEFORE, AFTER), names):
        step = max(-(-len(points) // MOST_POINTS), 1)
        axis.scatter(*points[::step].T, s=6, alpha=0.5, color=color, label=name)
    axis.axhline(0, color="gray", linewidth=0.5)
    axis.axvline(0, color="gray", linewidth=0.5)
    reach = 1.05 * max(end, -begin, *(np.abs(points).max(initial=0) for points in places))
    axis.set(xlim=(-reach, reach), ylim=(reach, -reach), aspect="equal", xlabel="x (Å)", ylabel="y (Å), down the image")
    axis.set_title(f"Where the particles are in the box of {box} px", loc="left", fontsize=9)
    _legend_below(axis, *axis.get_legend_handles_labels())


def _legend_below(axis: Any, lines: Any, labels: Any) -> None:
    """A legend that hides no line."""
    axis.legend(lines, labels, fontsize=8, loc="upper left", bbox_to_anchor=(-0.08, -0.17), ncols=2, frameon=False)


def edges(box: int, apix: float) -> tuple[float, float]:
    """Where a box of so many px of `apix` Å begins and ends, in Å from the centre of its origin pixel."""
    return (-0.5 - origin(box)) * apix, (box - 0.5 - origin(box)) * apix
