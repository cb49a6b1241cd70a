# SPDX-License-Identifier: GPL-3.0-or-later
"""The viewer of "downsample volumes": the result picture, and sections and spectra of any of the volumes."""

from __future__ import annotations

import os

from matplotlib.image import imread
from pwem.objects import SetOfVolumes
from pwem.viewers import EmPlotter, EmProtocolViewer
from pyworkflow.protocol import params

from .errors import DownsampleError
from .map_picture import MapSample, draw_map_spectra, draw_sections
from .protocols import ProtDownsampleVolumes

PICTURE_INCHES = (13.5, 5.9)
SECTIONS_INCHES, SPECTRA_INCHES = (9.0, 6.0), (7.0, 4.5)


class DownsampleVolumesViewer(EmProtocolViewer):
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
                help="Which volume of the set the sections and spectra below are of: its number in the set, from 1.",
            )
        form.addParam(
            "showSections",
            params.LabelParam,
            label="Central sections",
            help="The three sections through the origin, before and after, at the same scale and contrast: the volume "
            "is to stand in the same place.",
        )
        form.addParam(
            "showSpectra",
            params.LabelParam,
            label="Power spectra",
            help="How strong the volume is at each resolution, before and after, with the filter and the Nyquist "
            "limits: below the new limit nothing is to be lost but what the filter takes.",
        )

    def _getVisualizeDict(self):
        return {
            "showPicture": self._picture,
            "showSections": lambda _: self._plot(draw_sections, "Central sections", SECTIONS_INCHES),
            "showSpectra": lambda _: self._plot(draw_map_spectra, "Power spectra", SPECTRA_INCHES),
        }

    def _isSet(self):
        return isinstance(self._output(), SetOfVolumes)

    def _output(self):
        return getattr(self.protocol, self.protocol.outputName(), None)

    def _validate(self):
        return [] if self._output() is not None else ["The run has no volumes yet; wait for its end."]

    def _picture(self, _):
        path = self.protocol.picturePath()
        if not os.path.exists(path):
            self.showError(f"{path}: the picture is not there; the run's log says why it could not be drawn.")
            return []
        plotter = EmPlotter(windowTitle="Downsampled volumes", figsize=PICTURE_INCHES)
        axis = plotter.getFigure().add_subplot()
        axis.imshow(imread(path))
        axis.axis("off")
        return [plotter]

    def _plot(self, draw, title, inches):
        try:
            volume, made = self.protocol.pairOf(self.volumeNumber.get() if self._isSet() else 1)
            sample = MapSample.of_files(
                self.protocol.plan(), volume.getFileName(), volume.getIndex(), made.getFileName()
            )
        except DownsampleError as error:
            self.showError(f"{error}. The result picture has it as it was at the end of the run.")
            return []
        plotter = EmPlotter(windowTitle=title, figsize=inches)
        draw(plotter.getFigure().add_subplot(), sample)
        return [plotter]
