# SPDX-License-Identifier: GPL-3.0-or-later
"""What protocols have in common that only write a new set of particles, in one quick step."""

from __future__ import annotations

import time

from pwem.constants import ALIGN_2D

from .alignments import OwnAlignment
from .base import PluginProtocol
from .left_out import LEFT_OUT_NAME
from .messages import toldToTheUser
from .particles import InputParticles
from .results import OUTPUT_NAME


class OneStepProtocol(PluginProtocol):
    """A protocol whose ``makeOutput`` returns a set of particles and the lines of its summary.

    Its ``alignment()`` is that of the input particles.
    """

    #: whether output particles have the images, and the ids, of the input particles
    keepsImages = False
    #: what a viewer is to call the places of input and output particles in their boxes
    namesOfPlaces = ("input", "output")

    def particles(self):
        """The input particles."""
        return InputParticles(self.inputParticles.get())

    def alignmentsBeforeAndAfter(self):
        """(InputParticles, alignment) of the input and of the output; both alignments are read alike."""
        before = self.alignment()
        output = InputParticles(getattr(self, OUTPUT_NAME))
        convention = before.convention if before.kind == ALIGN_2D else None
        return (self.particles(), before), (output, OwnAlignment(output, convention))

    def badPath(self):
        """The list of particles that were left out, there if there are any."""
        return self._getExtraPath(LEFT_OUT_NAME)

    def _insertAllSteps(self):
        # Quick, so it is simply done again on "continue", whatever has changed
        self._insertFunctionStep(self.createOutputStep, time.time(), needsGPU=False)

    def createOutputStep(self, launched):
        """Make the output and say what was done."""
        with toldToTheUser():
            output, lines = self.makeOutput()
        self.describeRun(lines, self.methodsSentence(output.getSize()))
        self._defineOutputs(**{OUTPUT_NAME: output})
        self.relate(output)
