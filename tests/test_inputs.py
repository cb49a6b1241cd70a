# SPDX-License-Identifier: GPL-3.0-or-later
"""Inputs that change, cannot be had, or are no particles: the run stops, and never mixes, drops or invents images."""

import errno
import os
import re
import shutil
from pathlib import Path

import mrcfile
import numpy as np
import pytest

from downsample_plugin.command import downsample_particles as cli
from downsample_plugin.command.command_line import EXIT_DATA, EXIT_USAGE
from downsample_plugin.core import DownsamplePlan, downsample_images, downsampler
from downsample_plugin.engine import runner, worker
from downsample_plugin.engine.job import Job
from downsample_plugin.errors import DataError, InputError
from downsample_plugin.files import library_readers
from downsample_plugin.files.image_readers import open_stack

from .scipion_sets import Row, images_of_file, write_job, write_stack

BOX, COUNT = 32, 40
PLAN = DownsamplePlan(BOX, 1.5, fourier_crop_size=16)


def noise(seed, count=COUNT):
    return np.random.default_rng(seed).normal(size=(count, BOX, BOX)).astype(np.float32)


def small(images):
    return downsample_images(images, PLAN)[0]


def command(*arguments):
    return cli.main([*arguments, "-o", "out", "--box", "16", "--apix", "1.5", "--jobs", "1", "--no-picture"])


def replaced_by_rename(path, images):
    write_stack("new.mrcs", images)
    shutil.copystat(path, "new.mrcs")
    os.replace("new.mrcs", path)


def replaced_in_place(path, images):
    """As by ``cp -p``: the same inode, size and time."""
    status = os.stat(path)
    with open(path, "r+b") as file:
        file.seek(1024)
        file.write(images.tobytes())
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def after(pieces, do):
    """What a worker calls when it begins a piece, and does something else besides when it begins a certain one."""
    begun = []

    def split_shift(*arguments):
        if len(begun) == pieces:
            do()
        begun.append(True)
        return downsampler.split_shift(*arguments)

    return split_shift


WAYS = [replaced_by_rename, replaced_in_place]


# ---- replaced ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("replace", WAYS)
@pytest.mark.parametrize("piece", [0, 1])
def test_replaced_during_the_run(here, monkeypatch, capsys, replace, piece):
    """Before the first images are read, or between pieces: with the same size and time."""
    write_stack("in.mrcs", noise(1))
    with monkeypatch.context() as patch:
        patch.setattr(worker, "split_shift", after(piece, lambda: replace("in.mrcs", noise(2))))
        patch.setattr(runner, "BYTES_PER_PIECE", 10 * 4 * BOX**2)
        assert command("in.mrcs") == EXIT_DATA
    said = capsys.readouterr().err
    assert re.search(
        r"in\.mrcs: (it has been replaced by another file|it has been written to or renamed) since the run began", said
    )
    assert not list(Path("out").glob("*.mrcs*")) and not Path("out/particles.star").exists()
    assert command("in.mrcs") == 0
    assert np.array_equal(images_of_file("out/particles_000001.mrcs"), small(noise(2)))


@pytest.mark.parametrize("replace", WAYS)
def test_replaced_when_the_last_images_have_been_read(here, monkeypatch, capsys, replace):
    """That is seen when their piece ends: no stack is made of them."""
    write_stack("in.mrcs", noise(1))
    write = worker._write_runs

    def late(*arguments):
        replace("in.mrcs", noise(2))
        write(*arguments)

    monkeypatch.setattr(worker, "_write_runs", late)
    assert command("in.mrcs") == EXIT_DATA
    assert "in.mrcs: it has been " in capsys.readouterr().err
    assert not list(Path("out").glob("*.mrcs*"))


