# SPDX-License-Identifier: GPL-3.0-or-later
"""What all programs of the package have in common: exit codes, how they stop, and what they say then."""

from __future__ import annotations

import io
import math
import signal
import sys
from typing import Callable

from ..errors import DataError, PlanError, in_a_sentence

EXIT_DATA, EXIT_USAGE, EXIT_STOPPED = 1, 2, 130
EXIT_CODES = "Exit codes: 0 done, 1 corrupt data, 2 request refused, 130 stopped."


def exit_code_of(work: Callable[[], object], stopped: str) -> int:
    """Do the work of a program, and return its exit code; errors are told in sentences. `stopped` is said of Ctrl-C."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # Å and file names must not fail on a terminal that lacks them
            stream.reconfigure(errors="backslashreplace")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C does
    try:
        work()
    except KeyboardInterrupt:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        print(stopped, file=sys.stderr, flush=True)
        return EXIT_STOPPED
    except OSError as error:
        print(f"ERROR: {in_a_sentence(error)}", file=sys.stderr, flush=True)
        return EXIT_DATA
    except MemoryError:
        print("ERROR: Not enough memory; free some, or request more", file=sys.stderr, flush=True)
        return EXIT_DATA
    except (DataError, PlanError) as error:
        print(f"ERROR: {error}", file=sys.stderr, flush=True)
        return EXIT_USAGE if isinstance(error, PlanError) else EXIT_DATA
    return 0


def check_header_pixel_size(option: str, path: str, apix: float, advice: str) -> None:
    """Raise PlanError if the pixel size (Å/px) that the header of a file gives is none."""
    if not (math.isfinite(apix) and apix > 0):
        raise PlanError([f"{option}: the header of {path} says {apix:g} Å/px, expected more than 0; {advice}."])
