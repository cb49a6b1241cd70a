# SPDX-License-Identifier: GPL-3.0-or-later
"""What others do while a run is on, or between its parts: it is never taken for right, and what is theirs stays."""

import contextlib
import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import mrcfile
import numpy as np
import pytest

from downsample_plugin.command import downsample_particles as cli
from downsample_plugin.command import downsample_volumes as cli_volumes
from downsample_plugin.command import downsampling, restoring, sources
from downsample_plugin.command import restore_particles as cli_restore
from downsample_plugin.command.command_line import EXIT_DATA, EXIT_USAGE
from downsample_plugin.core import DownsamplePlan, downsample_images
from downsample_plugin.engine import pieces, worker
from downsample_plugin.engine.job import Job
from downsample_plugin.engine.output_stack import OutputStack
from downsample_plugin.errors import InputError
from downsample_plugin.files import fingerprints, mrc_reader, relion_output, stack_reader, stack_writer
from downsample_plugin.files.maps import MapFile

from .scipion_sets import images_of_file, write_stack
from .star_texts import loop

pytestmark = pytest.mark.slow

BOX, COUNT, PER_STACK = 32, 24, 8
NAMES = ("a.mrcs", "b.mrcs")
OPTIONS = ("--box", "16", "--recenter", "--jobs", "1", "--particles-per-stack", str(PER_STACK), "--no-picture")
OTHER = ("--box", "20", *OPTIONS[2:])


