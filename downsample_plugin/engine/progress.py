# SPDX-License-Identifier: GPL-3.0-or-later
"""Progress over images: a bar on a terminal, a line now and then in a log, and a file for who looks at a job."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator
from typing import Callable, NamedTuple

SECONDS_BETWEEN_LOG_LINES = 10
SECONDS_BETWEEN_NOTES = 1
SECONDS_UNTIL_OLD = 60  # a note that old is of a program that was stopped, or stands still


class Progress(NamedTuple):
    """How many of all images are done, and how many become so each second, as far as that is known."""

    done: int
    total: int
    per_second: float = 0.0

    def __str__(self) -> str:
        line = f"{self.done} of {self.total} images done ({self.done / max(self.total, 1):.0%})"
        if not self.per_second or self.done >= self.total:
            return line
        left = (self.total - self.done) / self.per_second
        rate = f"{self.per_second:.0f}" if self.per_second >= 10 else f"{self.per_second:.2g}"
        return f"{line}, {rate} a second, about {_time(left)} left"


def _time(seconds: float) -> str:
    """A time in words, as precise as a guess deserves."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60} min" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60} min"


@contextlib.contextmanager
def progress(total: int, note_path: str | None = None) -> Iterator[Callable[[int], object]]:
    """Show progress over `total` images; gives the function to be told how many more are done.

    What it is told first was done before. `note_path` is a file for ``noted_progress``, gone in the end.
    """
    if sys.stdout.isatty() and os.get_terminal_size(sys.stdout.fileno()).columns:  # mpirun's terminal has none
        from tqdm import tqdm  # only here: importing it takes as long as many images

        with tqdm(total=total, unit=" images", file=sys.stdout) as bar:
            yield bar.update
    else:
        try:
            yield _LogLines(total, note_path).update
        finally:
            if note_path:
                with contextlib.suppress(OSError):
                    os.remove(note_path)


class _LogLines:
    """Writes a line every some seconds, and at the end; and a note more often."""

    def __init__(self, total: int, note_path: str | None):
        self._total, self._note_path, self._done = total, note_path, 0
        self._before: int | None = None
        self._start = self._last_line = self._last_note = time.monotonic()

    def update(self, count: int) -> None:
        self._done += count
        if self._before is None:
            self._before = count
        now = time.monotonic()
        is_first, is_last = self._done == self._before, self._done >= self._total
        state = Progress(self._done, self._total, (self._done - self._before) / max(now - self._start, 1e-3))
        if is_first or is_last or now - self._last_note >= SECONDS_BETWEEN_NOTES:
            self._last_note = now
            self._note(state)
        if is_last or now - self._last_line >= SECONDS_BETWEEN_LOG_LINES:
            self._last_line = now
            print(state, flush=True)

    def _note(self, state: Progress) -> None:
        if self._note_path:
            with contextlib.suppress(OSError), open(self._note_path, "w", encoding="utf-8") as file:
                file.write(json.dumps(state))


def noted_progress(path: str | os.PathLike[str]) -> Progress | None:
    """What a program notes in a file; None if there is no such note, or it is of a program that does not run now."""
    with contextlib.suppress(OSError, ValueError, TypeError), open(path, encoding="utf-8") as file:
        if time.time() - os.fstat(file.fileno()).st_mtime < SECONDS_UNTIL_OLD:
            return Progress(*json.load(file))
    return None