@pytest.mark.parametrize("replace", WAYS)
def test_replaced_before_the_results_are_registered(here, replace):
    write_stack("in.mrcs", noise(1))
    job = write_job("job", PLAN, (Row(i, i, "in.mrcs", 0, 0) for i in range(1, COUNT + 1)), 10)
    runner.run_job(job, job.stacks, 1, lambda count: None)
    job.check_done(skip_corrupt=False)
    replace("in.mrcs", noise(2))
    with pytest.raises(InputError, match=r"in\.mrcs: .* since the run began, expected the same file until its end"):
        job.check_done(skip_corrupt=False)


@pytest.mark.parametrize("replace", WAYS)
def test_replaced_between_stop_and_continue(here, replace):
    """What was made of the old one is made again; what was made of other files stays."""
    for number in (1, 2):
        write_stack(f"in_{number}.mrcs", noise(number))

    def new_job():
        rows = [Row(COUNT * n + i, i, f"in_{n}.mrcs", 0, 0) for n in (1, 2) for i in range(1, COUNT + 1)]
        return write_job("job", PLAN, rows, 20)

    job = new_job()
    runner.run_job(job, job.stacks[:3], 1, lambda count: None)  # stopped before the last
    before = [os.stat(stack.path).st_mtime_ns for stack in job.stacks[:3]]
    replace("in_1.mrcs", noise(3))
    job = new_job()
    runner.run_job(job, job.stacks, 1, lambda count: None)
    job.check_done(skip_corrupt=False)
    made = np.concatenate([images_of_file(stack.path) for stack in job.stacks])
    assert np.array_equal(made, small(np.concatenate([noise(3), noise(2)])))
    after = [os.stat(stack.path).st_mtime_ns for stack in job.stacks[:3]]
    assert [old == new for old, new in zip(before, after)] == [False, False, True]


def test_a_folder_that_was_moved_or_copied_goes_on(here, monkeypatch):
    """Moved, what is done stays; copied, with its times, all comes right."""
    os.mkdir("project")
    monkeypatch.chdir("project")
    write_stack("in.mrcs", noise(1))
    job = write_job("job", PLAN, (Row(i, i, "in.mrcs", 0, 0) for i in range(1, COUNT + 1)), 10)
    runner.run_job(job, job.stacks[:2], 1, lambda count: None)
    made = [os.stat(stack.path).st_mtime_ns for stack in job.stacks[:2]]
    for name, how in (("moved", os.rename), ("copied", shutil.copytree)):
        os.chdir("..")
        how("project" if name == "moved" else "moved", name)
        os.chdir(name)
        again = write_job("job", PLAN, (Row(i, i, "in.mrcs", 0, 0) for i in range(1, COUNT + 1)), 10)
        assert again.fingerprint == job.fingerprint
        if name == "moved":
            assert [stack.is_done() for stack in again.stacks] == [True, True, False, False]
            assert [os.stat(stack.path).st_mtime_ns for stack in again.stacks[:2]] == made
        runner.run_job(again, again.stacks, 1, lambda count: None)
        assert again.check_done(skip_corrupt=False) == 0
        assert np.array_equal(np.concatenate([images_of_file(s.path) for s in again.stacks]), small(noise(1)))


def test_a_file_that_goes_away_meanwhile(here, monkeypatch, capsys):
    """A missing file is a particle's fault only if it was missing from the start."""
    write_stack("in.mrcs", noise(1))
    monkeypatch.setattr(worker, "split_shift", after(0, lambda: os.rename("in.mrcs", "away.mrcs")))
    assert command("in.mrcs", "--skip-corrupt") == EXIT_DATA
    assert "in.mrcs: it has been removed since the run began" in capsys.readouterr().err
    assert not Path("out/particles.star").exists()


