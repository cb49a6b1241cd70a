# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads MRC stacks.

mrcfile brings the header and its meaning; pixels go straight from the file to small buffers that are used again, since
a set is far larger than memory.
"""

from __future__ import annotations

import os

import numpy as np
from mrcfile.dtypes import HEADER_DTYPE
from mrcfile.utils import dtype_from_mode
from numpy.typing import NDArray

from ..errors import DataError, InputError, input_problem
from ..words import counted
from .fingerprints import state_of
from .reading import read_at
from .stack_reader import LARGEST_SIDE, Holds, StackReader, open_to_read

READABLE_MODES = (0, 1, 2, 6, 12)
VOLUME_STACKS = range(401, 631)  # space groups, of the MRC2014 format


class MrcReader(StackReader):
    """Reads MRC stacks."""

    def __init__(self, path: str):
        self._file = open_to_read(path)
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
            self.state = state_of(os.fstat(self._file))
            raw = read_at(self._file, HEADER_DTYPE.itemsize, 0)
        except OSError as error:
            raise input_problem(error, "the file cannot be read", "an MRC stack; give one") from error
        if len(raw) < min(HEADER_DTYPE.itemsize, self.state.size_bytes):
            raise _ended(self.state.size_bytes)
        if len(raw) < HEADER_DTYPE.itemsize:
            raise DataError(
                f"the file is {len(raw)} bytes long, expected an MRC file with a header of "
                f"{HEADER_DTYPE.itemsize} bytes; copy or write the file again"
            )
        header = _native_header(raw)
        if header is None:
            raise DataError(
                f"the file is not a readable MRC stack, expected a header with sizes from 1 to {LARGEST_SIDE} and "
                f"mode {', '.join(map(str, READABLE_MODES))}; convert the particles to an MRC stack first"
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
        size = self.state.size_bytes
        if size < expected:
            raise DataError(
                f"the file is {size} bytes long, expected {expected} ({counted(self.count, 'image')} of {self.box[0]} "
                f"x {self.box[1]} px, as its header says): the file is cut short; copy or write it again"
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
                raise _ended(self.state.size_bytes)
            got += read


def _ended(size: int) -> InputError:
    """That reading ended before a file that was long enough when it was opened: no image of it is to blame."""
    return InputError(
        f"reading ended within the file, expected all of its {size} bytes: it was cut short during the run, or the "
        "disk does not deliver them; check the file and the disk, then continue the run"
    )


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
