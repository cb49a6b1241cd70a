# SPDX-License-Identifier: GPL-3.0-or-later
"""Particle tables between Scipion and the program: STAR files, a particle a line, through emtable.

A job's table says which image each particle is and what shift brings it to the origin; the result's table
has the same columns, with the new image and the shift that was applied. File names are percent-encoded, as
in a URL: STAR has no sound way to write a space, a quote or a line break.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import NamedTuple, TextIO
from urllib.parse import quote, unquote_to_bytes

from emtable import Table

from .errors import DataError

TABLE_NAME = "particles"


class ParticleRow(NamedTuple):
    """One particle of a table."""

    particle_id: int
    #: number in the file, from 1; 0 for a file that holds this one image
    image_index: int
    image_file: str
    #: (x, y) in pixels of the input: wanted in a job, applied in a result
    shift_x: float
    shift_y: float


_COLUMNS = {
    "particleId": int,
    "imageIndex": int,
    "imageFile": lambda text: os.fsdecode(unquote_to_bytes(text)),
    "shiftX": float,
    "shiftY": float,
}


class ParticleTableWriter:
    """Writes a table row by row; a context manager. The table appears under its name when it is whole."""

    def __init__(self, path: str):
        self._path = path
        self._part_path = path + ".part"

    def __enter__(self) -> ParticleTableWriter:
        self._file: TextIO = open(self._part_path, "w", encoding="ascii")
        self._writer = Table.Writer(self._file)
        self._writer.writeTableName(TABLE_NAME)
        self._writer.writeHeader([Table.Column(name) for name in _COLUMNS])
        return self

    def write(self, row: ParticleRow) -> None:
        """Append a row; numbers keep all their digits."""
        self._writer.writeRowValues(
            [
                str(row.particle_id),
                str(row.image_index),
                quote(os.fsencode(row.image_file)),
                repr(float(row.shift_x)),
                repr(float(row.shift_y)),
            ]
        )

    def __exit__(self, exception_type: object, *rest: object) -> None:
        if exception_type is None:
            self._writer.writeNewline()
        self._file.close()
        if exception_type is None:
            os.replace(self._part_path, self._path)


def write_particles(path: str, rows: Iterable[ParticleRow]) -> int:
    """Write a whole table and return the number of its rows."""
    count = 0
    with ParticleTableWriter(path) as table:
        for row in rows:
            table.write(row)
            count += 1
    return count


def read_particles(path: str) -> Iterator[ParticleRow]:
    """Rows of a table, one at a time; DataError if it is missing or not such a table."""
    try:
        for row in Table.iterRows(path, tableName=TABLE_NAME, types=_COLUMNS):
            yield ParticleRow(*row)
    except Exception as error:  # emtable raises bare Exception
        raise DataError(f"{path}: it cannot be read as a particle table ({error}); write the job again") from error
