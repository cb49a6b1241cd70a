# SPDX-License-Identifier: GPL-3.0-or-later
"""A look at the first images of an input: whether they are normalised."""

from __future__ import annotations

import contextlib

import numpy as np

from ..core.normalize import background_deviation
from ..errors import DataError
from ..files.image_readers import ImageReader
from .set_columns import tableOf
from .wanted import FILE, INDEX

_LOOKED_AT = 5  # images
_NEAR_ONE = 0.1  # how far their deviations may be from 1: RELION complains of more


def areNormalised(particles):
    """Whether the background of the first few of InputParticles has about the deviation 1 (their median)."""
    deviations = []
    with ImageReader() as reader:
        for name, index in _firstImages(particles):
            with contextlib.suppress(DataError):  # the run tells which images cannot be read
                stack = reader.open(name)
                deviations.append(background_deviation(stack.read(stack.number_of(index))))
    return bool(deviations) and abs(np.median(deviations) - 1) <= _NEAR_ONE


def _firstImages(particles):
    """File and number of the first images, by columns: Scipion cannot make particles of values that are no numbers."""
    for images in particles.sets():
        block = next(tableOf(images).blocks((FILE, INDEX), "enabled=1", _LOOKED_AT), None)
        if block is not None:
            return list(zip(block.texts(FILE), block.integers(INDEX, 0).tolist()))
    return []
