# SPDX-License-Identifier: GPL-3.0-or-later
"""The rows of a table in a STAR file: where their values stand, and the same text with other values.

Text is bytes, held as a string of a character a byte (Latin-1): names of files are bytes of any sort, and what is not
changed comes out as it was. Values are found in many rows at once, by the white space around them; quotes and comments
one by one, by RELION's rules: a ``#`` that begins a word begins a comment; a quote that begins a word reaches to the
next one of its sort that white space or the end of the line follows, and no bell (``\\a``) precedes.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError

_BLANKS = b" \t\r\n\v\f"
_IS_WORD = bytes(byte not in _BLANKS for byte in range(256))
_SPECIAL = np.array([*b"\"'#"], dtype=np.uint8)  # at the start of a word
_WORD = re.compile(rb"[^ \t\r\n\v\f]+")
_QUOTED = re.compile(rb"""(["']).*?(?<!\a)\1(?=[ \t\r\n\v\f]|$)""", re.DOTALL)

Places = NDArray[np.int64]  # of bytes in a text
Kept = NDArray[np.bool_]  # for each row, whether it is wanted


class RowError(Exception):
    """A line that cannot be read: where it begins in the text, and what is wrong with it."""

    def __init__(self, place: int, problem: str):
        super().__init__(problem)
        self.place = place


class Rows:
    """Rows of values in a text.

    Attributes
    ----------
    text : a character a byte
    places : (rows, columns, 2) where each value begins, and where it has ended; quotes belong to it
    lines : (rows, 2) the same for the lines, with their line ends; there may be other text in between
    is_plain : whether no value is quoted
    """

    def __init__(self, text: bytes, places: Places, lines: Places, is_plain: bool):
        self.text = text.decode("latin-1")
        self.places, self.lines = places, lines
        self.is_plain = is_plain and text.isascii()

    def __len__(self) -> int:
        return len(self.lines)

    def raw(self, column: int, kept: Kept | slice = slice(None)) -> list[str]:
        """Values of a column as they stand in the text."""
        return self._cut(self.places[kept, column, 0], self.places[kept, column, 1])

    def values(self, column: int) -> list[str]:
        """Values of a column, without quotes, decoded as names of files are."""
        raw = self.raw(column)
        if self.is_plain:
            return raw
        return [value_of(text) if text[0] in "\"'" or not text.isascii() else text for text in raw]

    def replaced(
        self,
        changes: Mapping[int, Sequence[str]],
        added: Sequence[Sequence[str]] = (),
        kept: Kept | slice = slice(None),
    ) -> bytes:
        """The text with the rows that are kept, and with other values in some columns and further columns at the end.

        There is a value for each row that is kept, as it is to stand in the text (``text_of``). All else stays, with
        what stands between the rows.
        """
        places, lines = self.places[kept], self.lines[kept]
        parts: list[Iterable[str]] = []
        at = lines[:, 0]
        for column in sorted(changes):
            parts += [self._cut(at, places[:, column, 0]), changes[column]]
            at = places[:, column, 1]
        if added:
            parts.append(self._cut(at, places[:, -1, 1]))
            at = places[:, -1, 1]
        for values in added:
            parts += [itertools.repeat(" "), values]
        parts.append(self._cut(at, lines[:, 1]))
        if self._is_seamless():
            text = "".join(itertools.chain.from_iterable(zip(*parts)))
        else:
            numbers = np.arange(len(self))[kept].tolist()
            text = self._with_text_between(dict(zip(numbers, map("".join, zip(*parts)))))
        return text.encode("latin-1")

    def _is_seamless(self) -> bool:
        """Whether nothing stands before, between or behind the rows."""
        starts, ends = self.lines[:, 0], self.lines[:, 1]
        return np.array_equal(np.append(0, ends), np.append(starts, len(self.text)))

    def _with_text_between(self, rows: Mapping[int, str]) -> str:
        out, at = [], 0
        for number, (start, end) in enumerate(self.lines.tolist()):
            out += [self.text[at:start], rows.get(number, "")]
            at = end
        return "".join([*out, self.text[at:]])

    def _cut(self, starts: Places, ends: Places) -> list[str]:
        text = self.text
        return [text[start:end] for start, end in zip(starts.tolist(), ends.tolist())]


def find_rows(text: bytes, columns: int) -> tuple[Rows, int]:
    """The rows that a text begins with, and where they end: at a blank line, a new block or a new loop.

    The text is of whole lines. Comments between rows are passed over. RowError where a line does not fit.
    """
    lines = _find_lines(text)
    words, is_plain, unclosed = _find_words(text)
    # the words of line i are first[i] to first[i + 1]
    first = np.concatenate([[0], np.searchsorted(words[:, 0], lines[:, 1])])
    counts = np.diff(first)
    odd = counts != columns
    odd[np.searchsorted(lines[:, 1], unclosed, side="right") :][:1] = True
    count = len(lines)
    for number in np.flatnonzero(odd).tolist():
        start, end = lines[number].tolist()
        if not text[start:end].strip() or begins_something(text[start:end], columns):
            count = number
            break
        if unclosed < end:
            raise _unclosed(text, unclosed, start)
        if counts[number]:
            values = "1 value" if counts[number] == 1 else f"{counts[number]} values"
            expected = f"expected {columns}, one for each label of the loop"
            raise RowError(start, f"{values}, {expected}; write the file again")
    places = words[: first[count]].reshape(-1, columns, 2)
    end = int(lines[count, 0]) if count < len(lines) else len(text)
    return Rows(text[:end], places, lines[:count][counts[:count] == columns], is_plain), end


def _find_lines(text: bytes) -> Places:
    """(lines, 2) where lines, with their ends, begin and have ended."""
    ends = np.flatnonzero(np.frombuffer(text, dtype=np.uint8) == ord("\n")) + 1
    if text and not text.endswith(b"\n"):
        ends = np.append(ends, len(text))
    return np.stack([np.append(0, ends)[:-1], ends], axis=1)


def _find_words(text: bytes) -> tuple[Places, bool, int]:
    """(words, 2) where values begin and have ended; whether none is quoted; where a quote begins that is not closed.

    Behind such a quote values are not to be trusted; it is at the end of the text if there is none.
    """
    is_word = np.frombuffer(bytearray(text.translate(_IS_WORD)), dtype=np.bool_)
    words = _runs(is_word)
    special = words[np.isin(np.frombuffer(text, dtype=np.uint8)[words[:, 0]], _SPECIAL), 0]
    unclosed = at = len(text)
    if not len(special):
        return words, True, unclosed
    at = 0
    for start in special.tolist():
        if start < at:  # within a quote or a comment
            continue
        at = text.find(b"\n", start) + 1 or len(text)
        if text[start] == ord("#"):
            is_word[start:at] = False
        elif value := _QUOTED.match(text, start, at):
            at = value.end()
            is_word[start:at] = True
        else:
            unclosed = start
            break
    return _runs(is_word), False, unclosed


def _runs(is_word: Kept) -> Places:
    """(runs, 2) where runs of bytes of words begin and have ended."""
    is_word = np.concatenate([[False], is_word, [False]])
    return np.flatnonzero(is_word[1:] != is_word[:-1]).reshape(-1, 2)


def begins_something(line: bytes, columns: int) -> bool:
    """Whether a line among rows begins a block or another loop; in a single column such a word is a value."""
    words = line.split()
    return columns > 1 and len(words) == 1 and (words[0].startswith(b"data_") or words[0] == b"loop_")


def _unclosed(text: bytes, place: int, start: int) -> RowError:
    """That a quote in the line from `start` on is not closed."""
    word = _WORD.match(text, place)
    shown = os.fsdecode(word.group() if word else b"")[:60]
    return RowError(start, f"a quote is not closed: got {shown}, expected a closing quote; write the file again")


def values_of_line(text: bytes, start: int, end: int) -> list[tuple[int, int]]:
    """Where the values of one line begin and have ended; RowError if a quote is not closed."""
    found = []
    at = start
    while word := _WORD.search(text, at, end):
        if word.group().startswith(b"#"):
            break
        value = _QUOTED.match(text, word.start(), end) if word.group()[:1] in b"\"'" else word
        if value is None:
            raise _unclosed(text, word.start(), start)
        found.append(value.span())
        at = value.end()
    return found


def value_of(text: str) -> str:
    """The value that a piece of text (a character a byte) stands for, decoded as names of files are."""
    if text[:1] in ("'", '"') and text[-1:] == text[:1] and len(text) > 1:
        text = text[1:-1].replace("\a", "")
    return os.fsdecode(text.encode("latin-1"))


def text_of(value: str) -> str:
    """What stands for a value in the text (a character a byte): quoted where it must be, as RELION does.

    DataError if nothing can: RELION reads no line breaks within a value, and several blanks or a tab as one blank.
    """
    text = os.fsencode(value).decode("latin-1")
    if re.search(r"[\t\r\n\v\f\a]|  ", text):
        raise DataError(
            f"{value!r}: it contains a line break, a tab or two spaces in a row, expected none in a STAR file; give "
            "another name"
        )
    if text and " " not in text and text[0] not in "\"'#":
        return text
    for quote in "\"'":
        if not re.search(quote + "(?= |$)", text):
            return quote + text + quote
    raise DataError(
        f"{value!r}: it contains both kinds of quotes before spaces, which a STAR file cannot hold; give another name"
    )


def around_number(stack: str) -> tuple[str, str]:
    """What stands in the text before and behind the number of an image of a stack: ``@stack``, and quotes perhaps.

    Errors as of ``text_of``.
    """
    before, at, behind = text_of("@" + stack).partition("@")
    return before, at + behind
