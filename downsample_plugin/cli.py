# SPDX-License-Identifier: GPL-3.0-or-later
"""The command ``downsample-particles``: arguments, exit codes, progress. Scipion runs its jobs through it."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence

# Workers are processes, one to a core; a threaded BLAS inside each would only get in their way, and sum in
# another order. Libraries read this when they are imported.
for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_variable] = "1"

from . import __version__  # noqa: E402
from .errors import DataError, PlanError  # noqa: E402
from .job import Job  # noqa: E402
from .program import run_job  # noqa: E402
from .progress import progress  # noqa: E402

EXIT_DATA, EXIT_USAGE = 1, 2

# How Open MPI and the MPICH family tell a process its rank and their number
MPI_VARIABLES = (("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"), ("PMI_RANK", "PMI_SIZE"))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0 done, 1 bad data, 2 a request that cannot be carried out."""
    options = _parser().parse_args(arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # Å and file names must not fail on a terminal that lacks them
            stream.reconfigure(errors="backslashreplace")
    try:
        _run(Job.read(options.job), options.part or _mpi_part(), options.jobs)
    except (DataError, PlanError, OSError) as error:
        print(f"ERROR: {error}", file=sys.stderr, flush=True)
        return EXIT_USAGE if isinstance(error, PlanError) else EXIT_DATA
    return 0


def _run(job: Job, part: tuple[int, int], workers: int) -> None:
    """Make the output stacks of one part of a job."""
    stacks = job.share(*part)
    count = sum(map(job.stack_size, stacks))
    of_parts = f" (part {part[0]} of {part[1]})" if part[1] > 1 else ""
    print(f"downsample-particles {__version__}: {count} particles{of_parts}, {job.plan.summary()}", flush=True)
    with progress(count) as bar:
        run_job(job, stacks, workers, bar.update)
    print(f"Done: {len(stacks)} output stacks in {job.folder}{of_parts}", flush=True)


def _mpi_part() -> tuple[int, int]:
    """The part of a job that is this process's under mpirun, which starts the same command many times; else all."""
    for rank, size in MPI_VARIABLES:
        if rank in os.environ and size in os.environ:
            return int(os.environ[rank]) + 1, int(os.environ[size])
    return 1, 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="downsample-particles",
        description="Downsample cryo-EM particles: recentre, crop or pad, Fourier crop, filter.",
    )
    parser.add_argument("job", metavar="JOB.json", help="a job that Scipion's 'downsample particles' wrote")
    parser.add_argument(
        "--jobs", type=_positive, default=1, metavar="J", help="worker processes (default: %(default)s)"
    )
    parser.add_argument(
        "--part",
        type=_part,
        metavar="K/N",
        help="make every N-th output stack only, from the K-th, so that N commands on any machines share a job "
        "(default: all, or under mpirun the share of the process's rank)",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    return parser


def _part(text: str) -> tuple[int, int]:
    try:
        part, parts = map(int, text.split("/"))
    except ValueError:
        part, parts = 0, 0
    if not 1 <= part <= parts:
        raise argparse.ArgumentTypeError(f"got {text}, expected K/N with 1 <= K <= N, such as 2/8")
    return part, parts


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"got {number}, expected 1 or more")
    return number
