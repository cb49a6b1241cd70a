# SPDX-License-Identifier: GPL-3.0-or-later
"""How many cores a process may really use, which may be fewer than the computer has."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Iterator, Mapping

from .ranks import Launch, number

GROUPS = "/sys/fs/cgroup"


def usable_cores(
    launch: Launch, environ: Mapping[str, str] = os.environ, proc: str = "/proc", groups: str = GROUPS
) -> int:
    """The least of what is bound to this process, what its control groups allow, and what SLURM gave; at least 1.

    What the processes of a launch have together is shared among those on this computer.
    """
    own = len(os.sched_getaffinity(0))
    together = math.ceil(min(_cores_together(launch, own, environ), _quota(proc, groups)))
    per_task = number(environ, "SLURM_CPUS_PER_TASK") or own
    return max(min(own, together // launch.here, per_task), 1)


def leave_the_binding() -> None:
    """Let this process and its workers run on all cores that the launcher, its parent, may use.

    mpirun binds each process to one core, or a few, unless it is told otherwise.
    """
    with contextlib.suppress(OSError):
        os.sched_setaffinity(0, os.sched_getaffinity(os.getppid()))


def _cores_together(launch: Launch, own: int, environ: Mapping[str, str]) -> int:
    """Cores that the processes of a launch on this computer have together."""
    if launch.size == 1:
        return own
    if launch.by_srun:  # which binds each to its own, or all to those of the job
        return number(environ, "SLURM_CPUS_ON_NODE") or own
    with contextlib.suppress(OSError):
        return max(len(os.sched_getaffinity(os.getppid())), own)
    return own


def _quota(proc: str, groups: str) -> float:
    """Cores' worth of time that the control groups of this process allow, each of which counts; or infinity."""
    try:
        with open(os.path.join(proc, "self/cgroup"), encoding="utf-8", errors="surrogateescape") as file:
            lines = file.read().splitlines()
    except OSError:
        return math.inf
    found = [math.inf]
    for line in lines:
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if not controllers:
            for root in (groups, os.path.join(groups, "unified")):
                found += [_limit(folder, _limit_2) for folder in _upwards(root, path)]
        elif "cpu" in controllers.split(","):
            for root in (os.path.join(groups, controllers), os.path.join(groups, "cpu")):
                found += [_limit(folder, _limit_1) for folder in _upwards(root, path)]
    return min(found)


def _upwards(root: str, path: str) -> Iterator[str]:
    """Folders of a group and its parents. In a container some may be out of sight, and the root be its own group."""
    names = [name for name in path.split("/") if name not in ("", "..")]
    for count in range(len(names), -1, -1):
        yield os.path.join(root, *names[:count])


def _limit(folder: str, read: Callable[[str], tuple[float, float]]) -> float:
    """Cores' worth of one group; infinity if it has no limit."""
    try:
        time, period = read(folder)
    except (OSError, ValueError):
        return math.inf
    return time / period if time > 0 and period > 0 else math.inf


def _limit_2(folder: str) -> tuple[float, float]:
    time, period = _text(os.path.join(folder, "cpu.max")).split()
    return float(time.replace("max", "inf")), float(period)


def _limit_1(folder: str) -> tuple[float, float]:
    quota, period = (float(_text(os.path.join(folder, f"cpu.cfs_{name}_us"))) for name in ("quota", "period"))
    return quota, period


def _text(path: str) -> str:
    with open(path, encoding="utf-8") as file:
        return file.read()
