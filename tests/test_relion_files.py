# SPDX-License-Identifier: GPL-3.0-or-later
"""RELION's particles in STAR files: what is read, what becomes of every label, what is refused, and the record."""

import multiprocessing
import os
import pickle
import re
from pathlib import Path

import numpy as np
import pytest

from downsample_plugin.core.plan import DownsamplePlan
from downsample_plugin.errors import DataError, PlanError
from downsample_plugin.files import relion_labels, star
from downsample_plugin.files.relion_groups import ImageGroup
from downsample_plugin.files.relion_output import NewStar, Outcome
from downsample_plugin.files.relion_star import RelionStar
from downsample_plugin.files.star import Block

from .scipion_sets import write_stack
from .star_texts import loop, read_star

BOX, OUT = 32, 16  # px: all that is counted in px is halved
MOVED = np.array([(3.0, -2.0), (0.0, 0.0), (-1.0, 0.5)])
OPTICS = {"rlnOpticsGroup": "1", "rlnImagePixelSize": "1.500000", "rlnImageSize": "32"}
NAMES = ["000001@in.mrcs", "000002@in.mrcs", "000003@in.mrcs"]
RECORD = list(relion_labels.RECORD)


@pytest.fixture(autouse=True)
def stacks(here):
    for name, box in (("in.mrcs", BOX), ("other.mrcs", 48)):
        write_stack(name, np.zeros((3, box, box)))


