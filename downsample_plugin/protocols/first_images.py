# SPDX-License-Identifier: GPL-3.0-or-later
"""A look at the first images of an input: whether they are normalised."""

from __future__ import annotations

import contextlib

import numpy as np

from ..core.normalize import background_deviation
from ..errors import DataError
from ..files.image_readers import ImageReader

_LOOKED_AT = 5  # images
_NEAR_ONE = 0.1  # how far their deviations may be from 1: RELION complains of more


def areNormalised(particles):
    """Whether the background of the first few of InputParticles has about the deviation 1 (their median)."""
    deviations = []
    with ImageReader() as reader:
        for item in particles.firstFew(_LOOKED_AT):
            with contextlib.suppress(DataError):  # the run tells which images cannot be read
                stack = reader.open(item.getFileName())
                deviations.append(background_deviation(stack.read(stack.number_of(item.getIndex()))))
    return bool(deviations) and abs(np.median(deviations) - 1) <= _NEAR_ONE
