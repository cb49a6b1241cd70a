# SPDX-License-Identifier: GPL-3.0-or-later
"""Bad input is refused with the file, the particle, what was found and what was expected; all of it in one pass."""

import os
import struct
import subprocess
import sys
import warnings

import mrcfile
import numpy as np
import pytest
from emtable import Table

from downsample_plugin.command import command_line
from downsample_plugin.core import DownsamplePlan, downsample_images
from downsample_plugin.engine.tables import BadParticle
from downsample_plugin.errors import DataError

from .scipion_sets import Row, results_of, write_job, write_stack

pytestmark = pytest.mark.slow

BOX = 32
PLAN = DownsamplePlan(BOX, 1.5, fourier_crop_size=16, normalize=True)
MEMORY_LIMIT = 1 << 30  # bytes of address space beyond what the program has when it starts


def noise(count=6, box=BOX, seed=0):
    return np.random.default_rng(seed).normal(size=(count, box, box)).astype(np.float32)


def header(**fields):
    """A header of one image of 32 px, with some 32-bit words changed: by their byte offset, or by name."""
    offsets = {"nx": 0, "ny": 4, "nz": 8, "mode": 12, "nsymbt": 92}
    write_stack("plain.mrcs", noise(1))
    with open("plain.mrcs", "rb") as file:
        data = bytearray(file.read())
    for name, value in fields.items():
        struct.pack_into("<i", data, offsets[name], value)
    return bytes(data)


def with_pixel(value):
    images = noise(1)
    images[0, 3, 4] = value
    return images


# What makes a bad file, and what is said of it
BAD_FILES = {
    "cut short": (lambda: header()[:-1], "the file is 5119 bytes long, expected 5120 .* the file is cut short"),
    "header only": (lambda: header()[:1024], "the file is 1024 bytes long, expected 5120"),
    "half a header": (lambda: header()[:500], "the file is 500 bytes long, expected an MRC file with a header of 1024"),
    "empty": (lambda: b"", "the file is 0 bytes long, expected an MRC file"),
    "text": (lambda: b"data_particles\n" * 100, "the file is not a readable MRC stack, expected a header with"),
    "complex": (lambda: header(mode=4), "not a readable MRC stack, .* mode 0, 1, 2, 6, 12; convert"),
    "unknown mode": (lambda: header(mode=77), "not a readable MRC stack"),
    "negative size": (lambda: header(nx=-32), "not a readable MRC stack"),
    "no images": (lambda: header(nz=0), "not a readable MRC stack"),
    "negative extension": (lambda: header(nsymbt=-8), "not a readable MRC stack"),
    "sizes that overflow": (
        lambda: header(nx=1 << 20, ny=1 << 20, nz=1 << 30),
        "the file is 5120 bytes long, expected",
    ),
    "10^12 pixels": (lambda: header(nx=10**6, ny=10**6), "the file is 5120 bytes long, expected 4000000001024"),
    "a large extension": (lambda: header(nsymbt=2**31 - 1), "the file is 5120 bytes long, expected 2147488767"),
    "another box": (lambda: noise(1, 31), "image size: got 31 x 31 px, expected 32 x 32 px"),
    "not square": (lambda: np.zeros((1, 20, 32), "f4"), "image size: got 32 x 20 px, expected 32 x 32 px"),
    "not a number": (lambda: with_pixel(np.nan), r"pixels that are not numbers: 1, the first at x = 4, y = 3 \(nan\)"),
    "infinite": (
        lambda: with_pixel(-np.inf),
        r"not numbers: 1, .* \(-inf\), expected none; extract",
    ),
    "constant": (
        lambda: np.full((1, BOX, BOX), 7, "f4"),
        "outside radius 8 px: its standard deviation is .* expected",
    ),
}


def make(name, content):
    if isinstance(content, bytes):
        with open(name, "wb") as file:
            file.write(content)
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that pixels are not numbers
            mrcfile.write(name, content, overwrite=True)


def run(*arguments):
    command = [sys.executable, "-m", "downsample_plugin", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=120)


