# SPDX-License-Identifier: GPL-3.0-or-later
"""What there is to tell particles by where their images say nothing: whether two of them are the same particle."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .image_tables import IMAGE, NO_IMAGE, areKnown, areSameShifts, columnsOf
from .results import SHIFT_RECORDS
from .wanted import PLACE

_MICROGRAPHS = ("_micId", "_coordinate._micId")  # Scipion looks at the first, then at the second
_DEFOCUS = ("_ctfModel._defocusU", "_ctfModel._defocusV")
_RATE = "_samplingRate"
_SAME_DEFOCUS = 1.0  # Å
_SAME_PLACE = 2.0  # px; coordinates are rounded, by some programs cut, each time that they are scaled
_WRITTEN_AGAIN = "its image was written again by another protocol"
_ANOTHER = f"{_WRITTEN_AGAIN}, and the downsampled particle of its id is another one"


class Evidence(NamedTuple):
    """What there is to tell n particles by, nan where there is nothing.

    Attributes
    ----------
    keys : (n,) of their images, NO_IMAGE for particles that are not there
    micrographs : (n,) ids
    places : (n, 2) in the micrograph, in Å, as they were before any shift: the same whatever runs have done
    defocus : (n, 2) U and V, in Å
    records : (n, 2) recorded shifts, in Å
    """

    keys: np.ndarray
    micrographs: np.ndarray
    places: np.ndarray
    defocus: np.ndarray
    records: np.ndarray

    @classmethod
    def of(cls, sources, ids, imageKeys):
        """That of the enabled particles of Sources with some ids (n,), in any order."""
        wanted, places = np.unique(ids, return_inverse=True)
        pairs = [np.full((len(wanted), 2), np.nan) for _ in range(3)]
        found = cls(np.full(len(wanted), NO_IMAGE), np.full(len(wanted), np.nan), *pairs)
        for source in sources:
            labels = (*IMAGE, *_MICROGRAPHS, *PLACE, *_DEFOCUS, *SHIFT_RECORDS, _RATE)
            block = source.table.rows(wanted, labels, "enabled=1")
            there = np.searchsorted(wanted, block.ids)
            for column, values in zip(found, cls._ofBlock(block, source.apix, imageKeys)):
                column[there] = values
        return found.take(places)

    @classmethod
    def _ofBlock(cls, block, apix, imageKeys):
        micrographs, rates = block.floats(_MICROGRAPHS[0]), block.floats(_RATE)
        rates = np.where(np.isnan(rates), apix or np.nan, rates)[:, None]
        records = columnsOf(block, SHIFT_RECORDS)
        return cls(
            imageKeys.of(block),
            np.where(np.isnan(micrographs), block.floats(_MICROGRAPHS[1]), micrographs),
            columnsOf(block, PLACE) * rates + np.nan_to_num(records),  # old = new / q + d
            columnsOf(block, _DEFOCUS),
            records,
        )

    def take(self, places):
        """That of particles at some places (m,), or of a mask (n,)."""
        return Evidence(*(column[places] for column in self))


def placeProblems(some, others, apix, why, where=True):
    """{number: sentence} where micrographs, or places in them, are known of both and are not the same.

    `some` and `others` are Evidence of n particles, `apix` is the pixel size (Å) of the first; `why` begins the
    sentences; `where` (n,) bool tells which to look at.
    """
    differ = areKnown(some.micrographs) & areKnown(others.micrographs) & (some.micrographs != others.micrographs)
    apart = np.abs(some.places - others.places)
    areFar = (apart > _SAME_PLACE * apix).any(axis=1)
    problems = {}
    for i in np.flatnonzero((differ | areFar) & where).tolist():
        if differ[i]:
            problems[i] = f"{why}: its micrograph is {some.micrographs[i]:.0f}, not {others.micrographs[i]:.0f}"
        else:
            problems[i] = f"{why}: they stand {np.hypot(*apart[i]):.4g} Å apart in the micrograph"
    return problems


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
        why = f"{_WRITTEN_AGAIN}, the set is numbered anew, and nothing tells which particle it is"
        problems.update(dict.fromkeys(rest, why))
    return problems
