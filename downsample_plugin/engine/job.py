# SPDX-License-Identifier: GPL-3.0-or-later
"""A job on disk: what the program is told, and what it leaves.

The folder of a job holds::

    job.json                    the plan, numbers of particles and images, a fingerprint of all inputs
    tables/particles.npy        the particles (ROW): ids, and the number of each one's image
    tables/images.npy           the images to be made (WANTED), in the order in which they are written into stacks
    tables/files.json           the names of the image files, and what each was when the job was written
    tables/bad_before.json      particles that cannot be used for other reasons than their images, and why
    tables/progress_1_of_1.json how far the program is that makes this part of it just now, for who looks at it
    particles_000001.mrcs …     the output stacks, with tables of their own (see output_stack.py)
    bad_particles.star          all particles that cannot be used, for people

Each output stack is a unit of its own, so any number of processes on any machines can share a job, and a
job that was stopped goes on where it was. Another job in the same folder, the second say, has ``tables_2`` and
``particles_000001_2.mrcs``: the stacks of a job that was finished stay until ``remove_earlier_stacks``, since a
set may still refer to them.

Image files are named as the caller sees them: relative names lead from the current folder.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import heapq
import itertools
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..core.names import FORM, Names
from ..core.plan import DownsamplePlan
from ..errors import NAMED_IN_A_MESSAGE, DataError, PlanError
from ..files.fingerprints import FileState, check_unchanged, difference, file_state
from ..files.whole_files import remove_abandoned
from ..words import counted
from .job_checks import PARTICLES_NAME, check, count_problems, job_problems
from .output_stack import IMAGES_NAME, JOB_NAME, OutputStack, alone_with, remove_files, stack_name, write_json
from .progress import Progress, noted_progress
from .tables import (
    ROW,
    WANTED,
    BadParticle,
    list_bad_particles,
    read_array,
    read_bad,
    read_files,
    read_in_pieces,
    tables_checksum,
    write_files,
)

BAD_PARTICLES_NAME = "bad_particles.star"
FILES_NAME, BAD_BEFORE_NAME = "files.json", "bad_before.json"
PROGRESS = "progress_"  # with it begin the names of the notes of how far the work is

# What became of a particle: the number of its output stack, from 1; its image's number there, from 1, or 0 if it was
# left out; and the shift that was applied, in px of the input
RESULT = np.dtype([("particle_id", "<i8"), ("stack", "<i4"), ("index", "<i8"), ("shift_x", "<f8"), ("shift_y", "<f8")])


@dataclass(frozen=True)
class Job:
    """A plan for particles, in a folder of its own."""

    folder: str
    plan: DownsamplePlan
    particle_count: int
    image_count: int
    images_per_stack: int
    fingerprint: str
    tables_checksum: str
    generation: int = 1  # of the jobs in this folder
    #: generations of earlier jobs whose output stacks may be there still, and how many each had
    earlier: tuple[tuple[int, int], ...] = ()

    def look_at_inputs(self) -> None:
        """Take note of the image files as they are now: what was made of others in their places is made again."""
        self.take_note_of({name: file_state(name) for name in self.file_names()})

    def take_note_of(self, files: Mapping[str, FileState | None]) -> None:
        """Forget output stacks made from other image files than these, and note what these are."""
        for stack in self.stacks:
            record = stack.record()
            if record and any(difference(state, files.get(path)) for path, state in record.inputs.items()):
                stack.forget()
        if files != self.files():
            write_files(self.table(FILES_NAME), files)

    def check_tables(self) -> None:
        """Raise DataError if the tables are not those that it was written with."""
        if not self.has_its_tables():
            raise DataError(
                f"{self.tables}: its tables are not those that the job was written with, expected the same; continue "
                "the run: they are written again"
            )

    def has_its_tables(self) -> bool:
        """Whether the tables are those that it was written with: they are read through."""
        try:
            rows = read_in_pieces(self.table(PARTICLES_NAME), ROW, self.particle_count)
            images = read_in_pieces(self.table(IMAGES_NAME), WANTED, self.image_count)
            found = tables_checksum(rows, images, self.file_names(), self.bad_before())
        except (DataError, OSError, TypeError):
            return False
        return found == self.tables_checksum

    def describe(self) -> None:
        """Write the description, which makes it the job of its folder."""
        description = {
            "plan": self.plan.to_dict(),
            "particles": self.particle_count,
            "images": self.image_count,
            "imagesPerStack": self.images_per_stack,
            "fingerprint": self.fingerprint,
            "tables": self.tables_checksum,
            "generation": self.generation,
            "earlier": self.earlier,
        }
        write_json(self.path, description)

    @classmethod
    def read(cls, path: str) -> Job:
        """The job that a file ``job.json`` describes; DataError or PlanError if it is none."""
        job = cls._described(path)
        read_array(job.table(PARTICLES_NAME), ROW, job.particle_count, 0)
        read_array(job.table(IMAGES_NAME), WANTED, job.image_count, 0)
        job.check_tables()
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
                int(description["images"]),
                int(description["imagesPerStack"]),
                str(description["fingerprint"]),
                str(description["tables"]),
                int(description["generation"]),
                tuple((int(generation), int(stacks)) for generation, stacks in description["earlier"]),
            )
        except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise DataError(f"{path}: it cannot be read as a job ({error!r}); write the job again") from error
        counts = min(job.particle_count, job.image_count)
        check(job_problems(job.plan, job.images_per_stack) + count_problems(counts))
        return job

    @classmethod
    def in_folder(cls, folder: str) -> Job | None:
        """The job in a folder, if there is one; PlanError if its description is that of something else."""
        path = cls.path_in(folder)
        try:
            return cls._described(path) if os.path.lexists(path) else None
        except DataError as error:
            problem = f"{path}: it is not a job of this version of the program, expected such a job or none"
            raise PlanError([f"{problem}; restart the run, or give another folder."]) from error

    # ---- where things are ------------------------------------------------------------------------------

    @staticmethod
    def path_in(folder: str) -> str:
        """The file that describes the job in a folder."""
        return os.path.join(folder, JOB_NAME)

    @property
    def path(self) -> str:
        """The file that describes this job."""
        return self.path_in(self.folder)

    @property
    def tables(self) -> str:
        """The folder of its tables."""
        return os.path.join(self.folder, "tables" + (f"_{self.generation}" if self.generation > 1 else ""))

    def table(self, name: str) -> str:
        """The file of one of its tables."""
        return os.path.join(self.tables, name)

    @functools.cached_property
    def stacks(self) -> list[OutputStack]:
        """All output stacks."""
        return [
            OutputStack(
                self.folder,
                self.tables,
                self.generation,
                stack_number,
                first,
                min(self.images_per_stack, self.image_count - first),
                self.plan,
                self.fingerprint,
            )
            for stack_number, first in enumerate(range(0, self.image_count, self.images_per_stack), start=1)
        ]

    def share(self, part: int, parts: int) -> list[OutputStack]:
        """The output stacks that process `part`, from 1, of so many is to make."""
        return self.stacks[part - 1 :: parts]

    def alone(self) -> contextlib.AbstractContextManager[None]:
        """Keep others from beginning a job in the folder; DataError if one has begun since this one was written."""
        return alone_with(self.folder, self.fingerprint, self.generation)

    def remove_earlier_stacks(self) -> None:
        """Remove the output stacks of earlier jobs in the folder."""
        for generation, count in self.earlier:
            for stack_number in range(1, count + 1):
                remove_files(os.path.join(self.folder, stack_name(stack_number, generation)))
        if self.earlier:
            dataclasses.replace(self, earlier=()).describe()

    def remove_abandoned(self, stacks: Iterable[OutputStack]) -> None:
        """Remove unfinished files of these output stacks that no process is writing."""
        paths = [path for stack in stacks for path in (stack.path, stack.made_path, stack.record_path, stack.bad_path)]
        names = {os.path.basename(path) for path in (*paths, self.path, BAD_PARTICLES_NAME)}
        for folder in (self.folder or ".", self.tables):
            remove_abandoned(folder, names)

    def note_path(self, part: int, parts: int) -> str:
        """Where the process that makes so great a part of it notes how far it is."""
        return self.table(f"{PROGRESS}{part}_of_{parts}.json")

    def progress(self) -> Progress:
        """How far it is, by what the processes that make it now note, and by the output stacks of the other parts."""
        done, per_second, noted = 0, 0.0, set[int]()
        for path in Path(self.tables).glob(f"{PROGRESS}*.json"):
            note = noted_progress(path)
            if note:
                part, parts = path.stem.removeprefix(PROGRESS).split("_of_")
                noted.update(stack.stack_number for stack in self.share(int(part), int(parts)))
                done, per_second = done + note.done, per_second + note.per_second
        done += sum(stack.size for stack in self.stacks if stack.stack_number not in noted and stack.record())
        return Progress(min(done, self.image_count), self.image_count, per_second)

    # ---- what is in it ---------------------------------------------------------------------------------

    def files(self) -> dict[str, FileState | None]:
        """The image files, by the numbers of WANTED, and what each was when the job was written."""
        found = read_files(self.table(FILES_NAME), len(FileState._fields))
        return {name: None if state is None else FileState(*state) for name, state in found.items()}

    def file_names(self) -> list[str]:
        """Their names."""
        return list(self.files())

    def rows(self) -> NDArray[np.void]:
        """All particles (ROW), in their order."""
        return read_array(self.table(PARTICLES_NAME), ROW, count=self.particle_count)

    def wanted(self) -> NDArray[np.void]:
        """All images (WANTED), in their order."""
        return read_array(self.table(IMAGES_NAME), WANTED, count=self.image_count)

    def bad_before(self) -> list[BadParticle]:
        """Particles that could not be used before any image was looked at."""
        return [BadParticle(*each) for each in read_bad(self.table(BAD_BEFORE_NAME), len(BadParticle._fields))]

    def bad_particles(self, stacks: Iterable[OutputStack]) -> list[BadParticle]:
        """Particles that cannot be used: those found before any image, and those of output stacks, by their places."""
        problems = {stack.first + place: problem for stack in stacks for place, problem in stack.bad()}
        found = self.bad_before()
        if problems:
            self.check_tables()
            rows, names = self.rows(), self.file_names()
            wanted = self.wanted()
            for particle_id, image in rows[np.isin(rows["image"], list(problems))].tolist():
                file, index, *_ = wanted[image].tolist()
                found.append(BadParticle(particle_id, index, names[file], problems[image]))
        return found

    def results(self) -> NDArray[np.void]:
        """What became of all particles (RESULT), in their order. All output stacks are to be done."""
        self.check_tables()
        rows = self.rows()
        made = np.concatenate([stack.made() for stack in self.stacks])[rows["image"]]
        results = np.empty(len(rows), dtype=RESULT)
        results["particle_id"], results["stack"] = rows["particle_id"], rows["image"] // self.images_per_stack + 1
        for name in made.dtype.names or ():
            results[name] = made[name]
        return results

    # ---- what is done ----------------------------------------------------------------------------------

    def is_finished(self) -> bool:
        """Whether all output stacks are done."""
        return all(stack.is_done() for stack in self.stacks)

    def has_bad_particles(self) -> bool:
        """Whether any of its stacks has images that could not be used."""
        return any(stack.has_bad() for stack in self.stacks)

    @property
    def made_count(self) -> int:
        """Number of images in all output stacks."""
        return sum(stack.image_count() for stack in self.stacks)

    def flush(self) -> None:
        """Wait until all output stacks are on the disk."""
        for stack in self.stacks:
            stack.flush()

    @property
    def bytes_on_disk(self) -> int:
        """Of all output stacks."""
        return sum(record.bytes for record in (stack.record() for stack in self.stacks) if record)

    def check_inputs(self) -> None:
        """Raise InputError if an image file has changed since output stacks were made from it."""
        made_of: dict[str, FileState | None] = {}
        for stack in self.stacks:
            record = stack.record()
            made_of.update(record.inputs if record else {})
        for path, state in made_of.items():
            check_unchanged(path, state)

    def check_worked_on(self, stacks: Sequence[OutputStack]) -> None:
        """Raise DataError if output stacks are neither done nor refused for their particles.

        It names them, or gives the program's words if it left any. All corrupt particles are to be found before one is
        complained of: ``check_done`` does that, when all stacks are worked on.
        """
        missing = [stack for stack in stacks if not stack.is_kept() and not stack.is_refused()]
        if not missing:
            return
        reasons = list(dict.fromkeys(filter(None, (stack.error() for stack in missing))))
        if reasons:
            raise DataError("\n".join(reasons[:NAMED_IN_A_MESSAGE]))
        names = ", ".join(stack.name for stack in missing[:NAMED_IN_A_MESSAGE])
        if all(stack.record() for stack in missing) and all(os.path.exists(stack.path) for stack in missing):
            raise DataError(
                f"{self.folder}: {len(missing)} of {len(stacks)} output stacks are not what they were when they were "
                f"made ({names}), expected nobody else to write there; continue the run: they are made again"
            )
        raise DataError(
            f"{self.folder}: {len(missing)} of {len(stacks)} output stacks are missing ({names}"
            f"{', …' if len(missing) > NAMED_IN_A_MESSAGE else ''}), expected all: the program was killed or could "
            "not start; see the run's log, then continue the run"
        )

    def check_done(self, skip_corrupt: bool) -> int:
        """``check_done`` for this job alone."""
        return check_done([self], self.folder, skip_corrupt)


def refusal(bad: Iterable[BadParticle], count: int, path: str, names: Names = FORM) -> DataError:
    """That this many particles are corrupt, the first few by name, and where all are listed."""
    named = "\n".join(map(str, itertools.islice(bad, NAMED_IN_A_MESSAGE)))
    named = named.encode("utf-8", "backslashreplace").decode("utf-8")  # names of files may be any bytes
    more = f"\n… and {count - NAMED_IN_A_MESSAGE} more" if count > NAMED_IN_A_MESSAGE else ""
    return DataError(
        f"{counted(count, 'corrupt particle')}, expected none:\n"
        f"{named}{more}\n"
        f"All are listed in {path}. Repair them or remove them from the input, or {names.do_skip_corrupt} to leave "
        f"them out; then {names.go_on}"
    )


def check_done(jobs: Sequence[Job], folder: str, skip_corrupt: bool, names: Names = FORM) -> int:
    """Raise DataError unless all output stacks are done, with all particles but those that may be skipped.

    All corrupt particles, in the order of their ids if there are several jobs, are listed in a table in the folder for
    people; returns their number.
    """
    for job in jobs:
        job.check_worked_on(job.stacks)
        job.check_inputs()
    bad = list(heapq.merge(*(job.bad_particles(job.stacks) for job in jobs), key=lambda particle: particle.particle_id))
    path = os.path.join(folder, BAD_PARTICLES_NAME)
    if not bad:
        remove_files(path)
    else:
        list_bad_particles(path, bad)
        if not skip_corrupt:
            raise refusal(bad, len(bad), path, names)
    if not any(job.made_count for job in jobs):
        raise DataError(f"{folder}: all particles are corrupt ({len(bad)}), expected some usable ones; check the input")
    return len(bad)
