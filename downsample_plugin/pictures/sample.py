# SPDX-License-Identifier: GPL-3.0-or-later
"""What jobs did to their images, to look at: any image before and after, and a sample taken evenly through all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..core.downsampler import Downsampler, downsample_images, split_shift
from ..core.plan import DownsamplePlan
from ..core.spectra import RadialPower
from ..engine.job import Job
from ..errors import DataError
from ..files.image_readers import ImageReader

Image = NDArray[np.float32]

SHOWN = 6  # particles in the picture
MOST_IMAGES = 200  # for the spectra of the picture
MOST_PIXELS = 1 << 25  # read for the spectra: what takes a second or two
GREY_VALUES = 1000  # of each image
GENTLE_ORDER = 2  # of the filter for the eye: it does not ring


class Pair(NamedTuple):
    """An image before and after, and what it is.

    Attributes
    ----------
    before, after : as it was (N, N) and as it is (n, n)
    applied : (x, y) by which recentring has moved its content, px of the input
    place : its number and file, as "7@particles.mrcs", before
    """

    before: Image
    after: Image
    applied: NDArray[np.float64]
    place: str


class Pairs:
    """The images of jobs of one plan, by their numbers from 0, through all output stacks that are done; a sequence.

    Images that were left out are not in it. DataError if no stack is done, or an image can no longer be read.

    Attributes
    ----------
    plan : what was done
    wanted, applied : (count, 2) shifts of all images, wanted by their alignment and applied, px of the input
    """

    def __init__(self, jobs: Sequence[Job]):
        self._stacks = [stack for job in jobs for stack in _made_by(job)]
        if not self._stacks:
            raise DataError("no particles have been downsampled yet, expected some to show; wait for the first ones")
        self.plan = jobs[0].plan
        self._ends = np.cumsum([len(stack.made) for stack in self._stacks])
        self.wanted = np.concatenate([_shifts(stack.wanted) for stack in self._stacks])
        self.applied = np.concatenate([_shifts(stack.made) for stack in self._stacks])
        self._inputs, self._outputs = ImageReader(), ImageReader()

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, number: int) -> Pair:
        of_stack = int(np.searchsorted(self._ends, number, side="right"))
        stack = self._stacks[of_stack]
        place = number - int(self._ends[of_stack])  # from the end of its stack
        path, index = stack.file_names[int(stack.wanted["file"][place])], int(stack.wanted["index"][place])
        with self._inputs as inputs, self._outputs as outputs:
            before = _read(inputs, path, index)
            after = _read(outputs, stack.path, int(stack.made["index"][place]))
        return Pair(before, after, self.applied[number], f"{index}@{path}" if index else path)


class _Made(NamedTuple):
    """What was wanted of an output stack and what was made: images that were left out are not in it."""

    path: str
    file_names: Sequence[str]
    wanted: NDArray[np.void]
    made: NDArray[np.void]


def _made_by(job: Job) -> Iterator[_Made]:
    """The output stacks of a job that are done."""
    names = job.file_names()
    for stack in job.stacks:
        if stack.is_done():
            made = stack.made()
            there = made["index"] > 0
            yield _Made(stack.path, names, stack.wanted()[there], made[there])


def _shifts(table: NDArray[np.void]) -> NDArray[np.float64]:
    return np.stack([table["shift_x"], table["shift_y"]], axis=1)


def _read(reader: ImageReader, path: str, index: int) -> Image:
    stack = reader.open(path)
    return stack.read(stack.number_of(index)).astype(np.float32)


@dataclass
class Sample:
    """Images of jobs, evenly through them.

    Attributes
    ----------
    plan : what was done
    count : number of all images
    applied, left : (count, 2) shifts in Å of all images that recentring has applied and left
    shown : a few pairs
    spectrum_before : of more of them, in the crop box and recentred, but not downsampled or filtered
    spectrum_after : of the same, as they are
    grey_before, grey_after : some pixels of the same, each of them (count, pixels)
    """

    plan: DownsamplePlan
    count: int
    applied: NDArray[np.float64]
    left: NDArray[np.float64]
    spectrum_before: RadialPower
    spectrum_after: RadialPower
    shown: list[Pair] = field(default_factory=list)
    grey_before: list[NDArray[np.float32]] = field(default_factory=list)
    grey_after: list[NDArray[np.float32]] = field(default_factory=list)

    @classmethod
    def of_jobs(cls, jobs: Sequence[Job], images: int = MOST_IMAGES, pixels: int = MOST_PIXELS) -> Sample:
        """Take a sample of jobs of one plan, of up to so many images and pixels. What cannot be read is passed over."""
        pairs = Pairs(jobs)
        plan = pairs.plan
        before, after = RadialPower(plan.box_crop, plan.apix_in), RadialPower(plan.box_out, plan.apix_out)
        applied, left = pairs.applied * plan.apix_in, (pairs.wanted - pairs.applied) * plan.apix_in
        sample = cls(plan, len(pairs), applied, left, before, after)
        chosen = _evenly(len(pairs), min(max(pixels // max(plan.box_in, plan.box_crop) ** 2, SHOWN), images))
        to_show = set(chosen[_evenly(len(chosen), SHOWN)].tolist())
        windows = _Windows(plan)
        for number in chosen.tolist():
            try:
                pair = pairs[number]
                before.add(windows.of(pair.before, pairs.wanted[number]))
            except DataError:
                continue
            after.add(pair.after)
            sample.grey_before.append(_some_pixels(pair.before))
            sample.grey_after.append(_some_pixels(pair.after))
            if number in to_show:
                sample.shown.append(pair)
        return sample


class _Windows:
    """The images of a plan in the crop box, recentred, and nothing else."""

    def __init__(self, plan: DownsamplePlan):
        only = DownsamplePlan(plan.box_in, plan.apix_in, crop_size=plan.box_crop, recenter=plan.recenter)
        self._downsampler = Downsampler(only)
        self._result = np.empty((1, plan.box_crop, plan.box_crop), dtype=np.float32)

    def of(self, image: Image, shift: NDArray[np.float64]) -> Image:
        """The window of an image that is to be moved by a shift (x, y)."""
        split = split_shift(shift, self._downsampler.plan.recenter)
        self._downsampler.put(0, image, split.whole.tolist(), split.fraction.tolist())
        problems = self._downsampler.run(1, self._result).problems
        if problems:
            raise problems[0]
        window: Image = self._result[0]
        return window


def for_the_eye(image: Image, apix: float, resolution: float) -> Image:
    """An image (B, B) of `apix` Å/px, gently low-passed at a resolution (Å) that its noise does not reach."""
    smooth = DownsamplePlan(len(image), apix, lowpass_resolution=resolution, filter_order=GENTLE_ORDER)
    result: Image = downsample_images(image[None], smooth)[0][0].astype(np.float32)
    return result


def _some_pixels(image: Image) -> NDArray[np.float32]:
    """Some pixels of an image, evenly through it."""
    return image.ravel()[_evenly(image.size, GREY_VALUES)]


def _evenly(count: int, most: int) -> NDArray[np.int64]:
    """Up to so many places, evenly from the first of `count` to the last."""
    places: NDArray[np.int64] = np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.int64))
    return places
