# SPDX-License-Identifier: GPL-3.0-or-later
"""The arguments of ``downsample-particles``, as they are given and as its help shows them."""

from __future__ import annotations

import argparse

from .. import __version__
from ..core.plan import Recenter
from ..engine.job_checks import DEFAULT_PARTICLES_PER_STACK
from .command_line import EXIT_CODES

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


def new_parser() -> argparse.ArgumentParser:
    """The parser of the arguments."""
    found = argparse.ArgumentParser(
        prog="downsample-particles",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    found.add_argument(
        "input", metavar="IN.star|IN.mrcs|JOB.json", help="a RELION STAR file, a stack, or a job that Scipion wrote"
    )
    found.add_argument("-o", "--output", metavar="DIR", help="output folder; required for a STAR file or stack")
    found.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    for add_group in (_pixel_sizes, _box, _recentring, _filters, _storage, _running):
        add_group(found)
    return found


def _pixel_sizes(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("pixel sizes of the input")
    add = group.add_argument
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


def _box(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("box and pixel size of the output")
    add = group.add_argument
    add("--crop", type=int, metavar="C", help="crop or pad to a box of C px first")
    size = group.add_mutually_exclusive_group()
    size.add_argument(
        "--box",
        type=int,
        metavar="n",
        help="Fourier crop to a box of n px; choose an even one for RELION 3.1, which reconstructs wrong maps from "
        "odd boxes",
    )
    size.add_argument(
        "--pixel-size", type=float, metavar="p", help="Fourier crop to about p Å/px: the nearest even box"
    )


def _recentring(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("recentring")
    recenter = group.add_mutually_exclusive_group()
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


def _filters(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("filters and normalisation")
    add = group.add_argument
    add("--lowpass", type=float, metavar="Å", help="remove detail finer than this; the gain is 1/2 at this resolution")
    add(
        "--highpass",
        type=float,
        metavar="Å",
        help="remove variation slower than this; the gain is 1/2 at this resolution",
    )
    add(
        "--normalize",
        type=float,
        metavar="R",
        help="normalise the background, outside a radius of R output pixels, to mean 0 and standard deviation 1 (-1: "
        "half the output box)",
    )


def _storage(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("storage")
    add = group.add_argument
    add("--float16", action="store_true", help="save in 16-bit floating point (MRC mode 12)")
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
        help="do not draw DIR/result.png, a picture of particles before and after",
    )


def _running(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("how it runs")
    add = group.add_argument
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
    add("--force", action="store_true", help="start over, replacing a finished run")
    add(
        "--part",
        type=_part,
        metavar="K/N",
        help="for a JOB.json: make only every N-th output stack, starting with the K-th, so that N commands on any "
        "machines share the job (default: all)",
    )


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
