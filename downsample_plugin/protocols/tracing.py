# SPDX-License-Identifier: GPL-3.0-or-later
"""Tracing particles back through runs, many at once: images lead from run to run, ids where there is evidence."""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

from .evidence import SAME_RATE, WRITTEN_AGAIN, Evidence, identityProblems, placeProblems
from .image_tables import IMAGE, NO_IMAGE, ImageKeys, ImageTable, Link, PlaceTable, areKnown, areSameShifts, columnsOf
from .micrographs import areNamed, unclearNames
from .results import SHIFT_RECORDS

TRACED_BY = (*IMAGE, *SHIFT_RECORDS)  # labels
_SOME_ELSEWHERE = 0.1  # of the particles whose records are lost


class Origins(NamedTuple):
    """Where the n particles of a block come from.

    Attributes
    ----------
    ids : (n,) of the full-size particles
    shifts : (n, 2), in Å, applied on the way
    reasons : {place in the block: why it cannot be found}
    """

    ids: np.ndarray
    shifts: np.ndarray
    reasons: dict


class Stage(NamedTuple):
    """A run that particles may have come through, None if it is not here; and the Sources of its sets, if they are."""

    run: object
    output: list
    input: list


class Tracer:
    """Traces particles. Holds tables of all images on the way, some 50 bytes for each, so do not keep it.

    Attributes
    ----------
    runs : the runs that particles have come through so far
    byId, byPlace : how many particles were found by their ids, and by their positions, so far
    """

    def __init__(self, particles, apix, stages, named, files, chosen, mustTell, resolve=str):
        """Read the tables.

        Parameters
        ----------
        particles : Sources of those that are to be traced, whose pixel size (Å) is `apix`
        stages : Stages, in the order in which images are looked for
        named : the one of them that particles must have come through
        files : names of the files whose images are full size
        chosen : Sources of the full-size particles if the user has chosen them: the ids are theirs then; else None
        mustTell : whether it matters which of several particles that share a full-size image it is
        resolve : that of ImageKeys
        """
        self._particles, self._apix, self._mustTell = particles, apix, mustTell
        self._stages, self._named = stages, named
        self._keys = ImageKeys(files, resolve)
        self._links = [Link(stage.output, stage.input, self._keys) for stage in stages]
        self._chosen = None if chosen is None else ImageTable.of(chosen, self._keys)
        self.runs, self.byId, self.byPlace = [], 0, 0

    def trace(self, source, block):
        """The Origins of the particles of a Block of a Source, which was read with TRACED_BY."""
        way = _Way(source, block, self._keys)
        self._findByIds(way)
        for _ in self._links:  # no way leads through a run twice
            for stage, link in zip(self._stages, self._links):
                self._goThrough(way, stage, link)
        self._arrive(way)
        return Origins(way.ids, way.shifts, way.reasons)

    def _goThrough(self, way, stage, link):
        """Take particles whose images a run has made to those that it has made them of."""
        here = way.open()
        here = here[~self._keys.areOfFirst(way.keys[here])]
        places, areShared, areOwn = link.made.find(way.keys[here], way.ids[here])
        there = places >= 0
        if not there.any():
            return
        here, places, areShared, areOwn = here[there], places[there], areShared[there], areOwn[there]
        way.passed[here] |= stage is self._named
        if stage.run is not None and stage.run not in self.runs:
            self.runs.append(stage.run)
        self._checkShared(way, here, areShared, areOwn, link.unclear)
        self._checkPlaces(way, here, areShared & ~areOwn, stage, link, places)
        way.follow(here, stage.input, link, places)
        if stage.run is not None and stage.input:
            way.fail(here[way.keys[here] == NO_IMAGE], "it is no longer in the input of the downsampling run")

    def _checkShared(self, way, here, areShared, areOwn, unclear=()):
        """Of particles that share an image the one of the id counts, else any, if all lead to the same place."""
        if self._mustTell and areShared.any():
            unknown = areShared & (~areOwn | self._isNumberedAnew)
        else:
            unknown = areShared & ~areOwn & np.isin(way.keys[here], unclear)
        way.fail(here[unknown], "several particles share its image, and nothing tells which one it is")

    def _checkPlaces(self, way, here, areAny, stage, link, places):
        """At least they must stand in the same place, where their records are not those of the run's present output or
        are lost, or `areAny`, they are just any of several.
        """
        differs = areKnown(link.shifts[places]) & ~areSameShifts(way.records[here], link.shifts[places])
        toCheck = areAny | differs
        for number in np.unique(way.sets[here[toCheck]]).tolist():
            some = toCheck & (way.sets[here] == number)
            before = Evidence.of(way.allSets[number], way.ids[here[some]], self._keys)
            now = Evidence.of(stage.output, link.made.ids[places[some]], self._keys)
            problems = placeProblems(before, now, self._apix, "the run has been repeated with different particles")
            way.failEach(here[some], problems)
            self._checkLost(way, here[some], before, now, problems)

    @staticmethod
    def _checkLost(way, here, before, now, problems):
        """Where records are lost, and several particles stand elsewhere now, others have been moved by less, unseen."""
        areLost = ~areKnown(before.records)
        why = "the run has been repeated with different settings, and what it did to this image before is not recorded"
        elsewhere = sum(bool(areLost[i]) for i in problems)
        if elsewhere > _SOME_ELSEWHERE * areLost.sum():
            way.fail(here[areLost], why)
        ofOtherPixels = areLost & (np.abs(before.rates / now.rates - 1) > SAME_RATE)
        way.fail(here[ofOtherPixels], f"its pixel size is not that of the run's images: {why}")

    def _arrive(self, way):
        """See that particles have come to full-size ones, and to their ids in the chosen set."""
        here = way.open()
        why = "its image does not come from the run given as Downsampled particles"
        way.fail(here[~way.passed[here]], why)
        way.fail(here[~areKnown(way.shifts[here])], "neither it nor the downsampled particle has a record of its shift")
        if self._chosen is None:
            why = "its full-size particle is not one of those of the given run"
            way.fail(here[~self._keys.areOfFirst(way.keys[here])], why)
            return
        places, areShared, areOwn = self._chosen.find(way.keys[here], way.ids[here])
        self._checkShared(way, here, areShared, areOwn)
        there = places >= 0
        way.ids[here[there]] = self._chosen.ids[places[there]]

    # ---- by ids ------------------------------------------------------------------------------------------

    def _findByIds(self, way):
        """Where no run has made an image, take the downsampled particle of the id, if it is shown to be the same."""
        here = np.flatnonzero(~self._areMade(way.keys))
        if not len(here):
            return
        own = Evidence.of(way.allSets[0], way.ids[here], self._keys)
        wanted, areLost = self._wantedOf(own, way.ids[here])
        named = Evidence.of(self._named.output, wanted, self._keys)
        problems = self._problemsOfPlace(own, wanted, areLost)
        own, named = self._withoutUnclear(own), self._withoutUnclear(named)
        problems.update(
            (i, why)
            for i, why in identityProblems(own, named, self._apix, lambda: self._isNumberedAnew).items()
            if i not in problems
        )
        way.failEach(here, problems)
        found = np.isin(np.arange(len(here)), list(problems), invert=True)
        self.byPlace += int((found & areLost).sum())
        self.byId += int((found & ~areLost).sum())
        here, named, wanted = here[found], named.take(found), wanted[found]
        records = np.where(areKnown(way.records[here])[:, None], way.records[here], named.records)
        way.goTo(here, self._named.output, wanted, named.keys, records)

    def _wantedOf(self, own, ids):
        """Ids (n,) of the downsampled particles that those of Evidence are looked for among, and (n,) bool: where by
        place. That is where the record is lost: the particle was outside Scipion, where ids are lost too.
        """
        areLost = ~areKnown(own.records) & areKnown(own.places) & areNamed(own.names)
        areLost &= areKnown(own.rates)
        if not areLost.any() or not len(self._places):
            return ids, np.zeros(len(ids), dtype=bool)
        scale = own.rates / self._namedRate
        scale = np.where(np.abs(scale - 1) < SAME_RATE, 1, scale)
        wanted = ids.copy()
        wanted[areLost] = self._places.find(own.names[areLost], (own.places * scale[:, None])[areLost])
        return wanted, areLost

    def _problemsOfPlace(self, own, wanted, areLost):
        """{number: why a particle is not found by its place}."""
        problems = {}
        for i in np.flatnonzero(areLost).tolist():
            at = f"({own.places[i][0]:g}, {own.places[i][1]:g}) px in the micrograph '{own.names[i]}'"
            if own.names[i] in self._unclear:
                problems[i] = (
                    f"{WRITTEN_AGAIN}, and several micrographs have the name of its micrograph: '{own.names[i]}'"
                )
            elif wanted[i] == PlaceTable.SEVERAL:
                problems[i] = f"{WRITTEN_AGAIN}, and several downsampled particles are at its position: {at}"
            elif wanted[i] == PlaceTable.NONE:
                problems[i] = f"{WRITTEN_AGAIN}, and no downsampled particle is at its position: {at}"
        return problems

    def _withoutUnclear(self, found):
        """Evidence without the names that stand for several micrographs."""
        if self._unclear:
            names = [None if name in self._unclear else name for name in found.names]
            found = found._replace(names=np.array([*names, None], dtype=object)[:-1])
        return found

    @functools.cached_property
    def _unclear(self):
        return unclearNames(self._particles) | unclearNames(self._named.output)

    @functools.cached_property
    def _places(self):
        return PlaceTable(self._named.output)

    @functools.cached_property
    def _namedRate(self):
        return next((source.apix for source in self._named.output if source.apix), np.nan)

    def _areMade(self, keys):
        """(n,) bool: whether any run has made an image, and it is not a full-size one."""
        made = np.zeros(len(keys), dtype=bool)
        for link in self._links:
            made |= link.made.has(keys)
        return made & ~self._keys.areOfFirst(keys)

    @functools.cached_property
    def _isNumberedAnew(self):
        """Whether the particles have ids that the downsampled ones do not have."""
        return any(
            sum(len(each.table.rows(block.ids, (), "enabled=1")) for each in self._named.output) < len(block)
            for source in self._particles
            for block in source.table.blocks()
        )


