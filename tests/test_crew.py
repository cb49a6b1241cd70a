# SPDX-License-Identifier: GPL-3.0-or-later
"""Several processes on every stack, by hand, by mpirun and by srun: the same bytes, words and tables as of one."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from downsample_plugin.core import DownsamplePlan
from downsample_plugin.engine import crew, crew_folder, pieces, runner
from downsample_plugin.engine.crew import leading
from downsample_plugin.engine.ranks import Launch
from downsample_plugin.engine.worker import DONE
from downsample_plugin.errors import DataError

from .launches import LAUNCHERS, by_hand, by_mpirun, command, environment, images_made, rank
from .scipion_sets import Row, write_job, write_stack
from .slurm import running_slurm
from .waiting import LONGEST, assert_all_end, wait_for

pytestmark = pytest.mark.slow
each_by_itself = True  # for workers of pytest: most of the time goes into waiting

BOX, COUNT, PER_STACK = 64, 160, 80
PLAN = DownsamplePlan(BOX, 1.5, fourier_crop_size=32)
BAD = (17, 90, 91)  # images that are no numbers

every_launcher = pytest.mark.parametrize(
    "launcher",
    ["by hand", *(pytest.param(name, marks=pytest.mark.cluster) for name in ("mpirun", "srun"))],
)
cluster = pytest.mark.cluster


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    with running_slurm(tmp_path_factory.mktemp("slurm")):
        yield


@pytest.fixture
def launch(request, launcher):
    if launcher == "srun":
        request.getfixturevalue("slurm")
    return LAUNCHERS[launcher]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A stack, one with images that cannot be used, and a STAR file of two optics groups."""
    folder = tmp_path_factory.mktemp("crew")
    images = np.random.default_rng(0).normal(size=(COUNT, BOX, BOX)).astype(np.float32)
    write_stack(str(folder / "in.mrcs"), images, voxel_size=1.5)
    images[list(BAD), 3, 4] = np.nan
    write_stack(str(folder / "bad.mrcs"), images, voxel_size=1.5)
    optics = "data_optics\n\nloop_\n_rlnOpticsGroup #1\n_rlnImagePixelSize #2\n_rlnImageSize #3\n1 1.5 64\n2 2.0 64\n\n"
    rows = "\n".join(f"{i + 1:06d}@in.mrcs {1 + i % 2}" for i in range(COUNT))
    particles = f"data_particles\n\nloop_\n_rlnImageName #1\n_rlnOpticsGroup #2\n{rows}\n"
    (folder / "in.star").write_text(optics + particles)
    return folder


@pytest.fixture
def here(inputs, tmp_path, monkeypatch):
    for path in inputs.iterdir():
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def new_job(folder, source="in.mrcs"):
    return write_job(folder, PLAN, [Row(i + 1, i + 1, source, 0.0, 0.0) for i in range(COUNT)], PER_STACK)


def alone(*arguments):
    """Exit code, output and errors of one process, which takes pieces as it likes."""
    program_alone = [sys.executable, "-m", "downsample_plugin", *arguments, "--jobs", "2"]
    done = subprocess.run(program_alone, capture_output=True, text=True, env=environment(), timeout=LONGEST)
    return done.returncode, done.stdout, done.stderr


def content(folder):
    """All files below a folder, with their bytes, but for the folder's name, and times of stacks in their records."""
    name = folder.encode()
    found = {}
    for path in sorted(Path(folder).rglob("*")):
        if path.is_file():
            found[str(path.relative_to(folder))] = path.read_bytes().replace(name + b"/", b"")
        if path.name.startswith("record_"):
            found[str(path.relative_to(folder))] = {**json.loads(path.read_text()), "state": None}
    return found


def errors_in(said):
    return [line for line in said.splitlines() if line.startswith("ERROR")]


def succeeded(ended):
    assert [code for code, _, _ in ended] == [0] * len(ended), ended
    assert not any(said for _, said, _ in ended[1:]), "the first one speaks"
    return ended[0][1]


# ---- the same as one process alone -----------------------------------------------------------------------


