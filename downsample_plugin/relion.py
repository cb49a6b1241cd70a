# SPDX-License-Identifier: GPL-3.0-or-later
"""Particles in RELION's STAR files: what is in them, and the same file for the downsampled particles.

Both flavours: 3.1 and later, with optics groups and origins in Å, and 3.0, with a magnification and a detector
pixel size on every line and origins in pixels.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Callable, NamedTuple

from .core.checks import LARGEST_NUMBER
from .core.plan import DownsamplePlan
from .errors import DataError
from .readers import open_stack
from .star import StarLine, star_lines
from .tables import ParticleRow

SAME_PIXEL_SIZE = 1e-4  # relative; STAR files have six decimals


@dataclass(frozen=True)
class ImageGroup:
    """Particles of one box and pixel size: an optics group, or a magnification and detector pixel size."""

    key: str
    box: int
    apix: float
    #: Å/px of the micrographs that the coordinates are counted on; None where the file does not say
    micrograph_apix: float | None


class RelionParticle(NamedTuple):
    """A particle of a STAR file."""

    line: StarLine
    group: ImageGroup
    image_index: int
    image_file: str
    #: (x, y) in pixels: brings the particle to the origin
    shift: tuple[float, float]


class RelionStar:
    """A STAR file of particles, read line by line. DataError where it is none, or lacks what is needed."""

    def __init__(self, path: str):
        self.path = path
        self._optics: dict[str, dict[str, str]] = {}  # values by group
        self._groups: dict[str, ImageGroup] = {}
        self._files: dict[str, str] = {}  # where the files of image names are
        has_particles = False
        for line in star_lines(self.path):
            if line.block == "optics" and line.values:
                row = line.values
                key = row.get("rlnOpticsGroup", "") if line.is_row else "1"
                self._optics.setdefault(key, {}).update(row)
            elif line.is_row and "rlnImageName" in line.values:
                has_particles = True
                break
        if not has_particles:
            raise DataError(f"{self.path}: no rlnImageName in it, expected a RELION STAR file of particles; give one")

    @property
    def has_optics(self) -> bool:
        """Whether it is of RELION 3.1 or later."""
        return bool(self._optics)

    def particles(self) -> Iterator[RelionParticle]:
        """All particles, in the order of the file."""
        for line in star_lines(self.path):
            if line.is_row and "rlnImageName" in line.values:
                yield self._particle(line)

    def groups(self) -> list[ImageGroup]:
        """The groups that particles belong to, in the order of their first particles."""
        return list(dict.fromkeys(particle.group for particle in self.particles()))

    def image_files(self) -> list[str]:
        """The files of all images that were met so far."""
        return list(self._files.values())

    def has_origins(self) -> bool:
        """Whether the particles carry shifts."""
        return self._origin_label("X") in next(self.particles()).line.values

    def _particle(self, line: StarLine) -> RelionParticle:
        index, file = self._image(line.values["rlnImageName"])
        group = self._group(line.values, file)
        x, y = (self._number(line.values, self._origin_label(axis), 0.0) for axis in "XY")
        if self.has_optics:
            x, y = x / group.apix, y / group.apix
        return RelionParticle(line, group, index, file, (x, y))

    def _origin_label(self, axis: str) -> str:
        return f"rlnOrigin{axis}Angst" if self.has_optics else f"rlnOrigin{axis}"

    def _image(self, name: str) -> tuple[int, str]:
        """Index and file of an image name, looked for from the current folder, then from the STAR file's."""
        index, at, file = name.rpartition("@")
        if not file or "\0" in file or (at and not re.fullmatch(r"[0-9]{1,12}", index)):
            raise DataError(
                f"{self.path}: rlnImageName is {name[:200]}, expected a number before the @, of up to 12 digits, and a "
                "file after it; write it again"
            )
        if file not in self._files:
            beside = os.path.join(os.path.dirname(self.path), file)
            self._files[file] = beside if os.path.exists(beside) and not os.path.exists(file) else file
        return int(index) if at else 0, self._files[file]

    def _group(self, values: dict[str, str], file: str) -> ImageGroup:
        key = self._key(values)
        if key not in self._groups:
            self._groups[key] = self._new_group(key, {**values, **self._optics.get(key, {})}, file)
        return self._groups[key]

    def _key(self, values: dict[str, str]) -> str:
        """What tells the groups apart: the optics group, or before those, what makes the pixel size."""
        if not self.has_optics:
            return f"{values.get('rlnMagnification')} {values.get('rlnDetectorPixelSize')}"
        key = values.get("rlnOpticsGroup", "1")
        if key not in self._optics:
            raise DataError(
                f"{self.path}: a particle is of optics group {key}, expected one of {', '.join(self._optics)} (the "
                "optics table); write the file again"
            )
        return key

    def _new_group(self, key: str, values: dict[str, str], file: str) -> ImageGroup:
        if self.has_optics:
            apix = self._number(values, "rlnImagePixelSize")
        else:
            # µm on the detector to Å on the specimen
            magnification = self._number(values, "rlnMagnification")
            apix = 1e4 * self._number(values, "rlnDetectorPixelSize") / magnification if magnification else 0.0
        micrograph = self._number(values, "rlnMicrographPixelSize", 0.0)
        if not micrograph:
            original = self._number(values, "rlnMicrographOriginalPixelSize", 0.0)
            micrograph = original if math.isclose(original, apix, rel_tol=SAME_PIXEL_SIZE) else 0.0
        if not 0 < apix < LARGEST_NUMBER:
            raise DataError(
                f"{self.path}: a pixel size of {apix:g} Å/px, expected a number above 0; write the file again"
            )
        return ImageGroup(key, self._box(key, file), apix, micrograph or None)

    def _box(self, key: str, file: str) -> int:
        """Box of a group, as a file of its particles says, or the next that can be read: rlnImageSize may be stale."""
        try:
            with open_stack(file) as stack:
                return stack.box[0]
        except DataError as error:
            tried = {file}
            for line in star_lines(self.path):
                if line.is_row and "rlnImageName" in line.values and self._key(line.values) == key:
                    _, other = self._image(line.values["rlnImageName"])
                    if other not in tried:
                        tried.add(other)
                        with contextlib.suppress(DataError), open_stack(other) as stack:
                            return stack.box[0]
            raise DataError(f"{self.path}: {file}: {error}") from error

    def _number(self, values: dict[str, str], label: str, default: float | None = None) -> float:
        text = values.get(label, "")
        try:
            number = float(text) if text or default is None else default
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise DataError(
                f"{self.path}: {label} is {text or 'not there'}, expected a number for every particle; write it again"
            )
        return number

    # ---- the same file for the downsampled particles -----------------------------------------------------

    def rewritten(
        self, plan_of: Callable[[ImageGroup], DownsamplePlan], results: Callable[[ImageGroup], Iterator[ParticleRow]]
    ) -> Iterator[str]:
        """All lines, with image names, sizes, pixel sizes, origins and coordinates of the new images.

        `results` gives, for a group, an iterator over what became of the particles of its plan, in order and with
        their numbers in the file, from 1; the lines of those that it lacks are left out.
        """
        groups = {group.key: group for group in self.groups()}
        waiting: dict[DownsamplePlan, ParticleRow | None] = {}  # the next result of each plan
        number = 0
        for line in star_lines(self.path):
            if line.is_row and "rlnImageName" in line.values:
                number += 1
                particle = self._particle(line)
                plan = plan_of(particle.group)
                if plan not in waiting:
                    waiting[plan] = next(results(particle.group), None)
                result = waiting[plan]
                if result is not None and result.particle_id == number:
                    del waiting[plan]
                    yield line.with_values(self._of_particle(particle, plan, result))
            elif line.block == "optics" and line.values:
                key = line.values.get("rlnOpticsGroup", "") if line.is_row else "1"
                yield line.with_values(_of_optics(plan_of(groups[key]))) if key in groups else line.text
            else:
                yield line.text

    def _of_particle(self, particle: RelionParticle, plan: DownsamplePlan, result: ParticleRow) -> dict[str, str]:
        values, group = particle.line.values, particle.group
        changes = {"rlnImageName": f"{result.image_index:06d}@{result.image_file}"}
        for axis, shift, d in zip("XY", particle.shift, (result.shift_x, result.shift_y)):
            label, coordinate = self._origin_label(axis), f"rlnCoordinate{axis}"
            if label in values and (d or (not self.has_optics and plan.scale != 1)):
                unit = group.apix if self.has_optics else plan.scale
                changes[label] = f"{(shift - d) * unit:.6f}"
            if d and coordinate in values and group.micrograph_apix:
                moved = self._number(values, coordinate) - d * group.apix / group.micrograph_apix
                changes[coordinate] = f"{moved:.6f}"
        if not self.has_optics:
            detector = self._number(values, "rlnDetectorPixelSize") / plan.scale
            changes["rlnDetectorPixelSize"] = f"{detector:.9g}"
        return changes


def _of_optics(plan: DownsamplePlan) -> dict[str, str]:
    return {"rlnImageSize": str(plan.box_out), "rlnImagePixelSize": f"{plan.apix_out:.9g}"}
