# SPDX-License-Identifier: GPL-3.0-or-later
"""Image stacks by their names: any image by its number, of any format that can be read."""

from __future__ import annotations

from .library_readers import TIFF_SUFFIXES, XMIPP_SUFFIXES, TiffReader, XmippReader
from .mrc_reader import MrcReader
from .stack_reader import StackReader


def open_stack(path: str) -> StackReader:
    """The stack in a file, by its suffix: those of other programs and TIFF by libraries, all else is MRC.

    Raises DataError, which does not name the file, if it cannot be read or its header makes no sense.
    """
    if path.lower().endswith(XMIPP_SUFFIXES):
        return XmippReader(path)
    if path.lower().endswith(TIFF_SUFFIXES):
        return TiffReader(path)
    return MrcReader(path)


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