def write(text, name="in.star"):
    with open(name, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        file.write(text)
    return name


def particles(columns=None, names=NAMES, block="particles"):
    """A loop of particles with further columns: a value for all rows, or one each."""
    columns = {"rlnImageName": names, **(columns or {})}
    lists = [[values] * len(names) if isinstance(values, str) else values for values in columns.values()]
    return loop(block, list(columns), zip(*lists))


def optics(*groups):
    groups = groups or [OPTICS]
    return loop("optics", list(groups[0]), [group.values() for group in groups])


def with_optics(columns=None, groups=(), **how):
    return write(optics(*groups) + particles({"rlnOpticsGroup": "1", **(columns or {})}, **how))


def relion_30(columns=None):
    return write(particles({"rlnMagnification": "50000.0", "rlnDetectorPixelSize": "7.5", **(columns or {})}, block=""))


def read(path, **given):
    """All arrays of a file, and its groups."""
    with RelionStar(path, **given) as found:
        some = list(found.particles())
        arrays = [np.concatenate(arrays) for arrays in zip(*(each[1:] for each in some))]
        return [*arrays, found.groups, found.image_files]


def rewrite(path, moved=MOVED, kept=True, box=OUT, stack="out/p.mrcs", to="new.star", **given):
    """The rewritten file, read by another reader; `moved` repeats if there are more rows."""
    with RelionStar(path, **given) as source:
        rows = sum(len(some.particle_ids) for some in source.particles())
        plans = {group: DownsamplePlan(group.box, group.apix, fourier_crop_size=box) for group in source.groups}
        new = NewStar(source, plans)
        moved = np.resize(np.asarray(moved, dtype=float), (rows, 2))
        kept = np.resize(kept, rows)
        images = np.cumsum(kept)
        with open(to, "wb") as file:
            for piece in new.pieces():
                if isinstance(piece, Block):
                    own = slice(piece.first - 1, piece.first - 1 + piece.rows)
                    outcome = Outcome(kept[own], [stack], np.zeros(piece.rows, np.int32), images[own], moved[own])
                    piece = new.rows.new_rows(piece, outcome)
                file.write(piece)
    return read_star(to)


def column(rows, label):
    return [row[label] for row in rows]


def refused(path, error=DataError, **given):
    with pytest.raises(error) as caught:
        rewrite(path, **given)
    return str(caught.value)


# ---- reading --------------------------------------------------------------------------------------------------------


def test_what_is_read_with_optics_groups():
    groups = [
        {**OPTICS, "x": "1"},
        {**OPTICS, "rlnOpticsGroup": "2", "rlnImagePixelSize": "2.0", "rlnImageSize": "48", "x": "2"},
    ]
    names = ["000003@in.mrcs", "2@other.mrcs", "000001@in.mrcs"]
    columns = {"rlnOpticsGroup": ["1", "2", "1"], "rlnOriginXAngst": ["3", "4", "-1.5"], "rlnOriginYAngst": "0"}
    numbers, files, indices, shifts, of_groups, found, paths = read(with_optics(columns, groups, names=names))
    assert numbers.tolist() == [1, 2, 3]
    assert (files.tolist(), indices.tolist(), of_groups.tolist()) == ([0, 1, 0], [3, 2, 1], [0, 1, 0])
    assert shifts.tolist() == [[2, 0], [2, 0], [-1, 0]]
    assert found == [ImageGroup("1", 32, 1.5, None), ImageGroup("2", 48, 2.0, None)]
    assert paths == ["in.mrcs", "other.mrcs"]
    assert [array.dtype for array in (numbers, files, indices, of_groups)] == ["i8", "i4", "i8", "i4"]


def test_what_is_read_of_relion_30():
    columns = {"rlnMagnification": ["50000", "50000", "25000"], "rlnOriginX": ["1.5", "0", "-2"], "rlnOriginY": "0.25"}
    *_, shifts, groups, found, _ = read(relion_30(columns))
    assert shifts.tolist() == [[1.5, 0.25], [0, 0.25], [-2, 0.25]]
    assert (groups.tolist(), [group.apix for group in found]) == ([0, 0, 1], [1.5, 3.0])
    assert found[0].key == "50000 7.5"


@pytest.mark.parametrize("label", ["rlnPixelSize", "rlnImagePixelSize"])
def test_other_pixel_sizes_of_relion_30(label):
    *_, found, _ = read(write(particles({label: "2.5"}, block="")))
    assert found[0].apix == 2.5


def test_origins_in_angstrom_without_optics():
    *_, shifts, _, _, _ = read(relion_30({"rlnOriginXAngst": "3", "rlnOriginYAngst": "-1.5"}))
    assert shifts[0].tolist() == [2, -1]


@pytest.mark.parametrize(
    "columns, has_origins",
    [({}, False), ({"rlnOriginX": "1", "rlnOriginY": "1"}, False), ({"rlnOriginXAngst": "1"}, True)],
)
def test_beside_an_optics_table_only_origins_in_angstrom_count(columns, has_origins):
    with RelionStar(with_optics(columns)) as found:
        assert found.has_origins == has_origins
        (some,) = found.particles()
        assert bool(some.shifts[0, 0]) == has_origins


@pytest.mark.parametrize(
    "change", [lambda text: text, lambda text: text.replace("\n", "\r\n"), lambda text: "\ufeff" + text]
)
@pytest.mark.parametrize("order", [1, -1])
def test_the_optics_table_may_stand_behind(change, order):
    columns = {"rlnOpticsGroup": "1", "rlnOriginXAngst": "3", "rlnOriginYAngst": "0"}
    path = write(change("".join([optics(), particles(columns)][::order])))
    *_, shifts, _, found, _ = read(path)
    assert (shifts[0].tolist(), found[0].apix) == ([2, 0], 1.5)
    tables = rewrite(path)
    assert [column(tables["optics"], label) for label in list(OPTICS)[1:]] == [["3"], ["16"]]
    assert column(tables["particles"], "rlnOriginXAngst") == ["-1.500000", "3", "4.500000"]
    more_lines = len(RECORD) if "\r\n" in change("\n") else 0
    assert Path("new.star").read_bytes().count(b"\r\n") == Path(path).read_bytes().count(b"\r\n") + more_lines


def test_optics_of_pairs():
    pairs = "data_optics\n\n_rlnImagePixelSize  1.500000 # Å\n_rlnImageSize 32\n\n"
    tables = rewrite(write(pairs + particles()), micrograph_apix=0.75)
    assert tables["optics"] == [{"rlnImagePixelSize": "3", "rlnImageSize": "16", "rlnMicrographPixelSize": "0.75"}]
    assert (
        "_rlnImagePixelSize  3 # Å\n_rlnImageSize 16\n_rlnMicrographPixelSize 0.75\n\n" in Path("new.star").read_text()
    )


def test_names_of_images():
    names = ["in.mrcs", "0@in.mrcs", "12@a@b.mrcs", '"1@with blanks/x.mrcs"', "'3@in.mrcs'", "5@é\udcff.mrcs"]
    with RelionStar(with_optics(names=names)) as found:
        (some,) = found.particles()
    assert some.image_indices.tolist() == [0, 0, 12, 1, 3, 5]
    assert [found.image_files[file] for file in some.files] == [
        "in.mrcs", "in.mrcs", "a@b.mrcs", "with blanks/x.mrcs", "in.mrcs", "é\udcff.mrcs",
    ]  # fmt: skip


def test_images_from_here_first_then_from_the_star_files_folder():
    os.makedirs("there")
    for name in ("there/in.mrcs", "there/beside.mrcs"):
        write_stack(name, np.zeros((3, BOX, BOX)))
    path = with_optics(names=["1@in.mrcs", "1@beside.mrcs", "1@gone.mrcs"])
    os.rename(path, "there/in.star")
    assert read("there/in.star")[-1] == ["in.mrcs", "there/beside.mrcs", "gone.mrcs"]


def test_the_box_is_of_the_first_file_that_can_be_read():
    path = with_optics(names=["1@gone.mrcs", "1@in.mrcs", "1@other.mrcs"])
    assert read(path)[-2][0].box == 32
    assert "in.star: gone.mrcs: the file cannot be opened" in refused(with_optics(names=["1@gone.mrcs", "1@no.mrcs"]))


@pytest.mark.parametrize("label", relion_labels.BOXES)
@pytest.mark.parametrize("in_optics", [True, False])
def test_a_box_that_contradicts_the_stacks(label, in_optics):
    groups = [{**OPTICS, label: "64"}] if in_optics else []
    path = with_optics({} if in_optics else {label: "64"}, groups)
    assert f"{label} of particles of group" in refused(path)
    assert "got 64 px, expected 32 px (the box of in.mrcs)" in refused(path)


def test_a_file_that_says_no_box():
    path = with_optics(groups=[{"rlnOpticsGroup": "1", "rlnImagePixelSize": "1.5"}])
    assert rewrite(path)["optics"] == [{"rlnOpticsGroup": "1", "rlnImagePixelSize": "3"}]


def test_many_blocks(monkeypatch):
    monkeypatch.setattr(star, "BYTES_AT_ONCE", 600)
    columns = {"rlnOriginXAngst": [str(i) for i in range(100)], "rlnOpticsGroup": ["1", "2"] * 50}
    groups = [OPTICS, {**OPTICS, "rlnOpticsGroup": "2", "rlnImagePixelSize": "3"}]
    path = with_optics(columns, groups, names=[f"{i + 1:06d}@in.mrcs" for i in range(100)])
    numbers, _, indices, shifts, groups, _, _ = read(path)
    assert numbers.tolist() == indices.tolist() == list(range(1, 101))
    assert groups.tolist() == [0, 1] * 50
    assert shifts[:, 0].tolist() == [i / (1.5 + 1.5 * (i % 2)) for i in range(100)]
    kept = np.arange(100) % 7 != 0
    rows = rewrite(path, moved=[(1, 0)], kept=kept)["particles"]
    assert column(rows, "downsampleImage") == [f"{i + 1:06d}@in.mrcs" for i in range(100) if i % 7]
    assert column(rows, "rlnImageName") == [f"{i:06d}@out/p.mrcs" for i in range(1, 86)]
    assert column(rows, "rlnOriginXAngst") == [f"{i - 1.5 - 1.5 * (i % 2):.6f}" for i in range(100) if i % 7]


# ---- labels ---------------------------------------------------------------------------------------------------------

# What becomes of a label on the rows: its value before, and in the three rows after
BOTH = {
    "rlnImageSize": ("32", ["16"] * 3),
    "rlnImageSizeX": ("32", ["16"] * 3),
    "rlnImageSizeY": ("32", ["16"] * 3),
    "rlnPixelSize": ("1.5", ["3"] * 3),
    "rlnSamplingRate": ("1.5", ["3"] * 3),
    "rlnSamplingRateX": ("1.5", ["3"] * 3),
    "rlnSamplingRateY": ("1.5", ["3"] * 3),
    "rlnSamplingRateZ": ("1.5", ["3"] * 3),
    "rlnImagePixelSize": ("1.5", ["3"] * 3),
    "rlnOriginXAngst": ("6.0", ["1.500000", "6.0", "7.500000"]),
    "rlnOriginYAngst": ("6.0", ["9.000000", "6.0", "5.250000"]),
    "rlnOriginXPriorAngst": ("6.0", ["1.500000", "6.0", "7.500000"]),
    "rlnOriginYPriorAngst": ("6.0", ["9.000000", "6.0", "5.250000"]),
    "rlnOriginX": ("4.0", ["0.500000", "2.000000", "2.500000"]),
    "rlnOriginY": ("4.0", ["3.000000", "2.000000", "1.750000"]),
    "rlnOriginXPrior": ("4.0", ["0.500000", "2.000000", "2.500000"]),
    "rlnOriginYPrior": ("4.0", ["3.000000", "2.000000", "1.750000"]),
    "rlnOriginZ": ("4.0", ["2.000000"] * 3),
    "rlnOriginZPrior": ("4.0", ["2.000000"] * 3),
    "rlnHelicalTrackLength": ("4.0", ["2.000000"] * 3),
    "rlnCoordinateX": ("100.0", ["94.000000", "100.0", "102.000000"]),
    "rlnCoordinateY": ("100.0", ["104.000000", "100.0", "99.000000"]),
}
KEPT = {
    "rlnOriginZAngst": "6.0",
    "rlnOriginZPriorAngst": "6.0",
    "rlnHelicalTrackLengthAngst": "81.5",
    "rlnHelicalTubePitch": "-1",
    "rlnMicrographPixelSize": "0.750000",
    "rlnMicrographOriginalPixelSize": "0.700000",
    "rlnMtfFileName": '"mtf k2.star"',
    "rlnBeamTiltX": "0.1",
    "rlnOddZernike": "[0.1,-0.2]",
    "rlnMagMat00": "1.01",
    "rlnPhaseShift": "90",
    "rlnCtfMaxResolution": "4.5",
    "rlnDefocusU": "13108.082418",
    "rlnCtfDataAreCtfPremultiplied": "1",
    "rlnImageDimensionality": "2",
    "rlnImageOriginalName": "7@x.mrcs",
    "rlnUnknown": "0.1234567890123",
}


@pytest.mark.parametrize("label", BOTH)
@pytest.mark.parametrize("make", [with_optics, relion_30])
def test_labels_on_rows(label, make):
    """With 0.75 Å/px in the micrographs, 1.5 in the images, 3 in the new ones."""
    before, after = BOTH[label]
    tables = rewrite(make({label: before, "rlnMicrographPixelSize": "0.75"}))
    (rows,) = (tables[block] for block in tables if block in ("particles", ""))
    assert column(rows, label) == after


@pytest.mark.parametrize("make", [with_optics, relion_30])
def test_labels_that_stay(make):
    tables = rewrite(make(KEPT))
    (rows,) = (tables[block] for block in tables if block in ("particles", ""))
    for label, value in KEPT.items():
        assert column(rows, label) == [value.strip('"')] * 3
    tables = rewrite(with_optics(groups=[{**OPTICS, **KEPT}]))
    for label, value in KEPT.items():
        assert column(tables["optics"], label) == [value.strip('"')]


@pytest.mark.parametrize(
    "label, before, after",
    [
        ("rlnImageSize", "32", "16"),
        ("rlnImagePixelSize", "1.50000", "3"),
        ("rlnPixelSize", "1.5", "3"),
        ("rlnSamplingRate", "7", "3"),
    ],
)
def test_labels_in_optics(label, before, after):
    assert column(rewrite(with_optics(groups=[{**OPTICS, label: before}]))["optics"], label) == [after]


@pytest.mark.parametrize("stale", ["5.0", "7.5"])
def test_magnification_beside_an_optics_table(stale):
    """The detector's pixel size goes with the new pixel size, whatever it was; the magnification stays."""
    both = {"rlnMagnification": "50000", "rlnDetectorPixelSize": stale}
    for path in (with_optics(both), with_optics(groups=[{**OPTICS, **both}])):
        tables = rewrite(path)
        row = {**tables["optics"][0], **tables["particles"][0]}
        assert (row["rlnMagnification"], row["rlnDetectorPixelSize"]) == ("50000", "15")
    for label, value in both.items():  # alone they say nothing
        assert column(rewrite(with_optics({label: value}))["particles"], label) == [value] * 3


def test_relion_30_keeps_its_magnification():
    (row, *_) = rewrite(relion_30())[""]
    assert (row["rlnMagnification"], row["rlnDetectorPixelSize"]) == ("50000.0", "15")


def test_what_is_right_already_stays_to_the_digit():
    """A filter alone, at another magnification of the numbers' digits."""
    groups = [{**OPTICS, "rlnImagePixelSize": "1.50000000012345"}]
    tables = rewrite(with_optics({"rlnPixelSize": "1.5e0", "rlnOriginX": "4.0"}, groups), moved=[(0, 0)], box=BOX)
    assert tables["optics"][0]["rlnImagePixelSize"] == "1.50000000012345"
    assert (tables["particles"][0]["rlnPixelSize"], tables["particles"][0]["rlnOriginX"]) == ("1.5e0", "4.0")


def test_only_the_values_change():
    """White space, quotes, comments, other blocks and line ends stay."""
    text = """# a

data_job

_rlnJobType   3.50

;
any thing at all
;

data_optics
loop_
_rlnOpticsGroup
_rlnOpticsGroupName
_rlnImagePixelSize

 1  'group 1'   1.5  # c
2 two 2.5

data_particles

loop_
_rlnImageName #1
# between labels
_rlnOpticsGroup #2
_rlnComment #3

  1@in.mrcs\t1   'x  y'   # end
# between rows
2@in.mrcs 1 z#  \n3@in.mrcs 1 ""
# behind

data_last
_x 1"""
    write(text)
    rewrite("in.star", moved=[(0, 0)], kept=[True, False, True])
    expected = (
        text.replace("1.5  #", "3  #")
        .replace("_rlnComment #3\n", "_rlnComment #3\n" + "".join(f"_{x} #{n}\n" for n, x in enumerate(RECORD, 4)))
        .replace("  1@in.mrcs\t1   'x  y'", "  000001@out/p.mrcs\t1   'x  y' 1@in.mrcs 0.000000 0.000000")
        .replace("2@in.mrcs 1 z#  \n", "")
        .replace('3@in.mrcs 1 ""', '000002@out/p.mrcs 1 "" 3@in.mrcs 0.000000 0.000000')
    )
    assert Path("new.star").read_text() == expected


def test_names_with_blanks_are_quoted():
    path = with_optics(names=['"1@with blanks/x.mrcs"', "2@in.mrcs"])
    rows = rewrite(path, stack="out put/p.mrcs")["particles"]
    assert column(rows, "rlnImageName") == ["000001@out put/p.mrcs", "000002@out put/p.mrcs"]
    assert column(rows, "downsampleImage") == ["1@with blanks/x.mrcs", "2@in.mrcs"]
    assert '\n"000001@out put/p.mrcs" 1 "1@with blanks/x.mrcs" 4.5' in Path("new.star").read_text()
    assert "expected none in a STAR file" in refused(path, stack="out  put/p.mrcs")
    assert rewrite(path, stack="é\udcff/p.mrcs")["particles"][0]["rlnImageName"] == "000001@é\udcff/p.mrcs"


def test_optics_groups_without_particles_stay():
    groups = [{**OPTICS, "rlnOpticsGroup": "7", "rlnImagePixelSize": "9.0"}, OPTICS]
    assert column(rewrite(with_optics(groups=groups))["optics"], "rlnImagePixelSize") == ["9.0", "3"]


# ---- micrographs and pixel sizes that are given ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "said, x",
    [
        ({}, "100.0"),
        ({"rlnMicrographPixelSize": "0.75"}, "94.000000"),
        ({"rlnMicrographPixelSize": "0"}, "100.0"),
        ({"rlnMicrographOriginalPixelSize": "1.50001"}, "97.000020"),
        ({"rlnMicrographOriginalPixelSize": "0.75"}, "100.0"),  # of movies, which may have been binned since
        ({"rlnMicrographPixelSize": "0.75", "rlnMicrographOriginalPixelSize": "1.5"}, "94.000000"),
    ],
)
def test_coordinates_move_where_the_micrographs_are_known(said, x):
    for path in (
        with_optics({"rlnCoordinateX": "100.0"}, [{**OPTICS, **said}]),
        with_optics({"rlnCoordinateX": "100.0", **said}),
        relion_30({"rlnCoordinateX": "100.0", **said}),
    ):
        tables = rewrite(path)
        (rows,) = (tables[block] for block in tables if block in ("particles", ""))
        assert rows[0]["rlnCoordinateX"] == x