def noise(seed, count=COUNT // 2):
    return np.random.default_rng(seed).normal(size=(count, BOX, BOX)).astype(np.float32)


@pytest.fixture
def particles(here):
    """Two stacks, and a STAR file of their images, of one optics group."""
    for seed, name in enumerate(NAMES):
        write_stack(name, noise(seed))
    write_star("in.star", "1" * COUNT)


def write_star(path, groups):
    rows = [
        [f"{number % 12 + 1:06d}@{NAMES[number // 12]}", group, f"{number % 5}.2", f"-{number % 3}.1"]
        for number, group in enumerate(groups)
    ]
    optics = [[group, f"o{group}", f"{1 + int(group) / 2}", str(BOX)] for group in sorted(set(groups))]
    labels = ["rlnImageName", "rlnOpticsGroup", "rlnOriginXAngst", "rlnOriginYAngst"]
    Path(path).write_text(
        loop("optics", ["rlnOpticsGroup", "rlnOpticsGroupName", "rlnImagePixelSize", "rlnImageSize"], optics)
        + loop("particles", labels, rows)
    )


def run(folder="out", *options, source="in.star", code=0):
    assert cli.main([source, "-o", folder, *(options or OPTIONS)]) == code


def made(folder="out"):
    """The stacks and the STAR file in a folder, by their names."""
    found = [path for path in sorted(Path(folder).rglob("*")) if path.suffix in {".mrcs", ".star", ".part"}]
    return {str(path.relative_to(folder)): path.read_bytes().replace(folder.encode(), b"OUT") for path in found}


@pytest.fixture
def undisturbed(particles):
    """What a run makes that nobody disturbs."""
    run("undisturbed")
    return made("undisturbed")


class Stopped(BaseException):
    """Stands for a kill."""


def before(patch, where, name, do, call=0):
    """Do something before a certain call, from 0, of a function or method."""
    real, calls = getattr(where, name), []

    def doing(*arguments, **settings):
        calls.append(True)
        if len(calls) == call + 1:
            do(*arguments)
        return real(*arguments, **settings)

    patch.setattr(where, name, doing)


def stop(*_):
    raise Stopped


def killed_before_its_star(monkeypatch, folder="out", *options):
    """A run whose stacks are all there, and nothing besides."""
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        before(patch, sources.StarSource, "new_star", stop)
        run(folder, *options)
    assert not Path(folder, "particles.star").exists()


# ---- input that is another while it is read --------------------------------------------------------------------


@pytest.mark.parametrize("way", ["folder", "link"])
def test_a_name_that_leads_to_another_file_for_a_while(particles, monkeypatch, capsys, way):
    """It leads back before the run looks again: the file itself never changes."""
    for seed, folder in enumerate(("right", "wrong")):
        os.mkdir(folder)
        write_stack(f"{folder}/s.mrcs", noise(seed))
    (os.symlink if way == "link" else os.rename)("right", "d")
    source = ["d/s.mrcs", "-o", "out", "--box", "16", "--apix", "1.5", "--jobs", "1", "--no-picture"]

    def there(*_):
        if way == "link":
            switch("wrong")
        else:
            os.rename("d", "aside")
            os.rename("wrong", "d")

    def back(*_):
        if way == "link":
            switch("right")
        else:
            os.rename("d", "wrong")
            os.rename("aside", "d")

    def switch(target):
        os.symlink(target, "new")
        os.replace("new", "d")

    put_block = worker._put_block

    def reading(*arguments):
        there()
        try:
            return put_block(*arguments)
        finally:
            back()

    with monkeypatch.context() as patch:
        patch.setattr(worker, "_put_block", reading)
        assert cli.main(source) == EXIT_DATA
    assert "d/s.mrcs: " in (said := capsys.readouterr().err) and "since the run began, expected the same file" in said
    assert made() == {}
    assert cli.main(source) == 0
    expected, _ = downsample_images(noise(0), DownsamplePlan(BOX, 1.5, fourier_crop_size=16))
    assert np.array_equal(images_of_file("out/particles_000001.mrcs"), expected)


def test_a_stack_that_grows_before_its_job_is_written(here, monkeypatch, capsys):
    write_stack("in.mrcs", noise(0, 5), voxel_size=1.5)
    write_stack("grown.mrcs", noise(0, 9), voxel_size=1.5)
    with monkeypatch.context() as patch:
        before(patch, downsampling, "_write_jobs", lambda *_: os.replace("grown.mrcs", "in.mrcs"))
        assert cli.main(["in.mrcs", "-o", "out", "--box", "16", "--jobs", "1", "--no-picture"]) == EXIT_DATA
    assert "in.mrcs: its size has changed" in capsys.readouterr().err
    assert cli.main(["in.mrcs", "-o", "out", "--box", "16", "--jobs", "1", "--no-picture"]) == 0
    (stack,) = Path("out").glob("*.mrcs")
    assert len(images_of_file(stack)) == 9


@pytest.mark.parametrize("change", ["a row more", "other text"])
def test_a_star_file_that_changes_while_the_new_one_is_written(undisturbed, monkeypatch, capsys, change):
    text = Path("in.star").read_text()
    changed = f"{text}000001@a.mrcs 1 0 0\n" if change == "a row more" else text.replace("_rlnImage", "_rlnXmage")
    with monkeypatch.context() as patch:
        before(patch, sources, "NewStar", lambda *_: Path("in.star").write_text(changed))
        run(code=EXIT_DATA)
    assert "in.star: it was changed during the run" in capsys.readouterr().err
    assert not Path("out/particles.star").exists()
    Path("in.star").write_text(text)
    run()
    assert made() == undisturbed


def write_map(name, seed, apix=1.5):
    with mrcfile.new(name, overwrite=True) as file:
        file.set_data(noise(seed, BOX))
        file.set_volume()
        file.voxel_size = apix


@pytest.mark.parametrize("moment", ["between", "meanwhile"])
def test_a_map_that_changes(here, monkeypatch, capsys, moment):
    """Between the look at its box and pixel size and its reading, or while it is read."""
    write_map("map.mrc", 0)
    write_map("new.mrc", 1, apix=3.0)
    where = (cli_volumes, "remove_abandoned", 0) if moment == "between" else (MapFile, "__getitem__", 9)
    with monkeypatch.context() as patch:
        before(patch, *where[:2], lambda *_: shutil.copyfile("new.mrc", "map.mrc"), where[2])
        assert cli_volumes.main(["map.mrc", "-o", "out", "--box", "16"]) == EXIT_DATA
    assert "map.mrc: it has been written to during the run" in capsys.readouterr().err
    assert os.listdir("out") == []


# ---- what system calls give --------------------------------------------------------------------------------------


def test_few_bytes_at_a_time(particles, monkeypatch):
    """A system call may give fewer than asked for: of headers, and of images that move together."""
    images = noise(0)
    images[3, 1, 1] = np.nan
    write_stack("a.mrcs", images)
    run("undisturbed", *OPTIONS, "--skip-corrupt")
    real = os.pread
    with monkeypatch.context() as patch:
        patch.setattr(os, "pread", lambda file, length, offset: real(file, min(length, 300), offset))
        run("out", *OPTIONS, "--skip-corrupt")
    assert made("out") == made("undisturbed")
    assert len(images_of_file("out/particles_000001.mrcs")) == PER_STACK - 1


@pytest.mark.parametrize("call", ["pread", "preadv"])
def test_a_disk_that_gives_nothing(here, monkeypatch, capsys, call):
    """Of a file that is as long as ever: no particle is left out for it."""
    write_stack("in.mrcs", noise(0), voxel_size=1.5)
    arguments = ["in.mrcs", "-o", "out", "--box", "16", "--jobs", "1", "--no-picture", "--skip-corrupt"]
    nothing = {"pread": b"", "preadv": 0}[call]
    real, parent = getattr(os, call), os.getpid()
    with monkeypatch.context() as patch:
        patch.setattr(os, call, lambda *given: real(*given) if os.getpid() == parent else nothing)
        assert cli.main(arguments) == EXIT_DATA
    assert "in.mrcs: reading ended within the file, expected all of its" in capsys.readouterr().err
    assert cli.main(arguments) == 0
    assert len(images_of_file("out/particles_000001.mrcs")) == COUNT // 2


def test_an_unfinished_stack_that_was_cut_short(here):
    writer = stack_writer.StackWriter("out.mrcs", 3, 16, np.dtype(np.float32), 1.5)
    writer.create()
    os.truncate(writer.part_path, 1024 + 2 * 16 * 16 * 4 + 100)
    with pytest.raises(OSError, match="Input/output error"):
        writer.finish(np.zeros(3), np.array([False, True, True]))
    assert not os.path.exists("out.mrcs")


@pytest.mark.parametrize("module", [stack_reader, mrc_reader])
def test_a_file_that_nobody_can_say_anything_of(here, monkeypatch, capsys, module):
    """It is the input that fails, not the output."""
    write_stack("in.mrcs", noise(0), voxel_size=1.5)
    real, parent = os.fstat, os.getpid()
    calls = []

    def failing(file):
        calls.append(True)
        if os.getpid() != parent and (module is stack_reader or len(calls) % 2 == 0):
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return real(file)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fstat", failing)
        assert cli.main(["in.mrcs", "-o", "out", "--box", "16", "--jobs", "1", "--no-picture"]) == EXIT_DATA
    assert "in.mrcs: the file cannot be read (Stale file handle)" in capsys.readouterr().err


def test_a_file_whose_state_cannot_be_had(here, monkeypatch):
    """It is not gone: only the system says that."""

    def failing(path):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "stat", failing)
    with pytest.raises(InputError, match=r"in\.mrcs: the file cannot be looked at \(Input/output error\)"):
        fingerprints.file_state("in.mrcs")


