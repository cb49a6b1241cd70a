# SPDX-License-Identifier: GPL-3.0-or-later
"""The way back outside Scipion: refined STAR files of downsampled particles, to rows of the full-size ones."""

import re
from pathlib import Path

import numpy as np
import pytest

from downsample_plugin.command import downsample_particles as cli
from downsample_plugin.command import restore_particles as restore_cli
from downsample_plugin.command.command_line import EXIT_DATA, EXIT_USAGE

from .scipion_sets import pairs, write_stack
from .star_texts import loop, read_star

BOX, APIX, COUNT = 32, 1.5, 12
NAMES = [f"{i % 6 + 1:06d}@stack {1 + i // 6}.mrcs" for i in range(COUNT)]  # of files with blanks in their names
OPTICS = {"rlnOpticsGroup": "1", "rlnOpticsGroupName": '"a b"', "rlnImagePixelSize": "1.5", "rlnImageSize": "32"}
RESULTS = {
    "rlnAngleRot": 10.0,
    "rlnAngleTilt": 20.0,
    "rlnAnglePsi": 30.0,
    "rlnAngleRotPrior": 11.0,
    "rlnAngleTiltPrior": 21.0,
    "rlnAnglePsiPrior": 31.0,
    "rlnAnglePsiFlip": 0,
    "rlnAnglePsiFlipRatio": 0.5,
    "rlnAngleRotFlipRatio": 0.25,
    "rlnClassNumber": 2,
    "rlnRandomSubset": 1,
    "rlnNormCorrection": 0.9,
    "rlnLogLikeliContribution": 1e5,
    "rlnMaxValueProbDistribution": 0.5,
    "rlnNrOfSignificantSamples": 7,
}
RECENTER = {"whole": "--recenter", "exact": "--recenter-exact"}


@pytest.fixture(autouse=True)
def stacks(here):
    rng = np.random.default_rng(0)
    for number in (1, 2):
        write_stack(f"stack {number}.mrcs", rng.normal(size=(6, BOX, BOX)))


@pytest.fixture
def shifts():
    """(COUNT, 2) in Å."""
    return np.round(np.random.default_rng(1).uniform(-12, 12, (COUNT, 2)), 6)


def original(shifts, has_optics=True, **more):
    """A STAR file of all particles: 3.1 with origins in Å, or 3.0 with origins in px."""
    columns = {
        "rlnImageName": [f'"{name}"' for name in NAMES],
        "rlnMicrographName": [f"mic{i}.mrc" for i in range(COUNT)],
        "rlnCoordinateX": [f"{100 + i}.0" for i in range(COUNT)],
        "rlnDefocusU": [f"{10000 + i}.25" for i in range(COUNT)],
        **{label: [f"{value + i}" for i in range(COUNT)] for label, value in RESULTS.items() if "Angle" in label},
        **more,
    }
    for axis, values in zip("XY", shifts.T):
        in_px = [f"{value / APIX:.6f}" for value in values]
        columns.update({f"rlnOrigin{axis}Angst": map(str, values)} if has_optics else {f"rlnOrigin{axis}": in_px})
    if has_optics:
        columns["rlnOpticsGroup"] = ["1"] * COUNT
    else:
        columns.update(rlnMagnification=["50000.0"] * COUNT, rlnDetectorPixelSize=["7.5"] * COUNT)
    text = loop("optics", list(OPTICS), [OPTICS.values()]) if has_optics else ""
    Path("original.star").write_text(
        text + loop("particles" if has_optics else "", list(columns), zip(*columns.values()))
    )
    return "original.star"


def downsampled(source="original.star", folder="small", *options):
    options = options or ("--box", "16", "--recenter")
    assert cli.main([source, "-o", folder, *options, "--jobs", "1", "--no-picture"]) == 0
    return f"{folder}/particles.star"


def refined(path, change, to="refined.star"):
    """A STAR file with other rows: `change` makes a list of dictionaries of another one."""
    blocks = read_star(path)
    text = ""
    for name, rows in blocks.items():
        rows = change(rows) if name in ("particles", "") else rows
        text += loop(name, list(rows[0]), [[quoted(value) for value in row.values()] for row in rows])
    Path(to).write_text(text)
    return to


