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
import json
import multiprocessing
import os
import re
import secrets
import shutil
import socket
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from .errors import DataError, DownsampleError
from .job import Job
from .output_stack import write_json
from .program import Crew, Hands, StackInPieces, StackUnderWay, in_words, signals_held
from .ranks import Launch
from .whole_files import create_part, whole_binary_file, whole_file
from .worker import PieceDone, be_a_child

BEAT = 1.0  # s between signs of life
QUICK_BEATS, QUICK_BEAT = 50, 0.1  # the first ones, so that helpers soon begin
PATIENCE = 120.0  # s without one: longer than a start from a slow disk, or a pause of one
LOOK = 0.2  # s between looks at what the others do
PATIENCE_OF_FAILED = 10.0  # s that a leader that has failed waits for helpers: they may just be starting
PATIENCE_OF_STOPPED = 0.5  # s of one that is stopped: mpirun kills it soon

FOLDER_PATTERN = "crew_[0-9a-f]{16}"
LEADER, END = "leader.beat", "end"
BEATS, FAILED, STOPPED, GONE = ".beat", ".failed", ".stopped", ".gone"


class Order(NamedTuple):
    """An unfinished stack that helpers work on, in pieces of so many images."""

    job: str
    fingerprint: str
    #: its number in the job, from 1
    stack: int
    #: name of the unfinished file, in the job's folder
    part_name: str
    per_piece: int


class _Over(Exception):
    """The leader needs no help any more, or has gone."""


# ---- the leader ------------------------------------------------------------------------------------------


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
    leader.leave(PATIENCE)


