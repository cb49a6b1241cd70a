# SPDX-License-Identifier: GPL-3.0-or-later
"""The result picture of maps and masks: three central sections before and after, and their spectra; for people."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ..core.filters import plan_gain
from ..core.geometry import origin, window_slices
from ..core.resampling import Sections
from ..core.spectra import RadialPower
from ..core.volume_plan import VolumePlan
from ..files.maps import MapFile
from .particles import draw_scale_bar, round_length
from .plots import AFTER, BEFORE, FILTER, edges

PICTURE_INCHES = (14.5, 6.2)
# Where the parts stand in the picture, as (left, bottom, width, height) in parts of it
SECTIONS_PLACE, SPECTRA_PLACE = (0.01, 0.01, 0.58, 0.92), (0.65, 0.1, 0.29, 0.78)
PITCH_ACROSS, PITCH_DOWN = 1.05, 1.16  # from one section to the next, in widths of the wider box
NAMES = ("section across z (x →, y ↑)", "across y (x →, z ↑)", "across x (y →, z ↑)")
WEAKEST = 1e-9  # of the strongest power; below is the rounding of the map
CONTRAST_PERCENTILES = (0.5, 99.9)  # most of a box is background


@dataclass(frozen=True)
class MapLook:
    """A map for people.

    Attributes
    ----------
    sections : (3, B, B) through the origin, across z, y and x; rows are y, z and z
    power : of the three projections along z, y and x, in the box that is transformed
    """

    sections: NDArray[np.float32]
    power: RadialPower

    @classmethod
    def at(cls, source: Sections, apix: float, box: int) -> MapLook:
        """Look at a map of `apix` Å/px; its projections are those of its window of `box` px."""
        full = len(source)
        middle = origin(full)
        sections = np.empty((3, full, full), dtype=np.float32)
        taken, placed = window_slices(full, box, 0)
        along_z, along_y, along_x = np.zeros((3, full, full))
        for z in range(full):
            section = source[z]
            if z == middle:
                sections[0] = section
            sections[1, z], sections[2, z] = section[middle], section[:, middle]
            if taken.start <= z < taken.stop:
                along_z += section
            along_y[z] = section[taken].sum(axis=0, dtype=np.float64)
            along_x[z] = section[:, taken].sum(axis=1, dtype=np.float64)
        power = RadialPower(box, apix)
        for projection in (along_z, along_y, along_x):
            cut = projection[taken, taken] * apix
            window = np.full((box, box), np.concatenate([cut[0], cut[-1], cut[:, 0], cut[:, -1]]).mean())
            window[placed, placed] = cut
            power.add(window)
        return cls(sections, power)


@dataclass(frozen=True)
class MapSample:
    """A map before and after a plan."""

    plan: VolumePlan
    before: MapLook
    after: MapLook

    @classmethod
    def of_files(cls, plan: VolumePlan, path: str, index: int, output: str) -> MapSample:
        """Of a map (and its number in the file) and what has come out of it. DataError if either cannot be read."""
        with MapFile(path, index) as source, MapFile(output) as result:
            before = MapLook.at(source, plan.apix_in, plan.box_crop)
            return cls(plan, before, MapLook.at(result, plan.apix_out, plan.box_out))


def draw_map_result(path: str, sample: MapSample, name: str) -> None:
    """Write the result picture, a PNG, of a map of a name."""
    figure = Figure(figsize=PICTURE_INCHES, dpi=110)
    FigureCanvasAgg(figure)
    figure.suptitle(f"{name}: {sample.plan.summary()}", fontsize=11)
    draw_sections(figure.add_axes(SECTIONS_PLACE), sample)
    draw_map_spectra(figure.add_axes(SPECTRA_PLACE), sample)
    figure.savefig(path)


def draw_sections(axis: Any, sample: MapSample) -> None:
    """The central sections before and after, in one drawing whose unit is 1 Å, with the contrast of those before."""
    plan = sample.plan
    widest = max(plan.box_in * plan.apix_in, plan.box_out * plan.apix_out)
    bar = round_length(widest / 3)
    black, white = np.percentile(sample.before.sections, CONTRAST_PERCENTILES)
    rows = (
        (sample.before, plan.box_in, plan.apix_in, "before"),
        (sample.after, plan.box_out, plan.apix_out, "after"),
    )
    for row, (look, box, apix, when) in enumerate(rows):
        y = -row * widest * PITCH_DOWN
        title = f"{when}: {box} px, {apix:.4g} Å/px; bar {bar:g} Å"
        begin, end = edges(box, apix)
        for column, (section, name) in enumerate(zip(look.sections, NAMES)):
            x = column * widest * PITCH_ACROSS
            axis.imshow(
                section,
                cmap="gray",
                vmin=black,
                vmax=white,
                extent=(x + begin, x + end, y + begin, y + end),
                origin="lower",
                interpolation="nearest",
            )
            words = title if column == 0 else ""
            axis.text(x - widest / 2, y + widest * 0.52, words, fontsize=9, verticalalignment="bottom")
            if row == 0:
                axis.text(x - widest / 2, widest * 0.6, name, fontsize=8, color="gray", verticalalignment="bottom")
        draw_scale_bar(axis, bar, (begin, y + begin))
    across = 2 * widest * PITCH_ACROSS + widest / 2
    axis.set(xlim=(-widest / 2, across), ylim=(-widest * (PITCH_DOWN + 0.5), widest * 0.68), aspect="equal", anchor="W")
    axis.axis("off")


def draw_map_spectra(axis: Any, sample: MapSample) -> None:
    """Radial power before and after, the gain of the filters, and both Nyquist limits."""
    plan = sample.plan
    shown = sample.before.power.power
    shown = shown[shown > WEAKEST * shown.max()]
    if shown.size:  # of an empty mask there is nothing to draw
        for look, color, name in ((sample.before, BEFORE, "before"), (sample.after, AFTER, "after")):
            axis.semilogy(look.power.frequency, look.power.power, color=color, label=name)
        axis.set_ylim(shown.min() / 30, shown.max() * 3)
    ends = 1 / (2 * plan.apix_in), 1 / plan.nyquist_resolution
    for end, color, name in zip(ends, (BEFORE, AFTER), ("before", "after")):
        axis.axvline(end, color=color, linestyle=":", label=f"Nyquist {name}: {1 / end:.3g} Å")
    axis.set(xlim=(0, 1.05 * max(ends)), xlabel="resolution (Å)", ylabel="radial power")
    axis.xaxis.set_major_formatter(lambda f, _: f"{1 / f:.3g}" if f > 0 else "∞")
    axis.set_title("Power spectrum: central sections of the 3D transform", loc="left", fontsize=9)
    lines, labels = axis.get_legend_handles_labels()
    if plan.filtered:
        frequency = sample.after.power.frequency
        gains = axis.twinx()
        lines += gains.plot(frequency, plan_gain(plan, frequency), color=FILTER, linestyle="--")
        labels.append("gain of the filter")
        gains.set(ylim=(0, 1.05), ylabel="gain")
    axis.legend(lines, labels, fontsize=8, loc="upper right")
