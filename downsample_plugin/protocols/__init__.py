# SPDX-License-Identifier: GPL-3.0-or-later
"""The Scipion protocols: forms and steps around the core."""

from .protocol_downsample import ProtDownsampleParticles
from .protocol_downsample_volumes import ProtDownsampleVolumes
from .protocol_restore import ProtRestoreFullSize
from .protocol_shift_center import ProtShiftParticleCenter

__all__ = ["ProtDownsampleParticles", "ProtDownsampleVolumes", "ProtRestoreFullSize", "ProtShiftParticleCenter"]
