# SPDX-License-Identifier: GPL-3.0-or-later
"""A job on disk: what the program is told, and what it leaves.

The folder of a job holds ``job.json`` (the plan), ``particles.star`` (the particles) and, after the run,
the output stacks ``particles_000001.mrcs`` … and ``results.star``, or ``error.txt``. Image files are named as
the caller sees them: relative names lead from the current folder.
"""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass

from .core import checks
from .core.plan import DownsamplePlan
from .errors import DataError, PlanError
from .tables import ParticleRow, write_particles

PARTICLES_FILE = "particles.star"
RESULTS_FILE = "results.star"
ERROR_FILE = "error.txt"


@dataclass(frozen=True)
class Job:
    """A plan for the particles of one table, in a folder of its own."""

    folder: str
    plan: DownsamplePlan
    particle_count: int
    particles_per_stack: int = 10000

    @classmethod
    def write(
        cls, folder: str, plan: DownsamplePlan, particles: Iterable[ParticleRow], particles_per_stack: int
    ) -> Job:
        """Write a new job over an old one in the same folder; PlanError if it cannot be done."""
        _check(job_problems(plan, particles_per_stack))
        os.makedirs(folder, exist_ok=True)
        for name in (RESULTS_FILE, ERROR_FILE, "particles_*.mrcs*"):
            for old in glob.glob(os.path.join(glob.escape(folder), name)):
                os.remove(old)
        count = write_particles(os.path.join(folder, PARTICLES_FILE), particles)
        _check(_count_problems(count))
        description = {"plan": plan.to_dict(), "particles": count, "particlesPerStack": particles_per_stack}
        with open(cls.path_in(folder), "w", encoding="utf-8") as file:
            json.dump(description, file, indent=2)
            file.write("\n")
        return cls(folder, plan, count, particles_per_stack)

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
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}: it cannot be read as a job ({error!r}); write the job again") from error
        _check(job_problems(job.plan, job.particles_per_stack) + _count_problems(job.particle_count))
        return job

    def check_done(self) -> None:
        """Raise DataError, with the program's own words if it left any, unless the job's results are there."""
        if os.path.exists(self.results_path):
            return
        try:
            with open(self.error_path, encoding="utf-8") as file:
                raise DataError(file.read())
        except FileNotFoundError:
            raise DataError(
                f"{self.results_path}: not there, so the program did not come to its end: it was killed or could not "
                "start; see the run's log, then continue the run"
            ) from None

    @staticmethod
    def path_in(folder: str) -> str:
        """The file that describes the job in a folder."""
        return os.path.join(folder, "job.json")

    @property
    def path(self) -> str:
        """The file that describes this job."""
        return self.path_in(self.folder)

    @property
    def particles_path(self) -> str:
        """The table of its particles."""
        return os.path.join(self.folder, PARTICLES_FILE)

    @property
    def results_path(self) -> str:
        """The table of its results, there when the program is through."""
        return os.path.join(self.folder, RESULTS_FILE)

    @property
    def error_path(self) -> str:
        """What went wrong, for people; there when the program failed."""
        return os.path.join(self.folder, ERROR_FILE)

    def stack_path(self, number: int) -> str:
        """Output stack `number`, from 1: named by number, so that no two inputs can collide."""
        return os.path.join(self.folder, f"particles_{number:06d}.mrcs")


def job_problems(plan: DownsamplePlan, particles_per_stack: int) -> list[str]:
    """Why a job cannot be done, as sentences; empty if it can."""
    problems = checks.problems(plan)
    if particles_per_stack < 1:
        problems.append(f"Particles per stack: got {particles_per_stack}, expected 1 or more; 10000 is usual.")
    return problems


def _count_problems(count: int) -> list[str]:
    if count >= 1:
        return []
    return ["Particles: none is left to downsample, expected one or more; check the input set and its alignments."]


def _check(problems: list[str]) -> None:
    if problems:
        raise PlanError(problems)
