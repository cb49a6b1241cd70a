# SPDX-License-Identifier: GPL-3.0-or-later
"""Progress over images: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from typing import Callable

SECONDS_BETWEEN_LOG_LINES = 10


@contextlib.contextmanager
def progress(total: int) -> Iterator[Callable[[int], object]]:
    """Show progress over `total` images; gives the function to be told how many more are done."""
    if sys.stdout.isatty() and os.get_terminal_size(sys.stdout.fileno()).columns:  # mpirun's terminal has none
        from tqdm import tqdm  # only here: importing it takes as long as many images

        with tqdm(total=total, unit=" images", file=sys.stdout) as bar:
            yield bar.update
    else:
        yield _LogLines(total).update


class _LogLines:
    """Writes a line every some seconds, and at the end."""

    def __init__(self, total: int):
        self._total, self._done = total, 0
        self._start = self._last = time.monotonic()

    def update(self, count: int) -> None:
        self._done += count
        now = time.monotonic()
        if self._done < self._total and now - self._last < SECONDS_BETWEEN_LOG_LINES:
            return
        self._last = now
        rate = self._done / max(now - self._start, 1e-3)
        seconds_left = round((self._total - self._done) / rate)
        print(
            f"{self._done} of {self._total} images ({self._done / self._total:.0%}), {rate:.0f} images/s, "
            f"{seconds_left // 60}:{seconds_left % 60:02} min left",
            flush=True,
        )
