# SPDX-License-Identifier: GPL-3.0-or-later
"""What tells whether something is still what it was: sums of pixels, sizes and times of files."""

from __future__ import annotations

import hashlib
import os
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, input_problem


def word_sums(images: NDArray[np.generic]) -> NDArray[np.uint64]:
    """For each image of a contiguous stack, the sum of its words, modulo 2^64: a checksum that costs little."""
    words = images.reshape(len(images), -1)
    unsigned = np.uint64 if words[0].nbytes % 8 == 0 else np.dtype(f"u{words.itemsize}")
    sums: NDArray[np.uint64] = words.view(unsigned).sum(axis=1, dtype=np.uint64)
    return sums


def checksum(sums: NDArray[np.uint64], header: bytes) -> str:
    """Of a stack, from the sums of its images in their order, and its header."""
    return hashlib.sha256(sums.astype("<u8").tobytes() + header).hexdigest()


class FileState(NamedTuple):
    """What tells a file from another one that takes its place, and from what it was before it was written to."""

    size_bytes: int
    modified_ns: int
    inode: int
    #: of the last change of its bytes, name, owner or times: nobody can set it
    changed_ns: int


def state_of(status: os.stat_result) -> FileState:
    """State of a file by what the system says of it."""
    return FileState(status.st_size, status.st_mtime_ns, status.st_ino, status.st_ctime_ns)


def file_state(path: str) -> FileState | None:
    """State of a file; None if it is not there, which the run says of its particles. InputError if nobody can know."""
    try:
        return state_of(os.stat(path))
    except (OSError, ValueError) as error:
        problem = input_problem(error, "the file cannot be looked at", "to find it as it was")
        if isinstance(problem, InputError):
            raise InputError(f"{path}: {problem}") from error
        return None


def difference(before: FileState | None, now: FileState | None) -> str:
    """How two states of a file differ, for people; empty if they do not."""
    if before == now:
        return ""
    if before is None or now is None:
        return "it has appeared" if before is None else "it has been removed"
    if before.size_bytes != now.size_bytes:
        return f"its size has changed from {before.size_bytes} to {now.size_bytes} bytes"
    if before.modified_ns != now.modified_ns:
        return "it has been written to"
    if before.inode != now.inode:
        return "it has been replaced by another file"
    return "it has been written to or renamed"


def check_unchanged(path: str, before: FileState | None) -> None:
    """Raise InputError if a file is not what it was."""
    now = file_state(path)
    try:
        check_same(before, now)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def check_same(before: FileState | None, now: FileState | None) -> None:
    """Raise InputError, which does not name the file, if it is not what it was."""
    found = difference(before, now)
    if found:
        raise InputError(
            f"{found} since the run began, expected the same file until its end; continue the run: what was made from "
            "the old file will be made again"
        )
