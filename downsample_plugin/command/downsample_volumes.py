# SPDX-License-Identifier: GPL-3.0-or-later
"""The command ``downsample-volumes``: maps and masks, without Scipion."""

from __future__ import annotations

import argparse
import dataclasses
import os
from collections.abc import Sequence
from typing import NamedTuple

from .. import __version__
from ..core import volume_checks
from ..core.names import COMMAND
from ..core.volume_plan import VolumePlan
from ..errors import DataError, PlanError
from ..files.fingerprints import FileState
from ..files.image_readers import open_stack
from ..files.maps import MapFile, downsample_map
from ..files.relion_star import RelionStar
from ..files.whole_files import remove_abandoned
from .command_line import EXIT_CODES, check_header_pixel_size, exit_code_of

DESCRIPTION = """\
Bring maps and masks to the box and pixel size of downsampled particles, about the same
origin (crop or pad the box, Fourier crop to coarser voxels, low-pass filter), or masks
back to full size. Exact for every box, even or odd."""

EXAMPLES = f"""\
examples:
  downsample-volumes map.mrc half1.mrc half2.mrc -o small --like small/particles.star
  downsample-volumes mask.mrc -o small --mask --like small/particles.star
  downsample-volumes small/mask.mrc -o full --mask --like map.mrc
  downsample-volumes map.mrc --apix 1.31 -o small --box 128

Each map is written to DIR under its own name. Grey values keep their scale: projections
(sums along an axis times the voxel size) match those of the input, downsampled.
{EXIT_CODES}"""


class Like(NamedTuple):
    """What the output is to fit: box (px) and pixel size (Å/px)."""

    box: int
    apix: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    options = _parser().parse_args(arguments)
    stopped = "Stopped; maps in the folder are complete. The same command with --force makes all of them again."
    return exit_code_of(lambda: _run(options), stopped)


def _run(options: argparse.Namespace) -> None:
    """Make all maps, after a look at all of them."""
    outputs = _outputs(options)
    like = None if options.like is None else _like(options.like)
    plans = {path: _plan(path, options, like) for path in options.maps}
    os.makedirs(options.output, exist_ok=True)
    remove_abandoned(options.output, [os.path.basename(path) for path in outputs.values()])
    for path, (plan, state) in plans.items():
        print(f"{path}: {plan.summary()}", flush=True)
        for warning in volume_checks.warnings(plan, COMMAND):
            print(f"Warning: {warning}", flush=True)
        try:
            with MapFile(path) as source:
                source.check_unchanged(state)
                downsample_map(source, plan, outputs[path], options.force)
        except DataError as error:
            raise DataError(f"{path}: {error}") from error
        print(f"Done: {outputs[path]}", flush=True)


def _outputs(options: argparse.Namespace) -> dict[str, str]:
    """{map: its output}; PlanError if one would go over a file that is to stay."""
    if os.path.lexists(options.output) and not os.path.isdir(options.output):
        raise PlanError([f"-o: {options.output} is a file, expected an output folder; give another name."])
    inputs = {os.path.realpath(path) for path in (*options.maps, options.like) if path is not None}
    outputs: dict[str, str] = {}
    for path in options.maps:
        output = os.path.join(options.output, os.path.splitext(os.path.basename(path))[0] + ".mrc")
        if output in outputs.values():
            raise PlanError([f"{path}: {output} would be the output of two maps, expected one; run them one by one."])
        if os.path.realpath(output) in inputs:
            raise PlanError([f"{options.output}: it contains the input {output}, expected another folder; give one."])
        if os.path.lexists(output) and not options.force:
            raise PlanError([f"{output}: it exists already; add --force to overwrite it, or give another folder."])
        outputs[path] = output
    return outputs


def _plan(path: str, options: argparse.Namespace, like: Like | None) -> tuple[VolumePlan, FileState | None]:
    """What is to be done to a map, and what its file is.

    PlanError if that is refused, DataError if the map cannot be read.
    """
    try:
        with MapFile(path) as source:
            box, apix = source.box, source.apix if options.apix is None else options.apix
            state = source.state
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    if options.apix is None:
        check_header_pixel_size("--apix", path, apix, "give the pixel size")
    plan = VolumePlan(
        box,
        apix,
        crop_size=options.crop,
        target_pixel_size=options.pixel_size,
        fourier_crop_size=options.box,
        lowpass_resolution=options.lowpass,
        float16=options.float16,
        is_mask=options.mask,
    )
    if like is not None:
        plan = dataclasses.replace(plan, like_box=like.box, like_apix=like.apix)
    volume_checks.check(plan, COMMAND)
    return plan, state


def _like(path: str) -> Like:
    """Box and pixel size of the images of a STAR file, of a stack or of a map."""
    if path.endswith(".star"):
        return _like_star(path)
    try:
        with open_stack(path) as stack:
            box, apix = stack.square_box(), stack.apix
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    check_header_pixel_size("--like", path, apix, "give a STAR file or map that has it")
    return Like(box, apix)


def _like_star(path: str) -> Like:
    with RelionStar(path) as star:
        for _ in star.particles():
            pass
        found = sorted({Like(group.box, group.apix) for group in star.groups})
    if len(found) != 1:
        words = ", ".join(f"{like.box} px at {like.apix:.5g} Å/px" for like in found)
        raise PlanError([f"--like: {path} has particles of several sizes ({words}), expected one; give one of them."])
    return found[0]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="downsample-volumes",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("maps", metavar="MAP.mrc", nargs="+", help="maps or masks in MRC format: cubes")
    add("-o", "--output", metavar="DIR", required=True, help="output folder")
    add("--apix", type=float, metavar="A", help="pixel size (Å/px) of the maps (default: what their headers say)")
    add("--crop", type=int, metavar="C", help="crop or pad to a box of C px first")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--box", type=int, metavar="n", help="Fourier crop to a box of n px")
    size.add_argument(
        "--pixel-size", type=float, metavar="p", help="Fourier crop to about p Å/px: the nearest even box"
    )
    size.add_argument(
        "--like",
        metavar="STACK.mrcs|FILE.star|MAP.mrc",
        help="take the box and pixel size from this file, coarser or finer; also to bring a mask back to full size",
    )
    add("--lowpass", type=float, metavar="Å", help="remove detail finer than this; the gain is 1/2 at this resolution")
    add("--mask", action="store_true", help="the inputs are masks: pad with 0, and clip to 0 … 1")
    add("--float16", action="store_true", help="save in 16-bit floating point (MRC mode 12)")
    add("--force", action="store_true", help="overwrite maps with these names in DIR")
    add("--version", action="version", version=f"%(prog)s {__version__}")
    return parser
