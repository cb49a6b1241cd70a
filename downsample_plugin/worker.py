# SPDX-License-Identifier: GPL-3.0-or-later
"""What a worker process of the program does: reads the images of a piece, downsamples them, writes them in place."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .core.downsampler import Downsampler, split_shift
from .core.plan import DownsamplePlan
from .core.statistics import STATISTICS
from .errors import DataError
from .fingerprints import word_sums
from .readers import ImageReader
from .stacks import open_part, write_images
from .tables import BadParticle

BYTES_PER_WRITE = 1 << 19  # still in the processor's cache
STOP_SIGNALS = {signal.SIGINT, signal.SIGTERM}
PR_SET_PDEATHSIG = 1  # of Linux, for prctl

# A particle of a piece: its place (from 0) in the output stack, and its row with the file as a number
WANTED = np.dtype(
    [("id", "i8"), ("file", "i8"), ("index", "i8"), ("shift_x", "f8"), ("shift_y", "f8"), ("place", "i8")]
)
# What became of it: the applied shift, the statistics of its image, and the sum of its words
DONE = np.dtype([("shift", "f8", 2), ("statistics", STATISTICS), ("words", "u8")])
# Of a piece: what became of its particles (DONE), and by their places in it, those that cannot be used
PieceDone = tuple[NDArray[np.void], dict[int, BadParticle]]


class Piece(NamedTuple):
    """Particles (WANTED) for a worker, sorted by file and place in it; `files` are the names."""

    part_path: str
    files: tuple[str, ...]
    particles: NDArray[np.void]


# Of a worker process: memory is made once
_downsampler: Downsampler
_images: NDArray[Any]  # to be written


def start_worker(plan: DownsamplePlan, parent: int) -> None:
    """Make ready for pieces of a plan; this process ends with its parent, whose process number is given."""
    global _downsampler, _images
    _end_with(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its workers
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    _downsampler = Downsampler(plan)
    bytes_of_block = _downsampler.block * plan.box_out**2 * _downsampler.dtype.itemsize
    count = max(BYTES_PER_WRITE // bytes_of_block, 1) * _downsampler.block
    _images = np.empty((count, plan.box_out, plan.box_out), dtype=_downsampler.dtype)


def _end_with(parent: int) -> None:
    """Have the kernel kill this process when its parent ends, however that happens."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it has ended already
        os.kill(os.getpid(), signal.SIGKILL)


def run_piece(piece: Piece) -> PieceDone:
    """In a worker: downsample the particles of a piece into their places."""
    plan, block = _downsampler.plan, _downsampler.block
    particles = piece.particles
    split = split_shift(np.stack([particles["shift_x"], particles["shift_y"]], axis=1), plan.recenter)
    done = np.zeros(len(particles), dtype=DONE)
    done["shift"] = split.applied
    wanted = [
        _Wanted(number, piece.files[file], index, *move)
        for (number, file, index, *_), move in zip(
            particles.tolist(), zip(split.whole.tolist(), split.fraction.tolist())
        )
    ]
    problems: dict[int, BadParticle] = {}
    with open_part(piece.part_path) as part, ImageReader() as reader:
        for first in range(0, len(done), len(_images)):
            last = min(first + len(_images), len(done))
            for start in range(first, last, block):
                stop = min(start + block, last)
                refused = _put_block(reader, wanted[start:stop])
                images = _images[start - first : stop - first]
                outcome = _downsampler.run(stop - start, images)
                done["statistics"][start:stop] = outcome.statistics
                done["words"][start:stop] = word_sums(images)
                for place, problem in {**outcome.problems, **refused}.items():
                    problems[start + place] = wanted[start + place].refused(problem)
            _write_runs(part, particles["place"][first:last], _images)
    return done, problems


class _Wanted(NamedTuple):
    """A particle for a worker, its shift taken apart."""

    number: int
    path: str
    image_index: int
    whole: Sequence[int]
    fraction: Sequence[float]

    def refused(self, problem: DataError) -> BadParticle:
        return BadParticle(self.number, self.image_index, self.path, str(problem))


def _put_block(reader: ImageReader, wanted: Sequence[_Wanted]) -> dict[int, DataError]:
    """Read images to their places in a block; by their places, the problems of those that cannot be used."""
    problems = {}
    for place, particle in enumerate(wanted):
        try:
            stack = reader.open(particle.path)
            number = stack.number_of(particle.image_index)
            memory = _downsampler.memory(place, stack.shape, stack.dtype)
            _downsampler.put(place, stack.read(number, memory), particle.whole, particle.fraction)
        except DataError as problem:
            problems[place] = problem
    return problems


def _write_runs(part: int, places: NDArray[np.int64], images: NDArray[np.generic]) -> None:
    """Write images at their places, those that follow each other at once."""
    breaks = (np.flatnonzero(np.diff(places) != 1) + 1).tolist()
    for start, stop in zip([0, *breaks], [*breaks, len(places)]):
        write_images(part, int(places[start]), images[start:stop])
