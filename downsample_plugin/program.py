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
import shutil
import signal
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Callable

import numpy as np
from numpy.typing import NDArray

from .errors import DataError
from .job import Job
from .tables import BadParticle, ParticleRow, read_particles, write_bad_particles
from .worker import DONE, STOP_SIGNALS, WANTED, Piece, PieceDone, run_piece, start_worker

BYTES_PER_PIECE = 48 << 20  # of float32 pixels to read: some hundredths of a second of work
ROWS_AT_ONCE = 10000  # of a table

Advance = Callable[[int], object]


def run_job(job: Job, numbers: Sequence[int], workers: int, advance: Advance, skip_corrupt: bool = False) -> None:
    """Make the output stacks of a job with these numbers, but for those that are done and intact already.

    Uses so many worker processes; `advance` is told how many particles are done. Particles that cannot be used
    are listed in tables of the job; a stack that has some is made without them if they may be skipped, else not
    at all, and the others are made nevertheless. Raises DataError if the run cannot go on: a full disk, say, or a
    worker that died. What was finished by then stays.
    """
    job.remove_abandoned(numbers)
    todo = [number for number in numbers if not job.may_stay(number, skip_corrupt)]
    advance(sum(map(job.stack_size, numbers)) - sum(map(job.stack_size, todo)))
    if not todo:
        return
    for number in todo:
        job.forget(number)
    _check_room(job, todo)
    context = multiprocessing.get_context("fork")
    under_way: deque[_StackUnderWay] = deque()
    with _signals_restored(), ProcessPoolExecutor(workers, context, start_worker, (job.plan, os.getpid())) as pool:
        try:
            for number in todo:
                if job.may_stay(number, skip_corrupt):  # another program has made it meanwhile
                    advance(job.stack_size(number))
                    continue
                stack = _StackUnderWay(job, number, skip_corrupt)
                under_way.append(stack)
                stack.begin()
                for piece in stack.pieces():
                    while sum(len(other.pending) for other in under_way) > 2 * workers:
                        _take_oldest(under_way, advance)
                    with _signals_held():
                        future = pool.submit(run_piece, piece)
                    stack.pending.append((future, piece.particles))
                stack.complete = True
            while under_way:
                _take_oldest(under_way, advance)
        except BaseException as error:
            signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)  # a second Ctrl-C must not hit the end of the pool
            pool.shutdown(wait=False, cancel_futures=True)
            number = under_way[0].number if under_way else todo[0]
            for stack in under_way:
                stack.discard()
            if isinstance(error, BrokenProcessPool):
                error = DataError(
                    "A worker process died: it was killed, or the machine ran out of memory; "
                    "use fewer threads or ask for more memory, then continue the run"
                )
            elif isinstance(error, OSError):
                error = DataError(
                    f"{job.folder}: the output cannot be written ({error.strerror or error}), expected a folder that "
                    f"can be written to, with room for {_megabytes(job, todo):.0f} MB; see to it, then continue the run"
                )
            if isinstance(error, DataError):
                _leave_word(job, number, error)
            raise error


@contextlib.contextmanager
def _signals_restored() -> Iterator[None]:
    """Let signals be blocked in between."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _signals_held() -> Iterator[None]:
    """Have Ctrl-C and its like wait: workers start here, which are not to be hit, nor is the pool while it is at it."""
    with _signals_restored():
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        yield


def _check_room(job: Job, numbers: Sequence[int]) -> None:
    """Refuse output stacks that the disk has no room for before hours are spent on them."""
    free = shutil.disk_usage(job.folder or ".").free / 1e6
    needed = _megabytes(job, numbers)
    if free < needed:
        error = DataError(
            f"{job.folder}: the disk has room for {free:.0f} MB, expected {needed:.0f} MB for {len(numbers)} output "
            "stacks; make room, then continue the run"
        )
        _leave_word(job, numbers[0], error)
        raise error


def _megabytes(job: Job, numbers: Sequence[int]) -> float:
    return sum(job.writer(number).bytes for number in numbers) / 1e6


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

    def __init__(self, job: Job, number: int, skip_corrupt: bool):
        self.number = number
        self._job, self._skip_corrupt = job, skip_corrupt
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
        self._done = np.zeros(len(self._todo), dtype=DONE)
        self._bad: dict[int, BadParticle] = {}  # by their places
        self.pending: deque[tuple[Future[PieceDone], NDArray[np.void]]] = deque()
        self.complete = False  # whether all pieces were handed out
        self._writer = job.writer(number)

    def begin(self) -> None:
        """Make the unfinished stack, in the place of what is left of earlier attempts."""
        self._job.tidy(self.number)
        self._writer.create()

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
        future, particles = self.pending.popleft()
        done, problems = future.result()
        places = particles["place"]
        self._done[places] = done
        self._bad.update((int(places[i]), bad) for i, bad in problems.items())
        return len(places)

    def finish(self) -> None:
        """Give the stack its name and leave its tables; only the latter if it has particles that cannot be used."""
        if self._bad:
            write_bad_particles(self._job.bad_path(self.number), (self._bad[place] for place in sorted(self._bad)))
            if not self._skip_corrupt:
                self.discard()
                return
        good = np.ones(len(self._todo), dtype=bool)
        good[list(self._bad)] = False
        self._writer.finish(self._done["statistics"], good)
        self._job.finish(self.number, self._files, self._results(good), self._done["words"][good])

    def discard(self) -> None:
        """Remove what there is of the stack."""
        self._writer.discard()

    def _results(self, good: NDArray[np.bool_]) -> Iterator[ParticleRow]:
        numbers, shifts = self._todo["id"][good], self._done["shift"][good]
        for start in range(0, len(numbers), ROWS_AT_ONCE):
            rows = slice(start, start + ROWS_AT_ONCE)
            for index, (number, shift) in enumerate(zip(numbers[rows].tolist(), shifts[rows].tolist()), start + 1):
                yield ParticleRow(number, index, self._writer.path, *shift)
