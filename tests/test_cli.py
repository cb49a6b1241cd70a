# SPDX-License-Identifier: GPL-3.0-or-later
"""The command line on stacks and RELION STAR files: pixels, every value of the STAR file, going on, refusals."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import mrcfile
import numpy as np
import pytest

from downsample_plugin.command import command_line
from downsample_plugin.command import downsample_particles as cli
from downsample_plugin.core import DownsamplePlan, downsample_images
from downsample_plugin.core.plan import Recenter
from downsample_plugin.files import relion_labels
from downsample_plugin.files.relion_star import RelionStar

from . import relion_files
from .relion_files import write_refined
from .scipion_sets import images_of_file, pairs, write_stack
from .star_texts import read_star

DATA = Path(__file__).parent / "data"
BOX = 32


def command(*arguments, code=0):
    assert cli.main([*arguments, "--jobs", "2", "--no-picture"]) == code


def noise(count, box=BOX, seed=0):
    return np.random.default_rng(seed).normal(size=(count, box, box)).astype(np.float32)


def table(path, block):
    """Rows of a loop of a STAR file, read by another reader than ours."""
    from emtable import Table

    return list(Table(fileName=str(path), tableName=block, guessType=False))


def image_at(name):
    index, file = name.split("@")
    return images_of_file(file)[int(index) - 1]


# ---- stacks ----------------------------------------------------------------------------------------------


def test_a_stack(here):
    write_stack("in.mrcs", noise(5))
    wishes = [
        "--crop",
        "30",
        "--pixel-size",
        "3",
        "--lowpass",
        "9",
        "--highpass",
        "60",
        "--normalize",
        "5",
        "--float16",
    ]
    command("in.mrcs", "--apix", "1.5", "-o", "out", *wishes)
    plan = DownsamplePlan(
        BOX,
        1.5,
        crop_size=30,
        target_pixel_size=3.0,
        lowpass_resolution=9.0,
        highpass_resolution=60.0,
        normalize=True,
        background_radius=5,
        float16=True,
    )
    expected, _ = downsample_images(noise(5), plan)
    with mrcfile.open("out/particles_000001.mrcs") as stack:
        assert np.array_equal(stack.data, expected)
        assert stack.voxel_size.x == pytest.approx(plan.apix_out)


def test_the_pixel_size_of_the_header(here, capsys):
    write_stack("in.mrcs", noise(2), voxel_size=1.5)
    command("in.mrcs", "-o", "out", "--box", "16", "--normalize", "-1")
    assert mrcfile.open("out/particles_000001.mrcs").voxel_size.x == pytest.approx(3.0)
    write_stack("none.mrcs", noise(2))
    command("none.mrcs", "-o", "none", "--box", "16", code=command_line.EXIT_USAGE)
    assert (
        "--apix: the header of none.mrcs says 0 Å/px, expected more than 0; give the pixel size"
        in capsys.readouterr().err
    )
    with mrcfile.open("none.mrcs", "r+") as stack:
        stack.header.cella.x = np.nan
    command("none.mrcs", "-o", "none", "--box", "16", code=command_line.EXIT_USAGE)
    assert "--apix: the header of none.mrcs says nan Å/px, expected more than 0" in capsys.readouterr().err
    command("none.mrcs", "-o", "none", "--box", "16", "--apix", "0", code=command_line.EXIT_USAGE)
    assert "the header" not in capsys.readouterr().err


@pytest.mark.parametrize("name, out", [("in.mrcs", "out"), ("in put.mrcs", "out put")])
def test_a_stack_comes_with_a_star_file(here, capsys, name, out):
    """It holds the stacks together, and names what each image was made of."""
    images = noise(7)
    images[2, 0, 0] = np.nan
    write_stack(name, images, voxel_size=1.5)
    command(name, "-o", out, "--box", "16", "--particles-per-stack", "3", "--skip-corrupt")
    said = capsys.readouterr().out
    assert f"Done: 6 particles in {out}/particles.star" in said
    assert f"Stacks: {out}/particles_000001.mrcs … {out}/particles_000003.mrcs (3 files)" in said
    blocks = read_star(f"{out}/particles.star")
    (optics,) = blocks["optics"]
    assert (optics["rlnImageSize"], optics["rlnImagePixelSize"], optics["rlnImageDimensionality"]) == ("16", "3", "2")
    kept = [1, 2, 4, 5, 6, 7]
    plan = DownsamplePlan(BOX, 1.5, fourier_crop_size=16)
    expected, _ = downsample_images(images[[place - 1 for place in kept]], plan)
    for row, place, image in pairs(blocks["particles"], kept, expected):
        assert np.array_equal(image_at(row["rlnImageName"]), image)
        assert row["downsampleImage"] == f"{place:06d}@{name}"
    with RelionStar(f"{out}/particles.star") as star:
        assert sum(len(some.particle_ids) for some in star.particles()) == 6
        assert (star.groups[0].apix, star.groups[0].box) == (3.0, 16)


def test_the_result_picture(here, capsys, monkeypatch):
    """Beside the stacks, unless it is not wanted or cannot be drawn."""
    write_stack("in.mrcs", noise(7), voxel_size=1.5)
    arguments = ["in.mrcs", "-o", "out", "--box", "16", "--jobs", "1", "--force"]
    assert cli.main(arguments) == 0
    assert Path("out/result.png").read_bytes().startswith(b"\x89PNG")
    assert cli.main([*arguments, "--no-picture"]) == 0
    assert not Path("out/result.png").exists(), "that of the run before is gone"
    monkeypatch.setitem(sys.modules, "downsample_plugin.pictures.particles", None)  # as if matplotlib were missing
    capsys.readouterr()
    assert cli.main(arguments) == 0
    assert "No result picture: it could not be drawn" in capsys.readouterr().out
    assert Path("out/particles.star").exists() and not Path("out/result.png").exists()


def test_a_picture_of_somebody_else(here, capsys):
    write_stack("in.mrcs", noise(2), voxel_size=1.5)
    os.mkdir("out")
    Path("out/result.png").write_text("mine")
    command("in.mrcs", "-o", "out", "--box", "16", "--force", code=command_line.EXIT_USAGE)
    assert "out/result.png: it exists and was not made by this program" in capsys.readouterr().err
    assert Path("out/result.png").read_text() == "mine"


# ---- STAR files ------------------------------------------------------------------------------------------


def test_a_refined_star_file_with_optics_groups(here, capsys):
    """All but the changed values stays to the digit; the images are found beside the STAR file."""
    os.mkdir("there")
    truth = write_refined("there")
    command("there/refined.star", "-o", "out", "--box", "32", "--recenter-exact")
    before, after = table("there/refined.star", "particles"), table("out/particles.star", "particles")
    shifts = [row.shift / relion_files.APIX for row in truth]
    plan = DownsamplePlan(relion_files.BOX, relion_files.APIX, fourier_crop_size=32, recenter=Recenter.EXACT)
    expected, _ = downsample_images(images_of_file("there/refined.mrcs"), plan, shifts)
    changed = {"rlnImageName", "rlnOriginXAngst", "rlnOriginYAngst"}
    for number, (old, new, image) in enumerate(pairs(before, after, expected), start=1):
        assert len(old._asdict()) == 26
        left, record = {k: v for k, v in new._asdict().items() if k not in changed}, relion_labels.RECORD
        assert {k: v for k, v in left.items() if k not in record} == {
            k: v for k, v in old._asdict().items() if k not in changed
        }
        assert left["downsampleImage"] == old.rlnImageName
        moved = [float(left[label]) for label in record[1:]]
        assert moved == pytest.approx(truth[number - 1].shift.tolist(), abs=1e-6)
        assert new.rlnImageName == f"{number:06d}@out/particles_000001.mrcs"
        assert np.array_equal(image_at(new.rlnImageName), image)
        assert abs(float(new.rlnOriginXAngst)) == abs(float(new.rlnOriginYAngst)) == 0
    (optics,) = table("out/particles.star", "optics")
    assert (optics.rlnImageSize, float(optics.rlnImagePixelSize)) == ("32", 5.612)
    assert optics.rlnMicrographOriginalPixelSize == "1.403000"
    assert "Warning: Micrograph coordinates (rlnCoordinateX, Y) are not changed" in capsys.readouterr().out


def test_pixel_size_of_the_micrographs(here, capsys):
    """Coordinates of binned extractions move with it, in pixels of the micrograph; and a second run knows."""
    truth = write_refined(".", largest_shift=40.0)
    text = Path("refined.star").read_text()
    known = f"{relion_files.MICROGRAPH_APIX:12.6f} {relion_files.BOX:12d}"
    assert known in text
    Path("refined.star").write_text(text.replace(known, f"0.0 {relion_files.BOX:12d}"))
    command("refined.star", "-o", "out", "--box", "32", "--recenter", "--micrograph-apix", "1.403")
    assert "Micrograph coordinates" not in capsys.readouterr().out
    rows = table("out/particles.star", "particles")
    for row, before in pairs(rows, truth):
        d = np.round(before.shift / relion_files.APIX)
        found = float(row.rlnCoordinateX), float(row.rlnCoordinateY)
        assert found == pytest.approx(before.place - 2 * d, abs=1e-5)  # 2 px of the micrograph in a px of the image
    (optics,) = table("out/particles.star", "optics")
    assert optics.rlnMicrographPixelSize == "1.403"
    command("out/particles.star", "-o", "again", "--box", "16", "--recenter-exact")
    assert "Micrograph coordinates" not in capsys.readouterr().out
    command("out/particles.star", "-o", "no", "--box", "16", "--micrograph-apix", "1.5", code=command_line.EXIT_USAGE)
    assert "Pixel size of the micrographs: got 1.5 Å/px, expected 1.403 Å/px" in capsys.readouterr().err


def test_an_odd_box(here, capsys):
    write_stack("in.mrcs", noise(2), voxel_size=1.5)
    command("in.mrcs", "-o", "out", "--box", "15")
    assert "Warning: Box of the output: 15 px is odd. RELION 3.1 reconstructs wrong maps" in capsys.readouterr().out


def test_real_particles_of_relion_30(here):
    """Ribosomes of EMPIAR-10076: magnification 38168 and detector pixels of 5 µm make 1.31 Å."""
    command(str(DATA / "empiar_10076_7.star"), "-o", "out", "--pixel-size", "3.275")
    before, after = table(DATA / "empiar_10076_7.star", ""), table("out/particles.star", "")
    plan = DownsamplePlan(320, 1e4 * 5 / 38168, fourier_crop_size=128)
    expected, _ = downsample_images(images_of_file(DATA / "empiar_10076_7.mrc"), plan)
    for old, new, image in pairs(before, after, expected):
        assert np.array_equal(image_at(new.rlnImageName), image)
        assert 1e4 * float(new.rlnDetectorPixelSize) / float(new.rlnMagnification) == pytest.approx(plan.apix_out)
        assert (new.rlnDefocusU, new.rlnMagnification) == (old.rlnDefocusU, old.rlnMagnification)


OPTICS_STAR = """# version 30001