class Leader(Crew):
    """The first process of a launch, with what it knows of the others."""

    patience = LOOK

    def __init__(self, folder: str, launch: Launch):
        self.size = launch.size
        self._made_folders = _make_folders(folder)
        self._folder = _crew_folder(folder, launch)
        self._orders = itertools.count(1)
        self._signs = _Signs()
        self._start = self._looked = time.monotonic()
        self._ranks = Counter({rank: 0 for rank in range(launch.size)})  # images made
        _make_anew(self._folder)
        self._beats = _Beats(os.path.join(self._folder, LEADER))

    def begin(self, work: StackUnderWay, job: Job, per_piece: int) -> None:
        """Let helpers take pieces of a stack."""
        new = os.path.join(self._folder, "new")
        os.mkdir(new)
        part_name = os.path.basename(work.part_path)
        order = Order(job.path, job.fingerprint, work.stack.number, part_name, per_piece)
        write_json(os.path.join(new, "order.json"), order._asdict())
        work.shared_in = os.path.join(self._folder, f"stack_{next(self._orders):06d}")
        os.rename(new, work.shared_in)

    def take(self, work: StackInPieces) -> int | None:
        """The number of a piece that nobody has taken yet, which is this process's now."""
        number = _take(work)
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
            work.free = deque(number for number in work.free if _taken(number) not in names)
            for name in names:
                if name.endswith(".done"):
                    number = int(name.split(".")[0])
                    rank, done = _read_done(os.path.join(work.shared_in, name))
                    os.remove(os.path.join(work.shared_in, name))
                    self._ranks[rank] += len(work.places(number))
                    found.append((work, number, done))
        self._looked = time.monotonic()
        return found

    def _look_at_helpers(self) -> None:
        names = self._names_by_kind()
        for failed in names[FAILED]:
            raise DataError(_text(os.path.join(self._folder, failed + FAILED)))
        if names[STOPPED]:
            raise KeyboardInterrupt
        for helper in names[BEATS]:
            if helper in names[GONE] or self._is_silent(helper):
                host = "".join(_text(os.path.join(self._folder, helper + BEATS)).split()[1:])
                raise DataError(
                    f"Process {helper.split('_')[0]} of {self.size}, counted from 0, on {host or 'some computer'}: it "
                    f"has ended, or shown no sign of life for {PATIENCE:.0f} s, expected one every second; see why "
                    "it was killed, or does not reach the disk, then continue the run"
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
        return self._signs.seconds_since(os.path.join(self._folder, helper + BEATS)) > PATIENCE

    def summary(self) -> str:
        """How many images each process has made, by their ranks."""
        counts = ", ".join(str(self._ranks[rank]) for rank in range(self.size))
        return f"Images made by each of {self.size} processes: {counts}"

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
        return gone >= (self.size - 1 if time.monotonic() - self._start < PATIENCE else len(names[BEATS]))


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
    signs, path = _Signs(), os.path.join(folder, LEADER)
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


# ---- a helper --------------------------------------------------------------------------------------------


def help_out(folder: str, launch: Launch, workers: int) -> None:
    """Be a helper of the first process of a launch, with output in a folder, until it needs none any more.

    Says nothing: what goes wrong is for the leader to tell, and left where it looks.
    """
    crew = _crew_folder(folder, launch)
    signs, start = _Signs(), time.monotonic()
    while not signs.changes(os.path.join(crew, LEADER)):
        if time.monotonic() - start > PATIENCE:
            return
        time.sleep(QUICK_BEAT)
        _names_in(folder)  # some disks of clusters find new names only so
        signs.seconds_since(os.path.join(crew, LEADER))
    with contextlib.suppress(FileNotFoundError):  # the leader has gone
        _Helper(crew, launch.rank, workers, signs).help()


class _Helper:
    """A process of a launch but the first."""

    def __init__(self, folder: str, rank: int, workers: int, signs: _Signs):
        self._folder, self._rank, self._workers, self._signs = folder, rank, workers, signs
        self._own = os.path.join(folder, f"{rank}_{secrets.token_hex(4)}")
        self._orders: deque[tuple[str, Order]] = deque()  # not begun, with their folders
        self._last = ""  # name of the last one's folder
        self._looked = 0.0
        self._beats = _Beats(self._own + BEATS)

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
        end = time.monotonic() + PATIENCE
        while True:
            try:
                job = Job.read(order.job)
                if job.fingerprint == order.fingerprint:
                    return job
                raise DataError(
                    f"{order.job}: it is another job than the first process has; start all of them together"
                )
            except DownsampleError:
                if time.monotonic() > end:
                    raise
            _names_in(os.path.dirname(order.job) or ".")
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
                if (number := _take(works[0])) is None:
                    del works[0]
                else:
                    hands.put(works[0], number)
            if self._orders and not works and hands.are_empty:
                return
            for work, number, done in hands.done(LOOK / 4):
                _write_done(os.path.join(work.shared_in, f"{number}.done"), self._rank, done)

    def _look(self) -> None:
        """See what the leader has to say."""
        if time.monotonic() - self._looked < LOOK:
            return
        leader = os.path.join(self._folder, LEADER)
        names = _names_in(self._folder)
        if LEADER not in names or END in names or self._signs.seconds_since(leader) > PATIENCE:
            raise _Over
        for name in sorted(name for name in names if name.startswith("stack_") and name > self._last):
            self._last = name
            path = os.path.join(self._folder, name)
            self._orders.append((path, Order(**json.loads(_text(os.path.join(path, "order.json"))))))
        self._looked = time.monotonic()


# ---- what both do ----------------------------------------------------------------------------------------


def _crew_folder(folder: str, launch: Launch) -> str:
    return os.path.join(folder, f"crew_{launch.token}")


def _taken(number: int) -> str:
    return f"{number}.taken"


def _take(work: StackInPieces) -> int | None:
    """The number of a piece of a stack that nobody has taken, and take it; None if all are."""
    names = set(_names_in(work.shared_in))
    while work.free:
        number = work.free.popleft()
        if _taken(number) in names:
            continue
        try:
            os.close(os.open(os.path.join(work.shared_in, _taken(number)), os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        except FileExistsError:
            continue
        return number
    return None


def _write_done(path: str, rank: int, piece_done: PieceDone) -> None:
    """Leave what became of a piece: of whom, of its images (DONE), and by places in it why some cannot be used."""
    done, problems = piece_done
    with whole_binary_file(path) as file:
        np.save(file, done)
        file.write(json.dumps([rank, *problems.items()]).encode())


def _read_done(path: str) -> tuple[int, PieceDone]:
    """What ``_write_done`` left."""
    with open(path, "rb") as file:
        done = np.load(file)
        rank, *problems = json.loads(file.read())
    return rank, (done, dict(problems))


def _names_in(folder: str) -> list[str]:
    """Names in a folder; none if it is not there. Network disks look anew for this, and not for a single name."""
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []


def _text(path: str) -> str:
    with open(path, encoding="utf-8", errors="backslashreplace") as file:
        return file.read()


class _Beats:
    """Signs of life of this process, as a number in a file that grows; a process of its own writes them, so they come
    in whatever work.
    """

    def __init__(self, path: str):
        self._file = create_part(path, mode="x")
        process = multiprocessing.get_context("fork").Process(target=_beat, args=(path, os.getpid()), daemon=True)
        with signals_held():
            process.start()
        self._process = process

    def stop(self) -> None:
        """End them."""
        self._process.kill()
        self._process.join()
        self._file.close()


def _beat(path: str, parent: int) -> None:
    be_a_child(parent)
    host = socket.gethostname()
    for number in itertools.count():
        # Opened anew, so that disks of clusters pass it on; of the same length, so that it needs no room on a full disk
        with contextlib.suppress(OSError), open(path, "r+", encoding="utf-8") as file:
            file.write(f"{number:012d} {host}\n")
        time.sleep(QUICK_BEAT if number < QUICK_BEATS else BEAT)


class _Signs:
    """How long other processes have shown no sign of life, timed by this computer's clock."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[str, float, int]] = {}  # content, time, number of changes

    def seconds_since(self, path: str) -> float:
        """Seconds since the file of a process was last seen to change; from the first look on."""
        now = time.monotonic()
        try:
            text = _text(path)
        except OSError:
            text = ""
        before, since, changes = self._seen.get(path, ("", now, 0))
        if text and text != before:
            since, changes = now, changes + bool(before)
        self._seen[path] = text or before, since, changes
        return now - since

    def changes(self, path: str) -> int:
        """How often it was seen to change; the first content is none, and may be that of a process that was killed."""
        return self._seen[path][2] if path in self._seen else 0