@every_launcher
def test_all_processes_work_on_every_stack_of_a_job(here, launch):
    new_job("one"), new_job("many")
    assert alone("one/job.json")[0] == 0
    said = succeeded(launch(4, "many/job.json", pause=0.1).end())
    counts = images_made(said)
    assert len(counts) == 4
    assert all(counts), "two stacks, four processes: each has made some images"
    assert sum(counts) == COUNT
    assert content("one") == content("many")
    assert said.count("Done: ") == 1
    assert f"{COUNT} of {COUNT} images done (100%)" in said


@every_launcher
@pytest.mark.parametrize("source", ["in.mrcs", "in.star"])
def test_a_stack_or_a_star_file(here, launch, source):
    assert alone(source, "-o", "one", "--box", "32")[0] == 0
    said = succeeded(launch(3, source, "-o", "many", "--box", "32", pause=0.1).end())
    counts = images_made(said)
    assert all(counts)
    assert sum(counts) == COUNT
    assert content("one") == content("many")


@every_launcher
@pytest.mark.parametrize("skip", [(), ("--skip-corrupt",)])
def test_images_that_cannot_be_used(here, launch, skip):
    code, _, error = alone("bad.mrcs", "-o", "one", "--box", "32", *skip)
    ended = launch(3, "bad.mrcs", "-o", "many", "--box", "32", *skip, pause=0.05).end()
    assert ended[0][0] == code
    assert code == (0 if skip else 1)
    assert error.replace("one/", "many/") in ended[0][2]
    assert "".join(each[2] for each in ended).count("ERROR") == error.count("ERROR")
    assert content("one") == content("many")
    if skip:
        assert "Left out: 3 corrupt particles" in ended[0][1]


def test_names_of_any_bytes_and_problems_of_all(here):
    """Every image of a file whose name is no text has a problem, which goes from process to process."""
    name = os.fsdecode(b"\xff\xe9.mrcs")
    shutil.copy("in.mrcs", name)
    os.truncate(name, 1000)
    for folder in ("one", "many"):
        new_job(folder, name)
    code, _, error = alone("one/job.json")
    ended = by_hand(3, "many/job.json").end()
    assert ended[0][0] == code == 1
    assert ended[0][2] == error.replace("one/", "many/")
    assert content("one") == content("many")


def test_a_part_of_a_job(here):
    new_job("one"), new_job("many")
    assert alone("one/job.json", "--part", "2/2")[0] == 0
    said = succeeded(by_hand(2, "many/job.json", "--part", "2/2").end())
    assert "80 images (part 2 of 2)" in said
    assert content("one") == content("many")


def test_two_launches_on_one_job_do_no_harm(here):
    new_job("one"), new_job("many")
    assert alone("one/job.json")[0] == 0
    launches = [by_hand(2, "many/job.json") for _ in range(2)]
    for each in launches:
        succeeded(each.end())
    assert content("one") == content("many")


def test_a_launch_that_cannot_be_told_from_one_that_is_there(here, monkeypatch):
    """Then the leader works alone: not every launcher gives its launches names."""
    job = new_job("job")
    launch = Launch(0, 2, 2, "0" * 16)
    with leading("job", launch) as first, leading("job", launch) as second:
        assert first.size == 2
        assert second.size == 1
        runner.run_job(job, job.stacks, 1, lambda count: None, False, second)
        monkeypatch.setattr(crew_folder, "PATIENCE", 0)
    assert job.is_finished()


def test_each_piece_is_taken_once(here, monkeypatch):
    """Even by processes that look at the same time, and see nothing of each other."""
    job = new_job("job")
    monkeypatch.setattr(crew_folder, "names_in", lambda folder: [])
    works = [pieces.StackInPieces(job.stacks[0], job.files(), "", 7) for _ in range(3)]
    for work in works:
        work.shared_in = "."
    taken = [crew_folder.take(works[i % 3]) for i in range(15)]
    assert sorted(number for number in taken if number is not None) == list(range(12))