# ---- that the disk does not give -----------------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOMEM, errno.EACCES, errno.EMFILE])
@pytest.mark.parametrize("call", ["open", "pread", "preadv"])
def test_errors_of_the_disk_stop_the_run(here, monkeypatch, capsys, call, number):
    """They say nothing of particles, which are not to be dropped for ever."""
    write_stack("in.mrcs", noise(1))
    write_stack("other.mrcs", noise(2))
    real = getattr(os, call)
    inode = os.stat("other.mrcs").st_ino

    def failing(where, *arguments, **settings):
        is_it = where == "other.mrcs" if call == "open" else os.fstat(where).st_ino == inode
        if is_it:
            raise OSError(number, os.strerror(number))
        return real(where, *arguments, **settings)

    rows = [*(Row(i, i, "in.mrcs", 0, 0) for i in range(1, 11)), *(Row(90 + i, i, "other.mrcs", 0, 0) for i in (1, 2))]
    job = write_job("job", PLAN, rows, 6)
    with monkeypatch.context() as patch:
        patch.setattr(os, call, failing)
        assert cli.main([job.path, "--jobs", "1", "--skip-corrupt"]) == EXIT_DATA
    said = capsys.readouterr().err
    assert said.startswith("ERROR: other.mrcs: the file cannot be") and os.strerror(number) in said
    assert "ulimit -n" in said if number == errno.EMFILE else "then continue the run" in said
    assert not any(stack.has_bad() for stack in job.stacks) and not job.is_finished()
    assert cli.main([job.path, "--jobs", "1", "--skip-corrupt"]) == 0
    assert job.check_done(skip_corrupt=False) == 0


def test_a_library_that_fails_for_the_disk(here, monkeypatch):
    """It cannot say so: the file is then read by ourselves."""
    import tifffile

    tifffile.imwrite("in.tif", noise(1), photometric="minisblack")
    stack = open_stack("in.tif")
    monkeypatch.setattr(tifffile.TiffPage, "asarray", lambda page: 1 / 0)
    with pytest.raises(DataError, match="tifffile cannot read the file") as told:
        stack.read(0)
    assert not isinstance(told.value, InputError)

    class Failing:
        def __enter__(self):
            return self

        def __exit__(self, *exception):
            pass

        def read(self, length):
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(library_readers, "open", lambda *arguments, **settings: Failing(), raising=False)
    with pytest.raises(InputError, match=r"cannot be read \(Input/output error\)"):
        stack.read(0)


@pytest.mark.slow
@pytest.mark.parametrize("limit", [12, 16, 20, 24, 28])
def test_few_open_files(here, limit):
    """Whatever cannot be opened first, it is said in a sentence, and nothing counts as corrupt."""
    import subprocess
    import sys

    for number in range(20):
        write_stack(f"in_{number}.mrcs", noise(number, 2))
    rows = [Row(1 + i, 1 + i % 2, f"in_{i // 2}.mrcs", 0, 0) for i in range(40)]
    job = write_job("job", PLAN, rows, 1)
    text = f"ulimit -n {limit}; exec {sys.executable} -m downsample_plugin job/job.json --jobs 2 --skip-corrupt"
    done = subprocess.run(["bash", "-c", text], capture_output=True, text=True, timeout=100)
    assert "Traceback" not in done.stderr, done.stderr
    if done.returncode:
        assert done.returncode == EXIT_DATA and "files open at once" in done.stderr, done.stderr
    assert not any(stack.has_bad() for stack in job.stacks)


# ---- that are no particles -----------------------------------------------------------------------------------


def volume(name, count=1):
    data = np.random.default_rng(0).normal(size=(count, BOX, BOX, BOX)).astype(np.float32)
    with mrcfile.new(name, overwrite=True) as file:
        file.set_data(data if count > 1 else data[0])
        if count == 1:
            file.set_volume()
        file.voxel_size = 1.5
    return name


@pytest.mark.parametrize("name", ["map.mrc", "map.map"])
def test_a_map_is_no_stack(here, capsys, name):
    volume(name)
    assert command(name) == EXIT_DATA
    said = capsys.readouterr().err
    assert f"{name}: the file is a 3D map (32 x 32 x 32, as its header says), expected a stack of particle" in said
    assert not Path("out").exists()


