# SPDX-License-Identifier: GPL-3.0-or-later
"""Writes MRC stacks, image by image in any order; each appears under its name only when it is whole.

mrcfile brings the header; images go straight from small buffers that are used again to the file.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from typing import IO

import numpy as np
from mrcfile.dtypes import HEADER_DTYPE
from mrcfile.utils import mode_from_dtype
from numpy.typing import NDArray

from .. import __version__
from .reading import read_at
from .whole_files import create_part, part_name

LABEL = f"scipion-em-downsample {__version__}"


class StackWriter:
    """Writes images into a stack that appears under its name only when it is whole.

    Until then it has a name that no other process uses (``part_path``), which workers open (``open_part``) to
    write their images at their places; who made it finishes or discards it.
    """

    def __init__(self, path: str, count: int, box: int, dtype: np.dtype[np.generic], apix: float):
        self.path = path
        self.part_path = part_name(path)
        self._file: IO[bytes] | None = None
        self._box, self._dtype, self._apix = box, dtype, apix
        self._bytes_of_image = box**2 * dtype.itemsize
        self.bytes: int = HEADER_DTYPE.itemsize + count * self._bytes_of_image

    def create(self) -> None:
        """Make the unfinished stack, of its full size: writing into it is several times faster than making it grow."""
        self._file = create_part(self.part_path, mode="x+b")
        self._file.truncate(self.bytes)

    def finish(self, statistics: NDArray[np.void], kept: NDArray[np.bool_]) -> None:
        """Give the stack its name, with those images that are kept, and their statistics (STATISTICS) in the header.

        Both in the order of the images. If none is kept there is no stack.
        """
        if not kept.any():
            self.discard()
            return
        assert self._file is not None, "create it first"
        with self._file as file:
            if not kept.all():
                self._close_up(file.fileno(), kept)
            file.write(new_header(int(kept.sum()), self._box, self._dtype, self._apix, statistics[kept]).tobytes())
            file.flush()
            os.replace(self.part_path, self.path)

    def discard(self) -> None:
        """Remove the unfinished stack, however much of it there is."""
        if self._file is not None:
            self._file.close()
        with contextlib.suppress(OSError):  # what went wrong before is to be told
            os.remove(self.part_path)

    def _close_up(self, file: int, kept: NDArray[np.bool_]) -> None:
        """Move the images that are kept together, in place."""
        size, start = self._bytes_of_image, HEADER_DTYPE.itemsize
        for new, old in enumerate(np.flatnonzero(kept).tolist()):
            if new != old:
                image = read_at(file, size, start + old * size)
                if len(image) < size:  # somebody has cut the unfinished file short
                    raise OSError(errno.EIO, os.strerror(errno.EIO), self.part_path)
                _write_all(file, memoryview(image), start + new * size)
        os.ftruncate(file, start + int(kept.sum()) * size)


@contextlib.contextmanager
def open_part(path: str) -> Iterator[int]:
    """File descriptor of an unfinished stack, for ``write_images``."""
    file = os.open(path, os.O_WRONLY)
    try:
        yield file
    finally:
        os.close(file)


def write_images(file: int, number: int, images: NDArray[np.generic]) -> None:
    """Write images (count, rows, columns) of an unfinished stack, as number `number` (from 0) and the following."""
    _write_all(file, images.data.cast("B"), HEADER_DTYPE.itemsize + number * images[0].nbytes)


def _write_all(file: int, data: memoryview, offset: int) -> None:
    written = 0
    while written < len(data):
        written += os.pwrite(file, data[written:], offset + written)


def new_header(
    count: int, box: int, dtype: np.dtype[np.generic], apix: float, statistics: NDArray[np.void]
) -> NDArray[np.void]:
    """MRC2014 header of an image stack: ispg 0, mz 1, voxel size set, statistics of all from those of each image."""
    header = np.zeros((), dtype=HEADER_DTYPE.newbyteorder("<"))
    header["nx"] = header["ny"] = header["mx"] = header["my"] = box
    header["nz"], header["mz"] = count, 1
    header["mode"] = mode_from_dtype(dtype)
    header["cella"]["x"] = header["cella"]["y"] = box * apix
    header["cella"]["z"] = apix
    for name in ("alpha", "beta", "gamma"):
        header["cellb"][name] = 90.0
    header["mapc"], header["mapr"], header["maps"] = 1, 2, 3
    header["nversion"] = 20141
    header["map"] = b"MAP "
    header["machst"] = (0x44, 0x44, 0, 0)
    header["nlabl"] = 1
    header["label"][0] = LABEL.encode("ascii")
    header["dmin"], header["dmax"] = statistics["smallest"].min(), statistics["largest"].max()
    header["dmean"] = statistics["mean"].mean()
    header["rms"] = np.sqrt(statistics["variance"].mean() + statistics["mean"].var())
    return header
