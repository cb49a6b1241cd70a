# SPDX-License-Identifier: GPL-3.0-or-later
"""The program as Scipion runs it: a job in, stacks and a result table out, exit codes, messages."""

import dataclasses
import os
import shutil
import subprocess
import sys

import mrcfile
import numpy as np
import pytest

from downsample_plugin.command import command_line
from downsample_plugin.command import downsample_particles as cli
from downsample_plugin.core import DownsamplePlan, downsample_images
from downsample_plugin.core.plan import Recenter
from downsample_plugin.engine import hands, runner
from downsample_plugin.errors import DataError, PlanError

from .scipion_sets import Row, results_of, write_job, write_stack

BOX = 32
PLAN = DownsamplePlan(BOX, 1.5, fourier_crop_size=16, recenter=Recenter.EXACT)


def run(job, *arguments):
    command = [sys.executable, "-m", "downsample_plugin", job.path, *arguments]
    return subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=120)


def scattered(count=30):
    """Rows that jump between three stacks of the same name, and their images and shifts."""
    rng = np.random.default_rng(3)
    folders = ["one", "two three", "vier/$(echo x); 'q'"]
    stacks = {f"{folder}/particles.mrcs": rng.normal(size=(count, BOX, BOX)).astype(np.float32) for folder in folders}
    for name, images in stacks.items():
        write_stack(name, images)
    rows, images = [], []
    for particle_id, file, index in zip(range(5, 5 + count), rng.choice(list(stacks), count), rng.permutation(count)):
        rows.append(Row(particle_id, int(index) + 1, str(file), *rng.uniform(-3, 3, size=2)))
        images.append(stacks[file][index])
    return rows, np.stack(images)


def change(path, old, new):
    with open(path) as file:
        text = file.read()
    assert old in text
    with open(path, "w") as file:
        file.write(text.replace(old, new))


def outputs(job):
    return {
        name: open(os.path.join(job.folder, name), "rb").read()
        for name in sorted(os.listdir(job.folder))
        if ".mrcs" in name
    }


def test_results_are_in_the_order_of_the_job(here):
    rows, images = scattered()
    job = write_job("extra", PLAN, rows, per_stack=7)
    done = run(job, "--jobs", "2")
    assert done.returncode == 0, done.stderr
    expected, applied = downsample_images(images, PLAN, [(row.shift_x, row.shift_y) for row in rows])
    results = list(results_of(job))
    assert [r.particle_id for r in results] == [r.particle_id for r in rows]
    for i, result in enumerate(results):
        assert result.image_file == f"extra/particles_{i // 7 + 1:06d}.mrcs"
        assert result.image_index == i % 7 + 1
        assert np.array_equal(mrcfile.read(result.image_file)[i % 7], expected[i])
        assert (result.shift_x, result.shift_y) == tuple(applied[i])
    assert sorted(outputs(job)) == [f"particles_{i:06d}.mrcs" for i in range(1, 6)]


def test_bytes_do_not_depend_on_the_number_of_workers(here):
    rows, _ = scattered()
    found = []
    for workers in ("1", "2", "5"):
        job = write_job("job" + workers, PLAN, rows, per_stack=13)
        assert run(job, "--jobs", workers).returncode == 0
        found.append(list(outputs(job).values()))
    assert found[0] == found[1] == found[2]


