# SPDX-License-Identifier: GPL-3.0-or-later
"""The items of a Scipion set by columns: NumPy arrays of many rows at once, instead of one object per item.

A set is an SQLite file. Its table `Classes` tells in which column of `Objects` an attribute is found, by labels such as
`_transform._matrix`; the tables of a class in a set of classes have a prefix. Columns are numbered as each file likes.
"""

from __future__ import annotations

import contextlib
import copy
import json
import sqlite3
from pathlib import Path

import numpy as np

from ..errors import DataError

ROWS_AT_ONCE = 20_000
LONGEST_WAIT = 1000  # s, for others that are writing to a file just then; as long as Scipion itself waits
_SELF = "self"  # the label of the items themselves
_BASICS = {"id", "enabled", "label", "comment"}  # columns that all items have
_BEFORE_ALL = -(2**63)  # an id
_MATRIX = b"[[,,,],[,,,],[,,,],[,,,]]"  # what is left of its text without the numbers
_OF_NUMBERS = b" \t\r\n+-.0123456789eENaInfinity"


class ItemTable:
    """The items of a set, or of a class in a set of classes. Reads as empty while a set has no tables yet.

    The file is locked only while a block is read, so that others may write to it in between.

    Attributes
    ----------
    path : the file
    name : what to call the table, for people
    objects : name of the items' table, quoted for SQL
    columns : {label: column of it, quoted for SQL}
    kinds : {label: name of the attribute's class, such as Float}
    """

    def __init__(self, path, prefix="", size=0):
        """`prefix` is that of a class's tables; `size` what the set says of itself: with any items, it has tables.

        Raises DataError if the file is not a set, or not one that is laid out as expected.
        """
        prefix = f"{prefix}_" if prefix else ""
        self.path, self.name = path, f"{path}, {prefix}Objects"
        self.objects, self._classes = f'"{prefix}Objects"', f'"{prefix}Classes"'
        self.columns, self.kinds = {}, {}
        if size or Path(path).exists():
            with self._connection() as connection:
                self._readLayout(connection, size)

    def _readLayout(self, connection, size):
        found = {row[1] for row in connection.execute(f"PRAGMA table_info({self.objects})")}
        if not found and not size:
            return
        if not found >= _BASICS:
            raise self._unfit(f"a table with the columns {sorted(found)}", f"{sorted(_BASICS)} among them")
        for label, column, kind in connection.execute(
            f"SELECT label_property, column_name, class_name FROM {self._classes}"
        ):
            if label == _SELF:
                continue  # it has no column
            if column not in found:
                raise self._unfit(f"the column {column} for {label}", f"one of {sorted(found)}")
            self.columns[label], self.kinds[label] = f'"{column}"', kind
        if not self.columns:
            raise self._unfit("no labels", "those of the items' attributes")

    def _unfit(self, found, expected):
        return DataError(
            f"{self.name}: got {found}, expected {expected}; the file is not a set written by this version of "
            "Scipion; create it again"
        )

    @contextlib.contextmanager
    def _connection(self):
        """A connection for reading only; all that goes wrong with it is a DataError."""
        try:
            with contextlib.closing(sqlite3.connect(addressOf(self.path), LONGEST_WAIT, uri=True)) as connection:
                yield connection
        except sqlite3.Error as error:
            raise DataError(
                f"{self.name}: got '{error}' from SQLite, expected a set that can be read; check that the file exists "
                "and is complete"
            ) from error

    @property
    def exists(self):
        """Whether there are tables: a set has none before its first item."""
        return bool(self.columns)

    def __contains__(self, label):
        return label in self.columns

    def count(self, where="1"):
        """Number of items, or of those for which an SQL condition holds."""
        if not self.exists:
            return 0
        with self._connection() as connection:
            return connection.execute(f"SELECT count(*) FROM {self.objects} WHERE {where}").fetchone()[0]

    def blocks(self, labels=(), where="1", rows=ROWS_AT_ONCE):
        """Iterate over the items as Blocks of up to so many rows, in the order of their ids.

        Parameters
        ----------
        labels : attributes to read; one that the table does not have has no values
        where : an SQL condition, such as ``enabled=1 AND id>17``
        """
        if not self.exists:
            return
        query = f"SELECT {self._selected(labels)} FROM {self.objects} WHERE id > ? AND ({where}) ORDER BY id LIMIT ?"
        last = _BEFORE_ALL
        with self._connection() as connection:
            # from one id to the next, instead of one query for all, which would keep the file locked
            while found := connection.execute(query, (last, rows)).fetchall():
                last = found[-1][0]
                yield Block(self.name, labels, found)

    def rows(self, ids, labels=(), where="1"):
        """The Block of those items that the table has of some ids (n,), in the order of the ids, which are rising."""
        found = []
        if self.exists:
            # the ids lead, and each item is looked up: CROSS JOIN keeps to that
            query = (
                f"SELECT {self._selected(labels)} FROM (SELECT value AS wanted FROM json_each(?)) "
                f"CROSS JOIN {self.objects} ON id = wanted WHERE {where}"
            )
            with self._connection() as connection:
                found = connection.execute(query, (json.dumps(np.asarray(ids).tolist()),)).fetchall()
        return Block(self.name, labels, found)

    def _selected(self, labels):
        """What to ask for, in SQL: ids and enabled, and the columns of labels."""
        columns = ("id", "enabled", *(self.columns.get(label, "NULL") for label in labels))
        return ", ".join(columns)


