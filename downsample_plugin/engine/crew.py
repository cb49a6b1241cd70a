# SPDX-License-Identifier: GPL-3.0-or-later
"""All processes that mpirun or srun started work on every stack of a job; a shared disk is all that they share.

The first process leads: it alone finds out what is to be done, speaks, and finishes stacks. The others help it. They
meet in a folder, beside the job or where the output goes, that is there as long as the leader::

    crew_0123456789abcdef/              named by the launch
        leader.beat                     a number that grows as long as the leader lives
        3_0123abcd.beat                 the same of a helper: its rank, and what no other process has
        3_0123abcd.failed, .stopped     why it ends before the leader
        3_0123abcd.gone                 it has ended
        stack_000001/order.json         a stack in pieces: of which job, where its unfinished file is
        stack_000001/17.taken           a piece that somebody makes; only one process can make this file
        stack_000001/17.done            what became of its images, until the leader has read it
        end                             nothing is left to do

Whoever has time takes a piece, so slow processes, or those that start late, do not hold up the others. Workers write
into the unfinished stack at their places. Clocks of computers differ: each process times by its own how long another
has shown no sign of life. A helper obeys no leader whose number it has not seen grow: one that was killed may have left
its folder.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import re
import shutil
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence

from ..errors import DataError
from . import crew_folder
from .crew_folder import (
    BEAT,
    BEATS,
    END,
    FAILED,
    FOLDER_PATTERN,
    GONE,
    LEADER,
    LOOK,
    STOPPED,
    Beats,
    Order,
    Signs,
    folder_of,
    read_done,
    take,
    taken_name,
    text_of,
)
from .hands import signals_held
from .job import Job
from .output_stack import write_json
from .pieces import StackInPieces, StackUnderWay
from .ranks import Launch
from .runner import Crew
from .worker import PieceDone

PATIENCE_OF_FAILED = 10.0  # s that a leader that has failed waits for helpers: they may just be starting
PATIENCE_OF_STOPPED = 0.5  # s of one that is stopped: mpirun kills it soon


@contextlib.contextmanager
def leading(folder: str, launch: Launch) -> Iterator[Crew]:
    """The crew of a launch, for output in a folder; nobody but this process if it was started alone.

    So it is where helpers cannot be met: in a folder that cannot be written to, which is for the run to complain of.
    """
    leader = None
    with contextlib.suppress(OSError):
        _remove_abandoned(folder)
        leader = Leader(folder, launch) if launch.size > 1 else None
    if leader is None:
        yield Crew()
        return
    try:
        yield leader
    except BaseException as error:
        with signals_held():
            leader.leave(PATIENCE_OF_FAILED if isinstance(error, Exception) else PATIENCE_OF_STOPPED)
        raise
    leader.leave(crew_folder.PATIENCE)


class Leader(Crew):
    """The first process of a launch, with what it knows of the others."""

    patience = LOOK

    def __init__(self, folder: str, launch: Launch):
        self.size = launch.size
        self._made_folders = _make_folders(folder)
        self._folder = folder_of(folder, launch)
        self._orders = itertools.count(1)
        self._signs = Signs()
        self._start = self._looked = time.monotonic()
        self._ranks = Counter({rank: 0 for rank in range(launch.size)})  # images made
        _make_anew(self._folder)
        self._beats = Beats(os.path.join(self._folder, LEADER))

    def begin(self, work: StackUnderWay, job: Job, per_piece: int) -> None:
        """Let helpers take pieces of a stack."""
        new = os.path.join(self._folder, "new")
        os.mkdir(new)
        part_name = os.path.basename(work.part_path)
        order = Order(job.path, job.fingerprint, work.stack.stack_number, part_name, per_piece)
        write_json(os.path.join(new, "order.json"), order._asdict())
        work.shared_in = os.path.join(self._folder, f"stack_{next(self._orders):06d}")
        os.rename(new, work.shared_in)

    def take(self, work: StackInPieces) -> int | None:
        """The number of a piece that nobody has taken yet, which is this process's now."""
        number = take(work)
        if number is not None:
            self._ranks[0] += len(work.places(number))
        return number

    def news(self, under_way: Sequence[StackUnderWay]) -> list[tuple[StackUnderWay, int, PieceDone]]:
        """Pieces that helpers are through with. DataError if one has failed or died; KeyboardInterrupt if stopped."""
        if time.monotonic() - self._looked < LOOK:
            return []
        self._look_at_helpers()
        found = []
        for work in under_way:
            names = set(os.listdir(work.shared_in))
            work.free = deque(number for number in work.free if taken_name(number) not in names)
            for name in names:
                if name.endswith(".done"):
                    number = int(name.split(".")[0])
                    rank, done = read_done(os.path.join(work.shared_in, name))
                    os.remove(os.path.join(work.shared_in, name))
                    self._ranks[rank] += len(work.places(number))
                    found.append((work, number, done))
        self._looked = time.monotonic()
        return found

    def _look_at_helpers(self) -> None:
        names = self._names_by_kind()
        for failed in names[FAILED]:
            raise DataError(text_of(os.path.join(self._folder, failed + FAILED)))
        if names[STOPPED]:
            raise KeyboardInterrupt
        for helper in names[BEATS]:
            if helper in names[GONE] or self._is_silent(helper):
                host = "".join(text_of(os.path.join(self._folder, helper + BEATS)).split()[1:])
                raise DataError(
                    f"Process {helper.split('_')[0]} of {self.size}, counted from 0, on "
                    f"{host or 'an unknown computer'}: it has ended, or has shown no sign of life for "
                    f"{crew_folder.PATIENCE:.0f} s, expected one every second; find out why it was killed or cannot "
                    "reach the disk, then continue the run"
                )

    def _names_by_kind(self) -> dict[str, list[str]]:
        """Names of helpers by what they have left, without its suffix."""
        found: dict[str, list[str]] = {kind: [] for kind in (BEATS, FAILED, STOPPED, GONE)}
        for name in sorted(os.listdir(self._folder)):
            stem, kind = os.path.splitext(name)
            if kind in found and name != LEADER:
                found[kind].append(stem)
        return found

    def _is_silent(self, helper: str) -> bool:
        return self._signs.seconds_since(os.path.join(self._folder, helper + BEATS)) > crew_folder.PATIENCE

    def summary(self) -> str:
        """How many images each process has made, by their ranks."""
        counts = ", ".join(str(self._ranks[rank]) for rank in range(self.size))
        return f"Images made by each of the {self.size} processes: {counts}"

    def leave(self, patience: float) -> None:
        """Tell helpers that they may go, wait for them so many seconds, and remove the folder in any case."""
        try:
            with open(os.path.join(self._folder, END), "x"):
                pass
            end = time.monotonic() + patience
            while time.monotonic() < end and not self._are_gone():
                time.sleep(LOOK / 4)
        except OSError:  # somebody has removed the folder, or the disk is full
            pass
        finally:
            self._beats.stop()
            shutil.rmtree(self._folder, ignore_errors=True)
            for folder in self._made_folders:
                with contextlib.suppress(OSError):  # something is in it, as a rule
                    os.rmdir(folder)

    def _are_gone(self) -> bool:
        """Whether all helpers have ended; those that have not come in all that time will not come."""
        names = self._names_by_kind()
        gone = sum(helper in names[GONE] or self._is_silent(helper) for helper in names[BEATS])
        return gone >= (self.size - 1 if time.monotonic() - self._start < crew_folder.PATIENCE else len(names[BEATS]))


