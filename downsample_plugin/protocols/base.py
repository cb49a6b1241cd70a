# SPDX-License-Identifier: GPL-3.0-or-later
"""What all protocols of the plugin have in common."""

from __future__ import annotations

import enum

from pwem.protocols import EMProtocol
from pyworkflow.constants import NEW

from .messages import PlainLabel
from .results import OUTPUT_NAME, Outputs


class PluginProtocol(PlainLabel, EMProtocol):
    """A protocol that leaves its summary, and the sentence for a paper, when its output is there."""

    _devStatus = NEW
    _possibleOutputs: type[enum.Enum] = Outputs

    def outputName(self):
        """The name of its output."""
        return OUTPUT_NAME

    def hasOutput(self):
        """Whether the output is there."""
        return hasattr(self, self.outputName())

    def badPath(self):
        """The list of particles that cannot be used or were left out, there if there are any; None without lists."""
        return None

    def picturePath(self):
        """The result picture, a PNG."""
        return self._getExtraPath("result.png")

    def describeRun(self, lines, methods):
        """Leave words for people: lines of the summary, and a sentence for a paper."""
        self.summaryVar.set("\n".join(lines))
        self.info(self.summaryVar.get())
        self.methodsVar.set(methods)

    def _summary(self):
        return self.summaryVar.get().split("\n") if self.hasOutput() else self.summaryBefore()

    def summaryBefore(self):
        """The summary while there is no output."""
        return ["Output particles not ready yet."]

    def _methods(self):
        return [self.methodsVar.get()] if self.hasOutput() else []
