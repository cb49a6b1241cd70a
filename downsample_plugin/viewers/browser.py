# SPDX-License-Identifier: GPL-3.0-or-later
"""A figure to page through particles in: two images of each side by side, at a low-pass that a slider sets."""

from __future__ import annotations

from matplotlib.widgets import Button, Slider, TextBox

from ..errors import DownsampleError
from ..pictures.particles import EYE_RESOLUTION, draw_frame, draw_image
from ..pictures.plots import AFTER, BEFORE, edges
from ..pictures.sample import for_the_eye

INCHES = (10.0, 6.2)
MARGIN = 0.03  # about images, of their width: that half a pixel more on one side shows
COARSEST = 60.0  # Å, where the slider ends
# Where the parts stand in the figure, as (left, bottom, width, height) in parts of it
LEFT_PLACE, RIGHT_PLACE = (0.03, 0.2, 0.45, 0.72), (0.52, 0.2, 0.45, 0.72)
BACK_PLACE, NUMBER_PLACE, ON_PLACE = (0.24, 0.09, 0.05, 0.055), (0.3, 0.09, 0.08, 0.055), (0.39, 0.09, 0.05, 0.055)
LOWPASS_PLACE = (0.3, 0.025, 0.5, 0.04)


class Browser:
    """Widgets of a figure and what they show.

    Attributes
    ----------
    number : of the particle that is shown, from 1
    entry, lowpass : the widgets for its number and for the resolution (Å), 0 for none
    buttons : one page back, one page on
    axes : those of the two images
    """

    def __init__(self, figure, count, draw):
        """`draw(axes, number, resolution)` draws one of so many particles, by its number from 0, low-passed."""
        self._count, self._draw, self.number = count, draw, 1
        self.axes = [figure.add_axes(place) for place in (LEFT_PLACE, RIGHT_PLACE)]
        figure.text(0.23, 0.107, "particle", horizontalalignment="right")
        figure.text(0.45, 0.107, f"of {count}")
        back, on = (Button(figure.add_axes(place), sign) for place, sign in ((BACK_PLACE, "◀"), (ON_PLACE, "▶")))
        back.on_clicked(lambda _: self.show(self.number - 1))
        on.on_clicked(lambda _: self.show(self.number + 1))
        self.entry = TextBox(figure.add_axes(NUMBER_PLACE), "", initial="1", textalignment="center")
        self.entry.on_submit(self._entered)
        self.lowpass = Slider(
            figure.add_axes(LOWPASS_PLACE), "low-pass (0: none) ", 0, COARSEST, valinit=EYE_RESOLUTION, initcolor="none"
        )
        self.lowpass.valtext.set_text(f"{EYE_RESOLUTION:.0f} Å")
        self.lowpass.on_changed(lambda _: self.show(self.number))
        self._figure, self.buttons = figure, (back, on)
        figure.browser = self  # Matplotlib itself keeps no widgets
        self.show(1)

    def _entered(self, text):
        self.show(int(text) if text.strip().isdecimal() else self.number)

    def show(self, number):
        """Show a particle by its number, the nearest if there is none of that number."""
        self.number = min(max(number, 1), self._count)
        if self.entry.text != str(self.number):
            self.entry.set_val(str(self.number))  # which shows it
            return
        self.lowpass.valtext.set_text(f"{self.lowpass.val:.0f} Å")
        for axis in self.axes:
            axis.clear()
            axis.set_axis_off()
        try:
            self._draw(self.axes, self.number - 1, self.lowpass.val)
        except DownsampleError as error:
            self.axes[0].set_title(f"Particle {self.number}: {error}", loc="left", fontsize=8, wrap=True)
        self._figure.canvas.draw_idle()


def draw_at(axis, image, apix, resolution, width, title):
    """An image of `apix` Å/px, low-passed at a resolution (Å) coarser than Nyquist, in a field of so many Å."""
    if resolution > 2 * apix:
        image = for_the_eye(image, apix, min(resolution, len(image) * apix))
    draw_image(axis, image, apix)
    reach = width / 2 * (1 + MARGIN)
    axis.set(xlim=(-reach, reach), ylim=(-reach, reach))
    axis.set_title(title, loc="left", fontsize=9)


def draw_pair(pairs):
    """What draws an image of Pairs before and after, for a Browser."""
    plan = pairs.plan
    width = max(plan.box_in * plan.apix_in, plan.box_out * plan.apix_out)

    def draw(axes, number, resolution):
        pair = pairs[number]
        before = f"before: {plan.box_in} px, {plan.apix_in:.4g} Å/px\n{pair.place}"
        after = f"after: {plan.box_out} px, {plan.apix_out:.4g} Å/px\n"
        draw_at(axes[0], pair.before, plan.apix_in, resolution, width, before)
        draw_frame(axes[0], plan, pair.applied)
        draw_at(axes[1], pair.after, plan.apix_out, resolution, width, after)

    return draw


def draw_place(centers):
    """What draws a particle of Centers and where it stands in its box, for a Browser."""

    def draw(axes, number, resolution):
        found = centers[number]
        begin, end = edges(len(found.image), found.apix)
        title = f"original\n{found.place}"
        draw_at(axes[0], found.image, found.apix, resolution, end - begin, title)
        for point, color, name in zip((found.before, found.after), (BEFORE, AFTER), ("before", "now")):
            if point is not None:
                axes[0].plot(point[0], -point[1], "+", color=color, markersize=18, markeredgewidth=2, label=name)
        axes[0].legend(loc="lower right", fontsize=8)
        draw_at(axes[1], found.centred, found.apix, resolution, end - begin, "moved to the centre\n")

    return draw
