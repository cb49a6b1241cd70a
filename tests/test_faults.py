# SPDX-License-Identifier: GPL-3.0-or-later
"""Nothing lost: whatever is killed, full or changed during the run, it says so and goes on to the same bytes."""

import errno
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from downsample_plugin.command import command_line
from downsample_plugin.core import DownsamplePlan
from downsample_plugin.engine import runner
from downsample_plugin.engine.job import Job
from downsample_plugin.errors import DataError

from .launches import RANK
from .scipion_sets import Row, write_job, write_stack
from .waiting import LONGEST, assert_all_end, wait_for

pytestmark = pytest.mark.slow

BOX, COUNT, PER_STACK, STACKS = 128, 1200, 250, 5
PLAN = DownsamplePlan(BOX, 1.5, fourier_crop_size=64, lowpass_resolution=8.0, normalize=True)
KILLS, SEED = 20, 11


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a stack of 100 images, and the job of an undisturbed run."""
    folder = tmp_path_factory.mktemp("faults")
    images = np.random.default_rng(0).normal(size=(100, BOX, BOX))
    write_stack(str(folder / "in.mrcs"), images)
    for number in range(COUNT // 100):  # by names of their own: images that are the same would be made once
        (folder / f"in_{number}.mrcs").symlink_to("in.mrcs")
    return folder


@pytest.fixture
def here(folder, monkeypatch):
    monkeypatch.chdir(folder)


@pytest.fixture(scope="module")
def undisturbed(folder):
    """Seconds of a run that nothing disturbs, and its stacks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        job = new_job("undisturbed")
        start = time.monotonic()
        assert started(job).wait() == 0
        return time.monotonic() - start, stacks_of(job)


def new_job(name, plan=PLAN):
    rows = (Row(i + 1, i % 100 + 1, f"in_{i // 100}.mrcs", 0.0, 0.0) for i in range(COUNT))
    return write_job(name, plan, rows, PER_STACK)


def started(job, slow=False, **settings):
    """The program on a job; slow, with small pieces, it takes two seconds, however late somebody comes to stop it."""
    program = [*RANK, "0.003", str(LONGEST)] if slow else [sys.executable, "-m", "downsample_plugin"]
    command = [*program, job.path, "--jobs", "2"]
    settings["env"] = {name: value for name, value in os.environ.items() if not name.startswith("COV")}  # it talks
    return subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True, **settings
    )


def stacks_of(job):
    job.check_done(skip_corrupt=False)
    found = {path.name: path.read_bytes() for path in Path(job.folder).iterdir() if "mrcs" in path.name}
    assert found.keys() == {f"particles_{i:06d}.mrcs" for i in range(1, STACKS + 1)}, "and nothing besides"
    return found


def workers_of(process):
    """Its worker processes, once there are two."""

    def workers():
        found = psutil.Process(process.pid).children()
        return found if len(found) == 2 else None

    return wait_for(workers, "two workers")


def test_killed_at_any_moment(here, undisturbed):
    longest, expected = undisturbed
    moments = random.Random(SEED)
    killed = 0
    for number in range(5 * KILLS):
        job = new_job(f"killed_{number}")
        process = started(job)
        time.sleep(moments.uniform(0.1, longest))
        workers = psutil.Process(process.pid).children() if process.poll() is None else []
        process.kill()
        assert_all_end(workers)
        process.communicate(timeout=LONGEST)
        if job.is_finished():
            longest = max(0.9 * longest, 0.2)  # too late
            continue
        killed += 1
        again = new_job(f"killed_{number}")
        assert again == job
        assert started(again).wait() == 0
        assert stacks_of(again) == expected, f"killed at moment {number}"
        if killed == KILLS:
            return
    raise AssertionError(f"killed in the middle {killed} times only")


