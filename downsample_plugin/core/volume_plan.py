# SPDX-License-Identifier: GPL-3.0-or-later
"""What is to be done to a map or mask: the plan for particles, in three dimensions, and the way to fit others."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .plan import DownsamplePlan

SAME_PIXEL_SIZE = 1e-6  # relative; as for a desired pixel size
WHOLE_BOX = 1e-5  # relative; pixel sizes in files have six digits, and half a voxel is a hundred times as much


@dataclass(frozen=True)
class VolumePlan(DownsamplePlan):
    """A request and its consequences, for maps of one box (cubic) and voxel size.

    Either boxes and pixel size are asked for as with particles, or the output is to be like others: in their box
    and pixel size to the last digit. What is there for particles only (recentring, normalisation) is not used.

    Attributes
    ----------
    like_box, like_apix : box (px) and pixel size (Å/px) to fit; both or none. They may be finer than the map
    is_mask : whether the map is a mask: 0 outside, and clipped to 0 … 1
    """

    like_box: int | None = None
    like_apix: float | None = None
    is_mask: bool = False

    @property
    def box_crop(self) -> int:
        """Box (px of the input) that is taken for one period: after cropping or padding, or what others cover."""
        if self.like_box is None:
            return super().box_crop
        covered = self.like_box * self.step
        nearest = round(covered)
        return nearest if self._is_whole(covered) else math.ceil(covered)

    @property
    def box_out(self) -> int:
        """Box (px) of the output."""
        return super().box_out if self.like_box is None else self.like_box

    @property
    def apix_out(self) -> float:
        """True pixel size (Å/px) of the output."""
        if self.like_apix is None:
            return super().apix_out
        return self.apix_in if math.isclose(self.like_apix, self.apix_in, rel_tol=SAME_PIXEL_SIZE) else self.like_apix

    @property
    def step(self) -> float:
        """Input pixels from one output pixel to the next."""
        return self.box_crop / self.box_out if self.like_apix is None else self.apix_out / self.apix_in

    @property
    def scale(self) -> float:
        """q: output pixels per input pixel."""
        return 1 / self.step

    @property
    def kept(self) -> int:
        """Number of Fourier terms along an axis that are kept: an even number has half of each at both ends.

        Those up to the Nyquist frequency of the output, or all that there are.
        """
        wanted = self.box_crop / self.step
        count = round(wanted) if self._is_whole(wanted) else 2 * math.floor(wanted / 2) + 1
        return min(count, self.box_crop)

    @property
    def resampled(self) -> bool:
        """Whether the output has other grid points than the input."""
        return self.step != 1

    @staticmethod
    def _is_whole(box: float) -> bool:
        return math.isclose(box, round(box), rel_tol=WHOLE_BOX)
