# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads image stacks: any image by its number, of MRC files and, through libraries, of other formats.

mrcfile brings the header of MRC files and its meaning; reading goes straight from the file to small buffers that
are used again, since a set is far larger than memory.
"""

from __future__ import annotations

import abc
import contextlib
import enum
import os
import stat
from collections.abc import Iterator
from typing import Any

import numpy as np
from mrcfile.dtypes import HEADER_DTYPE
from mrcfile.utils import dtype_from_mode
from numpy.typing import NDArray

from .errors import DataError, input_problem

XMIPP_SUFFIXES = (".stk", ".spi", ".img", ".hed", ".hdf")
TIFF_SUFFIXES = (".tif", ".tiff")
READABLE_MODES = (0, 1, 2, 6, 12)
BYTES_AT_ONCE = 1 << 20
VOLUME_STACKS = range(401, 631)  # space groups, of the MRC2014 format
LARGEST_SIDE = 1 << 20  # px; a header that says more is no header


class Holds(enum.Enum):
    """What a file holds, as far as its header and name tell."""

    IMAGES = "images"
    #: it may be a stack of images all the same: programs write their headers
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
    """

    box: tuple[int, int]
    count: int
    dtype: np.dtype[np.generic]
    apix: float
    holds = Holds.IMAGES

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
            "expected a stack of particle images; give one (if it is one, name it .mrcs)"
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


def open_stack(path: str) -> StackReader:
    """The stack in a file, by its suffix: those of other programs and TIFF by libraries, all else is MRC.

    Raises DataError, which does not name the file, if it cannot be read or its header makes no sense.
    """
    if path.lower().endswith(XMIPP_SUFFIXES):
        return XmippReader(path)
    if path.lower().endswith(TIFF_SUFFIXES):
        return TiffReader(path)
    return MrcReader(path)


class MrcReader(StackReader):
    """Reads MRC stacks."""

    def __init__(self, path: str):
        self._file = _open_to_read(path)
        try:
            self._read_header(path)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def _read_header(self, path: str) -> None:
        try:
            raw = os.pread(self._file, HEADER_DTYPE.itemsize, 0)
        except OSError as error:
            raise input_problem(error, "the file cannot be read", "an MRC stack; give one") from error
        if len(raw) < HEADER_DTYPE.itemsize:
            raise DataError(
                f"the file is {len(raw)} bytes long, expected an MRC file with a header of "
                f"{HEADER_DTYPE.itemsize} bytes; copy or write the file again"
            )
        header = _native_header(raw)
        if header is None:
            raise DataError(
                f"the file is no MRC stack that can be read, expected a header with sizes from 1 to "
                f"{LARGEST_SIDE} and mode {', '.join(map(str, READABLE_MODES))}; convert the particles to an MRC "
                "stack first"
            )
        order, fields = header
        #: all of the header, in the byte order of the file
        self.header: np.void = fields
        self.box = (int(fields["nx"]), int(fields["ny"]))
        self.count = int(fields["nz"])
        self.apix = float(fields["cella"]["x"]) / max(int(fields["mx"]), 1)
        self.dtype = dtype_from_mode(fields["mode"]).newbyteorder(order)
        self.holds = _holdings(fields, path)
        self._data_start = HEADER_DTYPE.itemsize + int(fields["nsymbt"])
        #: bytes of one image: what a buffer for ``read`` must hold
        self.image_bytes: int = self.box[0] * self.box[1] * self.dtype.itemsize
        expected = self._data_start + self.count * self.image_bytes
        size = os.fstat(self._file).st_size
        if size < expected:
            raise DataError(
                f"the file is {size} bytes long, expected {expected} ({self.count} images of {self.box[0]} x "
                f"{self.box[1]} px, as its header says): the file is cut short; copy or write it again"
            )

    def read(self, number: int, buffer: memoryview | None = None) -> NDArray[np.generic]:
        """Image `number` (from 0), of this shape and dtype, in a buffer of bytes that holds it, or in new memory."""
        view = memoryview(bytearray(self.image_bytes)) if buffer is None else buffer[: self.image_bytes]
        self.read_into(number, view)
        return np.frombuffer(view, dtype=self.dtype).reshape(self.shape)

    def read_into(self, number: int, buffer: memoryview) -> None:
        """Fill a buffer with the bytes of image `number` (from 0) and of those that follow."""
        got = 0
        while got < len(buffer):
            try:
                read = os.preadv(self._file, [buffer[got:]], self._data_start + number * self.image_bytes + got)
            except OSError as error:
                expected = f"{self.image_bytes} bytes of the image; copy the file again"
                raise input_problem(error, "the file cannot be read", expected) from error
            if not read:
                raise DataError("the file ends within the image: it was cut short while it was read; write it again")
            got += read


