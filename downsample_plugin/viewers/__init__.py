# SPDX-License-Identifier: GPL-3.0-or-later
"""What *Analyze results* opens for each protocol: pictures, particles to page through, and what went wrong."""

from __future__ import annotations

import os
import re

import numpy as np
from matplotlib.image import imread
from pwem.viewers import EmPlotter, EmProtocolViewer
from pwem.viewers.mdviewer.viewer import MDView
from pyworkflow.protocol import params

from ..errors import DownsampleError
from ..plots import draw_lengths, draw_places, draw_shifts, draw_spectra
from ..protocols import ProtDownsampleParticles, ProtRestoreFullSize, ProtShiftParticleCenter
from ..protocols.messages import PlainLabel
from ..protocols.results import OUTPUT_NAME
from ..sample import Pairs, Sample
from ..words import counted
from .browser import INCHES, Browser, draw_pair, draw_place
from .centers import Centers
from .problem import ProblemDialog

COLORS = re.compile(r"\x1b\[\d+m")  # of Scipion's messages, for terminals
PICTURE_INCHES = (13.5, 6.9)
PLOT_INCHES = (7.0, 5.0)
PLOT_PLACE = (0.12, 0.27, 0.76, 0.65)  # of the axis, in parts of the figure
PLACES_INCHES = (12.0, 5.6)
PIXELS_FOR_SPECTRA = 1 << 27  # read for the viewer's own plot: what takes some seconds


class _ResultViewer(PlainLabel, EmProtocolViewer):
    """Shows results; of a run without any, why that is so."""

    def visualize(self, obj, **args):
        """Scipion's hook: "Analyze results" was pressed."""
        if hasattr(obj, OUTPUT_NAME) and not obj.isFailed():
            super().visualize(obj, **args)
            return
        title, text = _stateOf(obj)
        ProblemDialog(args["windows"].root, title, text, obj.badPath())
        if hasattr(obj, OUTPUT_NAME):  # of a run that followed an open set: it has some results
            super().visualize(obj, **args)

    def _show(self, draw, title, inches):
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

    def _particles(self, _):
        return [MDView(self.protocol.outputParticles, self.protocol, self.getProject().port)]


def _stateOf(protocol):
    """(title, text) on a run without results."""
    if protocol.isFailed():
        message = COLORS.sub("", protocol.getErrorMessage() or "")
        return "The run has failed", message or "It was killed; see its log, then continue it."
    return f"The run is {protocol.getStatus()}", "\n".join(protocol.summary())


class DownsampleViewer(_ResultViewer):
    """Shows the result picture, particles to page through, spectra, shifts, and the particles in Scipion's viewer."""

    _label = "result of downsampling"
    _targets = [ProtDownsampleParticles]

    def _defineParams(self, form):
        form.addSection(label="Result")
        form.addParam(
            "showPicture",
            params.LabelParam,
            default=True,
            label="Result picture",
            help="Some particles before and after at the same scale, the power spectra, and the shifts, or without "
            "recentring the grey values.",
        )
        form.addParam(
            "browsePairs",
            params.LabelParam,
            label="Browse particles",
            help="Any particle before and after, side by side, by its number, at any low-pass. A frame shows what was "
            "cut out. The first row of an image is at the top, as in Scipion's viewer.",
        )
        form.addParam(
            "showSpectra",
            params.LabelParam,
            label="Power spectra",
            help="How strong the images are at each resolution, before and after, with the filter and the Nyquist "
            "limits: below the new limit nothing is to be lost but what the filter takes. Of all images, or as many "
            "as can be read in some seconds.",
        )
        form.addParam(
            "showShifts",
            params.LabelParam,
            label="Shifts",
            help="How far recentring has moved the particles, and what is left to their alignment, of all.",
        )
        form.addParam(
            "showParticles",
            params.LabelParam,
            label="Downsampled particles",
            help="The output in Scipion's own viewer, as a table or a gallery.",
        )

    def _getVisualizeDict(self):
        return {
            "showPicture": lambda _: self._show(self._drawPicture, "Downsampled particles", PICTURE_INCHES),
            "browsePairs": lambda _: self._show(self._browse, "Particles before and after", INCHES),
            "showSpectra": lambda _: self._show(self._drawSpectra, "Power spectra", PLOT_INCHES),
            "showShifts": lambda _: self._show(self._drawShifts, "Shifts", PLOT_INCHES),
            "showParticles": self._particles,
        }

    def _drawPicture(self, figure):
        path = self.protocol.picturePath()
        if not os.path.exists(path):
            raise DownsampleError(f"{path}: the picture is not there; the run's log says why it could not be drawn.")
        axis = figure.add_axes((0, 0, 1, 1))
        axis.imshow(imread(path))
        axis.axis("off")

    def _browse(self, figure):
        pairs = Pairs(self.protocol.jobs())
        Browser(figure, len(pairs), draw_pair(pairs))

    def _drawSpectra(self, figure):
        jobs = self.protocol.jobs()
        every = sum(job.image_count for job in jobs)
        draw_spectra(figure.add_axes(PLOT_PLACE), Sample.of_jobs(jobs, every, PIXELS_FOR_SPECTRA))

    def _drawShifts(self, figure):
        draw_shifts(figure.add_axes(PLOT_PLACE), Sample.of_jobs(self.protocol.jobs(), 0))


