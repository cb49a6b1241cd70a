# SPDX-License-Identifier: GPL-3.0-or-later
"""What there is to tell particles by where their images say nothing: whether two of them are the same particle."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .image_tables import IMAGE, NO_IMAGE, areKnown, areSameShifts, columnsOf
from .micrographs import NAME, NUMBERS, areNamed, numbersOf, plainNames
from .results import SHIFT_RECORDS
from .wanted import PLACE

_DEFOCUS = ("_ctfModel._defocusU", "_ctfModel._defocusV")
_RATE = "_samplingRate"
_SAME_DEFOCUS = 1.0  # Å
_SAME_PLACE = 2.0  # px; coordinates are rounded, by some programs cut, each time that they are scaled
SAME_RATE = 0.01  # of pixel sizes that differ only as people and programs round them
WRITTEN_AGAIN = "its image was rewritten by another protocol"
_ANOTHER = f"{WRITTEN_AGAIN}, and the downsampled particle with its id is a different one"


class Evidence(NamedTuple):
    """What there is to tell n particles by, nan where there is nothing.

    Attributes
    ----------
    keys : (n,) of their images, NO_IMAGE for particles that are not there
    micrographs : (n,) ids
    names : (n,) object, plain names of the micrographs; None where there is none
    places : (n, 2) in the micrograph, in px of the particles, as they stand in the set: after any shift
    rates : (n,) pixel sizes, in Å
    defocus : (n, 2) U and V, in Å
    records : (n, 2) recorded shifts, in Å
    """

    keys: np.ndarray
    micrographs: np.ndarray
    names: np.ndarray
    places: np.ndarray
    rates: np.ndarray
    defocus: np.ndarray
    records: np.ndarray

    @classmethod
    def of(cls, sources, ids, imageKeys):
        """That of the enabled particles of Sources with some ids (n,), in any order."""
        wanted, places = np.unique(ids, return_inverse=True)
        found = cls._ofNothing(len(wanted))
        for source in sources:
            labels = (*IMAGE, *NUMBERS, NAME, *PLACE, *_DEFOCUS, *SHIFT_RECORDS, _RATE)
            block = source.table.rows(wanted, labels, "enabled=1")
            there = np.searchsorted(wanted, block.ids)
            for column, values in zip(found, cls._ofBlock(block, source.apix, imageKeys)):
                column[there] = values
        return found.take(places)

    @classmethod
    def _ofNothing(cls, count):
        some, pairs = (count,), (count, 2)
        columns = [np.full(shape, np.nan) for shape in (some, pairs, some, pairs, pairs)]
        return cls(np.full(count, NO_IMAGE), columns[0], np.full(count, None, dtype=object), *columns[1:])

    @classmethod
    def _ofBlock(cls, block, apix, imageKeys):
        rates = block.floats(_RATE)
        return cls(
            imageKeys.of(block),
            numbersOf(block),
            plainNames(block.texts(NAME)),
            columnsOf(block, PLACE),
            np.where(np.isnan(rates), apix or np.nan, rates),
            columnsOf(block, _DEFOCUS),
            columnsOf(block, SHIFT_RECORDS),
        )

    def take(self, places):
        """That of particles at some places (m,), or of a mask (n,)."""
        return Evidence(*(column[places] for column in self))


def placeProblems(some, others, apix, why, where=True):
    """{number: sentence} where micrographs, or places in them, are known of both and are not the same.

    `some` and `others` are Evidence of n particles, `apix` is the pixel size (Å) of the first; `why` begins the
    sentences; `where` (n,) bool tells which to look at.
    """
    differ = _areOfOtherMicrographs(some, others)
    apart = distances(some, others)
    areFar = (apart > _SAME_PLACE * apix).any(axis=1)
    problems = {}
    for i in np.flatnonzero((differ | areFar) & where).tolist():
        if differ[i]:
            problems[i] = f"{why}: its micrograph is {_micrograph(some, others, i)}"
        else:
            problems[i] = f"{why}: they are {np.hypot(*apart[i]):.4g} Å apart in the micrograph"
    return problems


def distances(some, others):
    """(n, 2) in Å, how far particles of Evidence stand apart in x and y; nan where one has no place.

    Before any shift where both have a record of theirs: the same whatever runs have done. Else as they stand: a record
    gets lost outside Scipion, and what comes back are the coordinates that the run has written.
    """
    records = areKnown(some.records) & areKnown(others.records)
    shifts = np.where(records[:, None], some.records - others.records, 0)
    areSame = ~records & (np.abs(some.rates / others.rates - 1) < SAME_RATE)
    rates = np.where(areSame, others.rates, some.rates)
    return np.abs(some.places * rates[:, None] - others.places * others.rates[:, None] + shifts)  # old = new / q + d


def _areNamed(some, others):
    """(n,) bool: where both micrographs have names."""
    return areNamed(some.names) & areNamed(others.names)


def _areOfOtherMicrographs(some, others):
    """(n,) bool. Names tell; numbers where there are none, since imports number micrographs anew."""
    byNumber = areKnown(some.micrographs) & areKnown(others.micrographs) & (some.micrographs != others.micrographs)
    for i in np.flatnonzero(byNumber & ~_areNamed(some, others)).tolist():  # a program that wants a name takes a number
        areNumbers = some.names[i] == f"{others.micrographs[i]:.0f}" or others.names[i] == f"{some.micrographs[i]:.0f}"
        byNumber[i] = not areNumbers
    return np.where(_areNamed(some, others), np.not_equal(some.names, others.names), byNumber).astype(bool)


def _micrograph(some, others, i):
    if some.names[i] is not None and others.names[i] is not None:
        return f"'{some.names[i]}', not '{others.names[i]}'"
    return f"{some.micrographs[i]:.0f}, not {others.micrographs[i]:.0f}"


def identityProblems(own, named, apix, isNumberedAnew):
    """{number: why a particle is not shown to be the downsampled one of its id}, by the best of what both carry.

    Parameters
    ----------
    own, named : Evidence of n particles and of the downsampled ones of their ids
    apix : pixel size (Å) of the particles
    isNumberedAnew : called to know whether the set is numbered anew, if anything hangs on that
    """
    byPlace = areKnown(own.places) & areKnown(named.places)
    byRecord = ~byPlace & areKnown(own.records) & areKnown(named.records)
    byRecord &= ((own.records != 0) | (named.records != 0)).any(axis=1)
    problems = dict.fromkeys(
        np.flatnonzero(named.keys == NO_IMAGE).tolist(),
        "neither its image nor its id is among the downsampled particles",
    )
    others = (
        placeProblems(own, named, apix, _ANOTHER, byPlace),
        _recordProblems(own, named, byRecord),
        _defocusProblems(own, named, ~byPlace & ~byRecord, isNumberedAnew),
    )
    for each in others:
        problems = {**each, **problems}
    return problems


def _recordProblems(own, named, where):
    return {
        i: f"{_ANOTHER}: its recorded shift is {own.records[i]}, not {named.records[i]} Å"
        for i in np.flatnonzero(where & ~areSameShifts(own.records, named.records)).tolist()
    }


def _defocusProblems(own, named, where, isNumberedAnew):
    differ = (np.abs(own.defocus - named.defocus) > _SAME_DEFOCUS).any(axis=1)
    problems = {
        i: f"{_ANOTHER}: its defocus is {own.defocus[i]}, not {named.defocus[i]} Å"
        for i in np.flatnonzero(where & differ).tolist()
    }
    rest = np.flatnonzero(where & ~differ).tolist()
    if rest and isNumberedAnew():
        why = f"{WRITTEN_AGAIN}, the set has been renumbered, and nothing identifies the particle"
        problems.update(dict.fromkeys(rest, why))
    return problems
