# SPDX-License-Identifier: GPL-3.0-or-later
"""Why a job cannot be written, as sentences."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from ..core import checks
from ..core.plan import DownsamplePlan
from ..errors import PlanError
from ..files.whole_files import PART_PATTERN

DEFAULT_PARTICLES_PER_STACK = 10000
PARTICLES_NAME = "particles.npy"  # of the table of particles, in a job's folder of tables


def stack_count(images: int, images_per_stack: int) -> int:
    """Number of output stacks for so many images."""
    return -(-images // images_per_stack)


def job_problems(plan: DownsamplePlan, images_per_stack: int) -> list[str]:
    """Why a job cannot be done, as sentences; empty if it can."""
    return checks.problems(plan) + stack_problems(images_per_stack)


def stack_problems(images_per_stack: int) -> list[str]:
    """Why stacks cannot be of so many particles, as sentences; empty if they can."""
    if images_per_stack >= 1:
        return []
    usual = f"{DEFAULT_PARTICLES_PER_STACK} is usual."
    return [f"Particles per stack: got {images_per_stack}, expected 1 or more; {usual}"]


def foreign_problems(folder: str, names: Sequence[str]) -> list[str]:
    """What stands in the way of a new job in a folder: things of its names that no job has made."""
    there = set(os.listdir(folder)).intersection(names)
    for name in there:  # what a program leaves that is killed before it has described its job
        if name.startswith("tables") and os.path.exists(os.path.join(folder, name, PARTICLES_NAME)):
            there = there - {name}
    if not there:
        return []
    path = os.path.join(folder, min(there))
    return [f"{path}: it exists and was not made by this program, expected no such file; give another folder."]


def tables_of_nobody(folder: str) -> list[str]:
    """Unfinished folders of tables of programs that were killed: only one program at a time writes one."""
    return [name for name in os.listdir(folder) if re.fullmatch(r"tables(_\d+)?" + PART_PATTERN, name)]


def count_problems(count: int) -> list[str]:
    """Why a job cannot be of so many particles, as sentences."""
    if count >= 1:
        return []
    return ["Particles: none are left to downsample, expected one or more; check the input set and its alignments."]


def check(problems: list[str]) -> None:
    """Raise PlanError with these problems, if there are any."""
    if problems:
        raise PlanError(problems)