def quoted(value):
    return f'"{value}"' if " " in value or not value else value


def restored(path, *options, source="original.star", to="full.star", code=0):
    assert restore_cli.main([path, "--original", source, "-o", to, *options]) == code
    return particles_of(to) if code == 0 else None


def particles_of(path):
    blocks = read_star(path)
    return blocks.get("particles", blocks.get(""))


def floats(rows, *labels):
    return np.array([[float(row[label]) for label in labels] for row in rows])


@pytest.mark.parametrize("mode", RECENTER)
@pytest.mark.parametrize("has_optics", [True, False])
def test_what_was_not_refined_comes_back_as_it_was(shifts, has_optics, mode):
    source = original(shifts, has_optics)
    small = downsampled(source, "small", "--box", "16", RECENTER[mode])
    full = restored(small)
    before = particles_of(source)
    origins = ("rlnOriginXAngst", "rlnOriginYAngst") if has_optics else ("rlnOriginX", "rlnOriginY")
    assert np.abs(floats(full, *origins) - floats(before, *origins)).max() < 2e-6
    for row, other in pairs(full, before):
        assert {label: row[label] for label in other if label not in origins} == {
            label: other[label] for label in other if label not in origins
        }
        assert row.keys() == other.keys()
    if has_optics:
        assert read_star("full.star")["optics"] == read_star(source)["optics"]


def test_results_of_a_refinement(shifts):
    """Angles, origins and more are those that were found; the rest, the original's. The order is the refined one's."""
    original(shifts, **{label: [str(value)] * COUNT for label, value in RESULTS.items() if "Angle" not in label})
    small = downsampled()
    steps = np.random.default_rng(2).normal(size=(COUNT, 2))
    order = np.random.default_rng(3).permutation(COUNT)[:9]  # a subset in another order

    def refine(rows):
        for row, step in pairs(rows, steps):
            row.update({label: str(float(row[label]) + 100) for label in RESULTS}, rlnGroupNumber="5")
            row["rlnDefocusU"] = "1.0"
            for label, value in zip(("rlnOriginXAngst", "rlnOriginYAngst"), step):
                row[label] = f"{value:.6f}"
        return [rows[place] for place in order]

    small_rows = particles_of(small)
    full = restored(refined(small, refine))
    before = particles_of("original.star")
    assert len(full) == len(order)
    for row, place in pairs(full, order.tolist()):
        old, d = before[place], floats([small_rows[place]], "downsampleShiftXAngst", "downsampleShiftYAngst")[0]
        assert row["rlnImageName"] == NAMES[place] == old["rlnImageName"]
        assert row["rlnMicrographName"] == f"mic{place}.mrc" and row["rlnCoordinateX"] == old["rlnCoordinateX"]
        assert row["rlnDefocusU"] == old["rlnDefocusU"]
        assert {label: float(row[label]) for label in RESULTS} == {label: float(old[label]) + 100 for label in RESULTS}
        assert row["rlnGroupNumber"] == "5"
        found = floats([row], "rlnOriginXAngst", "rlnOriginYAngst")[0]
        assert np.abs(found - (np.round(steps[place], 6) + d)).max() < 2e-6
        assert not any(label.startswith("downsample") for label in row)


@pytest.mark.parametrize("has_optics", [True, False])
def test_origins_and_priors_in_the_other_unit(shifts, has_optics):
    """RELION 3.1 makes Å of a 3.0 file's pixels; the original keeps its own."""
    original(shifts, has_optics)
    small = downsampled()

    def change(rows):
        for row in rows:
            for axis in "XY":
                if has_optics:
                    apix = 3.0
                    value = float(row.pop(f"rlnOrigin{axis}Angst"))
                    row[f"rlnOrigin{axis}"] = row[f"rlnOrigin{axis}Prior"] = f"{value / apix:.7f}"
                else:
                    value = 3.0 * float(row.pop(f"rlnOrigin{axis}"))
                    row[f"rlnOrigin{axis}Angst"] = row[f"rlnOrigin{axis}PriorAngst"] = f"{value:.7f}"
        return rows

    full = restored(refined(small, change))
    unit = "Angst" if has_optics else ""
    found = floats(full, f"rlnOriginX{unit}", f"rlnOriginY{unit}")
    assert np.abs(found - shifts / (1 if has_optics else APIX)).max() < 3e-6
    assert np.array_equal(found, floats(full, f"rlnOriginXPrior{unit}", f"rlnOriginYPrior{unit}"))
    assert not {"rlnOriginX", "rlnOriginXPrior"} & set(full[0]) or not has_optics


