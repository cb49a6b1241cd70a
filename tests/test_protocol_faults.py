# SPDX-License-Identifier: GPL-3.0-or-later
"""The protocol when it is killed, stopped or moved, when its input changes, and when particles are corrupt."""

import contextlib
import os
import shutil
import sqlite3
import time

import numpy as np
import pytest
from emtable import Table

from downsample_plugin import headless
from downsample_plugin.core import DownsamplePlan, downsample_images

from .launching import go_on, kill, processes_of, started_by_scipion, wait_for_end
from .scipion_sets import downsample, image_of, items_of, new_downsample, pairs, particle, particle_set, write_stack
from .waiting import assert_all_end, wait_for

APIX, BOX, COUNT = 1.5, 128, 3000
SETTINGS = {"fourierCropSize": 64, "doNormalize": True, "particlesPerStack": 450, "numberOfThreads": 2}


def noise(count, seed=0, box=BOX):
    return np.random.default_rng(seed).normal(size=(count, box, box)).astype(np.float32)


@pytest.fixture(scope="module")
def many(project):
    write_stack("many.mrcs", noise(100))
    for number in range(COUNT // 100):  # by names of their own: images that are the same would be made once
        os.symlink("many.mrcs", f"many_{number}.mrcs")
    items = [particle(i + 1, (i % 100 + 1, f"many_{i // 100}.mrcs")) for i in range(COUNT)]
    return particle_set(project, items, APIX)


@pytest.fixture(scope="module")
def undisturbed(project, many):
    return stacks_of(downsample(project, many, **SETTINGS))


def stacks_of(protocol):
    assert protocol.isFinished(), protocol.getErrorMessage()
    assert [item.getObjId() for item in items_of(protocol.outputParticles)] == list(range(1, COUNT + 1))
    folder = protocol._getExtraPath()
    found = {}
    for name in sorted(os.listdir(folder)):
        if "mrcs" in name:
            with open(os.path.join(folder, name), "rb") as file:
                found[name] = file.read()
    assert found.keys() == {f"particles_{i:06d}.mrcs" for i in range(1, 8)}
    return found


def launched(project, protocol):
    """The processes of a protocol that has been launched, itself first, once its program has workers."""
    project.launchProtocol(protocol, wait=False)

    def at_work():
        processes = processes_of(protocol)
        return processes if len(processes) >= 4 else None

    return wait_for(at_work, "its workers")


def continued(project, protocol):
    from pyworkflow.protocol.constants import MODE_RESUME

    protocol.runMode.set(MODE_RESUME)
    return headless.run(project, protocol)


@pytest.mark.parametrize("moment", [0.0, 0.03, 0.06, 0.1])
@pytest.mark.parametrize("whole", [True, False])
def test_killed_with_or_without_its_program(project, many, undisturbed, moment, whole):
    """Without it, the program goes on beside the one of "continue"."""
    protocol = new_downsample(project, many, **SETTINGS)
    processes = launched(project, protocol)
    time.sleep(moment)
    kill(processes if whole else processes[:1])
    go_on(project, protocol, wait=True)
    assert stacks_of(protocol) == undisturbed


def test_stopped_from_scipion(project, many, undisturbed):
    protocol = new_downsample(project, many, **SETTINGS)
    with started_by_scipion():
        processes = launched(project, protocol)
    project.stopProtocol(protocol)
    assert_all_end(processes)
    continued(project, protocol)
    assert stacks_of(protocol) == undisturbed


def test_two_runs_side_by_side(project, many, undisturbed):
    both = [new_downsample(project, many, **SETTINGS) for _ in range(2)]
    for protocol in both:
        project.launchProtocol(protocol, wait=False)

    for protocol in both:
        wait_for_end(project, protocol)
        assert stacks_of(protocol) == undisturbed


def test_input_that_changed_between_stop_and_continue(project):
    images = noise(60, box=32)
    stack = write_stack("changing.mrcs", images)
    particles = particle_set(project, [particle(i, (i, stack)) for i in range(1, 61)], APIX)
    images[50, 0, 0] = np.nan
    write_stack(stack, images)
    protocol = new_downsample(project, particles, fourierCropSize=16, particlesPerStack=20)
    with pytest.raises(RuntimeError, match=r"Particle 51, image 51 of changing\.mrcs: pixels that are not numbers"):
        headless.run(project, protocol)
    assert not hasattr(protocol, "outputParticles")
    changed = noise(60, seed=1, box=32)
    write_stack(stack, changed)
    continued(project, protocol)
    expected, _ = downsample_images(changed, DownsamplePlan(32, APIX, fourier_crop_size=16))
    for item, image in pairs(items_of(protocol.outputParticles), expected):
        assert np.array_equal(image_of(item), image)


def test_corrupt_particles_are_listed_and_may_be_skipped(project):
    images = noise(30, box=32)
    images[[7, 25], 1, 2] = np.inf
    stack = write_stack("corrupt.mrcs", images)
    items = [particle(i, (i, stack), np.eye(4)) for i in range(1, 31)]
    items.append(particle(31, (1, stack), np.diag([0.0, 1, 1, 1])))
    particles = particle_set(project, items, APIX, "Projection")
    protocol = new_downsample(project, particles, fourierCropSize=16, particlesPerStack=10)
    with pytest.raises(RuntimeError, match="3 corrupt particles, expected none"):
        headless.run(project, protocol)
    table = protocol._getExtraPath("bad_particles.star")
    listed = Table(fileName=table, tableName="bad_particles")
    assert [bad.particleId for bad in listed] == [31, 8, 26]
    kept = os.stat(protocol._getExtraPath("particles_000002.mrcs")).st_mtime_ns

    protocol.skipCorrupt.set(True)
    continued(project, protocol)
    assert os.stat(protocol._getExtraPath("particles_000002.mrcs")).st_mtime_ns == kept, "it was done already"
    good = [i for i in range(1, 31) if i not in (8, 26)]
    assert [item.getObjId() for item in items_of(protocol.outputParticles)] == good
    expected, _ = downsample_images(
        noise(30, box=32)[[i - 1 for i in good]], DownsamplePlan(32, APIX, fourier_crop_size=16)
    )
    for item, image in pairs(items_of(protocol.outputParticles), expected):
        assert np.array_equal(image_of(item), image)
    assert f"Left out: 3 corrupt particles, listed in {table}" in protocol.summary()
    assert "28 particle images" in protocol._methods()[0]


def test_a_first_file_that_is_missing(project):
    stack = write_stack("there.mrcs", noise(3, box=32))
    items = [particle(1, (1, "gone.mrcs")), *(particle(i + 1, (i, stack)) for i in (1, 2, 3))]
    particles = particle_set(project, items, APIX)
    protocol = downsample(project, particles, fourierCropSize=16, skipCorrupt=True)
    assert [item.getObjId() for item in items_of(protocol.outputParticles)] == [2, 3, 4]
    assert any("Left out: 1 corrupt particle," in line for line in protocol.summary())


def test_a_stack_that_is_harmed_before_the_set_is_registered(project, many, undisturbed):
    """Whatever harms a stack after the program, no set is made of it."""
    from downsample_plugin.engine.job import Job

    protocol = downsample(project, many, **SETTINGS)
    job = Job.read(Job.path_in(protocol._getExtraPath()))
    os.truncate(job.stacks[2].path, 5000)
    with pytest.raises(Exception, match=r"1 of 7 output stacks are not what they were .*\(particles_000003\.mrcs\)"):
        protocol.createOutputStep(0.0)


def test_the_set_is_registered_when_all_stacks_are_on_the_disk(project, many, monkeypatch):
    """Not earlier: a computer that loses its power keeps the set, and may lose what was not written out."""
    sync, log = os.fsync, os.path.abspath("synced.txt")

    def noted(file):
        with open(log, "a") as lines:
            lines.write(os.path.basename(os.readlink(f"/proc/self/fd/{file}")) + "\n")
        sync(file)

    monkeypatch.setattr(os, "fsync", noted)
    protocol = downsample(project, many, **SETTINGS)
    assert protocol.isFinished()
    with open(log) as lines:
        assert lines.read().split() == [f"particles_{i:06d}.mrcs" for i in range(1, 8)]


def test_a_set_that_changes_meanwhile(project):
    """Another particle is enabled now, and as many as before: no particle gets the result of another."""
    stack = write_stack("six.mrcs", noise(6, box=32))
    items = [particle(i, (i, stack)) for i in range(1, 7)]
    items[2].setEnabled(False)
    given = particle_set(project, items, APIX)
    protocol = downsample(project, given, fourierCropSize=16)
    with contextlib.closing(sqlite3.connect(given.outputParticles.getFileName())) as file:
        file.execute("UPDATE Objects SET enabled = (id <> 4)")
        file.commit()
    with pytest.raises(Exception, match="the set was changed during the run; restart the run"):
        protocol.createOutputStep(0.0)


@pytest.mark.parametrize(
    "change", ["UPDATE Objects SET {index} = 7 - {index}", "UPDATE Objects SET {file} = 'other.mrcs'"]
)
def test_a_set_that_names_other_images_meanwhile(project, change):
    """The same particles, so to say: no image comes to stand by another one's row."""
    stack = write_stack("exchanged.mrcs", noise(6, box=32))
    given = particle_set(project, [particle(i, (i, stack)) for i in range(1, 7)], APIX)
    protocol = downsample(project, given, fourierCropSize=16)
    with contextlib.closing(sqlite3.connect(given.outputParticles.getFileName())) as file:
        columns = dict(file.execute("SELECT label_property, column_name FROM Classes"))
        file.execute(change.format(index=columns["_index"], file=columns["_filename"]))
        file.commit()
    with pytest.raises(Exception, match="with the same images: the set was changed during the run; restart the run"):
        protocol.createOutputStep(0.0)


def test_a_set_whose_file_is_cut_short_meanwhile(project):
    """What SQLite says of it is not all that the user is told; the run goes on when the file is back."""
    stack = write_stack("whole.mrcs", noise(6, box=32))
    given = particle_set(project, [particle(i, (i, stack)) for i in range(1, 7)], APIX)
    protocol = downsample(project, given, fourierCropSize=16)
    path = given.outputParticles.getFileName()
    with open(path, "rb") as file:
        whole = file.read()
    os.truncate(path, 3000)
    with pytest.raises(Exception, match=r"\.sqlite.*: got '.*' from SQLite, expected .*; check"):
        protocol.createOutputStep(0.0)
    with open(path, "wb") as file:
        file.write(whole)
    continued(project, protocol)
    assert protocol.isFinished() and protocol.outputParticles.getSize() == 6


def test_a_project_that_was_moved_goes_on(scipion, tmp_path):
    before = os.getcwd()
    project = headless.createProject("moving")
    stack = write_stack("moving.mrcs", noise(40, box=32))
    particles = particle_set(project, [particle(i, (i, stack)) for i in range(1, 41)], APIX)
    shutil.move(stack, stack + ".away")
    write_stack(stack, noise(39, box=32))
    protocol = new_downsample(project, particles, fourierCropSize=16, particlesPerStack=10)
    with pytest.raises(RuntimeError, match="image 40 was requested, expected 1 to 39"):
        headless.run(project, protocol)
    shutil.move(stack + ".away", stack)
    number = protocol.getObjId()
    os.chdir(before)
    old = project.getPath()
    new = os.path.join(os.path.dirname(old), "moved here")
    shutil.move(old, new)
    from pyworkflow.project import Manager

    project = Manager().loadProject("moved here")
    protocol = project.getProtocol(number)
    continued(project, protocol)
    expected, _ = downsample_images(noise(40, box=32), DownsamplePlan(32, APIX, fourier_crop_size=16))
    for item, image in pairs(items_of(protocol.outputParticles), expected):
        assert np.array_equal(image_of(item), image)
    os.chdir(before)
