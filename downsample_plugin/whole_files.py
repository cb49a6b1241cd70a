# SPDX-License-Identifier: GPL-3.0-or-later
"""Files that appear under their names only when they are whole."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
from collections.abc import Iterator
from typing import IO, Any, TextIO

PART_PATTERN = r"\.[0-9a-f]{16}\.part"


def part_name(path: str) -> str:
    """A name for the unfinished file that no other process uses, in the same folder."""
    return f"{path}.{secrets.token_hex(8)}.part"


def claim(file: IO[Any]) -> None:
    """Mark an unfinished file as this process's: as long as it is open here, it is not abandoned."""
    fcntl.flock(file, fcntl.LOCK_EX)


def remove_abandoned(folder: str) -> None:
    """Remove the unfinished files in a folder whose processes are gone."""
    for name in os.listdir(folder):
        if re.search(PART_PATTERN + "$", name):
            path = os.path.join(folder, name)
            with contextlib.suppress(OSError), open(path, "rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.remove(path)


@contextlib.contextmanager
def whole_file(path: str, **settings: Any) -> Iterator[TextIO]:
    """A text file to write, opened with these settings; it gets its name at the end, and if anything fails is gone."""
    part_path = part_name(path)
    try:
        with open(part_path, "x", **{"encoding": "utf-8", **settings}) as file:
            claim(file)
            yield file
        os.replace(part_path, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.remove(part_path)
        raise