def test_a_worker_that_dies_ends_the_run_and_never_hangs_it(here, undisturbed):
    for number in range(5):
        job = new_job(f"worker_{number}")
        process = started(job, slow=True)
        workers = workers_of(process)
        time.sleep(0.01 * number)
        workers[number % 2].kill()
        _, error = process.communicate(timeout=LONGEST)
        assert process.returncode == command_line.EXIT_DATA
        assert error.startswith("ERROR: A worker process died: it was killed, or the machine ran out of memory")
        assert_all_end(workers)
        assert not [name for name in os.listdir(job.folder) if name.endswith(".part")]
        assert started(job).wait() == 0
        assert stacks_of(job) == undisturbed[1]


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_stopped_by_the_user(here, undisturbed, stop):
    job = new_job(f"stopped_{stop.name}")
    process = started(job, slow=True)
    workers = workers_of(process)
    if stop is signal.SIGINT:
        os.killpg(process.pid, stop)  # as a terminal does
    else:
        process.terminate()
    _, error = process.communicate(timeout=LONGEST)
    assert process.returncode == command_line.EXIT_STOPPED
    assert error == "Stopped; run the same command again to continue from here.\n"
    assert_all_end(workers)
    assert not [name for name in os.listdir(job.folder) if name.endswith(".part")]
    assert started(job).wait() == 0
    assert stacks_of(job) == undisturbed[1]


def test_ctrl_c_twice(here, undisturbed):
    for number in range(8):
        job = new_job(f"twice_stopped_{number}")
        process = started(job, slow=True)
        workers = workers_of(process)
        for _ in range(2):
            os.killpg(process.pid, signal.SIGINT)
            time.sleep(0.01 * number)
        _, error = process.communicate(timeout=LONGEST)
        assert process.returncode == command_line.EXIT_STOPPED
        assert error == "Stopped; run the same command again to continue from here.\n"
        assert_all_end(workers)


def test_a_file_that_may_not_grow(here, undisturbed):
    """The kernel refuses what lies beyond the limit, as it does on a full disk."""
    job = new_job("limited")

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))

    process = started(job, preexec_fn=limit)
    _, error = process.communicate(timeout=LONGEST)
    assert process.returncode == command_line.EXIT_DATA
    assert error.startswith("ERROR: limited: the output cannot be written (File too large), expected a folder that can")
    assert error.count("\n") == 1
    assert not [name for name in os.listdir(job.folder) if "mrcs" in name]
    assert started(job).wait() == 0
    assert stacks_of(job) == undisturbed[1]


def test_a_disk_that_fills_up_meanwhile(here, undisturbed, monkeypatch):
    job = new_job("full")
    write = os.pwrite
    room = iter([True] * 3)

    def until_full(*arguments):  # each worker has some room
        if next(room, False):
            return write(*arguments)
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("downsample_plugin.files.stack_writer.os.pwrite", until_full)
        with pytest.raises(DataError, match=r"full: the output cannot be written \(No space left on device\)"):
            runner.run_job(job, job.stacks, 2, lambda count: None)
    with pytest.raises(DataError, match="No space left on device"):
        job.check_done(skip_corrupt=False)
    assert not [name for name in os.listdir(job.folder) if name.endswith(".part")]
    assert started(job).wait() == 0
    assert stacks_of(job) == undisturbed[1]


def test_a_disk_without_locks(here, undisturbed, monkeypatch):
    """As some of clusters are: nothing is taken for abandoned there."""
    job = new_job("no_locks")

    def no_lock(*arguments):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr("downsample_plugin.files.whole_files.fcntl.flock", no_lock)
    others = Path(job.folder, "particles_000001.mrcs.0123456789abcdef.part")
    others.touch()
    runner.run_job(job, job.stacks, 2, lambda count: None)
    assert others.exists()
    others.unlink()
    assert stacks_of(job) == undisturbed[1]


def test_unfinished_stacks_of_other_parts_are_left_alone(here, undisturbed):
    """Not every disk tells its locks to other computers."""
    job = new_job("parts")
    others = Path(job.folder, "particles_000002.mrcs.0123456789abcdef.part")
    others.touch()
    runner.run_job(job, job.share(1, 2), 2, lambda count: None)
    assert others.exists()
    runner.run_job(job, job.share(2, 2), 2, lambda count: None)
    assert stacks_of(job) == undisturbed[1]


