# SPDX-License-Identifier: GPL-3.0-or-later
"""Downsampling outside Scipion: a stack, or a RELION STAR file, into a folder."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TextIO

from ..core import checks
from ..core.names import COMMAND
from ..core.plan import DownsamplePlan, Recenter
from ..engine.job import Job, check_done
from ..engine.job_checks import DEFAULT_PARTICLES_PER_STACK
from ..engine.job_writing import write_job
from ..engine.progress import progress
from ..engine.runner import Crew, run_job
from ..errors import PlanError
from ..files.relion_groups import ImageGroup
from ..files.star_rows import text_of
from ..files.whole_files import whole_binary_file
from ..words import counted
from .output_folder import OutputFolder
from .sources import Plans, StackSource, StarSource


@dataclass(frozen=True)
class Request:
    """What a user of the command line asks for: the fields of a plan, but for the particles' box and pixel size."""

    source: str
    folder: str
    #: Å/px of the images; None for what the STAR file or the header of the stack says
    apix: float | None
    wishes: Mapping[str, Any]
    #: Å/px of the micrographs that coordinates are counted on; None for what the STAR file says
    micrograph_apix: float | None = None
    particles_per_stack: int = DEFAULT_PARTICLES_PER_STACK
    #: whether to start anew over a finished run, to leave out corrupt particles, and to draw the result picture
    force: bool = False
    skip_corrupt: bool = False
    picture: bool = True

    @property
    def is_star(self) -> bool:
        """Whether the source is a STAR file, by its name."""
        return self.source.endswith(".star")


def convert(request: Request, workers: int, out: TextIO, crew: Crew | None = None) -> None:
    """Carry out a request, with a crew, saying to `out` what is done. DataError or PlanError if it cannot be.

    Goes on with an unfinished run of the same request in the folder; refuses a finished one unless forced.
    """
    with _source_of(request) as source:
        plans = {group: _plan(request, group, len(source.groups)) for group in source.groups}
        folder = OutputFolder(request.folder)
        folder.make_ready([request.source, *source.files], request.force)
        jobs = _write_jobs(request, source, plans, folder)
        source.check_unchanged()
        folder.remove_abandoned()
        with _alone(jobs):
            folder.forget_earlier_star(jobs)
        for line in _opening(jobs, source):
            print(line, file=out)
        _make(request, jobs, workers, crew)
        bad = check_done(jobs, request.folder, request.skip_corrupt, COMMAND)
        if request.picture and (problem := _draw(folder, jobs)):
            print(problem, file=out)
        with _alone(jobs):
            with whole_binary_file(folder.star_path) as file:
                for text in source.new_star(plans, jobs, workers):
                    file.write(text)
            lines = _closing(request, folder, jobs, bad)
            for job in jobs:  # a STAR file of theirs is gone now
                job.remove_earlier_stacks()
    for line in lines:
        print(line, file=out)


def _source_of(request: Request) -> StackSource | StarSource:
    text_of(request.folder)  # the STAR file can name it
    recentering = request.wishes["recenter"] is not Recenter.NONE
    if request.is_star:
        return StarSource(request.source, request.apix, request.micrograph_apix, recentering)
    for option, is_given in (("--recenter", recentering), ("--micrograph-apix", request.micrograph_apix is not None)):
        if is_given:
            raise PlanError(
                [
                    f"{option}: a stack has no shifts or coordinates, expected a STAR file; give one, or leave the "
                    "option out."
                ]
            )
    return StackSource(request.source, request.apix)


def _plan(request: Request, group: ImageGroup, groups: int) -> DownsamplePlan:
    plan = DownsamplePlan(box_in=group.box, apix_in=group.apix, **request.wishes)
    found = checks.problems(plan, COMMAND)
    if found:
        where = f"Particles of {group.box} px, {group.apix:.5g} Å/px: " if groups > 1 else ""
        raise PlanError([where + problem for problem in found])
    return plan


def _write_jobs(request: Request, source: StackSource | StarSource, plans: Plans, folder: OutputFolder) -> list[Job]:
    """A job for each different plan, in a folder of its own if there are several."""
    distinct = list(dict.fromkeys(plans.values()))
    paths = [folder.path] if len(distinct) == 1 else [folder.of_group(number + 1) for number in range(len(distinct))]
    return [
        write_job(path, plan, source.blocks(plans, plan), request.particles_per_stack)
        for path, plan in zip(paths, distinct)
    ]


@contextlib.contextmanager
def _alone(jobs: list[Job]) -> Iterator[None]:
    """Keep others from beginning jobs in the folders of some; DataError if one has begun since they were written."""
    with contextlib.ExitStack() as held:
        for job in jobs:
            held.enter_context(job.alone())
        yield


def _make(request: Request, jobs: list[Job], workers: int, crew: Crew | None) -> None:
    with progress(sum(job.image_count for job in jobs)) as advance:
        for job in jobs:
            run_job(job, job.stacks, workers, advance, request.skip_corrupt, crew)


def _draw(folder: OutputFolder, jobs: list[Job]) -> str:
    """Draw the result picture; returns why it could not be drawn, or nothing. The particles do not suffer from that."""
    try:
        from ..pictures.particles import draw_result  # only here: importing matplotlib takes longer than many images
        from ..pictures.sample import Sample

        draw_result(folder.picture_path, Sample.of_jobs(jobs[:1]))  # of the first pixel size, if there are several
    except Exception as error:
        return f"No result picture: it could not be drawn ({error!r}); the particles are not affected."
    return ""


# ---- words ---------------------------------------------------------------------------------------------------


def _opening(jobs: list[Job], source: StackSource | StarSource) -> list[str]:
    lines = []
    for job in jobs:
        lines.append(f"{counted(job.particle_count, 'particle')}: {job.plan.summary()}")
        if job.image_count < job.particle_count:
            lines.append(
                f"{counted(job.image_count, 'output image')}: particles with the same image and shift share one"
            )
        lines += [f"Warning: {warning}" for warning in checks.warnings(job.plan, COMMAND)]
    return lines + ([f"Warning: {source.warning}"] if source.warning else [])


def _closing(request: Request, folder: OutputFolder, jobs: list[Job], bad: int) -> list[str]:
    """What was made, and how to go on with it."""
    stacks = [stack.path for job in jobs for stack in job.stacks if stack.image_count()]
    lines = [f"Left out: {counted(bad, 'corrupt particle')}, listed in {folder.bad_path}"] if bad else []
    taken = sum(job.particle_count for job in jobs) - bad
    lines += [
        f"Done: {counted(taken, 'particle')} in {folder.star_path}; open this file in RELION, or import it.",
        f"Stacks: {stacks[0]}" + (f" … {stacks[-1]} ({len(stacks)} files)" if stacks[1:] else ""),
    ]
    if request.is_star:
        lines.append(
            f"Back to full size, after refinement: restore-particles REFINED.star --original {request.source} "
            "-o FULL.star"
        )
    return lines