def test_more_pieces_than_are_under_way_at_once(here, monkeypatch):
    monkeypatch.setattr("downsample_plugin.engine.runner.BYTES_PER_PIECE", 3 * 4 * BOX**2)
    rows, images = scattered(100)
    job = write_job("job", PLAN, rows, per_stack=40)
    assert cli.main([job.path, "--jobs", "2"]) == 0
    expected, _ = downsample_images(images, PLAN, [(row.shift_x, row.shift_y) for row in rows])
    found = np.concatenate([mrcfile.read(job.stacks[i - 1].path) for i in (1, 2, 3)])
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("workers, pieces", [(1, 4), (2, 8), (5, 20), (20, 20)])
def test_small_stacks_are_cut_finer_so_that_all_workers_have_some(here, monkeypatch, workers, pieces):
    """A usual piece would have 32 images; the smallest has two."""
    monkeypatch.setattr("downsample_plugin.engine.runner.BYTES_PER_PIECE", 32 * 4 * BOX**2)
    put, handed = hands.Hands.put, []
    monkeypatch.setattr(hands.Hands, "put", lambda self, *piece: (handed.append(piece), put(self, *piece)))
    rows, _ = scattered(40)
    job = write_job("job", PLAN, rows, per_stack=20)
    runner.run_job(job, job.stacks, workers, lambda count: None)
    assert len(handed) == pieces
    assert job.is_finished()


@pytest.mark.parametrize(
    "wanted, of_other", [(range(1, 33), ()), ([*range(1, 33), 35, 52, 60], ()), ([5, 6, 8], ()), ([1, 2], [3, 4])]
)
def test_images_that_follow_each_other_and_some_that_do_not(here, wanted, of_other):
    """Read to their places in one go where they stand in a row, and whatever stands between them is not."""
    plan = DownsamplePlan(BOX, 1.5, fourier_crop_size=16)
    images = np.random.default_rng(4).normal(size=(60, BOX, BOX)).astype(np.float32)
    write_stack("a.mrcs", images)
    write_stack("b.mrcs", -images)
    rows = [Row(i, i, "a.mrcs", 0, 0) for i in wanted] + [Row(100 + i, i, "b.mrcs", 0, 0) for i in of_other]
    job = write_job("job", plan, rows, 1000)
    assert run(job).returncode == 0
    chosen = [images[i - 1] for i in wanted] + [-images[i - 1] for i in of_other]
    assert np.array_equal(mrcfile.read(job.stacks[0].path), downsample_images(np.stack(chosen), plan)[0])


def test_progress_and_summary_are_in_the_log(here):
    rows, _ = scattered()
    done = run(write_job("job", PLAN, rows, 10))
    assert "30 images, box 32 → 16 px, pixel size 1.5 → 3 Å/px, Nyquist 6 Å" in done.stdout
    assert "30 of 30 images done (100%)" in done.stdout
    assert "\r" not in done.stdout


@pytest.mark.parametrize("dtype", ["i1", "<i2", ">i2", "<u2", "<f2", ">f4", "<f4"])
@pytest.mark.parametrize("plan", [DownsamplePlan(BOX, 1.5, fourier_crop_size=16), PLAN])
def test_all_types_of_files(here, dtype, plan):
    images = np.random.default_rng(2).integers(0, 100, size=(3, BOX, BOX)).astype(dtype)
    mrcfile.write("stack.mrcs", images)
    job = write_job("job", plan, [Row(i, i, "stack.mrcs", 0.3, -4.2) for i in (1, 2, 3)], 10)
    assert run(job).returncode == 0
    expected, _ = downsample_images(images.astype(np.float32), plan, [(0.3, -4.2)] * 3)
    assert np.array_equal(mrcfile.read(job.stacks[0].path), expected)


def test_numbers_too_large_to_compute_with(here):
    images = np.full((1, BOX, BOX), 3e38)
    images[:, ::2] *= -1
    write_stack("huge.mrcs", images)
    job = write_job("job", PLAN, [Row(9, 1, "huge.mrcs", 0.3, 0)], 10)
    assert run(job).returncode == command_line.EXIT_DATA
    with pytest.raises(DataError, match=r"Particle 9, image 1 of huge\.mrcs: pixel values too large"):
        job.check_done(skip_corrupt=False)


