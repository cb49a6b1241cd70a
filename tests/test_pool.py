# SPDX-License-Identifier: GPL-3.0-or-later
"""Worker processes: every call is answered, or it is said why not; nothing waits in vain, whenever one is killed."""

import multiprocessing
import os
import signal
import time

import pytest

from downsample_plugin.engine.pool import BYTES_AHEAD, WorkerPool
from downsample_plugin.errors import DataError

from .waiting import LONGEST

LARGE = 1 << 22  # bytes, more than any pipe takes


@pytest.fixture(autouse=True)
def never_in_vain():
    """What waits for ever fails."""

    def fail(*_):
        raise AssertionError("it waits in vain")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(LONGEST)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)
    assert not multiprocessing.active_children()


def start():
    pass


def size_and_bytes(data, size):
    return len(data), bytes(size)


def kill(worker):
    worker.kill()
    worker.join()


def answers(pool, calls):
    """Those to some calls, in their order."""
    for call in calls:
        pool.wait([call], None)
    return [call.result() for call in calls]


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("size", [1, BYTES_AHEAD - 1000, BYTES_AHEAD, LARGE])
@pytest.mark.parametrize("size_of_answer", [1, LARGE])
def test_calls_and_answers_of_all_sizes(workers, size, size_of_answer):
    """None waits for a worker to read that waits for its answer to be read."""
    with WorkerPool(workers, start) as pool:
        calls = [pool.submit(size_and_bytes, bytes(size + i), size_of_answer) for i in range(8)]
        assert answers(pool, calls) == [(size + i, bytes(size_of_answer)) for i in range(8)]


def test_a_wait_of_some_seconds():
    with WorkerPool(1, start) as pool:
        call = pool.submit(time.sleep, 1)
        assert pool.wait([call], 0.01) == set()
        assert pool.wait([call], None) == {call}


def test_an_error_is_told_and_the_worker_goes_on():
    with WorkerPool(1, start) as pool:
        calls = [pool.submit(int, "x"), pool.submit(int, "7")]
        assert answers(pool, calls[1:]) == [7]
        with pytest.raises(ValueError, match="invalid literal") as raised:
            calls[0].result()
        assert "Traceback" in str(raised.value.__cause__)


def test_an_error_of_the_start():
    with pytest.raises(ZeroDivisionError), WorkerPool(2, divmod, 1, 0) as pool:
        pool.wait([pool.submit(int)], None)


@pytest.mark.parametrize("number", [0, 1])
def test_killed_while_it_waits(number):
    """Whichever it is: in a queue that all share, it would have the lock."""
    with WorkerPool(2, start) as pool:
        assert answers(pool, [pool.submit(int) for _ in range(4)]) == [0] * 4
        kill(multiprocessing.active_children()[number])
    with pytest.raises(DataError, match="A worker process died"), WorkerPool(2, start) as pool:
        assert answers(pool, [pool.submit(int) for _ in range(4)]) == [0] * 4
        kill(multiprocessing.active_children()[number])
        answers(pool, [pool.submit(time.sleep, 0.01) for _ in range(200)])


@pytest.mark.parametrize("size, size_of_answer", [(1, LARGE), (LARGE, 1)])
@pytest.mark.parametrize("workers", [1, 2])
def test_killed_in_the_middle(size, size_of_answer, workers):
    """Of an answer, which nobody has read yet, or of a call."""
    with pytest.raises(DataError, match="A worker process died"), WorkerPool(workers, start) as pool:
        call = pool.submit(size_and_bytes, bytes(size), size_of_answer)
        time.sleep(0.2)
        for worker in multiprocessing.active_children():
            kill(worker)
        answers(pool, [call, *(pool.submit(size_and_bytes, bytes(size), size_of_answer) for _ in range(4))])


def test_killed_by_its_own_call():
    with pytest.raises(DataError, match="A worker process died"), WorkerPool(2, start) as pool:
        answers(pool, [pool.submit(os._exit, 0)])


def test_an_error_here_ends_workers_that_are_busy():
    begun = time.monotonic()
    with pytest.raises(KeyError), WorkerPool(2, start) as pool:
        pool.submit(time.sleep, 2 * LONGEST)
        raise KeyError
    assert time.monotonic() - begun < LONGEST
