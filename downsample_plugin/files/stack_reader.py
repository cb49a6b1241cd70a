# SPDX-License-Identifier: GPL-3.0-or-later
"""What all readers of image stacks have in common."""

from __future__ import annotations

import abc
import enum
import os
import stat

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError, input_problem
from .fingerprints import FileState

LARGEST_SIDE = 1 << 20  # px; a header that says more is no header


class Holds(enum.Enum):
    """What a file holds, as far as its header and name tell."""

    IMAGES = "images"
    #: it may still be a stack of images: programs write such headers too
    MAP = "a 3D map"
    MAPS = "a stack of 3D maps"


class StackReader(abc.ABC):
    """Reads single images of a stack, by their number from 0; a context manager.

    Attributes
    ----------
    box : (columns, rows) in px
    count : number of images
    dtype : theirs, as ``read`` gives them
    apix : the pixel size (Å/px) that the header gives; it may be 0 or wrong
    holds : images or maps
    state : what the file was when it was opened
    """

    box: tuple[int, int]
    count: int
    dtype: np.dtype[np.generic]
    apix: float
    holds = Holds.IMAGES
    state: FileState

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns, as arrays have them."""
        return self.box[1], self.box[0]

    def __enter__(self) -> StackReader:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @abc.abstractmethod
    def close(self) -> None:
        """Close the file."""

    def square_box(self) -> int:
        """The box in px; DataError if its sides differ."""
        if self.box[0] != self.box[1]:
            raise DataError(
                f"the images are {self.box[0]} x {self.box[1]} px, expected square ones; extract the particles again "
                "in a square box"
            )
        return self.box[0]

    def check_images(self, is_said: bool = False) -> None:
        """Raise DataError if the file holds maps, not images; where it is said that these are images, one may be."""
        if self.holds is Holds.IMAGES or (is_said and self.holds is Holds.MAP):
            return
        raise DataError(
            f"the file is {self.holds.value} ({self.box[0]} x {self.box[1]} x {self.count}, as its header says), "
            "expected a stack of particle images; give one (if it is one, rename it to .mrcs)"
        )

    def number_of(self, index: int) -> int:
        """Number (from 0) of the image that a particle set gives as `index`: from 1, or 0 for the one of its file."""
        if index == 0 and self.count > 1:
            raise DataError(
                f"no image number is given, and the file has {self.count} images, expected one; give the number of "
                "the image (in Scipion: import the file as a stack, .mrcs)"
            )
        if not 0 <= index <= self.count:
            raise DataError(
                f"image {index} was requested, expected 1 to {self.count} (the images that the file has); check the "
                "image numbers"
            )
        return max(index, 1) - 1

    @abc.abstractmethod
    def read(self, number: int, buffer: memoryview | None = None) -> NDArray[np.generic]:
        """Image `number` (from 0), of this shape and dtype, in a buffer of bytes that holds it, or in new memory."""


def open_to_read(path: str) -> int:
    """File descriptor of a file to read; DataError, which does not name it, if it is none that can be read."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe would have us wait for ever
    except (OSError, ValueError) as error:
        expected = "a stack of images; check that it exists and is readable"
        raise input_problem(error, "the file cannot be opened", expected) from error
    try:
        mode = os.fstat(file).st_mode
    except OSError as error:
        os.close(file)
        raise input_problem(error, "the file cannot be read", "a stack of images") from error
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # of a folder, reading says so
        os.close(file)
        raise DataError("the file is a pipe or a device, expected a file on a disk; copy the stack into one")
    return file
