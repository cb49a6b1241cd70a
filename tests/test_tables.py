# SPDX-License-Identifier: GPL-3.0-or-later
"""Tables of jobs: what is written comes back, images that are the same are found, what is no table is refused."""

import os

import numpy as np
import pytest
from emtable import Table
from hypothesis import given, settings
from hypothesis import strategies as st

from downsample_plugin.core.plan import Recenter
from downsample_plugin.engine.tables import (
    MADE,
    ROW,
    BadParticle,
    collect,
    list_bad_particles,
    read_array,
    read_bad,
    read_files,
    write_array,
    write_bad,
    write_files,
)
from downsample_plugin.errors import DataError

from .scipion_sets import Row, block_of

# Any name that a Linux file can have
names = st.binary(min_size=1).filter(lambda name: b"\0" not in name).map(os.fsdecode)


@settings(max_examples=200, deadline=None)
@given(st.lists(names, max_size=5, unique=True))
def test_names_of_any_bytes_come_back(tmp_path_factory, written):
    path = str(tmp_path_factory.mktemp("table") / "names.json")
    states = {name: None if place % 2 else [place, -1, 1 << 62] for place, name in enumerate(written)}
    write_files(path, states)
    assert list(read_files(path, 3).items()) == list(states.items())


def test_rows_come_back_to_the_last_bit(tmp_path):
    rng = np.random.default_rng(0)
    table = np.zeros(1000, dtype=MADE)
    table["index"], table["shift_x"], table["shift_y"] = np.arange(1000), *rng.normal(size=(2, 1000))
    write_array(str(tmp_path / "t.npy"), table)
    assert np.array_equal(read_array(str(tmp_path / "t.npy"), MADE), table)
    assert np.array_equal(read_array(str(tmp_path / "t.npy"), MADE, 990, 10), table[990:])
    assert np.array_equal(np.load(tmp_path / "t.npy"), table), "and NumPy reads it"
    with pytest.raises(DataError, match="it has 1000 rows, expected 1001"):
        read_array(str(tmp_path / "t.npy"), MADE, 990, 11)


@pytest.mark.parametrize(
    "harm, sentence",
    [
        (lambda data: b"", "cannot be read as a table of a job"),
        (lambda data: data[:-1], "it has 4 rows, expected 5"),
        (lambda data: data[:50], "cannot be read as a table of a job"),
        (lambda data: data.replace(b"image", b"imago"), "its columns differ"),
        (lambda data: data.replace(b"(5,)", b"(9,)"), "it has 5 rows, expected 9"),
        (lambda data: data.replace(b"(5,)", b"(5 "), "cannot be read as a table of a job"),
    ],
)
def test_tables_that_are_none(tmp_path, harm, sentence):
    path = tmp_path / "t.npy"
    write_array(str(path), np.zeros(5, dtype=ROW))
    path.write_bytes(harm(path.read_bytes()))
    with pytest.raises(DataError, match=sentence):
        read_array(str(path), ROW)


def test_a_missing_table(tmp_path):
    with pytest.raises(DataError, match=r"none\.npy: it cannot be read as a table of a job \(.*No such file"):
        read_array(str(tmp_path / "none.npy"), ROW)


@pytest.mark.parametrize("text", ["", "{}", "[", "[" * 100_000, "[1]", "[[1]]"])
def test_lists_that_are_none(tmp_path, text):
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(DataError, match="cannot be read"):
        read_bad(str(path), 2)


def test_an_unfinished_table_does_not_appear(tmp_path):
    path = tmp_path / "bad.json"
    with pytest.raises(TypeError):
        write_bad(str(path), [(1, object())])
    assert os.listdir(tmp_path) == []


def test_bad_particles_are_listed_for_people(tmp_path):
    """A STAR file that a person can read, and a program too: names and reasons as they are, but for quotes."""
    path = str(tmp_path / "bad.star")
    bad = BadParticle(7, 3, "Runs/a b/'x'.mrcs", 'the file says "no"\nand more')
    assert list_bad_particles(path, [bad]) == 1
    with open(path) as file:
        assert file.read().endswith("""7 3 "Runs/a b/'x'.mrcs" "the file says 'no' and more"\n""")
    (row,) = Table(fileName=path, tableName="bad_particles")
    assert (row.particleId, row.imageIndex) == (7, 3)


# ---- images that are the same ----------------------------------------------------------------------------


def images_of(rows, recenter):
    """For each row the row whose image it has, by ``collect``; and which rows' images are made."""
    found = collect([block_of(rows[:4]), block_of(rows[4:])], recenter)
    names = found.file_names
    made = [(names[file], index, x, y) for file, index, x, y in found.images.tolist()]
    assert [row.particle_id for row in rows] == found.rows["particle_id"].tolist()
    return [made[image] for image in found.rows["image"].tolist()], made


ROWS = [
    Row(1, 1, "a", 0.2, 0),
    Row(2, 2, "a", 0, 0),
    Row(3, 1, "a", 0.3, 0),
    Row(4, 1, "b", 0.2, 0),
    Row(5, 1, "a", 0.2 + 1e-12, 0),
    Row(6, 1, "a", 0.7, 0),
    Row(7, 2, "a", 0, 0),
]


@pytest.mark.parametrize(
    "recenter, firsts",
    [
        (Recenter.NONE, [1, 2, 1, 4, 1, 1, 2]),
        (Recenter.WHOLE_PIXELS, [1, 2, 1, 4, 1, 6, 2]),
        (Recenter.EXACT, [1, 2, 3, 4, 1, 6, 2]),
    ],
)
def test_images_that_are_the_same_are_made_once(recenter, firsts):
    """In the order of the first particle that has each; a shift counts as far as it is applied."""
    found, made = images_of(ROWS, recenter)
    expected = {row.particle_id: (row.image_file, row.image_index, row.shift_x, row.shift_y) for row in ROWS}
    assert found == [expected[first] for first in firsts]
    assert made == [expected[first] for first in dict.fromkeys(firsts)]


def test_images_that_all_differ_stay_as_they_are():
    rows = [Row(i, i, f"file {i % 3}", i / 10, -i) for i in range(1, 50)]
    found, made = images_of(rows, Recenter.NONE)
    assert found == made == [(row.image_file, row.image_index, row.shift_x, row.shift_y) for row in rows]
