# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs a job: reads particles, downsamples them in worker processes, writes stacks and their tables.

Images go to the workers in pieces of an output stack, sorted by input file and place in it; every worker
writes its images at their places in the unfinished stack. Only so many pieces are under way at once, so memory
does not grow with the number of images; and a piece's results do not depend on who makes it, which may be a
process on another computer (see crew.py).
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shutil
import signal
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from types import TracebackType
from typing import Callable, Generic, NoReturn, TypeVar

import numpy as np
from numpy.typing import NDArray

from .core.plan import DownsamplePlan
from .errors import TOO_MANY_FILES, DataError, too_many_files
from .fingerprints import FileState
from .job import Job
from .output_stack import OutputStack
from .tables import MADE
from .worker import DONE, STOP_SIGNALS, Piece, PieceDone, run_piece, start_worker

BYTES_PER_PIECE = 48 << 20  # of float32 pixels to read: some hundredths of a second of work
PIECES_PER_WORKER = 4  # at least, so that all are busy to the end, unless pieces would become very small
SMALLEST_PART = 16  # of a usual piece
MOST_STACKS = 64  # unfinished at once: each is an open file

Advance = Callable[[int], object]
Work = TypeVar("Work", bound="StackInPieces")


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
    for stack in todo:
        stack.forget()
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
            if stack.may_stay(self._skip_corrupt):  # another program has made it meanwhile
                self._advance(stack.size)
                continue
            work = StackUnderWay(stack, self._inputs, self._per_piece, self._skip_corrupt)
            self._under_way.append(work)
            work.begin()
            self._crew.begin(work, self._job, self._per_piece)

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
    if isinstance(error, BrokenProcessPool):
        return DataError(
            "A worker process died: it was killed, or the machine ran out of memory; "
            "use fewer threads or ask for more memory, then continue the run"
        )
    if isinstance(error, MemoryError):
        return DataError(
            "The machine ran out of memory, expected some tens of MB for each worker process; use fewer threads or ask "
            "for more memory, then continue the run"
        )
    if isinstance(error, OSError) and error.errno in TOO_MANY_FILES:
        return DataError(f"{job.folder}: {too_many_files()}, then continue the run")
    if isinstance(error, OSError):
        return DataError(
            f"{job.folder}: the output cannot be written ({error.strerror or error}), expected a folder that "
            f"can be written to, with room for {_megabytes(stacks):.0f} MB; see to it, then continue the run"
        )
    return error