class _Way:
    """Where the n particles of a block have come to.

    Attributes
    ----------
    ids, keys : (n,) of the particles that they have come to
    records : (n, 2) shifts recorded on these, in Å; nan where there is none
    sets : (n,) numbers of the sets that these are in
    allSets : lists of Sources by those numbers
    shifts : (n, 2), in Å, applied so far
    passed : (n,) bool: whether they have come through the run that is named
    reasons : {place in the block: why it cannot be found}
    """

    def __init__(self, source, block, imageKeys):
        count = len(block)
        self.ids, self.keys, self.records = block.ids.copy(), imageKeys.of(block), columnsOf(block, SHIFT_RECORDS)
        self.sets, self.allSets = np.zeros(count, dtype=np.int64), [[source]]
        self.shifts, self.passed = np.zeros((count, 2)), np.zeros(count, dtype=bool)
        self.reasons, self._isOpen = {}, np.ones(count, dtype=bool)

    def open(self):
        """Places of the particles that have not failed."""
        return np.flatnonzero(self._isOpen)

    def fail(self, places, why):
        """Particles cannot be found, all for one reason. The first reason stays."""
        self.failEach(places, dict.fromkeys(range(len(places)), why))

    def failEach(self, places, reasons):
        """Particles at some of the places cannot be found: {number in `places`: why}."""
        for number, why in reasons.items():
            self.reasons.setdefault(int(places[number]), why)
            self._isOpen[places[number]] = False

    def follow(self, places, sources, link, made):
        """Particles are those of a link's output at places `made`, and go to what these were made of, in Sources."""
        # a particle's own record tells of the image that it was aligned by, the run's output of the present one
        records = self.records[places]
        self.shifts[places] += np.where(areKnown(records)[:, None], records, link.shifts[made])
        records = np.nan if link.sourceRecords is None else link.sourceRecords[made]
        self.goTo(places, sources, link.made.ids[made], link.sources[made], records)

    def goTo(self, places, sources, ids, keys, records):
        """Particles are those of other Sources from now on."""
        self.sets[places] = len(self.allSets)
        self.allSets.append(sources)
        self.ids[places], self.keys[places], self.records[places] = ids, keys, records
