# SPDX-License-Identifier: GPL-3.0-or-later
"""What the command line takes particles from, a stack or a STAR file, and the STAR file that it makes of them."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from ..core.plan import DownsamplePlan
from ..engine.job import Job
from ..engine.pool import WorkerPool
from ..engine.tables import ParticleBlock
from ..engine.worker import be_a_child
from ..errors import DataError, InputError
from ..files import relion_labels as labels
from ..files.fingerprints import check_unchanged
from ..files.image_readers import open_stack
from ..files.relion_groups import ImageGroup
from ..files.relion_output import NewStar, Outcome, RowWriter
from ..files.relion_star import RelionStar
from ..files.star import Block
from ..files.star_rows import around_number
from .command_line import check_header_pixel_size

Plans = Mapping[ImageGroup, DownsamplePlan]
STACK_STAR = """\
data_optics

loop_
_{group} #1
_rlnOpticsGroupName #2
_{apix_label} #3
_rlnImageSize #4
_{dimensionality} #5
1 opticsGroup1 {apix:.9g} {box} 2

data_particles

loop_
_{image} #1
_{group} #2
_{record[0]} #3
_{record[1]} #4
_{record[2]} #5
"""


class StackSource:
    """A bare stack: all its images are particles, of which nothing else is known. A context manager.

    Attributes
    ----------
    path, files : of the stack
    groups : the one group of its particles
    warning : what may surprise; empty here
    """

    warning = ""

    def __init__(self, path: str, apix: float | None):
        """`apix` is the pixel size (Å/px); None for what the header says."""
        self.path, self.files = path, [path]
        try:
            with open_stack(path) as stack:
                stack.check_images()
                self._state = stack.state
                self._count, box, header_apix = stack.count, stack.square_box(), stack.apix
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
        except DataError as error:
            raise DataError(f"{path}: {error}") from error
        if apix is None:
            apix = header_apix
            check_header_pixel_size("--apix", path, apix, "give the pixel size")
        self.groups = [ImageGroup("", box, apix, None)]

    def __enter__(self) -> StackSource:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def check_unchanged(self) -> None:
        """Raise InputError if another file is there than the one that was looked at."""
        check_unchanged(self.path, self._state)

    def blocks(self, plans: Plans, plan: DownsamplePlan) -> Iterator[ParticleBlock]:
        """All images."""
        rows = np.arange(1, self._count + 1)  # the ids of the particles, and the indices of their images
        yield ParticleBlock(rows, np.zeros(self._count, np.int32), [self.path], rows, np.zeros((self._count, 2)))

    def new_star(self, plans: Plans, jobs: Sequence[Job], workers: int) -> Iterator[bytes]:
        """The text of a STAR file that holds the stacks together, of RELION 3.1 and later."""
        ((plan, job),) = zip(plans.values(), jobs)
        yield STACK_STAR.format(
            group=labels.OPTICS_GROUP,
            apix_label=labels.IMAGE_PIXEL_SIZE,
            dimensionality=labels.DIMENSIONALITY,
            image=labels.IMAGE,
            record=labels.RECORD,
            apix=plan.apix_out,
            box=plan.box_out,
        ).encode()
        results = job.results()
        made = results[results["index"] > 0]  # as in the input, so stack by stack
        before_old, old = around_number(self.path)
        ends = np.searchsorted(made["stack"], np.arange(1, len(job.stacks) + 1), side="right").tolist()
        for stack, start, end in zip(job.stacks, [0, *ends], ends):
            before_new, new = around_number(stack.path)
            rows = zip(made["particle_id"][start:end].tolist(), made["index"][start:end].tolist())
            yield "".join(
                f"{before_new}{index:06d}{new} 1 {before_old}{particle_id:06d}{old} 0.000000 0.000000\n"
                for particle_id, index in rows
            ).encode("latin-1")


class StarSource:
    """A STAR file of particles. A context manager.

    Attributes
    ----------
    path : of the file
    files : of all images in it
    groups : of its particles
    warning : what may surprise; empty if nothing does
    """

    def __init__(self, path: str, apix: float | None, micrograph_apix: float | None, recentering: bool):
        """`apix` and `micrograph_apix` are pixel sizes (Å/px) of images and micrographs, for a file without."""
        self.path = path
        self._star = RelionStar(path, apix, micrograph_apix)
        try:
            if recentering and not self._star.has_origins:
                raise DataError(
                    f"{path}: it has no origins (rlnOriginXAngst, or rlnOriginX), expected aligned shifts to recentre "
                    "by; give the STAR file of a classification or refinement, or leave --recenter out"
                )
            self._particles = list(self._star.particles())
        except BaseException:
            self._star.close()
            raise
        self.files, self.groups = self._star.image_files, self._star.groups
        has_places = set(labels.COORDINATES) & set(self._star.table.labels)
        lacking = recentering and has_places and any(group.micrograph_apix is None for group in self.groups)
        self.warning = LACKING_MICROGRAPH_PIXEL_SIZE if lacking else ""

    def __enter__(self) -> StarSource:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._star.close()

    def check_unchanged(self) -> None:
        """Raise DataError if somebody has written to the file since it was opened."""
        self._star.file.check_unchanged()

    def blocks(self, plans: Plans, plan: DownsamplePlan) -> Iterator[ParticleBlock]:
        """The particles of the groups of a plan."""
        are_wanted = np.array([plans[group] == plan for group in self.groups])
        for some in self._particles:
            wanted = are_wanted[some.groups]
            columns = (some.particle_ids, some.files, some.image_indices, some.shifts)
            particle_ids, files, image_indices, shifts = (column[wanted] for column in columns)
            yield ParticleBlock(particle_ids, files, self.files, image_indices, shifts)

    def new_star(self, plans: Plans, jobs: Sequence[Job], workers: int) -> Iterator[bytes]:
        """The text of the STAR file of the new particles, piece after piece: worker processes rewrite the rows."""
        self.check_unchanged()
        new = NewStar(self._star, plans)
        outcomes = _Outcomes(jobs, sum(block.rows for block in self._star.blocks))
        under_way: deque[bytes | Future[bytes]] = deque()
        with WorkerPool(workers, be_a_child, os.getpid()) as pool:  # they have the STAR file open
            for piece in new.pieces():
                if isinstance(piece, Block):
                    under_way.append(pool.submit(RowWriter.new_rows, new.rows, piece, outcomes.of(piece)))
                else:
                    under_way.append(piece)
                while len(under_way) > 2 * workers:
                    yield _finished(pool, under_way.popleft())
            while under_way:
                yield _finished(pool, under_way.popleft())
        self.check_unchanged()  # text beside the rows, too, is that of the file as it was


LACKING_MICROGRAPH_PIXEL_SIZE = (
    "Micrograph coordinates (rlnCoordinateX, Y) are not changed where the file does not give the pixel size of the "
    "micrographs (rlnMicrographPixelSize): particles extracted again there would be off-centre by the shift. Give it "
    "with --micrograph-apix."
)


def _finished(pool: WorkerPool, piece: bytes | Future[bytes]) -> bytes:
    if isinstance(piece, bytes):
        return piece
    pool.wait([piece], None)
    return piece.result()


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