# ---- output that somebody alters ---------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["in place", "by another"])
def test_a_stack_that_is_altered_during_the_run(undisturbed, monkeypatch, capsys, way):
    def alter(*_):
        if way == "by another":
            shutil.copyfile("out/particles_000001.mrcs", "copy.mrcs")
            os.replace("copy.mrcs", "out/particles_000002.mrcs")
        else:
            with open("out/particles_000002.mrcs", "r+b") as file:
                file.seek(2000)
                file.write(b"abcd")

    with monkeypatch.context() as patch:
        before(patch, downsampling, "check_done", alter)
        run(code=EXIT_DATA)
    assert "1 of 3 output stacks are not what they were when they were made (particles_000002.mrcs)" in (
        capsys.readouterr().err
    )
    run()
    assert made() == undisturbed


HARMS = {
    "header": lambda: _write_at("out/particles_000002.mrcs", 76, b"\xff" * 8),
    "pixel size": lambda: _write_at("out/particles_000002.mrcs", 40, np.full(3, 9, "<f4").tobytes()),
    "shifts cut short": lambda: os.truncate("out/tables/made_000002.npy", 60),
    "shifts of another job": lambda: shutil.copy("other/tables/made_000002.npy", "out/tables"),
    "images cut short": lambda: os.truncate("out/tables/images.npy", 60),
    "images of another job": lambda: shutil.copy("other/tables/images.npy", "out/tables"),
    "no particles": lambda: os.remove("out/tables/particles.npy"),
    "no names of files": lambda: os.remove("out/tables/files.json"),
    "no tables": lambda: shutil.rmtree("out/tables"),
    "two stacks exchanged": lambda: _exchange(2, 3),
}