class StackInPieces:
    """An output stack that is made in pieces: its images in the order of the files on disk, so many at a time."""

    def __init__(self, stack: OutputStack, inputs: Mapping[str, FileState | None], part_path: str, per_piece: int):
        """`inputs` are all image files of its job, in their order."""
        self.stack = stack
        #: where a crew shares it out; empty if nobody else works on it
        self.shared_in = ""
        self._part_path, self._per_piece = part_path, per_piece
        self._wanted = stack.wanted()
        file_names, self._files = self._files_of(list(inputs))
        #: the image files that it needs, sorted by their names
        self.inputs = {name: inputs[name] for name in file_names}
        self._inputs = list(self.inputs.items())
        self._order = np.lexsort((self._wanted["index"], self._files))
        #: numbers of pieces that nobody has taken, as far as this process knows
        self.free = deque(range(-(-len(self._order) // per_piece)))

    def _files_of(self, all_names: Sequence[str]) -> tuple[list[str], NDArray[np.int64]]:
        """Names of the files that it needs, sorted, and for each image the place of its file's in them."""
        used, files = np.unique(self._wanted["file"], return_inverse=True)
        names = [all_names[number] for number in used.tolist()]
        order = sorted(range(len(names)), key=names.__getitem__)
        rank = np.empty(len(names), dtype=np.int64)
        rank[order] = np.arange(len(names))
        return [names[i] for i in order], rank[files]

    def places(self, number: int) -> NDArray[np.int64]:
        """Places in the stack (from 0) of the images of a piece."""
        places: NDArray[np.int64] = self._order[number * self._per_piece : (number + 1) * self._per_piece]
        return places

    def piece(self, number: int) -> Piece:
        """A piece for a worker."""
        places = self.places(number)
        files = self._files[places]
        first, last = files[0], files[-1] + 1
        return Piece(self._part_path, tuple(self._inputs[first:last]), files - first, self._wanted[places], places)


class StackUnderWay(StackInPieces):
    """An unfinished output stack: what is to be done, and what has come back."""

    def __init__(self, stack: OutputStack, inputs: Mapping[str, FileState | None], per_piece: int, skip_corrupt: bool):
        self._writer = stack.writer()
        super().__init__(stack, inputs, self._writer.part_path, per_piece)
        self._skip_corrupt = skip_corrupt
        self._done = np.zeros(stack.size, dtype=DONE)
        self._bad: dict[int, str] = {}  # problems, by places
        self._left = set(self.free)  # pieces that have not come back

    @property
    def part_path(self) -> str:
        """The unfinished file, which workers write into."""
        return self._part_path

    def begin(self) -> None:
        """Make the unfinished stack, in the place of what is left of earlier attempts."""
        self.stack.tidy()
        self._writer.create()

    def take(self, number: int, piece_done: PieceDone) -> int:
        """Take a piece that has come back, and return its number of images; 0 if another process has made it too."""
        if number not in self._left:
            return 0
        done, problems = piece_done
        places = self.places(number)
        self._done[places] = done
        self._bad.update((int(places[i]), problem) for i, problem in problems.items())
        self._left.remove(number)
        return len(places)

    @property
    def is_complete(self) -> bool:
        """Whether all pieces have come back."""
        return not self._left

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
        self.stack.finish(self.inputs, made, self._done["words"][good])

    def discard(self) -> None:
        """Remove what there is of the stack."""
        self._writer.discard()


# ---- worker processes ------------------------------------------------------------------------------------


class Hands(Generic[Work]):
    """This process's workers, for pieces of one plan, as long as the context lasts; they have some pieces at once."""

    def __init__(self, plan: DownsamplePlan, workers: int):
        self._plan, self._workers = plan, workers
        self._in_hand: dict[Future[PieceDone], tuple[Work, int]] = {}

    def __enter__(self) -> Hands[Work]:
        self._signals = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        context = multiprocessing.get_context("fork")
        self._pool = ProcessPoolExecutor(self._workers, context, start_worker, (self._plan, os.getpid()))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._pool.shutdown()
        signal.pthread_sigmask(signal.SIG_SETMASK, self._signals)

    @property
    def have_room(self) -> bool:
        """Whether they take one more: each is to find the next when it is through with one."""
        return len(self._in_hand) < 2 * self._workers

    @property
    def are_empty(self) -> bool:
        """Whether they have none."""
        return not self._in_hand

    def put(self, work: Work, number: int) -> None:
        """Give them a piece of a stack."""
        with signals_held():
            future = self._pool.submit(run_piece, work.piece(number))
        self._in_hand[future] = work, number

    def done(self, patience: float | None) -> list[tuple[Work, int, PieceDone]]:
        """Pieces that they are through with; waits for the first so many seconds, or for ever. Errors of theirs."""
        if not self._in_hand:
            time.sleep(patience or 0)
        through = wait(self._in_hand, patience, FIRST_COMPLETED).done
        return [(*self._in_hand.pop(future), future.result()) for future in through]

    def drop(self) -> None:
        """Let them begin nothing more. Signals wait: a second Ctrl-C must not hit the end of the pool."""
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        self._pool.shutdown(wait=False, cancel_futures=True)


@contextlib.contextmanager
def signals_held() -> Iterator[None]:
    """Have Ctrl-C and its like wait: processes start here, which are not to be hit, nor is the pool meanwhile."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