class CentersViewer(_ResultViewer):
    """Shows where particles stand in the original box, before and after."""

    _label = "particles and their centers"
    _targets = [ProtRestoreFullSize, ProtShiftParticleCenter]

    def _defineParams(self, form):
        form.addSection(label="Result")
        form.addParam(
            "showPlaces",
            params.LabelParam,
            default=True,
            label="Places and distances",
            help="Where the particles stand in the box of the original images, and how far they lie from its centre, "
            "before and after; how many there are, and how many were left out.",
        )
        form.addParam(
            "browsePlaces",
            params.LabelParam,
            label="Browse particles",
            help="Any original image with the place of the particle in it, by its number, at any low-pass, and beside "
            "it the same image moved to that place. The first row is at the top, as in Scipion's viewer.",
        )
        form.addParam(
            "showLeftOut",
            params.LabelParam,
            label="Particles left out",
            help="Those input particles that are not in the output, each with the reason.",
        )
        form.addParam(
            "showParticles",
            params.LabelParam,
            label="Output particles",
            help="The output in Scipion's own viewer, as a table or a gallery.",
        )

    def _getVisualizeDict(self):
        return {
            "showPlaces": lambda _: self._show(self._drawPlaces, "Where the particles stand", PLACES_INCHES),
            "browsePlaces": lambda _: self._show(self._browse, "Particles and their centers", INCHES),
            "showLeftOut": self._leftOut,
            "showParticles": self._particles,
        }

    def _centers(self):
        return Centers(*self.protocol.alignmentsBeforeAndAfter(), self.protocol.keepsImages)

    def _drawPlaces(self, figure):
        centers, run = self._centers(), self.protocol
        found, asked = run.outputParticles.getSize(), run.particles().countWhere("enabled=1")
        left_out = f", {asked - found} left out" if asked > found else ""
        figure.suptitle(f"{found} of {counted(asked, 'particle')} in the output{left_out}", fontsize=11)
        names = run.namesOfPlaces
        places, distances = figure.add_axes((0.06, 0.22, 0.4, 0.66)), figure.add_axes((0.55, 0.22, 0.42, 0.66))
        draw_places(places, (centers.before, centers.after), names, centers.box, centers.apix)
        lengths = [np.hypot(*points.T) for points in (centers.before, centers.after)]
        draw_lengths(distances, lengths, names, centers.apix)
        distances.set(xlabel="distance from the centre of the box (Å)", ylabel="particles")
        distances.set_title("How far they lie from the centre", loc="left", fontsize=9)

    def _browse(self, figure):
        centers = self._centers()
        Browser(figure, len(centers), draw_place(centers))

    def _leftOut(self, _):
        path = self.protocol.badPath()
        text = f"They are listed in {path}." if os.path.exists(path) else "None was left out."
        ProblemDialog(self.getTkRoot(), "Particles left out", text, path)
        return []


__all__ = ["CentersViewer", "DownsampleViewer"]