@pytest.mark.parametrize(
    "row, sentence",
    [
        (
            Row(9, 31, "one/particles.mrcs", 0, 0),
            "Particle 9, image 31 of one/particles.mrcs: .*expected 1 to 30",
        ),
        (Row(9, 0, "one/particles.mrcs", 0, 0), "Particle 9, image 0 .*has 30 images, expected one"),
        (Row(9, 1, "nowhere.mrcs", 0, 0), "Particle 9, image 1 of nowhere.mrcs: the file cannot be opened"),
        (Row(9, 1, "small.mrcs", 0, 0), "Particle 9, image 1 of small.mrcs: image size: got 8 x 8 px"),
        (Row(9, 2, "nan.mrcs", 0, 0), "Particle 9, image 2 of nan.mrcs: pixels that are not numbers"),
    ],
)
def test_bad_data_is_named_and_ends_the_run(here, row, sentence):
    rows, images = scattered()
    write_stack("small.mrcs", np.zeros((2, 8, 8)))
    images = images[:2].copy()
    images[1, 3, 3] = np.nan
    write_stack("nan.mrcs", images)
    job = write_job("job", PLAN, [*rows, row], 100)
    done = run(job, "--jobs", "2")
    assert done.returncode == command_line.EXIT_DATA
    assert "Traceback" not in done.stderr
    assert not job.stacks[0].is_done()
    assert not outputs(job)
    with pytest.raises(DataError, match=sentence):
        job.check_done(skip_corrupt=False)


def test_a_single_image_file_without_an_index(here):
    image = np.random.default_rng(0).normal(size=(BOX, BOX))
    write_stack("single.mrc", image)
    job = write_job("job", PLAN, [Row(1, 0, "single.mrc", 0, 0)], 10)
    assert run(job).returncode == 0
    expected, _ = downsample_images(image[None].astype(np.float32), PLAN)
    assert np.array_equal(mrcfile.read(job.stacks[0].path), expected[0])  # mrcfile shows one image as two-dimensional


def test_names_and_terminals_without_unicode(here, monkeypatch):
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    name = os.fsdecode(b"\xff\xe9.mrcs")
    write_stack("good.mrcs", np.random.default_rng(0).normal(size=(1, BOX, BOX)))
    shutil.copy("good.mrcs", name)
    job = write_job("job", PLAN, [Row(1, 1, name, 0, 0)], 10)
    assert run(job).returncode == 0
    os.truncate(name, 2000)
    job = write_job("job", PLAN, [Row(1, 1, name, 0, 0)], 10)
    done = run(job)
    assert done.returncode == command_line.EXIT_DATA
    assert "Traceback" not in done.stderr
    with pytest.raises(DataError, match=r"udcff.*the file is cut short"):
        job.check_done(skip_corrupt=False)


def test_a_job_that_cannot_be_done_is_not_written(here):
    with pytest.raises(PlanError, match="got 64 px, expected 8 to 32 px"):
        write_job("job", DownsamplePlan(BOX, 1.5, fourier_crop_size=64), [], 10)
    with pytest.raises(PlanError, match="none are left to downsample"):
        write_job("job", PLAN, [], 10)
    with pytest.raises(PlanError, match="Particles per stack: got 0, expected 1 or more"):
        write_job("job", PLAN, [Row(1, 1, "a", 0, 0)], 0)
    assert not os.path.exists("job/job.json")


def test_parts_make_the_whole(here):
    rows, _ = scattered()
    whole, parts = write_job("whole", PLAN, rows, 7), write_job("parts", PLAN, rows, 7)
    assert run(whole, "--jobs", "2").returncode == 0
    for part in ("3/3", "1/3", "2/3"):
        with pytest.raises(DataError, match="output stacks are missing"):
            parts.check_worked_on(parts.stacks)
        assert run(parts, "--part", part).returncode == 0
    parts.check_worked_on(parts.stacks)
    assert outputs(whole) == outputs(parts)


