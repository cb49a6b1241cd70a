# SPDX-License-Identifier: GPL-3.0-or-later
"""What all viewers have in common: results, or why a run has none."""

from __future__ import annotations

import os
import re

from matplotlib.image import imread
from pwem.viewers import EmPlotter, EmProtocolViewer
from pwem.viewers.mdviewer.viewer import MDView

from ..errors import DownsampleError
from ..protocols.messages import PlainLabel
from .problem import ProblemDialog

COLORS = re.compile(r"\x1b\[\d+m")  # of Scipion's messages, for terminals


class ResultViewer(PlainLabel, EmProtocolViewer):
    """Shows results; of a run without any, why that is so."""

    def visualize(self, obj, **args):
        """Scipion's hook: "Analyze results" was pressed."""
        if self.output() is not None and not obj.isFailed():
            super().visualize(obj, **args)
            return
        title, text = _stateOf(obj)
        ProblemDialog(args["windows"].root, title, text, obj.badPath())
        if self.output() is not None:  # of a run that followed an open set: it has some results
            super().visualize(obj, **args)

    def output(self):
        """The output of the run, or None."""
        return getattr(self.protocol, self.protocol.outputName(), None)

    def show(self, draw, title, inches):
        """A window with what `draw` draws into a figure; what cannot be drawn is said."""
        plotter = EmPlotter(windowTitle=title, figsize=inches)
        plotter.tightLayoutOn = False  # each has its own
        try:
            draw(plotter.getFigure())
        except DownsampleError as error:
            plotter.close()
            self.showError(str(error))
            return []
        return [plotter]

    def drawPicture(self, figure):
        """The result picture, over all of a figure."""
        path = self.protocol.picturePath()
        if not os.path.exists(path):
            raise DownsampleError(f"{path}: the picture does not exist; the run's log says why it could not be drawn.")
        axis = figure.add_axes((0, 0, 1, 1))
        axis.imshow(imread(path))
        axis.axis("off")

    def particles(self, _):
        """The output in Scipion's own viewer."""
        return [MDView(self.output(), self.protocol, self.getProject().port)]


def _stateOf(protocol):
    """(title, text) on a run without results."""
    if protocol.isFailed():
        message = COLORS.sub("", protocol.getErrorMessage() or "")
        return "The run has failed", message or "It was killed; see its log, then continue it."
    return f"The run is {protocol.getStatus()}", "\n".join(protocol.summary())
