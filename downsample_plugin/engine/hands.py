# SPDX-License-Identifier: GPL-3.0-or-later
"""The worker processes of this process."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import Future
from types import TracebackType
from typing import Generic, TypeVar

from ..core.plan import DownsamplePlan
from .pieces import StackInPieces
from .pool import WorkerPool
from .worker import STOP_SIGNALS, PieceDone, run_piece, start_worker

Work = TypeVar("Work", bound=StackInPieces)


class Hands(Generic[Work]):
    """This process's workers, for pieces of one plan, as long as the context lasts; they have some pieces at once."""

    def __init__(self, plan: DownsamplePlan, workers: int):
        self._plan, self._workers = plan, workers
        self._in_hand: dict[Future[PieceDone], tuple[Work, int]] = {}

    def __enter__(self) -> Hands[Work]:
        self._signals = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        self._pool = WorkerPool(self._workers, start_worker, self._plan, os.getpid()).__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._pool.__exit__(kind, error, traceback)
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
            return []
        through = self._pool.wait(self._in_hand, patience)
        return [(*self._in_hand.pop(future), future.result()) for future in through]

    def drop(self) -> None:
        """End them, whatever they are doing. Signals wait: a second Ctrl-C must not hit what is done about it."""
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        self._pool.drop()


@contextlib.contextmanager
def signals_held() -> Iterator[None]:
    """Have Ctrl-C and its like wait: processes start here, which are not to be hit, nor is the pool meanwhile."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