@pytest.mark.parametrize("kind", BAD_FILES)
def test_a_bad_file_is_refused_by_name_and_may_be_skipped(here, kind):
    content, sentence = BAD_FILES[kind]
    make("bad.mrcs", content())
    make("good.mrcs", noise())
    rows = [Row(10 + i, i, "good.mrcs", 0, 0) for i in range(1, 7)]
    rows.insert(2, Row(99, 1, "bad.mrcs", 0, 0))
    job = write_job("job", PLAN, rows, 100)
    done = run(job.path)
    assert done.returncode == command_line.EXIT_DATA
    assert "Traceback" not in done.stderr
    with pytest.raises(DataError, match=rf"(?s)1 corrupt particle.*Particle 99, image 1 of bad\.mrcs: .*{sentence}"):
        job.check_done(skip_corrupt=False)
    (bad,) = Table(fileName="job/bad_particles.star", tableName="bad_particles")
    assert tuple(bad)[:3] == (99, 1, "bad.mrcs")
    assert not os.path.exists(job.stacks[0].path)

    assert run(job.path, "--skip-corrupt").returncode == 0
    assert job.check_done(skip_corrupt=True) == 1
    assert [(row.particle_id, row.image_index) for row in results_of(job)] == [(10 + i, i) for i in range(1, 7)]
    expected, _ = downsample_images(noise(), PLAN)
    with mrcfile.open(job.stacks[0].path) as stack:
        assert np.array_equal(stack.data, expected)
        assert stack.header.dmean == pytest.approx(expected.mean(dtype=float), abs=1e-7)
        assert stack.header.rms == pytest.approx(expected.std(dtype=float), rel=1e-6)
    assert mrcfile.validate(job.stacks[0].path)


@pytest.mark.parametrize(
    "make_it, name, sentence",
    [
        (lambda: None, "none.mrcs", r"cannot be opened \(No such file or directory\), .* check that it exists"),
        (lambda: os.mkdir("folder.mrcs"), "folder.mrcs", r"the file cannot be read \(Is a directory\)"),
        (lambda: os.symlink("nowhere", "link.mrcs"), "link.mrcs", r"cannot be opened \(No such file"),
        (lambda: os.symlink("loop.mrcs", "loop.mrcs"), "loop.mrcs", r"cannot be opened \(Too many levels of symbolic"),
        (
            lambda: make("text.spi", b"none"),
            "text.spi",
            r"Xmipp's library cannot read the file \(.*convert the",
        ),
        (lambda: make("empty.hdf", b""), "empty.hdf", r"Xmipp's library cannot read the file \("),
        (lambda: make("empty.tif", b""), "empty.tif", r"tifffile cannot read the file \("),
    ],
)
def test_what_cannot_be_opened(here, make_it, name, sentence):
    make_it()
    job = write_job("job", PLAN, [Row(1, 1, name, 0, 0)], 10)
    assert run(job.path).returncode == command_line.EXIT_DATA
    with pytest.raises(DataError, match=rf"(?s)Particle 1, image 1 of {name}: .*{sentence}"):
        job.check_done(skip_corrupt=False)
    assert run(job.path, "--skip-corrupt").returncode == 0
    with pytest.raises(DataError, match=r"all particles are corrupt \(1\), expected some usable ones"):
        job.check_done(skip_corrupt=True)


def test_all_bad_particles_are_found_in_one_pass_and_the_good_stacks_stay(here):
    images = noise(30)
    images[[4, 11, 12, 25, 26, 27], 0, 0] = np.nan
    make("in.mrcs", images)
    rows = [Row(100 + i, i, "in.mrcs", 0, 0) for i in range(1, 31)]
    singular = [BadParticle(500, 1, "in.mrcs", "alignment matrix: its rotation is singular")]
    job = write_job("job", PLAN, rows, 6, singular)
    assert run(job.path, "--jobs", "2").returncode == command_line.EXIT_DATA
    with pytest.raises(DataError) as refused:
        job.check_done(skip_corrupt=False)
    lines = str(refused.value).split("\n")
    assert lines[0] == "7 corrupt particles, expected none:"
    assert [line.split(",")[0] for line in lines[1:6]] == [f"Particle {i}" for i in (500, 105, 112, 113, 126)]
    assert lines[6] == "… and 2 more"
    assert lines[7].startswith(
        "All are listed in job/bad_particles.star. Repair them or remove them from the input, or "
    )
    listed = Table(fileName="job/bad_particles.star", tableName="bad_particles")
    assert [bad.particleId for bad in listed] == [500, 105, 112, 113, 126, 127, 128]
    assert [stack.is_done() for stack in job.stacks] == [False, False, False, True, False]

    kept = os.stat(job.stacks[3].path).st_mtime_ns
    assert run(job.path, "--skip-corrupt").returncode == 0
    assert os.stat(job.stacks[3].path).st_mtime_ns == kept
    assert job.check_done(skip_corrupt=True) == 7
    good = [row for row in rows if row.particle_id not in (105, 112, 113, 126, 127, 128)]
    assert [row.particle_id for row in results_of(job)] == [row.particle_id for row in good]
    expected, _ = downsample_images(noise(30)[[row.image_index - 1 for row in good]], PLAN)
    found = [mrcfile.read(row.image_file)[row.image_index - 1] for row in results_of(job)]
    assert np.array_equal(found, expected)

    assert run(job.path).returncode == command_line.EXIT_DATA, "not to be skipped any more"
    assert not os.path.exists(job.stacks[0].path)


