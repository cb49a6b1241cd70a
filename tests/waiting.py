# SPDX-License-Identifier: GPL-3.0-or-later
"""Waiting for what comes by itself, however busy the machine is."""

import time

import psutil

LONGEST = 60  # s: what takes longer does not come at all


def wait_for(condition, what):
    """Wait until the condition holds, and return what it gives then."""
    end = time.monotonic() + LONGEST
    while not (found := condition()):
        assert time.monotonic() < end, f"{what} did not come"
        time.sleep(0.01)
    return found


def assert_all_end(processes):
    """Wait until processes have ended; they have been told to, or what they wait for has come."""
    _, alive = psutil.wait_procs(processes, timeout=LONGEST)
    assert not alive
