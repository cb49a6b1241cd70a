# SPDX-License-Identifier: GPL-3.0-or-later
"""The image core: NumPy arrays and numbers in, arrays and numbers out; no files, no Scipion.

The origin of every box of B pixels is pixel ``B // 2`` (0-based), for even and odd B, at every stage.
Boxes and shifts are in pixels of the input unless a name says otherwise; pixel sizes are in Å.
"""

from .downsampler import Downsampler, downsample_images
from .plan import DownsamplePlan

__all__ = ["DownsamplePlan", "Downsampler", "downsample_images"]