def test_a_stack_of_which_nothing_can_be_used(here):
    images = noise(6)
    images[:3] = np.nan
    make("in.mrcs", images)
    job = write_job("job", PLAN, [Row(i, i, "in.mrcs", 0, 0) for i in range(1, 7)], 3)
    assert run(job.path, "--skip-corrupt").returncode == 0
    assert job.check_done(skip_corrupt=True) == 3
    assert [row.particle_id for row in results_of(job)] == [4, 5, 6]
    assert not os.path.exists(job.stacks[0].path)
    assert run(job.path, "--skip-corrupt").returncode == 0, "it rests"


def test_16_bit_overflow_is_a_particle_of_its_own(here):
    images = noise(5)
    images[2] *= 1e6
    make("in.mrcs", images)
    plan = DownsamplePlan(BOX, 1.5, fourier_crop_size=16, float16=True)
    job = write_job("job", plan, [Row(i, i, "in.mrcs", 0, 0) for i in range(1, 6)], 10)
    assert run(job.path, "--skip-corrupt").returncode == 0
    (bad,) = job.bad_particles(job.stacks)
    assert bad.particle_id == 3
    assert "pixel value for 16-bit output: got " in bad.problem
    assert np.isfinite(mrcfile.read(job.stacks[0].path).astype(np.float32)).all()


