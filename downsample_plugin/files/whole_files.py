# SPDX-License-Identifier: GPL-3.0-or-later
"""Files that appear under their names only when they are whole."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
from collections.abc import Collection, Iterator
from typing import IO, Any, BinaryIO, TextIO

from ..errors import DataError

PART_PATTERN = r"\.[0-9a-f]{16}\.part"


def part_name(path: str) -> str:
    """A name for the unfinished file that no other process uses, in the same folder."""
    return f"{path}.{secrets.token_hex(8)}.part"


def create_part(path: str, **settings: Any) -> IO[Any]:
    """Create an unfinished file and mark it as this process's: as long as it is open here, it is not abandoned."""
    while True:
        file: IO[Any] = open(path, **settings)  # noqa: SIM115
        with contextlib.suppress(OSError):  # some disks of clusters have no locks; there nothing is ever abandoned
            fcntl.flock(file, fcntl.LOCK_EX)
        if os.path.exists(path):
            return file
        file.close()  # another process has taken it for abandoned before it was marked


def remove_abandoned(folder: str, names: Collection[str]) -> None:
    """Remove the unfinished files in a folder that were to get these names, and whose processes are gone.

    Only those that no other process of the same run may write: not every disk tells its locks to other computers.
    """
    for part in os.listdir(folder):
        name = re.sub(PART_PATTERN + "$", "", part)
        if name != part and name in names:
            path = os.path.join(folder, part)
            with contextlib.suppress(OSError), open(path, "rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.remove(path)


@contextlib.contextmanager
def alone_in(folder: str) -> Iterator[None]:
    """Wait until no other program is in this context for the folder, and keep others waiting until it ends."""
    file = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a disk without locks
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        os.close(file)


@contextlib.contextmanager
def whole_file(path: str, **settings: Any) -> Iterator[TextIO]:
    """A text file to write, opened with these settings; it gets its name at the end, and if anything fails is gone."""
    with _whole(path, True, mode="x", **{"encoding": "utf-8", **settings}) as file:
        yield file


@contextlib.contextmanager
def whole_binary_file(path: str, over: bool = True) -> Iterator[BinaryIO]:
    """The same for bytes. Unless it may be written `over`, DataError if a file of the name is there in the end."""
    with _whole(path, over, mode="xb") as file:
        yield file


@contextlib.contextmanager
def _whole(path: str, over: bool, **settings: Any) -> Iterator[Any]:
    part_path = part_name(path)
    try:
        with create_part(part_path, **settings) as file:
            yield file
        if not over and os.path.lexists(path):
            raise DataError(
                f"{path}: it is there since the run began, expected no such file; add --force to write "
                "over it, or give another name"
            )
        os.replace(part_path, path)
    except BaseException:
        with contextlib.suppress(OSError):  # what went wrong before is to be told
            os.remove(part_path)
        raise
