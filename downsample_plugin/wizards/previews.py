# SPDX-License-Identifier: GPL-3.0-or-later
"""What the wizards show: particles and maps of a form's input as they would come out."""

from __future__ import annotations

import dataclasses

from ..core import checks, volume_checks
from ..core.downsampler import downsample_images
from ..core.geometry import origin
from ..core.plan import Recenter
from ..core.resampling import downsample_volume
from ..core.volume_plan import VolumePlan
from ..errors import DataError, PlanError
from ..files.image_readers import ImageReader
from ..files.maps import MapFile
from ..pictures.particles import draw_image
from ..protocols.wanted import wantedParticles

OFFERED = 1000  # particles to choose from, of the first ones
LARGEST_MAP_SHOWN = 96  # voxels; a filter takes less than 0.1 s


def particlesOf(protocol):
    """The input particles; DataError if the wizard cannot work with them."""
    particles = protocol.particles()
    if not particles.exists:
        raise DataError("Input particles: none are given, but this wizard shows their values; choose them first.")
    problems = particles.imageProblems("Input particles")
    if not problems and not particles.apix:
        problems = ["Input particles: the set has no sampling rate, expected its pixel size; set it first."]
    if problems:
        raise DataError("\n".join(problems))
    return particles


class Preview:
    """The first particles of a form as they would come out, with some values of it taken out.

    Attributes
    ----------
    plan : the form's, without those values
    count : number of particles
    """

    choice = "Particle"

    def __init__(self, protocol, **cleared):
        """`cleared` are fields of the plan and what is in their place. DataError if there is nothing to show."""
        particles = particlesOf(protocol)
        self.plan = dataclasses.replace(protocol.plan(), normalize=False, float16=False, **cleared)
        checks.check(self.plan)
        alignment = protocol.alignment()
        problems = alignment.problems(self.plan.recenter is not Recenter.NONE)
        if problems:
            raise DataError("\n".join(problems))
        offered = next(wantedParticles(particles, alignment, self.plan, rows=OFFERED), None)
        if offered is None or not len(offered.places):
            raise DataError(
                f"Input particles: none of the first {OFFERED} has a usable alignment; check the input "
                "and its alignments."
            )
        self._particles = offered.forJob()
        self.count = len(offered.places)
        self.image(0)

    def image(self, number, **changed):
        """What comes out of a particle, by its number from 0, with other values in some fields of the plan."""
        chosen = self._particles
        with ImageReader() as reader:
            stack = reader.open(chosen.file_names[int(chosen.files[number])])
            image = stack.read(stack.number_of(int(chosen.image_indices[number])))
        plan = dataclasses.replace(self.plan, **changed)
        return downsample_images(image[None], plan, chosen.shifts[number : number + 1])[0][0]

    def name(self, number):
        """What that is, for people."""
        return f"particle {number + 1}"

    def draw(self, axis, number, **changed):
        """Draw that image."""
        draw_image(axis, self.image(number, **changed), self.plan.apix_out)


class MapPreview:
    """Three sections of the first volume of a form, as ``Preview`` shows particles; of coarser voxels if it is large.

    Masks are clipped before the filter as well as after it, so a mask may differ from the output by a few hundredths.

    Attributes
    ----------
    plan : the form's, without those values
    count : number of sections
    """

    choice, count = "Section", 3

    def __init__(self, protocol, **cleared):
        """`cleared` are fields of the plan and what is in their place. DataError if there is nothing to show."""
        protocol.checkInput()
        self.plan = dataclasses.replace(protocol.plan(), **cleared)
        self._check(self.plan)
        box = min(self.plan.box_out, LARGEST_MAP_SHOWN)
        self._apix = self.plan.apix_out * self.plan.box_out / box
        asked = {"is_mask": self.plan.is_mask, "like_box": box, "like_apix": self._apix}
        volume = protocol.firstVolume()
        try:
            with MapFile(volume.getFileName(), volume.getIndex()) as sections:
                self._volume = downsample_volume(sections, VolumePlan(self.plan.box_in, self.plan.apix_in, **asked))
        except DataError as error:
            raise DataError(f"Input volumes, {volume.getFileName()}: {error}") from error

    def image(self, number, **changed):
        """A section through the origin, by its number from 0, with other values in some fields of the plan."""
        plan = dataclasses.replace(self.plan, **changed)
        self._check(plan)
        shown = {"box_in": len(self._volume), "apix_in": self._apix, "like_box": None, "like_apix": None}
        boxes = {"crop_size": None, "fourier_crop_size": None, "target_pixel_size": None}
        volume = downsample_volume(self._volume, dataclasses.replace(plan, **shown, **boxes))
        return volume.take(origin(len(volume)), axis=number)

    @staticmethod
    def _check(plan):
        found = volume_checks.impossibilities(plan)  # a plan that does nothing is to have a filter soon
        if found:
            raise PlanError(found)

    def name(self, number):
        """What that is, for people."""
        coarse = f" (shown at {self._apix:.4g} Å/px)" if len(self._volume) < self.plan.box_out else ""
        return f"section across {'zyx'[number]}{coarse}"

    def draw(self, axis, number, **changed):
        """Draw that section, with y or z upwards."""
        draw_image(axis, self.image(number, **changed)[::-1], self._apix)
