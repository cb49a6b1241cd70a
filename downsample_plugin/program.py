# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs a job: reads particles, downsamples them in worker processes, writes stacks and result tables.

Particles go to the workers in pieces of an output stack, sorted by input file and place in it; every worker
writes its images at their places in the unfinished stack. Only so many pieces are under way at once, so memory
does not grow with the number of particles; and a piece's results do not depend on who makes it.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Callable, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .core.downsampler import Downsampler, split_shift
from .core.plan import DownsamplePlan
from .core.statistics import STATISTICS
from .errors import DataError
from .job import Job
from .stacks import ImageReader, StackWriter, open_part, write_images
from .tables import ParticleRow, read_particles, write_particles

BYTES_PER_PIECE = 48 << 20  # of float32 pixels to read: some hundredths of a second of work
BYTES_PER_WRITE = 1 << 19  # still in the processor's cache
ROWS_AT_ONCE = 10000  # of a table

Advance = Callable[[int], object]

# A particle of a piece: its place (from 0) in the output stack, and its row with the file as a number
WANTED = np.dtype(
    [("id", "i8"), ("file", "i8"), ("index", "i8"), ("shift_x", "f8"), ("shift_y", "f8"), ("place", "i8")]
)
# What became of it: the applied shift, and the statistics of its image
DONE = np.dtype([("shift", "f8", 2), ("statistics", STATISTICS)])


class Piece(NamedTuple):
    """Particles (WANTED) for a worker, sorted by file and place in it; `files` are the names."""

    part_path: str
    files: tuple[str, ...]
    particles: NDArray[np.void]


def run_job(job: Job, numbers: Sequence[int], workers: int, advance: Advance) -> None:
    """Make the output stacks of a job with these numbers, but for those that are done already.

    Uses so many worker processes; `advance` is told how many particles are done. Raises DataError at the
    first file or image that is not what it should be, naming it; the stacks that were finished by then stay.
    """
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(workers, context, _start_worker, (job.plan,)) as pool:
        under_way: deque[_StackUnderWay] = deque()
        try:
            for number in numbers:
                if job.is_done(number):
                    advance(job.stack_size(number))
                    continue
                stack = _StackUnderWay(job, number)
                under_way.append(stack)
                for piece in stack.pieces():
                    while sum(len(other.pending) for other in under_way) > 2 * workers:
                        _take_oldest(under_way, advance)
                    stack.pending.append((pool.submit(_run_piece, piece), piece.particles["place"]))
                stack.complete = True
            while under_way:
                _take_oldest(under_way, advance)
        except BaseException as error:
            pool.shutdown(wait=False, cancel_futures=True)
            if isinstance(error, BrokenProcessPool):
                error = DataError(
                    "a worker process died: it was killed, or the machine ran out of memory; "
                    "use fewer threads or ask for more memory, then continue the run"
                )
            if isinstance(error, (DataError, OSError)):
                _leave_word(job, under_way[0].number if under_way else numbers[0], error)
            raise error


def _leave_word(job: Job, number: int, error: Exception) -> None:
    """Leave the reason where who started the program looks for it; a full disk may not have room even for that."""
    path = job.error_path(number)
    with contextlib.suppress(OSError), open(path, "w", encoding="utf-8", errors="backslashreplace") as file:
        file.write(str(error))


def _take_oldest(under_way: deque[_StackUnderWay], advance: Advance) -> None:
    """Wait for the oldest piece; a stack that is through with it is finished."""
    stack = under_way[0]
    if stack.pending:
        advance(stack.take_oldest())
    if stack.complete and not stack.pending:
        stack.finish()
        under_way.popleft()