def _write_at(path, place, data):
    with open(path, "r+b") as file:
        file.seek(place)
        file.write(data)


def _exchange(*numbers):
    for name in ("particles_00000{}.mrcs", "tables/made_00000{}.npy", "tables/record_00000{}.json"):
        one, other = (f"out/{name.format(number)}" for number in numbers)
        os.rename(one, "aside")
        os.rename(other, one)
        os.rename("aside", other)


@pytest.mark.parametrize("harm", HARMS)
def test_what_a_stopped_run_has_left_is_harmed(undisturbed, monkeypatch, harm):
    """The same command goes on to the same bytes, and keeps the stacks that nobody has touched."""
    killed_before_its_star(monkeypatch)
    if "another" in harm:
        write_star("in.star", "1" * COUNT)
        killed_before_its_star(monkeypatch, "other", *OPTIONS[:2], "--recenter-exact", *OPTIONS[3:])
    kept = os.stat("out/particles_000001.mrcs").st_ino
    HARMS[harm]()
    run()
    assert made() == undisturbed
    assert (os.stat("out/particles_000001.mrcs").st_ino == kept) == (harm != "no tables")


@pytest.mark.parametrize("table", ["particles.npy", "images.npy", "made_000002.npy"])
def test_a_table_that_is_altered_during_the_run(undisturbed, monkeypatch, capsys, table):
    """One number of it: a particle, or its image, would be another, or its shift."""
    path = f"out/tables/{table}"
    size = {"particles.npy": 16, "images.npy": 28, "made_000002.npy": 24}[table]

    def alter(*_):
        status = os.stat(path)
        _write_at(path, status.st_size - size, b"\0")

    with monkeypatch.context() as patch:
        before(patch, downsampling, "check_done", alter)
        run(code=EXIT_DATA)
    told = capsys.readouterr().err
    assert ("it is not what it was when the stack was made" if "made" in table else "its tables are not those") in told
    assert not Path("out/particles.star").exists()
    run()
    assert made() == undisturbed


def test_a_table_that_is_altered_while_particles_are_bad(particles, monkeypatch, capsys):
    """Their names are not looked for where there are none."""
    images = noise(1)
    images[-1, 1, 1] = np.nan
    write_stack("b.mrcs", images)
    path = "out/tables/images.npy"
    with monkeypatch.context() as patch:
        before(patch, downsampling, "check_done", lambda *_: _write_at(path, os.stat(path).st_size - 28, b"\x09"))
        run(code=EXIT_DATA)
    assert "its tables are not those that the job was written with" in capsys.readouterr().err
    run(code=EXIT_DATA)
    assert "Particle 24, image 12 of b.mrcs: pixels that are not numbers" in capsys.readouterr().err


def test_tables_of_another_job_are_refused_by_the_program(particles, monkeypatch, capsys):
    """As Scipion starts it, it has no other source to write them from."""
    killed_before_its_star(monkeypatch)
    names = json.loads(Path("out/tables/files.json").read_text())
    Path("out/tables/files.json").write_text(json.dumps([[name, state] for name, (_, state) in zip("ba", names)]))
    assert cli.main(["out/job.json", "--jobs", "1"]) == EXIT_DATA
    assert "out/tables: its tables are not those that the job was written with" in capsys.readouterr().err


@pytest.mark.parametrize("skip", [True, False])
def test_a_list_of_corrupt_particles_that_is_gone(particles, monkeypatch, capsys, skip):
    """Particles that are missing from a stack were never left out without a word."""
    images = noise(0)
    images[3, 1, 1] = np.nan
    write_stack("a.mrcs", images)
    killed_before_its_star(monkeypatch, "out", *OPTIONS, "--skip-corrupt")
    os.remove("out/tables/bad_000001.json")
    capsys.readouterr()
    run("out", *OPTIONS, *(["--skip-corrupt"] if skip else []), code=0 if skip else EXIT_DATA)
    told = capsys.readouterr()
    assert ("Left out: 1 corrupt particle" in told.out) if skip else ("1 corrupt particle, expected none" in told.err)


