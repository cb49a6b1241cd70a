# SPDX-License-Identifier: GPL-3.0-or-later
"""Sets read and written by columns: file against file with what Scipion's own objects make of the same."""

import contextlib
import json
import os
import sqlite3

import numpy as np
import pytest

from downsample_plugin.errors import DataError

from .scipion_sets import matrix, particle, write_stack

pytestmark = pytest.mark.usefixtures("scipion", "here")

MATRIX, X, Y = "_transform._matrix", "_coordinate._x", "_coordinate._y"
SCALE = 0.4
STRANGE = 'it\'s "quoted",\nin two lines, ünïcödé 粒子 ; -- %s'


# ---- sets ---------------------------------------------------------------------------------------------


def all_items(particles):
    """All items of InputParticles, disabled ones too, through Scipion's objects."""
    for images in particles.sets():
        yield from images.iterItems()


def enabled_items(particles):
    """Those of them that are enabled."""
    return (item for item in all_items(particles) if item.isEnabled())


def acquisition(voltage=300.0):
    from pwem.objects import Acquisition

    return Acquisition(magnification=50000.0, voltage=voltage, sphericalAberration=2.7, amplitudeContrast=0.1)


def full(number, **more):
    """A particle with all that there may be, and attributes of all kinds that Scipion knows nothing of."""
    from pwem.objects import CTFModel
    from pyworkflow.object import Boolean, CsvList, Float, Integer, String

    rng = np.random.default_rng(number)
    words = CsvList()
    words.set([f"a{number}", "b"])
    attributes = {
        "_rlnGroup": Integer(number % 3),
        "_rlnWeight": Float(rng.normal()),
        "_rlnName": String(STRANGE if number % 2 else None),
        "_rlnGood": Boolean(number % 2 == 0),
        "_xmipp_words": words,
        "_rlnOther": CTFModel(defocusU=1.5 * number),
        "_rlnNothing": Float(),
    }
    item = particle(
        number,
        (number, "stack.mrcs"),
        matrix(np.linalg.qr(rng.normal(size=(3, 3)))[0], rng.normal(size=3) * 7),
        rng.integers(0, 4000, 2),
        **{**attributes, **more},
    )
    item.setMicId(number // 3)
    item.setClassId(number % 4)
    item.setObjLabel(STRANGE if number % 4 == 0 else "")
    item.setObjComment("comment" if number % 5 == 0 else "")
    item.setEnabled(number % 6 != 0)
    return item


def bare(number):
    """A particle that is an image and no more."""
    from pwem.objects import Particle

    item = Particle(location=(number, "stack.mrcs"))
    item.setObjId(number)
    return item


def newSet(name, items, kind="SetOfParticles", **settings):
    import pwem.objects

    os.makedirs(name)
    made = getattr(pwem.objects, kind).create(name)
    made.setSamplingRate(1.5)
    return fillSet(made, items, **settings)


def fillSet(made, items, alignment="Projection"):
    made.setAlignment(alignment)
    made.setHasCTF(True)
    for item in items:
        made.append(item)
    made.write()
    return made


def newClasses(name, groups, kind="2D"):
    import pwem.objects

    os.makedirs(name)
    images = newSet(f"{name}/images", [full(item.getObjId()) for group in groups for item in group])
    classes = getattr(pwem.objects, f"SetOfClasses{kind}").create(name)
    classes.setImages(images)
    for number, group in enumerate(groups, start=1):
        members = classes.ITEM_TYPE()
        members.setObjId(number)
        members.copyInfo(images)
        members.setEnabled(number != 2)
        classes.append(members)
        for item in group:
            item.setClassId(number)
            members.append(item)
        classes.update(members)
    classes.write()
    return classes


def differing():
    """Groups of particles for classes: the second class is disabled, others have other attributes, in other order."""
    from pyworkflow.object import CsvList, Float, Integer, String

    def other(number):
        item = full(number)
        kept = {name: getattr(item, name) for name in ("_rlnWeight", "_rlnGroup", "_xmipp_words")}
        for name in [name for name, _ in item.getAttributes() if name.startswith(("_rln", "_xmipp"))]:
            delattr(item, name)
        extra = {"_rlnLate": Integer(number), "_rlnLateName": String("late"), **kept, "_rlnLateFloat": Float(0.5)}
        for name, value in extra.items():
            setattr(item, name, value)
        return item

    late = CsvList()
    late.set(["x"])
    return [
        [full(n) for n in (3, 4, 12)],
        [full(n) for n in (5, 6)],
        [],
        [other(n) for n in (1, 2, 18)],
        [full(n, _rlnLate=Integer(None), _rlnWords=late) for n in (7, 30)],
    ]


def withoutAcquisition(number):
    item = full(number)
    item._acquisition = None
    return item


def oneOf(classes, number):
    found = classes[number]
    found.owner = (classes,)  # whose end would close the file
    return found


def setAcquisition(particles):
    particles.setAcquisition(acquisition(200.0))
    particles.write()
    return particles


SOURCES = {
    "full": lambda: newSet("in", map(full, [1, 2, 3, 4, 5, 6, 20, 21, 60, 1000])),
    "bare": lambda: newSet("in", map(bare, [1, 2, 5])),
    "averages": lambda: newSet("in", map(full, range(1, 8)), "SetOfAverages"),
    "classes 2D": lambda: newClasses("in", differing()),
    "classes 3D": lambda: newClasses("in", differing(), "3D"),
    "a class 2D": lambda: oneOf(newClasses("in", differing()), 4),
    "a class 3D": lambda: oneOf(newClasses("in", differing(), "3D"), 1),
    "acquisition of the set only": lambda: setAcquisition(newSet("in", map(withoutAcquisition, range(1, 8)))),
    "none wanted": lambda: newSet("in", [full(2), full(7)]),
}


@pytest.fixture(params=SOURCES)
def source(request):
    write_stack("stack.mrcs", np.zeros((3, 8, 8)))
    write_stack("out.mrcs", np.zeros((3, 6, 6)))
    return SOURCES[request.param]()


@pytest.fixture
def particles():
    write_stack("stack.mrcs", np.zeros((3, 8, 8)))
    write_stack("out.mrcs", np.zeros((3, 6, 6)))
    return newSet("in", map(full, [1, 2, 3, 4, 5, 6, 20, 21, 60, 1000]))


# ---- the same by objects and by columns ----------------------------------------------------------------


def isWanted(number):
    return number % 5 != 2


def newOutput(particles, folder, rate=3.75):
    os.makedirs(folder)
    output = particles.newOutput(folder)
    output.setSamplingRate(rate)
    return output


def byObjects(source, folder):
    """A subset with new images, shifts and coordinates, and records of shifts, as objects."""
    from pwem.objects import Transform
    from pyworkflow.object import Float

    from downsample_plugin.protocols.particles import InputParticles, complete

    particles = InputParticles(source)
    output = newOutput(particles, folder)
    attributes = particles.attributesOfPrograms()

    def update(item, _):
        complete(item, attributes)
        number = item.getObjId()
        item.setLocation(number + 1, "out.mrcs")
        if item.getTransform() is not None:
            changed = np.array(item.getTransform().getMatrix())
            changed[:3, 3] *= SCALE
            item.setTransform(Transform(changed))
        if item.getCoordinate() is not None:
            x, y = item.getCoordinate().getPosition()
            item.getCoordinate().setPosition(x - 7, y + 1)
        item._downsampleShiftX = Float(0.25 * number)
        item._downsampleShiftY = Float(-number)

    output.copyItems(
        all_items(particles),
        doClone=False,
        itemSelectedCallback=lambda item: isWanted(item.getObjId()),
        updateItemCallback=update,
    )
    output.write()
    return output


def byColumns(source, folder, rows=3, **settings):
    """The same by columns."""
    from pyworkflow.object import Float

    from downsample_plugin.protocols.particles import InputParticles, complete
    from downsample_plugin.protocols.set_columns import tableOf
    from downsample_plugin.protocols.set_writer import SetWriter

    particles = InputParticles(source)
    output = newOutput(particles, folder)
    attributes = particles.attributesOfPrograms()

    def prepare(item):
        complete(item, attributes)
        item._downsampleShiftX = Float()
        item._downsampleShiftY = Float()

    with SetWriter(output, prepare, **settings) as writer:
        for images in particles.sets():
            table = tableOf(images)
            for block in table.blocks([MATRIX, X, Y], rows=rows):
                wanted = np.array([isWanted(number) for number in block.ids.tolist()])
                ids = block.ids[wanted]
                changes = {
                    "_index": ids + 1,
                    "_filename": ["out.mrcs"] * len(ids),
                    **shiftsOf(block, table, wanted),
                    "_downsampleShiftX": 0.25 * ids,
                    "_downsampleShiftY": -ids.astype(float),
                }
                writer.append(images, ids, changes)
    output.write()
    return output


def shiftsOf(block, table, wanted):
    from downsample_plugin.protocols.set_columns import textsMoved

    changes = {}
    if MATRIX in table:
        shifts = block.matrices(MATRIX)[wanted, :3, 3] * SCALE
        changes[MATRIX] = textsMoved([text for text, take in zip(block.texts(MATRIX), wanted) if take], shifts)
    if X in table:
        changes[X] = block.integers(X, 0)[wanted] - 7
        changes[Y] = block.integers(Y, 0)[wanted] + 1
    return changes


def contents(path):
    """All that is in a set's file but paths and the time of creation."""
    with sqlite3.connect(path) as connection:
        schema = connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY name").fetchall()
        found = {"schema": schema, "version": connection.execute("PRAGMA user_version").fetchall()}
        for kind, name, _, _ in schema:
            if kind == "table":
                cursor = connection.execute(f"SELECT * FROM {name}")
                names = [column[0] for column in cursor.description]
                rows = [dict(zip(names, row)) for row in cursor]
                found[name] = [{key: value for key, value in row.items() if key != "creation"} for row in rows]
    found["Properties"] = [row for row in found.get("Properties", []) if row["key"] != "_mapperPath"]
    return found


def itemsOf(particles):
    return [
        (item.getObjId(), item.isEnabled(), item.getObjLabel(), item.getObjComment(), item.getObjDict())
        for item in particles.iterItems()
    ]


def assertSame(made, expected):
    found, wanted = contents(made.getFileName()), contents(expected.getFileName())
    assert found.keys() == wanted.keys()
    for name in wanted:
        assert found[name] == wanted[name], name
    assert made.getSize() == expected.getSize()
    assert made.getDim() == expected.getDim()
    assert itemsOf(made) == itemsOf(expected)


@pytest.mark.parametrize("settings", [{}, {"atOnce": True}, {"rows": 20_000}], ids=["blocks", "at once", "one block"])
def test_columns_write_what_objects_write(source, settings):
    assertSame(byColumns(source, "columns", **settings), byObjects(source, "objects"))


def test_creation_is_now(particles):
    update(particles.getFileName(), {"creation": "2001-02-03 04:05:06"})
    output = byColumns(particles, "columns")
    with sqlite3.connect(output.getFileName()) as connection:
        query = "SELECT count(*) FROM Objects WHERE abs(julianday('now') - julianday(creation)) < 0.001"
        assert connection.execute(query).fetchone() == (output.getSize(),)


def test_the_source_stays_as_it_is(particles):
    before = itemsOf(particles)
    byColumns(particles, "columns")
    assert itemsOf(particles) == before


def test_pwem_works_with_it(particles):
    """Read, ask, take subsets, append, classify as with any set."""
    from pwem.objects import SetOfParticles

    made = byColumns(particles, "columns")
    made.close()
    output = SetOfParticles(filename=made.getFileName())
    output.loadAllProperties()
    assert output.getSize() == 9
    assert output.getFiles() == {"out.mrcs"}
    assert output.getIdSet() == {1, 3, 4, 5, 6, 20, 21, 60, 1000}
    assert [item.getObjId() for item in output.iterItems(where="_micId=1")] == [3, 4, 5]
    assert output[21].getTransform().getMatrix()[3].tolist() == [0, 0, 0, 1]
    os.makedirs("subset")
    subset = SetOfParticles.create("subset")
    subset.copyInfo(output)
    subset.copyItems(output, itemSelectedCallback=lambda item: item.getObjId() > 5)
    assert subset.getIdSet() == {6, 20, 21, 60, 1000}
    output.enableAppend()
    item = output[21].clone()
    item.setObjId(None)
    output.append(item)
    assert item.getObjId() == 1001


# ---- what the other protocols need ----------------------------------------------------------------------


def small(number, classId, **attributes):
    """A downsampled particle, as restoring has it."""
    from pyworkflow.object import Float

    item = bare(number)
    item.setClassId(classId)
    for name, value in {**attributes, "_rlnWeight": Float(-number), "_rlnFitted": Float(number / 3)}.items():
        setattr(item, name, value)
    return item


def restoredByObjects(smallOnes, fullSize, fullIds, folder):
    from pyworkflow.object import Integer

    from downsample_plugin.protocols.particles import InputParticles, complete

    particles = InputParticles(smallOnes)
    output = newOutput(InputParticles(fullSize), folder, 1.5)
    attributes = particles.attributesOfPrograms()
    for item, fullId in zip(enabled_items(particles), fullIds):
        found = fullSize[fullId]
        found._fullSizeId = Integer(fullId)
        found.setObjId(item.getObjId())
        if item.getClassId() is not None:
            found.setClassId(item.getClassId())
        complete(item, attributes)
        found.copyAttributes(item, *attributes)
        output.append(found)
    output.write()
    return output


def restoredByColumns(smallOnes, fullSize, fullIds, folder):
    from pyworkflow.object import Integer

    from downsample_plugin.protocols.particles import InputParticles, complete
    from downsample_plugin.protocols.set_columns import tableOf
    from downsample_plugin.protocols.set_writer import Carried, SetWriter

    particles = InputParticles(smallOnes)
    output = newOutput(InputParticles(fullSize), folder, 1.5)
    attributes = particles.attributesOfPrograms()

    def prepare(item):
        item._fullSizeId = Integer()
        complete(item, attributes)

    with SetWriter(output, prepare) as writer:
        for images in particles.sets():
            table = tableOf(images)
            for block in table.blocks(where="enabled=1", rows=2):
                ids, fullIds = fullIds[: len(block)], fullIds[len(block) :]
                carried = Carried(table, block.ids, tuple(attributes), ("_classId",))
                writer.append(fullSize, ids, {"_fullSizeId": ids}, block.ids, carried)
    output.write()
    return output


def test_restoring(particles):
    """Rows of one set in the order and with the ids of others, attributes and class from those where they have any."""
    from pwem.objects import CTFModel
    from pyworkflow.object import CsvList, String

    words = CsvList()
    words.set(["new", "words"])
    groups = [
        [small(1, 8, _rlnName=String(STRANGE)), small(2, None, _rlnName=String()), small(9, 8, _rlnName=String("c"))],
        [],
        [small(3, 7, _rlnDeep=CTFModel(defocusV=3.5), _xmipp_words=words)],
    ]
    smallOnes = newClasses("small", groups)
    with sqlite3.connect(smallOnes.getFileName()) as connection:  # without one: its own may stay
        column = "SELECT column_name FROM Class001_Classes WHERE label_property='_classId'"
        (column,) = connection.execute(column).fetchone()
        connection.execute(f"UPDATE Class001_Objects SET {column}=NULL WHERE id=2")
    fullIds = [60, 3, 60, 1]
    made = restoredByColumns(smallOnes, particles, fullIds, "columns")
    expected = restoredByObjects(smallOnes, particles, fullIds, "objects")
    assertSame(made, expected)
    assert [item._fullSizeId.get() for item in made] == [60, 3, 1, 60]


def test_joined_sets_numbered_anew(particles):
    """Of two sets that have the same ids, as joins number them."""
    from pyworkflow.object import Float

    from downsample_plugin.protocols.particles import InputParticles
    from downsample_plugin.protocols.set_columns import tableOf
    from downsample_plugin.protocols.set_writer import SetWriter

    other = newSet("other", [full(number, _rlnWeight=Float(3.0)) for number in (1, 2, 7)])
    expected = newOutput(InputParticles(particles), "objects")
    made = newOutput(InputParticles(particles), "columns")
    count = 0
    with SetWriter(made, lambda item: None) as writer:
        for images in (particles, other):
            for item in images:
                item.setObjId(None)
                expected.append(item)
            for block in tableOf(images).blocks(rows=4):
                writer.append(images, block.ids, {}, count + 1 + np.arange(len(block)))
                count += len(block)
    expected.write()
    made.write()
    assertSame(made, expected)


def test_moving_centers(particles):
    """Matrices and defocus change, images stay."""
    from downsample_plugin.protocols.particles import InputParticles
    from downsample_plugin.protocols.set_columns import tableOf, textsMoved
    from downsample_plugin.protocols.set_writer import SetWriter

    def update(item, _):
        item.getTransform().getMatrix()[:3, 3] -= (1.25, -2.5, 3.0)
        ctf = item.getCTF()
        ctf.setDefocusU(ctf.getDefocusU() + 0.1 * item.getObjId())
        ctf._defocusRatio.set(ctf.getDefocusU() / ctf.getDefocusV())

    expected = newOutput(InputParticles(particles), "objects")
    expected.copyItems(enabled_items(InputParticles(particles)), doClone=False, updateItemCallback=update)
    expected.write()
    made = newOutput(InputParticles(particles), "columns")
    labels = [f"_ctfModel._defocus{name}" for name in ("U", "V", "Ratio")]
    with SetWriter(made, lambda item: None) as writer:
        for block in tableOf(particles).blocks([MATRIX, *labels], "enabled=1"):
            defocus = block.floats(labels[0]) + 0.1 * block.ids
            ratio = defocus / block.floats(labels[1])
            moved = textsMoved(block.texts(MATRIX), block.matrices(MATRIX)[:, :3, 3] - (1.25, -2.5, 3.0))
            writer.append(particles, block.ids, {MATRIX: moved, labels[0]: defocus, labels[2]: ratio})
    made.write()
    assertSame(made, expected)


def test_alignment_for_particles_without():
    """Whole matrices from elsewhere."""
    from pwem.objects import Transform

    from downsample_plugin.protocols.particles import InputParticles
    from downsample_plugin.protocols.set_writer import SetWriter

    write_stack("stack.mrcs", np.zeros((3, 8, 8)))
    particles = newSet("in", map(bare, range(1, 9)))
    matrices = np.random.default_rng(1).normal(size=(8, 4, 4)) * 10.0 ** np.arange(-8, 8, 4)
    expected = newOutput(InputParticles(particles), "objects")
    expected.copyItems(
        particles, updateItemCallback=lambda item, _: item.setTransform(Transform(matrices[item.getObjId() - 1]))
    )
    expected.write()
    made = newOutput(InputParticles(particles), "columns")
    with SetWriter(made, lambda item: item.setTransform(Transform())) as writer:
        writer.append(particles, range(1, 9), {MATRIX: [json.dumps(matrix) for matrix in matrices.tolist()]})
    made.write()
    assertSame(made, expected)


# ---- sets that others use meanwhile -----------------------------------------------------------------------


def connect(path):
    """A connection of another protocol, which does not wait."""
    return contextlib.closing(sqlite3.connect(path, timeout=0))


def appendAll(writer, particles, where):
    from downsample_plugin.protocols.set_columns import tableOf

    for block in tableOf(particles).blocks(where=where, rows=2):
        writer.append(particles, block.ids, {})
        with connect(particles.getFileName()) as other, other:  # the source grows meanwhile
            other.execute("INSERT INTO Objects (id, enabled) VALUES (5000 + (SELECT count(*) FROM Objects), 0)")
        yield


@pytest.mark.parametrize("journal", ["delete", "wal"])
@pytest.mark.parametrize("atOnce", [False, True])
def test_open_sets(particles, journal, atOnce):
    """An output that others read grows by batches, from a set that another protocol is filling."""
    from downsample_plugin.protocols.particles import InputParticles
    from downsample_plugin.protocols.set_writer import SetWriter

    with connect(particles.getFileName()) as other:
        other.execute(f"PRAGMA journal_mode={journal}")
    expected = newOutput(InputParticles(particles), "objects")
    expected.copyItems(all_items(InputParticles(particles)), copyDisabled=True, doClone=False)
    made = newOutput(InputParticles(particles), "columns")
    seen = []
    for number, where in enumerate(("id<6", "id>=6 AND id<5000")):
        if number:
            with connect(made.getFileName()) as other:
                other.execute(f"PRAGMA journal_mode={journal}")
            made.enableAppend()  # which leaves an iteration half-way
        with SetWriter(made, lambda item: None, atOnce) as writer:
            for _ in appendAll(writer, particles, where):
                with connect(made.getFileName()) as reader:
                    seen.append(reader.execute("SELECT count(*) FROM Objects").fetchone()[0])
        assert made.getSize() == (10 if number else 5)
        made.write()
    assert seen == ([0, 0, 0, 5, 5, 5] if atOnce else [2, 4, 5, 7, 9, 10])
    expected.write()
    with connect(made.getFileName()) as other:
        assert other.execute("PRAGMA journal_mode").fetchone() == (journal,)
    assertSame(made, expected)


def test_a_set_keeps_what_was_appended_before(particles):
    from downsample_plugin.protocols.particles import InputParticles
    from downsample_plugin.protocols.set_writer import SetWriter

    made = newOutput(InputParticles(particles), "columns")
    made.append(full(999))
    with SetWriter(made, None) as writer:
        writer.append(particles, [20], {})
    assert made.getIdSet() == {20, 999}


# ---- where Scipion's objects do not serve -----------------------------------------------------------------


def written(source, labels, ids=None, folder="columns", **settings):
    """Columns of what comes out of all of a source, or of some ids."""
    from downsample_plugin.protocols.particles import InputParticles, complete
    from downsample_plugin.protocols.set_columns import tableOf
    from downsample_plugin.protocols.set_writer import SetWriter

    particles = InputParticles(source)
    output = newOutput(particles, folder, **settings)
    attributes = particles.attributesOfPrograms()
    with SetWriter(output, lambda item: complete(item, attributes)) as writer:
        for images in particles.sets():
            for block in tableOf(images).blocks():
                writer.append(images, block.ids if ids is None else ids, {})
    (block,) = tableOf(output).blocks(labels)
    return [block.texts(label) for label in labels]


def update(path, values, where="1", table="Objects", prefix=""):
    """Change columns behind pwem's back, by label."""
    with connect(path) as connection, connection:
        for label, value in values.items():
            query = f"SELECT column_name FROM {prefix}Classes WHERE label_property=?"
            column = (connection.execute(query, (label,)).fetchone() or (label,))[0]
            connection.execute(f"UPDATE {prefix}{table} SET {column}=? WHERE {where}", (value,))


def test_values_that_are_missing(particles):
    """Where Scipion's objects would hold what another item had, new ones are what counts."""
    missing = dict.fromkeys([MATRIX, "_xmipp_words", "_rlnGroup", "_index", X, "_rlnName", "_ctfModel._defocusU"])
    update(particles.getFileName(), missing, "id=3")
    columns = written(particles, list(missing))
    identity = "[[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]]"
    assert [column[2] for column in columns] == [identity, "", None, None, None, None, None]


def test_words_of_items_that_are_missing(particles):
    path = particles.getFileName()
    update(path, {"label": None, "comment": None, "enabled": None}, "id=3")
    update(path, {"enabled": 7}, "id=4")
    written(particles, [])
    with connect("columns/particles.sqlite") as connection:
        rows = connection.execute("SELECT label, comment, enabled FROM Objects WHERE id in (3, 4)").fetchall()
    assert rows == [("", "", 0), (STRANGE, "", 1)]


def test_classes_that_lack_what_others_have():
    """Objects could not be written at all."""
    write_stack("stack.mrcs", np.zeros((3, 8, 8)))
    classes = newClasses("in", [[full(1)], [], [bare(7)]])
    columns = written(classes, ["_ctfModel._defocusU", X, "_rlnGroup", "_filename", "_acquisition._voltage"])
    assert columns == [
        [10001.0, None],
        [full(1).getCoordinate().getX(), None],
        [1, None],
        ["stack.mrcs"] * 2,
        [300.0, None],
    ]


def test_acquisitions_that_only_the_set_has(particles):
    """Scipion's objects lose the set's own after the first item."""
    labels = [
        f"_acquisition.{name}" for name in ("_voltage", "_magnification", "_sphericalAberration", "opticsGroupInfo")
    ]
    update(particles.getFileName(), dict.fromkeys(labels), "id<4")
    update(particles.getFileName(), {labels[0]: None}, "id=20")
    particles.setAcquisition(acquisition(80.0))
    particles.getAcquisition().opticsGroupInfo.set(STRANGE)
    voltages, _, _, texts = written(particles, labels)
    assert voltages == [80.0] * 3 + [300.0] * 3 + [80.0] + [300.0] * 3
    assert texts == [STRANGE] * 3 + [None] * 3 + [STRANGE] + [None] * 3


def test_pixel_sizes_of_items_stay_where_the_set_has_none(particles):
    (rates,) = written(particles, ["_samplingRate"], rate=None)
    assert rates == [1.5] * 10


# ---- refusals -----------------------------------------------------------------------------------------------


def test_items_that_are_gone(particles):
    with pytest.raises(DataError, match=r"in/particles.sqlite: got no item with id 7, expected"):
        written(particles, [], ids=[7, 1])
    with pytest.raises(DataError, match=r"in/particles.sqlite: got no item with id 1001, expected"):
        written(particles, [], ids=[1, 1001, 2], folder="again")


def test_items_twice(particles):
    with pytest.raises(DataError, match=r"got an id twice .*, expected each item once"):
        written(particles, [], ids=[1, 2, 1])
    with connect("columns/particles.sqlite") as connection:
        assert connection.execute("SELECT count(*) FROM Objects").fetchone() == (0,)


def test_labels_that_the_output_does_not_have(particles):
    from downsample_plugin.protocols.particles import InputParticles
    from downsample_plugin.protocols.set_writer import SetWriter

    made = newOutput(InputParticles(particles), "columns")
    with (
        pytest.raises(DataError, match=r"expected \['_rlnNew'\] among them"),
        SetWriter(made, lambda item: 0) as writer,
    ):
        writer.append(particles, [1], {"_rlnNew": [3]})


def test_files_that_cannot_be_written(particles):
    from downsample_plugin.protocols.particles import InputParticles
    from downsample_plugin.protocols.set_writer import SetWriter

    made = newOutput(InputParticles(particles), "columns")
    with (
        pytest.raises(DataError, match=r"got 'table .*Objects has no column"),
        SetWriter(made, lambda item: 0) as writer,
    ):
        writer.append(particles, [1], {})
        with connect(made.getFileName()) as other:
            other.execute("ALTER TABLE Objects RENAME COLUMN comment TO remark")
        writer.append(particles, [2], {})


# ---- reading ------------------------------------------------------------------------------------------------


def read(path, labels=(), **settings):
    from downsample_plugin.protocols.set_columns import ItemTable

    return list(ItemTable(str(path)).blocks(labels, **settings))


def test_columns_of_all_kinds(particles):
    from downsample_plugin.protocols.set_columns import tableOf

    table = tableOf(particles)
    assert table.exists and table.count() == 10 and table.count("enabled=1 AND id>4") == 4
    assert MATRIX in table and "_rlnGroup" in table and "_none" not in table and "self" not in table
    assert [table.kinds[label] for label in (MATRIX, "_rlnGood", "_transform")] == ["Matrix", "Boolean", "Transform"]
    labels = [MATRIX, "_rlnWeight", "_index", "_rlnName", "_rlnNothing", "_none", "_rlnGood"]
    (block,) = table.blocks(labels)
    items = {item.getObjId(): item.clone(copyEnable=True) for item in particles}
    assert block.ids.dtype == np.int64 and block.ids.tolist() == list(items)
    assert block.enabled.tolist() == [item.isEnabled() for item in items.values()]
    assert np.array_equal(block.matrices(MATRIX), [item.getTransform().getMatrix() for item in items.values()])
    assert block.floats("_rlnWeight").tolist() == [item._rlnWeight.get() for item in items.values()]
    assert block.integers("_index", -1).tolist() == list(items)
    assert block.integers("_rlnGood", -1).tolist() == [number % 2 == 0 for number in items]
    assert block.texts("_rlnName") == [STRANGE if number % 2 else None for number in items]
    assert np.isnan(block.floats("_rlnNothing")).all() and np.isnan(block.matrices("_none")).all()
    assert block.integers("_none", -5).tolist() == [-5] * 10


def test_blocks_in_the_order_of_ids(particles):
    from downsample_plugin.protocols.set_columns import tableOf

    with connect(particles.getFileName()) as connection, connection:
        connection.execute("INSERT INTO Objects (id, enabled) VALUES (-3, 1)")
    blocks = tableOf(particles).blocks(rows=4, where="enabled=1 OR id=6")
    assert [block.ids.tolist() for block in blocks] == [[-3, 1, 2, 3], [4, 5, 6, 20], [21, 1000]]


def test_classes_have_tables_of_their_own():
    from downsample_plugin.protocols.particles import InputParticles
    from downsample_plugin.protocols.set_columns import tableOf

    write_stack("stack.mrcs", np.zeros((3, 8, 8)))
    tables = [tableOf(images) for images in InputParticles(newClasses("in", differing())).sets()]
    assert [[block.ids.tolist() for block in table.blocks()] for table in tables] == [
        [[3, 4, 12]],
        [[1, 2, 18]],
        [[7, 30]],
    ]
    assert ["_rlnLateFloat" in table for table in tables] == [False, True, False]


@pytest.mark.parametrize("name", ["a b?c#d%41&é粒.sqlite", 'it\'s "so"; --.sqlite'])
@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_any_path_and_journal(particles, name, journal):
    os.rename(particles.getFileName(), name)
    with connect(name) as connection:
        connection.execute(f"PRAGMA journal_mode={journal}")
    (block,) = read(name)
    assert len(block) == 10


def test_others_write_between_blocks(particles):
    """What comes meanwhile is read as well; nothing is locked, even by an iteration that was left half-way."""
    from downsample_plugin.protocols.set_columns import tableOf

    blocks = tableOf(particles).blocks(rows=4)
    next(blocks)
    with connect(particles.getFileName()) as connection, connection:
        connection.execute("INSERT INTO Objects (id) VALUES (10), (2000)")
    assert [block.ids.tolist() for block in blocks] == [[5, 6, 10, 20], [21, 60, 1000, 2000]]


def test_sets_without_items_yet(tmp_path):
    from pwem.objects import SetOfParticles

    from downsample_plugin.protocols.set_columns import ItemTable, tableOf

    table = tableOf(SetOfParticles.create(str(tmp_path)))
    assert not table.exists and list(table.blocks([MATRIX])) == [] and table.count() == 0
    assert not ItemTable(str(tmp_path / "none.sqlite")).exists
    assert not (tmp_path / "none.sqlite").exists()


GOOD = "[[1.0, 0, 1e-05, 2.5], [0, -1.0, 0, 3], [0,0,1,-4E+2], [0, 0, 0, 1]]"


@pytest.mark.parametrize(
    "text",
    [
        *["", "x", "[]", "null", None, "[[1, 2], [3, 4]]", f"[{', '.join('1' * 16)}]", GOOD[:-1]],
        *[GOOD.replace("2.5", number) for number in ("nan", "", '"2.5"', "1 2")],
        GOOD.replace(", 3]", "], 3"),
    ],
)
def test_texts_that_are_no_matrices(text):
    """They are all nan, and the others are read."""
    from downsample_plugin.protocols.set_columns import matricesOf

    found = matricesOf([GOOD, text, GOOD])
    assert np.isnan(found[1]).all()
    assert found[0].tolist() == found[2].tolist() == [[1, 0, 1e-5, 2.5], [0, -1, 0, 3], [0, 0, 1, -400], [0, 0, 0, 1]]


def test_matrices_that_are_not_finite():
    from downsample_plugin.protocols.set_columns import matricesOf

    found = matricesOf([GOOD.replace("2.5", "NaN"), GOOD.replace("2.5", "-Infinity"), GOOD.replace("2.5", "1e999")])
    assert np.isfinite(found).sum() == 45
    assert np.array_equal(found[:, 0, 3], [np.nan, -np.inf, np.inf], equal_nan=True)


def test_no_matrices():
    from downsample_plugin.protocols.set_columns import matricesOf, textsMoved

    assert matricesOf([]).shape == (0, 4, 4)
    assert textsMoved([], np.zeros((0, 3))) == []


def test_moved_texts_keep_all_other_digits():
    from downsample_plugin.protocols.set_columns import textsMoved

    moved = textsMoved([GOOD, GOOD], [[0.1, 1e-9, 3], [1e300, np.nan, -2]])
    assert moved[0] == "[[1.0, 0, 1e-05, 0.1], [0, -1.0, 0, 1e-09], [0,0,1, 3.0], [0, 0, 0, 1]]"
    assert moved[1] == "[[1.0, 0, 1e-05, 1e+300], [0, -1.0, 0, NaN], [0,0,1, -2.0], [0, 0, 0, 1]]"
    for text in (None, "[[1]]", f"[{', '.join('1' * 16)}]"):
        with pytest.raises(DataError, match=r"alignment matrix: got .*, expected 4x4 numbers"):
            textsMoved([GOOD, text], np.zeros((2, 3)))


def test_numbers_that_are_none(particles):
    update(particles.getFileName(), {"_rlnWeight": "heavy", "_rlnGroup": "blue"}, "id=5")
    (block,) = read(particles.getFileName(), ["_rlnWeight", "_rlnGroup"])
    with pytest.raises(DataError, match=r"_rlnWeight: got something other than numbers .*heavy.*, expected numbers"):
        block.floats("_rlnWeight")
    with pytest.raises(DataError, match=r"_rlnGroup: got something other than numbers .*blue.*, expected numbers"):
        block.integers("_rlnGroup", 0)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ("DROP TABLE Objects", r"got a table with the columns \[\], expected \['comment', 'enabled', 'id', 'label'\]"),
        ("DROP TABLE Classes", "got 'no such table: Classes' from SQLite"),
        ("DELETE FROM Classes", "got no labels, expected those of the items"),
        (
            "UPDATE Classes SET column_name='c99' WHERE label_property='_index'",
            "got the column c99 for _index, expected",
        ),
        ("ALTER TABLE Objects RENAME COLUMN enabled TO able", "expected .* among them; .*create it again"),
        ("ALTER TABLE Classes RENAME COLUMN class_name TO kind", "got 'no such column: class_name' from SQLite"),
    ],
)
def test_files_that_are_laid_out_otherwise(particles, change, problem):
    from downsample_plugin.protocols.set_columns import tableOf

    with connect(particles.getFileName()) as connection, connection:
        connection.execute(change)
    with pytest.raises(DataError, match=problem):
        tableOf(particles)


def test_files_that_are_no_sets(particles, tmp_path):
    from downsample_plugin.protocols.set_columns import ItemTable

    (tmp_path / "text.sqlite").write_text("not a database" * 100)
    with pytest.raises(DataError, match="got 'file is not a database' from SQLite, expected a set that can be read"):
        ItemTable(str(tmp_path / "text.sqlite"))
    with pytest.raises(DataError, match=r"none.sqlite, Objects: got 'unable to open database file'"):
        ItemTable(str(tmp_path / "none.sqlite"), size=3)
    with pytest.raises(DataError, match="Class007_Objects: got a table with the columns"):
        ItemTable(particles.getFileName(), "Class007", size=3)