def test_a_piece_that_comes_twice_counts_once(here):
    (stack, _) = new_job("job").stacks
    work = pieces.StackUnderWay(stack, {"in.mrcs": None}, PER_STACK // 2, False)
    done = np.zeros(PER_STACK // 2, dtype=DONE), {}
    assert [work.take(0, done), work.take(0, done), work.is_complete] == [PER_STACK // 2, 0, False]
    assert [work.take(1, done), work.is_complete] == [PER_STACK // 2, True]


# ---- nothing to do, and refusals -------------------------------------------------------------------------


@every_launcher
def test_a_job_that_is_finished(here, launch):
    new_job("job")
    assert alone("job/job.json")[0] == 0
    before = {path: path.stat().st_mtime_ns for path in Path("job").rglob("*")}
    said = succeeded(launch(4, "job/job.json").end())
    assert images_made(said) == [0, 0, 0, 0]
    assert {path: path.stat().st_mtime_ns for path in Path("job").rglob("*")} == {
        **before,
        Path("job/tables"): Path("job/tables").stat().st_mtime_ns,
    }


@every_launcher
@pytest.mark.parametrize(
    "arguments, code",
    [
        (["in.mrcs", "-o", "new/deep", "--box", "320"], 2),
        (["nowhere.mrcs", "-o", "new/deep", "--box", "32"], 1),
        (["nowhere/job.json"], 1),
        (["in.mrcs", "--box", "32"], 2),
        (["in.mrcs", "-o", "new/deep", "--nonsense"], 2),
    ],
)
def test_a_refusal_is_said_once_and_leaves_nothing(here, launch, arguments, code):
    found, _, error = alone(*arguments)
    assert found == code
    before = sorted(here.rglob("*"))
    start = time.monotonic()
    ended = launch(3, *arguments).end()
    assert time.monotonic() - start < crew.PATIENCE_OF_FAILED - 1
    assert ended[0][0] == code
    said = "".join(each[2] for each in ended)
    assert said.count(error.splitlines()[-1].split(": ", 1)[1]) == 1
    assert sorted(here.rglob("*")) == before


# ---- faults ----------------------------------------------------------------------------------------------


def expected_after(folder):
    """What a run that nothing disturbs leaves."""
    new_job("expected")
    assert alone("expected/job.json")[0] == 0
    return {name: data for name, data in content("expected").items()}


def begun(size=2):
    """Whether so many processes or more are at work: they are there, and pieces were taken since."""
    there = len(list(Path("job").glob("crew_*/*.beat")))
    return there >= size and len(list(Path("job").glob("crew_*/stack_*/*.taken"))) > 2 * there + 2


def go_on(size=3):
    """The same command again, to the same bytes, with nothing left of any crew."""
    succeeded(by_hand(size, "job/job.json").end())
    assert content("job") == expected_after("job")


def killed(number):
    wait_for(begun, "work")
    process = rank(number)
    wait_for(lambda: len(process.children()) > 1, "a piece for its worker")  # the first child writes signs of life
    children = process.children(recursive=True)
    process.kill()
    return children


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["by hand", pytest.param("srun", marks=cluster)])
def test_a_helper_that_is_killed(here, launch):
    """srun lets the others go on."""
    new_job("job")
    under_way = launch(3, "job/job.json", pause=0.1, patience=2)
    children = killed(2)
    ended = under_way.end()
    (error,) = errors_in("".join(each[2] for each in ended))
    assert error.startswith("ERROR: Process 2 of 3, counted from 0, on ")
    assert "it has ended, or has shown no sign of life for 2 s" in error
    assert ended[0][0] != 0
    assert_all_end(children)
    assert not list(Path("job").glob("crew_*")) and not list(Path("job").glob("*.part"))
    go_on()


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["by hand", pytest.param("srun", marks=cluster)])
def test_a_leader_that_is_killed(here, launch):
    new_job("job")
    under_way = launch(3, "job/job.json", pause=0.1, patience=2)
    children = killed(0)
    ended = under_way.end()
    assert not errors_in("".join(each[2] for each in ended))
    assert_all_end(children)
    assert list(Path("job").glob("crew_*"))
    go_on()


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 2])
def test_mpirun_ends_all_when_one_is_killed(here, number):
    new_job("job")
    under_way = by_mpirun(3, "job/job.json", pause=0.1)
    children = killed(number)
    ended = under_way.end()
    assert ended[0][0] != 0
    assert_all_end(children)
    go_on()


