# SPDX-License-Identifier: GPL-3.0-or-later
"""Downsampling outside Scipion: a stack, or a RELION STAR file, into a folder."""

from __future__ import annotations

import contextlib
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TextIO

from .core import checks
from .core.plan import DownsamplePlan, Recenter
from .errors import DataError, PlanError
from .job import (
    BAD_PARTICLES_NAME,
    DEFAULT_PARTICLES_PER_STACK,
    STACK_NAME,
    Job,
    check_done,
    finished_problem,
)
from .program import run_job
from .progress import progress
from .readers import open_stack
from .relion import ImageGroup, RelionStar
from .tables import ParticleRow
from .whole_files import remove_abandoned, whole_file

STAR_NAME = "particles.star"


@dataclass(frozen=True)
class Request:
    """What a user of the command line asks for: the fields of a plan, but for the particles' box and pixel size."""

    source: str
    folder: str
    #: Å/px of a bare stack; None for what its header says
    apix: float | None
    wishes: Mapping[str, Any]

    @property
    def is_star(self) -> bool:
        """Whether the source is a STAR file, by its name."""
        return self.source.endswith(".star")

    @property
    def recentering(self) -> bool:
        """Whether aligned shifts are to be applied."""
        return self.wishes["recenter"] is not Recenter.NONE


def convert(request: Request, workers: int, force: bool, skip_corrupt: bool, out: TextIO) -> None:
    """Carry out a request, saying to `out` what is done. DataError or PlanError if it cannot be.

    Goes on with an unfinished run of the same request in the folder; refuses a finished one unless forced. Leaves
    particles out that cannot be used if they may be skipped.
    """
    star = RelionStar(request.source) if request.is_star else None
    groups = _star_groups(request, star) if star else [_stack_group(request)]
    plans = {group: _plan(request, group, len(groups)) for group in groups}
    _check_apart(request, star.image_files() if star else [request.source])
    if force:
        _remove_run(request.folder)
    elif os.path.lexists(os.path.join(request.folder, STAR_NAME)) or _holds_another(request.folder, plans):
        raise PlanError([finished_problem(request.folder)])
    jobs = {plan: _write_job(request, star, plans, plan, folder) for plan, folder in _folders(request, plans)}
    if star is None and all(job.is_finished() for job in jobs.values()):
        raise PlanError([finished_problem(request.folder)])
    remove_abandoned(request.folder, [STAR_NAME, BAD_PARTICLES_NAME])
    for plan, job in jobs.items():
        print(f"{job.particle_count} particles: {plan.summary()}", file=out)
        for warning in checks.warnings(plan):
            print(f"Mind: {warning}", file=out)
    with progress(sum(job.particle_count for job in jobs.values())) as advance:
        for job in jobs.values():
            run_job(job, job.stacks, workers, advance, skip_corrupt)
    bad = check_done(list(jobs.values()), request.folder, skip_corrupt)
    if bad:
        print(f"Left out: {bad} corrupt particles, listed in {_bad_path(request.folder)}", file=out)
    for job in jobs.values():
        job.remove_other_stacks()
    if star:
        _write_star(request, star, plans, jobs, out)
    print(f"Done: {os.path.join(request.folder, STAR_NAME) if star else request.folder}", file=out)


def _star_groups(request: Request, star: RelionStar) -> list[ImageGroup]:
    if request.apix is not None:
        raise PlanError([f"--apix: got {request.apix}, expected none for a STAR file, which says it; leave it out."])
    if request.folder.split() != [request.folder]:
        raise PlanError(
            [f"Output folder: '{request.folder}' has white space in it, which a STAR file cannot hold; give another."]
        )
    if request.recentering and not star.has_origins():
        raise DataError(
            f"{star.path}: no origins in it (rlnOriginXAngst, or rlnOriginX), expected aligned shifts to recentre by; "
            "give the STAR file of a classification or refinement, or leave --recenter out"
        )
    return star.groups()


def _stack_group(request: Request) -> ImageGroup:
    if request.recentering:
        raise PlanError(["--recenter: a stack has no aligned shifts, expected a STAR file; give one or leave it out."])
    try:
        with open_stack(request.source) as stack:
            apix = stack.apix if request.apix is None else request.apix
            box = stack.box[0]
    except DataError as error:
        raise DataError(f"{request.source}: {error}") from error
    if request.apix is None and not (math.isfinite(apix) and apix > 0):
        raise PlanError(
            [f"Pixel size: the header of {request.source} says {apix:g} Å/px, expected more than 0; give it by --apix."]
        )
    return ImageGroup("", box, apix, None)