class _StackUnderWay:
    """An unfinished output stack: what is to be done, what workers have, what has come back."""

    def __init__(self, job: Job, number: int):
        self.number = number
        self._job = job
        self._files: dict[str, int] = {}
        rows = read_particles(job.todo_path(number))
        self._todo = np.fromiter(
            (
                (number, self._files.setdefault(name, len(self._files)), index, x, y, place)
                for place, (number, index, name, x, y) in enumerate(rows)
            ),
            dtype=WANTED,
        )
        if len(self._todo) != job.stack_size(number):
            raise DataError(
                f"{job.todo_path(number)}: got {len(self._todo)} particles, expected {job.stack_size(number)}; write "
                "the job again"
            )
        plan = job.plan
        dtype = np.dtype(np.float16 if plan.float16 else np.float32)
        self._writer = StackWriter(job.stack_path(number), len(self._todo), plan.box_out, dtype, plan.apix_out)
        self._writer.create()
        self._done = np.zeros(len(self._todo), dtype=DONE)
        self.pending: deque[tuple[Future[NDArray[np.void]], NDArray[Any]]] = deque()
        self.complete = False  # whether all pieces were handed out

    def pieces(self) -> Iterator[Piece]:
        """The particles in pieces, in the order of the files on disk."""
        files = tuple(sorted(self._files))
        rank = np.empty(len(files), dtype=np.int64)
        rank[[self._files[name] for name in files]] = np.arange(len(files))
        todo = self._todo.copy()
        todo["file"] = rank[todo["file"]]
        todo = todo[np.lexsort((todo["index"], todo["file"]))]
        size = max(BYTES_PER_PIECE // (4 * self._job.plan.box_in**2), 1)
        for start in range(0, len(todo), size):
            part = todo[start : start + size].copy()
            first, last = part["file"][0], part["file"][-1] + 1
            part["file"] -= first
            yield Piece(self._writer.part_path, files[first:last], part)

    def take_oldest(self) -> int:
        """Wait for the oldest piece that workers have, and return its number of particles."""
        future, places = self.pending.popleft()
        self._done[places] = future.result()
        return len(places)

    def finish(self) -> None:
        """Give the stack its name and leave its table."""
        self._writer.finish(self._done["statistics"])
        write_particles(self._job.done_path(self.number), self._results())
        with contextlib.suppress(FileNotFoundError):
            os.remove(self._job.error_path(self.number))

    def _results(self) -> Iterator[ParticleRow]:
        for start in range(0, len(self._todo), ROWS_AT_ONCE):
            rows = slice(start, start + ROWS_AT_ONCE)
            numbers, shifts = self._todo["id"][rows].tolist(), self._done["shift"][rows].tolist()
            for index, (number, shift) in enumerate(zip(numbers, shifts), start=start + 1):
                yield ParticleRow(number, index, self._writer.path, *shift)


# Of a worker process: memory is made once
_downsampler: Downsampler
_images: NDArray[Any]  # to be written


def _start_worker(plan: DownsamplePlan) -> None:
    global _downsampler, _images
    _downsampler = Downsampler(plan)
    bytes_of_block = _downsampler.block * plan.box_out**2 * _downsampler.dtype.itemsize
    count = max(BYTES_PER_WRITE // bytes_of_block, 1) * _downsampler.block
    _images = np.empty((count, plan.box_out, plan.box_out), dtype=_downsampler.dtype)


def _run_piece(piece: Piece) -> NDArray[np.void]:
    """In a worker: downsample the particles of a piece into their places; what became of them (DONE)."""
    plan, block = _downsampler.plan, _downsampler.block
    particles = piece.particles
    split = split_shift(np.stack([particles["shift_x"], particles["shift_y"]], axis=1), plan.recenter)
    done = np.empty(len(particles), dtype=DONE)
    done["shift"] = split.applied
    wanted = [
        _Wanted(number, piece.files[file], index, *move)
        for (number, file, index, *_), move in zip(
            particles.tolist(), zip(split.whole.tolist(), split.fraction.tolist())
        )
    ]
    with open_part(piece.part_path) as part, ImageReader() as reader:
        for first in range(0, len(done), len(_images)):
            last = min(first + len(_images), len(done))
            for start in range(first, last, block):
                stop = min(start + block, last)
                _put_block(reader, wanted[start:stop])
                outcome = _downsampler.run(stop - start, _images[start - first : stop - first])
                for place, problem in sorted(outcome.problems.items()):
                    raise wanted[start + place].refused(problem)
                done["statistics"][start:stop] = outcome.statistics
            _write_runs(part, particles["place"][first:last], _images)
    return done


class _Wanted(NamedTuple):
    """A particle for a worker, its shift taken apart."""

    number: int
    path: str
    image_index: int
    whole: Sequence[int]
    fraction: Sequence[float]

    def refused(self, problem: DataError) -> DataError:
        return DataError(f"Particle {self.number}, image {self.image_index} of {self.path}: {problem}")


def _put_block(reader: ImageReader, wanted: Sequence[_Wanted]) -> None:
    """Read images to their places in a block."""
    for place, particle in enumerate(wanted):
        try:
            stack = reader.open(particle.path)
            number = stack.number_of(particle.image_index)
            memory = _downsampler.memory(place, stack.shape, stack.dtype)
            _downsampler.put(place, stack.read(number, memory), particle.whole, particle.fraction)
        except DataError as problem:
            raise particle.refused(problem) from problem


def _write_runs(part: int, places: NDArray[np.int64], images: NDArray[np.generic]) -> None:
    """Write images at their places, those that follow each other at once."""
    breaks = (np.flatnonzero(np.diff(places) != 1) + 1).tolist()
    for start, stop in zip([0, *breaks], [*breaks, len(places)]):
        write_images(part, int(places[start]), images[start:stop])
