# SPDX-License-Identifier: GPL-3.0-or-later
"""What *Analyze results* opens for each protocol. Scipion looks for viewers here, and takes those of modules below."""

from .maps import DownsampleVolumesViewer
from .particles import DownsampleViewer
from .places import CentersViewer

__all__ = ["CentersViewer", "DownsampleViewer", "DownsampleVolumesViewer"]
