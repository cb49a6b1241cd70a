# SPDX-License-Identifier: GPL-3.0-or-later
"""Worker processes that never keep this one waiting in vain: what ends the pool, or keeps it from beginning, is told.

Python's own pool has threads. One that the system refuses, or that fails, leaves calls without an answer and workers
without an end.
"""

from __future__ import annotations

import errno
import multiprocessing
import threading
from collections.abc import Collection
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from types import TracebackType
from typing import Callable, TypeVar

Result = TypeVar("Result")
LOOK = 1.0  # s between looks whether the pool still works


class WorkerPool:
    """Worker processes forked from this one, as long as the context lasts."""

    def __init__(self, workers: int, start: Callable[..., object], *arguments: object):
        """`start` is called with the arguments in each worker when it begins."""
        self._settings = (workers, multiprocessing.get_context("fork"), start, arguments)
        self._failure: BaseException | None = None

    def __enter__(self) -> WorkerPool:
        self._hook, threading.excepthook = threading.excepthook, self._note
        self._pool = ProcessPoolExecutor(*self._settings)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._failure is None:
            self._pool.shutdown(cancel_futures=True)
        else:  # a pool that has not begun altogether ends nothing
            self.drop()
            kill_children()
        threading.excepthook = self._hook

    def submit(self, function: Callable[..., Result], *arguments: object) -> Future[Result]:
        """Have a worker call a function. OSError (EAGAIN) if the system gives no more processes or threads."""
        try:
            return self._pool.submit(function, *arguments)
        except BrokenProcessPool:
            raise
        except BaseException as error:
            self._failure = error
            self._raise_failure()
            raise

    def wait(self, futures: Collection[Future[Result]], patience: float | None) -> set[Future[Result]]:
        """Those of some calls that are through; waits for the first so many seconds, or for ever."""
        while True:
            through = wait(futures, LOOK if patience is None else patience, FIRST_COMPLETED).done
            self._raise_failure()
            if through or patience is not None:
                return through

    def drop(self) -> None:
        """Let workers begin nothing more."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _note(self, raised: threading.ExceptHookArgs) -> None:
        """Take note of what has ended a thread."""
        self._failure = raised.exc_value

    def _raise_failure(self) -> None:
        if isinstance(self._failure, RuntimeError):  # Python's word for it that the system gives no more threads
            raise OSError(errno.EAGAIN, str(self._failure)) from self._failure
        if self._failure is not None:
            raise self._failure


def kill_children() -> None:
    """End all processes that were forked from this one, where nobody else would."""
    for process in multiprocessing.active_children():
        process.kill()
