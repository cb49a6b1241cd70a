# SPDX-License-Identifier: GPL-3.0-or-later
"""STAR files as RELION writes and reads them: blocks of loops, a row a line, and of pairs of label and value.

A file is read once, some megabytes at a time, and stays open until it is rewritten. What was found is found again by
its place, in other processes too; another file that gets its name during that time plays no part.
"""

from __future__ import annotations

import os
import stat
import zlib
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from ..errors import DataError
from .reading import read_at
from .star_rows import RowError, Rows, begins_something, find_rows, values_of_line

BYTES_AT_ONCE = 1 << 21  # of rows; a line may not be longer
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
SHOWN = 60  # characters of a line in a message
MARGIN = 256  # bytes of white space around the name of a block


class Table(NamedTuple):
    """A loop, or the pairs of a simple block. Small: other processes get it."""

    #: name of its block, without ``data_``
    block: str
    labels: tuple[str, ...]
    is_loop: bool
    #: where its labels and those behind the last one begin; those of pairs stand among the values
    labels_start: int
    labels_end: int
    #: where its rows, or its pairs, begin
    start: int
    #: where the pairs have ended, or a loop without rows; otherwise None
    end: int | None
    #: white space behind the last label's number, or the last pair
    line_end: bytes

    def column(self, label: str) -> int:
        """Number of the column of a label, from 0."""
        return self.labels.index(label)

    def more_labels(self, labels: Sequence[str]) -> bytes:
        """Lines to be put in at `labels_end` for further columns of a loop."""
        numbers = range(len(self.labels) + 1, len(self.labels) + len(labels) + 1)
        return self.more_lines([f"_{label} #{number}" for label, number in zip(labels, numbers)])

    def more_lines(self, lines: Sequence[str]) -> bytes:
        """Lines to be put in at `labels_end`, with the line ends of those before."""
        if b"\n" not in self.line_end:  # the file ends here
            return b"".join(b"\n" + line.encode("latin-1") for line in lines)
        return b"".join(line.encode("latin-1") + self.line_end for line in lines)


class Block(NamedTuple):
    """Some rows of a loop, with the comments among them. Small: other processes get it."""

    #: number of the first row, from 1
    first: int
    rows: int
    #: place and length in the file, in bytes
    offset: int
    length: int
    checksum: int


