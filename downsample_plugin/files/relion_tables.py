# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the tables of particles and of optics groups stand in a STAR file, and whether they can be downsampled."""

from __future__ import annotations

from typing import NamedTuple

from ..errors import DataError
from . import relion_labels as labels
from .star import StarFile, Table, check_labels, find_block, next_table, read_blocks, read_pairs, rows_end
from .star_rows import Rows

OPTICS = "optics"  # the name of its block


class Optics(NamedTuple):
    """The optics table: where it stands and has ended, its values in the text, and by optics group and label."""

    table: Table
    rows: Rows
    end: int
    groups: dict[str, dict[str, str]]


def find_tables(file: StarFile) -> tuple[Table, Optics | None]:
    """The table of particles, and that of the optics groups, which may stand behind it; DataError if there are none."""
    optics: Optics | None = None
    offset, block = 0, ""
    while table := next_table(file, offset, block, [OPTICS]):
        if table.is_loop and labels.IMAGE in table.labels:
            if optics is None:
                optics = _optics_behind(file, table.start)
            check_labels(file, table)
            _check(file, table)
            return table, optics
        _check(file, table)
        offset, block = rows_end(file, table), table.block
        if block == OPTICS and optics is None:
            optics = _read_optics(file, table)
    raise DataError(f"{file.path}: it has no rlnImageName, expected a RELION STAR file of particles; give one")


def check_rest(file: StarFile, particles: Table, end: int) -> None:
    """Raise DataError if something stands behind the particles, which have ended, that must not."""
    offset, block = end, particles.block
    while table := next_table(file, offset, block, [OPTICS, particles.block]):
        if table.is_loop and labels.IMAGE in table.labels:
            problem = "rlnImageName appears in a second table, expected one table of particles; split the file"
            raise file.error_at(table.labels_start, problem)
        _check(file, table)
        offset, block = rows_end(file, table), table.block


def _optics_behind(file: StarFile, offset: int) -> Optics | None:
    at = find_block(file, OPTICS, offset)
    table = None if at is None else next_table(file, at, "", [OPTICS])
    return None if table is None or table.block != OPTICS else _read_optics(file, table)


def _read_optics(file: StarFile, table: Table) -> Optics | None:
    """The values of the optics table; None if it has no rows."""
    check_labels(file, table)
    _check(file, table)
    end = rows_end(file, table)
    if table.is_loop:
        blocks = [rows for _, rows in read_blocks(file, table)]
        if not blocks:
            return None
        if len(blocks) > 1:
            raise file.long_line(table.start)
        rows = blocks[0]
    else:
        rows = read_pairs(file, table)
    groups: dict[str, dict[str, str]] = {}
    for values in zip(*map(rows.values, range(len(table.labels)))):
        row = dict(zip(table.labels, values))
        key = row.get(labels.OPTICS_GROUP, "1")
        if key in groups:
            problem = f"optics group {key} appears twice in the optics table, expected once; write the file again"
            raise DataError(f"{file.path}: {problem}")
        groups[key] = row
    return Optics(table, rows, end, groups)


def _check(file: StarFile, table: Table) -> None:
    problem = labels.refusal(table)
    if problem:
        raise DataError(f"{file.path}: {problem}")
