# SPDX-License-Identifier: GPL-3.0-or-later
"""Downsampling outside Scipion: a stack, or a RELION STAR file, into a folder."""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import os
import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from .core import checks
from .core.plan import DownsamplePlan, Recenter
from .errors import DataError, PlanError
from .job import BAD_PARTICLES_NAME, DEFAULT_PARTICLES_PER_STACK, Job, check_done, finished_problem
from .output_stack import STACK_NAME, remove_files
from .program import Crew, run_job
from .progress import progress
from .readers import open_stack
from .relion import Particles, RelionStar
from .relion_groups import ImageGroup
from .relion_output import NewStar, Outcome, RowWriter
from .star import Block
from .star_rows import text_of
from .tables import ParticleBlock
from .whole_files import remove_abandoned, whole_binary_file
from .worker import be_a_child

STAR_NAME = "particles.star"


@dataclass(frozen=True)
class Request:
    """What a user of the command line asks for: the fields of a plan, but for the particles' box and pixel size."""

    source: str
    folder: str
    #: Å/px; None for what the STAR file or the header of the stack says
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


def convert(
    request: Request, workers: int, force: bool, skip_corrupt: bool, out: TextIO, crew: Crew | None = None
) -> None:
    """Carry out a request, with a crew, saying to `out` what is done. DataError or PlanError if it cannot be.

    Goes on with an unfinished run of the same request in the folder; refuses a finished one unless forced. Leaves
    particles out that cannot be used if they may be skipped.
    """
    with RelionStar(request.source, request.apix) if request.is_star else contextlib.nullcontext() as star:
        _convert(request, star, workers, force, skip_corrupt, out, crew)


def _convert(
    request: Request,
    star: RelionStar | None,
    workers: int,
    force: bool,
    skip_corrupt: bool,
    out: TextIO,
    crew: Crew | None,
) -> None:
    particles = _star_particles(request, star) if star else []
    groups = star.groups if star else [_stack_group(request)]
    plans = {group: _plan(request, group, len(groups)) for group in groups}
    _check_apart(request, star.image_files if star else [request.source])
    if force:
        _remove_run(request.folder)
    elif os.path.lexists(os.path.join(request.folder, STAR_NAME)) or _holds_another(request.folder, plans):
        raise PlanError([finished_problem(request.folder)])
    jobs = {
        plan: _write_job(request, star, particles, plans, plan, folder) for plan, folder in _folders(request, plans)
    }
    if star is None and all(job.is_finished() for job in jobs.values()):
        raise PlanError([finished_problem(request.folder)])
    remove_abandoned(request.folder, [STAR_NAME, BAD_PARTICLES_NAME])
    for plan, job in jobs.items():
        print(f"{job.particle_count} particles: {plan.summary()}", file=out)
        if job.image_count < job.particle_count:
            print(f"{job.image_count} images stand for them: particles of the same image and shift share it", file=out)
        for warning in checks.warnings(plan):
            print(f"Mind: {warning}", file=out)
    with progress(sum(job.image_count for job in jobs.values())) as advance:
        for job in jobs.values():
            run_job(job, job.stacks, workers, advance, skip_corrupt, crew)
    bad = check_done(list(jobs.values()), request.folder, skip_corrupt)
    if bad:
        print(f"Left out: {bad} corrupt particles, listed in {_bad_path(request.folder)}", file=out)
    for job in jobs.values():
        job.remove_earlier_stacks()
    if star:
        _write_star(request, star, plans, list(jobs.values()), workers, out)
    print(f"Done: {os.path.join(request.folder, STAR_NAME) if star else request.folder}", file=out)


def _star_particles(request: Request, star: RelionStar) -> list[Particles]:
    text_of(request.folder)
    if request.recentering and not star.has_origins:
        raise DataError(
            f"{star.path}: no origins in it (rlnOriginXAngst, or rlnOriginX), expected aligned shifts to recentre by; "
            "give the STAR file of a classification or refinement, or leave --recenter out"
        )
    return list(star.particles())


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
    particles: Iterable[Particles],
    plans: Mapping[ImageGroup, DownsamplePlan],
    plan: DownsamplePlan,
    folder: str,
) -> Job:
    blocks = _stack_block(request.source) if star is None else _star_blocks(star, particles, plans, plan)
    # One of several groups that is done makes no finished run yet
    return Job.write(folder, plan, blocks, DEFAULT_PARTICLES_PER_STACK, over_finished=folder != request.folder)


