# SPDX-License-Identifier: GPL-3.0-or-later
"""A sample of what jobs did, taken evenly through it: images before and after, spectra, shifts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .core.downsampler import Downsampler, downsample_images, split_shift
from .core.plan import DownsamplePlan
from .core.spectra import RadialPower
from .errors import DataError
from .job import Job
from .readers import ImageReader
from .tables import ParticleRow, read_particles

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
        pairs = list(_rows(jobs))
        wanted = np.array([(todo.shift_x, todo.shift_y) for todo, _ in pairs]).reshape(-1, 2)
        applied = np.array([(done.shift_x, done.shift_y) for _, done in pairs]).reshape(-1, 2)
        count = min(max(MOST_PIXELS // max(plan.box_in, plan.box_crop) ** 2, SHOWN), MOST_IMAGES)
        before = RadialPower(plan.box_crop, plan.apix_in)
        after = RadialPower(plan.box_out, plan.apix_out)
        images: list[tuple[Image, Image]] = []
        windows = _Windows(plan)
        chosen = _evenly(len(pairs), count)
        to_show = set(chosen[_evenly(len(chosen), SHOWN)].tolist())
        with ImageReader() as inputs, ImageReader() as outputs:
            for place in chosen.tolist():
                todo, done = pairs[place]
                try:
                    image, result = _read(inputs, todo), _read(outputs, done)
                    before.add(windows.of(image, todo))
                except DataError:
                    continue
                after.add(result)
                if place in to_show:
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


class _Windows:
    """The images of a plan in the crop box, recentred, and nothing else."""

    def __init__(self, plan: DownsamplePlan):
        only = DownsamplePlan(plan.box_in, plan.apix_in, crop_size=plan.box_crop, recenter=plan.recenter)
        self._downsampler = Downsampler(only)
        self._result = np.empty((1, plan.box_crop, plan.box_crop), dtype=np.float32)

    def of(self, image: Image, row: ParticleRow) -> Image:
        """The window of the image of a row."""
        split = split_shift((row.shift_x, row.shift_y), self._downsampler.plan.recenter)
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


def _rows(jobs: Sequence[Job]) -> Iterator[tuple[ParticleRow, ParticleRow]]:
    """Rows of particles as they were wanted and as they came out, of tables evenly through the jobs."""
    stacks = [(job, number) for job in jobs for number in job.stacks]
    for place in _evenly(len(stacks), MOST_STACKS).tolist():
        job, number = stacks[place]
        done = {row.particle_id: row for row in read_particles(job.done_path(number))}
        for row in read_particles(job.todo_path(number)):
            if row.particle_id in done:
                yield row, done[row.particle_id]


def _evenly(count: int, most: int) -> NDArray[np.int64]:
    """Up to so many places, evenly from the first of `count` to the last."""
    places: NDArray[np.int64] = np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.int64))
    return places


def _read(reader: ImageReader, row: ParticleRow) -> Image:
    stack = reader.open(row.image_file)
    return stack.read(stack.number_of(row.image_index)).astype(np.float32)
