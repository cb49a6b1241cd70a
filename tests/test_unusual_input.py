# SPDX-License-Identifier: GPL-3.0-or-later
"""Good but unusual input: formats of other programs, odd names and places, very many files."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import tifffile
import xmippLib

import downsample_plugin
from downsample_plugin.core import DownsamplePlan, downsample_images

from .scipion_sets import Row, downsample, image_of, items_of, pairs, particle, particle_set, write_job, write_stack

pytestmark = pytest.mark.slow

BOX = 32
PLAN = DownsamplePlan(BOX, 1.5, fourier_crop_size=16)


def noise(count=4, box=BOX, seed=0):
    return np.random.default_rng(seed).normal(size=(count, box, box)).astype(np.float32)


def write_by_xmipp(name, images):
    for number, image in enumerate(images, start=1):
        xmipp = xmippLib.Image()
        xmipp.setData(image.astype(float))
        xmipp.write(f"{number}@{name}" if len(images) > 1 else name)


def write_eman_hdf(name, images):
    """As EMAN2 lays it out: a group of numbered images."""
    import h5py

    with h5py.File(name, "w") as file:
        group = file.create_group("MDF/images")
        group.attrs["imageid_max"] = np.int32(len(images) - 1)
        for number, image in enumerate(images):
            group.create_dataset(f"{number}/image", data=image)


def run(job, *options):
    command = [sys.executable, "-m", "downsample_plugin", job.path, *options]
    return subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=300)


def assert_downsampled(rows, images):
    job = write_job("job", PLAN, rows, 100)
    done = run(job, "--jobs", "2")
    assert done.returncode == 0, done.stderr
    expected, _ = downsample_images(images, PLAN)
    assert np.array_equal(mrcfile.read(job.stacks[0].path), expected)


@pytest.mark.parametrize("name", ["a.stk", "a.spi", "a.img", "A.STK"])
def test_formats_that_xmipp_writes(here, name):
    write_by_xmipp(name, noise())
    assert_downsampled([Row(i, i, name, 0, 0) for i in (1, 2, 3, 4)], noise())


@pytest.mark.parametrize("name", ["a.tif", "a.TIFF"])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_tiff_stacks(here, name, compression):
    with tifffile.TiffWriter(name) as file:
        for image in noise():
            file.write(image, photometric="minisblack", compression=compression, contiguous=False)
    assert_downsampled([Row(i, i, name, 0, 0) for i in (1, 2, 3, 4)], noise())


@pytest.mark.parametrize("name", ["one.spi", "one.tif"])
def test_single_images_of_other_formats(here, name):
    write_by_xmipp(name, noise(1))
    job = write_job("job", PLAN, [Row(1, 0, name, 0, 0)], 100)
    assert run(job).returncode == 0
    assert np.array_equal(mrcfile.read(job.stacks[0].path), downsample_images(noise(1), PLAN)[0][0])


def test_eman_stacks(here):
    write_eman_hdf("a.hdf", noise())
    assert_downsampled([Row(i, i, "a.hdf", 0, 0) for i in (1, 2, 3, 4)], noise())


@pytest.mark.parametrize("suffix", [".mrcs", ".mrc", ".st", ".map", ".MRCS", ""])
def test_suffixes_of_mrc_stacks(here, suffix):
    write_stack("plain.mrcs", noise())
    os.rename("plain.mrcs", "a" + suffix)
    assert_downsampled([Row(i, i, "a" + suffix, 0, 0) for i in (1, 2, 3, 4)], noise())


def test_an_extended_header(here):
    with mrcfile.new("a.mrcs", noise()) as file:
        file.set_extended_header(np.zeros(1000, dtype="V1"))
    assert_downsampled([Row(i, i, "a.mrcs", 0, 0) for i in (1, 2, 3, 4)], noise())


def test_a_file_that_is_longer_than_its_header_says(here):
    write_stack("a.mrcs", noise())
    with open("a.mrcs", "ab") as file:
        file.write(b"more")
    assert_downsampled([Row(i, i, "a.mrcs", 0, 0) for i in (1, 2, 3, 4)], noise())


@pytest.mark.parametrize("name", ["a b", "it's", '"', "$(touch x)", ";ls", "new\nline", "Å é", "-o", "50%", "a@b", "#"])
def test_names_of_folders_and_files(here, name):
    write_stack(f"{name}/{name}.mrcs", noise())
    os.symlink(f"{name}/{name}.mrcs", f"{name}.link.mrcs")
    rows = [Row(i, i, f"{name}/{name}.mrcs", 0, 0) for i in (1, 2)]
    rows += [Row(3, 3, f"{name}.link.mrcs", 0, 0), Row(4, 4, str(here / name / f"{name}.mrcs"), 0, 0)]
    assert_downsampled(rows, noise())
    assert not os.path.exists("x")


def test_read_only_input_in_a_read_only_folder(here):
    write_stack("safe/a.mrcs", noise())
    os.chmod("safe/a.mrcs", stat.S_IRUSR)
    os.chmod("safe", stat.S_IRUSR | stat.S_IXUSR)
    before = os.stat("safe/a.mrcs")
    assert_downsampled([Row(i, i, "safe/a.mrcs", 0, 0) for i in (1, 2, 3, 4)], noise())
    after = os.stat("safe/a.mrcs")
    assert (before.st_mtime_ns, before.st_size) == (after.st_mtime_ns, after.st_size)
    assert os.listdir("safe") == ["a.mrcs"]
    os.chmod("safe", stat.S_IRWXU)


@pytest.mark.slow
def test_ten_thousand_stacks_of_one_particle(here):
    images = noise(100)
    write_stack("all.mrcs", images)
    with open("all.mrcs", "rb") as file:
        header, pixels = bytearray(file.read(1024)), file.read()
    header[8:12] = (1).to_bytes(4, "little")
    size = BOX**2 * 4
    os.mkdir("many")
    for i in range(10_000):
        with open(f"many/{i}.mrcs", "wb") as file:
            file.write(header + pixels[i % 100 * size : (i % 100 + 1) * size])
    job = write_job("job", PLAN, [Row(i, 1, f"many/{i}.mrcs", 0, 0) for i in range(10_000)], 10_000)
    done = run(job, "--jobs", "2")
    assert done.returncode == 0, done.stderr
    expected, _ = downsample_images(images, PLAN)
    with mrcfile.mmap(job.stacks[0].path) as stack:
        assert np.array_equal(stack.data[:100], expected)
        assert np.array_equal(stack.data[-100:], expected)


@pytest.mark.slow
def test_one_stack_of_a_hundred_thousand(here):
    box, plan = 8, DownsamplePlan(8, 1.5, float16=True)
    images = noise(100_000, box)
    write_stack("in.mrcs", images)
    job = write_job("job", plan, (Row(i, i, "in.mrcs", 0, 0) for i in range(1, 100_001)), 100_000)
    done = run(job, "--jobs", "2")
    assert done.returncode == 0, done.stderr
    with mrcfile.mmap(job.stacks[0].path) as stack:
        assert np.array_equal(stack.data, images.astype(np.float16))


def test_another_format_through_the_protocol(project):
    write_by_xmipp("spider.stk", noise())
    particles = particle_set(project, [particle(i, (i, "spider.stk")) for i in (1, 2, 3, 4)], 1.5)
    output = downsample(project, particles, fourierCropSize=16).outputParticles
    expected, _ = downsample_images(noise(), PLAN)
    for item, image in pairs(items_of(output), expected):
        assert np.array_equal(image_of(item), image)


HOSTILE = "import sys; sys.stderr.write('run from the current folder'); sys.exit(3)\n"
IMPORTED = [
    "secrets",
    "numpy",
    "tqdm",
    "json",
    "argparse",
    "pyfftw",
    "mrcfile",
    "scipy",
    "emtable",
    "warnings",
    "pkgutil",
]


def hostile(folder):
    """Modules that are not to be imported, by the names of those that the program or Python itself imports."""
    for name in (*IMPORTED, "functools", "downsample_plugin", "cli", "core"):
        (folder / f"{name}.py").write_text(HOSTILE)


@pytest.mark.parametrize("way", ["the file", "by -m"])
def test_nothing_is_imported_from_the_current_folder(here, way):
    write_stack("in.mrcs", noise())
    job = write_job("job", PLAN, [Row(i, i, "in.mrcs", 0, 0) for i in (1, 2, 3, 4)], 100)
    package = Path(downsample_plugin.__file__).parent
    hostile(here)
    command = [sys.executable, str(package / "launcher" / "downsample_particles.py")]
    if way == "by -m":  # what Python itself imports by then cannot be helped
        for name in ("warnings", "pkgutil", "functools", "downsample_plugin"):
            (here / f"{name}.py").unlink()
        command = [sys.executable, "-m", "downsample_plugin"]
    done = subprocess.run([*command, job.path, "--jobs", "1"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert job.is_finished()


def test_a_project_with_modules_in_its_folder(project):
    """The protocol's program imports none of them."""
    stack = write_stack("in_project.mrcs", noise())
    given = particle_set(project, [particle(i, (i, stack)) for i in (1, 2, 3, 4)], 1.5)
    hostile(Path())
    try:
        assert downsample(project, given, fourierCropSize=16).outputParticles.getSize() == 4
    finally:
        for path in Path().glob("*.py"):
            path.unlink()
