# SPDX-License-Identifier: GPL-3.0-or-later
"""The result picture: particles before and after, their spectra, and shifts or grey values; drawn for people.

Images stand as Scipion's own viewer shows them: their first row is at the top.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from ..core.plan import DownsamplePlan, Recenter
from ..words import counted
from .plots import draw_grey_values, draw_shifts, draw_spectra, edges
from .sample import SHOWN, Sample, for_the_eye

CONTRAST_PERCENTILES = (1, 99)
PICTURE_INCHES = (15.0, 7.4)
# Where the parts stand in the picture, as (left, bottom, width, height) in parts of it
PARTICLES_PLACE, SPECTRA_PLACE, SHIFTS_PLACE = (
    (0.01, 0.01, 0.6, 0.91),
    (0.67, 0.61, 0.28, 0.29),
    (0.67, 0.12, 0.28, 0.29),
)
PITCH_ACROSS, PITCH_DOWN = 1.05, 1.2  # from one particle to the next, in widths of the wider box
EYE_RESOLUTION = 20.0  # Å; particles show at it, most of the noise does not
EYE_OVER_NYQUIST = 2.5  # unless the images are so coarse that it must be coarser than their Nyquist limit
BAR_COLOR, FRAME_COLOR = "gold", "deepskyblue"


def draw_result(path: str, sample: Sample) -> None:
    """Write the result picture, a PNG."""
    figure = Figure(figsize=PICTURE_INCHES, dpi=110)
    FigureCanvasAgg(figure)
    title = f"{counted(sample.count, 'image')}: {sample.plan.summary()}".replace("; ", "\n")
    figure.suptitle(title, fontsize=11)
    draw_particles(figure.add_axes(PARTICLES_PLACE), sample)
    draw_spectra(figure.add_axes(SPECTRA_PLACE), sample)
    draw_fourth = draw_grey_values if sample.plan.recenter is Recenter.NONE else draw_shifts
    draw_fourth(figure.add_axes(SHIFTS_PLACE), sample)
    figure.savefig(path)


def draw_particles(axis: Any, sample: Sample) -> None:
    """Particles before and after, each as it is and as it looks without noise, in one drawing whose unit is 1 Å.

    Each image has the contrast of its own percentiles. A box that was cropped shows smaller, and before, a frame shows
    what was cut out.
    """
    plan = sample.plan
    widths = plan.box_in * plan.apix_in, plan.box_out * plan.apix_out
    widest = max(widths)
    eye = eye_resolution(plan)
    bar = round_length(widest / 3)
    across, down = widest * PITCH_ACROSS, widest * PITCH_DOWN
    frame = "; frame: cropped region" if plan.box_crop < plan.box_in else ""
    rows = (
        (False, False, f"before: {plan.box_in} px, {plan.apix_in:.4g} Å/px; bar {bar:g} Å{frame}"),
        (True, False, f"after: {plan.box_out} px, {plan.apix_out:.4g} Å/px; bar {bar:g} Å"),
        (False, True, f"before, low-pass {eye:.0f} Å for viewing"),
        (True, True, f"after, low-pass {eye:.0f} Å for viewing"),
    )
    for row, (is_after, smooth, title) in enumerate(rows):
        axis.text(-widest / 2, widest * 0.52 - row * down, title, fontsize=9, verticalalignment="bottom")
        box, apix = (plan.box_out, plan.apix_out) if is_after else (plan.box_in, plan.apix_in)
        for column, pair in enumerate(sample.shown):
            image, at = pair.after if is_after else pair.before, (column * across, -row * down)
            draw_image(axis, for_the_eye(image, apix, eye) if smooth else image, apix, at)
            if not is_after:
                draw_frame(axis, plan, pair.applied, at)
        if sample.shown:
            begin, end = edges(box, apix)
            draw_scale_bar(axis, bar, (begin, -end - row * down))
    axis.set(xlim=(-widest / 2, (SHOWN - 1) * across + widest / 2), ylim=(-3 * down - widest / 2, widest * 0.65))
    axis.set(aspect="equal", anchor="W")
    axis.axis("off")


def eye_resolution(plan: DownsamplePlan) -> float:
    """Resolution (Å) at which particles show best, no coarser than the images are wide."""
    wanted = max(EYE_RESOLUTION, EYE_OVER_NYQUIST * plan.nyquist_resolution)
    return min(wanted, plan.box_in * plan.apix_in, plan.box_out * plan.apix_out)


def draw_image(axis: Any, image: NDArray[np.generic], apix: float, at: tuple[float, float] = (0.0, 0.0)) -> None:
    """An image (rows, columns), its first row at the top, with its origin at a point, in Å; the axis points up."""
    low, high = contrast_limits(image)
    begin, end = edges(len(image), apix)
    extent = (at[0] + begin, at[0] + end, at[1] - end, at[1] - begin)
    axis.imshow(image, cmap="gray", vmin=low, vmax=high, extent=extent, origin="upper", interpolation="nearest")


def draw_frame(
    axis: Any, plan: DownsamplePlan, applied: NDArray[np.float64], at: tuple[float, float] = (0.0, 0.0)
) -> None:
    """What was cut out of an image that ``draw_image`` drew; `applied` is what recentring moved it by (x, y), px.

    Nothing where nothing was cut away.
    """
    if plan.box_crop >= plan.box_in:
        return
    whole, window = np.array(edges(plan.box_in, plan.apix_in)), np.array(edges(plan.box_crop, plan.apix_in))
    x, y = (np.clip(window - moved * plan.apix_in, *whole) for moved in applied.tolist())
    corner = at[0] + x[0], at[1] - y[1]
    axis.add_patch(Rectangle(corner, x[1] - x[0], y[1] - y[0], fill=False, color=FRAME_COLOR, linewidth=1))


def draw_scale_bar(axis: Any, length: float, corner: tuple[float, float]) -> None:
    """A bar of so many Å in the lower left corner of an image."""
    start, y = corner[0] + 0.15 * length, corner[1] + 0.2 * length
    axis.plot([start, start + length], [y, y], color=BAR_COLOR, linewidth=3, solid_capstyle="butt")


def contrast_limits(image: NDArray[np.generic]) -> tuple[float, float]:
    """The values that show black and white."""
    low, high = np.percentile(image.astype(np.float32), CONTRAST_PERCENTILES)
    return float(low), float(high)


def round_length(length: float) -> float:
    """The largest of 1, 2, 5, 10 … not above a length."""
    power = 10.0 ** np.floor(np.log10(length))
    return float(max(step * power for step in (1, 2, 5) if step * power <= length))