@pytest.mark.parametrize("name", ["maps.mrc", "maps.mrcs"])
def test_a_stack_of_maps_is_no_stack(here, capsys, name):
    volume(name, 3)
    assert command(name) == EXIT_DATA
    assert f"{name}: the file is a stack of 3D maps (32 x 32 x 96" in capsys.readouterr().err
    Path("in.star").write_text(
        "data_\nloop_\n_rlnImageName\n_rlnMagnification\n_rlnDetectorPixelSize\n"
        + "".join(f"{i}@{name} 10000 1.5\n" for i in (1, 2))
    )
    assert cli.main(["in.star", "-o", "out", "--box", "16", "--jobs", "1"]) == EXIT_DATA
    assert "is a stack of 3D maps" in capsys.readouterr().err


def test_stacks_with_headers_of_maps(here):
    """Some programs write space group 1 for stacks: by the shape, the suffix or a STAR file they are known."""
    volume("map.mrc")
    shutil.copy("map.mrc", "cube.mrcs")
    with mrcfile.new("flat.mrc") as file:
        file.set_data(noise(1, 7))
        file.set_volume()
    for name, count in (("cube.mrcs", BOX), ("flat.mrc", 7)):
        assert command(name, "--force") == 0
        assert len(images_of_file("out/particles_000001.mrcs")) == count
    Path("in.star").write_text(
        "data_\nloop_\n_rlnImageName\n_rlnMagnification\n_rlnDetectorPixelSize\n"
        + "".join(f"{i}@map.mrc 10000 1.5\n" for i in (3, 1))
    )
    assert cli.main(["in.star", "-o", "out", "--box", "16", "--jobs", "1", "--force", "--no-picture"]) == 0
    assert len(images_of_file("out/particles_000001.mrcs")) == 2


def test_a_box_that_is_not_square_is_said_at_once(here, capsys, monkeypatch):
    write_stack("in.mrcs", np.zeros((3, 50, 64), np.float32))
    monkeypatch.setattr(worker, "run_piece", lambda piece: 1 / 0)
    assert command("in.mrcs") == EXIT_DATA
    assert "in.mrcs: the images are 64 x 50 px, expected square ones" in capsys.readouterr().err
    Path("in.star").write_text(
        "data_\nloop_\n_rlnImageName\n_rlnMagnification\n_rlnDetectorPixelSize\n1@in.mrcs 10000 1.5\n"
    )
    assert cli.main(["in.star", "-o", "out", "--box", "16", "--jobs", "1"]) == EXIT_DATA
    assert "in.mrcs: the images are 64 x 50 px, expected square ones" in capsys.readouterr().err
    assert not Path("out").exists()


# ---- in the words of the command line ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options, words",
    [
        (["--crop", "4"], "--crop: got 4 px, expected 8 to"),
        (["--pixel-size", "1"], "--pixel-size: got 1.0 Å/px, expected 1.5 Å/px or more"),
        (
            ["--lowpass", "-1"],
            "--lowpass: got -1.0 Å, expected a number above 0; give a resolution in Å or leave it out",
        ),
        (["--box", "16", "--normalize", "99"], "--normalize: got 99 px, expected more than 0 and at most 8 px"),
        (["--apix", "-1", "--box", "16"], "--apix: got -1.0 Å/px, expected a number above 0"),
    ],
)
def test_options_have_their_own_names(here, capsys, options, words):
    write_stack("in.mrcs", noise(1, 2), voxel_size=1.5)
    assert cli.main(["in.mrcs", "-o", "out", *options]) == EXIT_USAGE
    assert words in capsys.readouterr().err


def test_no_words_of_the_form(here, capsys):
    images = noise(1)
    images[3, 2, 1] = np.nan
    write_stack("in.mrcs", images)
    assert command("in.mrcs") == EXIT_DATA
    said = "".join(capsys.readouterr())
    assert "add --skip-corrupt to leave them out; then run the same command again" in said
    assert "To get back to 1, add --normalize -1." in said
    for word in ("Skip corrupt particles", "Switch on", "switch on", "output set", "continue the run"):
        assert word not in said
    job = Job.read("out/job.json")
    with pytest.raises(DataError, match="switch on Skip corrupt particles to leave them out; then continue"):
        job.check_done(skip_corrupt=False)
