# SPDX-License-Identifier: GPL-3.0-or-later
"""Worker processes that never keep this one waiting in vain: whatever becomes of one, the pipe to it tells.

The workers of Python's own pool share two queues. One that is killed while it has the lock of the first, or is writing
to the second, keeps the others, and who waits for them, for ever: seen at the end of a run, and in the middle of an
answer of 500 MB. Here each worker has a pipe of its own, and no thread takes part, which may be refused.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import traceback as tracebacks
from collections import deque
from collections.abc import Collection
from concurrent.futures import Future
from multiprocessing.connection import Connection, wait
from multiprocessing.reduction import ForkingPickler
from types import TracebackType
from typing import Any, Callable, TypeVar

from ..errors import worker_died

Result = TypeVar("Result")
BYTES_AHEAD = 1 << 15  # of a call that a worker at work can be given: two find room in its pipe, so nobody waits


class InWorker(Exception):
    """Where in a worker an error was raised: the cause of what is raised here."""


class WorkerPool:
    """Worker processes forked from this one at the first call, as long as the context lasts.

    DataError if one of them ends before.
    """

    def __init__(self, workers: int, start: Callable[..., object], *arguments: object):
        """`start` is called with the arguments in each worker when it begins."""
        self._size, self._start = workers, (start, arguments)
        self._workers: list[_Worker] = []
        self._waiting: deque[tuple[Future[Any], bytes]] = deque()  # calls that no worker has

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            for worker in self._workers:
                worker.end()
        else:
            self.drop()
        for worker in self._workers:
            worker.join()

    def submit(self, function: Callable[..., Result], *arguments: object) -> Future[Result]:
        """Have a worker call a function. OSError (EAGAIN) if the system gives no more processes."""
        while len(self._workers) < self._size:
            self._workers.append(_Worker(*self._start))
        future: Future[Result] = Future()
        self._waiting.append((future, bytes(ForkingPickler.dumps((function, arguments)))))
        self._hand_out()
        return future

    def wait(self, futures: Collection[Future[Result]], patience: float | None) -> set[Future[Result]]:
        """Those of some calls that are through; waits for the first so many seconds, or for ever."""
        while not (through := {future for future in futures if future.done()}):
            pipes = wait([worker.pipe for worker in self._workers], patience)
            if not pipes:
                break
            for worker in self._workers:
                if worker.pipe in pipes:
                    worker.take_answer()
            self._hand_out()
        return through

    def drop(self) -> None:
        """End all workers, whatever they are doing."""
        for worker in self._workers:
            worker.process.kill()

    def _hand_out(self) -> None:
        """Give calls to the workers that have least to do: each is to find the next when it is through with one."""
        while self._waiting:
            worker = min(self._workers, key=lambda each: len(each.calls))
            future, call = self._waiting[0]
            if len(worker.calls) >= (2 if len(call) <= BYTES_AHEAD else 1):
                return
            worker.give(future, call)
            self._waiting.popleft()


class _Worker:
    """A worker process, the pipe to it, and the calls that it has, of which it begins the first at once."""

    def __init__(self, start: Callable[..., object], arguments: tuple[object, ...]):
        context = multiprocessing.get_context("fork")
        self.pipe, its_end = context.Pipe()
        self.process = context.Process(target=_serve, args=(its_end, start, arguments), daemon=True)
        try:
            self.process.start()
        finally:
            its_end.close()  # only the worker is to have it: it is closed when the worker ends, however that happens
        self._started: Future[Any] = Future()
        self.calls = deque([self._started])

    def give(self, future: Future[Any], call: bytes) -> None:
        """Have it make a call."""
        try:
            self.pipe.send_bytes(call)
        except OSError as error:
            raise worker_died() from error
        self.calls.append(future)

    def take_answer(self) -> None:
        """Note the answer to its first call, which has come."""
        try:
            result, error, where = self.pipe.recv()
        except (EOFError, OSError) as ended:
            raise worker_died() from ended
        future = self.calls.popleft()
        if error is None:
            future.set_result(result)
        else:
            error.__cause__ = InWorker(where)
            future.set_exception(error)
        if future is self._started:
            future.result()

    def end(self) -> None:
        """Let it end; it has nothing to do."""
        with contextlib.suppress(OSError):  # it has ended already
            self.pipe.send(None)

    def join(self) -> None:
        """Wait for its end."""
        self.process.join()
        self.pipe.close()


def _serve(pipe: Connection, start: Callable[..., object], arguments: tuple[object, ...]) -> None:
    """Be a worker: start, then answer calls until there are no more."""
    call: tuple[Callable[..., object], tuple[object, ...]] | None = start, arguments
    while call is not None:
        function, arguments = call
        answer: tuple[object, Exception | None, str]
        try:
            answer = function(*arguments), None, ""
        except Exception as error:
            answer = None, error, tracebacks.format_exc()
        pipe.send(answer)
        call = pipe.recv()