@pytest.mark.slow
def test_all_killed_and_one_process_goes_on(here):
    """What is left of a crew goes away with a run alone too."""
    new_job("job")
    under_way = by_hand(3, "job/job.json", pause=0.1)
    wait_for(begun, "work")
    for process in under_way.processes:
        process.kill()
    under_way.end()
    assert list(Path("job").glob("crew_*"))
    assert alone("job/job.json")[0] == 0
    assert content("job") == expected_after("job")


@pytest.mark.slow
def test_a_folder_that_was_left_under_the_same_name(here, monkeypatch):
    """As by a job that the queue starts anew: nobody obeys a leader who is dead."""
    new_job("job")
    monkeypatch.setattr("tests.launches.secrets.token_hex", lambda count: "77")
    under_way = by_hand(3, "job/job.json", pause=0.1)
    wait_for(begun, "work")
    for process in under_way.processes:
        process.kill()
    under_way.end()
    (left,) = Path("job").glob("crew_*")
    (left / "end").touch()
    go_on()


@pytest.mark.slow
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("number", [None, 0, 1])
def test_stopped(here, stop, number):
    """All, or one of them: only the first one says it."""
    new_job("job")
    under_way = by_hand(3, "job/job.json", pause=0.2)
    wait_for(lambda: begun(3), "work of all")  # one that is stopped before it is there is missed only much later
    start = time.monotonic()
    for process in under_way.processes if number is None else [under_way.processes[number]]:
        process.send_signal(stop)
    ended = under_way.end()
    assert time.monotonic() - start < crew.PATIENCE_OF_FAILED
    assert [each[2] for each in ended] == ["Stopped; run the same command again to continue from here.\n", "", ""]
    assert [each[0] for each in ended] == [130, *(130 if number in (None, i) else 0 for i in (1, 2))]
    assert not list(Path("job").glob("crew_*")) and not list(Path("job").glob("*.part"))
    go_on()


@pytest.mark.cluster
@pytest.mark.slow
def test_mpirun_stopped(here):
    new_job("job")
    under_way = by_mpirun(3, "job/job.json", pause=0.5)  # mpirun passes it on after a second
    wait_for(begun, "work")
    under_way.processes[0].send_signal(signal.SIGINT)
    ((code, _, error),) = under_way.end()
    assert code != 0
    assert (
        error.count("Stopped; run the same command again to continue from here.") <= 1
    )  # on a busy machine mpirun kills it first
    go_on()
    assert not list(Path("job").glob("crew_*")) and not list(Path("job").glob("*.part"))


@pytest.mark.slow
def test_a_worker_of_a_helper_that_dies(here):
    new_job("job")
    under_way = by_hand(2, "job/job.json", pause=0.1)
    wait_for(begun, "work")
    sorted(rank(1).children(), key=lambda child: child.create_time())[-1].kill()  # the first writes signs of life
    ended = under_way.end()
    assert [each[0] for each in ended] == [1, 0]
    assert ended[0][2].startswith("ERROR: A worker process died")
    assert ended[1][2] == ""
    go_on()


def test_helpers_that_never_come(here, monkeypatch):
    """All is made, and the end does not wait for those that could have come all the time."""
    monkeypatch.setattr(crew_folder, "PATIENCE", LONGEST)
    job = new_job("job")
    with leading("job", Launch(0, 3, 3, "0" * 16)) as found:
        runner.run_job(job, job.stacks, 1, lambda count: None, False, found)
        monkeypatch.setattr(found, "_start", time.monotonic() - LONGEST)
        end = time.monotonic()
    assert time.monotonic() - end < LONGEST / 2
    assert job.is_finished()
    assert images_made(found.summary()) == [COUNT, 0, 0]
    assert not list(Path("job").glob("crew_*"))


def test_helpers_that_may_still_come(here, monkeypatch):
    """The end waits for them: one that finds no leader would wait for its own patience to end."""
    monkeypatch.setattr(crew_folder, "PATIENCE", 1)
    start = time.monotonic()
    with leading("job", Launch(0, 3, 3, "0" * 16)):
        pass
    assert time.monotonic() - start >= 1


@pytest.mark.slow
def test_a_leader_that_never_comes(here):
    """A helper ends by itself; so it does when it comes too late."""
    new_job("job")
    under_way = by_hand(2, "job/job.json", patience=1)
    under_way.processes[0].kill()
    assert under_way.end()[1] == (0, "", "")


