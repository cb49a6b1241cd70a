# SPDX-License-Identifier: GPL-3.0-or-later
"""Image stacks by their names: any image by its number, of any format that can be read."""

from __future__ import annotations

from collections.abc import Mapping

from .fingerprints import FileState, check_same
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
    """Opens stacks by their names, as particle sets name them; the last one stays open. A context manager.

    `expected` tells what files are to be: their names may lead to others just when they are opened, and back again.
    """

    def __init__(self, expected: Mapping[str, FileState | None] | None = None) -> None:
        self._expected = expected or {}
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
        """The stack in a file; DataError, which does not name it, if there is none, InputError if it is another."""
        if self._stack is None or path != self._path:
            self.close()
            self._stack = open_stack(path)
            if path in self._expected:
                check_same(self._expected[path], self._stack.state)
            self._path = path
        return self._stack