def test_a_list_of_corrupt_particles_that_goes_during_the_run(particles, monkeypatch, capsys):
    images = noise(0)
    images[3, 1, 1] = np.nan
    write_stack("a.mrcs", images)
    options = [*OPTIONS, "--skip-corrupt"]
    with monkeypatch.context() as patch:
        before(patch, downsampling, "check_done", lambda *_: os.remove("out/tables/bad_000001.json"))
        run("out", *options, code=EXIT_DATA)
    assert "not what they were when they were made (particles_000001.mrcs)" in capsys.readouterr().err
    run("out", *options)
    assert "Left out: 1 corrupt particle" in capsys.readouterr().out


# ---- several runs in one folder ----------------------------------------------------------------------------------


def test_another_run_begins_over_this_one(particles, monkeypatch, capsys):
    """By --force, with other parameters: the first gives its stacks, and its STAR file, no names of the other's."""
    run("undisturbed", *OTHER)

    def begin(*_):
        with monkeypatch.context() as inner:
            inner.setattr(pieces.StackUnderWay, "finish", finish)
            subprocess.run([sys.executable, "-m", "downsample_plugin", "in.star", "-o", "out", *OTHER, "--force"])

    finish = pieces.StackUnderWay.finish
    with monkeypatch.context() as patch:
        before(patch, pieces.StackUnderWay, "finish", begin, 1)
        run(code=EXIT_DATA)
    assert "out/job.json: another run was started in this folder" in capsys.readouterr().err
    assert made("out") == made("undisturbed")


