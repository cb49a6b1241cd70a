# SPDX-License-Identifier: GPL-3.0-or-later
"""Particle tables between Scipion and the program: STAR files, a particle a line.

A job's table says which image each particle is and what shift brings it to the origin; the result's table
has the same columns, with the new image and the shift that was applied. File names are percent-encoded, as
in a URL: STAR has no sound way to write a space, a quote or a line break. Rows are written and read here, not
by emtable, which would take as long as the images themselves; it writes the head, and reads the whole.
"""

from __future__ import annotations

import functools
import io
import os
from collections.abc import Iterable, Iterator
from typing import NamedTuple
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


_COLUMNS = ("particleId", "imageIndex", "imageFile", "shiftX", "shiftY")


def _head() -> str:
    text = io.StringIO()
    writer = Table.Writer(text)
    writer.writeTableName(TABLE_NAME)
    writer.writeHeader([Table.Column(name) for name in _COLUMNS])
    return text.getvalue()


HEAD = _head()


def write_particles(path: str, rows: Iterable[ParticleRow]) -> int:
    """Write a whole table, which appears under its name when it is whole, and return the number of its rows.

    Numbers keep all their digits.
    """
    part_path = path + ".part"
    count = 0
    with open(part_path, "w", encoding="ascii") as file:
        file.write(HEAD)
        for number, index, name, x, y in rows:
            count += 1
            file.write(f"{number} {index} {_encoded(name)} {float(x)!r} {float(y)!r}\n")
    os.replace(part_path, path)
    return count


def read_particles(path: str) -> Iterator[ParticleRow]:
    """Rows of a table, one at a time; DataError if it is missing or not such a table."""
    try:
        with open(path, encoding="ascii") as file:
            if file.read(len(HEAD)) != HEAD:
                raise ValueError(f"it does not begin with the columns {', '.join(_COLUMNS)}")
            for line in file:
                number, index, name, x, y = line.split()
                yield ParticleRow(int(number), int(index), _decoded(name), float(x), float(y))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: it cannot be read as a particle table ({error}); write the job again") from error


@functools.lru_cache  # particles share files
def _encoded(name: str) -> str:
    return quote(os.fsencode(name))


@functools.lru_cache
def _decoded(text: str) -> str:
    return os.fsdecode(unquote_to_bytes(text))
