# SPDX-License-Identifier: GPL-3.0-or-later
"""What protocols have in common that only write a new set of particles, in one quick step."""

from __future__ import annotations

import time

from pwem.protocols import EMProtocol
from pyworkflow.constants import NEW

from .messages import toldToTheUser
from .particles import InputParticles
from .results import OUTPUT_NAME, Outputs


class OneStepProtocol(EMProtocol):
    """A protocol whose ``makeOutput`` returns a set of particles and the lines of its summary."""

    _devStatus = NEW
    _possibleOutputs = Outputs

    def particles(self):
        """The input particles."""
        return InputParticles(self.inputParticles.get())

    def _insertAllSteps(self):
        # Quick, so it is simply done again on "continue", whatever has changed
        self._insertFunctionStep(self.createOutputStep, time.time(), needsGPU=False)

    def createOutputStep(self, launched):
        """Make the output and say what was done."""
        with toldToTheUser():
            output, lines = self.makeOutput()
        self.summaryVar.set("\n".join(lines))
        self.info(self.summaryVar.get())
        self._defineOutputs(**{OUTPUT_NAME: output})
        self.relate(output)

    def _summary(self):
        if hasattr(self, OUTPUT_NAME):
            return self.summaryVar.get().split("\n")
        return ["Output particles not ready yet."]

    def _methods(self):
        return [self.methodsSentence()] if hasattr(self, OUTPUT_NAME) else []