@pytest.mark.parametrize("method, call", [("may_stay", 2), ("wanted", 0)])
def test_the_same_run_ends_while_this_one_begins(particles, monkeypatch, capsys, method, call):
    """What it has made stays as it is, with its list of corrupt particles: it may be telling of it just now."""
    images = noise(0)
    images[3, 1, 1] = np.nan
    write_stack("a.mrcs", images)
    options = [*OPTIONS, "--skip-corrupt"]
    of_the_other = {}

    def inodes():
        return {path: path.stat().st_ino for path in Path("out").rglob("*_00*")}

    def whole_run(*_):
        command = [sys.executable, "-m", "downsample_plugin", "out/job.json", "--skip-corrupt"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        of_the_other.update(inodes())

    with monkeypatch.context() as patch:
        before(patch, OutputStack, method, whole_run, call)
        run("out", *options)
    assert "Left out: 1 corrupt particle" in capsys.readouterr().out
    assert len(of_the_other) == 3 * COUNT // PER_STACK + 1
    assert inodes() == of_the_other


def test_another_run_begins_when_this_one_writes_its_star_file(particles, monkeypatch, capsys):
    run("undisturbed", *OTHER)

    def begin(*_):
        with monkeypatch.context() as inner:
            inner.undo()
            killed_before_its_star(monkeypatch, "out", *OTHER, "--force")

    begun = []

    @contextlib.contextmanager
    def alone(jobs, real=downsampling._alone):
        begun.append(True)
        if len(begun) == 2:  # when the first has made its stacks
            begin()
        with real(jobs):
            yield

    monkeypatch.setattr(downsampling, "_alone", alone)
    run(code=EXIT_DATA)
    assert "another run was started in this folder" in capsys.readouterr().err
    assert not Path("out/particles.star").exists()
    run("out", *OTHER)
    assert made("out") == made("undisturbed")


def test_a_star_file_of_earlier_stacks_is_no_finished_run(particles, monkeypatch):
    """A run lost a stack, one with other parameters takes its place and is killed: its STAR file is still to come."""
    run()
    os.remove("out/particles_000002.mrcs")
    killed_before_its_star(monkeypatch, "out", *OTHER)
    run("out", *OTHER)
    names = [
        line.split()[0].split("@")[1] for line in Path("out/particles.star").read_text().split("\n") if "@out" in line
    ]
    assert len(names) == COUNT and all(map(os.path.exists, names))
    assert images_of_file(names[0]).shape[1:] == (20, 20)


def test_a_star_file_stays_until_the_next_is_there(particles, monkeypatch):
    """Stacks of an earlier job go when no STAR file names them any more."""
    killed_before_its_star(monkeypatch)
    seen = []
    before(monkeypatch, Job, "remove_earlier_stacks", lambda *_: seen.append(Path("out/particles.star").exists()))
    run("out", *OTHER)
    assert seen == [True]


# ---- what is not the run's own -----------------------------------------------------------------------------------


@pytest.mark.parametrize("is_input", [True, False])
def test_a_list_that_the_run_has_not_made(particles, capsys, is_input):
    """Of several pixel sizes, so that the folder holds no job itself."""
    os.mkdir("out")
    mine = Path("out/bad_particles.star")
    write_star(mine, "12" * (COUNT // 2))
    text = mine.read_text()
    source = str(mine)
    if not is_input:
        shutil.copy(mine, "two.star")
        source = "two.star"
    run(source=source, code=EXIT_USAGE)
    assert ("it contains the input" if is_input else "was not made by this program") in capsys.readouterr().err
    assert mine.read_text() == text and os.listdir("out") == [mine.name]


def test_a_file_that_comes_while_it_is_to_be_written(particles, monkeypatch, capsys):
    """Without --force: somebody else's file, or that of a run beside this one, is not written over."""
    write_map("map.mrc", 0)
    run()
    for where, name, command, output in (
        (MapFile, "__getitem__", lambda: cli_volumes.main(["map.mrc", "-o", "maps", "--box", "16"]), "maps/map.mrc"),
        (
            restoring._RowMaker,
            "make",
            lambda: cli_restore.main(["out/particles.star", "--original", "in.star", "-o", "full.star"]),
            "full.star",
        ),
    ):
        with monkeypatch.context() as patch:
            before(patch, where, name, lambda *_, output=output: Path(output).write_text("mine"))
            assert command() == EXIT_DATA
        assert f"{output}: it is there since the run began" in capsys.readouterr().err
        assert Path(output).read_text() == "mine"


# ---- processes ---------------------------------------------------------------------------------------------------


def test_a_worker_that_dies_while_the_star_file_is_written(undisturbed, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        patch.setattr(relion_output, "read_again", lambda *_: os._exit(9))
        run(code=EXIT_DATA)
    assert capsys.readouterr().err.startswith("ERROR: A worker process died")
    run()
    assert made() == undisturbed


def test_ctrl_c_while_modules_are_loaded(here):
    """Modules in C say something else of it, or nothing."""
    code = (
        "import os, signal, sys; from importlib.abc import MetaPathFinder\n"
        "class Stop(MetaPathFinder):\n"
        "    def find_spec(self, name, *more):\n"
        "        if name == 'downsample_plugin.core.fourier':\n"
        "            try: os.kill(os.getpid(), signal.SIGINT)\n"
        "            except KeyboardInterrupt: raise ImportError('numpy')\n"
        "sys.meta_path.insert(0, Stop())\n"
        "from downsample_plugin.__main__ import main\n"
        "sys.exit(main())"
    )
    ended = subprocess.run([sys.executable, "-c", code, "in.star", "-o", "out"], capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (130, "")


REFUSE = """
import os, socket, sys
what, number = sys.argv[1], int(sys.argv[2])
where = socket if what == "socketpair" else os
real, parent, calls = getattr(where, what), os.getpid(), []
def refuse(*arguments):
    calls.append(os.getpid() == parent)
    if sum(calls) == number and calls[-1]:
        raise BlockingIOError(11, "busy") if what == "fork" else OSError(24, "Too many open files")
    return real(*arguments)
setattr(where, what, refuse)
sys.argv[1:3] = []
from downsample_plugin.__main__ import main
sys.exit(main())
"""


@pytest.mark.parametrize(
    "what, number, words",
    [
        ("fork", 1, "No more processes can be started (busy)"),
        ("fork", 2, "No more processes can be started (busy)"),
        *(("pipe", number, "files open at once") for number in (1, 4, 6)),
        *(("socketpair", number, "files open at once") for number in (1, 2)),
    ],
)
def test_processes_and_pipes_that_are_refused(particles, what, number, words):
    """The run says so and ends, with all its workers."""
    command = [sys.executable, "-c", REFUSE, what, str(number), "in.star", "-o", "out", *OPTIONS]
    ended = subprocess.run([*command, "--jobs", "2"], capture_output=True, text=True, timeout=30)
    assert ended.returncode == EXIT_DATA
    assert words in ended.stderr and "Traceback" not in ended.stderr
