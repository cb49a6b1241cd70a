# SPDX-License-Identifier: GPL-3.0-or-later
"""The command ``restore-particles``: arguments and words."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from .. import __version__
from ..files.relion_star import RelionStar
from ..words import counted
from .command_line import EXIT_CODES, exit_code_of
from .restoring import check_output, restore

DESCRIPTION = """\
Go back to full-size particles with the alignment that was found on downsampled ones: for
each particle in REFINED.star, write its row of ORIGINAL.star, the file that was
downsampled, with the angles, origins, class and other results of the refinement."""

EXAMPLES = f"""\
example:
  downsample-particles run_data.star -o small --pixel-size 3 --recenter
  (refine small/particles.star in RELION, as Refine3D/job012)
  restore-particles Refine3D/job012/run_data.star --original run_data.star -o full.star

Subsets, joined and symmetry-expanded files work. After several runs of
downsample-particles in a row, ORIGINAL.star is the input of the first one. Optics, CTF
and images are those of ORIGINAL.star; no image is read.
{EXIT_CODES}"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    options = _parser().parse_args(arguments)
    return exit_code_of(lambda: _run(options), "Stopped; nothing was written.")


def _run(options: argparse.Namespace) -> None:
    check_output(options.output, [options.refined, options.original], options.force)
    with RelionStar(options.refined) as refined, RelionStar(options.original, options.apix) as original:
        done = restore(refined, original, options.output, options.skip_missing, options.force)
    if done.missing:
        print(f"Left out: {counted(done.missing, 'particle')} without an original in {options.original}")
    print(f"Done: {counted(done.particles, 'full-size particle')} in {options.output}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="restore-particles",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("refined", metavar="REFINED.star", help="downsampled particles with the alignment that was found on them")
    add("--original", required=True, metavar="ORIGINAL.star", help="the STAR file that was downsampled")
    add("-o", "--output", required=True, metavar="FULL.star", help="STAR file to write")
    add(
        "--apix",
        type=float,
        metavar="A",
        help="pixel size (Å/px) of the images of ORIGINAL.star, if it does not give one",
    )
    add("--skip-missing", action="store_true", help="leave out particles that have no original, and count them")
    add("--force", action="store_true", help="overwrite FULL.star")
    add("--version", action="version", version=f"%(prog)s {__version__}")
    return parser
