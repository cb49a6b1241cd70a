# SPDX-License-Identifier: GPL-3.0-or-later
"""Filling a Scipion set by columns: rows of other sets, copied within SQLite, with some values changed.

What comes out is what the object layer would have written by `copyItems`, but for the time of creation, which rows
that are written together share, and for what Scipion's one object for all items carries from one item to the next
where there is no value: matrices and lists get what a new object holds, acquisitions those of the set.
"""

from __future__ import annotations

import contextlib
import itertools
import sqlite3
from typing import NamedTuple

from pyworkflow.object import Scalar

from ..errors import DataError
from .set_columns import LONGEST_WAIT, ItemTable, addressOf, tableOf

_ACQUISITION, _RATE = "_acquisition", "_samplingRate"
_MAKE_ACQUISITION = ("_acquisition._voltage", "_acquisition._magnification")  # what Scipion calls one has both
_NOW = "(SELECT datetime('now'))"  # once for all rows


class Carried(NamedTuple):
    """Attributes that rows take from another table than the rest.

    Attributes
    ----------
    table : an ItemTable
    ids : in that table, one for each row
    names : attributes to take, with all that they hold, whether there are values or not
    whereGiven : labels of which only values are taken: where there is none, what the row has stays
    """

    table: ItemTable
    ids: list
    names: tuple
    whereGiven: tuple = ()


