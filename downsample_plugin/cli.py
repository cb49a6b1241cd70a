# SPDX-License-Identifier: GPL-3.0-or-later
"""The command ``downsample-particles``: arguments, exit codes, progress. Scipion runs its jobs through it."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

# Workers are processes, one to a core; a threaded BLAS inside each would only get in their way. Libraries
# read this when they are imported.
for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")

from . import __version__  # noqa: E402
from .errors import DataError, PlanError  # noqa: E402
from .job import Job  # noqa: E402
from .program import run_job  # noqa: E402
from .progress import progress  # noqa: E402

EXIT_DATA, EXIT_USAGE = 1, 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0 done, 1 bad data, 2 a request that cannot be carried out."""
    options = _parser().parse_args(arguments)
    try:
        job = Job.read(options.job)
    except (DataError, PlanError) as error:
        return _fail(error)
    print(f"downsample-particles {__version__}: {job.particle_count} particles, {job.plan.summary()}", flush=True)
    try:
        with progress(job.particle_count) as bar:
            run_job(job, options.jobs, bar.update)
    except (DataError, PlanError, OSError) as error:
        with open(job.error_path, "w", encoding="utf-8") as file:
            file.write(str(error))
        return _fail(error)
    print(f"Done: {job.results_path}", flush=True)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="downsample-particles",
        description="Downsample cryo-EM particles: recentre, crop or pad, Fourier crop, filter.",
    )
    parser.add_argument("job", metavar="JOB.json", help="a job that Scipion's 'downsample particles' wrote")
    parser.add_argument(
        "--jobs", type=_positive, default=1, metavar="J", help="worker processes (default: %(default)s)"
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"got {number}, expected 1 or more")
    return number


def _fail(error: Exception) -> int:
    print(f"ERROR: {error}", file=sys.stderr, flush=True)
    return EXIT_USAGE if isinstance(error, PlanError) else EXIT_DATA
