# SPDX-License-Identifier: GPL-3.0-or-later
"""Images through a whole plan: window, Fourier crop, normalise, store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import DataError
from .checks import check
from .filters import plan_gain, spectrum_gain
from .fourier import FourierCropper, images_at_once
from .geometry import round_half_away, window_slices
from .memory import CACHE_LINE, aligned_zeros
from .normalize import BackgroundNormalizer
from .plan import DownsamplePlan, Recenter
from .statistics import image_statistics

Shift = NDArray[np.float64]

FLOAT16_MAX = float(np.finfo(np.float16).max)  # 65504
LARGEST_SHIFT = 1e6  # px; beyond, whole numbers could overflow; no image is so large
BYTES_PER_BLOCK = 1 << 22  # of float32 pixels: four images of 512 px, for calls to take little time beside transforms
LARGEST_BLOCK = 64  # images
LARGEST_LEVEL = 1e37  # a tenth of what float32 holds, so that nothing overflows for want of it
ROWS_FOR_LEVEL = 8  # of an image; they tell whether an offset stands out from the contrast


class SplitShift(NamedTuple):
    """Shifts (…, 2), (x, y) in input pixels, taken apart into moves of whole pixels and fractions of one."""

    whole: NDArray[np.int64]
    fraction: Shift

    @property
    def applied(self) -> Shift:
        """d: what the content of the images moves by."""
        return self.whole + self.fraction


def split_shift(shift: ArrayLike, recenter: Recenter) -> SplitShift:
    """What recentring does with shifts (…, 2), the s = (sx, sy) that bring particles to the origin.

    Nothing without recentring; s rounded half away from zero with whole pixels; all of s when exact, the
    fraction (at most half a pixel) apart from the whole part. Pixels and metadata both follow from this.
    """
    s = np.clip(np.asarray(shift, dtype=np.float64), -LARGEST_SHIFT, LARGEST_SHIFT)
    if recenter is Recenter.NONE:
        s = np.zeros_like(s)
    whole = round_half_away(s)
    fraction = s - whole if recenter is Recenter.EXACT else np.zeros_like(s)
    return SplitShift(whole, fraction)


class Outcome(NamedTuple):
    """What became of a block: statistics of its images (STATISTICS), and the problems of those that are refused."""

    statistics: NDArray[np.void]
    problems: dict[int, DataError]


class Downsampler:
    """Carries out a plan block by block, in memory that is made once.

    Put up to ``block`` images in their places, then run. What an image becomes does not depend on the others.
    Raises PlanError if the plan has problems.

    Attributes
    ----------
    plan : the plan
    dtype : of the results, float32 or float16
    block : number of images that a run takes at most
    """

    def __init__(self, plan: DownsamplePlan):
        check(plan)
        self.plan = plan
        self.dtype = np.dtype(np.float16 if plan.float16 else np.float32)
        crop, out = plan.box_crop, plan.box_out
        self.block = min(max(BYTES_PER_BLOCK // (4 * crop**2), 1), LARGEST_BLOCK)
        #: whether all images are transformed; else, at most, those that move by a fraction of a pixel
        self._needs_transform = out != crop or plan.filtered
        self._windows = aligned_zeros((self.block, crop, crop), "float32")
        self._results = self._windows
        self._cropper: FourierCropper | None = None
        if self._needs_transform or plan.recenter is Recenter.EXACT:
            self._results = aligned_zeros((self.block, out, out), "float32")
            self._at_once = images_at_once(self.block, crop, out)
            some = slice(self._at_once)
            self._cropper = FourierCropper(self._windows[some], self._results[some], spectrum_gain(plan))
        #: whether an image is its window: then it is read to its place
        self._direct = crop == plan.box_in and plan.recenter is Recenter.NONE
        self._incoming = np.empty((plan.box_in, plan.box_in), dtype=np.float32)
        self._rows_apart = max(crop // ROWS_FOR_LEVEL, 1)  # for the level
        self._for_level = aligned_zeros((self.block, *self._windows[0, :: self._rows_apart].shape), "float64")
        self._ones = np.ones((self._for_level[0].size, 1))
        self._fractions = np.zeros((self.block, 2))
        self._levels = np.zeros(self.block, dtype=np.float32)  # subtracted from the windows
        self._dc_gain = np.float32(plan_gain(plan, 0.0))
        self._normalizer = BackgroundNormalizer(out, plan.background_radius_px) if plan.normalize else None

    def memory(self, place: int, shape: tuple[int, int], dtype: np.dtype[np.generic]) -> memoryview:
        """Bytes where the image for a place is best read to, whose shape (rows, columns) and dtype a file gives.

        Raises DataError unless the shape is the plan's box.
        """
        self._check_box(shape)
        in_place = self._direct and dtype == np.float32
        memory = self._windows[place] if in_place else self._incoming
        return memory.data.cast("B")[: self.plan.box_in**2 * dtype.itemsize]

    def memory_of_block(self, count: int, shape: tuple[int, int], dtype: np.dtype[np.generic]) -> memoryview | None:
        """Bytes where the first `count` images can be read to at once, and need not be put; None if they cannot."""
        if not self._direct or dtype != np.float32 or shape != self._windows.shape[1:]:
            return None
        self._fractions[:count] = 0.0
        self._levels[:count] = 0.0
        return self._windows[:count].data.cast("B")

    def put(self, place: int, image: NDArray[np.generic], whole: Sequence[int], fraction: Sequence[float]) -> None:
        """Put the window of an image in a place of the block.

        Parameters
        ----------
        place : from 0
        image : (N, N), rows are y; any real dtype of the MRC format, either byte order
        whole, fraction : (x, y), the two parts of the image's shift, from ``split_shift``

        Raises
        ------
        DataError if the image is not of the plan's box, would be moved out of sight, or is not finite.
        """
        self._check_box(image.shape)
        values = image if image.dtype.isnative else image.astype(image.dtype.newbyteorder("="))
        self._fractions[place] = fraction
        self._levels[place] = 0.0
        window = self._windows[place]
        if self._direct and np.may_share_memory(values, window):
            return
        if not self._direct:
            self._check_finite(values)  # what a window leaves out does not show in the result
        (in_x, out_x), (in_y, out_y) = self._slices(whole)
        if any(covered.stop - covered.start < self.plan.box_crop for covered in (out_x, out_y)):
            mean = values.mean(dtype=np.float64)
            if self._needs_transform or any(fraction):
                level = self._levels[place] = np.float32(mean)
                window.fill(mean - level)
                np.subtract(values[in_y, in_x], level, out=window[out_y, out_x], dtype=np.float32)
                return
            window.fill(mean)
        window[out_y, out_x] = values[in_y, in_x]

    def run(self, count: int, out: NDArray[np.generic]) -> Outcome:
        """Downsample the first `count` images of the block into `out`, (count, n, n) of this downsampler's dtype.

        Images with problems: not finite, too large for float16, or no background noise to normalise by.
        """
        problems: dict[int, DataError] = {}
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite in the end is refused
            images = self._transformed(count, out)[:count]
            if self._normalizer is not None:
                for place in range(count):
                    try:
                        self._normalizer(images[place], abs(float(self._levels[place])))
                    except DataError as error:
                        problems[place] = error
            statistics = image_statistics(images)
            if not np.may_share_memory(images, out):
                out[...] = images
        if not np.isfinite(statistics["mean"]).all():
            for place in np.flatnonzero(~np.isfinite(statistics["mean"])).tolist():
                problems[place] = self._not_finite(place)
        if self.plan.float16:
            largest = np.maximum(statistics["largest"], -statistics["smallest"])
            for place in np.flatnonzero(largest > FLOAT16_MAX).tolist():
                problems.setdefault(place, _too_large(largest[place]))
            for extreme in ("smallest", "largest"):
                statistics[extreme] = statistics[extreme].astype(np.float16)
        return Outcome(statistics, problems)

    def _transformed(self, count: int, out: NDArray[np.generic]) -> NDArray[np.float32]:
        """The windows after Fourier crop and filters, where there are any; in `out` if that can be."""
        if self._cropper is None:
            return self._windows
        unmoved: NDArray[Any] | None = None
        if not self._needs_transform:
            moved = self._fractions[:count].any(axis=1)
            unmoved = self._windows[:count][~moved]
        levels = self._take_levels(count)
        results: NDArray[Any] = out if self._can_be_results(out) else self._results
        for start in range(0, count, self._at_once):
            some = slice(start, start + self._at_once)
            shifts = self._fractions[some] if self.plan.recenter is Recenter.EXACT else None
            self._cropper.crop(self._windows[some], shifts, results[some])
        for place in np.flatnonzero(levels).tolist():
            results[place] += levels[place] * self._dc_gain
        if unmoved is not None:
            results[:count][~moved] = unmoved
        return results

    def _can_be_results(self, out: NDArray[np.generic]) -> bool:
        """Whether images can be cropped straight into there, which saves a copy."""
        fits = out.dtype == np.float32 and out.flags.c_contiguous and len(out) % self._at_once == 0
        return fits and out.ctypes.data % CACHE_LINE == 0

    def _take_levels(self, count: int) -> NDArray[np.float32]:
        """Subtract from each window about its mean where that stands out from the contrast; (count,), what was taken.

        Without it, float32 keeps its digits for the contrast. It need not be the mean to the last digit.
        """
        levels = self._levels[:count]
        rows = self._for_level[:count]
        np.copyto(rows, self._windows[:count, :: self._rows_apart])
        rows = rows.reshape(count, 1, -1)
        # image by image: a product of all rows at once would sum in another order for another number of images
        sums = np.matmul(rows, self._ones)[:, 0, 0].tolist()
        squares = np.matmul(rows, rows.transpose(0, 2, 1))[:, 0, 0].tolist()
        for place, (total, square) in enumerate(zip(sums, squares)):
            mean = total / len(self._ones)
            if 4 * mean * total > square and abs(mean) < LARGEST_LEVEL:
                level = np.float32(mean)
                self._windows[place] -= level
                levels[place] += level
        return levels

    def _slices(self, whole: Sequence[int]) -> list[tuple[slice, slice]]:
        """Along x and y, the pixels of the image and those of the window that they become."""
        box_in, box_crop = self.plan.box_in, self.plan.box_crop
        if max(map(abs, whole)) >= (box_in + box_crop) // 2:
            raise DataError(
                f"shift: got ({', '.join(map(str, whole))}) px, expected less than the box of {box_in} px: the "
                "particle would be moved out of its box; correct its alignment or remove this particle from the input"
            )
        return [window_slices(box_in, box_crop, shift) for shift in whole]

    def _check_box(self, shape: tuple[int, ...]) -> None:
        box = self.plan.box_in
        if shape != (box, box):
            raise DataError(
                f"image size: got {' x '.join(map(str, shape[::-1]))} px, expected {box} x {box} px (the box of the "
                "set); all particles of a run must have the same square box"
            )

    def _not_finite(self, place: int) -> DataError:
        """Why the result in a place is not finite."""
        try:
            self._check_finite(self._windows[place])
        except DataError as error:
            return error
        return DataError(
            "pixel values too large for 32-bit arithmetic: the result is not finite, expected numbers well below "
            "1e38; extract this particle again or remove it from the input"
        )

    @staticmethod
    def _check_finite(values: NDArray[Any]) -> None:
        if np.isfinite(values).all():
            return
        bad = ~np.isfinite(values)
        y, x = np.argwhere(bad)[0]
        raise DataError(
            f"pixels that are not numbers: {np.count_nonzero(bad)}, the first at x = {x}, y = {y} ({values[y, x]}), "
            "expected none; extract this particle again or remove it from the input"
        )


def _too_large(value: float) -> DataError:
    return DataError(
        f"pixel value for 16-bit output: got {value:.6g}, expected at most {FLOAT16_MAX:g} (the largest number in "
        "that format); switch on normalisation, save in 32 bits or remove this particle from the input"
    )


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

    Raises
    ------
    PlanError if the plan has problems, DataError at the first image that is refused.
    """
    downsampler = Downsampler(plan)
    count = len(images)
    split = split_shift(np.zeros((count, 2)) if shifts is None else shifts, plan.recenter)
    moves = list(zip(split.whole.tolist(), split.fraction.tolist()))
    result = np.empty((count, plan.box_out, plan.box_out), dtype=downsampler.dtype)
    for start in range(0, count, downsampler.block):
        block = range(start, min(start + downsampler.block, count))
        for i in block:
            downsampler.put(i - start, images[i], *moves[i])
        problems = downsampler.run(len(block), result[start : block.stop]).problems
        if problems:
            raise problems[min(problems)]
    return result, split.applied