@pytest.mark.parametrize("make, block, where", [(with_optics, "particles", "optics"), (relion_30, "", "")])
def test_a_pixel_size_of_the_micrographs_that_is_given(make, block, where):
    tables = rewrite(make({"rlnCoordinateX": "100.0"}), micrograph_apix=0.75)
    assert set(column(tables[where], "rlnMicrographPixelSize")) == {"0.75"}
    assert column(tables[block], "rlnCoordinateX") == ["94.000000", "100.0", "102.000000"]
    write_stack("out/p.mrcs", np.zeros((3, OUT, OUT)))
    again = rewrite("new.star", moved=[(1, 0)], box=8, to="again.star")
    assert again[block][0]["rlnCoordinateX"] == "90.000000", "a second run knows it"
    movies = make({"rlnCoordinateX": "100.0", "rlnMicrographOriginalPixelSize": "1.5"})
    assert rewrite(movies, micrograph_apix=0.75)[block][0]["rlnCoordinateX"] == "94.000000", "what is given counts"


def test_a_pixel_size_of_the_micrographs_that_is_given_instead_of_0():
    tables = rewrite(with_optics(groups=[{**OPTICS, "rlnMicrographPixelSize": "0.0"}]), micrograph_apix=0.75)
    assert column(tables["optics"], "rlnMicrographPixelSize") == ["0.75"]


