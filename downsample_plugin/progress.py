# SPDX-License-Identifier: GPL-3.0-or-later
"""Progress over particles: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm

SECONDS_BETWEEN_LOG_LINES = 10


class _LogLines(tqdm):
    """tqdm that writes each state as a line of its own: a log keeps carriage returns as they are."""

    _shown = False

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        self.fp.write(("\n" if self._shown else "") + (msg or str(self)).strip())  # tqdm ends the last line
        self.fp.flush()
        self._shown = True

    def clear(self, *args: Any, **kwargs: Any) -> None:
        """A log has nothing to wipe."""


def progress(total: int) -> tqdm[Any]:
    """A progress display for `total` particles; a context manager with ``update(count)``."""
    stream = sys.stdout
    if stream.isatty():
        return tqdm(total=total, unit=" particles", file=stream)
    return _LogLines(
        total=total,
        unit=" particles",
        file=stream,
        mininterval=SECONDS_BETWEEN_LOG_LINES,
        maxinterval=SECONDS_BETWEEN_LOG_LINES,
        bar_format="{n_fmt} of {total_fmt} particles ({percentage:.0f} %), {rate_fmt}, {remaining} left",
    )
