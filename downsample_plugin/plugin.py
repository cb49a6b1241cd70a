# SPDX-License-Identifier: GPL-3.0-or-later
"""What Scipion registers: no binaries to install, no variables to set."""

from __future__ import annotations

import os
from typing import Any

import pwem
from pyworkflow.utils import Environ


class Plugin(pwem.Plugin):
    """The plugin as Scipion sees it; its program is part of the package."""

    # pyworkflow finds the plugin's folder through its module, which must be the package
    __module__ = __package__

    _url = "https://github.com/scipion-em/scipion-em-downsample"
    _supportedVersions = ["1"]

    @classmethod
    def _defineVariables(cls) -> None:
        """Nothing to configure."""

    @classmethod
    def getEnviron(cls) -> Environ:
        """The environment as it is: without one, pyworkflow cannot start a program under MPI."""
        return Environ(os.environ)

    @classmethod
    def defineBinaries(cls, env: Any) -> None:
        """Nothing to install beside the package."""