def test_an_error_of_the_disk_at_a_helper_is_the_leaders_to_tell(here, monkeypatch):
    with leading("job_2", Launch(0, 2, 2, "0" * 16)) as found:
        (folder,) = Path("job_2").glob("crew_*")
        (folder / "1_abcd.beat").write_text("1 node17")
        (folder / "1_abcd.failed").write_text("no room")
        (folder / "1_abcd.gone").touch()
        time.sleep(crew_folder.LOOK)
        with pytest.raises(DataError, match="no room"):
            found.news([])
        (folder / "1_abcd.failed").unlink()
        with pytest.raises(DataError, match="Process 1 of 2, counted from 0, on node17: it has ended"):
            found.news([])
    assert not Path("job_2").exists()


def test_a_folder_that_cannot_be_written_to(here, monkeypatch):
    """Then the first process does all by itself, or complains as it would alone."""
    monkeypatch.setattr(crew, "_make_anew", lambda folder: (_ for _ in ()).throw(PermissionError(13, "no", folder)))
    with leading(".", Launch(0, 2, 2, "0" * 16)) as found:
        assert found.size == 1
        assert found.summary() == ""


# ---- what launchers say ----------------------------------------------------------------------------------

WHO = """
import os, sys
from downsample_plugin.engine.ranks import launched
found = launched()
with open(f"{sys.argv[1]}_{os.getpid()}.who", "w") as file:
    print(found.rank, found.size, found.here, found.by_srun, found.token or "none", file=file)
"""


def said_by(*start, name="who"):
    """What each process of a launch takes itself for, and the token of all."""
    start = [*start, sys.executable, "-c", WHO, name]
    subprocess.run(start, check=True, capture_output=True, env=environment(), timeout=LONGEST)
    return words_of(name)


def words_of(name):
    words = []
    for path in Path().glob(f"{name}_*.who"):
        words.append(path.read_text().rsplit(maxsplit=1))
        path.unlink()
    (token,) = {token for _, token in words}
    return sorted(each for each, _ in words), token


@pytest.mark.cluster
@pytest.mark.slow
def test_what_mpirun_says(here):
    first, second = (said_by("mpirun", "-np", "3") for _ in range(2))
    assert first[0] == second[0] == ["0 3 3 False", "1 3 3 False", "2 3 3 False"]
    assert first[1] != second[1]


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.parametrize("mpi", ["none", "pmi2"])
def test_what_srun_says(slurm, here, mpi):
    first, second = (said_by("srun", "-n3", "--overcommit", f"--mpi={mpi}") for _ in range(2))
    assert first[0] == second[0] == ["0 3 3 True", "1 3 3 True", "2 3 3 True"]
    assert first[1] != second[1]
    assert said_by("srun", "-n1")[0] == ["0 1 1 True"]


@pytest.mark.cluster
@pytest.mark.slow
def test_what_a_batch_script_says(slurm, here):
    """It is one process, whatever its number of tasks; srun and mpirun in it start several."""
    Path("who.py").write_text(WHO)
    who = f"{sys.executable} who.py"
    run_batch(f"{who} alone\nsrun -n2 {who} srun\nmpirun -np 2 {who} mpirun\n")
    assert words_of("alone") == (["0 1 1 False"], "none")
    assert words_of("srun")[0] == ["0 2 2 True", "1 2 2 True"]
    assert words_of("mpirun")[0] == ["0 2 2 False", "1 2 2 False"]


def run_batch(script):
    Path("script.sh").write_text("#!/bin/sh\n" + script)
    batch = ["sbatch", "--wait", "--ntasks=2", "--output=said.txt", "script.sh"]
    subprocess.run(batch, check=True, env=environment(), timeout=LONGEST, capture_output=True)


@pytest.mark.cluster
@pytest.mark.slow
def test_a_batch_script_does_all_by_itself(slurm, here):
    new_job("one"), new_job("many")
    assert alone("one/job.json")[0] == 0
    run_batch(" ".join(command("many/job.json")) + "\n")
    assert "Images made by each" not in Path("said.txt").read_text()
    assert content("one") == content("many")
