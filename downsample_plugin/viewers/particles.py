# SPDX-License-Identifier: GPL-3.0-or-later
"""The viewer of "downsample particles": the result picture, particles to page through, spectra, shifts."""

from __future__ import annotations

from pyworkflow.protocol import params

from ..pictures.plots import draw_shifts, draw_spectra
from ..pictures.sample import Pairs, Sample
from ..protocols import ProtDownsampleParticles
from .browser import INCHES, Browser, draw_pair
from .results import ResultViewer

PICTURE_INCHES = (13.5, 6.9)
PLOT_INCHES = (7.0, 5.0)
PLOT_PLACE = (0.12, 0.27, 0.76, 0.65)  # of the axis, in parts of the figure
PIXELS_FOR_SPECTRA = 1 << 27  # read for the viewer's own plot: what takes some seconds


class DownsampleViewer(ResultViewer):
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
            help="Some particles before and after, at the same scale, the power spectra, and the shifts (without "
            "recentring: the grey values).",
        )
        form.addParam(
            "browsePairs",
            params.LabelParam,
            label="Browse particles",
            help="Page through the particles, before and after side by side, with any low-pass filter. A frame shows "
            "the cropped region. The first row of an image is at the top, as in Scipion's viewer.",
        )
        form.addParam(
            "showSpectra",
            params.LabelParam,
            label="Power spectra",
            help="Power at each resolution, before and after, with the filter and the Nyquist limits. Below the new "
            "limit, nothing should be lost except what the filter removes. Computed from all images, or from as "
            "many as can be read in a few seconds.",
        )
        form.addParam(
            "showShifts",
            params.LabelParam,
            label="Shifts",
            help="How far recentring has moved the particles, and the shift left in their alignment, for all "
            "particles.",
        )
        form.addParam(
            "showParticles",
            params.LabelParam,
            label="Downsampled particles",
            help="The output in Scipion's own viewer, as a table or a gallery.",
        )

    def _getVisualizeDict(self):
        return {
            "showPicture": lambda _: self.show(self.drawPicture, "Downsampled particles", PICTURE_INCHES),
            "browsePairs": lambda _: self.show(self._browse, "Particles before and after", INCHES),
            "showSpectra": lambda _: self.show(self._drawSpectra, "Power spectra", PLOT_INCHES),
            "showShifts": lambda _: self.show(self._drawShifts, "Shifts", PLOT_INCHES),
            "showParticles": self.particles,
        }

    def _browse(self, figure):
        pairs = Pairs(self.protocol.jobs())
        Browser(figure, len(pairs), draw_pair(pairs))

    def _drawSpectra(self, figure):
        jobs = self.protocol.jobs()
        every = sum(job.image_count for job in jobs)
        draw_spectra(figure.add_axes(PLOT_PLACE), Sample.of_jobs(jobs, every, PIXELS_FOR_SPECTRA))

    def _drawShifts(self, figure):
        draw_shifts(figure.add_axes(PLOT_PLACE), Sample.of_jobs(self.protocol.jobs(), 0))
