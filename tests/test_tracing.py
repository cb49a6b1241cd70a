# SPDX-License-Identifier: GPL-3.0-or-later
"""Tracing on sets made for it: ways that are known, what counts as evidence, and lists of what is left out."""

import os
from pathlib import Path

import numpy as np
import pytest

from downsample_plugin.errors import DataError

from .test_set_columns import bare, newSet, update

pytestmark = pytest.mark.usefixtures("scipion", "here")

RECORDS = ("_downsampleShiftX", "_downsampleShiftY")


def sources(*sets):
    from downsample_plugin.protocols.image_tables import sourcesOf
    from downsample_plugin.protocols.particles import InputParticles

    return [source for each in sets for source in sourcesOf(InputParticles(each))]


def item(number, index, file, record=None, **attributes):
    from pyworkflow.object import Float

    made = bare(number)
    made.setLocation(index, file)
    for name, value in zip(RECORDS, () if record is None else record):
        setattr(made, name, Float(value))
    for name, value in attributes.items():
        setattr(made, name, value)
    return made


# ---- known ways -------------------------------------------------------------------------------------------


class World:
    """Full-size particles, a run on them, a set of its images numbered anew and expanded, a run on that, and a mix of
    images of both, numbered anew again. All by chance, but it is known what comes from where.
    """

    def __init__(self, seed):
        rng = self._rng = np.random.default_rng(seed)
        count = 40
        full = rng.choice(1000, count, replace=False)
        items = [item(key, i + 1, f"full_{i % 3}.mrcs") for i, key in enumerate(full.tolist())]
        self.full = [newSet("full", items[::2]), newSet("more", items[1::2])]  # such as two classes
        shifts = rng.normal(size=(count, 2)).round(2) * 5
        places = rng.permutation(count).tolist()
        first = [
            (key, (place // 2 + 1, f"first_{place % 2}.mrcs"), shift, key, shift)
            for key, place, shift in zip(full.tolist(), places, shifts)
        ]
        self.first = self._set("first", first)
        between = self._numberedAnew(first, 70)
        self.between = self._set("between", between)
        images = {}  # an output image for each input image
        second = []
        for key, location, _, origin, shift in between:
            place, applied = images.setdefault(location, (len(images), rng.normal(size=2).round(2)))
            second.append((key, (place + 1, "second.mrcs"), applied, origin, shift + applied))
        self.second = self._set("second", second)
        self.mix = self._numberedAnew(first + second, 90)
        self.particles = self._set("mix", self.mix)

    def _numberedAnew(self, rows, count):
        chosen = self._rng.integers(len(rows), size=count).tolist()
        ids = np.sort(self._rng.choice(1000, count, replace=False)).tolist()
        return [(key, *rows[i][1:]) for key, i in zip(ids, chosen)]

    def _set(self, name, rows):
        return newSet(name, [item(key, *location, record) for key, location, record, _, _ in rows])


def traced(world, particles, order=1, named=0, **settings):
    """The tracer, and Origins of all particles of sources, in small blocks."""
    from downsample_plugin.protocols.tracing import TRACED_BY, Stage, Tracer

    stages = [
        Stage("first run", sources(world.first), sources(*world.full)),
        Stage("second run", sources(world.second), sources(world.between)),
    ]
    files = [f"full_{i}.mrcs" for i in range(3)]
    given = {"chosen": None, "mustTell": False, **settings}
    tracer = Tracer(particles, 1.5, stages[::order], stages[named], files, **given)
    found = [
        (block.ids, tracer.trace(source, block))
        for source in particles
        for block in source.table.blocks(TRACED_BY, rows=7)
    ]
    return tracer, found


def reasonsOf(found):
    """{id: why it cannot be found}"""
    return {int(ids[i]): why for ids, origins in found for i, why in origins.reasons.items()}


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("seed", range(4))
def test_ways_that_are_known(seed, order):
    world = World(seed)
    tracer, found = traced(world, sources(world.particles), order)
    assert sorted(tracer.runs) == ["first run", "second run"] and tracer.byId == 0
    assert not any(origins.reasons for _, origins in found)
    assert np.concatenate([ids for ids, _ in found]).tolist() == [key for key, *_ in world.mix]
    assert np.concatenate([origins.ids for _, origins in found]).tolist() == [origin for *_, origin, _ in world.mix]
    shifts = np.concatenate([origins.shifts for _, origins in found])
    assert shifts == pytest.approx(np.array([shift for *_, shift in world.mix]), abs=1e-9)


def test_the_run_that_is_named():
    """Those that have not come through it are not taken."""
    world = World(5)
    _, found = traced(world, sources(world.particles), named=1)
    for (ids, origins), start in zip(found, range(0, len(world.mix), 7)):
        rows = world.mix[start : start + len(ids)]
        assert origins.reasons == {
            i: "its image does not come from the run given as Downsampled particles"
            for i, (_, (_, file), *_) in enumerate(rows)
            if file != "second.mrcs"
        }


def test_what_the_input_has_no_more():
    world = World(6)
    gone = world.mix[0][3]
    for part in world.full:
        update(part.getFileName(), {"enabled": 0}, f"id={gone}")
    _, found = traced(world, sources(world.particles))
    assert reasonsOf(found) == {
        key: "it is no longer in the input of the downsampling run"
        for key, *_, origin, _ in world.mix
        if origin == gone
    }


def test_a_run_whose_input_is_gone():
    """Its output has the ids yet: they count where the full-size particles are chosen."""
    world = World(9)
    full, world.full = world.full, []
    _, found = traced(world, sources(world.particles), chosen=sources(*full))
    assert not any(origins.reasons for _, origins in found)
    assert np.concatenate([origins.ids for _, origins in found]).tolist() == [origin for *_, origin, _ in world.mix]
    _, found = traced(world, sources(world.particles))
    why = "its full-size particle is not one of those of the given run"
    assert all(origins.reasons == dict.fromkeys(range(len(ids)), why) for ids, origins in found)


def test_chosen_particles_that_are_numbered_otherwise():
    """Their images count, not their ids; where they lack an image, the id may lead to another one's."""
    world = World(7)
    gone = world.mix[0][3]
    rows = [(1000 + item.getObjId(), item.getLocation()) for part in world.full for item in part]
    rows = [(key, location) for key, location in rows if key != 1000 + gone]
    chosen = newSet("chosen", [item(key, *location) for key, location in rows])
    _, found = traced(world, sources(world.particles), chosen=sources(chosen))
    ids = np.concatenate([origins.ids for _, origins in found]).tolist()
    assert ids == [origin + 1000 * (origin != gone) for *_, origin, _ in world.mix]


def test_records_that_are_missing():
    """The run's output tells then; where neither does, it is not made up."""
    world = World(8)
    number, lost = next((key, location) for key, location, *_ in world.mix if location[1] != "second.mrcs")
    update(world.particles.getFileName(), dict.fromkeys(RECORDS))
    for made in (world.first, world.second):
        update(
            made.getFileName(),
            dict.fromkeys(RECORDS),
            f"{column(made, '_index')}={lost[0]} AND {column(made, '_filename')}='{lost[1]}'",
        )
    _, found = traced(world, sources(world.particles))
    failed = reasonsOf(found)
    assert number in failed
    assert set(failed.values()) == {"neither it nor the downsampled particle has a record of its shift"}
    _, named = traced(world, sources(world.particles), named=1)
    assert "its image does not come from the run given" in reasonsOf(named)[number]  # the first reason counts
    ways = {key: shift for key, *_, shift in world.mix if key not in failed}
    shifts = {key: origins.shifts[i] for ids, origins in found for i, key in enumerate(ids.tolist()) if key in ways}
    assert ways.keys() == shifts.keys()
    assert all(shifts[key] == pytest.approx(ways[key], abs=1e-9) for key in ways)


class Repeated:
    """A run that was repeated. All particles have a pixel size of 1.5 Å, and are of one micrograph."""

    def __init__(self, now):
        """`now` are (x, y), in px, and record, in Å, of each output particle."""
        self.between = newSet("full", [item(i + 1, i + 1, "full_0.mrcs") for i in range(len(now))])
        self.full = [self.between]
        self.first = newSet("first", self.items(now))
        self.second = newSet("second", [item(1, 1, "nothing.mrcs", (0, 0))])

    @staticmethod
    def items(places):
        from pwem.objects import Coordinate

        made = []
        for i, (at, record) in enumerate(places, start=1):
            coordinate = Coordinate(x=at[0], y=at[1])
            coordinate.setMicId(1)
            made.append(item(i, i, "first.mrcs", record, _coordinate=coordinate))
        return made


def test_a_run_that_was_repeated():
    """A particle whose record is another one now must stand where it stood; then its own record counts."""
    world = Repeated([((100, 50), (3, 0)), ((100, 50), (3, 0)), ((100, 50), (3, 0)), ((100, 50), (3, 0))])
    before = [((102, 50), (0, 0)), ((102, 52), (1.5, -3)), ((102, 53), (3.0, 0)), ((105, 50), (0, 0))]
    particles = newSet("particles", world.items(before))
    _, ((ids, origins),) = traced(world, sources(particles))
    assert ids.tolist() == origins.ids.tolist() == [1, 2, 3, 4]
    assert origins.shifts[:3].tolist() == [[0, 0], [1.5, -3], [3, 0]]
    assert origins.reasons == {
        3: "the run has been repeated with different particles: they are 4.5 Å apart in the micrograph"
    }


def column(made, label):
    from downsample_plugin.protocols.set_columns import tableOf

    return tableOf(made).columns[label]


@pytest.mark.parametrize("seed", range(3))
def test_tables_of_images(seed):
    """Against looking at each row."""
    from downsample_plugin.protocols.image_tables import ImageTable

    rng = np.random.default_rng(seed)
    keys, ids = rng.integers(0, 25, 60), rng.permutation(60)
    order = np.lexsort((ids, keys))
    table = ImageTable(ids[order], keys[order])
    wanted, own = rng.integers(-2, 28, 300), rng.integers(0, 60, 300)
    assert np.array_equal(table.has(wanted), np.isin(wanted, keys))
    for key, number, place, isShared, isOwn in zip(wanted, own, *table.find(wanted, own)):
        rows = {i for i, k in zip(ids, keys) if k == key}
        if not rows:
            assert (place, isShared, isOwn) == (-1, False, False)
            continue
        assert table.keys[place] == key
        assert (isShared, isOwn) == (len(rows) > 1, number in rows)
        assert table.ids[place] == (number if isOwn else min(rows))
    empty = ImageTable(ids[:0], keys[:0])
    assert empty.find(wanted, own)[0].tolist() == [-1] * 300 and not empty.has(wanted).any()


@pytest.mark.parametrize(
    "records, sources_of, isClear",
    [
        ([None, None], [1, 1], True),  # without records, but from one image
        ([(1, 2), (1, 2)], [1, 1], True),
        ([(1, 2), (1, 2)], [1, 2], False),
        ([None, None], [1, 2], False),
        ([(1, 2), (1, 3)], [1, 1], False),
        ([(1, 2), (None, None)], [1, 1], False),  # it may have been another shift
    ],
)
def test_images_that_several_particles_share(records, sources_of, isClear):
    """Any of them tells where it came from, if all came from there."""
    from downsample_plugin.protocols.image_tables import ImageKeys, Link

    made = [item(i, 1, "small.mrcs", record) for i, record in enumerate(records, start=1)]
    full = [item(i, index, "full.mrcs") for i, index in enumerate(sources_of, start=1)]
    keys = ImageKeys([])
    link = Link(sources(newSet("made", made)), sources(newSet("full", full)), keys)
    assert link.unclear.tolist() == ([] if isClear else [link.made.keys[0]])


# ---- evidence ---------------------------------------------------------------------------------------------


def evidence(
    places=(0, 0), micrograph=1, name=None, defocus=(np.nan, np.nan), record=(np.nan, np.nan), key=1, rate=1.5
):
    """Of one particle; `places` in Å."""
    from downsample_plugin.protocols.evidence import Evidence

    found = Evidence(*([each] for each in (key, micrograph, name, np.divide(places, rate), rate, defocus, record)))
    kinds = (int, float, object, float, float, float, float)
    return Evidence(*(np.array(each, dtype=kind) for each, kind in zip(found, kinds)))


NOWHERE = (np.nan, np.nan)
ANOTHER = "its image was rewritten by another protocol, and the downsampled particle with its id is a different one: "


@pytest.mark.parametrize(
    ("own", "named", "isNumberedAnew", "problem"),
    [
        ({}, {"key": -1}, False, "neither its image nor its id is among the downsampled particles"),
        # place before all else
        ({}, {"places": (2.9, -2.9)}, True, None),
        ({}, {"places": (3.1, 0)}, False, ANOTHER + "they are 3.1 Å apart in the micrograph"),
        ({}, {"places": (0, -4)}, False, ANOTHER + "they are 4 Å apart in the micrograph"),
        ({}, {"micrograph": 7}, False, ANOTHER + "its micrograph is 1, not 7"),
        ({}, {"micrograph": np.nan}, False, None),
        ({}, {"name": "a", "micrograph": 7}, False, ANOTHER + "its micrograph is 1, not 7"),
        ({"name": "7"}, {"micrograph": 7}, False, None),  # a number in place of a name
        ({"name": "1"}, {"micrograph": 7}, False, ANOTHER + "its micrograph is 1, not 7"),
        ({"name": "a"}, {"name": "a", "micrograph": 7}, False, None),
        ({"name": "a"}, {"name": "b"}, False, ANOTHER + "its micrograph is 'a', not 'b'"),
        # before any shift where both have a record, else as they stand
        ({"places": (4, 4), "record": (1, 1), "defocus": (9, 9)}, {"record": (5, 5), "defocus": (99, 99)}, True, None),
        ({"places": (4, 4), "record": (-3, 1)}, {"record": (5, 5)}, True, ANOTHER + "they are 4 Å apart"),
        ({}, {"record": (5, 5)}, True, None),
        ({"places": (4, 4), "record": (1, 1)}, {}, True, ANOTHER + "they are 5.657 Å apart"),
        ({"places": (999, 0), "rate": 1.49}, {"places": (1005, 0)}, True, None),  # a rounded pixel size
        ({"places": (999, 0), "rate": 1.49}, {"places": (999, 0)}, True, ANOTHER + "they are 6.705 Å apart"),
        ({"places": (999, 0), "rate": 3.0}, {"places": (999, 0)}, True, None),
        # then records, unless all are zero
        ({"places": NOWHERE, "record": (1, 2)}, {"record": (1, 2.0009), "micrograph": 3}, True, None),
        (
            {"places": NOWHERE, "record": (1, 2)},
            {"record": (1, 2.5)},
            False,
            ANOTHER + "its recorded shift is [1. 2.], not [1.  2.5] Å",
        ),
        (
            {"places": NOWHERE, "record": (0, 0)},
            {"record": (0, 1)},
            False,
            ANOTHER + "its recorded shift is [0. 0.], n",
        ),
        # then defocus and numbering
        ({"places": NOWHERE, "record": (0, 0)}, {"record": (0, 0)}, False, None),
        (
            {"places": NOWHERE, "record": (0, 0)},
            {"record": (0, 0)},
            True,
            "its image was rewritten by another protocol, the set has been renumbered, and nothing identifies",
        ),
        ({"places": NOWHERE, "defocus": (9, 8)}, {"defocus": (9.9, 8)}, False, None),
        (
            {"places": NOWHERE, "defocus": (9, 8)},
            {"defocus": (9, 5)},
            True,
            ANOTHER + "its defocus is [9. 8.], not [9. 5.] Å",
        ),
        ({"places": NOWHERE, "defocus": (9, 8)}, {}, True, "its image was rewritten by another protocol, the set"),
    ],
)
def test_what_shows_that_a_particle_is_the_same(own, named, isNumberedAnew, problem):
    from downsample_plugin.protocols.evidence import identityProblems

    found = identityProblems(evidence(**own), evidence(**named), 1.5, lambda: isNumberedAnew)
    assert list(found) == ([] if problem is None else [0])
    assert problem is None or found[0].startswith(problem)


def test_evidence_that_sets_hold():
    """Of any ids in any order; of classes, whose particles have different attributes."""
    from pwem.objects import Coordinate, CTFModel

    from downsample_plugin.protocols.evidence import Evidence
    from downsample_plugin.protocols.image_tables import ImageKeys

    def placed(number, record=None):
        coordinate = Coordinate(x=10 * number, y=7)
        coordinate.setMicId(100 + number)
        coordinate.setMicName(f"extra/mic {number}.mrc" if record else None)
        if record is None:
            return item(number, number, "a.mrcs", _coordinate=coordinate)
        ctf = CTFModel(defocusU=1e4 + number, defocusV=9e3)
        return item(number, number, "a.mrcs", record, _coordinate=coordinate, _ctfModel=ctf)

    marked = placed(2, (1.0, -2.0))
    marked.setMicId(5)
    small = [placed(1), placed(4)]
    small[1].setEnabled(False)
    classes = sources(newSet("one", [marked, placed(3, (0.0, 0.0))]), newSet("two", small))
    found = Evidence.of(classes, np.array([3, 9, 2, 1, 2, 4]), ImageKeys(["a.mrcs"]))
    assert found.keys.tolist() == [3, -1, 2, 1, 2, -1]
    nan = np.nan
    assert np.array_equal(found.micrographs, [103, nan, 5, 101, 5, nan], equal_nan=True)
    at = [[30, 7], [nan, nan], [20, 7], [10, 7], [20, 7], [nan, nan]]
    assert np.array_equal(found.places, at, equal_nan=True)
    assert np.array_equal(found.rates, [1.5, nan, 1.5, 1.5, 1.5, nan], equal_nan=True)
    assert found.names.tolist() == ["mic3", None, "mic2", None, "mic2", None]
    assert np.array_equal(found.defocus[:, 0], [10003, nan, 10002, nan, 10002, nan], equal_nan=True)
    assert np.array_equal(found.records[:, 0], [0, nan, 1, nan, 1, nan], equal_nan=True)


def test_items_without_a_pixel_size_have_that_of_their_set():
    from pwem.objects import Coordinate

    from downsample_plugin.protocols.evidence import Evidence
    from downsample_plugin.protocols.image_tables import ImageKeys

    made = newSet("one", [item(1, 1, "a.mrcs", _coordinate=Coordinate(x=2, y=4))])
    update(made.getFileName(), {"_samplingRate": None})
    assert Evidence.of(sources(made), np.array([1]), ImageKeys([])).rates.tolist() == [1.5]


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("mic.mrc", "mic"),
        ("a/b c/mic 1.tif.bz2", "mic1"),
        ("000005@Runs/mic_5.2.MRCS", "mic_5.2"),
        ("mic", "mic"),
        ("J1/imported/014268357291648713092_20201103_mic.mrc", "20201103_mic"),
        ("20201103_mic.mrc", "20201103_mic"),
        ("fake_micrograph     7", "7"),
        (".mrc", None),
        ("", None),
    ],
)
def test_plain_names_of_micrographs(name, plain):
    from downsample_plugin.protocols.micrographs import plainName, plainNames

    assert plainName(name) == plain
    assert plainNames([name, None, name]).tolist() == [plain, None, plain]


