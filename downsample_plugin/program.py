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

from .core.downsampler import Downsampler
from .core.plan import DownsamplePlan
from .core.statistics import ImageStatistics
from .errors import DataError
from .job import Job
from .stacks import ImageReader, StackWriter, open_part, write_images
from .tables import ParticleRow, read_particles, write_particles

PARTICLES_PER_PIECE = 200  # some tenths of a second of work
BYTES_PER_WRITE = 1 << 19  # still in the processor's cache

Advance = Callable[[int], object]

# A particle of a piece: its place (from 0) in the output stack, and its row with the file as a number
WANTED = np.dtype([("place", "i8"), ("id", "i8"), ("file", "i8"), ("index", "i8"), ("shift", "f8", 2)])
# What became of it: the applied shift, and the statistics of its image
DONE = np.dtype([("shift", "f8", 2), ("statistics", "f8", len(ImageStatistics._fields))])


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
        self._rows = list(read_particles(job.todo_path(number)))
        plan = job.plan
        dtype = np.dtype(np.float16 if plan.float16 else np.float32)
        self._writer = StackWriter(job.stack_path(number), len(self._rows), plan.box_out, dtype, plan.apix_out)
        self._writer.create()
        self._done = np.zeros(len(self._rows), dtype=DONE)
        self.pending: deque[tuple[Future[NDArray[np.void]], NDArray[Any]]] = deque()
        self.complete = False  # whether all pieces were handed out

    def pieces(self) -> Iterator[Piece]:
        """The particles in pieces, in the order of the files on disk."""
        files = tuple(sorted({row.image_file for row in self._rows}))
        number_of = {name: number for number, name in enumerate(files)}
        todo = np.empty(len(self._rows), dtype=WANTED)
        todo["place"] = np.arange(len(todo))
        todo["id"] = [row.particle_id for row in self._rows]
        todo["file"] = [number_of[row.image_file] for row in self._rows]
        todo["index"] = [row.image_index for row in self._rows]
        todo["shift"] = [(row.shift_x, row.shift_y) for row in self._rows]
        todo = todo[np.lexsort((todo["index"], todo["file"]))]
        for start in range(0, len(todo), PARTICLES_PER_PIECE):
            part = todo[start : start + PARTICLES_PER_PIECE].copy()
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
        shifts = self._done["shift"].tolist()
        write_particles(
            self._job.done_path(self.number),
            (
                ParticleRow(row.particle_id, place + 1, self._writer.path, *shift)
                for place, (row, shift) in enumerate(zip(self._rows, shifts))
            ),
        )
        with contextlib.suppress(FileNotFoundError):
            os.remove(self._job.error_path(self.number))


_downsampler: Downsampler  # of a worker process


def _start_worker(plan: DownsamplePlan) -> None:
    global _downsampler
    _downsampler = Downsampler(plan)


def _run_piece(piece: Piece) -> NDArray[np.void]:
    """In a worker: downsample the particles of a piece into their places; what became of them (DONE)."""
    done = np.empty(len(piece.particles), dtype=DONE)
    box, dtype = _downsampler.plan.box_out, _downsampler.dtype
    at_once = max(BYTES_PER_WRITE // (box**2 * dtype.itemsize), 1)
    images = np.empty((at_once, box, box), dtype=dtype)
    with open_part(piece.part_path) as part, ImageReader(_downsampler.input) as reader:
        for start in range(0, len(done), at_once):
            particles = piece.particles[start : start + at_once]
            for number, (_, particle_id, file, index, shift) in enumerate(particles.tolist()):
                try:
                    result = _downsampler(reader.read(piece.files[file], index), shift, out=images[number])
                except DataError as error:
                    raise DataError(f"Particle {particle_id}, image {index} of {piece.files[file]}: {error}") from error
                done[start + number] = (result.applied, result.statistics)
            _write_runs(part, particles["place"], images)
    return done


def _write_runs(part: int, places: NDArray[np.int64], images: NDArray[np.generic]) -> None:
    """Write images at their places, those that follow each other at once."""
    breaks = (np.flatnonzero(np.diff(places) != 1) + 1).tolist()
    for start, stop in zip([0, *breaks], [*breaks, len(places)]):
        write_images(part, int(places[start]), images[start:stop])