data_optics

loop_
_rlnOpticsGroup #1
_rlnOpticsGroupName #2
_rlnImagePixelSize #3
_rlnImageSize #4
_rlnMicrographPixelSize #5
1 fine 1.500000 32 0.750000
2 coarse 2.000000 32 2.000000


# version 30001

data_particles

loop_
_rlnImageName #1
_rlnOpticsGroup #2
_rlnOriginXAngst #3
_rlnOriginYAngst #4
_rlnCoordinateX #5
_rlnCoordinateY #6
_rlnUnknownThing #7
{rows}

data_job

_rlnJobType   3.50
"""


def optics_star(origins):
    """Particles that alternate between two groups of different pixel size."""
    write_stack("stacks/in.mrcs", noise(len(origins)))
    rows = [
        f"{i + 1:06d}@stacks/in.mrcs {1 + i % 2} {x:10.6f} {y:.6f}  100.500000 200.000000 0.1234567890123"
        for i, (x, y) in enumerate(origins)
    ]
    Path("in.star").write_text(OPTICS_STAR.format(rows="\n".join(rows)))


def test_groups_of_different_pixel_size_and_coordinates(here, capsys):
    origins = [(4.0, -7.6), (4.0, -7.6), (0.6, 0.0), (-3.1, 2.9)]
    optics_star(origins)
    command("in.star", "-o", "out", "--box", "16", "--recenter")
    assert "stay as they are" not in capsys.readouterr().out
    optics = table("out/particles.star", "optics")
    assert [(row.rlnImageSize, float(row.rlnImagePixelSize)) for row in optics] == [("16", 3.0), ("16", 4.0)]
    for i, (row, (x, y)) in enumerate(pairs(table("out/particles.star", "particles"), origins)):
        apix, micrograph = ((1.5, 0.75), (2.0, 2.0))[i % 2]
        shift = np.array([x, y]) / apix
        d = np.sign(shift) * np.floor(np.abs(shift) + 0.5)
        plan = DownsamplePlan(BOX, apix, fourier_crop_size=16, recenter=Recenter.WHOLE_PIXELS)
        (expected,), _ = downsample_images(noise(4)[i : i + 1], plan, [d])
        assert np.array_equal(image_at(row.rlnImageName), expected)
        left = np.array([float(row.rlnOriginXAngst), float(row.rlnOriginYAngst)])
        assert left == pytest.approx((shift - d) * apix, abs=1e-6)
        moved = np.array([float(row.rlnCoordinateX), float(row.rlnCoordinateY)])
        assert moved == pytest.approx(np.array([100.5, 200]) - d * apix / micrograph, abs=1e-6)
        assert row.rlnUnknownThing == "0.1234567890123"


def test_without_recentring_only_names_and_sizes_change(here):
    optics_star([(4.0, -7.6), (0.5, 0.25)])
    command("in.star", "-o", "out", "--pixel-size", "4")
    before, after = Path("in.star").read_text(), Path("out/particles.star").read_text()
    after = re.sub(r"0000\d\d@out/pixel_size_\d/particles_000001.mrcs", "NAME", after)
    before = re.sub(r"0000\d\d@stacks/in.mrcs", "NAME", before)
    before = before.replace("fine 1.500000 32 ", "fine 4 12 ").replace("coarse 2.000000 32 ", "coarse 4 16 ")
    assert re.findall(r"\n_downsample.*", after) == [
        f"\n_{label} #{number}" for number, label in enumerate(relion_labels.RECORD, start=8)
    ]
    after, records = re.subn(r"\n_downsample.*|(?<=890123) 00000[12]@stacks/in.mrcs 0.000000 0.000000", "", after)
    assert records == 3 + 2
    assert after == before


OLD_STAR = """
data_

