# SPDX-License-Identifier: GPL-3.0-or-later
"""Groups of particles in RELION's STAR files: what tells them apart, their pixel sizes and boxes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ..core.checks import LARGEST_NUMBER
from ..errors import DataError, InputError, PlanError
from . import relion_labels as labels
from .image_readers import open_stack
from .relion_tables import Optics
from .star import Table

SAME_PIXEL_SIZE = 1e-4  # relative; STAR files have six decimals


@dataclass(frozen=True)
class ImageGroup:
    """Particles of one box and pixel size: an optics group, or a magnification and detector pixel size."""

    key: str
    box: int
    apix: float
    #: Å/px of the micrographs that the coordinates are counted on; None where it is not known
    micrograph_apix: float | None


@dataclass(frozen=True)
class FoundGroup:
    """A group as a STAR file has it: texts by label, on the rows of its particles and in the optics table."""

    on_rows: Mapping[str, str]
    in_optics: Mapping[str, str]
    apix: float
    micrograph_apix: float | None

    @property
    def key(self) -> str:
        """What tells it apart, for people."""
        return " ".join(self.on_rows.values())

    @property
    def optics_group(self) -> str | None:
        """Its optics group, if it has one."""
        return self.in_optics.get(labels.OPTICS_GROUP, "1") if self.in_optics else None


class Groups:
    """Makes the groups of a file; `apix` and `micrograph_apix` (Å/px) are given for a file that lacks them."""

    def __init__(
        self, path: str, particles: Table, optics: Optics | None, apix: float | None, micrograph_apix: float | None
    ):
        self._path, self._optics = path, optics
        self._apix, self._micrograph_apix = apix, micrograph_apix
        self._boxes: dict[str, _Box] = {}
        present = particles.labels if optics is None else optics.table.labels
        if apix is None and pixel_size_in(dict.fromkeys(present, "1"), optics is not None) is None:
            missing = labels.IMAGE_PIXEL_SIZE
            if optics is None:
                missing = labels.DETECTOR if labels.MAGNIFICATION in present else labels.MAGNIFICATION
            raise DataError(
                f"{path}: {missing} is missing, expected a number for all particles; write the file again, or give "
                "the pixel size"
            )

    def find(self, on_rows: Mapping[str, str]) -> FoundGroup:
        """The group of particles that have these texts on their rows; ValueError, with a sentence, if they make none.

        DataError if the optics table is wrong, PlanError if the request is.
        """
        in_optics = {} if self._optics is None else self._optics_of(self._optics, on_rows)
        _check_numbers(on_rows)
        try:
            _check_numbers(in_optics)
            apix = self._pixel_size(on_rows if self._optics is None else in_optics)
            micrograph_apix = self._micrograph_pixel_size({**on_rows, **in_optics}, apix)
        except ValueError as error:
            if self._optics is None:
                raise
            raise DataError(f"{self._path}, optics table: {error}") from None
        return FoundGroup(on_rows, in_optics, apix, micrograph_apix)

    def _optics_of(self, optics: Optics, on_rows: Mapping[str, str]) -> dict[str, str]:
        key = on_rows.get(labels.OPTICS_GROUP, "1")
        if key not in optics.groups:
            known = ", ".join(optics.groups)
            raise ValueError(
                f"a particle belongs to optics group {key}, expected one of {known} (the optics table); write the "
                "file again"
            )
        return optics.groups[key]

    def _pixel_size(self, values: Mapping[str, str]) -> float:
        said = pixel_size_in(values, self._optics is not None)
        apix = self._apix if said is None else said
        if apix is None or not 0 < apix < LARGEST_NUMBER:
            raise ValueError(f"the pixel size is {apix:g} Å/px, expected a number above 0; write the file again")
        self._compare("images", self._apix, apix)
        return apix

    def _micrograph_pixel_size(self, values: Mapping[str, str], apix: float) -> float | None:
        said = float(values.get(labels.MICROGRAPH_PIXEL_SIZE, 0.0))
        if said < 0:
            raise ValueError(
                f"{labels.MICROGRAPH_PIXEL_SIZE} is {said:g} Å/px, expected more than 0; write the file again"
            )
        if said:
            self._compare("micrographs", self._micrograph_apix, said)
            return said
        original = float(values.get(labels.ORIGINAL_PIXEL_SIZE, 0.0))
        unbinned = original if math.isclose(original, apix, rel_tol=SAME_PIXEL_SIZE) else None
        return self._micrograph_apix or unbinned

    def _compare(self, what: str, given: float | None, said: float) -> None:
        if given is not None and not math.isclose(given, said, rel_tol=SAME_PIXEL_SIZE):
            expected = f"expected {said:g} Å/px, the value in {self._path}; leave the option out."
            raise PlanError([f"Pixel size of the {what}: got {given:g} Å/px, {expected}"])

    # ---- boxes ---------------------------------------------------------------------------------------------------

    def _box_of(self, group: FoundGroup) -> _Box:
        return self._boxes.setdefault(group.optics_group or group.key, _Box())

    def needs_box(self, group: FoundGroup) -> bool:
        """Whether no file of the group could be read so far: STAR files may not say the box, or an old one."""
        return not self._box_of(group).box

    def look_into(self, group: FoundGroup, files: Iterable[str]) -> None:
        """Take the box of the group from the first of its files that can be read."""
        self._box_of(group).look_into(files)

    def with_box(self, group: FoundGroup) -> ImageGroup:
        """The group with its box; DataError if no file could be read, or if the STAR file says another box."""
        found = self._box_of(group)
        if not found.box:
            raise DataError(f"{self._path}: {found.problem}")
        for values in (group.on_rows, group.in_optics):
            for label in labels.BOXES:
                if label in values and float(values[label]) != found.box:
                    raise DataError(
                        f"{self._path}: {label} of particles of group {group.key}: got {values[label]} px, expected "
                        f"{found.box} px (the box of {found.file}); write the file again"
                    )
        return ImageGroup(group.key, found.box, group.apix, group.micrograph_apix)


class _Box:
    """A box (px) and the file that has it; 0 until one is found, and what was wrong with the first file."""

    def __init__(self) -> None:
        self.box, self.file, self.problem = 0, "", ""
        self._tried: set[str] = set()

    def look_into(self, files: Iterable[str]) -> None:
        for file in files:
            if not self.box and file not in self._tried:
                self._tried.add(file)
                try:
                    with open_stack(file) as stack:
                        stack.check_images(is_said=True)
                        self.box, self.file = stack.square_box(), file
                except InputError as error:
                    raise InputError(f"{file}: {error}") from error
                except DataError as error:
                    self.problem = self.problem or f"{file}: {error}"


def pixel_size_in(values: Mapping[str, str], has_optics: bool) -> float | None:
    """The pixel size (Å/px) of an optics group, or else of a row; None if it has none, 0 if that makes no sense."""
    if not has_optics and labels.MAGNIFICATION in values and labels.DETECTOR in values:
        magnification = float(values[labels.MAGNIFICATION])
        # µm on the detector to Å on the specimen
        return 1e4 * float(values[labels.DETECTOR]) / magnification if magnification else 0.0
    return next((float(values[label]) for label in labels.PIXEL_SIZES_READ if label in values), None)


def _check_numbers(values: Mapping[str, str]) -> None:
    for label, text in values.items():
        if label in labels.OF_GROUP and label != labels.OPTICS_GROUP:
            number = number_of(text)
            if number is None:
                raise ValueError(no_number(label, text))
            if label == labels.DIMENSIONALITY and number != 2:
                raise ValueError(f"{label} is {text}, expected 2; give a file of images, not of volumes")


def number_of(text: str) -> float | None:
    """The finite number that a text is; None if it is none. Python's underscores and digits are none of RELION's."""
    try:
        number = float(text) if text.isascii() and "_" not in text else math.nan
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def no_number(label: str, text: str) -> str:
    """That a value is no number."""
    return f"{label} is {text or 'missing'}, expected a number for every particle; write the file again"


def first_without_number(texts: Sequence[str]) -> int:
    """Number of the first text, from 0, that is no finite number."""
    return next(place for place, text in enumerate(texts) if number_of(text) is None)