def test_a_disk_without_room_is_refused_before_any_work(here, monkeypatch):
    job = new_job("no_room")
    usage = type("Usage", (), {"free": 1_500_000})
    monkeypatch.setattr("downsample_plugin.engine.runner.shutil.disk_usage", lambda folder: usage)
    with pytest.raises(DataError, match="no_room: the disk has room for 2 MB, expected 20 MB for 5 output stacks"):
        runner.run_job(job, job.stacks, 2, lambda count: None)


@pytest.mark.parametrize("harm", ["a byte", "an image", "cut short", "header", "no record", "record", "table"])
def test_a_stack_that_no_longer_fits_its_record_is_made_again(here, undisturbed, harm):
    job = new_job(f"harmed_{harm}".replace(" ", "_"))
    assert started(job).wait() == 0
    path, size = job.stacks[1].path, os.path.getsize(job.stacks[1].path)
    if harm == "no record":
        os.remove(job.stacks[1].record_path)
    elif harm == "record":
        with open(job.stacks[1].record_path, "w") as file:
            file.write('{"fingerprint"')
    elif harm == "table":
        os.remove(job.stacks[1].made_path)
    elif harm == "cut short":
        os.truncate(path, size - 1)
    else:
        with open(path, "r+b") as file:
            file.seek({"a byte": size // 2, "an image": 1024 + 64 * 64 * 4, "header": 8}[harm])
            file.write({"a byte": b"\x55", "an image": b"\0" * 64 * 64 * 4, "header": b"\x07"}[harm])
    kept = os.stat(job.stacks[2].path).st_mtime_ns
    assert started(job).wait() == 0
    assert stacks_of(job) == undisturbed[1]
    assert os.stat(job.stacks[2].path).st_mtime_ns == kept


@pytest.mark.parametrize("harm", ["longer", "more images", "another box", "another job's record"])
def test_what_does_not_fit_its_record_is_not_done(here, undisturbed, harm):
    """This is looked at before a set is registered, without reading all pixels."""
    job = new_job(f"unfit_{harm[:6]}")
    assert started(job).wait() == 0
    assert job.stacks[1].is_done()
    if harm == "longer":
        os.truncate(job.stacks[1].path, os.path.getsize(job.stacks[1].path) + 1)
    elif harm == "another job's record":
        other = new_job("unfit_other", DownsamplePlan(BOX, 1.5, fourier_crop_size=64))
        assert started(other).wait() == 0
        os.replace(other.stacks[1].record_path, job.stacks[1].record_path)
    else:
        with open(job.stacks[1].path, "r+b") as file:
            sides = {"more images": (64, 64, 249), "another box": (32, 128, 250)}[harm]
            file.write(np.array(sides, dtype="<i4").tobytes())
    assert not job.stacks[1].is_done()
    with pytest.raises(
        DataError, match=r"1 of 5 output stacks are (missing|not what they were when they were made) \(particles_000002"
    ):
        job.check_done(skip_corrupt=False)


def test_the_record_of_a_stack(here, undisturbed):
    job = Job.read("undisturbed/job.json")
    with open(job.stacks[4].record_path) as file:
        record = json.load(file)
    status = os.stat("in.mrcs")
    assert record["plan"] == PLAN.to_dict()
    state = [status.st_size, status.st_mtime_ns, status.st_ino, status.st_ctime_ns]
    assert record["inputs"] == {f"in_{number}.mrcs": state for number in (10, 11)}
    assert (record["images"], record["bytes"]) == (200, 1024 + 200 * 64 * 64 * 4)
    assert record.keys() >= {"version", "checksum", "fingerprint"}


def test_two_programs_on_one_job_do_no_harm(here, undisturbed):
    """As when a protocol was killed whose program still runs, and is continued."""
    job = new_job("twice")
    for number in range(5):
        job = new_job(f"twice_{number}")
        both = [started(job)]
        time.sleep(0.05 * number)
        both.append(started(job))
        for process in both:
            _, error = process.communicate(timeout=LONGEST)
            assert process.returncode == 0, error
        assert stacks_of(job) == undisturbed[1]
