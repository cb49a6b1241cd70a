# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs a job: reads particles, downsamples them in worker processes, writes stacks and their tables.

Images go to the workers in pieces of an output stack, sorted by input file and place in it; every worker
writes its images at their places in the unfinished stack. Only so many pieces are under way at once, so memory
does not grow with the number of images; and a piece's results do not depend on who makes it.
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
from .output_stack import OutputStack
from .tables import MADE
from .worker import DONE, STOP_SIGNALS, Piece, PieceDone, run_piece, start_worker

BYTES_PER_PIECE = 48 << 20  # of float32 pixels to read: some hundredths of a second of work

Advance = Callable[[int], object]


def run_job(
    job: Job, stacks: Sequence[OutputStack], workers: int, advance: Advance, skip_corrupt: bool = False
) -> None:
    """Make these output stacks of a job, but for those that are done and intact already.

    Uses so many worker processes; `advance` is told how many images are done. Images that cannot be used
    are listed in tables of the job; a stack that has some is made without them if they may be skipped, else not
    at all, and the others are made nevertheless. Raises DataError if the run cannot go on: a full disk, say, or a
    worker that died. What was finished by then stays.
    """
    job.remove_abandoned(stacks)
    todo = [stack for stack in stacks if not stack.may_stay(skip_corrupt)]
    advance(sum(stack.size for stack in stacks) - sum(stack.size for stack in todo))
    if not todo:
        return
    for stack in todo:
        stack.forget()
    _check_room(job, todo)
    context = multiprocessing.get_context("fork")
    under_way: deque[_StackUnderWay] = deque()
    file_names = job.file_names()
    with _signals_restored(), ProcessPoolExecutor(workers, context, start_worker, (job.plan, os.getpid())) as pool:
        try:
            for stack in todo:
                if stack.may_stay(skip_corrupt):  # another program has made it meanwhile
                    advance(stack.size)
                    continue
                new = _StackUnderWay(stack, file_names, skip_corrupt)
                under_way.append(new)
                new.begin()
                for piece in new.pieces():
                    while sum(len(other.pending) for other in under_way) > 2 * workers:
                        _take_oldest(under_way, advance)
                    with _signals_held():
                        future = pool.submit(run_piece, piece)
                    new.pending.append((future, piece.places))
                new.complete = True
            while under_way:
                _take_oldest(under_way, advance)
        except BaseException as error:
            signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)  # a second Ctrl-C must not hit the end of the pool
            pool.shutdown(wait=False, cancel_futures=True)
            current = under_way[0].stack if under_way else todo[0]
            for each in under_way:
                each.discard()
            if isinstance(error, BrokenProcessPool):
                error = DataError(
                    "A worker process died: it was killed, or the machine ran out of memory; "
                    "use fewer threads or ask for more memory, then continue the run"
                )
            elif isinstance(error, OSError):
                error = DataError(
                    f"{job.folder}: the output cannot be written ({error.strerror or error}), expected a folder that "
                    f"can be written to, with room for {_megabytes(todo):.0f} MB; see to it, then continue the run"
                )
            if isinstance(error, DataError):
                current.leave_word(error)
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


def _check_room(job: Job, stacks: Sequence[OutputStack]) -> None:
    """Refuse output stacks that the disk has no room for before hours are spent on them."""
    free = shutil.disk_usage(job.folder or ".").free / 1e6
    needed = _megabytes(stacks)
    if free < needed:
        error = DataError(
            f"{job.folder}: the disk has room for {free:.0f} MB, expected {needed:.0f} MB for {len(stacks)} output "
            "stacks; make room, then continue the run"
        )
        stacks[0].leave_word(error)
        raise error


def _megabytes(stacks: Sequence[OutputStack]) -> float:
    return sum(stack.writer().bytes for stack in stacks) / 1e6


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

    def __init__(self, stack: OutputStack, file_names: Sequence[str], skip_corrupt: bool):
        self.stack = stack
        self._file_names, self._skip_corrupt = file_names, skip_corrupt
        self._wanted = stack.wanted()
        self._done = np.zeros(stack.size, dtype=DONE)
        self._bad: dict[int, str] = {}  # problems, by places
        self.pending: deque[tuple[Future[PieceDone], NDArray[np.int64]]] = deque()
        self.complete = False  # whether all pieces were handed out
        self._writer = stack.writer()

    def begin(self) -> None:
        """Make the unfinished stack, in the place of what is left of earlier attempts."""
        self.stack.tidy()
        self._writer.create()

    def pieces(self) -> Iterator[Piece]:
        """The images in pieces, in the order of the files on disk."""
        names, files = self._files()
        order = np.lexsort((self._wanted["index"], files))
        size = max(BYTES_PER_PIECE // (4 * self.stack.plan.box_in**2), 1)
        for start in range(0, len(order), size):
            places = order[start : start + size]
            of_piece = files[places]
            first, last = of_piece[0], of_piece[-1] + 1
            yield Piece(
                self._writer.part_path, tuple(names[first:last]), of_piece - first, self._wanted[places], places
            )

    def _files(self) -> tuple[list[str], NDArray[np.int64]]:
        """Names of the files that it needs, sorted, and for each image the place of its file's in them."""
        used, files = np.unique(self._wanted["file"], return_inverse=True)
        names = [self._file_names[number] for number in used.tolist()]
        order = sorted(range(len(names)), key=names.__getitem__)
        rank = np.empty(len(names), dtype=np.int64)
        rank[order] = np.arange(len(names))
        return [names[i] for i in order], rank[files]

    def take_oldest(self) -> int:
        """Wait for the oldest piece that workers have, and return its number of images."""
        future, places = self.pending.popleft()
        done, problems = future.result()
        self._done[places] = done
        self._bad.update((int(places[i]), problem) for i, problem in problems.items())
        return len(places)

    def finish(self) -> None:
        """Give the stack its name and leave its tables; only word of the images that cannot be used, if any."""
        if self._bad:
            self.stack.refuse(sorted(self._bad.items()))
            if not self._skip_corrupt:
                self.discard()
                return
        good = np.ones(self.stack.size, dtype=bool)
        good[list(self._bad)] = False
        self._writer.finish(self._done["statistics"], good)
        made = np.zeros(self.stack.size, dtype=MADE)
        made["index"][good] = np.arange(1, np.count_nonzero(good) + 1)
        made["shift_x"], made["shift_y"] = self._done["shift"].T
        self.stack.finish(self._files()[0], made, self._done["words"][good])

    def discard(self) -> None:
        """Remove what there is of the stack."""
        self._writer.discard()
