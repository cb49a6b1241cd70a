# SPDX-License-Identifier: GPL-3.0-or-later
"""A helper in a crew: it makes pieces of stacks until the leader, which crew.py is about, needs no more."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import time
from collections import deque

from ..errors import DataError, DownsampleError
from ..files.whole_files import whole_file
from . import crew_folder
from .crew_folder import (
    BEATS,
    END,
    FAILED,
    GONE,
    LEADER,
    LOOK,
    QUICK_BEAT,
    STOPPED,
    Beats,
    Order,
    Signs,
    folder_of,
    names_in,
    take,
    text_of,
    write_done,
)
from .hands import Hands
from .job import Job
from .pieces import StackInPieces
from .ranks import Launch
from .runner import in_words


class _Over(Exception):
    """The leader no longer needs help, or has gone."""


def help_out(folder: str, launch: Launch, workers: int) -> None:
    """Be a helper of the first process of a launch, with output in a folder, until it no longer needs any.

    Says nothing: what goes wrong is for the leader to tell, and left where it looks.
    """
    crew = folder_of(folder, launch)
    signs, start = Signs(), time.monotonic()
    while not signs.changes(os.path.join(crew, LEADER)):
        if time.monotonic() - start > crew_folder.PATIENCE:
            return
        time.sleep(QUICK_BEAT)
        names_in(folder)  # some disks of clusters find new names only so
        signs.seconds_since(os.path.join(crew, LEADER))
    with contextlib.suppress(FileNotFoundError):  # the leader has gone
        _Helper(crew, launch.rank, workers, signs).help()


class _Helper:
    """A process of a launch but the first."""

    def __init__(self, folder: str, rank: int, workers: int, signs: Signs):
        self._folder, self._rank, self._workers, self._signs = folder, rank, workers, signs
        self._own = os.path.join(folder, f"{rank}_{secrets.token_hex(4)}")
        self._orders: deque[tuple[str, Order]] = deque()  # not begun, with their folders
        self._last = ""  # name of the last one's folder
        self._looked = 0.0
        self._beats = Beats(self._own + BEATS)

    def help(self) -> None:
        """Make pieces until the leader needs no more."""
        try:
            self._make_pieces()
        except _Over:
            pass
        except KeyboardInterrupt:
            self._leave_word(STOPPED, "")
            raise
        except Exception as error:
            self._leave_word(FAILED, str(error) if isinstance(error, DownsampleError) else repr(error))
            if not isinstance(error, DownsampleError):
                raise
        finally:
            self._beats.stop()
            self._leave_word(GONE, "")

    def _leave_word(self, kind: str, words: str) -> None:
        with contextlib.suppress(OSError), whole_file(self._own + kind, errors="backslashreplace") as file:
            file.write(words)

    def _make_pieces(self) -> None:
        while True:
            while not self._orders:
                self._look()
                time.sleep(LOOK / 4)
            _, first = self._orders[0]
            job = self._job_of(first)
            with Hands[StackInPieces](job.plan, self._workers) as hands:
                try:
                    self._help_with(job, hands)
                except _Over:
                    hands.drop()
                    raise
                except BaseException as error:
                    hands.drop()
                    raise in_words(error, job, job.stacks) from None

    def _job_of(self, order: Order) -> Job:
        """The job, as soon as this computer sees what another one has written: some disks take their time."""
        end = time.monotonic() + crew_folder.PATIENCE
        while True:
            try:
                job = Job.read(order.job)
                if job.fingerprint == order.fingerprint:
                    return job
                raise DataError(
                    f"{order.job}: it is not the job of the first process, expected the same; start all processes "
                    "together"
                )
            except DownsampleError:
                if time.monotonic() > end:
                    raise
            names_in(os.path.dirname(order.job) or ".")
            time.sleep(LOOK)
            self._look()

    def _help_with(self, job: Job, hands: Hands[StackInPieces]) -> None:
        """Make pieces of a job's stacks until one of another job is to be made."""
        inputs = job.files()
        works: list[StackInPieces] = []
        while True:
            self._look()
            while self._orders and self._orders[0][1].fingerprint == job.fingerprint:
                folder, order = self._orders.popleft()
                part_path = os.path.join(job.folder, os.path.basename(order.part_name))
                work = StackInPieces(job.stacks[order.stack - 1], inputs, part_path, order.per_piece)
                work.shared_in = folder
                works.append(work)
            while works and hands.have_room:
                if (number := take(works[0])) is None:
                    del works[0]
                else:
                    hands.put(works[0], number)
            if self._orders and not works and hands.are_empty:
                return
            for work, number, done in hands.done(LOOK / 4):
                write_done(os.path.join(work.shared_in, f"{number}.done"), self._rank, done)

    def _look(self) -> None:
        """See what the leader has to say."""
        if time.monotonic() - self._looked < LOOK:
            return
        leader = os.path.join(self._folder, LEADER)
        names = names_in(self._folder)
        if LEADER not in names or END in names or self._signs.seconds_since(leader) > crew_folder.PATIENCE:
            raise _Over
        for name in sorted(name for name in names if name.startswith("stack_") and name > self._last):
            self._last = name
            path = os.path.join(self._folder, name)
            self._orders.append((path, Order(**json.loads(text_of(os.path.join(path, "order.json"))))))
        self._looked = time.monotonic()


# ---- what both do ----------------------------------------------------------------------------------------
