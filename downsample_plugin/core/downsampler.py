# SPDX-License-Identifier: GPL-3.0-or-later
"""One image through a whole plan: window, Fourier crop, normalise, store."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import DataError
from .checks import check
from .filters import plan_gain, spectrum_gain
from .fourier import FourierCropper
from .geometry import round_half_away, window_slices
from .normalize import BackgroundNormalizer
from .plan import DownsamplePlan, Recenter
from .statistics import ImageStatistics, image_statistics

Shift = NDArray[np.float64]

FLOAT16_MAX = float(np.finfo(np.float16).max)  # 65504
LARGEST_SHIFT = 1e6  # px; beyond, whole numbers could overflow; no image is so large


class SplitShift(NamedTuple):
    """A shift (x, y) in input pixels, taken apart into a move of whole pixels and a fraction of one."""

    whole: NDArray[np.int64]
    fraction: Shift

    @property
    def applied(self) -> Shift:
        """d: what the content of the image moves by."""
        return self.whole + self.fraction


def split_shift(shift: ArrayLike, recenter: Recenter) -> SplitShift:
    """What recentring does with the shift s = (sx, sy) that brings a particle to the origin.

    Nothing without recentring; s rounded half away from zero with whole pixels; all of s when exact, the
    fraction (at most half a pixel) apart from the whole part. Pixels and metadata both follow from this.
    """
    s = np.clip(np.asarray(shift, dtype=np.float64), -LARGEST_SHIFT, LARGEST_SHIFT)
    if recenter is Recenter.NONE:
        s = np.zeros(2)
    whole = round_half_away(s)
    fraction = s - whole if recenter is Recenter.EXACT else np.zeros(2)
    return SplitShift(whole, fraction)


class Result(NamedTuple):
    """A downsampled image (n, n); the shift d (x, y) in input pixels that its content was moved by; its statistics."""

    image: NDArray[np.generic]
    applied: Shift
    statistics: ImageStatistics


class Downsampler:
    """Carries out a plan image by image, in memory that is made once.

    Raises PlanError if the plan has problems.

    Attributes
    ----------
    plan : the plan
    dtype : of the results, float32 or float16
    input : (N, N) float32, aligned memory where images may be put: taken from there, they are not copied again
    """

    def __init__(self, plan: DownsamplePlan):
        check(plan)
        self.plan = plan
        self.dtype = np.dtype(np.float16 if plan.float16 else np.float32)
        self._scratch = np.empty((plan.box_out, plan.box_out))
        self._dc_gain = np.float32(plan_gain(plan, 0.0))
        self._ones = np.ones(plan.box_in**2, dtype=np.float32)
        self._window = np.empty((plan.box_crop, plan.box_crop), dtype=np.float32)
        self._cropper: FourierCropper | None = None
        if plan.box_out != plan.box_crop or plan.filtered or plan.recenter is Recenter.EXACT:
            self._cropper = FourierCropper(plan.box_crop, plan.box_out, spectrum_gain(plan))
        self._normalizer = BackgroundNormalizer(plan.box_out, plan.background_radius_px) if plan.normalize else None
        whole_box = plan.box_crop == plan.box_in and plan.recenter is Recenter.NONE
        if self._cropper is not None and whole_box:
            self.input = self._cropper.image
        else:
            self.input = np.empty((plan.box_in, plan.box_in), dtype=np.float32)

    def __call__(
        self, image: NDArray[np.generic], shift: ArrayLike = (0.0, 0.0), out: NDArray[np.generic] | None = None
    ) -> Result:
        """Downsample one image.

        Parameters
        ----------
        image : (N, N), rows are y; any real dtype of the MRC format, either byte order
        shift : (sx, sy) in input pixels, that brings the particle to the origin
        out : (n, n) of this downsampler's dtype, where to write the result; new memory if not given

        Raises
        ------
        DataError if the image is not finite, too large for float16, or has no background noise to
        normalise by.
        """
        if out is None:
            out = np.empty((self.plan.box_out, self.plan.box_out), dtype=self.dtype)
        values = self._values(image)
        split = split_shift(shift, self.plan.recenter)
        if np.abs(split.whole).max() >= (self.plan.box_in + self.plan.box_crop) // 2:
            raise DataError(
                f"shift: got ({', '.join(f'{s:.6g}' for s in np.asarray(shift))}) px, expected less than the box of "
                f"{self.plan.box_in} px: the image would be moved out of sight; mend its alignment or drop this "
                "particle"
            )
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite in the end is refused
            if self._cropper is None or not self._needs_transform(split):
                self._store(self._copy_window(values, split), 0.0, out)
            else:
                self._store(*self._fourier_crop(self._cropper, values, split), out)
            return Result(out, split.applied, self._checked(out))

    def _values(self, image: NDArray[np.generic]) -> NDArray[np.generic]:
        """The pixels as they are, in native byte order; refused unless they are the plan's box."""
        box = self.plan.box_in
        if image.shape != (box, box):
            raise DataError(
                f"image size: got {' x '.join(map(str, image.shape[::-1]))} px, expected {box} x {box} px "
                "(the box of the set); all particles of a run must have one square box"
            )
        return image if image.dtype.isnative else image.astype(image.dtype.newbyteorder("="))

    def _needs_transform(self, split: SplitShift) -> bool:
        plan = self.plan
        return plan.box_out != plan.box_crop or plan.filtered or bool(np.any(split.fraction))

    def _copy_window(self, values: NDArray[np.generic], split: SplitShift) -> NDArray[np.float32]:
        (in_y, out_y), (in_x, out_x) = self._slices(split)
        window = self._window
        self._level(values)  # refuses pixels that are not numbers
        if self._exposed(out_y, out_x):
            window.fill(values.mean(dtype=np.float64))
        window[out_y, out_x] = values[in_y, in_x]
        return window

    def _fourier_crop(
        self, cropper: FourierCropper, values: NDArray[np.generic], split: SplitShift
    ) -> tuple[NDArray[np.float32], float]:
        """Transform the window of the image less its level; the result, and the level that it lacks.

        Without it, float32 keeps its digits for the contrast. It need not be the mean to the last digit;
        what fills the pixels outside the image must.
        """
        window = cropper.image
        level = self._level(values)
        if values.dtype == np.float32 and np.may_share_memory(values, window):
            window -= level
        else:
            (in_y, out_y), (in_x, out_x) = self._slices(split)
            if self._exposed(out_y, out_x):
                window.fill(values.mean(dtype=np.float64) - level)
            np.subtract(values[in_y, in_x], level, out=window[out_y, out_x], dtype=np.float32)
        cropper.crop(*split.fraction)
        return cropper.cropped, float(level * self._dc_gain)

    def _slices(self, split: SplitShift) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
        x, y = (window_slices(self.plan.box_in, self.plan.box_crop, int(d)) for d in split.whole)
        return y, x

    def _exposed(self, *covered: slice) -> bool:
        """Whether the window has pixels, along either axis, that the image does not cover."""
        return any(axis.stop - axis.start < self.plan.box_crop for axis in covered)

    def _level(self, values: NDArray[Any]) -> np.float32:
        """Mean of all pixels to a few digits; that it is finite says that all pixels are.

        BLAS sums float32 several times faster than NumPy sums to float64.
        """
        if values.dtype == np.float32 and values.flags.c_contiguous:
            mean = values.reshape(-1) @ self._ones / values.size
        else:
            mean = values.mean(dtype=np.float64)
        if not np.isfinite(mean):
            self._refuse_non_finite(values)
            mean = values.mean(dtype=np.float64)  # finite pixels, whose sum float32 could not hold
        return np.float32(mean)

    @staticmethod
    def _refuse_non_finite(values: NDArray[Any]) -> None:
        bad = ~np.isfinite(values)
        if bad.any():
            y, x = np.argwhere(bad)[0]
            raise DataError(
                f"pixels that are not numbers: {np.count_nonzero(bad)}, the first at x = {x}, y = {y} "
                f"({values[y, x]}), expected none; extract this particle again or drop it from the set"
            )

    def _store(self, image: NDArray[np.float32], level: float, out: NDArray[Any]) -> None:
        """Write an image plus a level into `out`, normalised if the plan says so."""
        if self._normalizer is not None:
            self._write(self._normalizer(image), out)  # a level is background, and goes with it
        elif not level:
            self._write(image, out)
        elif self.plan.float16:
            image += np.float32(level)
            self._write(image, out)
        else:
            np.add(image, np.float32(level), out=out)

    def _write(self, image: NDArray[Any], out: NDArray[Any]) -> None:
        if self.plan.float16:
            largest = max(image.max(), -image.min())
            if largest > FLOAT16_MAX:
                raise DataError(
                    f"pixel value for 16-bit output: got {largest:.6g}, expected at most {FLOAT16_MAX:g} (the largest "
                    "number of that format); switch on normalisation, save in 32 bits or drop this particle"
                )
        out[...] = image

    def _checked(self, out: NDArray[Any]) -> ImageStatistics:
        """Statistics of a result, refused where float32 could not compute with the numbers."""
        statistics = image_statistics(out, self._scratch)
        if not np.isfinite(statistics.mean):
            raise DataError(
                "pixel values too large for 32-bit arithmetic: the result is not finite, expected numbers well below "
                "1e38; extract this particle again or drop it from the set"
            )
        return statistics


def downsample_images(
    images: NDArray[np.generic], plan: DownsamplePlan, shifts: ArrayLike | None = None
) -> tuple[NDArray[np.generic], Shift]:
    """Downsample a stack of images.

    Parameters
    ----------
    images : (count, N, N)
    plan : what to do
    shifts : (count, 2), (sx, sy) in input pixels; zero if not given

    Returns
    -------
    Images (count, n, n) in float32 or float16, and the applied shifts (count, 2) in input pixels.
    """
    downsampler = Downsampler(plan)
    count = len(images)
    wanted = np.zeros((count, 2)) if shifts is None else np.asarray(shifts, dtype=np.float64)
    result = np.empty((count, plan.box_out, plan.box_out), dtype=downsampler.dtype)
    applied = np.zeros((count, 2))
    for i in range(count):
        applied[i] = downsampler(images[i], wanted[i], out=result[i]).applied
    return result, applied
