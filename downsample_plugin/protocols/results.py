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
from ..core import checks
from ..core.alignment import translations_of_output
from ..core.geometry import round_half_away
from ..core.plan import FilterShape, Recenter
from ..errors import DataError
from ..words import counted
from .alignments import MATRIX
from .first_images import areNormalised
from .particles import complete
from .set_columns import tableOf, textsMoved
from .set_writer import SetWriter
from .wanted import FILE, INDEX, PLACE, wantedParticles


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
    """The results of a job, for the particles of an input that it was written for.

    Counts the particles `taken` over.
    """

    def __init__(self, job):
        self._plan, self._folder = job.plan, job.folder
        self._paths = np.array(["", *(stack.path for stack in job.stacks)], dtype=object)
        self._results = job.results()
        images = job.wanted()[job.rows()["image"]]
        self._files, self._indices = np.array(job.file_names(), dtype=object)[images["file"]], images["index"]
        self.taken = 0

    def fill(self, output, particles, alignment):
        """Append the particles that have images to an output set.

        Raises DataError if the particles are not those that the job was written for.
        """
        self._fill(output, particles, alignment, wantedParticles(particles, alignment, self._plan), atOnce=False)

    def fillBatch(self, output, particles, alignment):
        """The same for a job that was written for some of the particles; they appear all at once."""
        ids = self._results["particle_id"]
        between = f"id>={ids.min()} AND id<={ids.max()}"
        wanted = (each.only(ids) for each in wantedParticles(particles, alignment, self._plan, between))
        self._fill(output, particles, alignment, wanted, atOnce=True)

    def _fill(self, output, particles, alignment, allWanted, atOnce):
        attributes = particles.attributesOfPrograms()
        begin = 0
        with SetWriter(output, lambda item: _prepare(item, attributes, alignment), atOnce) as writer:
            for wanted in allWanted:
                rows = slice(begin, begin + len(wanted.places))
                results, begin = self._results[rows], rows.stop
                self._check(wanted.forJob(), rows)
                good = results["index"] > 0
                results, places = results[good], wanted.places[good]
                writer.append(
                    wanted.images, wanted.block.ids[places], self._changes(wanted, places, results, alignment)
                )
                self.taken += len(places)
        if begin < len(self._results):
            raise self._changed()

    def _check(self, block, rows):
        """Raise DataError unless the particles of a ParticleBlock are those of the results, with the same images."""
        files = np.array(block.file_names, dtype=object)[block.files]
        found = (block.particle_ids, files, block.image_indices)
        expected = (self._results["particle_id"][rows], self._files[rows], self._indices[rows])
        if not all(map(np.array_equal, found, expected)):
            raise self._changed()

    def _changed(self):
        return DataError(
            f"{self._folder}: its results do not match the particles in the input set, expected the same "
            "particles in the same order, with the same images: the set was changed during the run; restart the run"
        )

    def _changes(self, wanted, places, results, alignment):
        """What output particles have instead of what the input particles had: image, alignment, coordinate, record."""
        plan, applied = self._plan, np.stack([results["shift_x"], results["shift_y"]], axis=1)
        changes = {INDEX: results["index"], FILE: self._paths[results["stack"]]}
        texts = [wanted.aligned.texts[place] for place in places.tolist()]
        aligned = np.array([text is not None for text in texts], dtype=bool)
        if aligned.any():
            matrices = wanted.aligned.matrices[places[aligned]]
            moved = translations_of_output(matrices, applied[aligned], plan.scale, alignment.convention)
            new = iter(textsMoved([text for text in texts if text is not None], moved))
            changes[MATRIX] = [None if text is None else next(new) for text in texts]
        for label, d in zip(PLACE, applied.T):
            if label in tableOf(wanted.images):
                old = wanted.block.floats(label)[places]
                changes[label] = _whole((old - d) * plan.scale)
        for name, d in zip(SHIFT_RECORDS, applied.T):
            changes[name] = d * plan.apix_in
        return changes


def _prepare(item, attributes, alignment):
    """Give the first particle the attributes that all of the output have."""
    complete(item, attributes)
    if alignment.connected and not item.hasTransform():
        item.setTransform(Transform())
    for name in SHIFT_RECORDS:
        setattr(item, name, Float())


