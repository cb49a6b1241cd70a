# SPDX-License-Identifier: GPL-3.0-or-later
"""A sample of what jobs did, taken evenly through it: images before and after, spectra, shifts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .core.downsampler import Downsampler, downsample_images, split_shift
from .core.plan import DownsamplePlan
from .core.spectra import RadialPower
from .errors import DataError
from .job import Job
from .readers import ImageReader

Image = NDArray[np.float32]

SHOWN = 6  # particles in the picture
MOST_STACKS = 8  # whose tables are read; rows of all would take long for millions of particles
MOST_IMAGES = 200  # for the spectra
MOST_PIXELS = 1 << 25  # read for the spectra: what takes a second or two
GENTLE_ORDER = 2  # of the filter for the eye: it does not ring


@dataclass(frozen=True)
class Sample:
    """Particles of jobs, evenly through them.

    Attributes
    ----------
    plan : what was done
    before, after : images of a few of them, as they were (N, N) and as they are (n, n)
    spectrum_before : of more of them, in the crop box and recentred, but not downsampled or filtered
    spectrum_after : of the same, as they are
    applied, left : (count, 2) shifts in Å that recentring has applied and left
    """

    plan: DownsamplePlan
    before: list[Image]
    after: list[Image]
    spectrum_before: RadialPower
    spectrum_after: RadialPower
    applied: NDArray[np.float64]
    left: NDArray[np.float64]

    @classmethod
    def of_jobs(cls, jobs: Sequence[Job]) -> Sample:
        """Take a sample of jobs of one plan that are done. Particles that cannot be read any more are passed over."""
        if not jobs:
            raise DataError("no particles have been downsampled yet, expected some to show; wait for them")
        plan = jobs[0].plan
        stacks = list(_stacks(jobs))
        wanted = np.concatenate([_shifts(stack.wanted) for stack in stacks])
        applied = np.concatenate([_shifts(stack.made) for stack in stacks])
        count = min(max(MOST_PIXELS // max(plan.box_in, plan.box_crop) ** 2, SHOWN), MOST_IMAGES)
        before = RadialPower(plan.box_crop, plan.apix_in)
        after = RadialPower(plan.box_out, plan.apix_out)
        images: list[tuple[Image, Image]] = []
        windows = _Windows(plan)
        chosen = _evenly(len(wanted), count)
        to_show = set(chosen[_evenly(len(chosen), SHOWN)].tolist())
        ends = np.cumsum([len(stack.wanted) for stack in stacks])
        with ImageReader() as inputs, ImageReader() as outputs:
            for number in chosen.tolist():
                of_stack = int(np.searchsorted(ends, number, side="right"))
                stack, place = stacks[of_stack], number - int(ends[of_stack])  # from the end of its part
                try:
                    image = _read(inputs, stack.input_file(place), stack.wanted["index"][place])
                    result = _read(outputs, stack.path, stack.made["index"][place])
                    before.add(windows.of(image, wanted[number]))
                except DataError:
                    continue
                after.add(result)
                if number in to_show:
                    images.append((image, result))
        return cls(
            plan,
            [image for image, _ in images],
            [result for _, result in images],
            before,
            after,
            applied * plan.apix_in,
            (wanted - applied) * plan.apix_in,
        )


class _Stack(NamedTuple):
    """What was wanted of an output stack and what was made: images that were left out are not in it."""

    path: str
    file_names: Sequence[str]
    wanted: NDArray[np.void]
    made: NDArray[np.void]

    def input_file(self, place: int) -> str:
        return self.file_names[int(self.wanted["file"][place])]


def _stacks(jobs: Sequence[Job]) -> Iterator[_Stack]:
    """Some output stacks, evenly through the jobs."""
    all_stacks = [(job, stack) for job in jobs for stack in job.stacks]
    for place in _evenly(len(all_stacks), MOST_STACKS).tolist():
        job, stack = all_stacks[place]
        made = stack.made()
        there = made["index"] > 0
        yield _Stack(stack.path, job.file_names(), stack.wanted()[there], made[there])


def _shifts(table: NDArray[np.void]) -> NDArray[np.float64]:
    return np.stack([table["shift_x"], table["shift_y"]], axis=1)


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


def _evenly(count: int, most: int) -> NDArray[np.int64]:
    """Up to so many places, evenly from the first of `count` to the last."""
    places: NDArray[np.int64] = np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.int64))
    return places


def _read(reader: ImageReader, path: str, index: int) -> Image:
    stack = reader.open(path)
    return stack.read(stack.number_of(int(index))).astype(np.float32)
