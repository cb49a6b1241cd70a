# SPDX-License-Identifier: GPL-3.0-or-later
"""The viewer of "downsample volumes": the result picture, and sections and spectra of any of the volumes."""

from __future__ import annotations

from pwem.objects import SetOfVolumes
from pyworkflow.protocol import params

from ..pictures.maps import MapSample, draw_map_spectra, draw_sections
from ..protocols import ProtDownsampleVolumes
from .results import ResultViewer

PICTURE_INCHES = (13.5, 5.9)
SECTIONS_INCHES, SPECTRA_INCHES = (9.0, 6.0), (7.0, 4.5)


class DownsampleVolumesViewer(ResultViewer):
    """Shows the result picture, and sections and the spectrum of a volume."""

    _label = "result of downsampling volumes"
    _targets = [ProtDownsampleVolumes]

    def _defineParams(self, form):
        form.addSection(label="Result")
        form.addParam(
            "showPicture",
            params.LabelParam,
            default=True,
            label="Result picture",
            help="Sections through the origin of the first volume, before and after, at the same scale and contrast, "
            "and the power spectra.",
        )
        if self._isSet():
            form.addParam(
                "volumeNumber",
                params.IntParam,
                default=1,
                label="Volume",
                help="The volume whose sections and spectra are shown below: its number in the set, from 1.",
            )
        form.addParam(
            "showSections",
            params.LabelParam,
            label="Central sections",
            help="The three sections through the origin, before and after, at the same scale and contrast: the "
            "volume should be in the same position.",
        )
        form.addParam(
            "showSpectra",
            params.LabelParam,
            label="Power spectra",
            help="Power at each resolution, before and after, with the filter and the Nyquist limits. Below the new "
            "limit, nothing should be lost except what the filter removes.",
        )

    def _getVisualizeDict(self):
        return {
            "showPicture": lambda _: self.show(self.drawPicture, "Downsampled volumes", PICTURE_INCHES),
            "showSections": lambda _: self.show(self._drawing(draw_sections), "Central sections", SECTIONS_INCHES),
            "showSpectra": lambda _: self.show(self._drawing(draw_map_spectra), "Power spectra", SPECTRA_INCHES),
        }

    def _isSet(self):
        return isinstance(self.output(), SetOfVolumes)

    def _drawing(self, draw):
        def drawInto(figure):
            volume, made = self.protocol.pairOf(self.volumeNumber.get() if self._isSet() else 1)
            plan = self.protocol.plan()
            sample = MapSample.of_files(plan, volume.getFileName(), volume.getIndex(), made.getFileName())
            draw(figure.add_subplot(), sample)

        return drawInto