def test_where_new_columns_stand():
    rewrite(relion_30(), micrograph_apix=0.75)
    text = Path("new.star").read_text()
    labels = ["rlnImageName", "rlnMagnification", "rlnDetectorPixelSize", "rlnMicrographPixelSize", *RECORD]
    assert re.findall(r"\n_(\S+) #(\d+) (?=\n)", text) == [(x, str(n)) for n, x in enumerate(labels, start=1)]
    assert "\n000001@out/p.mrcs 50000.0 15 0.75 000001@in.mrcs 4.500000 -3.000000 \n" in text
    rewrite(with_optics(), micrograph_apix=0.75)
    assert "_rlnImageSize #3 \n_rlnMicrographPixelSize #4 \n1 3 16 0.75 \n \n" in Path("new.star").read_text()


def test_a_pixel_size_that_is_given():
    path = with_optics(groups=[{"rlnOpticsGroup": "1", "x": "y"}, {"rlnOpticsGroup": "2", "x": "z"}])
    assert read(path, apix=1.5)[-2][0].apix == 1.5
    found = rewrite(path, apix=1.5)["optics"]
    assert column(found, "rlnImagePixelSize") == ["3", "1.5"], "the second has no particles"
    *_, again, _ = read("new.star") if write_stack("out/p.mrcs", np.zeros((3, OUT, OUT))) else ()
    assert again[0].apix == 3


