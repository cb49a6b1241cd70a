# SPDX-License-Identifier: GPL-3.0-or-later
"""What tells whether something is still what it was: sums of pixels, sizes and times of files."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from . import __version__
from .core.plan import DownsamplePlan
from .tables import BadParticle, Particles


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


def fingerprint(
    plan: DownsamplePlan, images_per_stack: int, particles: Particles, bad: Sequence[BadParticle] = ()
) -> str:
    """Of all that the output depends on: plan, particles, sizes and times of their files, our version."""
    found = hashlib.sha256(repr((__version__, plan, images_per_stack, list(bad))).encode("utf-8", "surrogateescape"))
    for name in particles.file_names:
        found.update(repr((name, size_and_time(name))).encode("utf-8", "surrogateescape"))
    for array in (particles.rows, particles.images):
        found.update(np.ascontiguousarray(array).view(np.uint8).data)
    return found.hexdigest()
