# SPDX-License-Identifier: GPL-3.0-or-later
"""Bytes of a file that is open: all that are asked for, however few a system call gives at a time."""

from __future__ import annotations

import os


def read_at(descriptor: int, length: int, offset: int) -> bytes:
    """So many bytes from a place on, fewer only where the file ends. OSError if it cannot be read."""
    pieces = []
    while length and (piece := os.pread(descriptor, length, offset)):
        pieces.append(piece)
        offset, length = offset + len(piece), length - len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)
