# SPDX-License-Identifier: GPL-3.0-or-later
"""A job on disk: what the program is told, and what it leaves.

The folder of a job holds::

    job.json                    the plan, the number of particles, a fingerprint of all inputs
    tables/todo_000001.star     the particles of output stack 1: image, id, wanted shift
    tables/done_000001.star     the same particles in the stack, with the applied shift
    tables/record_000001.json   what made stack 1, and its checksum; there when it is whole
    tables/bad_000001.star      its particles that cannot be used, and why; 0 stands for those found before any image
    tables/error_000001.txt     why stack 1 could not be made at all
    particles_000001.mrcs       output stack 1
    bad_particles.star          all particles that cannot be used, for people

Each output stack is a unit of its own, so any number of processes on any machines can share a job, and a
job that was stopped goes on where it was. Another job in the same folder, the second say, has ``tables_2`` and
``particles_000001_2.mrcs``: the stacks of a job that was finished stay until ``remove_other_stacks``, since a
set may still refer to them.

Image files are named as the caller sees them: relative names lead from the current folder.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import __version__
from .core import checks
from .core.plan import DownsamplePlan
from .errors import DataError, PlanError
from .fingerprints import Fingerprint, checksum, size_and_time, word_sums
from .readers import open_stack
from .stacks import StackWriter
from .tables import (
    BadParticle,
    ParticleRow,
    read_bad_particles,
    read_particles,
    write_bad_particles,
    write_particles,
)
from .whole_files import PART_PATTERN, remove_abandoned, whole_file

DEFAULT_PARTICLES_PER_STACK = 10000
NAMED_IN_A_MESSAGE = 5  # stacks that are missing, or particles that are bad
BEFORE_ANY_IMAGE = 0  # where the number of a stack stands otherwise
BAD_PARTICLES_NAME = "bad_particles.star"
STACK_NAME = re.compile(r"particles_\d{6,}(_\d+)?\.mrcs")


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
        cls,
        folder: str,
        plan: DownsamplePlan,
        particles: Iterable[ParticleRow],
        particles_per_stack: int,
        bad: Sequence[BadParticle] = (),
        over_finished: bool = True,
    ) -> Job:
        """Write a job; PlanError if it cannot be done.

        Over another job in the folder it starts anew; over the same one, of the same plan and particles and
        unchanged image files, what is done stays done. `bad` are particles that cannot be used for other reasons
        than their images; it may grow while `particles` are drawn. Unless it may go `over_finished` ones, another
        job in the folder that is done is a problem.
        """
        _check(job_problems(plan, particles_per_stack))
        old = _job_in(folder)
        if old is None:
            _check(_foreign_problems(folder))
        new_tables = os.path.join(folder, "tables.new")
        shutil.rmtree(new_tables, ignore_errors=True)
        os.makedirs(new_tables)
        inputs = Fingerprint(plan, particles_per_stack)
        count = 0
        rows = inputs.watch(particles)
        for number in itertools.count(1):
            first = list(itertools.islice(rows, 1))
            if not first:
                break
            path = os.path.join(new_tables, _todo_name(number))
            count += write_particles(path, itertools.chain(first, itertools.islice(rows, particles_per_stack - 1)))
            inputs.add(path)
        write_bad_particles(os.path.join(new_tables, _bad_name(BEFORE_ANY_IMAGE)), bad)
        if not count and bad:
            path = os.path.join(folder, BAD_PARTICLES_NAME)
            raise refusal(bad, write_bad_particles(path, bad), path)
        _check(_count_problems(count))
        inputs.add(os.path.join(new_tables, _bad_name(BEFORE_ANY_IMAGE)))
        job = cls(folder, plan, count, particles_per_stack, inputs.hexdigest(), old.generation + 1 if old else 1)
        if old is not None and job.fingerprint == old.fingerprint:
            shutil.rmtree(new_tables)
            return old
        if old is not None and not over_finished and old.is_finished():
            shutil.rmtree(new_tables)
            raise PlanError([finished_problem(folder)])
        if old is not None and not old.is_finished():
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
        _write_json(self.path, description)

    @classmethod
    def read(cls, path: str) -> Job:
        """The job that a file ``job.json`` describes; DataError or PlanError if it is none."""
        job = cls._described(path)
        if not os.path.exists(job.todo_path(job.stack_count)):
            raise DataError(
                f"{path}: it says {job.particle_count} particles in {job.stack_count} stacks, expected a table for "
                f"each ({job.todo_path(job.stack_count)} is not there); write the job again"
            )
        return job

    @classmethod
    def _described(cls, path: str) -> Job:
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
        except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
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
            elif name in ("job.json", BAD_PARTICLES_NAME):
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

    @property
    def stacks(self) -> range:
        """Numbers of all output stacks."""
        return range(1, self.stack_count + 1)

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
        return {os.path.basename(self.stack_path(number)) for number in self.stacks}

    @staticmethod
    def _remove_stacks_in(folder: str, unwanted: Callable[[str], bool]) -> None:
        for name in os.listdir(folder):
            stack = re.sub(PART_PATTERN + "$", "", name)
            if STACK_NAME.fullmatch(stack) and unwanted(stack):
                _remove_files(os.path.join(folder, name))

    def todo_path(self, number: int) -> str:
        """Table of the particles of output stack `number`."""
        return os.path.join(self._tables, _todo_name(number))

    def done_path(self, number: int) -> str:
        """Table of what became of the particles of output stack `number`."""
        return os.path.join(self._tables, f"done_{number:06d}.star")

    def record_path(self, number: int) -> str:
        """What made output stack `number`, and its checksum; there when the stack is whole."""
        return os.path.join(self._tables, f"record_{number:06d}.json")

    def bad_path(self, number: int) -> str:
        """Table of the particles of output stack `number` that cannot be used."""
        return os.path.join(self._tables, _bad_name(number))

    def error_path(self, number: int) -> str:
        """Why output stack `number` could not be made, for people."""
        return os.path.join(self._tables, f"error_{number:06d}.txt")

    @property
    def bad_particles_path(self) -> str:
        """Table of all particles that cannot be used, for people."""
        return os.path.join(self.folder, BAD_PARTICLES_NAME)

    # ---- what is done ----------------------------------------------------------------------------------

    def share(self, part: int, parts: int) -> range:
        """Numbers of the output stacks that process `part`, from 1, of so many is to make."""
        return range(part, self.stack_count + 1, parts)

    def finish(self, number: int, inputs: Iterable[str], rows: Iterable[ParticleRow], sums: NDArray[np.uint64]) -> None:
        """Leave the tables and the record of an output stack that is whole.

        `inputs` are the image files that it was made of, `rows` its particles, `sums` those of its images.
        """
        images = write_particles(self.done_path(number), rows)
        record = {
            "version": __version__,
            "fingerprint": self.fingerprint,
            "plan": self.plan.to_dict(),
            "inputs": {path: size_and_time(path) for path in inputs},
            "images": images,
            "bytes": os.path.getsize(self.stack_path(number)) if images else 0,
            "checksum": checksum(sums),
        }
        _write_json(self.record_path(number), record)
        _remove_files(self.error_path(number))

    def is_finished(self) -> bool:
        """Whether all output stacks are done."""
        return all(map(self.is_done, self.stacks))

    def is_done(self, number: int) -> bool:
        """Whether output stack `number` is there, with its tables, and fits its record in size, header and count."""
        record = self._record(number)
        if record is None or not os.path.exists(self.done_path(number)):
            return False
        if not record["images"]:
            return True
        path = self.stack_path(number)
        try:
            with open_stack(path) as stack:
                fits = stack.count == record["images"] and stack.box == (self.plan.box_out, self.plan.box_out)
            return fits and os.path.getsize(path) == record["bytes"]
        except (DataError, OSError):
            return False

    def is_intact(self, number: int) -> bool:
        """Whether, besides, all pixels of output stack `number` are those that were written: it is read through."""
        record = self._record(number)
        if record is None or not self.is_done(number):
            return False
        if not record["images"]:
            return True
        try:
            with open_stack(self.stack_path(number)) as stack:
                sums = [word_sums(stack.read(image)[None])[0] for image in range(stack.count)]
        except DataError:
            return False
        return bool(checksum(np.array(sums, dtype=np.uint64)) == record["checksum"])

    def may_stay(self, number: int, skip_corrupt: bool) -> bool:
        """Whether output stack `number` need not be made again: it is intact, and has all that it is to have."""
        return (skip_corrupt or not self._has_bad(number)) and self.is_intact(number)

    def forget(self, number: int) -> None:
        """Remove output stack `number` if it was finished once. One without a record may be about to get it."""
        if os.path.exists(self.record_path(number)):
            _remove_files(self.record_path(number), self.done_path(number), self.stack_path(number))

    def tidy(self, number: int) -> None:
        """Remove what earlier attempts at output stack `number` have to say of it."""
        _remove_files(self.bad_path(number), self.error_path(number))

    def remove_abandoned(self, numbers: Iterable[int]) -> None:
        """Remove unfinished files of these output stacks that nobody writes any more."""
        paths = [
            path(number)
            for number in numbers
            for path in (self.stack_path, self.done_path, self.record_path, self.bad_path)
        ]
        names = {os.path.basename(path) for path in (*paths, self.path, self.bad_particles_path)}
        for folder in (self.folder or ".", self._tables):
            remove_abandoned(folder, names)

    def writer(self, number: int) -> StackWriter:
        """What writes output stack `number`."""
        dtype = np.dtype(np.float16 if self.plan.float16 else np.float32)
        path, size = self.stack_path(number), self.stack_size(number)
        return StackWriter(path, size, self.plan.box_out, dtype, self.plan.apix_out)

    def _record(self, number: int) -> dict[str, Any] | None:
        """The record of an output stack, if there is one that belongs to this job."""
        try:
            with open(self.record_path(number), encoding="utf-8") as file:
                record = json.load(file)
            fits = record["fingerprint"] == self.fingerprint and {"images", "bytes", "checksum"} <= record.keys()
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
        return record if fits else None

    def bad_particles(self, numbers: Iterable[int]) -> Iterator[BadParticle]:
        """Particles that cannot be used: those found before any image, and those of output stacks."""
        for number in itertools.chain([BEFORE_ANY_IMAGE], numbers):
            if self._has_bad(number):
                yield from read_bad_particles(self.bad_path(number))

    def check_worked_on(self, numbers: Sequence[int]) -> None:
        """Raise DataError if output stacks are neither done nor refused for their particles.

        It names them, or gives the program's words if it left any. All bad particles are to be found before one is
        complained of: ``check_done`` does that, when all stacks are worked on.
        """
        missing = [number for number in numbers if not self.is_done(number) and not self._has_bad(number)]
        if not missing:
            return
        reasons = list(dict.fromkeys(filter(None, map(self._read_error, missing))))
        if reasons:
            raise DataError("\n".join(reasons[:NAMED_IN_A_MESSAGE]))
        names = ", ".join(os.path.basename(self.stack_path(number)) for number in missing[:NAMED_IN_A_MESSAGE])
        raise DataError(
            f"{self.folder}: {len(missing)} of {len(numbers)} output stacks are missing ({names}"
            f"{', …' if len(missing) > NAMED_IN_A_MESSAGE else ''}), expected all: the program was killed or could "
            "not start; see the run's log, then continue the run"
        )

    def check_done(self, skip_corrupt: bool) -> int:
        """``check_done`` for this job alone."""
        return check_done([self], self.folder, skip_corrupt)

    def has_bad_particles(self) -> bool:
        """Whether any of its stacks has particles that could not be used."""
        return any(map(self._has_bad, self.stacks))

    def has_images(self) -> bool:
        """Whether any particle has come through."""
        return any(map(self._images, self.stacks))

    def flush(self) -> None:
        """Wait until all output stacks are on the disk."""
        for number in filter(self._images, self.stacks):
            file = os.open(self.stack_path(number), os.O_RDONLY)
            os.fsync(file)
            os.close(file)

    @property
    def bytes_on_disk(self) -> int:
        """Of all output stacks."""
        return sum(record["bytes"] for record in map(self._record, self.stacks) if record)

    def _images(self, number: int) -> int:
        record = self._record(number)
        return record["images"] if record else 0

    def _has_bad(self, number: int) -> bool:
        return os.path.exists(self.bad_path(number))

    def _read_error(self, number: int) -> str:
        try:
            with open(self.error_path(number), encoding="utf-8") as file:
                return file.read()
        except FileNotFoundError:
            return ""

    def particle_ids(self) -> Iterator[int]:
        """Ids of all its particles, and of those that were bad before any image."""
        for number in self.stacks:
            yield from (row.particle_id for row in read_particles(self.todo_path(number)))
        yield from (particle.particle_id for particle in self.bad_particles([]))

    def results(self) -> Iterator[ParticleRow]:
        """All particles in their order, each with its new image and the applied shift."""
        for number in self.stacks:
            yield from read_particles(self.done_path(number))


def _remove_files(*paths: str) -> None:
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            os.remove(path)


def refusal(bad: Iterable[BadParticle], count: int, path: str) -> DataError:
    """That so many particles cannot be used, the first few by name, and where all are listed."""
    named = "\n".join(map(str, itertools.islice(bad, NAMED_IN_A_MESSAGE)))
    named = named.encode("utf-8", "backslashreplace").decode("utf-8")  # names of files may be any bytes
    more = f"\n… and {count - NAMED_IN_A_MESSAGE} more" if count > NAMED_IN_A_MESSAGE else ""
    return DataError(
        f"{count} particle{'s' if count > 1 else ''} cannot be used, expected none:\n{named}{more}\n"
        f"All are listed in {path}. Mend them or drop them from the set, or let them be skipped (Skip corrupt "
        "particles, --skip-corrupt), then continue the run"
    )


def check_done(jobs: Sequence[Job], folder: str, skip_corrupt: bool) -> int:
    """Raise DataError unless all output stacks are done, with all particles but those that may be skipped.

    All bad particles, in the order of their ids if there are several jobs, are listed in a table in the folder for
    people; returns their number.
    """
    for job in jobs:
        job.check_worked_on(job.stacks)

    def bad() -> Iterator[BadParticle]:
        return heapq.merge(*(job.bad_particles(job.stacks) for job in jobs), key=lambda particle: particle.particle_id)

    path = os.path.join(folder, BAD_PARTICLES_NAME)
    count = write_bad_particles(path, bad())
    if not count:
        os.remove(path)
    elif not skip_corrupt:
        raise refusal(bad(), count, path)
    if not any(job.has_images() for job in jobs):
        raise DataError(f"{folder}: all {count} particles are corrupt, expected some that can be used")
    return count


def stack_count(particles: int, particles_per_stack: int) -> int:
    """Number of output stacks for so many particles."""
    return -(-particles // particles_per_stack)


def job_problems(plan: DownsamplePlan, particles_per_stack: int) -> list[str]:
    """Why a job cannot be done, as sentences; empty if it can."""
    return checks.problems(plan) + stack_problems(particles_per_stack)


def stack_problems(particles_per_stack: int) -> list[str]:
    """Why stacks cannot be of so many particles, as sentences; empty if they can."""
    if particles_per_stack >= 1:
        return []
    usual = f"{DEFAULT_PARTICLES_PER_STACK} is usual."
    return [f"Particles per stack: got {particles_per_stack}, expected 1 or more; {usual}"]


def _job_in(folder: str) -> Job | None:
    try:
        return Job._described(Job.path_in(folder))
    except (DataError, PlanError):
        return None


def _todo_name(number: int) -> str:
    return f"todo_{number:06d}.star"


def _bad_name(number: int) -> str:
    return f"bad_{number:06d}.star"


def _write_json(path: str, content: Mapping[str, Any]) -> None:
    with whole_file(path) as file:
        json.dump(content, file, indent=2)
        file.write("\n")


def finished_problem(folder: str) -> str:
    """That a run is not to be lost by mistake."""
    return f"{folder}: it holds a finished run already; add --force to start anew, or give another folder."


def _foreign_problems(folder: str) -> list[str]:
    """What stands in the way of a first job in a folder: things of its names that no job has made."""
    tables = os.path.join(folder, "tables")
    if os.path.lexists(tables) and not os.path.exists(os.path.join(tables, _todo_name(1))):
        return [f"{tables}: it is there and not of a run of this program, expected none; give another folder."]
    return []


def _count_problems(count: int) -> list[str]:
    if count >= 1:
        return []
    return ["Particles: none is left to downsample, expected one or more; check the input set and its alignments."]


def _check(problems: list[str]) -> None:
    if problems:
        raise PlanError(problems)
