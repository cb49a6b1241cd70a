# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs a job: reads particles, downsamples them in worker processes, writes stacks and the result table.

Particles go to the workers in pieces of an output stack, sorted by input file and place in it; every worker
writes its images at their places in the unfinished stack. Only so many pieces are under way at once, so memory
does not grow with the number of particles; and a piece's results do not depend on who makes it.
"""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Callable, NamedTuple, TypeVar

import numpy as np

from .core.downsampler import Downsampler
from .core.plan import DownsamplePlan
from .errors import DataError
from .job import Job
from .stacks import ImageReader, ImageStatistics, StackWriter, open_part, write_image
from .tables import ParticleRow, ParticleTableWriter, read_particles

PARTICLES_PER_PIECE = 200  # some tenths of a second of work

Item = TypeVar("Item")
Advance = Callable[[int], object]


class PlacedParticle(NamedTuple):
    """A particle and its place (from 0) in an output stack."""

    place: int
    row: ParticleRow


class DoneParticle(NamedTuple):
    """What became of a particle: where its image is in the output stack, and the applied shift."""

    place: int
    row: ParticleRow
    statistics: ImageStatistics


def run_job(job: Job, workers: int, advance: Advance) -> None:
    """Carry out a job with so many worker processes; `advance` is told how many particles are done.

    Raises DataError at the first file or image that is not what it should be, naming it. The stacks that
    were finished by then stay; no result table is written.
    """
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(workers, context, _start_worker, (job.plan,)) as pool:
        try:
            with ParticleTableWriter(job.results_path) as results:
                for stack in _run_stacks(job, pool, workers, advance):
                    for done in stack:
                        results.write(done.row)
        except BrokenProcessPool as error:
            raise DataError(
                "a worker process died: it was killed, or the machine ran out of memory; "
                "use fewer threads or ask for more memory, then continue the run"
            ) from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _run_stacks(job: Job, pool: ProcessPoolExecutor, workers: int, advance: Advance) -> Iterator[list[DoneParticle]]:
    """Finished output stacks in their order, each as its particles in their order."""
    pieces_under_way = 2 * workers + 1
    pending: deque[_StackUnderWay] = deque()
    for number, rows in enumerate(_chunks(read_particles(job.particles_path), job.particles_per_stack), start=1):
        writer = StackWriter(job.stack_path(number), len(rows), job.plan.box_out, _dtype(job.plan), job.plan.apix_out)
        writer.create()
        stack = _StackUnderWay(writer)
        pending.append(stack)
        placed = sorted(
            (PlacedParticle(place, row) for place, row in enumerate(rows)),
            key=lambda particle: (particle.row.image_file, particle.row.image_index),
        )
        for piece in _chunks(placed, PARTICLES_PER_PIECE):
            while sum(len(other.pieces) for other in pending) >= pieces_under_way:
                yield from _take_oldest(pending, advance)
            stack.pieces.append(pool.submit(_run_piece, writer.part_path, piece))
        stack.complete = True
    while pending:
        yield from _take_oldest(pending, advance)


class _StackUnderWay:
    """An unfinished output stack: the pieces that workers have, and what has come back."""

    def __init__(self, writer: StackWriter):
        self.writer = writer
        self.pieces: deque[Future[list[DoneParticle]]] = deque()
        self.done: list[DoneParticle] = []
        self.complete = False  # whether all of its pieces were handed out


def _take_oldest(pending: deque[_StackUnderWay], advance: Advance) -> Iterator[list[DoneParticle]]:
    """Wait for the oldest piece; a stack that is through with it is finished and handed on."""
    stack = pending[0]
    if stack.pieces:
        done = stack.pieces.popleft().result()
        stack.done += done
        advance(len(done))
    if stack.complete and not stack.pieces:
        stack.done.sort(key=lambda particle: particle.place)
        stack.writer.finish([particle.statistics for particle in stack.done])
        pending.popleft()
        yield [
            particle._replace(row=particle.row._replace(image_index=particle.place + 1, image_file=stack.writer.path))
            for particle in stack.done
        ]


_downsampler: Downsampler  # of a worker process


def _start_worker(plan: DownsamplePlan) -> None:
    global _downsampler
    _downsampler = Downsampler(plan)


def _run_piece(part_path: str, particles: Sequence[PlacedParticle]) -> list[DoneParticle]:
    """In a worker: downsample particles that are sorted by file, into their places of an unfinished stack."""
    done = []
    with open_part(part_path) as part, ImageReader() as reader:
        for place, row in particles:
            with _naming(row):
                image = reader.read(row.image_file, row.image_index)
                result, applied = _downsampler(image, (row.shift_x, row.shift_y))
            write_image(part, place, result)
            applied_row = row._replace(shift_x=float(applied[0]), shift_y=float(applied[1]))
            done.append(DoneParticle(place, applied_row, ImageStatistics.of(result)))
    return done


@contextlib.contextmanager
def _naming(row: ParticleRow) -> Iterator[None]:
    """Let a DataError name the particle and its file."""
    try:
        yield
    except DataError as error:
        raise DataError(f"Particle {row.particle_id}, image {row.image_index} of {row.image_file}: {error}") from error


def _dtype(plan: DownsamplePlan) -> np.dtype[np.generic]:
    return np.dtype(np.float16 if plan.float16 else np.float32)


def _chunks(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    iterator = iter(items)
    while chunk := list(itertools.islice(iterator, size)):
        yield chunk