loop_
_rlnMagnification #1
_rlnDetectorPixelSize #2
_rlnImageName #3
_rlnOriginX #4
_rlnOriginY #5
_rlnCoordinateX #6
_rlnCoordinateY #7
  50000.000000     7.500000 000001@in.mrcs     4.250000    -1.000000   10.000000   20.000000
  50000.000000     7.500000 000002@in.mrcs     0.000000     2.600000   10.000000   20.000000

"""


@pytest.mark.parametrize("recenter", [False, True])
def test_relion_30(here, capsys, recenter):
    """Pixel size 1.5 Å by magnification and detector; origins in pixels of the particles."""
    write_stack("in.mrcs", noise(2))
    Path("in.star").write_text(OLD_STAR)
    command("in.star", "-o", "out", "--box", "8", *(["--recenter"] if recenter else []))
    shifts = np.array([(4.25, -1.0), (0.0, 2.6)])
    d = np.array([(4, -1), (0, 3)]) if recenter else np.zeros((2, 2))
    plan = DownsamplePlan(BOX, 1.5, fourier_crop_size=8, recenter=Recenter.WHOLE_PIXELS)
    expected, _ = downsample_images(noise(2), plan, d)
    for row, image, left in pairs(table("out/particles.star", ""), expected, (shifts - d) / 4):
        assert np.array_equal(image_at(row.rlnImageName), image)
        assert (float(row.rlnOriginX), float(row.rlnOriginY)) == pytest.approx(tuple(left), abs=1e-6)
        assert 1e4 * float(row.rlnDetectorPixelSize) / float(row.rlnMagnification) == pytest.approx(6.0)
        assert (row.rlnCoordinateX, row.rlnCoordinateY) == ("10.000000", "20.000000")
    assert ("Micrograph coordinates" in capsys.readouterr().out) == recenter


def test_images_are_looked_for_from_here_first(here):
    optics_star([(0, 0)])
    os.makedirs("project/stacks")
    os.rename("in.star", "project/in.star")
    write_stack("project/stacks/in.mrcs", noise(1, seed=7))
    command("project/in.star", "-o", "out", "--box", "16")
    plan = DownsamplePlan(BOX, 1.5, fourier_crop_size=16)
    assert np.array_equal(images_of_file("out/particles_000001.mrcs"), downsample_images(noise(1), plan)[0])
    os.remove("stacks/in.mrcs")
    command("project/in.star", "-o", "beside", "--box", "16")
    beside, _ = downsample_images(noise(1, seed=7), plan)
    assert np.array_equal(images_of_file("beside/particles_000001.mrcs"), beside)


# ---- going on ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["in.mrcs", "in.star"])
def test_going_on_refusing_and_starting_anew(here, capsys, source):
    optics_star([(0, 0), (0, 0)])
    write_stack("in.mrcs", noise(3), voxel_size=1.5)
    arguments = [source, "-o", "out", "--box", "16"]
    command(*arguments)
    stacks = {path: path.read_bytes() for path in Path("out").rglob("*.mrcs")}
    some = min(stacks)
    command(*arguments, code=command_line.EXIT_USAGE)
    assert "out: it already contains a finished run; add --force" in capsys.readouterr().err

    os.remove(some)  # as if it had been stopped
    if source == "in.star":
        os.remove("out/particles.star")
    others = {path: path.stat().st_mtime_ns for path in stacks if path != some}
    command(*arguments)
    assert {path: path.read_bytes() for path in Path("out").rglob("*.mrcs")} == stacks
    assert {path: path.stat().st_mtime_ns for path in others} == others, "what was done stays"

    Path("out/notes.txt").write_text("mine")
    command(*arguments[:-1], "8", "--force")
    assert {images_of_file(path).shape[-1] for path in Path("out").rglob("*.mrcs")} == {8}
    assert Path("out/notes.txt").read_text() == "mine"


# ---- refusals -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments, code, sentence",
    [
        (["in.mrcs", "-o", "out"], 2, "Nothing to do"),
        (["in.mrcs", "-o", "out", "--box", "64"], 2, "--box: got 64 px, expected 8 to 32 px"),
        (["in.mrcs", "-o", "out", "--box", "16", "--recenter"], 2, "--recenter: a stack has no shifts or coordinates"),
        (["in.star", "-o", "out", "--box", "64"], 2, "Particles of 32 px, 1.5 Å/px: --box: got"),
        (["in.star", "-o", "out", "--box", "16", "--apix", "2"], 2, "the images: got 2 Å/px, expected 1.5 Å/px"),
        (["in.star", "-o", "o\nut", "--box", "16"], 1, "it contains a line break, a tab"),
        (["nowhere.mrcs", "-o", "out", "--box", "16"], 1, "nowhere.mrcs: the file cannot be opened"),
        (["nowhere.star", "-o", "out", "--box", "16"], 1, "nowhere.star: it cannot be read"),
        (["in.mrcs", "-o", "out", "--box", "16", "--part", "1/2"], 2, "expected a JOB.json; use --jobs"),
    ],
)
def test_refusals(here, capsys, arguments, code, sentence):
    optics_star([(0, 0), (0, 0)])
    write_stack("in.mrcs", noise(3), voxel_size=1.5)
    command(*arguments, code=code)
    assert sentence in capsys.readouterr().err
    assert not os.path.exists("out/particles.star")


@pytest.mark.parametrize(
    "old, new, sentence",
    [
        ("data_particles", "data_other", None),  # any block with image names will do
        ("_rlnImageName", "_rlnOtherName", "it has no rlnImageName, expected a RELION STAR file of particles"),
        ("_rlnImagePixelSize", "_rlnOther", "rlnImagePixelSize is missing, expected a number"),
        ("1 fine 1.500000", "1 fine abc", "rlnImagePixelSize is abc, expected a number"),
        ("000001@stacks", "x@stacks", "rlnImageName is x@stacks/in.mrcs, expected a number before the @"),
        ("in.mrcs 1 ", "in.mrcs 7 ", "a particle belongs to optics group 7, expected one of 1, 2"),
        ("0.1234567890123", "", "line 27: 6 values, expected 7, one for each label"),
        ("stacks/in.mrcs", "stacks/none.mrcs", "stacks/none.mrcs: the file cannot be opened"),
        (
            "000002@",
            "000009@",
            "Particle 2, image 9 of stacks/in.mrcs: image 9 was requested",
        ),
        ("_rlnOrigin", "_rlnOther", "it has no origins (rlnOriginXAngst, or rlnOriginX)"),
    ],
)
def test_star_files_with_something_wrong(here, capsys, old, new, sentence):
    optics_star([(0, 0), (0, 0)])
    text = Path("in.star").read_text()
    assert old in text
    Path("in.star").write_text(text.replace(old, new))
    command("in.star", "-o", "out", "--box", "16", "--recenter", code=1 if sentence else 0)
    if sentence:
        assert sentence in capsys.readouterr().err


def test_help_is_for_people():
    done = subprocess.run([sys.executable, "-m", "downsample_plugin", "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    assert "examples:" in done.stdout
    options = (
        "-o --apix --crop --box --pixel-size --lowpass --highpass --recenter --recenter-exact --normalize --float16"
    )
    for option in [*options.split(), "--jobs", "--force"]:
        assert option in done.stdout


@pytest.mark.parametrize("force", [(), ("--force",)])
def test_the_input_is_never_written_over(here, capsys, force):
    write_stack("particles_000001.mrcs", noise(3), voxel_size=1.5)
    before = Path("particles_000001.mrcs").read_bytes()
    command("particles_000001.mrcs", "-o", ".", "--box", "16", *force, code=2)
    assert "it contains the input particles_000001.mrcs, expected another folder" in capsys.readouterr().err
    optics_star([(0, 0), (0, 0)])
    shutil.move("in.star", "particles.star")
    text = Path("particles.star").read_text()
    command("particles.star", "-o", ".", "--box", "16", *force, code=2)
    assert "it contains the input particles.star, expected another folder" in capsys.readouterr().err
    assert Path("particles.star").read_text() == text
    assert Path("particles_000001.mrcs").read_bytes() == before


@pytest.mark.parametrize("force", [(), ("--force",)])
def test_what_is_no_runs_stays(here, capsys, force):
    write_stack("in.mrcs", noise(3), voxel_size=1.5)
    for name in ("out/pixel_size_9/x", "out/tables/x", "other/particles.star"):
        Path(name).parent.mkdir(parents=True)
        Path(name).touch()
    command("in.mrcs", "-o", "out", "--box", "16", *force, code=2)
    assert "out/tables: it exists and was not made by this program" in capsys.readouterr().err
    command("in.mrcs", "-o", "other", "--box", "16", *force, code=2)
    assert "other/particles.star: it exists and was not made" in capsys.readouterr().err
    shutil.move("out/tables", "elsewhere")
    command("in.mrcs", "-o", "out", "--box", "16", *force)
    command("in.mrcs", "-o", "out", "--box", "18", "--force")
    assert Path("out/pixel_size_9/x").exists()


OWN_NAMES = ["particles_000001.mrcs", "tables/x", "bad_particles.star", "job.json", "particles.star"]


@pytest.mark.parametrize("force", [(), ("--force",)])
@pytest.mark.parametrize("name", OWN_NAMES)
def test_what_no_run_has_made_is_never_touched(here, capsys, name, force):
    """Things that have a run's names before there is a run: refused by name, whatever is asked for."""
    write_stack("in.mrcs", noise(3), voxel_size=1.5)
    foreign = Path("out", name)
    foreign.parent.mkdir(parents=True)
    foreign.write_text("mine")
    command("in.mrcs", "-o", "out", "--box", "16", *force, code=2)
    error = capsys.readouterr().err
    assert f"out/{name.split('/')[0]}: it " in error
    assert "give another folder" in error
    assert foreign.read_text() == "mine"
    assert [path for path in Path("out").rglob("*") if path.is_file()] == [foreign]