class SetWriter:
    """Fills an output set with rows of other sets. To be used in a ``with`` statement; the set is loaded anew after it.

    The caller writes the properties of the set, as ever. Nothing is locked but while rows are written.
    """

    def __init__(self, output, prepare, atOnce=False):
        """Fill a set that pwem has made, with or without items.

        Parameters
        ----------
        output : the set; its sampling rate, if it has one, becomes that of the items
        prepare : called with the first item, an object, if the set has none yet: gives it the attributes, of any value,
            that the items of the output are to have and those of its own set do not
        atOnce : whether all rows of a source appear at once, when the next source begins or the writer is closed: for
            sets that are to be taken up after a kill. Until then they are in a temporary file of SQLite's.
        """
        self._output, self._prepare, self._atOnce = output, prepare, atOnce
        self._kept = None  # what tells staged rows from others, which go in by another statement
        self._statement, self._staged = "", 0
        self._attached = {}

    def __enter__(self):
        self._output.write(properties=False)  # what was appended before
        self._readTables()
        self._connection = sqlite3.connect(self._output.getFileName(), LONGEST_WAIT, isolation_level=None, uri=True)
        return self

    def __exit__(self, kind, *_):
        with contextlib.closing(self._connection):
            if kind is None:
                self._flush()
        self._output.load()

    def append(self, images, ids, changes, newIds=None, carried=None):
        """Append rows.

        Parameters
        ----------
        images : the set, or class of a set of classes, that the rows come from
        ids : (n,) of items in it, in the order that the output is to have
        changes : {label: (n,) values instead of those of the source}; matrices as texts
        newIds : (n,) ids in the output, if other ones
        carried : Carried from another table

        Raises DataError if a source has none of an id, the output has an id already, or has none of the labels.
        """
        if len(ids) == 0:
            return
        carriedIds = carried.ids if carried else itertools.repeat(None)
        columns = [_listed(column) for column in (ids, ids if newIds is None else newIds, carriedIds)]
        columns += map(_listed, changes.values())
        if not self._table.exists:
            first = {label: values[0] for label, values in zip(changes, columns[3:])}
            self._makeTables(images, columns[0][0], first)
        self._choose(images, tuple(changes), carried)
        with self._told():
            self._connection.execute("BEGIN")
            places = ", ".join("?" * len(columns))
            rows = self._connection.executemany(f"INSERT INTO temp.staged VALUES ({places})", zip(*columns))
            self._staged += rows.rowcount
            self._connection.execute("COMMIT")
        if not self._atOnce:
            self._flush()

    def _makeTables(self, images, itemId, changes):
        """Have pwem make the tables, for items like the first one, and note the size of its image."""
        # a copy: the object itself stands for all that will be read from its set
        items = [item.clone() for item in images.iterItems(where=f"id={itemId}", limit=1)]
        if not items:
            raise _lost(images.getFileName(), itemId)
        self._prepare(items[0])
        for label, value in changes.items():
            items[0].setAttributeValue(label, value)
        self._output.append(items[0])
        self._output._getMapper().delete(items[0])  # it comes again, with the others
        self._output.write(properties=False)
        self._readTables()

    def _readTables(self):
        self._table = ItemTable(self._output.getFileName())
        if self._table.exists:
            attributes = self._output._getMapper().getInstance().getMappedDict()
            kinds = {label: type(value) for label, value in attributes.items() if isinstance(value, Scalar)}
            self._empty = {label: kind().getObjValue() for label, kind in kinds.items()}
        self._output.close()  # pwem may have left an iteration half-way, which locks the file

    def _choose(self, images, labels, carried):
        """Make ready for rows of a source with new values for some labels."""
        chosen: tuple = (images.getFileName(), images.getPrefix(), labels)
        if carried:
            chosen = (*chosen, carried.table.name, carried.names, carried.whereGiven)
        if chosen == self._kept:
            return
        self._flush()
        self._kept = chosen
        missing = [label for label in labels if label not in self._table]
        if missing:
            raise DataError(
                f"{self._table.name}: got {sorted(self._table.columns)}, expected {missing} among them, since there "
                "are values for it; create the set again"
            )
        with self._told():
            changed = {label: f"t.value{number}" for number, label in enumerate(labels)}
            columns = ", ".join(["source_id", "new_id", "carried_id", *(name[2:] for name in changed.values())])
            self._connection.execute("DROP TABLE IF EXISTS temp.staged")
            self._connection.execute(f"CREATE TEMP TABLE staged ({columns})")
            self._statement = self._insertion(images, changed, carried)

    def _insertion(self, images, changed, carried):
        """The statement that brings the staged rows into the output."""
        source = tableOf(images)
        acquisition = self._acquisitionOf(images)
        values = {}
        for label in self._table.columns:
            name = label.split(".")[0]
            value = f"s.{source.columns[label]}" if label in source else "NULL"
            if name == _ACQUISITION:
                value = self._completed(source, value, acquisition.get(label))
            if carried and (name in carried.names or label in carried.whereGiven):
                other = f"r.{carried.table.columns[label]}" if label in carried.table else "NULL"
                value = other if name in carried.names else f"coalesce({other}, {value})"
            if label == _RATE and self._output.getSamplingRate():
                value = self._literal(self._output.getSamplingRate())
            value = changed.get(label, value)
            empty = self._empty.get(label)
            values[self._table.columns[label]] = (
                value if empty is None else f"coalesce({value}, {self._literal(empty)})"
            )
        # what is staged has to come first, then the others are looked up by their ids: CROSS JOIN keeps to that
        joined = f"temp.staged t CROSS JOIN {self._attach(source)} s ON s.id = t.source_id"
        if carried:
            joined += f" CROSS JOIN {self._attach(carried.table)} r ON r.id = t.carried_id"
        return (
            f"INSERT INTO main.{self._table.objects} (id, enabled, label, comment, creation, {', '.join(values)}) "
            "SELECT t.new_id, coalesce(s.enabled <> 0, 0), coalesce(s.label, ''), coalesce(s.comment, ''), "
            f"{_NOW}, {', '.join(values.values())} FROM {joined} ORDER BY t.rowid"
        )

    def _acquisitionOf(self, images):
        """What pwem gives to items without an acquisition of their own, {label: value}."""
        own = images.getAcquisition()
        isWhole = None not in (own.getVoltage(), own.getMagnification())
        chosen = own if isWhole or not self._output.hasAcquisition() else self._output.getAcquisition()
        return {f"{_ACQUISITION}.{name}": value for name, value in chosen.getObjDict().items()}

    def _completed(self, source, value, default):
        """A value of an item's acquisition, or of the default one where it has none of its own."""
        if not all(label in source for label in _MAKE_ACQUISITION):
            return self._literal(default)
        lacking = " OR ".join(f"s.{source.columns[label]} IS NULL" for label in _MAKE_ACQUISITION)
        return f"CASE WHEN {lacking} THEN {self._literal(default)} ELSE {value} END"

    def _literal(self, value):
        """A value in SQL."""
        return self._connection.execute("SELECT quote(?)", (value,)).fetchone()[0]

    def _attach(self, table):
        """The name of another file's table of items in SQL."""
        if table.path not in self._attached:
            name = f"source{len(self._attached)}"
            self._connection.execute(f"ATTACH ? AS {name}", (addressOf(table.path),))
            self._attached[table.path] = name
        return f"{self._attached[table.path]}.{table.objects}"

    def _flush(self):
        """Bring what is staged into the output, all of it or nothing."""
        if not self._staged:
            return
        with self._told():
            self._connection.execute("BEGIN IMMEDIATE")
            if self._connection.execute(self._statement).rowcount != self._staged:
                raise self._lost()
            self._connection.execute("DELETE FROM temp.staged")
            self._connection.execute("COMMIT")
        self._staged = 0

    def _lost(self):
        """The error that there are fewer rows than ids."""
        (found,) = self._connection.execute(
            f"SELECT source_id FROM temp.staged WHERE new_id NOT IN (SELECT id FROM main.{self._table.objects}) LIMIT 1"
        ).fetchone()
        assert self._kept is not None, "rows were staged"
        return _lost(self._kept[0], found)

    @contextlib.contextmanager
    def _told(self):
        """Turn what SQLite has to say into a DataError."""
        try:
            yield
        except sqlite3.IntegrityError as error:
            raise DataError(
                f"{self._table.name}: got an id twice ({error}), expected each item once; check that the classes or "
                "sets do not share items"
            ) from error
        except sqlite3.Error as error:
            raise DataError(
                f"{self._table.name}: got '{error}' from SQLite, expected to add items; check the space on the disk "
                "and the permissions of the folder"
            ) from error


def _listed(column):
    """A column as SQLite takes it: values of Python's own types."""
    return column.tolist() if hasattr(column, "tolist") else column


def _lost(path, itemId):
    return DataError(
        f"{path}: got no item with id {itemId}, expected it, since it was there before: the set was changed during "
        "the run; restart the run"
    )
