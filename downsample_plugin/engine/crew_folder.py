# SPDX-License-Identifier: GPL-3.0-or-later
"""The folder that the processes of a crew meet in: what they leave there for each other, and their signs of life."""

from __future__ import annotations

import contextlib
import itertools
import json
import multiprocessing
import os
import socket
import time
from typing import NamedTuple

import numpy as np

from ..files.whole_files import create_part, whole_binary_file
from .hands import signals_held
from .pieces import StackInPieces
from .ranks import Launch
from .worker import PieceDone, be_a_child

BEAT = 1.0  # s between signs of life
QUICK_BEATS, QUICK_BEAT = 50, 0.1  # the first ones, so that helpers soon begin
PATIENCE = 120.0  # s without one: longer than a start from a slow disk, or a pause of one
LOOK = 0.2  # s between looks at what the others do

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


def folder_of(folder: str, launch: Launch) -> str:
    """Where the processes of a launch meet, for output in a folder."""
    return os.path.join(folder, f"crew_{launch.token}")


def taken_name(number: int) -> str:
    """Name of the file that says that a piece is taken."""
    return f"{number}.taken"


def take(work: StackInPieces) -> int | None:
    """The number of a piece of a stack that nobody has taken, and take it; None if all are."""
    names = set(names_in(work.shared_in))
    while work.free:
        number = work.free.popleft()
        if taken_name(number) in names:
            continue
        try:
            os.close(os.open(os.path.join(work.shared_in, taken_name(number)), os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        except FileExistsError:
            continue
        return number
    return None


def write_done(path: str, rank: int, piece_done: PieceDone) -> None:
    """Leave what became of a piece: of whom, of its images (DONE), and by places in it why some cannot be used."""
    done, problems = piece_done
    with whole_binary_file(path) as file:
        np.save(file, done)
        file.write(json.dumps([rank, *problems.items()]).encode())


def read_done(path: str) -> tuple[int, PieceDone]:
    """What ``write_done`` left."""
    with open(path, "rb") as file:
        done = np.load(file)
        rank, *problems = json.loads(file.read())
    return rank, (done, dict(problems))


def names_in(folder: str) -> list[str]:
    """Names in a folder; none if it is not there. Network disks look anew for this, and not for a single name."""
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []


def text_of(path: str) -> str:
    """The text of a file."""
    with open(path, encoding="utf-8", errors="backslashreplace") as file:
        return file.read()


class Beats:
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


class Signs:
    """How long other processes have shown no sign of life, timed by this computer's clock."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[str, float, int]] = {}  # content, time, number of changes

    def seconds_since(self, path: str) -> float:
        """Seconds since the file of a process was last seen to change; from the first look on."""
        now = time.monotonic()
        try:
            text = text_of(path)
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