def _stack_block(path: str) -> Iterator[ParticleBlock]:
    """All images of a stack."""
    with open_stack(path) as stack:
        numbers = np.arange(1, stack.count + 1)
    yield ParticleBlock(numbers, np.zeros(len(numbers), np.int32), [path], numbers, np.zeros((len(numbers), 2)))


def _star_blocks(
    star: RelionStar,
    particles: Iterable[Particles],
    plans: Mapping[ImageGroup, DownsamplePlan],
    plan: DownsamplePlan,
) -> Iterator[ParticleBlock]:
    """The particles of the groups of a plan."""
    are_wanted = np.array([plans[group] == plan for group in star.groups])
    for some in particles:
        wanted = are_wanted[some.groups]
        columns = (some.numbers, some.files, some.indices, some.shifts)
        numbers, files, indices, shifts = (column[wanted] for column in columns)
        yield ParticleBlock(numbers, files, star.image_files, indices, shifts)


# ---- the STAR file of the new particles --------------------------------------------------------------------


def _write_star(
    request: Request,
    star: RelionStar,
    plans: Mapping[ImageGroup, DownsamplePlan],
    jobs: Sequence[Job],
    workers: int,
    out: TextIO,
) -> None:
    if request.recentering and any(group.micrograph_apix is None for group in plans):
        print(
            "Mind: micrograph coordinates stay as they are where the file does not tell the micrographs' pixel size "
            "(rlnMicrographPixelSize).",
            file=out,
        )
    star.file.check_unchanged()
    new = NewStar(star, plans)
    outcomes = _Outcomes(jobs, sum(block.rows for block in star.blocks))
    with whole_binary_file(os.path.join(request.folder, STAR_NAME)) as file:
        for text in _texts(new, outcomes, workers):
            file.write(text)


class _Outcomes:
    """What became of all rows of a STAR file, of several jobs perhaps."""

    def __init__(self, jobs: Sequence[Job], rows: int):
        self._stacks = [stack.path for job in jobs for stack in job.stacks]
        self._stack, self._image = np.zeros(rows, dtype=np.int32), np.zeros(rows, dtype=np.int64)
        self._moved = np.zeros((rows, 2))
        first = 0  # of the job's stacks
        for job in jobs:
            results = job.results()
            places = results["particle_id"] - 1  # rows are numbered from 1
            self._stack[places], self._image[places] = results["stack"] - 1 + first, results["index"]
            self._moved[places, 0], self._moved[places, 1] = results["shift_x"], results["shift_y"]
            first += len(job.stacks)

    def of(self, block: Block) -> Outcome:
        """Those of a block's rows. Few stacks are of use to it, and only those are named."""
        rows = slice(block.first - 1, block.first - 1 + block.rows)
        used, stack = np.unique(self._stack[rows], return_inverse=True)
        image: NDArray[np.int64] = self._image[rows]
        names = [self._stacks[number] for number in used.tolist()]
        return Outcome(image > 0, names, stack.astype(np.int32), image, self._moved[rows])


def _texts(new: NewStar, outcomes: _Outcomes, workers: int) -> Iterator[bytes]:
    """The text of the new file, piece after piece; worker processes rewrite the rows, a few blocks ahead."""
    under_way: deque[bytes | Future[bytes]] = deque()
    context = multiprocessing.get_context("fork")  # they have the STAR file open
    with ProcessPoolExecutor(workers, context, be_a_child, (os.getpid(),)) as pool:
        try:
            for piece in new.pieces():
                if isinstance(piece, Block):
                    under_way.append(pool.submit(RowWriter.new_rows, new.rows, piece, outcomes.of(piece)))
                else:
                    under_way.append(piece)
                while len(under_way) > 2 * workers:
                    yield _finished(under_way.popleft())
            while under_way:
                yield _finished(under_way.popleft())
        finally:
            pool.shutdown(cancel_futures=True)


def _finished(piece: bytes | Future[bytes]) -> bytes:
    return piece if isinstance(piece, bytes) else piece.result()


# ---- what is in the folder ---------------------------------------------------------------------------------


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
    if os.path.lexists(request.folder) and not os.path.isdir(request.folder):
        raise PlanError([f"-o: {request.folder} is a file, expected a folder for what comes out; give another name."])
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
    runs = [path for path in (folder, *groups) if _is_run(path)]
    for path in runs:
        Job.remove(path)
    for path in groups:
        with contextlib.suppress(OSError):  # somebody keeps other things there
            os.rmdir(path)
    if runs:
        remove_files(os.path.join(folder, STAR_NAME), _bad_path(folder))
