# SPDX-License-Identifier: GPL-3.0-or-later
"""What can go wrong, in words for the user: every message is a sentence that can be shown as it is."""

from __future__ import annotations

import errno
import resource
from collections.abc import Sequence

# What is wrong with a file by itself; all else is due to the disk, its server or this computer, and may pass
OF_THE_FILE = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENXIO, None}
TOO_MANY_FILES = {errno.EMFILE, errno.ENFILE}
FILES_NEEDED = 256
NAMED_IN_A_MESSAGE = 5  # particles, images or stacks, before "…"


class DownsampleError(Exception):
    """Base of all errors that are told to the user without a traceback."""


class PlanError(DownsampleError):
    """The request cannot be carried out: its numbers do not fit each other or the particles."""

    def __init__(self, problems: Sequence[str]):
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


class DataError(DownsampleError):
    """A file, an image or a table is not what it should be."""


class InputError(DataError):
    """An input cannot be read now, or has changed during the run: no particle is at fault; the run stops."""


def input_problem(error: OSError | ValueError, what: str, expected: str) -> DataError:
    """That a file of particles cannot be read, without its name: `what` about it, and what was `expected` instead.

    An InputError unless the file itself is at fault.
    """
    number = getattr(error, "errno", None)
    if number in TOO_MANY_FILES:
        return InputError(f"{what} ({error.strerror}): {too_many_files()}")  # type: ignore[union-attr]
    text = f"{what} ({getattr(error, 'strerror', None) or error}), expected {expected}"
    if number in OF_THE_FILE:
        return DataError(text)
    return InputError(f"{text}; check the disk, its server and its permissions, then continue the run")


def in_a_sentence(error: OSError) -> str:
    """What the operating system has refused, for people."""
    where = f"{error.filename}: " if error.filename else ""
    if error.errno in TOO_MANY_FILES:
        return f"{where}{too_many_files()}"
    if error.errno == errno.EAGAIN:  # only processes are refused so
        return str(no_more_processes(error))
    return (
        f"{where}{error.strerror or error}, expected files and folders that can be read and written; check them, or "
        "give another folder"
    )


def worker_died() -> DataError:
    """That a worker process has ended before its work."""
    return DataError(
        "A worker process died: it was killed, or the machine ran out of memory; "
        "use fewer threads or request more memory, then continue the run"
    )


def no_more_processes(error: Exception) -> DataError:
    """That the system starts no more processes."""
    return DataError(
        f"No more processes can be started ({getattr(error, 'strerror', None) or error}), expected one for "
        "each worker and some more; use fewer threads, or raise that limit (ulimit -u), then continue the run"
    )


def too_many_files() -> str:
    """That too many files are open, and what to do."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return (
        f"this process may have {limit} files open at once, expected about {FILES_NEEDED}; raise that limit (ulimit "
        "-n), or use fewer threads"
    )
