# SPDX-License-Identifier: GPL-3.0-or-later
"""RELION's STAR file of the downsampled particles: that of the input with the values that are others now.

``docs/star_files.md`` says what becomes of each label, and why. Blocks of rows can be rewritten by any process that has
the file open.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..core.plan import DownsamplePlan
from . import relion_labels as labels
from .relion_groups import FoundGroup, ImageGroup, pixel_size_in
from .relion_star import RelionStar
from .relion_tables import Optics
from .star import BYTES_AT_ONCE, Block, Table, read_again
from .star_rows import Kept, Rows, around_number, value_of


class Outcome(NamedTuple):
    """What became of the particles of a block: an element or a row for each, which counts where it is kept."""

    kept: Kept
    #: names of output stacks
    stacks: Sequence[str]
    #: number of its stack in there, from 0
    stack: NDArray[np.int32]
    #: number of its image in the stack, from 1
    image: NDArray[np.int64]
    #: (n, 2) x and y by which its content was moved, in px of the input
    moved: NDArray[np.float64]


@dataclass(frozen=True)
class RowWriter:
    """Rewrites the rows of particles. Small: other processes get it."""

    path: str
    descriptor: int
    table: Table
    #: labels whose values tell groups apart, and by those, as they stand in the text, the numbers of the groups
    group_labels: tuple[str, ...]
    group_numbers: Mapping[tuple[str, ...], int]
    #: of each group: Å/px of the input, output px per input px, and Å/px of the micrograph, NaN if it is not known
    apix: NDArray[np.float64]
    scale: NDArray[np.float64]
    micrograph_apix: NDArray[np.float64]
    #: new values on the rows of each group, by labels that the table has, and by labels that it gets
    values: Sequence[Mapping[str, str]]
    added_values: Sequence[Mapping[str, str]]
    added_labels: tuple[str, ...]

    def new_rows(self, block: Block, outcome: Outcome) -> bytes:
        """The text of a block for the downsampled particles; DataError if that of the input has changed."""
        rows = read_again(self.path, self.descriptor, self.table, block)
        kept = outcome.kept
        groups = self._groups_of(rows, kept)
        moved = outcome.moved[kept] + 0.0  # never -0
        angstrom = moved * self.apix[groups, None]
        changes = {self.table.column(labels.IMAGE): _names(outcome)}
        changes.update(self._of_groups(rows, kept, groups))
        for label, (minus, times) in self._number_changes(groups, moved, angstrom).items():
            if label in self.table.labels and ((minus != 0) | (times != 1)).any():
                column = self.table.column(label)
                changes[column] = _changed(rows.raw(column, kept), minus, times)
        added = [[self.added_values[group][label] for group in groups.tolist()] for label in self._added_of_group()]
        if labels.RECORD[0] in self.added_labels:
            added += [rows.raw(self.table.column(labels.IMAGE), kept), *map(_formatted, angstrom.T)]
        return rows.replaced(changes, added, kept)

    def _groups_of(self, rows: Rows, kept: Kept) -> NDArray[np.int64]:
        if len(self.apix) == 1:
            return np.zeros(int(kept.sum()), dtype=np.int64)
        columns = [rows.raw(self.table.column(label), kept) for label in self.group_labels]
        return np.array([self.group_numbers[key] for key in zip(*columns)], dtype=np.int64)

    def _added_of_group(self) -> list[str]:
        return [label for label in self.added_labels if label not in labels.RECORD]

    def _of_groups(self, rows: Rows, kept: Kept, groups: NDArray[np.int64]) -> dict[int, list[str]]:
        """Columns with values that a group has in common."""
        found = {}
        for label in dict.fromkeys(label for values in self.values for label in values):
            column = self.table.column(label)
            new = [values.get(label) for values in self.values]
            texts = rows.raw(column, kept)
            found[column] = [new[group] or text for group, text in zip(groups.tolist(), texts)]
        return found

    def _number_changes(
        self, groups: NDArray[np.int64], moved: NDArray[np.float64], angstrom: NDArray[np.float64]
    ) -> dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]:
        """By label, what is taken from each number, and what it is multiplied by then."""
        one, none, scale = np.ones(len(groups)), np.zeros(len(groups)), self.scale[groups]
        # what does not move stays as it stands, and so does what cannot be known
        in_micrograph = np.nan_to_num(angstrom / self.micrograph_apix[groups, None])
        return {
            **{label: (angstrom[:, axis], one) for label, axis in labels.ORIGINS_ANGSTROM.items()},
            **{label: (moved[:, axis], scale) for label, axis in labels.ORIGINS_PIXELS.items()},
            **{label: (none, scale) for label in labels.LENGTHS_PIXELS},
            **{label: (in_micrograph[:, axis], one) for label, axis in labels.COORDINATES.items()},
            **{label: (-angstrom[:, axis], one) for axis, label in enumerate(labels.RECORD[1:])},
        }


class NewStar:
    """The STAR file for the downsampled particles of another, whose particles were read; `plans` are of its groups."""

    def __init__(self, star: RelionStar, plans: Mapping[ImageGroup, DownsamplePlan]):
        self._star = star
        self._plans = [plans[group] for group in star.groups]
        self.rows = self._row_writer()

    def pieces(self) -> Iterator[bytes | Block]:
        """The whole file in its order: text, and blocks of rows, whose text is what ``rows.new_rows`` makes of them."""
        table, blocks = self._star.table, self._star.blocks
        edits: list[tuple[int, int, Sequence[bytes | Block]]] = [
            (table.labels_end, 0, [table.more_labels(self.rows.added_labels)]),
            (table.start, sum(block.length for block in blocks), blocks),
        ]
        if self._star.optics is not None:
            edits += self._optics_edits(self._star.optics)
        at = 0
        for start, length, new in sorted(edits, key=lambda edit: edit[:2]):
            yield from self._text(at, start)
            yield from new
            at = start + length
        yield from self._text(at, None)

    def _text(self, start: int, end: int | None) -> Iterator[bytes]:
        """The input's text as it stands."""
        while length := BYTES_AT_ONCE if end is None else min(end - start, BYTES_AT_ONCE):
            piece = self._star.file.read(start, length)
            if not piece:
                return
            yield piece
            start += len(piece)

    # ---- values that groups have in common -------------------------------------------------------------------------

    def _row_writer(self) -> RowWriter:
        star, groups = self._star, list(self._star.found_groups.values())
        of_group = [] if star.optics is not None else self._missing_on_rows()
        record = () if labels.RECORD[0] in star.table.labels else labels.RECORD
        with_plans = list(zip(groups, self._plans))
        return RowWriter(
            star.path,
            star.file.descriptor,
            star.table,
            tuple(star.group_labels),
            {key: number for number, key in enumerate(star.found_groups)},
            np.array([group.apix for group in groups]),
            np.array([plan.scale for plan in self._plans]),
            np.array([group.micrograph_apix or np.nan for group in groups]),
            [self._new_values(group.on_rows, self._magnification(group), plan) for group, plan in with_plans],
            [self._added_values(of_group, self._magnification(group), plan) for group, plan in with_plans],
            (*of_group, *record),
        )

    def _missing_on_rows(self) -> list[str]:
        """Labels of pixel sizes that were given and that the rows of a file without optics table lack."""
        star = self._star
        missing = []
        if pixel_size_in(dict.fromkeys(star.table.labels, "1"), has_optics=False) is None:
            missing += [label for label in (labels.MAGNIFICATION, labels.DETECTOR) if label not in star.table.labels]
        if star.micrograph_apix is not None and labels.MICROGRAPH_PIXEL_SIZE not in star.table.labels:
            missing.append(labels.MICROGRAPH_PIXEL_SIZE)
        return missing

    def _magnification(self, group: FoundGroup) -> float | None:
        """The magnification that goes with a detector's pixel size; a nominal one where they are to be put in."""
        values = {**group.on_rows, **group.in_optics}
        if labels.MAGNIFICATION in values:
            return float(values[labels.MAGNIFICATION])
        needed = self._star.optics is None and self._missing_on_rows()[:1] == [labels.MAGNIFICATION]
        return labels.NOMINAL_MAGNIFICATION if needed else None

    def _new_values(
        self, values: Mapping[str, str], magnification: float | None, plan: DownsamplePlan
    ) -> dict[str, str]:
        """New values of a group, on its rows or in the optics table, by labels that are there."""
        new = labels.new_group_values(values, magnification, plan)
        if self._star.micrograph_apix is not None and float(values.get(labels.MICROGRAPH_PIXEL_SIZE, 1)) == 0:
            new[labels.MICROGRAPH_PIXEL_SIZE] = f"{self._star.micrograph_apix:.9g}"
        return new

    def _added_values(
        self, missing: Sequence[str], magnification: float | None, plan: DownsamplePlan
    ) -> dict[str, str]:
        new = {labels.IMAGE_PIXEL_SIZE: f"{plan.apix_out:.9g}"}
        if magnification is not None:
            new[labels.MAGNIFICATION] = f"{magnification:.6f}"
            new[labels.DETECTOR] = labels.detector_pixel_size(plan.apix_out, magnification)
        if self._star.micrograph_apix is not None:
            new[labels.MICROGRAPH_PIXEL_SIZE] = f"{self._star.micrograph_apix:.9g}"
        return {label: new[label] for label in missing}

    # ---- optics table ----------------------------------------------------------------------------------------------

    def _optics_edits(self, optics: Optics) -> list[tuple[int, int, Sequence[bytes | Block]]]:
        """Places in the file, lengths and new texts."""
        table, rows = optics.table, optics.rows
        missing = self._missing_in_optics(optics)
        new, added = self._optics_values(optics, missing)
        changes = {
            column: [values.get(label) or text for values, text in zip(new, rows.raw(column))]
            for column, label in enumerate(table.labels)
            if any(label in values for values in new)
        }
        if table.is_loop:
            text = rows.replaced(changes, [[values[label] for values in added] for label in missing])
            return [
                (table.labels_end, 0, [table.more_labels(missing)]),
                (table.start, len(rows.text), [text]),
            ]
        text = rows.replaced(changes)
        behind = len(rows.text) - (table.labels_end - table.start)  # bytes behind the last pair
        at = len(text) - behind
        lines = table.more_lines([f"_{label} {added[0][label]}" for label in missing])
        return [(table.start, len(rows.text), [text[:at], lines, text[at:]])]

    def _missing_in_optics(self, optics: Optics) -> list[str]:
        """Labels of pixel sizes that were given and that the optics table lacks."""
        present = optics.table.labels
        missing = []
        if pixel_size_in(dict.fromkeys(present, "1"), has_optics=True) is None:
            missing.append(labels.IMAGE_PIXEL_SIZE)
        on_rows = labels.MICROGRAPH_PIXEL_SIZE in self._star.table.labels
        if self._star.micrograph_apix is not None and labels.MICROGRAPH_PIXEL_SIZE not in present and not on_rows:
            missing.append(labels.MICROGRAPH_PIXEL_SIZE)
        return missing

    def _optics_values(
        self, optics: Optics, missing: Sequence[str]
    ) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
        """New values, and values for labels that are missing, of each optics group; one without particles stays."""
        idle = DownsamplePlan(1, self._star.apix or 0.0)  # changes nothing
        found: dict[str | None, tuple[float | None, DownsamplePlan]] = {}
        for group, plan in zip(self._star.found_groups.values(), self._plans):
            found.setdefault(group.optics_group, (self._magnification(group), plan))
        new, added = [], []
        for key, values in optics.groups.items():
            new.append(self._new_values(values, *found[key]) if key in found else {})
            added.append(self._added_values(missing, *found.get(key, (None, idle))))
        return new, added


def _names(outcome: Outcome) -> list[str]:
    """Names of the new images that are kept, as they stand in the text."""
    around = [around_number(stack) for stack in outcome.stacks]
    kept = outcome.kept
    stacks, images = outcome.stack[kept].tolist(), outcome.image[kept].tolist()
    return [f"{around[stack][0]}{image:06d}{around[stack][1]}" for stack, image in zip(stacks, images)]


def _changed(texts: Sequence[str], minus: NDArray[np.float64], times: NDArray[np.float64]) -> list[str]:
    """Numbers that are others now; those that are not stay as they stand."""
    numbers = np.array([value_of(text) if text[0] in "\"'" else text for text in texts], dtype=np.float64)
    new = _formatted((numbers - minus) * times)
    touched = (minus != 0) | (times != 1)
    return new if touched.all() else [n if t else text for n, t, text in zip(new, touched.tolist(), texts)]


def _formatted(numbers: NDArray[np.float64]) -> list[str]:
    return [f"{number:.6f}" for number in (numbers + 0.0).tolist()]