@pytest.mark.parametrize("name", ["particles_000009.mrcs", "particles_000001_7.mrcs", "tables_9/x", "tables.new/x"])
def test_what_lies_beside_a_run_stays(here, name):
    """Even where it has such a name as another run might have given it."""
    write_stack("in.mrcs", noise(3), voxel_size=1.5)
    command("in.mrcs", "-o", "out", "--box", "16")
    foreign = Path("out", name)
    foreign.parent.mkdir(exist_ok=True)
    foreign.write_text("mine")
    command("in.mrcs", "-o", "out", "--box", "18", "--force")
    assert foreign.read_text() == "mine"
    assert images_of_file("out/particles_000001.mrcs").shape == (3, 18, 18)


def test_a_name_that_is_taken_when_a_run_goes_on_otherwise(here, capsys):
    """A run of other parameters over an unfinished one takes new names, but none that somebody has."""
    write_stack("in.mrcs", noise(3), voxel_size=1.5)
    command("in.mrcs", "-o", "out", "--box", "16")
    os.remove("out/particles_000001.mrcs")  # as if it had been stopped
    Path("out/particles_000001_2.mrcs").write_text("mine")
    command("in.mrcs", "-o", "out", "--box", "18", code=2)
    assert "out/particles_000001_2.mrcs: it exists and was not made by this program" in capsys.readouterr().err
    assert Path("out/particles_000001_2.mrcs").read_text() == "mine"