@pytest.mark.parametrize(
    "columns, magnification, detector",
    [
        ({}, "10000.000000", "3"),
        ({"rlnMagnification": "50000"}, "50000", "15"),
        ({"rlnDetectorPixelSize": "5.0"}, "10000.000000", "3"),
    ],
)
def test_a_pixel_size_that_is_given_for_relion_30(columns, magnification, detector):
    rows = rewrite(write(particles({"rlnOriginX": "4.0", **columns}, block="")), apix=1.5)[""]
    assert (rows[0]["rlnMagnification"], rows[0]["rlnDetectorPixelSize"]) == (magnification, detector)
    assert column(rows, "rlnOriginX") == ["0.500000", "2.000000", "2.500000"]


@pytest.mark.parametrize("make", [with_optics, relion_30])
def test_pixel_sizes_that_contradict_the_file(make):
    sentence = "Pixel size of the images: got 1.6 Å/px, expected 1.5 Å/px, the value in in.star; leave the option out."
    assert refused(make(), PlanError, apix=1.6) == sentence
    assert read(make(), apix=1.5001)[-2][0].apix == 1.5, "the file's digits count"
    sentence = "Pixel size of the micrographs: got 1 Å/px, expected 0.75 Å/px, the value in in.star"
    assert sentence in refused(make({"rlnMicrographPixelSize": "0.75"}), PlanError, micrograph_apix=1.0)


