# SPDX-License-Identifier: GPL-3.0-or-later
"""The viewer of "downsample particles": what came out, as pictures and in Scipion's own particle viewer.

Scipion looks for viewers here, and takes those of modules whose names begin with this one's.
"""

from __future__ import annotations

import os

from matplotlib.image import imread
from pwem.viewers import EmPlotter, EmProtocolViewer
from pwem.viewers.mdviewer.viewer import MDView
from pyworkflow.protocol import params

from .errors import DownsampleError
from .picture import draw_shifts, draw_spectra
from .protocols import ProtDownsampleParticles
from .sample import Sample
from .viewers_volumes import DownsampleVolumesViewer

__all__ = ["DownsampleViewer", "DownsampleVolumesViewer"]

PICTURE_INCHES = (13.5, 6.9)
PLOT_INCHES = (7.0, 4.5)


class DownsampleViewer(EmProtocolViewer):
    """Shows the result picture, spectra, shifts, and the particles."""

    _label = "result of downsampling"
    _targets = [ProtDownsampleParticles]

    def _defineParams(self, form):
        form.addSection(label="Result")
        form.addParam(
            "showPicture",
            params.LabelParam,
            default=True,
            label="Result picture",
            help="Particles before and after at the same scale, their power spectra, and the shifts.",
        )
        form.addParam(
            "showSpectra",
            params.LabelParam,
            label="Power spectra",
            help="How strong the images are at each resolution, before and after, with the filter and the Nyquist "
            "limits: below the new limit nothing is to be lost but what the filter takes.",
        )
        form.addParam(
            "showShifts",
            params.LabelParam,
            label="Shifts",
            help="How far recentring has moved the particles, and what is left to their alignment.",
        )
        form.addParam(
            "showParticles",
            params.LabelParam,
            label="Downsampled particles",
            help="The output in Scipion's own viewer, as a table or a gallery.",
        )

    def _getVisualizeDict(self):
        return {
            "showPicture": self._picture,
            "showSpectra": lambda _: self._plot(draw_spectra, "Power spectra"),
            "showShifts": lambda _: self._plot(draw_shifts, "Shifts"),
            "showParticles": self._particles,
        }

    def _validate(self):
        return [] if hasattr(self.protocol, "outputParticles") else ["The run has no particles yet; wait for its end."]

    def _picture(self, _):
        path = self.protocol.picturePath()
        if not os.path.exists(path):
            self.showError(f"{path}: the picture is not there; the run's log says why it could not be drawn.")
            return []
        plotter = EmPlotter(windowTitle="Downsampled particles", figsize=PICTURE_INCHES)
        axis = plotter.getFigure().add_subplot()
        axis.imshow(imread(path))
        axis.axis("off")
        return [plotter]

    def _plot(self, draw, title):
        try:
            sample = Sample.of_jobs([job for job in self.protocol.jobs() if job.is_finished()])
        except DownsampleError as error:
            self.showError(f"{error}. The result picture has it as it was at the end of the run.")
            return []
        plotter = EmPlotter(windowTitle=title, figsize=PLOT_INCHES)
        draw(plotter.getFigure().add_subplot(), sample)
        return [plotter]

    def _particles(self, _):
        return [MDView(self.protocol.outputParticles, self.protocol, self.getProject().port)]
