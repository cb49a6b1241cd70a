# SPDX-License-Identifier: GPL-3.0-or-later
"""A window that says what went wrong, with a table of the particles that it is about."""

from __future__ import annotations

import tkinter as tk
from tkinter import ttk

from pyworkflow.gui import configureWeigths
from pyworkflow.gui.dialog import RESULT_CANCEL, Dialog

from ..engine.tables import listed_particles

SHOWN = 1000  # rows
COLUMNS = {"Particle": 80, "Image": 70, "File": 400, "Problem": 650}  # and their widths, px
ROWS, LINES = 12, 14  # of the table and of the text, at most
WIDTH = 140  # of the text, in characters


class ProblemDialog(Dialog):
    """Shows a text and, if there is a list of particles in a file, the first of them."""

    def __init__(self, parent, title, text, listPath):
        self._text, self._path = text, listPath
        self._listed = listed_particles(listPath, SHOWN) if listPath else []
        Dialog.__init__(self, parent, title, buttons=[("Close", RESULT_CANCEL)], default="Close")

    def body(self, frame):
        """Scipion's hook: fill the window."""
        configureWeigths(frame, row=2)
        self.text = tk.Text(frame, wrap=tk.WORD, width=WIDTH, height=min(self._lines(), LINES))
        self.text.insert(tk.END, self._text)
        self.text.configure(state=tk.DISABLED)
        self.text.grid(row=0, column=0, columnspan=2, sticky="ew", pady=4)
        if not self._listed:
            return
        what = f"The first {SHOWN} particles" if len(self._listed) == SHOWN else "All particles"
        tk.Label(frame, text=f"{what} in {self._path}:", anchor="w").grid(row=1, column=0, sticky="w")
        self.table = ttk.Treeview(frame, columns=list(COLUMNS), show="headings", height=min(len(self._listed), ROWS))
        for name, width in COLUMNS.items():
            self.table.heading(name, text=name, anchor=tk.W)
            self.table.column(name, width=width, anchor=tk.W)
        for particle in self._listed:
            self.table.insert("", tk.END, values=tuple(particle))
        bar = ttk.Scrollbar(frame, command=self.table.yview)
        self.table.configure(yscrollcommand=bar.set)
        self.table.grid(row=2, column=0, sticky="news")
        bar.grid(row=2, column=1, sticky="ns")

    def _lines(self):
        """How many the text takes, more or less."""
        return sum(1 + len(line) // WIDTH for line in self._text.split("\n"))
