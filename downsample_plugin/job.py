# SPDX-License-Identifier: GPL-3.0-or-later
"""A job on disk: what the program is told, and what it leaves.

The folder of a job holds::

    job.json                    the plan, the number of particles, a fingerprint of all inputs
    tables/todo_000001.star     the particles of output stack 1: image, id, wanted shift
    tables/done_000001.star     the same particles in the stack, with the applied shift; there when it is whole
    tables/error_000001.txt     why stack 1 could not be made
    particles_000001.mrcs       output stack 1

Each output stack is a unit of its own, so any number of processes on any machines can share a job, and a
job that was stopped goes on where it was. Another job in the same folder, the second say, has ``tables_2`` and
``particles_000001_2.mrcs``: the stacks of a job that was finished stay until ``remove_other_stacks``, since a
set may still refer to them.

Image files are named as the caller sees them: relative names lead from the current folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from . import __version__
from .core import checks
from .core.plan import DownsamplePlan
from .errors import DataError, PlanError
from .tables import ParticleRow, read_particles, write_particles

DEFAULT_PARTICLES_PER_STACK = 10000
MISSING_STACKS_NAMED = 5  # in a message


@dataclass(frozen=True)
class Job:
    """A plan for particles, in a folder of its own."""

    folder: str
    plan: DownsamplePlan
    particle_count: int
    particles_per_stack: int
    fingerprint: str
    generation: int = 1  # of the jobs in this folder

    @classmethod
    def write(
        cls, folder: str, plan: DownsamplePlan, particles: Iterable[ParticleRow], particles_per_stack: int
    ) -> Job:
        """Write a job; PlanError if it cannot be done.

        Over another job in the folder it starts anew; over the same one, of the same plan and particles and
        unchanged image files, what is done stays done.
        """
        _check(job_problems(plan, particles_per_stack))
        old = _job_in(folder)
        new_tables = os.path.join(folder, "tables.new")
        shutil.rmtree(new_tables, ignore_errors=True)
        os.makedirs(new_tables)
        inputs = _Fingerprint(plan, particles_per_stack)
        count = 0
        rows = inputs.watch(particles)
        for number in itertools.count(1):
            first = list(itertools.islice(rows, 1))
            if not first:
                break
            path = os.path.join(new_tables, _todo_name(number))
            count += write_particles(path, itertools.chain(first, itertools.islice(rows, particles_per_stack - 1)))
            inputs.add(path)
        _check(_count_problems(count))
        job = cls(folder, plan, count, particles_per_stack, inputs.hexdigest(), old.generation + 1 if old else 1)
        if old is not None and job.fingerprint == old.fingerprint:
            shutil.rmtree(new_tables)
            return old
        if old is not None and not all(map(old.is_done, range(1, old.stack_count + 1))):
            unfinished = old._stack_names()
            cls._remove_stacks_in(folder, lambda name: name in unfinished)
        job._start(new_tables)
        if old is not None:
            shutil.rmtree(old._tables, ignore_errors=True)
        return job

    def _start(self, new_tables: str) -> None:
        """Put the tables in place, then, at one stroke, the description that makes them the job."""
        shutil.rmtree(self._tables, ignore_errors=True)
        os.rename(new_tables, self._tables)
        description = {
            "plan": self.plan.to_dict(),
            "particles": self.particle_count,
            "particlesPerStack": self.particles_per_stack,
            "fingerprint": self.fingerprint,
            "generation": self.generation,
        }
        with open(self.path + ".part", "w", encoding="utf-8") as file:
            json.dump(description, file, indent=2)
            file.write("\n")
        os.replace(self.path + ".part", self.path)

    @classmethod
    def read(cls, path: str) -> Job:
        """The job that a file ``job.json`` describes; DataError or PlanError if it is none."""
        try:
            with open(path, encoding="utf-8") as file:
                description = json.load(file)
            job = cls(
                os.path.dirname(path),
                DownsamplePlan.from_dict(description["plan"]),
                int(description["particles"]),
                int(description["particlesPerStack"]),
                str(description["fingerprint"]),
                int(description["generation"]),
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}: it cannot be read as a job ({error!r}); write the job again") from error
        _check(job_problems(job.plan, job.particles_per_stack) + _count_problems(job.particle_count))
        return job

    @classmethod
    def remove(cls, folder: str) -> None:
        """Remove the job in a folder, with its tables and stacks, and nothing else."""
        cls._remove_stacks_in(folder, lambda name: True)
        for name in os.listdir(folder):
            if re.fullmatch(r"tables(_\d+|\.new)?", name):
                shutil.rmtree(os.path.join(folder, name))
            elif name == "job.json":
                os.remove(os.path.join(folder, name))

    # ---- what is there -------------------------------------------------------------------------------

    @staticmethod
    def path_in(folder: str) -> str:
        """The file that describes the job in a folder."""
        return os.path.join(folder, "job.json")

    @property
    def path(self) -> str:
        """The file that describes this job."""
        return self.path_in(self.folder)

    @property
    def stack_count(self) -> int:
        """Number of output stacks."""
        return stack_count(self.particle_count, self.particles_per_stack)

    def stack_size(self, number: int) -> int:
        """Number of particles in output stack `number`, from 1."""
        return min(self.particles_per_stack, self.particle_count - (number - 1) * self.particles_per_stack)

    def stack_path(self, number: int) -> str:
        """Output stack `number`, from 1: named by number, so that no two inputs can collide."""
        return os.path.join(self.folder, f"particles_{number:06d}{self._of_generation}.mrcs")

    @property
    def _of_generation(self) -> str:
        return f"_{self.generation}" if self.generation > 1 else ""

    @property
    def _tables(self) -> str:
        return os.path.join(self.folder, "tables" + self._of_generation)

    def remove_other_stacks(self) -> None:
        """Remove the output stacks of earlier jobs in the folder."""
        own = self._stack_names()
        self._remove_stacks_in(self.folder, lambda name: name not in own)

    def _stack_names(self) -> set[str]:
        return {os.path.basename(self.stack_path(number)) for number in range(1, self.stack_count + 1)}

    @staticmethod
    def _remove_stacks_in(folder: str, unwanted: Callable[[str], bool]) -> None:
        for name in os.listdir(folder):
            stack = name[: -len(".part")] if name.endswith(".part") else name
            if re.fullmatch(r"particles_\d{6,}(_\d+)?\.mrcs", stack) and unwanted(stack):
                os.remove(os.path.join(folder, name))

    def todo_path(self, number: int) -> str:
        """Table of the particles of output stack `number`."""
        return os.path.join(self._tables, _todo_name(number))

    def done_path(self, number: int) -> str:
        """Table of what became of the particles of output stack `number`; there when the stack is whole."""
        return os.path.join(self._tables, f"done_{number:06d}.star")

    def error_path(self, number: int) -> str:
        """Why output stack `number` could not be made, for people."""
        return os.path.join(self._tables, f"error_{number:06d}.txt")

    def share(self, part: int, parts: int) -> range:
        """Numbers of the output stacks that process `part`, from 1, of so many is to make."""
        return range(part, self.stack_count + 1, parts)

    def is_done(self, number: int) -> bool:
        """Whether output stack `number` is there with its table."""
        return os.path.exists(self.done_path(number)) and os.path.exists(self.stack_path(number))

    def check_done(self, numbers: Sequence[int]) -> None:
        """Raise DataError, naming them and with the program's words if it left any, if stacks are missing."""
        missing = [number for number in numbers if not self.is_done(number)]
        if not missing:
            return
        reasons = list(dict.fromkeys(filter(None, map(self._read_error, missing))))
        if reasons:
            raise DataError("\n".join(reasons[:MISSING_STACKS_NAMED]))
        names = ", ".join(os.path.basename(self.stack_path(number)) for number in missing[:MISSING_STACKS_NAMED])
        raise DataError(
            f"{self.folder}: {len(missing)} of {len(numbers)} output stacks are missing ({names}"
            f"{', …' if len(missing) > MISSING_STACKS_NAMED else ''}), expected all: the program was killed or could "
            "not start; see the run's log, then continue the run"
        )

    def _read_error(self, number: int) -> str:
        try:
            with open(self.error_path(number), encoding="utf-8") as file:
                return file.read()
        except FileNotFoundError:
            return ""

    def results(self) -> Iterator[ParticleRow]:
        """All particles in their order, each with its new image and the applied shift."""
        for number in range(1, self.stack_count + 1):
            yield from read_particles(self.done_path(number))