# ---- the record -----------------------------------------------------------------------------------------------------


def test_the_record_adds_up():
    path = with_optics({"rlnOriginXAngst": "6.0"})
    rows = rewrite(path)["particles"]
    assert column(rows, "downsampleImage") == NAMES
    assert column(rows, "downsampleShiftXAngst") == ["4.500000", "0.000000", "-1.500000"]
    assert column(rows, "downsampleShiftYAngst") == ["-3.000000", "0.000000", "0.750000"]
    write_stack("out/p.mrcs", np.zeros((3, OUT, OUT)))
    again = rewrite("new.star", moved=[(1, -0.5), (-2, 0), (0, 0)], box=8, to="again.star")["particles"]
    assert column(again, "downsampleImage") == NAMES
    assert list(again[0]) == list(rows[0]), "no further columns"
    assert column(again, "downsampleShiftXAngst") == ["7.500000", "-6.000000", "-1.500000"]
    assert column(again, "downsampleShiftYAngst") == ["-4.500000", "0.000000", "0.750000"]
    assert column(again, "rlnOriginXAngst") == ["-1.500000", "12.000000", "7.500000"], "origins and record agree"


def test_the_record_of_every_particle_of_two_groups():
    groups = [OPTICS, {**OPTICS, "rlnOpticsGroup": "2", "rlnImagePixelSize": "3"}]
    rows = rewrite(with_optics({"rlnOpticsGroup": ["2", "1", "2"]}, groups), moved=[(1, 0)])["particles"]
    assert column(rows, "downsampleShiftXAngst") == ["3.000000", "1.500000", "3.000000"]


