# SPDX-License-Identifier: GPL-3.0-or-later
"""The command ``downsample-particles``: arguments, exit codes, progress. Scipion runs its jobs through it."""

from __future__ import annotations

import argparse
import io
import os
import signal
import sys
from collections.abc import Sequence

# Workers are processes, one to a core; a threaded BLAS inside each would only get in their way, and sum in
# another order. Libraries read this when they are imported.
for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_variable] = "1"

# pyfftw imports SciPy for interfaces that nothing here uses, which takes longer than all the rest of the start
_NO_SCIPY = {} if "scipy" in sys.modules else {"scipy": None}
sys.modules.update(_NO_SCIPY)  # type: ignore[arg-type]

from . import __version__  # noqa: E402
from .convert import Request, convert  # noqa: E402
from .core.plan import Recenter  # noqa: E402
from .errors import DataError, PlanError  # noqa: E402
from .job import Job, refusal  # noqa: E402
from .program import run_job  # noqa: E402
from .progress import progress  # noqa: E402

for _name in _NO_SCIPY:
    del sys.modules[_name]

EXIT_DATA, EXIT_USAGE, EXIT_STOPPED = 1, 2, 130

# How Open MPI and the MPICH family tell a process its rank and their number
MPI_VARIABLES = (("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"), ("PMI_RANK", "PMI_SIZE"))

DESCRIPTION = """\
Downsample cryo-EM particles: crop or pad the box, recentre, Fourier crop to coarser
pixels, filter, normalise, save in 32 or 16 bits. Exact for every box, even or odd."""

EXAMPLES = """\
examples:
  downsample-particles particles.mrcs --apix 1.31 -o small --pixel-size 3
  downsample-particles run_data.star -o small --box 128 --recenter --float16 --jobs 8

A STAR file comes out as DIR/particles.star, of RELION 3.1+ (optics groups) or 3.0 as it
came, with the images, sizes, pixel sizes, origins and coordinates of the new particles
and all else untouched. The same command again goes on with a run that was stopped.
Under mpirun the first process does a stack or STAR file, with the workers of all.
Exit codes: 0 done, 1 bad data, 2 a request that cannot be carried out, 130 stopped."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0 done, 1 bad data, 2 a request that cannot be carried out."""
    parser = _parser()
    options = parser.parse_args(arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # Å and file names must not fail on a terminal that lacks them
            stream.reconfigure(errors="backslashreplace")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C does
    try:
        process, processes = _mpi_part()
        workers = options.jobs or (1 if processes > 1 else len(os.sched_getaffinity(0)))
        if options.input.endswith(".json"):
            _run(Job.read(options.input), options.part or (process, processes), workers, options.skip_corrupt)
        else:
            if options.output is None:
                parser.error("-o DIR is needed: the folder for what comes out")
            if options.part is not None:
                raise PlanError(["--part: it shares out a JOB.json only; for a stack or STAR file give --jobs."])
            if process == 1:
                if processes > 1:
                    _leave_the_one_core()
                convert(_request(options), workers * processes, options.force, options.skip_corrupt, sys.stdout)
    except KeyboardInterrupt:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        print("Stopped; the same command goes on from here.", file=sys.stderr, flush=True)
        return EXIT_STOPPED
    except OSError as error:
        print(
            f"ERROR: {error.filename or options.output}: {error.strerror or error}, expected files and folders that "
            "can be read and written; check them, or give another folder",
            file=sys.stderr,
        )
        return EXIT_DATA
    except (DataError, PlanError) as error:
        print(f"ERROR: {error}", file=sys.stderr, flush=True)
        return EXIT_USAGE if isinstance(error, PlanError) else EXIT_DATA
    return 0


def _run(job: Job, part: tuple[int, int], workers: int, skip_corrupt: bool) -> None:
    """Make the output stacks of one part of a job."""
    stacks = job.share(*part)
    count = sum(stack.size for stack in stacks)
    of_parts = f" (part {part[0]} of {part[1]})" if part[1] > 1 else ""
    print(f"downsample-particles {__version__}: {count} images{of_parts}, {job.plan.summary()}", flush=True)
    with progress(count) as advance:
        run_job(job, stacks, workers, advance, skip_corrupt)
    job.check_worked_on(stacks)
    bad = job.bad_particles(stacks)
    if bad and not skip_corrupt:
        raise refusal(bad, len(bad), job.tables)
    if bad:
        print(f"Left out: {len(bad)} corrupt particles, listed in {job.tables}", flush=True)
    print(f"Done: {len(stacks)} output stacks in {job.folder}{of_parts}", flush=True)


def _mpi_part() -> tuple[int, int]:
    """The part of a job that is this process's under mpirun, which starts the same command many times; else all."""
    for rank, size in MPI_VARIABLES:
        if rank in os.environ and size in os.environ:
            return int(os.environ[rank]) + 1, int(os.environ[size])
    return 1, 1


def _leave_the_one_core() -> None:
    """Let workers run on any core of the computer: mpirun binds each process to one."""
    os.sched_setaffinity(0, range(os.cpu_count() or 1))


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
    return Request(options.input, options.output, options.apix, wishes)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="downsample-particles",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("input", metavar="IN.star|IN.mrcs|JOB.json", help="a RELION STAR file, a stack, or a job that Scipion wrote")
    add("-o", "--output", metavar="DIR", help="folder for what comes out; must be given for a STAR file or stack")
    add("--apix", type=float, metavar="A", help="pixel size (Å/px) of a stack (default: what its header says)")
    add("--crop", type=int, metavar="C", help="crop or pad to a box of C px first")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--box", type=int, metavar="n", help="Fourier crop to a box of n px")
    size.add_argument(
        "--pixel-size", type=float, metavar="p", help="Fourier crop to about p Å/px: the nearest even box"
    )
    add("--lowpass", type=float, metavar="Å", help="take away detail finer than this; gain 1/2 there")
    add("--highpass", type=float, metavar="Å", help="take away what varies more slowly than this; gain 1/2 there")
    recenter = parser.add_mutually_exclusive_group()
    recenter.add_argument(
        "--recenter",
        action="store_const",
        const=Recenter.WHOLE_PIXELS,
        default=Recenter.NONE,
        help="move by the origins, rounded to whole pixels: no interpolation; the rest stays in the origins",
    )
    recenter.add_argument(
        "--recenter-exact",
        action="store_const",
        const=Recenter.EXACT,
        dest="recenter",
        help="move by the whole of the origins, fractions of a pixel as a phase",
    )
    add(
        "--normalize",
        type=float,
        metavar="R",
        help="give the background, beyond R px of the output, mean 0 and deviation 1 (-1: half the output box)",
    )
    add("--float16", action="store_true", help="save in 16-bit floating point (MRC mode 12)")
    add(
        "--jobs",
        type=_positive,
        metavar="J",
        help="worker processes (default: all cores that this process may use, or 1 to each process under mpirun)",
    )
    add(
        "--skip-corrupt",
        action="store_true",
        help="leave out particles that cannot be used (a file cut short, pixels that are not numbers …) and list them "
        "in bad_particles.star, instead of stopping",
    )
    add("--force", action="store_true", help="start anew over a finished run")
    add(
        "--part",
        type=_part,
        metavar="K/N",
        help="of a job: make every N-th output stack only, from the K-th, so that N commands on any machines share it "
        "(default: all, or under mpirun the share of the process's rank)",
    )
    add("--version", action="version", version=f"%(prog)s {__version__}")
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
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"got {text}, expected 1 or more")
    return int(text)
