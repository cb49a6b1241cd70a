# SPDX-License-Identifier: GPL-3.0-or-later
"""The Scipion protocols: forms and steps around the core."""

from .protocol_downsample import ProtDownsampleParticles

__all__ = ["ProtDownsampleParticles"]
