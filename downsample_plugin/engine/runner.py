# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs a job: reads particles, downsamples them in worker processes, writes stacks and their tables.

Images go to the workers in pieces of an output stack, sorted by input file and place in it; every worker
writes its images at their places in the unfinished stack. Only so many pieces are under way at once, so memory
does not grow with the number of images; and a piece's results do not depend on who makes it, which may be a
process on another computer (see crew.py).
"""

from __future__ import annotations

import errno
import shutil
from collections import deque
from collections.abc import Sequence
from typing import Callable, NoReturn

from ..core.plan import DownsamplePlan
from ..errors import TOO_MANY_FILES, DataError, no_more_processes, too_many_files
from .hands import Hands
from .job import Job
from .output_stack import OutputStack
from .pieces import StackInPieces, StackUnderWay
from .worker import PieceDone

BYTES_PER_PIECE = 48 << 20  # of float32 pixels to read: some hundredths of a second of work
PIECES_PER_WORKER = 4  # at least, so that all are busy to the end, unless pieces would become very small
SMALLEST_PART = 16  # of a usual piece
MOST_STACKS = 64  # unfinished at once: each is an open file

Advance = Callable[[int], object]


class Crew:
    """Who makes pieces besides this process's own workers: nobody here; crew.py has those with helpers."""

    #: of all its processes
    size = 1
    #: s to wait for this process's own workers before there may be news from others; None: for ever
    patience: float | None = None

    def begin(self, work: StackUnderWay, job: Job, per_piece: int) -> None:
        """Let the others begin with an unfinished stack, in pieces of so many images."""

    def take(self, work: StackInPieces) -> int | None:
        """The number of a piece that is this process's to make from now on; None if none is left."""
        return work.free.popleft() if work.free else None

    def news(self, under_way: Sequence[StackUnderWay]) -> list[tuple[StackUnderWay, int, PieceDone]]:
        """What others have made since the last time: pieces by their numbers. DataError if one of them cannot go on."""
        return []

    def summary(self) -> str:
        """What each of several processes has done, for the user."""
        return ""


def run_job(
    job: Job,
    stacks: Sequence[OutputStack],
    workers: int,
    advance: Advance,
    skip_corrupt: bool = False,
    crew: Crew | None = None,
) -> None:
    """Make these output stacks of a job, but for those that are done and intact already.

    Uses so many worker processes, and the crew; `advance` is told how many images are done. Images that cannot be
    used are listed in tables of the job; a stack that has some is made without them if they may be skipped, else not
    at all, and the others are made nevertheless. Raises DataError if the run cannot go on: a full disk, say, or a
    worker that died. What was finished by then stays.
    """
    job.remove_abandoned(stacks)
    todo = [stack for stack in stacks if not stack.may_stay(skip_corrupt)]
    advance(sum(stack.size for stack in stacks) - sum(stack.size for stack in todo))
    if not todo:
        return
    _check_room(job, todo)
    making = _Making(job, todo, workers, skip_corrupt, advance, crew or Crew())
    with Hands[StackUnderWay](job.plan, workers) as hands:
        try:
            making.make_all(hands)
        except BaseException as error:
            hands.drop()
            making.give_up(error)


# ---- what is to do ---------------------------------------------------------------------------------------


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


def _images_per_piece(plan: DownsamplePlan, images: int, workers: int) -> int:
    """As many as are well read at once, or fewer, so that so many workers all have some pieces of all images."""
    usual = max(BYTES_PER_PIECE // (4 * plan.box_in**2), 1)
    wanted = -(-images // (PIECES_PER_WORKER * workers))
    return max(min(usual, wanted), usual // SMALLEST_PART, 1)


# ---- making it -------------------------------------------------------------------------------------------


class _Making:
    """Stacks on their way: those that wait, and those that are under way."""

    def __init__(
        self, job: Job, todo: Sequence[OutputStack], workers: int, skip_corrupt: bool, advance: Advance, crew: Crew
    ):
        self._job, self._todo, self._skip_corrupt, self._advance, self._crew = job, todo, skip_corrupt, advance, crew
        self._inputs = job.files()
        self._waiting = deque(todo)
        self._under_way: list[StackUnderWay] = []
        self._per_piece = _images_per_piece(job.plan, sum(stack.size for stack in todo), workers * crew.size)
        # Helpers are to find pieces when this process is busy; without any, the next stack waits for the last piece
        self._enough = 2 * workers * crew.size if crew.size > 1 else 1

    def make_all(self, hands: Hands[StackUnderWay]) -> None:
        """Make all stacks."""
        while self._waiting or self._under_way:
            while hands.have_room and (piece := self._next_piece()):
                hands.put(*piece)
            for work, number, done in hands.done(self._crew.patience):
                self._took(work, number, done)
            for work, number, done in self._crew.news(self._under_way):
                self._took(work, number, done)

    def _next_piece(self) -> tuple[StackUnderWay, int] | None:
        """A piece of the oldest stack that has one; opens stacks as it needs them."""
        while True:
            self._open_stacks()
            for work in self._under_way:
                if (number := self._crew.take(work)) is not None:
                    return work, number
            if not self._waiting or len(self._under_way) >= MOST_STACKS:
                return None

    def _open_stacks(self) -> None:
        """Have enough pieces for all."""
        while (
            self._waiting
            and len(self._under_way) < MOST_STACKS
            and sum(len(work.free) for work in self._under_way) < self._enough
        ):
            stack = self._waiting.popleft()
            work = StackUnderWay(stack, self._inputs, self._per_piece, self._skip_corrupt)
            self._under_way.append(work)  # before it begins: what it leaves when that fails is removed too
            if work.begin():
                self._crew.begin(work, self._job, self._per_piece)
            else:
                self._under_way.remove(work)
                self._advance(stack.size)

    def _took(self, work: StackUnderWay, number: int, done: PieceDone) -> None:
        """A piece has come back; a stack that is through with the last is finished."""
        count = work.take(number, done)
        self._advance(count)
        if count and work.is_complete:
            work.finish()
            self._under_way.remove(work)

    def give_up(self, error: BaseException) -> NoReturn:
        """Leave no half stack, and the reason in the program's words for who started it."""
        current = self._under_way[0].stack if self._under_way else self._todo[0]
        for work in self._under_way:
            work.discard()
        error = in_words(error, self._job, self._todo)
        if isinstance(error, DataError):
            current.leave_word(error)
        raise error


def in_words(error: BaseException, job: Job, stacks: Sequence[OutputStack]) -> BaseException:
    """What stops a run that makes these stacks as a sentence for the user, where it is one of what may happen."""
    if isinstance(error, MemoryError):
        return DataError(
            "The machine ran out of memory, expected a few tens of MB for each worker process; use fewer threads or "
            "request more memory, then continue the run"
        )
    if isinstance(error, OSError) and error.errno in TOO_MANY_FILES:
        return DataError(f"{job.folder}: {too_many_files()}, then continue the run")
    if isinstance(error, OSError) and error.errno == errno.EAGAIN:  # only processes are refused so
        return no_more_processes(error)
    if isinstance(error, OSError):
        return DataError(
            f"{job.folder}: the output cannot be written ({error.strerror or error}), expected a folder that can be "
            f"written to, with room for {_megabytes(stacks):.0f} MB; check it, then continue the run"
        )
    return error