def _make_folders(folder: str) -> list[str]:
    """Make a folder, with its parents; returns those that were not there, the innermost first."""
    made = []
    folder = os.path.normpath(folder)
    while folder and not os.path.lexists(folder):
        made.append(folder)
        folder = os.path.dirname(folder)
    for each in reversed(made):
        os.mkdir(each)
    return made


def _make_anew(folder: str) -> None:
    """Make the folder of a crew, over one that was left behind; OSError if its leader lives."""
    if os.path.lexists(folder):
        if _is_alive(folder):
            raise FileExistsError(folder)
        shutil.rmtree(folder)
    os.mkdir(folder)


def _is_alive(folder: str) -> bool:
    signs, path = Signs(), os.path.join(folder, LEADER)
    signs.seconds_since(path)
    time.sleep(2.5 * BEAT)
    signs.seconds_since(path)
    return signs.changes(path) > 0


def _remove_abandoned(folder: str) -> None:
    """Remove what killed launches have left in a folder; helpers of theirs that still live end then."""
    for name in os.listdir(folder) if os.path.isdir(folder) else []:
        path = os.path.join(folder, name)
        if re.fullmatch(FOLDER_PATTERN, name) and not _is_alive(path) and not _is_claimed(path):
            shutil.rmtree(path, ignore_errors=True)


def _is_claimed(folder: str) -> bool:
    """Whether a leader on this computer has the folder, or nobody can know."""
    try:
        with open(os.path.join(folder, LEADER), "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:  # it was killed before it had made that
        return False
    except OSError:
        return True
    return False
