# SPDX-License-Identifier: GPL-3.0-or-later
"""The viewer of "restore full-size particles" and "move particle center": where particles stand, before and after."""

from __future__ import annotations

import os

import numpy as np
from pyworkflow.protocol import params

from ..pictures.plots import draw_lengths, draw_places
from ..protocols import ProtRestoreFullSize, ProtShiftParticleCenter
from ..words import counted
from .browser import INCHES, Browser, draw_place
from .centers import Centers
from .problem import ProblemDialog
from .results import ResultViewer

PLACES_INCHES = (12.0, 5.6)


class CentersViewer(ResultViewer):
    """Shows where particles stand in the original box, before and after."""

    _label = "particles and their centers"
    _targets = [ProtRestoreFullSize, ProtShiftParticleCenter]

    def _defineParams(self, form):
        form.addSection(label="Result")
        form.addParam(
            "showPlaces",
            params.LabelParam,
            default=True,
            label="Positions and distances",
            help="Where the particles are in the box of the original images, and how far from its centre, before and "
            "after; how many there are, and how many were left out.",
        )
        form.addParam(
            "browsePlaces",
            params.LabelParam,
            label="Browse particles",
            help="Page through the original images, with the particle's position marked, and beside each the same "
            "image moved to that position, with any low-pass filter. The first row is at the top, as in "
            "Scipion's viewer.",
        )
        form.addParam(
            "showLeftOut",
            params.LabelParam,
            label="Particles left out",
            help="The input particles that are not in the output, each with the reason.",
        )
        form.addParam(
            "showParticles",
            params.LabelParam,
            label="Output particles",
            help="The output in Scipion's own viewer, as a table or a gallery.",
        )

    def _getVisualizeDict(self):
        return {
            "showPlaces": lambda _: self.show(self._drawPlaces, "Where the particles are", PLACES_INCHES),
            "browsePlaces": lambda _: self.show(self._browse, "Particles and their centers", INCHES),
            "showLeftOut": self._leftOut,
            "showParticles": self.particles,
        }

    def _centers(self):
        given, made = self.protocol.alignmentsBeforeAndAfter()
        return Centers(given, made, self.protocol.keepsImages)

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
        distances.set_title("Distance from the centre", loc="left", fontsize=9)

    def _browse(self, figure):
        centers = self._centers()
        Browser(figure, len(centers), draw_place(centers))

    def _leftOut(self, _):
        path = self.protocol.badPath()
        text = f"They are listed in {path}." if os.path.exists(path) else "None were left out."
        ProblemDialog(self.getTkRoot(), "Particles left out", text, path)
        return []