@pytest.mark.slow
@pytest.mark.parametrize("source", ["in.mrcs", "in.star"])
def test_the_same_command_many_times_at_once(here, source):
    """They share the work, or one says that it is done."""
    optics_star([(0, 0)] * 40)
    write_stack("in.mrcs", noise(200), voxel_size=1.5)
    arguments = [sys.executable, "-m", "downsample_plugin", source, "-o", "out", "--box", "16", "--jobs", "1"]
    started = [subprocess.Popen(arguments, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL) for _ in range(6)]
    errors = [(process.communicate(timeout=60)[1].decode(), process.returncode) for process in started]
    for error, code in errors:
        assert (code, error) == (0, "") or (code == 2 and "it already contains a finished run" in error), error
    assert any(code == 0 for _, code in errors)
    command(source, "-o", "alone", "--box", "16")
    files = {path.relative_to("alone") for path in Path("alone").rglob("*.mrcs")}
    assert files == {path.relative_to("out") for path in Path("out").rglob("*.mrcs")}
    for name in files:
        assert Path("out", name).read_bytes() == Path("alone", name).read_bytes()
    assert not list(Path("out").rglob("*.part"))


def test_a_finished_run_of_another_sort_is_not_replaced(here, capsys):
    write_stack("in.mrcs", noise(3), voxel_size=1.5)
    optics_star([(0, 0), (0, 0)])
    for first, second in (("in.mrcs", "in.star"), ("in.star", "in.mrcs"), ("in.mrcs", "in.mrcs")):
        command(first, "-o", "out", "--box", "16", "--force")
        before = {path: path.stat().st_mtime_ns for path in Path("out").rglob("*") if path.is_file()}
        capsys.readouterr()
        command(second, "-o", "out", "--box", "18", code=2)
        assert "out: it already contains a finished run; add --force" in capsys.readouterr().err
        assert {path: path.stat().st_mtime_ns for path in before} == before


def test_unfinished_files_of_a_killed_run_are_gone_in_the_end(here):
    optics_star([(0, 0), (0, 0)])
    part = ".0123456789abcdef.part"
    command("in.star", "-o", "out", "--box", "16")
    os.remove("out/particles.star")
    for name in ("particles.star", "job.json", "tables/made_000001.npy", "particles_000001.mrcs"):
        for folder in [Path("out")] if name == "particles.star" else Path("out").glob("pixel_size_*"):
            (folder / (name + part)).touch()
    assert len(list(Path("out").rglob("*.part"))) == 7
    command("in.star", "-o", "out", "--box", "16")
    assert not list(Path("out").rglob("*.part"))
