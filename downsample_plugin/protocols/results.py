# SPDX-License-Identifier: GPL-3.0-or-later
"""From the program's results to the output set, and to the words on it."""

from __future__ import annotations

import contextlib
import enum
from typing import NamedTuple

import numpy as np
from pwem.objects import SetOfParticles, Transform
from pyworkflow.object import Float
from pyworkflow.utils import prettySize

from .. import __version__
from ..core.alignment import matrix_of_output
from ..core.geometry import round_half_away
from ..core.plan import FilterShape, Recenter
from ..errors import DataError
from .particles import complete


class Outputs(enum.Enum):
    """What each of the protocols makes."""

    outputParticles = SetOfParticles


OUTPUT_NAME = Outputs.outputParticles.name
SHIFT_RECORDS = ("_downsampleShiftX", "_downsampleShiftY")  # attributes of each output particle: d in Å


def shiftRecord(particle):
    """The shift (x, y) in Å that a run has recorded on a particle; None if there is no record."""
    if not particle.hasAttribute(SHIFT_RECORDS[0]):
        return None
    return tuple(particle.getAttributeValue(name) for name in SHIFT_RECORDS)


class Results:
    """The program's results, read along with the input set: both are in the order of the set.

    Counts the particles `taken` over, and those of the set that have no result: `disabled` or `missing`.
    """

    def __init__(self, job):
        self._plan, self._folder = job.plan, job.folder
        self._rows = job.results()
        self._next = next(self._rows, None)
        self.taken = self.disabled = self.missing = 0

    def fill(self, output, particles, alignment, where="1"):
        """Append the particles that have results to an output set, of those for which an SQL condition holds.

        Raises DataError if a result has no particle: the set is not the one that the program worked on.
        """
        attributes = particles.attributesOfPrograms()
        output.copyItems(
            particles.allItems(where),
            doClone=False,
            itemSelectedCallback=self._has,
            updateItemCallback=lambda particle, _: self._update(particle, alignment, attributes),
        )
        if self._next is not None:
            raise DataError(
                f"{self._folder}: it has a result for particle {self._next.particle_id}, which is not in the input "
                "set, expected the same particles in the same order: the set was changed meanwhile; restart the run"
            )

    def _has(self, particle):
        """Whether the next result is this particle's."""
        if self._next is not None and self._next.particle_id == particle.getObjId():
            self.taken += 1
            return True
        if particle.isEnabled():
            self.missing += 1
        else:
            self.disabled += 1
        return False

    def _update(self, particle, alignment, attributes):
        """Turn an input particle into its output: image, alignment, coordinate, and the record of its shift."""
        complete(particle, attributes)
        plan, result = self._plan, self._next
        self._next = next(self._rows, None)
        applied = (result.shift_x, result.shift_y)
        particle.setLocation(result.image_index, result.image_file)
        matrix = alignment.matrixOf(particle)
        if matrix is not None:
            particle.setTransform(Transform(matrix_of_output(matrix, applied, plan.scale, alignment.reading)))
        coordinate = particle.getCoordinate()
        if coordinate is not None and coordinate.getX() is not None:
            position = round_half_away((np.array(coordinate.getPosition()) - applied) * plan.scale)
            coordinate.setPosition(*position.tolist())
        for name, shift in zip(SHIFT_RECORDS, applied):
            setattr(particle, name, Float(shift * plan.apix_in))


def newOutput(particles, alignment, plan, folder):
    """An empty output set for what a plan makes of particles, in a folder."""
    output = particles.newOutput(folder)
    output.setSamplingRate(plan.apix_out)
    if alignment.connected:
        output.setAlignment(alignment.kind)
    return output


class Tally(NamedTuple):
    """What became of the particles of a run, in numbers, and the bytes on disk of those that came out."""

    taken: int
    unaligned: int
    disabled: int
    corrupt: int
    bytesOnDisk: int


def describeRun(plan, tally, particles, alignment, output, badPath):
    """What was done, a line each; the corrupt particles are listed in `badPath`."""
    yield f"{tally.taken} particles: {plan.summary()}"
    with contextlib.suppress(DataError):  # the first image may be one of those that cannot be read
        before = prettySize(tally.taken * particles.bytesPerImage())
        yield f"Images on disk: {before} → {prettySize(tally.bytesOnDisk)}"
    if plan.recenter is not Recenter.NONE:
        yield f"Recentred ({plan.recenter.value}) by {alignment.describe()}"
    elif alignment.connected:
        yield f"Alignment from {alignment.describe()}"
    yield from alignment.caution(output)
    if tally.unaligned:
        yield f"Left out: {tally.unaligned} particles that {alignment.name} does not have"
    if tally.disabled:
        yield f"Left out: {tally.disabled} particles that are disabled in the input set"
    if tally.corrupt:
        yield f"Left out: {tally.corrupt} corrupt particles, listed in {badPath}"


def methodsSentence(plan, count):
    """What was done, as a sentence for a paper."""
    done = []
    if plan.recenter is not Recenter.NONE:
        how = "by whole pixels" if plan.recenter is Recenter.WHOLE_PIXELS else "with sub-pixel precision"
        done.append(f"recentred by their aligned shifts {how}")
    if plan.box_crop != plan.box_in:
        verb = "cropped" if plan.box_crop < plan.box_in else "padded with their mean"
        done.append(f"{verb} to a box of {plan.box_crop} px")
    if plan.box_out != plan.box_crop:
        done.append(f"Fourier cropped to {plan.box_out} px ({plan.apix_out:.4g} Å/px)")
    if plan.lowpass_resolution is not None:
        done.append(f"low-pass filtered at {plan.lowpass_resolution:g} Å")
    if plan.highpass_resolution is not None:
        done.append(f"high-pass filtered at {plan.highpass_resolution:g} Å")
    if plan.filtered and plan.filter_shape is FilterShape.BUTTERWORTH:
        done[-1] += f" (Butterworth, order {plan.filter_order})"
    elif plan.filtered:
        done[-1] += f" (raised cosine, {plan.filter_width:g} Fourier shells wide)"
    if plan.normalize:
        done.append(f"normalised to their background beyond {plan.background_radius_px:g} px [Scheres2012]")
    if plan.float16:
        done.append("stored in 16-bit floating point")
    actions = ", ".join(done[:-1]) + (" and " if done[:-1] else "") + done[-1]
    return (
        f"{count} particle images ({plan.box_in} px, {plan.apix_in:.4g} Å/px) were {actions} with "
        f"scipion-em-downsample {__version__} [Frigo2005] in Scipion [delaRosaTrevin2016]."
    )