def _plan(request: Request, group: ImageGroup, groups: int) -> DownsamplePlan:
    plan = DownsamplePlan(box_in=group.box, apix_in=group.apix, **request.wishes)
    found = checks.problems(plan)
    if found:
        where = f"Particles of {group.box} px, {group.apix:.5g} Å/px: " if groups > 1 else ""
        raise PlanError([where + problem for problem in found])
    return plan


def _folders(request: Request, plans: Mapping[ImageGroup, DownsamplePlan]) -> Iterator[tuple[DownsamplePlan, str]]:
    """The different plans, each with a folder of its own if there is more than one."""
    distinct = list(dict.fromkeys(plans.values()))
    for number, plan in enumerate(distinct, start=1):
        yield plan, request.folder if len(distinct) == 1 else os.path.join(request.folder, f"pixel_size_{number}")


def _write_job(
    request: Request,
    star: RelionStar | None,
    plans: Mapping[ImageGroup, DownsamplePlan],
    plan: DownsamplePlan,
    folder: str,
) -> Job:
    rows: Iterator[ParticleRow]
    if star is None:
        with open_stack(request.source) as stack:
            rows = (ParticleRow(i, i, request.source, 0.0, 0.0) for i in range(1, stack.count + 1))
    else:
        rows = (
            ParticleRow(number, particle.image_index, particle.image_file, *particle.shift)
            for number, particle in enumerate(star.particles(), start=1)
            if plans[particle.group] == plan
        )
    # One of several groups that is done makes no finished run yet
    return Job.write(folder, plan, rows, DEFAULT_PARTICLES_PER_STACK, over_finished=folder != request.folder)


def _write_star(
    request: Request,
    star: RelionStar,
    plans: Mapping[ImageGroup, DownsamplePlan],
    jobs: Mapping[DownsamplePlan, Job],
    out: TextIO,
) -> None:
    if request.recentering and any(group.micrograph_apix is None for group in plans):
        print(
            "Mind: micrograph coordinates stay as they are where the file does not tell the micrographs' pixel size "
            "(rlnMicrographPixelSize).",
            file=out,
        )
    results = {plan: job.results() for plan, job in jobs.items()}
    path = os.path.join(request.folder, STAR_NAME)
    with whole_file(path, errors="surrogateescape", newline="") as file:
        file.writelines(star.rewritten(plans.__getitem__, lambda group: results[plans[group]]))


def _bad_path(folder: str) -> str:
    return os.path.join(folder, BAD_PARTICLES_NAME)


def _holds_another(folder: str, plans: Mapping[ImageGroup, DownsamplePlan]) -> bool:
    """Whether a finished job stands in a folder where the jobs of several groups would stand beside it."""
    if len(set(plans.values())) == 1 or not _is_run(folder):
        return False
    try:
        return Job.read(Job.path_in(folder)).is_finished()
    except (DataError, PlanError):
        return False


def _check_apart(request: Request, image_files: Iterable[str]) -> None:
    """PlanError if the output would go over the input, or is to go where files of its names are no run's."""
    folder = os.path.realpath(request.folder)
    for path in (request.source, *image_files):
        real = os.path.realpath(path)
        own = os.path.basename(real) == STAR_NAME or STACK_NAME.fullmatch(os.path.basename(real))
        if own and (os.path.dirname(real) == folder or os.path.dirname(os.path.dirname(real)) == folder):
            raise PlanError([f"{request.folder}: it holds the input {path}, expected another folder; give one."])
    star = os.path.join(request.folder, STAR_NAME)
    if os.path.lexists(star) and not any(map(_is_run, [request.folder, *_group_folders(request.folder)])):
        raise PlanError([f"{star}: it is there and not of a run of this program, expected none; give another folder."])


def _is_run(folder: str) -> bool:
    return os.path.exists(Job.path_in(folder))


def _group_folders(folder: str) -> list[str]:
    """Folders of the groups of a run, in the run's folder."""
    if not os.path.isdir(folder):
        return []
    names = sorted(name for name in os.listdir(folder) if re.fullmatch(r"pixel_size_\d+", name))
    return [path for path in (os.path.join(folder, name) for name in names) if _is_run(path)]


def _remove_run(folder: str) -> None:
    """Remove what an earlier run left in a folder, and nothing else."""
    groups = _group_folders(folder)
    for path in [folder, *groups]:
        if _is_run(path):
            Job.remove(path)
    for path in groups:
        with contextlib.suppress(OSError):  # somebody keeps other things there
            os.rmdir(path)
    with contextlib.suppress(FileNotFoundError):
        os.remove(os.path.join(folder, STAR_NAME))
    with contextlib.suppress(FileNotFoundError):
        os.remove(_bad_path(folder))