def test_names_of_several_micrographs():
    """In several folders, or of several numbers, whether in one set or in two classes."""
    from pwem.objects import Coordinate

    from downsample_plugin.protocols.micrographs import unclearNames

    def placed(number, name, micrograph):
        coordinate = Coordinate(x=1, y=1)
        coordinate.setMicName(name)
        coordinate.setMicId(micrograph)
        return item(number, number, "a.mrcs", _coordinate=coordinate)

    rows = [("x/one.mrc", 1), ("one", 1), ("x/two.mrc", 2), ("y/two.mrc", 2), ("three", 3), ("four", None), (None, 5)]
    more = [("x/three.mrc", 4), ("5@x/one.mrc", 1), ("four", 4), (None, 6)]
    first, second = (newSet(n, [placed(i, *row) for i, row in enumerate(r, 1)]) for n, r in (("a", rows), ("b", more)))
    assert unclearNames(sources(first)) == {"two"}
    assert unclearNames(sources(first, second)) == {"two", "three"}


@pytest.mark.parametrize("seed", range(3))
def test_tables_of_places(seed):
    """Against looking at each row; micrographs without a name are called by their numbers."""
    from pwem.objects import Coordinate

    from downsample_plugin.protocols.image_tables import PlaceTable

    rng = np.random.default_rng(seed)
    rows, items = {}, []
    for key in range(1, 61):
        x, y, micrograph = (int(each) for each in (*rng.integers(-9, 9, 2), rng.integers(3)))
        coordinate = Coordinate(x=x, y=y)
        coordinate.setMicId(micrograph)
        coordinate.setMicName(f"extra/{'ab'[micrograph]}.mrc" if micrograph < 2 else None)
        items.append(item(key, key, "a.mrcs", _coordinate=coordinate))
        rows[key] = "ab2"[micrograph], x, y
    items.append(item(61, 61, "a.mrcs", _coordinate=Coordinate(x=2**30, y=0)))
    table = PlaceTable(sources(newSet("placed", items)))
    assert len(table) == 60
    places = rng.integers(-10, 10, (300, 2)) + rng.choice([-0.4, 0, 0.4], (300, 2))
    names = np.array([("a", "b", "2", "c", None)[i] for i in rng.integers(0, 5, 300)], dtype=object)
    for name, place, found in zip(names, places, table.find(names, places)):
        x, y = np.rint(place)
        near = [key for key, (other, a, b) in rows.items() if other == name and abs(a - x) <= 1 and abs(b - y) <= 1]
        assert found == (near[0] if len(near) == 1 else table.SEVERAL if near else table.NONE)
    assert table.find(names[:2], np.array([[np.nan, 0], [2.0**40, 0]])).tolist() == [table.NONE] * 2
    assert PlaceTable([]).find(names, places).tolist() == [table.NONE] * 300


