# SPDX-License-Identifier: GPL-3.0-or-later
"""The command ``downsample-particles``: arguments, exit codes, progress. Scipion runs its jobs through it."""

from __future__ import annotations

import argparse
import contextlib
import gc
import os
import signal
import sys
from collections.abc import Sequence

# Workers are processes, one to a core; a threaded BLAS inside each would only get in their way, and sum in
# another order. Libraries read this when they are imported.
for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_variable] = "1"

gc.disable()  # what is imported stays: to look through it for rubbish takes a tenth of the start

# pyfftw imports SciPy for interfaces that nothing here uses, which takes longer than all the rest of the start
_NO_SCIPY = {} if "scipy" in sys.modules else {"scipy": None}
sys.modules.update(_NO_SCIPY)  # type: ignore[arg-type]

from .. import __version__  # noqa: E402
from ..engine.cores import leave_the_binding, usable_cores  # noqa: E402
from ..engine.crew import leading  # noqa: E402
from ..engine.crew_helper import help_out  # noqa: E402
from ..engine.job import Job, refusal  # noqa: E402
from ..engine.progress import progress  # noqa: E402
from ..engine.ranks import Launch, launched  # noqa: E402
from ..engine.runner import Crew, run_job  # noqa: E402
from ..errors import PlanError  # noqa: E402
from ..words import counted  # noqa: E402
from .arguments import new_parser  # noqa: E402
from .command_line import EXIT_STOPPED, exit_code_of  # noqa: E402
from .downsampling import Request, convert  # noqa: E402

for _name in _NO_SCIPY:
    del sys.modules[_name]
gc.freeze()
gc.enable()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    launch = launched()
    if launch.rank:
        return _help(launch, arguments)
    options = _options(arguments)
    return exit_code_of(lambda: _lead(options, launch), "Stopped; run the same command again to continue from here.")


def _lead(options: argparse.Namespace, launch: Launch) -> None:
    """Do the work, with the other processes of the launch."""
    workers = _workers(options, launch)
    with leading(_folder(options), launch) as crew:
        if _is_job(options):
            _run(options, workers, crew)
        elif options.part is not None:
            raise PlanError(["--part: got a stack or STAR file, expected a JOB.json; use --jobs instead."])
        else:
            convert(_request(options), workers, sys.stdout, crew)
        if crew.summary():
            print(crew.summary(), flush=True)


def _help(launch: Launch, arguments: Sequence[str] | None) -> int:
    """Be one of the processes of a launch that the first one leads, and say nothing: it says all.

    The exit code is 0 even then: with another one mpirun would end the first before it has spoken.
    """
    try:
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
            options = _options(arguments)
    except SystemExit:
        return 0
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        help_out(_folder(options), launch, _workers(options, launch))
    except KeyboardInterrupt:
        return EXIT_STOPPED
    return 0


def _run(options: argparse.Namespace, workers: int, crew: Crew) -> None:
    """Make the output stacks of a job, or of one part of it."""
    job, (part, parts) = Job.read(options.input), options.part or (1, 1)
    stacks = job.share(part, parts)
    count = sum(stack.size for stack in stacks)
    of_parts = f" (part {part} of {parts})" if parts > 1 else ""
    print(f"downsample-particles {__version__}: {counted(count, 'image')}{of_parts}, {job.plan.summary()}", flush=True)
    with progress(count, job.note_path(part, parts)) as advance:
        run_job(job, stacks, workers, advance, options.skip_corrupt, crew)
    job.check_worked_on(stacks)
    bad = job.bad_particles(stacks)
    if bad and not options.skip_corrupt:
        raise refusal(bad, len(bad), job.tables)
    if bad:
        print(f"Left out: {counted(len(bad), 'corrupt particle')}, listed in {job.tables}", flush=True)
    print(f"Done: {counted(len(stacks), 'output stack')} in {job.folder}{of_parts}", flush=True)


def _is_job(options: argparse.Namespace) -> bool:
    return bool(options.input.endswith(".json"))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = new_parser()
    options = parser.parse_args(arguments)
    if not _is_job(options) and options.output is None:
        parser.error("-o DIR is required: the output folder")
    return options


def _folder(options: argparse.Namespace) -> str:
    """Where the output goes."""
    return (os.path.dirname(options.input) if _is_job(options) else options.output) or "."


def _workers(options: argparse.Namespace, launch: Launch) -> int:
    if launch.bound_by_habit:
        leave_the_binding()
    return options.jobs or usable_cores(launch)


def _request(options: argparse.Namespace) -> Request:
    wishes = {
        "crop_size": options.crop,
        "fourier_crop_size": options.box,
        "target_pixel_size": options.pixel_size,
        "lowpass_resolution": options.lowpass,
        "highpass_resolution": options.highpass,
        "recenter": options.recenter,
        "normalize": options.normalize is not None,
        "background_radius": None if options.normalize == -1 else options.normalize,
        "float16": options.float16,
    }
    return Request(
        options.input,
        options.output,
        options.apix,
        wishes,
        options.micrograph_apix,
        options.particles_per_stack,
        options.force,
        options.skip_corrupt,
        not options.no_picture,
    )
