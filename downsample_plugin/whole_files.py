# SPDX-License-Identifier: GPL-3.0-or-later
"""Files that appear under their names only when they are whole."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from typing import TextIO

PART_PATTERN = r"\.[0-9a-f]{16}\.part"


def part_name(path: str) -> str:
    """A name for the unfinished file that no other process uses, in the same folder."""
    return f"{path}.{secrets.token_hex(8)}.part"


@contextlib.contextmanager
def whole_file(
    path: str, encoding: str = "utf-8", errors: str = "strict", newline: str | None = None
) -> Iterator[TextIO]:
    """A text file to write, which gets its name at the end; if anything fails there is none."""
    part_path = part_name(path)
    try:
        with open(part_path, "x", encoding=encoding, errors=errors, newline=newline) as file:
            yield file
        os.replace(part_path, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.remove(part_path)
        raise