# ---- left out ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inMemory", [1, 2**20])
def test_lists_of_what_is_left_out(inMemory, monkeypatch):
    from downsample_plugin.protocols import left_out
    from downsample_plugin.protocols.set_columns import tableOf

    monkeypatch.setattr(left_out, "_IN_MEMORY", inMemory)
    made = newSet("in", [item(key, 2 * key, f"of 粒 {key}.mrcs") for key in range(1, 6)])
    os.makedirs("extra")
    leftOut = left_out.LeftOut("extra")
    leftOut.add(tableOf(made), np.array([2, 4, 5]), {2: 'so "it" is', 0: DataError("in two\nlines")})
    leftOut.add(tableOf(made), np.array([1]), {})
    leftOut.add(tableOf(made), np.array([1]), {0: "first"})
    leftOut.close(made)
    lines = Path("extra/left_out_particles.star").read_text(encoding="utf-8").splitlines()
    assert lines[-3:] == [
        '2 4 "of 粒 2.mrcs" "in two lines"',
        '5 10 "of 粒 5.mrcs" "so \'it\' is"',
        '1 2 "of 粒 1.mrcs" "first"',
    ]
    assert list(leftOut.describe("somehow")) == [
        f"Left out: 3 particles somehow, listed in {os.path.join('extra', 'left_out_particles.star')}"
    ]
    assert os.listdir("extra") == ["left_out_particles.star"]
    again = left_out.LeftOut("extra")
    again.close(made)
    assert os.listdir("extra") == [] and list(again.describe("somehow")) == []