def stack_count(particles: int, particles_per_stack: int) -> int:
    """Number of output stacks for so many particles."""
    return -(-particles // particles_per_stack)


def job_problems(plan: DownsamplePlan, particles_per_stack: int) -> list[str]:
    """Why a job cannot be done, as sentences; empty if it can."""
    problems = checks.problems(plan)
    if particles_per_stack < 1:
        problems.append(
            f"Particles per stack: got {particles_per_stack}, expected 1 or more; {DEFAULT_PARTICLES_PER_STACK} is "
            "usual."
        )
    return problems


class _Fingerprint:
    """Of all that the output depends on: plan, particles, size and time of their files, our version."""

    def __init__(self, plan: DownsamplePlan, particles_per_stack: int):
        self._hash = hashlib.sha256(repr((__version__, plan, particles_per_stack)).encode())
        self._files: set[str] = set()

    def watch(self, rows: Iterable[ParticleRow]) -> Iterator[ParticleRow]:
        """The same rows; their image files are looked at."""
        for row in rows:
            if row.image_file not in self._files:
                self._files.add(row.image_file)
                self._add_file(row.image_file)
            yield row

    def add(self, path: str) -> None:
        """Add a table of particles."""
        with open(path, "rb") as file:
            self._hash.update(file.read())

    def _add_file(self, path: str) -> None:
        with contextlib.suppress(OSError):  # the run will say so
            status = os.stat(path)
            self._hash.update(repr((path, status.st_size, status.st_mtime_ns)).encode("utf-8", "surrogateescape"))

    def hexdigest(self) -> str:
        return self._hash.hexdigest()


def _job_in(folder: str) -> Job | None:
    try:
        return Job.read(Job.path_in(folder))
    except (DataError, PlanError):
        return None


def _todo_name(number: int) -> str:
    return f"todo_{number:06d}.star"


def _count_problems(count: int) -> list[str]:
    if count >= 1:
        return []
    return ["Particles: none is left to downsample, expected one or more; check the input set and its alignments."]


def _check(problems: list[str]) -> None:
    if problems:
        raise PlanError(problems)
