# SPDX-License-Identifier: GPL-3.0-or-later
"""The windows of the wizards. Each blocks until it is closed; then `value` is the choice, or None.

Particles stand as Scipion's own viewer shows them, their first row at the top; sections of a map have y upwards, and
names on their axes.
"""

from __future__ import annotations

import tkinter as tk
from tkinter import ttk

import numpy as np
from matplotlib.backends.backend_tkagg import FigureCanvasTkAgg
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from pyworkflow.gui import configureWeigths
from pyworkflow.gui.dialog import RESULT_CANCEL, RESULT_YES, Dialog

from ..core.geometry import origin
from ..errors import DownsampleError
from ..pictures.particles import contrast_limits
from ..pictures.plots import edges

ROWS_SHOWN = 14
COLUMN_WIDTH = 130  # px of the screen
INCHES = 3.4  # of a panel
SLIDER_LENGTH = 420  # px of the screen


class ChoiceDialog(Dialog):
    """A table to choose a row of: Choices."""

    def __init__(self, parent, title, choices, message):
        self.value = None
        self._choices, self._message = choices, message
        buttons = [("Select", RESULT_YES), ("Cancel", RESULT_CANCEL)]
        Dialog.__init__(self, parent, title, buttons=buttons, default="Select")

    def body(self, frame):
        """Scipion's hook: fill the window."""
        configureWeigths(frame, row=1)
        tk.Label(frame, text=self._message, justify=tk.LEFT, wraplength=560).grid(row=0, column=0, sticky="w", pady=4)
        columns = [f"#{number}" for number in range(1, len(self._choices.columns) + 1)]
        self.table = ttk.Treeview(frame, columns=columns, show="headings", height=ROWS_SHOWN, selectmode="browse")
        for column, name in zip(columns, self._choices.columns):
            self.table.heading(column, text=name)
            self.table.column(column, width=COLUMN_WIDTH, anchor=tk.CENTER)
        self.table.column(columns[-1], width=2 * COLUMN_WIDTH)
        for number, row in enumerate(self._choices.rows):
            self.table.insert("", tk.END, iid=number, values=row.cells)
        bar = ttk.Scrollbar(frame, command=self.table.yview)
        self.table.configure(yscrollcommand=bar.set)
        self.table.grid(row=1, column=0, sticky="news")
        bar.grid(row=1, column=1, sticky="ns")
        self.table.bind("<Double-1>", self._handleReturn)
        if self._choices.rows:
            self.table.selection_set(self._choices.first)
            self.table.bind("<Map>", self._showChosen)  # before, it does not know how many rows it shows

    def _showChosen(self, _):
        """Scroll so that the chosen row stands in the middle."""
        self.table.yview_moveto(max(self._choices.first - ROWS_SHOWN // 2, 0) / len(self._choices.rows))

    def apply(self):
        """Scipion's hook: the choice was confirmed."""
        if self.table.selection():
            self.value = self._choices.rows[int(self.table.selection()[0])].value


class _FigureDialog(Dialog):
    """A window about a drawing."""

    def __init__(self, parent, title, panels):
        self.value = None
        self._panels = panels
        Dialog.__init__(self, parent, title)

    def body(self, frame):
        """Scipion's hook: fill the window."""
        configureWeigths(frame)
        self.figure = Figure(figsize=(INCHES * self._panels, INCHES + 0.5), layout="constrained")
        self.axes = self.figure.subplots(1, self._panels, squeeze=False)[0]
        self.canvas = FigureCanvasTkAgg(self.figure, frame)
        self.canvas.get_tk_widget().grid(row=0, column=0, sticky="news")
        self.text = tk.StringVar(self)
        tk.Label(frame, textvariable=self.text, justify=tk.LEFT).grid(row=1, column=0, sticky="w", padx=8)
        controls = tk.Frame(frame)
        controls.grid(row=2, column=0, sticky="ew", padx=8)
        self.controls(controls)
        self.draw()

    def controls(self, frame):
        """Put widgets below the drawing."""

    def draw(self):
        """Draw what the present value means."""

    def _slider(self, frame, row, label, low, high, step, value):
        """A slider for one number, which draws anew when it moves."""
        tk.Label(frame, text=label).grid(row=row, column=0, sticky="sw")
        slider = tk.Scale(frame, from_=low, to=high, resolution=step, orient=tk.HORIZONTAL, length=SLIDER_LENGTH)
        slider.set(value)
        slider.configure(command=lambda _: self.draw())  # after the first value, which is not the user's
        slider.grid(row=row, column=1, sticky="ew")
        return slider


class _PreviewDialog(_FigureDialog):
    """The same about one of some particles, or sections of a map, which a slider chooses."""

    def __init__(self, parent, title, panels, preview):
        """`preview` is a wizard's Preview or MapPreview."""
        self._preview = preview
        _FigureDialog.__init__(self, parent, title, panels)

    def controls(self, frame):
        """Sliders for the image and for what the window is about."""
        self.slider = self.ownSlider(frame)
        self.chosen = self._slider(frame, 1, self._preview.choice, 1, self._preview.count, 1, 1)

    def draw(self):
        """Draw the image that is chosen, or say why it cannot be shown."""
        for axis in self.axes:
            axis.clear()
            axis.set_axis_off()
        try:
            self.drawChosen(self.chosen.get() - 1)
        except DownsampleError as error:
            self.text.set(str(error))
        self.canvas.draw_idle()


class RadiusDialog(_PreviewDialog):
    """A circle on a particle, whose radius (px) is moved."""

    def __init__(self, parent, preview, radius):
        self._radius = radius
        _PreviewDialog.__init__(self, parent, "Background radius", 1, preview)

    def ownSlider(self, frame):
        """A slider for the radius."""
        half = self._preview.plan.box_out // 2
        return self._slider(frame, 0, "Radius (px)", 1, half, 1, min(self._radius, half))

    def drawChosen(self, number):
        """The particle and the circle."""
        radius, plan = self.slider.get(), self._preview.plan
        self._preview.draw(self.axes[0], number)
        self.axes[0].add_patch(Circle((0, 0), radius * plan.apix_out, fill=False, color="gold", linewidth=2))
        self.text.set(
            f"Everything outside the circle counts as background. Radius {radius} px = {radius * plan.apix_out:.0f} Å "
            f"in a box of {plan.box_out} px"
        )

    def apply(self):
        """Scipion's hook: the choice was confirmed."""
        self.value = int(self.slider.get())


class FilterDialog(_PreviewDialog):
    """A particle or section without and with a filter, whose resolution (Å) is moved."""

    def __init__(self, parent, title, preview, field, resolution, coarsest):
        """`field` is that of the plan for the resolution."""
        self._field, self._resolution, self._finest = field, resolution, preview.plan.nyquist_resolution
        self._coarsest = max(coarsest, 2 * self._finest)
        _PreviewDialog.__init__(self, parent, title, 2, preview)

    def ownSlider(self, frame):
        """A slider for the resolution."""
        value = min(max(self._resolution, self._finest), self._coarsest)
        return self._slider(frame, 0, "Resolution (Å)", self._finest, self._coarsest, 0.1, value)

    def drawChosen(self, number):
        """The image without and with the filter."""
        resolution = self.slider.get()
        for axis, changed, title in (
            (self.axes[0], {}, f"{self._preview.name(number)}, downsampled"),
            (self.axes[1], {self._field: resolution}, f"filtered at {resolution:.1f} Å"),
        ):
            self._preview.draw(axis, number, **changed)
            axis.set_title(title, fontsize=9)
        self.text.set(f"Nyquist limit of the output: {self._finest:.4g} Å")

    def apply(self):
        """Scipion's hook: the choice was confirmed."""
        self.value = float(self.slider.get())


class CenterDialog(_FigureDialog):
    """Three sections of a volume through a point, which clicks move; its (x, y, z) is in Å from the origin."""

    #: of each section: axes of the volume to the right and upwards, and the one that it is cut across
    SECTIONS = ((0, 1, 2), (0, 2, 1), (1, 2, 0))

    def __init__(self, parent, volume, apix, point):
        """`volume` (z, y, x) with voxels of `apix` Å."""
        self._volume, self._apix = volume, apix
        self._limits = contrast_limits(volume)
        self.point = np.array(point, dtype=float)
        _FigureDialog.__init__(self, parent, "New center of the particles", 3)

    def controls(self, frame):
        """What to do; and the drawing takes clicks."""
        text = "Click or drag in a section to move the cross; the other sections follow."
        tk.Label(frame, text=text, fg="gray30").grid(row=0, column=0, sticky="w")
        for event in ("button_press_event", "motion_notify_event"):
            self.canvas.mpl_connect(event, self._clicked)

    def draw(self):
        """The sections through the point."""
        box = len(self._volume)
        low, high = self._limits
        extent = edges(box, self._apix) * 2
        for axis, (right, up, across) in zip(self.axes, self.SECTIONS):
            voxel = round(self.point[across] / self._apix) + origin(box)
            section = np.take(self._volume, min(max(voxel, 0), box - 1), axis=2 - across)
            axis.clear()
            axis.imshow(section, cmap="gray", vmin=low, vmax=high, extent=extent, origin="lower")
            axis.axvline(self.point[right], color="gold", linewidth=1)
            axis.axhline(self.point[up], color="gold", linewidth=1)
            axis.set_xlabel(f"{'xyz'[right]} (Å)", fontsize=8)
            axis.set_ylabel(f"{'xyz'[up]} (Å)", fontsize=8)
            axis.set_title(f"{'xyz'[across]} = {self.point[across]:.1f} Å", fontsize=9)
            axis.tick_params(labelsize=7)
        self.canvas.draw_idle()
        self.text.set("New center: x = {:.1f}, y = {:.1f}, z = {:.1f} Å from the origin".format(*self.point))

    def _clicked(self, event):
        if event.inaxes is None or event.button != 1:
            return
        right, up, _ = self.SECTIONS[list(self.axes).index(event.inaxes)]
        self.point[right], self.point[up] = event.xdata, event.ydata
        self.draw()

    def apply(self):
        """Scipion's hook: the choice was confirmed."""
        self.value = self.point
