# SPDX-License-Identifier: GPL-3.0-or-later
"""What tells whether something is still what it was: sums of pixels, sizes and times of files."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from . import __version__
from .core.plan import DownsamplePlan
from .tables import ParticleRow


def word_sums(images: NDArray[np.generic]) -> NDArray[np.uint64]:
    """For each image of a contiguous stack, the sum of its words, modulo 2^64: a checksum that costs little."""
    words = images.reshape(len(images), -1)
    unsigned = np.uint64 if words[0].nbytes % 8 == 0 else np.dtype(f"u{words.itemsize}")
    sums: NDArray[np.uint64] = words.view(unsigned).sum(axis=1, dtype=np.uint64)
    return sums


def checksum(sums: NDArray[np.uint64]) -> str:
    """Of a stack, from the sums of its images in their order."""
    return hashlib.sha256(sums.astype("<u8").tobytes()).hexdigest()


def size_and_time(path: str) -> tuple[int, int] | None:
    """Size (bytes) and time (ns) of a file; None if it is not there, which the run says of its particles."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_size, status.st_mtime_ns


class Fingerprint:
    """Of all that the output depends on: plan, particles, size and time of their files, our version."""

    def __init__(self, plan: DownsamplePlan, particles_per_stack: int):
        self._hash = hashlib.sha256(repr((__version__, plan, particles_per_stack)).encode())
        self._files: set[str] = set()

    def watch(self, rows: Iterable[ParticleRow]) -> Iterator[ParticleRow]:
        """The same rows; their image files are looked at."""
        for row in rows:
            if row.image_file not in self._files:
                self._files.add(row.image_file)
                file = (row.image_file, size_and_time(row.image_file))
                self._hash.update(repr(file).encode("utf-8", "surrogateescape"))
            yield row

    def add(self, path: str) -> None:
        """Add a table of particles."""
        with open(path, "rb") as file:
            self._hash.update(file.read())

    def hexdigest(self) -> str:
        """The fingerprint of all that was added."""
        return self._hash.hexdigest()