# ---- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "columns, sentence",
    [
        ({"rlnReconstructImageName": "1@x.mrcs"}, "rlnReconstructImageName: got a second image for each particle"),
        ({"rlnTomoName": "t1"}, "rlnTomoName: got particles from tomograms, expected images from micrographs"),
        ({"rlnCenteredCoordinateXAngst": "1"}, "rlnCenteredCoordinateXAngst: got particles from tomograms"),
        ({"rlnImageDimensionality": "3"}, "rlnImageDimensionality is 3, expected 2; give a file of images"),
        ({RECORD[0]: "1@x.mrcs"}, "incomplete: downsampleShiftXAngst, downsampleShiftYAngst missing"),
        ({RECORD[2]: "1"}, "incomplete: downsampleImage, downsampleShiftXAngst missing"),
        ({"rlnMicrographPixelSize": "-1"}, "rlnMicrographPixelSize is -1 Å/px, expected more than 0"),
    ],
)
def test_what_is_refused(columns, sentence):
    for path in (with_optics(columns), relion_30(columns)):
        assert sentence in refused(path)
        assert refused(path).startswith("in.star")


def test_what_is_refused_in_optics():
    for label, value, sentence in (
        ("rlnTomoTiltSeriesPixelSize", "1", "rlnTomoTiltSeriesPixelSize: got particles from tomograms"),
        ("rlnImageDimensionality", "3", "in.star, optics table: rlnImageDimensionality is 3, expected 2"),
        ("rlnImagePixelSize", "abc", "in.star, optics table: rlnImagePixelSize is abc, expected a number"),
        ("rlnImagePixelSize", "0", "in.star, optics table: the pixel size is 0 Å/px, expected a number above 0"),
        ("rlnImagePixelSize", "-1", "the pixel size is -1 Å/px"),
        ("rlnImagePixelSize", "1e9", "the pixel size is 1e+09 Å/px"),
        ("rlnImageSize", "nan", "rlnImageSize is nan, expected a number"),
    ):
        assert sentence in refused(with_optics(groups=[{**OPTICS, label: value}]))


def test_what_is_refused_in_other_blocks():
    bodies = loop("images_body_2", ["rlnOriginXAngst"], [["1"]])
    for text in (bodies + optics() + particles({"rlnOpticsGroup": "1"}), optics() + particles() + bodies):
        assert "data_images_body_2: got a multi-body refinement, expected one body" in refused(write(text))
    twice = optics() + particles() + particles(block="more")
    assert "line 29: rlnImageName appears in a second table, expected one" in refused(write(twice))
    assert "optics group 1 appears twice in the optics table" in refused(with_optics(groups=[OPTICS, OPTICS]))
    junk = optics() + particles() + "1@in.mrcs 1\n"
    assert "line 23: '1@in.mrcs 1' is outside a loop" in refused(write(junk))


NUMBERS = [*relion_labels.OF_PARTICLE, *relion_labels.OF_GROUP[1:]]


@pytest.mark.parametrize("label", NUMBERS)
@pytest.mark.parametrize("text", ["abc", "nan", "inf", "1e400", "1_0", "٣", "''"])
def test_values_that_are_no_numbers(label, text):
    """All that the output needs is looked at before any image is, with its line."""
    record = dict.fromkeys(RECORD, "0") if label in RECORD else {}
    good = {"rlnImageSize": "32"}.get(label, "2" if label == "rlnImageDimensionality" else "1")
    shown = text.strip("'") or "missing"
    for make in (with_optics, relion_30):
        path = make({**record, label: [good, text, good]})
        lines = Path(path).read_text().splitlines()
        line = next(number for number, words in enumerate(lines, start=1) if "000002@in.mrcs" in words)
        found = refused(path)
        assert found.startswith(f"in.star, line {line}: ")
        assert f"{label} is {shown}, expected a number" in found