def _whole(values):
    """Values (n,) rounded to whole numbers, halves away from zero; None where there is none."""
    there = np.isfinite(values)
    rounded = iter(round_half_away(values[there]).tolist())
    return [next(rounded) if each else None for each in there.tolist()]


def newOutput(particles, alignment, plan, folder):
    """An empty output set for what a plan makes of particles, in a folder."""
    output = particles.newOutput(folder)
    output.setSamplingRate(plan.apix_out)
    if alignment.connected:
        output.setAlignment(alignment.kind)
    return output


class Tally(NamedTuple):
    """What became of the particles of a run, in numbers, the images that stand for them, and their bytes on disk."""

    taken: int
    images: int
    unaligned: int
    disabled: int
    corrupt: int
    bytesOnDisk: int


def describeRun(plan, tally, particles, alignment, output, badPath):
    """What was done, a line each; the corrupt particles are listed in `badPath`."""
    yield f"{counted(tally.taken, 'particle')}: {plan.summary()}"
    if tally.images < tally.taken:
        yield f"{counted(tally.images, 'output image')}: particles with the same image and shift share one"
    with contextlib.suppress(DataError):  # the first image may be one of those that cannot be read
        before = prettySize(tally.images * particles.bytesPerImage())
        yield f"Images on disk: {before} → {prettySize(tally.bytesOnDisk)}"
    if plan.recenter is not Recenter.NONE:
        yield f"Recentred ({plan.recenter.value}) by {alignment.describe()}"
    elif alignment.connected:
        yield f"Alignment from {alignment.describe()}"
    yield from alignment.caution(output)
    if tally.unaligned:
        yield f"Left out: {counted(tally.unaligned, 'particle')} that {alignment.name} does not contain"
    if tally.disabled:
        yield f"Left out: {counted(tally.disabled, 'particle')} disabled in the input set"
    if tally.corrupt:
        yield f"Left out: {counted(tally.corrupt, 'corrupt particle')}, listed in {badPath}"
    yield from checks.warnings(plan, normalised=areNormalised(particles))


def methodsSentence(plan, count):
    """What was done, as a sentence for a paper."""
    done = []
    if plan.recenter is not Recenter.NONE:
        how = "in whole pixels" if plan.recenter is Recenter.WHOLE_PIXELS else "with sub-pixel precision"
        done.append(f"recentred by their aligned shifts {how}")
    if plan.box_crop != plan.box_in:
        verb = "cropped" if plan.box_crop < plan.box_in else "padded with their mean"
        done.append(f"{verb} to a box of {plan.box_crop} px")
    if plan.box_out != plan.box_crop:
        done.append(f"Fourier cropped to {plan.box_out} px ({plan.apix_out:.4g} Å/px)")
    done += filterWords(plan)
    if plan.normalize:
        done.append(
            f"normalised to their background outside a radius of {plan.background_radius_px:g} px [Scheres2012]"
        )
    if plan.float16:
        done.append("stored in 16-bit floating point")
    actions = ", ".join(done[:-1]) + (" and " if done[:-1] else "") + done[-1]
    images = f"{counted(count, 'particle image')} ({plan.box_in} px, {plan.apix_in:.4g} Å/px)"
    return (
        f"{images} {'was' if count == 1 else 'were'} {actions} with "
        f"scipion-em-downsample {__version__} [Frigo2005] in Scipion [delaRosaTrevin2016]."
    )


def filterWords(plan):
    """What filters have done, a few words each."""
    done = []
    if plan.lowpass_resolution is not None:
        done.append(f"low-pass filtered at {plan.lowpass_resolution:g} Å")
    if plan.highpass_resolution is not None:
        done.append(f"high-pass filtered at {plan.highpass_resolution:g} Å")
    if plan.filtered and plan.filter_shape is FilterShape.BUTTERWORTH:
        done[-1] += f" (Butterworth, order {plan.filter_order})"
    elif plan.filtered:
        done[-1] += f" (raised cosine, {plan.filter_width:g} Fourier shells wide)"
    return done
