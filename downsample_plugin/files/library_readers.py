# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads image stacks of other formats than MRC through libraries that come with scipion-em."""

from __future__ import annotations

import abc
import contextlib
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError, input_problem
from .fingerprints import state_of
from .stack_reader import LARGEST_SIDE, StackReader, open_to_read

XMIPP_SUFFIXES = (".stk", ".spi", ".img", ".hed", ".hdf")
TIFF_SUFFIXES = (".tif", ".tiff")
BYTES_AT_ONCE = 1 << 20


class _LibraryReader(StackReader):
    """Reads images by a library that comes with scipion-em, always as float32 and into new memory."""

    dtype = np.dtype(np.float32)
    apix = 0.0
    library: str

    def __init__(self, path: str):
        file = open_to_read(path)
        try:
            self.state = state_of(os.fstat(file))
        except OSError as error:
            raise input_problem(error, "the file cannot be read", "a stack of images") from error
        finally:
            os.close(file)
        self.path = path
        with self._refusing():
            self._open(path)
        if min(*self.box, self.count) < 1 or max(self.box) > LARGEST_SIDE:
            raise DataError(
                f"the file says {self.box[0]} x {self.box[1]} px and {self.count} images, expected a stack of images; "
                "convert the particles to an MRC stack first"
            )

    @abc.abstractmethod
    def _open(self, path: str) -> None:
        """Open the file and find box and count."""

    @abc.abstractmethod
    def _image(self, number: int) -> Any:
        """One image as an array."""

    def read(self, number: int, buffer: memoryview | None = None) -> NDArray[np.generic]:
        """Image `number` (from 0)."""
        with self._refusing():
            return np.asarray(self._image(number), dtype=self.dtype)

    @contextlib.contextmanager
    def _refusing(self) -> Iterator[None]:
        """Whatever the library raises, and they raise anything, is a sentence."""
        try:
            yield
        except MemoryError:
            raise
        except Exception as error:
            _check_readable(self.path)
            reason = " ".join(str(error).split("File:")[0].split())  # without the place in Xmipp's code
            raise DataError(
                f"{self.library} cannot read the file ({reason or type(error).__name__}), expected a stack of images; "
                "convert the particles to an MRC stack first"
            ) from error


class XmippReader(_LibraryReader):
    """Reads Spider, Imagic and EMAN (HDF5) stacks."""

    library = "Xmipp's library"

    def _open(self, path: str) -> None:
        import xmippLib

        self._xmipp_image = xmippLib.Image
        header = xmippLib.Image()
        header.read(path, xmippLib.HEADER)
        columns, rows, slices, count = map(int, header.getDimensions())
        self.box, self.count = (columns, rows), count if slices == 1 else 0

    def _image(self, number: int) -> Any:
        image = self._xmipp_image()
        image.read(f"{number + 1}@{self.path}" if self.count > 1 else self.path)
        return image.getData()

    def close(self) -> None:
        """Nothing stays open."""


class TiffReader(_LibraryReader):
    """Reads TIFF stacks, a page an image."""

    library = "tifffile"

    def _open(self, path: str) -> None:
        import tifffile

        self._tiff = tifffile.TiffFile(path)
        first = self._tiff.pages[0]
        self.box, self.count = (int(first.imagewidth), int(first.imagelength)), len(self._tiff.pages)

    def _image(self, number: int) -> Any:
        page = self._tiff.pages[number]
        if page.shape != self.shape:
            raise ValueError(f"page {number + 1} has {page.shape[::-1]} px, the first {self.box}")
        return page.asarray()

    def close(self) -> None:
        """Close the file."""
        self._tiff.close()


def _check_readable(path: str) -> None:
    """Raise InputError if it is the disk that does not give a file, of which a library has said it cannot read it."""
    try:
        with open(path, "rb", buffering=0) as file:
            while file.read(BYTES_AT_ONCE):
                pass
    except OSError as error:
        raise input_problem(error, "the file cannot be read", "all its bytes") from error