class Block:
    """Rows of a table.

    Attributes
    ----------
    ids : (n,) int64, rising
    enabled : (n,) bool
    """

    def __init__(self, name, labels, rows):
        """`rows` are tuples of id, enabled, and the values of the labels; `name` is that of the table, for people."""
        ids, enabled, *columns = zip(*rows) if rows else [()] * (2 + len(labels))
        self.ids, self.enabled = np.array(ids, dtype=np.int64), np.array(enabled, dtype=bool)
        self._name, self._columns = name, dict(zip(labels, columns))

    def __len__(self):
        return len(self.ids)

    def floats(self, label):
        """(n,) float64, nan where there is no value. Raises DataError if there is anything but numbers."""
        return self._array(label, self._columns[label], np.float64)

    def integers(self, label, missing):
        """(n,) int64, `missing` where there is no value. Raises DataError if there is anything but numbers."""
        column = self._columns[label]
        if None in column:
            column = [missing if value is None else value for value in column]
        return self._array(label, column, np.int64)

    def texts(self, label):
        """List of n texts, None where there is none."""
        return list(self._columns[label])

    def matrices(self, label):
        """(n, 4, 4) float64, nan all over where there is no matrix of that shape."""
        return matricesOf(self._columns[label])

    def only(self, places):
        """The Block of the rows at some places (n,)."""
        chosen = copy.copy(self)
        chosen.ids, chosen.enabled = self.ids[places], self.enabled[places]
        chosen._columns = {
            label: tuple(column[place] for place in places.tolist()) for label, column in self._columns.items()
        }
        return chosen

    def _array(self, label, column, dtype):
        try:
            return np.array(column, dtype=dtype)
        except (ValueError, TypeError, OverflowError) as error:
            raise DataError(
                f"{self._name}, {label}: got something other than numbers ({error}), expected numbers; repair the set"
            ) from error


def tableOf(images):
    """The ItemTable of a pwem set, or of a class of a set of classes. Raises DataError if it is not as expected."""
    return ItemTable(images.getFileName(), (images.getPrefix() or "").strip(), images.getSize())


def addressOf(path):
    """A file's address for SQLite, which is to read it only."""
    return Path(path).absolute().as_uri() + "?mode=ro"


def matricesOf(texts):
    """(n, 4, 4) float64 from as many texts, nan all over where a text is None or not that of a 4x4 matrix."""
    try:
        return _parse(texts)
    except (ValueError, TypeError):  # one or more of them
        return np.concatenate([_parseOne(text) for text in texts])


def _parse(texts):
    """Many at once, which is several times as fast as one after the other; ValueError, TypeError if any is unfit."""
    joined = ",".join(texts).encode()
    if not _areMatrices(joined, len(texts)):
        raise ValueError("not matrices")
    numbers = json.loads(b"[" + joined.translate(None, b"[]") + b"]")
    return np.array(numbers, dtype=np.float64).reshape(-1, 4, 4)


def _parseOne(text):
    try:
        return _parse([text])
    except (ValueError, TypeError):
        return np.full((1, 4, 4), np.nan)


def _areMatrices(joined, count):
    return joined.translate(None, _OF_NUMBERS) == b",".join([_MATRIX] * count)


def textsMoved(texts, translations):
    """The texts of n 4x4 matrices with other translations (n, 3), the first three numbers of their last columns.

    All other digits stay as they are, and it takes a third of the time that formatting whole matrices would.
    Raises DataError if a text is not that of a 4x4 matrix.
    """
    if not texts:
        return []
    if None in texts or not _areMatrices(",".join(texts).encode(), len(texts)):
        (unfit, *_) = (text for text in texts if text is None or not _areMatrices(text.encode(), 1))
        raise DataError(f"alignment matrix: got {unfit!r}, expected 4x4 numbers; remove this particle from the input")
    parts = ",\n".join(texts).split(",")
    for row, column in enumerate(np.asarray(translations, dtype=np.float64).T.tolist()):
        parts[4 * row + 3 :: 16] = [f" {number}]" for number in json.dumps(column)[1:-1].split(", ")]
    return ",".join(parts).split(",\n")
