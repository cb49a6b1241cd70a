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
from ..core.plan import Recenter  # noqa: E402
from ..engine.cores import leave_the_binding, usable_cores  # noqa: E402
from ..engine.crew import leading  # noqa: E402
from ..engine.crew_helper import help_out  # noqa: E402
from ..engine.job import Job, refusal  # noqa: E402
from ..engine.job_checks import DEFAULT_PARTICLES_PER_STACK  # noqa: E402
from ..engine.progress import progress  # noqa: E402
from ..engine.ranks import Launch, launched  # noqa: E402
from ..engine.runner import Crew, run_job  # noqa: E402
from ..errors import PlanError  # noqa: E402
from ..words import counted  # noqa: E402
from .command_line import EXIT_CODES, EXIT_STOPPED, exit_code_of  # noqa: E402
from .downsampling import Request, convert  # noqa: E402

for _name in _NO_SCIPY:
    del sys.modules[_name]
gc.freeze()
gc.enable()

DESCRIPTION = """\
Downsample cryo-EM particles: crop or pad the box, recentre, Fourier crop to coarser
pixels, filter, normalise, save in 32 or 16 bits. Exact for every box, even or odd."""

EXAMPLES = f"""\
examples:
  downsample-particles particles.mrcs --apix 1.31 -o small --pixel-size 3
  downsample-particles run_data.star -o small --box 128 --recenter --float16 --jobs 8

The new particles are listed in DIR/particles.star. From a STAR file, it has the format of
the input, RELION 3.1+ (optics groups) or 3.0; only the images, sizes, pixel sizes, origins
and coordinates are new. From a stack, it is a minimal STAR file. After refining these
particles, use restore-particles to go back to full size. To continue a run that was
stopped, run the same command again.
Under mpirun or srun, all processes share the work; only the first one prints messages.
{EXIT_CODES}"""


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
    parser = _parser()
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="downsample-particles",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("input", metavar="IN.star|IN.mrcs|JOB.json", help="a RELION STAR file, a stack, or a job that Scipion wrote")
    add("-o", "--output", metavar="DIR", help="output folder; required for a STAR file or stack")
    add(
        "--apix",
        type=float,
        metavar="A",
        help="pixel size (Å/px) of a stack (default: what its header says), or of a STAR file that has none",
    )
    add(
        "--micrograph-apix",
        type=float,
        metavar="A",
        help="pixel size (Å/px) of the micrographs that rlnCoordinateX and Y refer to, for a STAR file without "
        "rlnMicrographPixelSize: recentring then moves the coordinates too, and the output records this pixel "
        "size",
    )
    add("--crop", type=int, metavar="C", help="crop or pad to a box of C px first")
    size = parser.add_mutually_exclusive_group()
    size.add_argument(
        "--box",
        type=int,
        metavar="n",
        help=(
            "Fourier crop to a box of n px; choose an even one for RELION 3.1, which reconstructs wrong maps from "
            "odd boxes"
        ),
    )
    size.add_argument(
        "--pixel-size", type=float, metavar="p", help="Fourier crop to about p Å/px: the nearest even box"
    )
    add("--lowpass", type=float, metavar="Å", help="remove detail finer than this; the gain is 1/2 at this resolution")
    add(
        "--highpass",
        type=float,
        metavar="Å",
        help=("remove variation slower than this; the gain is 1/2 at this resolution"),
    )
    recenter = parser.add_mutually_exclusive_group()
    recenter.add_argument(
        "--recenter",
        action="store_const",
        const=Recenter.WHOLE_PIXELS,
        default=Recenter.NONE,
        help="recentre by the origins rounded to whole pixels, without interpolation; the rest stays in the origins",
    )
    recenter.add_argument(
        "--recenter-exact",
        action="store_const",
        const=Recenter.EXACT,
        dest="recenter",
        help="recentre by the exact origins, fractions of a pixel by a phase shift",
    )
    add(
        "--normalize",
        type=float,
        metavar="R",
        help="normalise the background, outside a radius of R output pixels, to mean 0 and standard deviation 1 (-1: "
        "half the output box)",
    )
    add("--float16", action="store_true", help="save in 16-bit floating point (MRC mode 12)")
    add(
        "--jobs",
        type=_positive,
        metavar="J",
        help="worker processes (default: the cores that this process may use, the smallest of its CPU binding, its "
        "control group's CPU quota and SLURM's --cpus-per-task; under mpirun or srun, its share of them)",
    )
    add(
        "--skip-corrupt",
        action="store_true",
        help="leave out corrupt particles (a file cut short, pixels that are not numbers …) and list them in "
        "bad_particles.star, instead of failing",
    )
    add(
        "--particles-per-stack",
        type=_positive,
        default=DEFAULT_PARTICLES_PER_STACK,
        metavar="K",
        help="write stacks of up to this many particles (default: %(default)s)",
    )
    add(
        "--no-picture",
        action="store_true",
        help=("do not draw DIR/result.png, a picture of particles before and after"),
    )
    add("--force", action="store_true", help="start over, replacing a finished run")
    add(
        "--part",
        type=_part,
        metavar="K/N",
        help="for a JOB.json: make only every N-th output stack, starting with the K-th, so that N commands on any "
        "machines share the job (default: all)",
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