def test_an_original_that_was_never_aligned(shifts):
    """It gets the columns that it lacks."""
    original(shifts)
    refined("original.star", lambda rows: [drop(row, "Origin", "Angle") for row in rows], "bare.star")
    small = downsampled("bare.star", "small", "--box", "16")

    def align(rows):
        for i, row in enumerate(rows):
            row.update(rlnAngleRot=str(i), rlnOriginXAngst=str(-i), rlnOriginYAngst="2.5")
        return rows

    full = restored(refined(small, align), source="bare.star")
    assert floats(full, "rlnAngleRot", "rlnOriginXAngst", "rlnOriginYAngst").tolist() == [
        [i, -i, 2.5] for i in range(COUNT)
    ]


def drop(row, *words):
    return {label: value for label, value in row.items() if not any(word in label for word in words)}


@pytest.mark.parametrize("expanded_before", [True, False])
def test_symmetry_expanded(shifts, expanded_before):
    """Several rows of one image, before or after downsampling, each with its own angles and origin."""

    def expand(rows):
        rows = [{**row, "rlnAngleRot": str(float(row["rlnAngleRot"]) + turn)} for row in rows for turn in (0, 90, 180)]
        return rows[1:]

    original(shifts)
    if expanded_before:
        source = refined("original.star", expand, "expanded.star")
        full = restored(downsampled(source), source=source)
    else:
        source = "original.star"
        full = restored(refined(downsampled(), expand))
    expected = expand(particles_of("original.star"))
    assert [(row["rlnImageName"], float(row["rlnAngleRot"])) for row in full] == [
        (row["rlnImageName"], float(row["rlnAngleRot"])) for row in expected
    ]
    labels = ("rlnOriginXAngst", "rlnOriginYAngst")
    assert np.abs(floats(full, *labels) - floats(expected, *labels)).max() < 2e-6


def test_rows_of_one_image_that_differ(shifts, capsys):
    """Nothing tells which of them it was."""

    def twice(rows):
        return [*rows, {**rows[3], "rlnDefocusU": "5.0"}]

    original(shifts)
    small = downsampled()
    source = refined("original.star", twice, "twice.star")
    restored(small, source=source, code=EXIT_DATA)
    assert re.search(r"several rows of image 000004@stack 1.mrcs differ in more than", capsys.readouterr().err)
    without = refined(small, lambda rows: rows[:3], "without.star")
    assert len(restored(without, source=source)) == 3  # the others are of no interest


def test_runs_one_after_the_other(shifts):
    """The way back is one step: the record names the first image, and moves add up."""
    original(shifts)
    first = downsampled("original.star", "first", "--box", "24", "--recenter")

    def move(rows):
        for i, row in enumerate(rows):
            row["rlnOriginXAngst"] = f"{float(row['rlnOriginXAngst']) + i:.6f}"
        return rows

    second = downsampled(refined(first, move, "moved.star"), "second", "--box", "12", "--recenter-exact")
    full = restored(second)
    expected = shifts + np.arange(COUNT)[:, None] * (1, 0)
    assert np.abs(floats(full, "rlnOriginXAngst", "rlnOriginYAngst") - expected).max() < 3e-6
    assert [row["rlnImageName"] for row in full] == NAMES


def test_joined_files_of_several_runs(shifts):
    original(shifts)
    one = refined("original.star", lambda rows: rows[:5], "one.star")
    other = refined("original.star", lambda rows: rows[5:], "other.star")
    small = [downsampled(one, "one"), downsampled(other, "other")]
    joined = refined(small[0], lambda rows: particles_of(small[1]) + rows)
    assert [row["rlnImageName"] for row in restored(joined)] == [*NAMES[5:], *NAMES[:5]]


