# SPDX-License-Identifier: GPL-3.0-or-later
"""Particle tables between Scipion and the program: STAR files, a particle a line.

A job's table says which image each particle is and what shift brings it to the origin; the result's table
has the same columns, with the new image and the shift that was applied. Another sort lists the particles that
cannot be used. Texts are percent-encoded, as in a URL: STAR has no sound way to write a space, a quote or a
line break. Rows are written and read here, not by emtable, which would take as long as the images themselves;
it writes the heads, and reads the whole.
"""

from __future__ import annotations

import functools
import io
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Callable, NamedTuple
from urllib.parse import quote, unquote_to_bytes

from emtable import Table

from .errors import DataError
from .whole_files import whole_file


class ParticleRow(NamedTuple):
    """One particle of a table."""

    particle_id: int
    #: number in the file, from 1; 0 for a file that holds this one image
    image_index: int
    image_file: str
    #: (x, y) in pixels of the input: wanted in a job, applied in a result
    shift_x: float
    shift_y: float


class BadParticle(NamedTuple):
    """A particle that cannot be used, and why, for people."""

    particle_id: int
    image_index: int
    image_file: str
    problem: str

    def __str__(self) -> str:
        return f"Particle {self.particle_id}, image {self.image_index} of {self.image_file}: {self.problem}"


def _head(name: str, columns: Sequence[str]) -> str:
    text = io.StringIO()
    writer = Table.Writer(text)
    writer.writeTableName(name)
    writer.writeHeader([Table.Column(column) for column in columns])
    return text.getvalue()


PARTICLES_HEAD = _head("particles", ("particleId", "imageIndex", "imageFile", "shiftX", "shiftY"))
BAD_HEAD = _head("bad_particles", ("particleId", "imageIndex", "imageFile", "problem"))


def write_particles(path: str, rows: Iterable[ParticleRow]) -> int:
    """Write a whole table, which appears under its name when it is whole, and return the number of its rows.

    Numbers keep all their digits.
    """
    return _write(
        path,
        PARTICLES_HEAD,
        (f"{number} {index} {_encoded(name)} {float(x)!r} {float(y)!r}\n" for number, index, name, x, y in rows),
    )


def read_particles(path: str) -> Iterator[ParticleRow]:
    """Rows of a table, one at a time; DataError if it is missing or not such a table."""
    for number, index, name, x, y in _read(path, PARTICLES_HEAD, (_integer, _integer, _decoded, float, float)):
        yield ParticleRow(number, index, name, x, y)


def write_bad_particles(path: str, rows: Iterable[BadParticle]) -> int:
    """The same for particles that cannot be used."""
    lines = (f"{number} {index} {_encoded(name)} {_encoded(problem)}\n" for number, index, name, problem in rows)
    return _write(path, BAD_HEAD, lines)


def read_bad_particles(path: str) -> Iterator[BadParticle]:
    """The same for particles that cannot be used."""
    for number, index, name, problem in _read(path, BAD_HEAD, (_integer, _integer, _decoded, _decoded)):
        yield BadParticle(number, index, name, problem)


def _write(path: str, head: str, lines: Iterable[str]) -> int:
    count = 0
    with whole_file(path, encoding="ascii") as file:
        file.write(head)
        for line in lines:
            file.write(line)
            count += 1
    return count


def _read(path: str, head: str, types: Sequence[Callable[[str], Any]]) -> Iterator[list[Any]]:
    try:
        with open(path, encoding="ascii") as file:
            if file.read(len(head)) != head:
                raise ValueError("its columns are others")
            for line in file:
                values = line.split()
                if len(values) != len(types):
                    raise ValueError(f"a row has {len(values)} values, expected {len(types)}")
                yield [kind(value) for kind, value in zip(types, values)]
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: it cannot be read as a particle table ({error}); write the job again") from error


def _integer(text: str) -> int:
    number = int(text)
    if abs(number) >= 2**63:
        raise ValueError(f"{text[:30]} is too large a number")
    return number


@functools.lru_cache  # particles share files
def _encoded(text: str) -> str:
    return quote(os.fsencode(text))


@functools.lru_cache
def _decoded(text: str) -> str:
    return os.fsdecode(unquote_to_bytes(text))
