# SPDX-License-Identifier: GPL-3.0-or-later
"""Maps and masks on disk, and the command ``downsample-volumes``: headers, words, exit codes, refusals, kills."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import mrcfile
import numpy as np
import pytest

from downsample_plugin.command import command_line
from downsample_plugin.command import downsample_volumes as cli_volumes
from downsample_plugin.core.resampling import downsample_volume
from downsample_plugin.core.volume_plan import VolumePlan
from downsample_plugin.errors import DataError
from downsample_plugin.files.maps import MapFile

from .relion_files import write_refined
from .scipion_sets import write_stack

ROOT = Path(__file__).parents[1]
BOX, APIX = 24, 1.5


def noise(box=BOX, seed=0):
    return np.random.default_rng(seed).normal(size=(box,) * 3).astype(np.float32)


def write_map(name, volume=None, apix=APIX, **header):
    with mrcfile.new(name, overwrite=True) as file:
        file.set_data(noise() if volume is None else volume)
        file.set_volume()
        file.voxel_size = apix
        for field, value in header.items():
            file.header[field] = value
    return name


def command(*arguments, code=0):
    assert cli_volumes.main(list(map(str, arguments))) == code


def refused(capsys, *arguments, code=command_line.EXIT_USAGE):
    """What the command says that is refused."""
    command(*arguments, code=code)
    told = capsys.readouterr().err
    assert told.startswith("ERROR: ") and "Traceback" not in told
    return told


# ---- files -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("float16", [False, True])
def test_the_file_that_comes_out(here, float16):
    write_map("map.mrc")
    command("map.mrc", "-o", "out", "--crop", 22, "--box", 16, "--lowpass", 6, *["--float16"] * float16)
    plan = VolumePlan(BOX, APIX, crop_size=22, fourier_crop_size=16, lowpass_resolution=6.0)
    expected = downsample_volume(noise(), plan).astype(np.float16 if float16 else np.float32)
    assert mrcfile.validate("out/map.mrc")
    with mrcfile.open("out/map.mrc") as file:
        assert file.is_volume()
        assert np.array_equal(file.data, expected)
        header = file.header
        assert (header.mode, header.ispg, header.mx, header.my, header.mz) == (12 if float16 else 2, 1, 16, 16, 16)
        assert file.voxel_size.tolist() == pytest.approx((plan.apix_out,) * 3, rel=1e-6)
        values = expected.astype(np.float64)
        statistics = [float(header[name]) for name in ("dmin", "dmax", "dmean", "rms")]
        assert statistics == pytest.approx([values.min(), values.max(), values.mean(), values.std()], abs=1e-6)
        assert str(file.get_labels()[0]).startswith("scipion-em-downsample ")


@pytest.mark.parametrize("mode", ["i1", "i2", "u2", "f2", "f4"])
@pytest.mark.parametrize("order", "<>")
def test_all_modes_and_byte_orders(here, mode, order):
    volume = np.rint(20 * noise()).clip(0 if mode[0] == "u" else -100, 100)
    write_map("map.mrc", volume.astype(mode))
    if order == ">":
        raw = mrcfile.open("map.mrc")
        header, data = raw.header.copy(), raw.data.copy()
        raw.close()
        header = header.byteswap().view(header.dtype.newbyteorder(">"))
        Path("map.mrc").write_bytes(header.tobytes() + data.astype(data.dtype.newbyteorder(">")).tobytes())
    with MapFile("map.mrc") as file:
        assert (file.box, file.apix) == (BOX, pytest.approx(APIX))
        assert np.array_equal([file[z] for z in range(BOX)], volume)


@pytest.mark.parametrize("box, out", [(24, 16), (25, 16), (25, 15), (24, 15)])
@pytest.mark.parametrize("start", [False, True])
def test_the_place_of_the_first_voxel(here, box, out, start):
    """The origin voxel stays where it is, for programs that lay maps over models by the header."""
    at = {"origin": (30.0, -15.0, 4.5)} if not start else {"nxstart": 20, "nystart": -10, "nzstart": 3}
    write_map("map.mrc", noise(box), **at)
    command("map.mrc", "-o", "out", "--box", out)
    apix_out = APIX * box / out
    expected = np.array([30.0, -15.0, 4.5]) + box // 2 * APIX - out // 2 * apix_out
    with mrcfile.open("out/map.mrc") as file:
        assert file.header.origin.tolist() == pytest.approx(expected.tolist(), abs=1e-5)
    command("map.mrc", "-o", "cropped", "--crop", 10)
    with mrcfile.open("cropped/map.mrc") as file:
        moved = np.array([30.0, -15.0, 4.5]) + (box // 2 - 5) * APIX
        assert file.header.origin.tolist() == pytest.approx(moved.tolist(), abs=1e-5)


def test_several_maps_and_the_words(here, capsys):
    for name in ("map.mrc", "half1.mrc", "half2.mrc"):
        write_map(name)
    command("map.mrc", "half1.mrc", "half2.mrc", "-o", "out", "--pixel-size", 3.2)
    assert sorted(os.listdir("out")) == ["half1.mrc", "half2.mrc", "map.mrc"]
    told = capsys.readouterr().out.split("\n")
    assert told[0] == "map.mrc: box 24 → 12 px, pixel size 1.5 → 3 Å/px, Nyquist 6 Å"
    assert told[1].startswith("Warning: Pixel size: 3.2 Å/px was requested; the output has 3 Å/px")
    assert told[2] == "Done: out/map.mrc"
    first, second = (Path("out", name).read_bytes() for name in ("map.mrc", "half1.mrc"))
    assert first == second  # the same input gives the same bytes


# ---- like others -----------------------------------------------------------------------------------------


def test_like_a_stack_a_star_file_and_a_map(here):
    write_map("map.mrc")
    write_stack("stack.mrcs", np.zeros((3, 10, 10)), voxel_size=APIX * 20 / 10)
    command("map.mrc", "-o", "stack", "--like", "stack.mrcs")
    expected = downsample_volume(noise(), VolumePlan(BOX, APIX, crop_size=20, fourier_crop_size=10))
    assert np.abs(mrcfile.read("stack/map.mrc") - expected).max() < 1e-6
    write_map("like.mrc", np.zeros((15,) * 3, dtype=np.float32), apix=2.1)
    command("map.mrc", "-o", "map", "--like", "like.mrc")
    with mrcfile.open("map/map.mrc") as file:
        assert file.data.shape == (15, 15, 15)
        assert file.voxel_size.x == pytest.approx(2.1, rel=1e-6)
    write_refined(".")
    command("map.mrc", "-o", "star", "--like", "refined.star")
    with mrcfile.open("star/map.mrc") as file, mrcfile.open("refined.mrcs") as stack:
        assert file.data.shape == (stack.data.shape[1],) * 3


def test_a_mask_and_its_way_back(here, capsys):
    mask = np.zeros((BOX,) * 3, dtype=np.float32)
    mask[8:16, 8:16, 8:16] = 1
    write_map("mask.mrc", mask)
    command("mask.mrc", "-o", "small", "--mask", "--box", 16, "--lowpass", 9)
    command("small/mask.mrc", "-o", "full", "--mask", "--like", "mask.mrc")
    assert "holds no detail beyond the volume's own Nyquist limit of 4.5 Å" in capsys.readouterr().out
    with mrcfile.open("full/mask.mrc") as file:
        assert file.voxel_size.x == pytest.approx(APIX)
        assert 0 == file.data.min() < 0.9 < file.data.max() <= 1
        lowpassed = downsample_volume(mask, VolumePlan(BOX, APIX, lowpass_resolution=9.0, is_mask=True))
        assert np.abs(file.data - lowpassed).max() < 0.1  # small masks are clipped, where they ring


# ---- refusals --------------------------------------------------------------------------------------------


def test_bad_maps(here, capsys):
    write_map("oblong.mrc", np.zeros((20, 24, 24), dtype=np.float32))
    assert "the file has 24 x 24 x 20 voxels, expected a cube" in refused(
        capsys, "oblong.mrc", "-o", "out", "--box", 16, code=command_line.EXIT_DATA
    )
    write_map("stack.mrc", ispg=0, mz=1)
    write_map("named.mrcs")
    for name in ("stack.mrc", "named.mrcs"):
        assert f"{name}: the file is a stack of 24 images" in refused(
            capsys, name, "-o", "out", "--apix", 1.5, "--box", 16, code=command_line.EXIT_DATA
        )
    bad = noise()
    bad[1, 2, 3] = np.nan
    with pytest.warns(RuntimeWarning):
        write_map("nan.mrc", bad)
    assert "nan.mrc: voxels that are not numbers, the first at x = 3, y = 2, z = 1 (nan)" in refused(
        capsys, "nan.mrc", "-o", "out", "--box", 16, code=command_line.EXIT_DATA
    )
    assert os.listdir("out") == []
    assert "missing.mrc: the file cannot be opened" in refused(
        capsys, "missing.mrc", "-o", "out", "--box", 16, code=command_line.EXIT_DATA
    )
    write_map("cut.mrc")
    os.truncate("cut.mrc", 20000)
    assert "the file is cut short" in refused(capsys, "cut.mrc", "-o", "out", "--box", 16, code=command_line.EXIT_DATA)
    write_map("flat.mrc", apix=(1.5, 1.5, 3.0))
    assert "the voxels are 1.5 x 1.5 x 3 Å" in refused(
        capsys, "flat.mrc", "-o", "out", "--box", 16, code=command_line.EXIT_DATA
    )
    write_map("large.mrc", np.full((BOX,) * 3, 1e5, dtype=np.float32))
    assert "voxel value for 16-bit output: got 100000" in refused(
        capsys, "large.mrc", "-o", "out", "--box", 16, "--float16", code=command_line.EXIT_DATA
    )
    assert os.listdir("out") == []
    write_map("two.mrc", np.concatenate([noise(), noise()]))
    assert "the file has 2 volumes, expected one" in refused(
        capsys, "two.mrc", "-o", "out", "--box", 16, code=command_line.EXIT_DATA
    )


def test_bad_requests(here, capsys):
    write_map("map.mrc")
    write_map("none.mrc", apix=0)
    assert "--apix: the header of none.mrc says 0 Å/px, expected more than 0; give the pixel size." in refused(
        capsys, "none.mrc", "-o", "out", "--box", 16
    )
    command("none.mrc", "-o", "given", "--box", 16, "--apix", 1.5)
    with mrcfile.open("given/none.mrc") as file:
        assert file.voxel_size.x == pytest.approx(2.25)
    assert "got 0.0 Å/px, expected a number above 0" in refused(capsys, "map.mrc", "-o", "o", "--apix", 0, "--box", 16)
    assert "got 1.0 Å/px, expected 1.5 Å/px or more" in refused(capsys, "map.mrc", "-o", "o", "--pixel-size", 1)
    assert "got 30 px, expected 8 to 24 px" in refused(capsys, "map.mrc", "-o", "o", "--box", 30)
    assert "Nothing to do" in refused(capsys, "map.mrc", "-o", "o")
    assert "--like: the header of none.mrc says 0 Å/px" in refused(capsys, "map.mrc", "-o", "o", "--like", "none.mrc")
    write_stack("oblong.mrcs", np.zeros((2, 10, 12)), voxel_size=3.0)
    assert "12 x 10 px, expected square ones" in refused(
        capsys, "map.mrc", "-o", "o", "--like", "oblong.mrcs", code=command_line.EXIT_DATA
    )
    write_map("like.mrc", apix=3.0)
    assert "--like: given together with a box" in refused(
        capsys, "map.mrc", "-o", "o", "--like", "like.mrc", "--crop", 16
    )
    assert not os.path.exists("o")


def test_what_is_there_stays(here, capsys):
    write_map("map.mrc")
    before = Path("map.mrc").read_bytes()
    assert "it contains the input ./map.mrc, expected another folder" in refused(
        capsys, "map.mrc", "-o", ".", "--box", 16, "--force"
    )
    Path("out").mkdir()
    os.symlink("../map.mrc", "out/map.mrc")
    assert "it contains the input out/map.mrc" in refused(capsys, "map.mrc", "-o", "out", "--box", 16, "--force")
    assert Path("map.mrc").read_bytes() == before
    write_map("like.mrc", apix=3.0)
    os.mkdir("sub")
    write_map("sub/like.mrc")
    assert "it contains the input ./like.mrc" in refused(
        capsys, "sub/like.mrc", "-o", ".", "--like", "like.mrc", "--force"
    )
    command("map.mrc", "-o", "new", "--box", 16)
    made = Path("new/map.mrc").read_bytes()
    assert "new/map.mrc: it exists already; add --force" in refused(capsys, "map.mrc", "-o", "new", "--box", 12)
    assert Path("new/map.mrc").read_bytes() == made
    command("map.mrc", "-o", "new", "--box", 12, "--force")
    assert mrcfile.read("new/map.mrc").shape == (12, 12, 12)
    assert "would be the output of two maps" in refused(capsys, "map.mrc", "new/map.mrc", "-o", "both", "--box", 10)
    assert "map.mrc is a file, expected an output folder" in refused(capsys, "like.mrc", "-o", "map.mrc", "--box", 10)


def test_particles_of_several_sizes(here, capsys):
    write_map("map.mrc")
    write_stack("a.mrcs", np.zeros((1, 8, 8)))
    write_stack("b.mrcs", np.zeros((1, 10, 10)))
    Path("both.star").write_text(
        "data_optics\n\nloop_\n_rlnOpticsGroup\n_rlnImagePixelSize\n1 3.0\n2 2.4\n\n"
        "data_particles\n\nloop_\n_rlnImageName\n_rlnOpticsGroup\n1@a.mrcs 1\n1@b.mrcs 2\n"
    )
    told = refused(capsys, "map.mrc", "-o", "out", "--like", "both.star")
    assert "particles of several sizes (8 px at 3 Å/px, 10 px at 2.4 Å/px), expected one" in told


# ---- processes -------------------------------------------------------------------------------------------


def start(*arguments, folder):
    code = "import sys; from downsample_plugin.__main__ import volumes; sys.exit(volumes())"
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_nothing_is_imported_from_the_current_folder(here):
    write_map("map.mrc")
    for name in ("numpy", "mrcfile", "argparse", "signal", "math"):
        Path(f"{name}.py").write_text("raise SystemExit('imported from here')")
    process = start("map.mrc", "-o", "out", "--box", 16, folder=here)
    told = process.communicate(timeout=60)
    assert process.returncode == 0, told
    assert Path("out/map.mrc").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_killed_at_any_moment_leaves_no_half_map(here, stop):
    write_map("map.mrc", noise(120))
    write_map("small.mrc", noise(16))
    seen = set()
    for patience in (0.0, 0.02, 0.05):
        process = start("small.mrc", "map.mrc", "-o", "out", "--crop", 200, "--apix", 1, "--force", folder=here)
        for line in process.stdout:  # until the second has begun
            if line.startswith("map.mrc: "):
                break
        time.sleep(patience)
        process.send_signal(stop)
        process.communicate(timeout=60)
        seen.add(process.returncode)
        for name in os.listdir("out"):
            if not name.endswith(".part"):
                assert mrcfile.validate(f"out/{name}")
                assert mrcfile.read(f"out/{name}").shape == (200, 200, 200)
            else:
                assert stop == signal.SIGKILL
    assert seen & {command_line.EXIT_STOPPED, -stop}
    assert seen <= {command_line.EXIT_STOPPED, -stop, 0}
    command("small.mrc", "map.mrc", "-o", "out", "--crop", 20, "--apix", 1, "--force")
    assert sorted(os.listdir("out")) == ["map.mrc", "small.mrc"]


def test_other_formats_and_marks(here):
    import xmippLib

    image = xmippLib.Image()
    image.setData(noise())
    image.write("map.vol")
    with MapFile("map.vol") as file:
        assert np.array_equal([file[z] for z in range(BOX)], noise())
    with pytest.raises(DataError, match="cannot be opened"):
        MapFile("missing.vol")
    write_stack("stack.mrcs", noise())
    with MapFile("stack.mrcs:mrc") as file:  # Scipion says that it is a volume
        assert len(file) == BOX