@pytest.mark.parametrize(
    "path, sentence",
    [
        (lambda: write("data_\n_rlnImageName 1\n"), "it has no rlnImageName, expected a RELION STAR file of particles"),
        (lambda: with_optics(names=[]), "it has no rows with rlnImageName"),
        (lambda: write(particles(block="")), "rlnMagnification is missing, expected a number for all particles"),
        (lambda: write(particles({"rlnMagnification": "1"})), "rlnDetectorPixelSize is missing"),
        (lambda: relion_30({"rlnMagnification": "0"}), "line 10: the pixel size is 0 Å/px, expected a"),
        (lambda: with_optics(groups=[{"rlnOpticsGroup": "1"}]), "rlnImagePixelSize is missing, expected a"),
        (lambda: with_optics({"rlnOpticsGroup": "7"}), "line 20: a particle belongs to optics group 7, expected one"),
        (lambda: with_optics(names=["1@in.mrcs", "x@in.mrcs"]), "line 21: rlnImageName is x@in.mrcs, expected a"),
        (lambda: with_optics(names=["1@in.mrcs", "@in.mrcs"]), "line 21: rlnImageName is @in.mrcs, expected a number"),
        (lambda: with_optics(names=["1@in.mrcs", "1@"]), "line 21: rlnImageName is 1@, expected a number before the @"),
        (lambda: with_optics(names=["1234567890123@in.mrcs"]), "of up to 12 digits, and a file after it"),
        (lambda: with_optics(names=["²@in.mrcs"]), "rlnImageName is ²@in.mrcs, expected a number before the @"),
        (lambda: with_optics({"rlnOpticsGroup": ["1", "1", "1 2"]}), "line 22: 3 values, expected 2, one"),
        (lambda: with_optics({"rlnImageName ": "1"}), "line 20: _rlnImageName appears twice in the table"),
        (lambda: with_optics(groups=[{**OPTICS, "rlnImageSize ": "1"}]), "_rlnImageSize appears twice in the table"),
    ],
)  # fmt: skip
def test_files_with_something_wrong(path, sentence):
    assert sentence in refused(path())


# ---- files that change, and other processes -------------------------------------------------------------------------


def _rows_elsewhere(pickled):
    rows, block, outcome = pickle.loads(pickled)
    return rows.new_rows(block, outcome)


def test_other_processes_rewrite_blocks_of_a_file_that_is_gone(monkeypatch):
    monkeypatch.setattr(star, "BYTES_AT_ONCE", 300)
    path = with_optics(names=[f"{i + 1:06d}@in.mrcs" for i in range(100)])
    alone = rewrite(path)
    with RelionStar(path) as source:
        for _ in source.particles():
            pass
        os.remove(path)
        write("something else")
        source.file.check_unchanged()
        new = NewStar(source, {group: DownsamplePlan(BOX, 1.5, fourier_crop_size=OUT) for group in source.groups})
        pieces, jobs = list(new.pieces()), []
        for piece in pieces:
            if isinstance(piece, Block):
                n, numbers = piece.rows, np.arange(piece.first, piece.first + piece.rows)
                moved = MOVED[(numbers - 1) % 3]
                outcome = Outcome(np.ones(n, dtype=bool), ["out/p.mrcs"], np.zeros(n, np.int32), numbers, moved)
                jobs.append(pickle.dumps((new.rows, piece, outcome)))
        assert len(jobs) > 5
        with multiprocessing.get_context("fork").Pool(2) as pool:
            done = iter(pool.map(_rows_elsewhere, jobs))
    with open("parts.star", "wb") as file:
        file.writelines(next(done) if isinstance(piece, Block) else piece for piece in pieces)
    assert read_star("parts.star") == alone


def test_a_file_that_is_written_to_meanwhile():
    path = with_optics()
    with RelionStar(path) as source:
        for _ in source.particles():
            pass
        new = NewStar(source, {group: DownsamplePlan(BOX, 1.5, fourier_crop_size=OUT) for group in source.groups})
        write(Path(path).read_text().replace("000002@in.mrcs", "000003@in.mrcs"))
        (block,) = (piece for piece in new.pieces() if isinstance(piece, Block))
        outcome = Outcome(np.ones(3, dtype=bool), ["p"], np.zeros(3, np.int32), np.arange(3), MOVED)
        for look in (source.file.check_unchanged, lambda: new.rows.new_rows(block, outcome)):
            with pytest.raises(DataError, match=r"in.star: it was changed during the run, expected the same file"):
                look()