class StarFile:
    """A STAR file that is open for reading; DataError if it cannot be. A context manager."""

    def __init__(self, path: str):
        self.path = path
        try:
            self.descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe would have us wait for ever
        except (OSError, ValueError) as error:
            raise _unreadable(path, getattr(error, "strerror", None) or str(error)) from error
        self._status = os.fstat(self.descriptor)
        if not stat.S_ISREG(self._status.st_mode):
            self.close()
            raise _unreadable(path, "it is a folder, a pipe or a device")

    def __enter__(self) -> StarFile:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        os.close(self.descriptor)

    def read(self, offset: int, length: int) -> bytes:
        """So many bytes from a place on, fewer where the file ends."""
        return _read(self.path, self.descriptor, offset, length)

    def lines(self, offset: int) -> Iterator[tuple[int, bytes]]:
        """Lines, with their line ends, from the start of one on, each with its place."""
        rest = b""
        while piece := self.read(offset + len(rest), BYTES_AT_ONCE):
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                yield offset, line + b"\n"
                offset += len(line) + 1
            if len(rest) > BYTES_AT_ONCE:
                raise self.long_line(offset)
        if rest:
            yield offset, rest

    def error_at(self, offset: int, problem: str) -> DataError:
        """What is wrong with the line that begins at a place."""
        pieces = range(0, offset, BYTES_AT_ONCE)
        number = 1 + sum(self.read(at, min(BYTES_AT_ONCE, offset - at)).count(b"\n") for at in pieces)
        return DataError(f"{self.path}, line {number}: {problem}")

    def long_line(self, offset: int) -> DataError:
        """That a line is longer than any of a STAR file."""
        megabytes = BYTES_AT_ONCE >> 20
        return self.error_at(offset, f"it is longer than {megabytes} MB, expected a line of a STAR file; give one")

    def check_unchanged(self) -> None:
        """Raise DataError if somebody has written to the file since it was opened."""
        now, before = os.fstat(self.descriptor), self._status
        same = (now.st_size, now.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
        # Programs that write may set the old time, but the kernel's own stays; that changes with the name, too
        if not same or (now.st_ctime_ns != before.st_ctime_ns and self._has_its_name()):
            raise changed(self.path)

    def _has_its_name(self) -> bool:
        try:
            return os.path.samestat(os.stat(self.path), self._status)
        except OSError:
            return False


def next_table(file: StarFile, offset: int = 0, block: str = "", strict: Collection[str] = ()) -> Table | None:
    """The table that comes next, from a place in a block and outside of all rows; None if there is none.

    Only in blocks with the names in `strict` are lines refused (DataError) that belong to no table.
    """
    is_loop, labels = False, list[str]()
    labels_start = labels_end = end = offset
    line_end, before = b"", ""
    for at, line in file.lines(offset):
        sort, word = _sort_of_line(line.removeprefix(BYTE_ORDER_MARK) if at == 0 else line)
        if is_loop and len(labels) == 1 and before == "label" and sort in ("block", "loop"):
            sort = "row"  # a value in a single column
        before = sort
        if labels and (sort in ("block", "loop") or (sort == "row" and is_loop)):
            start, ended = at if is_loop else labels_start, None if sort == "row" else at
            return Table(block, tuple(labels), is_loop, labels_start, labels_end, start, ended, line_end)
        if sort == "block":
            block, is_loop = word, False
        elif sort == "loop":
            is_loop = True
        elif sort == "label":
            labels_start = labels_start if labels else at
            labels.append(word)
            labels_end, line_end = at + len(line), line[len(line.rstrip()) :]
        elif sort == "row" and block in strict:
            raise file.error_at(
                at,
                f"{os.fsdecode(line.strip())[:SHOWN]!r} is outside a loop, expected rows to follow their loop without "
                "an empty line; write the file again",
            )
        end = at + len(line)
    if not labels:
        return None
    start = end if is_loop else labels_start
    return Table(block, tuple(labels), is_loop, labels_start, labels_end, start, end, line_end)


def _sort_of_line(line: bytes) -> tuple[str, str]:
    """What a line outside of rows is (block, loop, label, blank, row), and the name of the block or label."""
    words = line.split()
    first = words[0] if words else b"#"
    if len(words) == 1 and first.startswith(b"data_"):
        return "block", os.fsdecode(first.removeprefix(b"data_"))
    if words == [b"loop_"]:
        return "loop", ""
    if first.startswith(b"_"):
        return "label", os.fsdecode(first[1:])
    return ("blank" if first[:1] in b"#;" else "row"), ""


def check_labels(file: StarFile, table: Table) -> None:
    """Raise DataError if a label stands twice in a table."""
    seen = set()
    for at, line in file.lines(table.labels_start):
        first = (line.split() or [b""])[0]
        if at >= table.labels_end:
            return
        if first in seen and first.startswith(b"_"):
            shown = os.fsdecode(first)
            raise file.error_at(at, f"{shown} appears twice in the table, expected once; write the file again")
        seen.add(first)


def read_blocks(file: StarFile, table: Table) -> Iterator[tuple[Block, Rows]]:
    """All rows of a loop, some thousands at a time; DataError where a line does not fit."""
    offset, first = table.start, 1
    while table.end is None and (text := file.read(offset, BYTES_AT_ONCE)):
        if len(text) == BYTES_AT_ONCE:
            text = text[: text.rfind(b"\n") + 1]
            if not text:
                raise file.long_line(offset)
        try:
            rows, length = find_rows(text, len(table.labels))
        except RowError as error:
            raise file.error_at(offset + error.place, str(error)) from None
        if length:
            yield Block(first, len(rows), offset, length, zlib.crc32(text[:length])), rows
        offset, first = offset + length, first + len(rows)
        if length < len(text):
            return


def read_again(path: str, descriptor: int, table: Table, block: Block) -> Rows:
    """Rows that were found before, in a file that is open, here or in the process that this one was forked from.

    DataError, naming the path, if they have changed.
    """
    text = _read(path, descriptor, block.offset, block.length)
    if zlib.crc32(text) != block.checksum:
        raise changed(path)
    return find_rows(text, len(table.labels))[0]


def read_pairs(file: StarFile, table: Table) -> Rows:
    """The values of a simple block, as a row over many lines; DataError where one is missing."""
    text = file.read(table.start, (table.end or table.start) - table.start)
    places = []
    for at, line in file.lines(table.start):
        start = at - table.start
        if start >= len(text):
            break
        try:
            values = values_of_line(text, start, start + len(line)) if line.lstrip().startswith(b"_") else [(0, 0)] * 2
        except RowError as error:
            raise file.error_at(at, str(error)) from None
        if len(values) < 2:
            raise file.error_at(at, "a label has no value, expected one after it; write the file again")
        if values[0] != values[1]:
            places.append(values[1])
    shape = (1, len(places), 2)
    return Rows(text, np.array(places, dtype=np.int64).reshape(shape), np.array([[0, len(text)]]), is_plain=False)


def rows_end(file: StarFile, table: Table) -> int:
    """Where the rows of a loop, or the pairs, have ended; nothing is expected of them."""
    if table.end is not None:
        return table.end
    end = table.start
    for end, line in file.lines(table.start):
        if not line.strip() or begins_something(line, len(table.labels)):
            return end
        end += len(line)
    return end


def find_block(file: StarFile, name: str, offset: int) -> int | None:
    """Where, from a place on, the line stands that begins a block; None if it does not."""
    sought = b"data_" + os.fsencode(name)
    while piece := file.read(offset, BYTES_AT_ONCE):
        found = piece.find(sought)
        while found >= 0:
            before = file.read(max(offset + found - MARGIN, 0), min(offset + found, MARGIN)).rpartition(b"\n")[2]
            behind = file.read(offset + found + len(sought), MARGIN).partition(b"\n")[0]
            if not before.strip() and not behind.strip():
                return offset + found - len(before)
            found = piece.find(sought, found + 1)
        offset += max(len(piece) - len(sought), 1)
    return None


def changed(path: str) -> DataError:
    """That a file was written to while it was needed."""
    return DataError(
        f"{path}: it was changed during the run, expected the same file until its end; run the same command again"
    )


def _unreadable(path: str, reason: str) -> DataError:
    return DataError(
        f"{path}: it cannot be read ({reason}), expected a STAR file; check that it exists and is readable"
    )


def _read(path: str, descriptor: int, offset: int, length: int) -> bytes:
    try:
        return read_at(descriptor, length, offset)
    except OSError as error:
        raise _unreadable(path, error.strerror or str(error)) from error
