# SPDX-License-Identifier: GPL-3.0-or-later
"""Writing jobs, over others in their folders, and removing them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping, Sequence

from ..core.plan import DownsamplePlan
from ..files.fingerprints import FileState, file_state
from ..files.whole_files import alone_in, part_name
from .job import BAD_BEFORE_NAME, BAD_PARTICLES_NAME, FILES_NAME, Job, refusal
from .job_checks import PARTICLES_NAME, check, count_problems, foreign_problems, job_problems, tables_of_nobody
from .output_stack import IMAGES_NAME, remove_files
from .tables import (
    BadParticle,
    ParticleBlock,
    Particles,
    collect,
    fingerprint,
    list_bad_particles,
    tables_checksum,
    write_array,
    write_bad,
    write_files,
)


def write_job(
    folder: str,
    plan: DownsamplePlan,
    blocks: Iterable[ParticleBlock],
    images_per_stack: int,
    bad: Sequence[BadParticle] = (),
) -> Job:
    """Write a job for the particles of blocks; PlanError if it cannot be done.

    Over another job in the folder it starts anew; over the same one, of the same plan and particles and
    image files of the same sizes and times, what is done stays done, but for stacks made from files that
    have changed nevertheless. `bad` are particles that are corrupt for other reasons than their images; it may grow
    while `blocks` are drawn.
    """
    check(job_problems(plan, images_per_stack))
    particles = collect(blocks, plan.recenter)
    os.makedirs(folder, exist_ok=True)
    with alone_in(folder):
        return _written(folder, plan, particles, images_per_stack, bad)


def _written(
    folder: str,
    plan: DownsamplePlan,
    particles: Particles,
    images_per_stack: int,
    bad: Sequence[BadParticle],
) -> Job:
    """``write_job`` for all particles, while no other program looks at the folder."""
    old = Job.in_folder(folder)
    if old is None:
        check(foreign_problems(folder, ["tables", BAD_PARTICLES_NAME]))
    if bad and not len(particles.rows):
        path = os.path.join(folder, BAD_PARTICLES_NAME)
        count = list_bad_particles(path, bad)
        raise refusal(bad, count, path)
    check(count_problems(len(particles.rows)))
    files = {name: file_state(name) for name in particles.file_names}
    job = Job(
        folder,
        plan,
        len(particles.rows),
        len(particles.images),
        images_per_stack,
        fingerprint(plan, images_per_stack, particles, list(files.values()), bad),
        tables_checksum([particles.rows], [particles.images], particles.file_names, bad),
        old.generation + 1 if old else 1,
        (*old.earlier, (old.generation, len(old.stacks))) if old else (),
    )
    if old is not None and job.fingerprint == old.fingerprint:
        if not old.has_its_tables():
            _write_tables(old.tables, particles, files, bad)
        old.take_note_of(files)
        return old
    check(foreign_problems(folder, [os.path.basename(job.tables), *(stack.name for stack in job.stacks)]))
    if old is not None and not old.is_finished():
        for stack in old.stacks:
            stack.remove()
    _start(job, particles, files, bad)
    if old is not None:
        shutil.rmtree(old.tables, ignore_errors=True)
    return job


def _start(job: Job, particles: Particles, files: Mapping[str, FileState | None], bad: Sequence[BadParticle]) -> None:
    """Put the tables in place, then, at one stroke, the description that makes them the job."""
    new_tables = part_name(job.tables)
    _write_tables(new_tables, particles, files, bad)
    for name in tables_of_nobody(job.folder):
        if os.path.join(job.folder, name) != new_tables:
            shutil.rmtree(os.path.join(job.folder, name), ignore_errors=True)
    shutil.rmtree(job.tables, ignore_errors=True)  # of a program that was killed just before the next line but one
    os.rename(new_tables, job.tables)
    job.describe()


def _write_tables(
    folder: str, particles: Particles, files: Mapping[str, FileState | None], bad: Sequence[BadParticle]
) -> None:
    os.makedirs(folder, exist_ok=True)
    write_array(os.path.join(folder, PARTICLES_NAME), particles.rows)
    write_array(os.path.join(folder, IMAGES_NAME), particles.images)
    write_files(os.path.join(folder, FILES_NAME), files)
    write_bad(os.path.join(folder, BAD_BEFORE_NAME), bad)


def remove_job(folder: str) -> None:
    """Remove the job in a folder, with its tables and stacks and those of earlier ones, and nothing else."""
    with alone_in(folder):
        job = Job.in_folder(folder)
        if job is not None:
            job.remove_earlier_stacks()
            for stack in job.stacks:
                stack.remove()
            shutil.rmtree(job.tables, ignore_errors=True)
            remove_files(os.path.join(folder, BAD_PARTICLES_NAME), job.path)
