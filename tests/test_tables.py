# SPDX-License-Identifier: GPL-3.0-or-later
import math
import os

import pytest
from emtable import Table
from hypothesis import given, settings
from hypothesis import strategies as st

from downsample_plugin.errors import DataError
from downsample_plugin.tables import PARTICLES_HEAD, ParticleRow, read_particles, write_particles

# Any name that a Linux file can have
names = st.binary(min_size=1).filter(lambda name: b"\0" not in name).map(os.fsdecode)
rows = st.builds(
    ParticleRow,
    st.integers(1, 2**62),
    st.integers(0, 2**31),
    names,
    st.floats(allow_nan=False, allow_infinity=False),
    st.floats(allow_nan=False, allow_infinity=False),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(rows, min_size=1, max_size=5))
def test_rows_come_back_to_the_digit(tmp_path_factory, written):
    path = str(tmp_path_factory.mktemp("table") / "t.star")
    assert write_particles(path, written) == len(written)
    found = list(read_particles(path))
    assert found == written
    assert all(math.copysign(1, a.shift_x) == math.copysign(1, b.shift_x) for a, b in zip(found, written))


def test_emtable_reads_it_as_a_star_file(tmp_path):
    path = str(tmp_path / "t.star")
    write_particles(path, [ParticleRow(7, 3, "Runs/a b/'x'.mrcs", 0.1, -2.0)])
    (row,) = Table(fileName=path, tableName="particles")
    assert (row.particleId, row.imageIndex, row.imageFile) == (7, 3, "Runs/a%20b/%27x%27.mrcs")


def test_an_unfinished_table_does_not_appear(tmp_path):
    path = tmp_path / "t.star"

    def rows():
        yield ParticleRow(1, 1, "a", 0, 0)
        raise KeyError

    with pytest.raises(KeyError):
        write_particles(str(path), rows())
    assert not path.exists()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "data_other\n\nloop_\n_a\n1\n",
        "data_particles\n\nloop_\n_particleId\nx\n",
        PARTICLES_HEAD + "1 2 a b 3\n",
        PARTICLES_HEAD + "1 2",
    ],
)
def test_tables_that_are_none(tmp_path, text):
    path = tmp_path / "t.star"
    path.write_text(text)
    with pytest.raises(DataError, match="cannot be read as a particle table"):
        list(read_particles(str(path)))


def test_a_missing_table(tmp_path):
    with pytest.raises(DataError, match="cannot be read as a particle table"):
        list(read_particles(str(tmp_path / "none.star")))
