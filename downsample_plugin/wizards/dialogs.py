# SPDX-License-Identifier: GPL-3.0-or-later
"""The windows of the wizards. Each blocks until it is closed; then `value` is the choice, or None."""

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
from ..picture import contrast_limits, draw_image, edges

ROWS_SHOWN = 14
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
            self.table.column(column, width=130, anchor=tk.CENTER)
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

    def _slider(self, frame, label, low, high, step, value):
        """A slider for one number, which draws anew when it moves."""
        tk.Label(frame, text=label).grid(row=0, column=0, sticky="sw")
        slider = tk.Scale(frame, from_=low, to=high, resolution=step, orient=tk.HORIZONTAL, length=SLIDER_LENGTH)
        slider.set(value)
        slider.configure(command=lambda _: self.draw())  # after the first value, which is not the user's
        slider.grid(row=0, column=1, sticky="ew")
        return slider


class RadiusDialog(_FigureDialog):
    """A circle on a particle, whose radius (px) is moved."""

    def __init__(self, parent, image, apix, radius):
        self._image, self._apix, self._radius = image, apix, radius
        _FigureDialog.__init__(self, parent, "Background radius", 1)

    def controls(self, frame):
        """A slider for the radius."""
        half = len(self._image) // 2
        self.slider = self._slider(frame, "Radius (px)", 1, half, 1, min(self._radius, half))

    def draw(self):
        """The particle and the circle."""
        radius = self.slider.get()
        axis = self.axes[0]
        axis.clear()
        draw_image(axis, self._image, self._apix)
        axis.add_patch(Circle((0, 0), radius * self._apix, fill=False, color="gold", linewidth=2))
        axis.set_axis_off()
        self.canvas.draw_idle()
        self.text.set(
            f"Outside the circle is background: radius {radius} px = {radius * self._apix:.0f} Å "
            f"of a box of {len(self._image)} px"
        )

    def apply(self):
        """Scipion's hook: the choice was confirmed."""
        self.value = int(self.slider.get())


class FilterDialog(_FigureDialog):
    """A particle without and with a filter, whose resolution (Å) is moved."""

    def __init__(self, parent, title, filtered, apix, resolution, coarsest):
        """`filtered` gives the image for a resolution, or for None without the filter."""
        self._filtered, self._apix, self._resolution = filtered, apix, resolution
        self._finest, self._plain = 2 * apix, filtered(None)
        self._coarsest = max(coarsest, 2 * self._finest)
        _FigureDialog.__init__(self, parent, title, 2)

    def controls(self, frame):
        """A slider for the resolution."""
        value = min(max(self._resolution, self._finest), self._coarsest)
        self.slider = self._slider(frame, "Resolution (Å)", self._finest, self._coarsest, 0.1, value)

    def draw(self):
        """The particle without and with the filter."""
        resolution = self.slider.get()
        for axis, image, title in (
            (self.axes[0], self._plain, "downsampled"),
            (self.axes[1], self._filtered(resolution), f"filtered at {resolution:.1f} Å"),
        ):
            axis.clear()
            draw_image(axis, image, self._apix)
            axis.set_title(title, fontsize=9)
            axis.set_axis_off()
        self.canvas.draw_idle()
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
        text = "Click into a section, or drag, to move the cross; the others follow."
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