class _LibraryReader(StackReader):
    """Reads images by a library that comes with scipion-em, always as float32 and into new memory."""

    dtype = np.dtype(np.float32)
    apix = 0.0
    library: str

    def __init__(self, path: str):
        os.close(_open_to_read(path))
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
            raise ValueError(f"page {number + 1} is {page.shape[::-1]}, the first is {self.box}")
        return page.asarray()

    def close(self) -> None:
        """Close the file."""
        self._tiff.close()


def _open_to_read(path: str) -> int:
    try:
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe would have us wait for ever
    except (OSError, ValueError) as error:
        expected = "a stack of images; check that it is there and readable"
        raise input_problem(error, "the file cannot be opened", expected) from error
    mode = os.fstat(file).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # of a folder, reading says so
        os.close(file)
        raise DataError("the file is a pipe or a device, expected a file on a disk; copy the stack into one")
    return file


def _check_readable(path: str) -> None:
    """Raise InputError if it is the disk that does not give a file, of which a library has said it cannot read it."""
    try:
        with open(path, "rb", buffering=0) as file:
            while file.read(BYTES_AT_ONCE):
                pass
    except OSError as error:
        raise input_problem(error, "the file cannot be read", "all its bytes") from error


class ImageReader:
    """Opens stacks by their names, as particle sets name them; the last one stays open. A context manager."""

    def __init__(self) -> None:
        self._path: str | None = None
        self._stack: StackReader | None = None

    def __enter__(self) -> ImageReader:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the last file."""
        if self._stack is not None:
            self._stack.close()
        self._path = self._stack = None

    def open(self, path: str) -> StackReader:
        """The stack in a file; DataError, which does not name the file, if there is none."""
        if self._stack is None or path != self._path:
            self.close()
            self._stack, self._path = open_stack(path), path
        return self._stack


def _native_header(raw: bytes) -> tuple[str, np.void] | None:
    """Byte order ('<' or '>') and fields of a header that makes sense, or None.

    The machine stamp is not asked: programs write it wrongly, and sizes and mode make sense in one order only.
    """
    for order in "<>":
        fields = np.frombuffer(raw, dtype=HEADER_DTYPE.newbyteorder(order))[0]
        sizes_fit = all(1 <= fields[name] <= LARGEST_SIDE for name in ("nx", "ny"))
        if sizes_fit and fields["nz"] >= 1 and fields["mode"] in READABLE_MODES and fields["nsymbt"] >= 0:
            return order, fields
    return None


def _holdings(fields: np.void, path: str) -> Holds:
    """By a header, and the suffix: .mrcs is for stacks, of which some programs write headers as of maps."""
    space_group, slices = int(fields["ispg"]), int(fields["mz"])
    if space_group in VOLUME_STACKS and slices > 1:
        return Holds.MAPS
    is_cube = fields["nx"] == fields["ny"] == fields["nz"]
    return Holds.MAP if space_group == 1 and is_cube and not path.lower().endswith(".mrcs") else Holds.IMAGES