def test_an_original_in_another_order(shifts):
    """RELION sorts by micrographs."""
    original(shifts)
    small = downsampled()
    source = refined("original.star", lambda rows: rows[::-1], "reversed.star")
    full = restored(small, source=source)
    assert [(row["rlnImageName"], row["rlnDefocusU"]) for row in full] == [
        (name, f"{10000 + i}.25") for i, name in enumerate(NAMES)
    ]


def test_names_written_in_another_way(shifts):
    """RELION writes numbers of six digits, others do not; names of files may begin with ./"""
    original(shifts)

    def rename(rows):
        for row in rows:
            number, file = row["downsampleImage"].split("@")
            row["downsampleImage"] = f"{int(number)}@./{file}"
        return rows

    assert [row["rlnImageName"] for row in restored(refined(downsampled(), rename))] == NAMES


# ---- refusals --------------------------------------------------------------------------------------------


def test_a_row_without_original(shifts, capsys):
    original(shifts)
    small = downsampled()
    part = refined("original.star", lambda rows: rows[2:], "part.star")
    restored(small, source=part, code=EXIT_DATA)
    said = capsys.readouterr().err
    assert "2 of the particles in small/particles.star have no original in part.star" in said
    assert "000001@stack 1.mrcs, 000002@stack 1.mrcs;" in said and "--skip-missing" in said
    assert not Path("full.star").exists()
    assert [row["rlnImageName"] for row in restored(small, "--skip-missing", source=part)] == NAMES[2:]
    assert "Left out: 2 particles without an original" in capsys.readouterr().out


def test_nothing_that_can_be_restored(shifts, capsys):
    original(shifts)
    small = downsampled()
    refined("original.star", lambda rows: rows[:1], "one.star")
    rest = refined(small, lambda rows: rows[1:])
    restored(rest, "--skip-missing", source="one.star", code=EXIT_DATA)
    assert "none of its particles has an original" in capsys.readouterr().err


def test_a_file_without_record(shifts, capsys):
    original(shifts)
    restored("original.star", code=EXIT_DATA)
    assert "original.star: downsampleImage is missing, expected the record" in capsys.readouterr().err


def test_output_that_may_not_be_written(shifts, capsys):
    original(shifts)
    small = downsampled()
    restored(small)
    before = Path("full.star").read_bytes()
    Path("full.star").write_text("mine")
    restored(small, code=EXIT_USAGE)
    assert "full.star: it exists already; add --force" in capsys.readouterr().err
    assert Path("full.star").read_text() == "mine"
    restored(small, "--force")
    assert Path("full.star").read_bytes() == before
    for name in (small, "original.star", "."):
        restored(small, "--force", to=name, code=EXIT_USAGE)
    assert Path("original.star").exists() and "is a folder" in capsys.readouterr().err


@pytest.mark.parametrize("value", ["nan", "x", '""'])
def test_records_that_are_no_numbers(shifts, capsys, value):
    original(shifts)
    small = downsampled()
    text = Path(small).read_text()
    moved = particles_of(small)[4]["downsampleShiftXAngst"]
    Path("refined.star").write_text(text.replace(f" {moved} ", f" {value} ", 1))
    restored("refined.star", code=EXIT_DATA)
    assert re.search(r"refined.star, line \d+: downsampleShiftXAngst is", capsys.readouterr().err)
    assert not Path("full.star").exists()


def test_a_row_at_the_end_of_a_file_without_a_line_end(shifts):
    """And in the middle of the new one."""
    original(shifts)
    small = downsampled()
    Path("original.star").write_text(Path("original.star").read_text().rstrip())
    full = restored(refined(small, lambda rows: rows[::-1]))
    assert [row["rlnImageName"] for row in full] == NAMES[::-1]


def test_text_around_the_rows_stays(shifts):
    original(shifts)
    small = downsampled()
    text = "# from a friend\n" + Path("original.star").read_text() + "\ndata_other\n\n_a b\n"
    Path("original.star").write_text(text)
    restored(small)
    new = Path("full.star").read_text()
    assert new.startswith("# from a friend\n") and new.endswith("\ndata_other\n\n_a b\n")
