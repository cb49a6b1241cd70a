# SPDX-License-Identifier: GPL-3.0-or-later
"""STAR files line by line: values are found and replaced, all other text stays as it is.

Tables of millions of lines are never held: a file is read twice, once for what is in it and once to be written
again. Covers what RELION writes: blocks, loops with a row a line, and ``_label value`` pairs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from .errors import DataError

_VALUE = re.compile(r"\S+")


class StarLine(NamedTuple):
    """A line of a STAR file; `values` by label if it has any: a row of a loop, or a pair of a simple block."""

    text: str
    block: str
    values: dict[str, str]
    is_row: bool

    def with_values(self, changes: Mapping[str, str]) -> str:
        """The text of the line with other values for some labels; white space stays."""
        labels = list(self.values)
        places = list(_VALUE.finditer(self.text))
        if not self.is_row:
            places = places[1:]  # the label comes first
        text, end = [], 0
        for label, place in zip(labels, places):
            text += [self.text[end : place.start()], changes.get(label, place.group())]
            end = place.end()
        return "".join([*text, self.text[end:]])


def star_lines(path: str) -> Iterator[StarLine]:
    """All lines of a STAR file; DataError, naming the line, where a row does not fit its loop."""
    block = ""
    labels: list[str] | None = None  # of the loop that the line is in
    rows = 0  # of that loop
    for number, text in enumerate(_text_lines(path), start=1):
        words = text.split()
        first = words[0] if words else ""
        values: dict[str, str] = {}
        is_row = False
        if not words:
            labels = labels if not rows else None  # an empty line ends a loop
        elif first.startswith("data_") and len(words) == 1:
            block, labels = first[len("data_") :], None
        elif first == "loop_":
            labels, rows = [], 0
        elif first.startswith("_") and not rows and labels is not None:
            if first[1:] in labels:
                raise DataError(
                    f"{path}, line {number}: {first} stands twice in the loop, expected once; write it again"
                )
            labels.append(first[1:])
        elif first.startswith("#"):
            pass
        elif first.startswith("_") and not labels:
            values = {first[1:]: words[1]} if len(words) > 1 else {}
        elif not labels:
            raise DataError(
                f"{path}, line {number}: {text.strip()[:60]!r} stands outside a loop, expected rows to follow their "
                "loop without an empty line; write the file again"
            )
        else:
            if len(words) != len(labels):
                raise DataError(
                    f"{path}, line {number}: {len(words)} values, expected {len(labels)}, one for each label of the "
                    "loop; write the file again"
                )
            values, is_row = dict(zip(labels, words)), True
            rows += 1
        yield StarLine(text, block, values, is_row)


def _text_lines(path: str) -> Iterator[str]:
    try:
        # surrogateescape: names of files are bytes
        with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
            yield from file
    except OSError as error:
        raise DataError(
            f"{path}: it cannot be read ({error.strerror}), expected a STAR file; check that it is there and readable"
        ) from error