def test_nothing_is_left():
    from pwem.objects import SetOfParticles

    from downsample_plugin.protocols.left_out import LeftOut
    from downsample_plugin.protocols.set_columns import tableOf

    made = newSet("in", [item(1, 3, "a.mrcs"), item(2, 5, "a.mrcs")])
    os.makedirs("out")
    leftOut = LeftOut(".")
    leftOut.add(tableOf(made), np.array([1, 2]), {0: "broken", 1: "too"})
    first = r"All 2 particles are left out.* The first: Particle 1, image 3 of a\.mrcs: broken\nAll are listed in"
    with pytest.raises(DataError, match=first):
        leftOut.close(SetOfParticles.create("out"))


def test_small_shifts_do_not_tell_that_they_count_twice():
    """They are left by proper refinements too; nor do a few particles tell."""
    from downsample_plugin.protocols.applied_twice import AppliedTwice

    def lines(*applied):
        found = AppliedTwice(2.0)
        found.add(np.array(applied) / 2.0 + 0.5, np.array(applied))
        return list(found.describe("Input particles"))

    assert lines(*[(3.0, 0.0)] * 50) == lines(*[(9.0, 0.0)] * 2) == lines((np.nan, np.nan)) == []
    assert "3 of 3 particles that were moved by more than 2 px" in lines(*[(3.0, 3.0)] * 3)[0]