def test_an_unfinished_job_goes_on_and_a_finished_one_rests(here):
    rows, _ = scattered()
    job = write_job("job", PLAN, rows, 7)
    assert run(job).returncode == 0
    undisturbed = outputs(job)
    os.remove(job.stacks[1].path)
    os.remove(job.stacks[3].made_path)
    times = {i: os.stat(job.stacks[i - 1].path).st_mtime_ns for i in (1, 3, 4, 5)}
    again = write_job("job", PLAN, rows, 7)
    assert [stack.is_done() for stack in again.stacks] == [True, False, True, False, True]
    assert run(again).returncode == 0
    assert outputs(again) == undisturbed
    assert [os.stat(job.stacks[i - 1].path).st_mtime_ns == times[i] for i in times] == [True, True, False, True]


@pytest.mark.parametrize("change", ["plan", "particles", "stacks", "image file"])
def test_a_changed_job_starts_anew(here, change):
    rows, _ = scattered()
    job = write_job("job", PLAN, rows, 7)
    assert run(job).returncode == 0
    plan, per_stack = PLAN, 7
    if change == "plan":
        plan = dataclasses.replace(PLAN, lowpass_resolution=10.0)
    elif change == "particles":
        rows[3] = rows[3]._replace(shift_x=0.0)
    elif change == "stacks":
        per_stack = 8
    else:
        os.utime(rows[0].image_file, (1, 1))
    again = write_job("job", plan, rows, per_stack)
    assert not any(stack.is_done() for stack in again.stacks)
    with pytest.raises(DataError, match=r"output stacks are missing \(particles_000001_2\.mrcs"):
        again.check_worked_on(again.stacks[:2])


def test_finished_stacks_stay_until_they_are_replaced(here):
    rows, _ = scattered()
    first = write_job("[job]", PLAN, rows, 20)
    assert run(first).returncode == 0
    finished = outputs(first)
    second = write_job("[job]", PLAN, rows[:25], 20)
    assert cli.main([second.path, "--part", "1/2"]) == 0
    assert outputs(second).keys() == {*finished, "particles_000001_2.mrcs"}
    third = write_job("[job]", PLAN, rows[:3], 20)
    assert outputs(third) == finished, "of the unfinished one nothing stays"
    assert run(third).returncode == 0
    third.remove_earlier_stacks()
    assert outputs(third).keys() == {"particles_000001_3.mrcs"}
    assert sorted(os.listdir("[job]")) == ["job.json", "particles_000001_3.mrcs", "tables_3"]


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"plan": {}, "particles": 1, "particlesPerStack": 1}'])
def test_job_files_that_are_none(here, capsys, text):
    with open("job.json", "w") as file:
        file.write(text)
    assert cli.main(["job.json"]) in (command_line.EXIT_DATA, command_line.EXIT_USAGE)
    assert "cannot be read" in capsys.readouterr().err


def test_a_job_that_claims_more_than_its_tables_hold(here, capsys):
    rows, _ = scattered()
    job = write_job("job", PLAN, rows, 5)
    change(job.path, '"particles": 30', f'"particles": {10**15}')
    assert cli.main([job.path]) == command_line.EXIT_DATA
    assert "it has 30 rows, expected 1000000000000000" in capsys.readouterr().err


def test_usage(here, capsys):
    for arguments in ([], ["job.json", "--nonsense"], ["job.json", "--part", "3/2"], ["job.json", "--jobs", "0"]):
        with pytest.raises(SystemExit) as stopped:
            cli.main(arguments)
        assert stopped.value.code == command_line.EXIT_USAGE
    assert "expected 1 or more" in capsys.readouterr().err


def test_a_plan_changed_on_disk_is_refused_with_the_same_words(here, capsys):
    rows, _ = scattered()
    job = write_job("job", PLAN, rows, 5)
    change(job.path, '"fourier_crop_size": 16', '"fourier_crop_size": 64')
    assert cli.main([job.path]) == command_line.EXIT_USAGE
    assert "Fourier crop to box size: got 64 px, expected 8 to 32 px" in capsys.readouterr().err