def test_no_memory_on_a_headers_word(here):
    """A sparse file as large as its header says; the program may not take a gigabyte for it."""
    make("huge.mrcs", header(nx=30000, ny=30000, nz=1))
    os.truncate("huge.mrcs", 1024 + 30000**2 * 4)
    make("good.mrcs", noise())
    job = write_job("job", PLAN, [Row(1, 1, "huge.mrcs", 0, 0), Row(2, 1, "good.mrcs", 0, 0)], 10)
    code = (
        "import resource, sys; from downsample_plugin.command import downsample_particles as cli; "
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize(); "
        f"resource.setrlimit(resource.RLIMIT_AS, (used + {MEMORY_LIMIT},) * 2); "
        "sys.exit(cli.main(sys.argv[1:]))"
    )
    done = subprocess.run([sys.executable, "-c", code, job.path, "--skip-corrupt"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (bad,) = job.bad_particles(job.stacks)
    assert "image size: got 30000 x 30000 px" in bad.problem
    done = run("huge.mrcs", "--apix", "1", "-o", "out", "--box", "64")
    assert done.returncode == command_line.EXIT_USAGE
    assert "Box of the particles: got 30000 px, expected 8 to 4096 px" in done.stderr


def test_the_command_line_lists_and_skips_too(here):
    images = noise(8)
    images[5, 1, 1] = np.inf
    make("in.mrcs", images)
    with open("in.star", "w") as file:
        file.write("data_optics\n\nloop_\n_rlnOpticsGroup\n_rlnImagePixelSize\n1 1.5\n\n")
        file.write("data_particles\n\nloop_\n_rlnImageName\n_rlnOpticsGroup\n_rlnComment\n1@gone.mrcs 1 gone\n")
        file.writelines(f"{i}@in.mrcs 1 c{i}\n" for i in range(1, 9))
    wishes = ["in.star", "-o", "out", "--box", "16"]
    done = run(*wishes)
    assert done.returncode == command_line.EXIT_DATA
    assert "2 corrupt particles" in done.stderr
    assert "Particle 1, image 1 of gone.mrcs" in done.stderr
    assert not os.path.exists("out/particles.star")
    done = run(*wishes, "--skip-corrupt")
    assert done.returncode == 0, done.stderr
    assert "Left out: 2 corrupt particles, listed in out/bad_particles.star" in done.stdout
    with open("out/particles.star") as file:
        rows = [line.split() for line in file if "@" in line]
    assert [row[2] for row in rows] == ["c1", "c2", "c3", "c4", "c5", "c7", "c8"]
    assert [row[0] for row in rows] == [f"{i:06d}@out/particles_000001.mrcs" for i in range(1, 8)]


OPTICS = "data_optics\n\nloop_\n_rlnOpticsGroup\n_rlnImagePixelSize\n{}\n\ndata_particles\n\nloop_\n{}\n"


def star(rows, optics="1 1.5", labels="_rlnImageName\n_rlnOpticsGroup"):
    with open("in.star", "w") as file:
        file.write(OPTICS.format(optics, labels) + "\n".join(rows) + "\n")


def test_bad_particles_of_all_optics_groups_are_in_one_list(here):
    first, second = noise(4), noise(4, seed=1)
    first[1, 0, 0], second[:, 0, 0] = np.nan, np.inf
    make("a.mrcs", first)
    make("b.mrcs", second)
    star(
        [f"{i}@{name} {group}" for i in (1, 2, 3, 4) for name, group in (("a.mrcs", 1), ("b.mrcs", 2))], "1 1.5\n2 2.5"
    )
    done = run("in.star", "-o", "out", "--box", "16")
    assert done.returncode == command_line.EXIT_DATA
    assert "5 corrupt particles" in done.stderr
    listed = Table(fileName="out/bad_particles.star", tableName="bad_particles")
    assert [bad.particleId for bad in listed] == [2, 3, 4, 6, 8]
    done = run("in.star", "-o", "out", "--box", "16", "--skip-corrupt")
    assert done.returncode == 0, done.stderr
    with open("out/particles.star") as file:
        assert [line.split()[1] for line in file if "@" in line] == ["1", "1", "1"]
    make("a.mrcs", noise(4))
    make("b.mrcs", noise(4, seed=1))
    os.remove("out/particles.star")
    assert run("in.star", "-o", "out", "--box", "16").returncode == 0
    assert not os.path.exists("out/bad_particles.star")


@pytest.mark.parametrize(
    "rows, optics, labels, sentence",
    [
        (["1@a.mrcs 1"], "1 0", None, "the pixel size is 0 Å/px, expected a number above 0"),
        (["99999999999999999999@a.mrcs 1"], "1 1.5", None, "expected a number before the @, of up to 12 digits"),
        (["²@a.mrcs 1"], "1 1.5", None, "expected a number before the @"),
        (["1@ 1"], "1 1.5", None, "and a file after it"),
        (["1@a\0b.mrcs 1"], "1 1.5", None, "and a file after it"),
        (["1@a.mrcs 1", "", "2@a.mrcs 1"], "1 1.5", None, "'2@a.mrcs 1' is outside a loop"),
        (["1@a.mrcs 1 2"], "1 1.5", "_rlnImageName\n_rlnOpticsGroup\n_rlnOpticsGroup", "_rlnOpticsGroup appears twice"),
        (["1@a.mrcs 1"], "1 1.5e308", None, "expected a number above 0"),
    ],
)
def test_star_files_that_would_mislead(here, rows, optics, labels, sentence):
    make("a.mrcs", noise())
    star(rows, optics, labels or "_rlnImageName\n_rlnOpticsGroup")
    done = run("in.star", "-o", "out", "--box", "16")
    assert done.returncode in (command_line.EXIT_DATA, command_line.EXIT_USAGE)
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("first", ["data_7/x.mrc", "_x.mrc"])
def test_rows_that_begin_like_something_else(here, first):
    make("a.mrcs", noise())
    star(
        [f"plain.mrc {i}@a.mrcs 1" if i == 1 else f"{first} {i}@a.mrcs 1" for i in (1, 2, 3)],
        labels=("_rlnMicrographName\n_rlnImageName\n_rlnOpticsGroup"),
    )
    assert run("in.star", "-o", "out", "--box", "16").returncode == 0
    with open("out/particles.star") as file:
        assert [line.split()[1] for line in file if "@" in line] == [
            f"{i:06d}@out/particles_000001.mrcs" for i in (1, 2, 3)
        ]


def test_a_pipe_does_not_hold_the_run_up(here):
    os.mkfifo("pipe.mrcs")
    done = run("pipe.mrcs", "-o", "out", "--box", "16")
    assert done.returncode == command_line.EXIT_DATA
    assert "the file is a pipe or a device" in done.stderr


@pytest.mark.parametrize("apix", ["0", "1e308", "-1"])
def test_pixel_sizes_that_make_no_sense(here, apix):
    make("a.mrcs", noise())
    done = run("a.mrcs", "--apix", apix, "--pixel-size", "1.5e308", "-o", "out")
    assert done.returncode == command_line.EXIT_USAGE
    assert "Traceback" not in done.stderr


def test_a_constant_image_with_a_highpass(here):
    make("a.mrcs", np.full((1, 33, 33), 1e30, "f4"))
    done = run("a.mrcs", "--apix", "1", "-o", "out", "--highpass", "20", "--normalize", "-1")
    assert done.returncode == command_line.EXIT_DATA
    assert "expected noise to normalise by" in done.stderr


def test_folders_that_cannot_be_written(here):
    make("a.mrcs", noise())
    with open("file", "w"):
        pass
    done = run("a.mrcs", "--apix", "1", "-o", "file", "--box", "16")
    assert done.returncode == command_line.EXIT_USAGE
    assert "-o: file is a file, expected an output folder; give another name." in done.stderr
