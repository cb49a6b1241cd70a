# SPDX-License-Identifier: GPL-3.0-or-later
"""Open sets are followed: every particle once, in order, whatever happens, with the bytes of a closed run."""

import contextlib
import os
import shutil
import time

import numpy as np
import pytest

from downsample_plugin import headless

from .launching import go_on, kill, processes_of, update, wait_for_end
from .scipion_sets import (
    connect,
    downsample,
    image_of,
    items_of,
    matrix,
    new_downsample,
    pairs,
    particle,
    particle_set,
    register,
    write_stack,
)
from .waiting import LONGEST, wait_for

APIX, BOX, COUNT = 1.5, 32, 40
FAST = {"streamingSleepOnWait": 0, "streamingBatchWait": 0, "particlesPerStack": 8}


class Feeder:
    """A protocol that fills a set, as an extraction does while the microscope runs."""

    def __init__(self, project, apix=APIX, alignment=None):
        from pwem.objects import SetOfParticles

        def fill(protocol):
            particles = SetOfParticles.create(protocol.getPath())
            particles.setSamplingRate(apix)
            particles.setHasCTF(True)
            if alignment:
                particles.setAlignment(alignment)
            particles.setStreamState(SetOfParticles.STREAM_OPEN)
            self.set = particles
            return particles

        self.project = project
        self.protocol = register(project, fill, finished=False)
        self.set.close()

    def feed(self, items, close=False):
        """Append items, and make them seen."""
        if not self.set.isEmpty():
            self.set.enableAppend()
        for item in items:
            self.set.append(item)
        state = self.set.STREAM_CLOSED if close else self.set.STREAM_OPEN
        self.protocol._updateOutputSet("outputParticles", self.set, state)
        if close:
            self.protocol.setFinished()
        self.project._storeProtocol(self.protocol)
        shutil.copy(self.project.getDbPath(), self.protocol.getDbPath())  # where others look for its state


@pytest.fixture(scope="module")
def items(project):
    """Particles in two stacks, with alignments."""
    rng = np.random.default_rng(3)
    stacks = [write_stack(f"part_{k}.mrcs", rng.normal(size=(COUNT // 2, BOX, BOX))) for k in range(2)]
    shifts = rng.uniform(-4, 4, size=(COUNT, 2))
    return [
        particle(i + 1, (i % 20 + 1, stacks[i // 20]), matrix(np.eye(3), shifts[i]), (500 + i, 500))
        for i in range(COUNT)
    ]


SETTINGS = {"fourierCropSize": 16, "recenter": True, "lowpassResolution": 12.0}


@pytest.fixture(scope="module")
def closed(project, items):
    """The same set, processed when it is whole."""
    return downsample(project, particle_set(project, items, APIX, "Projection"), **SETTINGS)


def seen(project, protocol):
    """Number of particles in the output that others see now."""
    update(project, protocol)
    output = getattr(protocol, "outputParticles", None)
    return output.getSize() if output is not None else 0


def log_of(protocol):
    with contextlib.suppress(OSError):
        return "".join(open(path).read() for path in protocol.getLogPaths()[:2])
    return ""


def finished(project, protocol):
    wait_for_end(project, protocol)
    assert protocol.isFinished(), protocol.getErrorMessage()


def check_same(protocol, closed):
    """Ids, order, every value and every byte are those of the set that was processed whole."""
    output, expected = protocol.outputParticles, closed.outputParticles
    assert output.isStreamClosed()
    assert output.getSize() == expected.getSize()
    for name in ("getSamplingRate", "getAlignment", "hasCTF", "getDim"):
        assert getattr(output, name)() == getattr(expected, name)(), name
    found, wanted = items_of(output), items_of(expected)
    assert [item.getObjId() for item in found] == [item.getObjId() for item in wanted]
    for one, other in pairs(found, wanted):
        values, others = one.getObjDict(), other.getObjDict()
        assert {name for name in others if values.get(name) != others[name]} <= {"_index", "_filename"}
        assert np.array_equal(image_of(one), image_of(other))
    places = [item.getLocation() for item in found]
    assert len(set(places)) == len(places)
    relations = [
        sorted((r["name"], r["object_parent_extended"]) for r in each.getRelations()) for each in (protocol, closed)
    ]
    assert relations[0] == relations[1]
    assert os.path.exists(protocol.picturePath())


def test_fed_in_bursts_with_a_kill_in_the_middle(project, items, closed):
    feeder = Feeder(project, alignment="Projection")
    protocol = new_downsample(project, feeder.protocol, **SETTINGS, **FAST)
    assert protocol.validate() == []
    project.launchProtocol(protocol, wait=False)
    feeder.feed(items[:11])
    wait_for(lambda: seen(project, protocol) == 11, "the first burst")
    assert protocol.outputParticles.isStreamOpen()
    assert protocol.outputParticles.getSamplingRate() == 3.0

    later = downstream(project, protocol)
    feeder.feed(items[11:15])
    wait_for(lambda: seen(project, protocol) == 15, "the second burst")
    feeder.feed(items[15:30])
    time.sleep(0.3)  # somewhere in the work on the third
    kill(processes_of(protocol))
    feeder.feed(items[30:33])
    go_on(project, protocol)
    wait_for(lambda: seen(project, protocol) == 33, "what was fed before and while it was down")
    feeder.feed(items[33:], close=True)
    finished(project, protocol)
    check_same(protocol, closed)
    assert "40 particles" in protocol.summary()[0]
    # Scipion closes the sets of a run that has failed: the one that followed has ended with the run that was killed,
    # or, where it looked only after that run went on, has all by now
    finished(project, later)
    assert 15 <= later.outputParticles.getSize() <= COUNT
    go_on(project, later)
    finished(project, later)
    assert [item.getObjId() for item in items_of(later.outputParticles)] == list(range(1, COUNT + 1))
    assert later.outputParticles.getXDim() == 8


def downstream(project, protocol):
    """Another protocol started on the open output: here one that follows it in turn."""
    later = new_downsample(project, protocol, fourierCropSize=8, **FAST)
    assert later.validate() == []
    project.launchProtocol(later, wait=False)
    return later


@pytest.mark.parametrize("moment", [0.0, 0.1, 0.2, 0.3, 0.5, 0.8])
def test_killed_at_any_moment(project, items, closed, moment):
    feeder = Feeder(project, alignment="Projection")
    feeder.feed(items[:25])
    protocol = new_downsample(project, feeder.protocol, **SETTINGS, **FAST)
    project.launchProtocol(protocol, wait=False)
    wait_for(lambda: processes_of(protocol), "its process")
    wait_for(lambda: "followStep" in log_of(protocol), "its work")
    time.sleep(moment)
    kill(processes_of(protocol))
    go_on(project, protocol)
    feeder.feed(items[25:], close=True)
    finished(project, protocol)
    check_same(protocol, closed)


def test_particles_of_lower_ids_that_come_later(project, items):
    """Each is taken once."""
    feeder = Feeder(project, alignment="Projection")
    feeder.feed(items[12:20])
    protocol = new_downsample(project, feeder.protocol, **SETTINGS, **FAST)
    project.launchProtocol(protocol, wait=False)
    wait_for(lambda: seen(project, protocol) == 8, "the first burst")
    feeder.feed(items[:12], close=True)
    finished(project, protocol)
    assert [item.getObjId() for item in items_of(protocol.outputParticles)] == list(range(1, 21))


def test_full_stacks_go_at_once_and_the_rest_waits(project, items):
    feeder = Feeder(project, alignment="Projection")
    feeder.feed(items[:19])
    settings = {**FAST, "streamingBatchWait": 3600}
    protocol = new_downsample(project, feeder.protocol, **SETTINGS, **settings)
    project.launchProtocol(protocol, wait=False)
    wait_for(lambda: seen(project, protocol) == 16, "two full stacks")
    time.sleep(1)
    assert seen(project, protocol) == 16
    feeder.feed([], close=True)
    finished(project, protocol)
    assert protocol.outputParticles.getSize() == 19
    assert len(protocol.outputParticles.getFiles()) == 3


def test_a_stalled_input_costs_nothing(project, items):
    feeder = Feeder(project, alignment="Projection")
    feeder.feed(items[:8])
    protocol = new_downsample(project, feeder.protocol, **SETTINGS, **FAST)
    project.launchProtocol(protocol, wait=False)
    wait_for(lambda: seen(project, protocol) == 8, "the first burst")
    process = processes_of(protocol)[0]
    time.sleep(1)
    before = process.cpu_times()
    time.sleep(3)
    after = process.cpu_times()
    assert (after.user + after.system) - (before.user + before.system) < 0.15, "30 looks"
    feeder.feed([], close=True)
    finished(project, protocol)


def test_an_alignment_that_comes_later(project, items, closed):
    """Particles wait for their alignment; those that it never has are left out."""
    particles, alignment = Feeder(project), Feeder(project, alignment="Projection")
    plain = [particle(item.getObjId(), item.getLocation(), None, item.getCoordinate().getPosition()) for item in items]
    protocol = new_downsample(
        project, particles.protocol, alignments3D=(alignment.protocol, "outputParticles"), **SETTINGS, **FAST
    )
    assert protocol.validate() == []
    project.launchProtocol(protocol, wait=False)
    particles.feed(plain[:20])
    alignment.feed(items[5:12])
    wait_for(lambda: seen(project, protocol) == 7, "those that are aligned")
    particles.feed(plain[20:], close=True)
    alignment.feed(items[12:])
    wait_for(lambda: seen(project, protocol) == 35, "the rest of those")
    alignment.feed(items[:4], close=True)
    finished(project, protocol)
    expected = [item.getObjId() for item in items if item.getObjId() != 5]
    assert [item.getObjId() for item in items_of(protocol.outputParticles)] == expected
    assert any("1 particle that Alignments 3D does not contain" in line for line in protocol.summary())
    images = {item.getObjId(): image_of(item) for item in items_of(closed.outputParticles)}
    for item in items_of(protocol.outputParticles):
        assert np.array_equal(image_of(item), images[item.getObjId()])


@pytest.mark.parametrize("skip", [False, True])
def test_bad_particles(project, items, skip):
    images = np.random.default_rng(0).normal(size=(12, BOX, BOX))
    images[9] = np.nan
    stack = write_stack(f"bad_{skip}.mrcs", images)
    feeder = Feeder(project)
    feeder.feed([particle(i, (i, stack)) for i in range(1, 9)])
    protocol = new_downsample(project, feeder.protocol, fourierCropSize=16, skipCorrupt=skip, **FAST)
    project.launchProtocol(protocol, wait=False)
    wait_for(lambda: seen(project, protocol) == 8, "the first burst")
    feeder.feed([particle(i, (i, stack)) for i in range(9, 13)], close=True)
    wait_for_end(project, protocol)
    if not skip:
        assert protocol.isFailed()
        assert "Particle 10" in protocol.getErrorMessage()
        protocol.skipCorrupt.set(True)
        go_on(project, protocol)
    finished(project, protocol)
    assert [item.getObjId() for item in items_of(protocol.outputParticles)] == [1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12]
    assert any("Left out: 1 corrupt particle," in line for line in protocol.summary())


def test_what_cannot_be_done_is_said_when_the_first_particle_comes(project, items):
    feeder = Feeder(project)
    protocol = new_downsample(project, feeder.protocol, fourierCropSize=64, **FAST)
    assert protocol.validate() == []
    project.launchProtocol(protocol, wait=False)
    feeder.feed([particle(1, items[0].getLocation())])
    wait_for_end(project, protocol)
    assert protocol.isFailed()
    assert "64" in protocol.getErrorMessage()


def test_changed_parameters_are_not_mixed(project, items):
    feeder = Feeder(project, alignment="Projection")
    feeder.feed(items[:8])
    protocol = new_downsample(project, feeder.protocol, **SETTINGS, **FAST)
    project.launchProtocol(protocol, wait=False)
    wait_for(lambda: seen(project, protocol) == 8, "the first burst")
    kill(processes_of(protocol))
    protocol.fourierCropSize.set(12)
    go_on(project, protocol)
    wait_for_end(project, protocol)
    assert "parameters have been changed" in protocol.getErrorMessage()
    assert protocol.outputParticles.getSize() == 8


def test_a_batch_with_nothing_but_bad_particles(project, items):
    images = np.full((12, BOX, BOX), np.nan)
    images[8:] = np.random.default_rng(0).normal(size=(4, BOX, BOX))
    stack = write_stack("nothing_but_bad.mrcs", images)
    feeder = Feeder(project)
    feeder.feed([particle(i, (i, stack)) for i in range(1, 9)])
    protocol = new_downsample(project, feeder.protocol, fourierCropSize=16, skipCorrupt=True, **FAST)
    project.launchProtocol(protocol, wait=False)
    wait_for(lambda: "Left out: 8" in log_of(protocol), "the first batch")
    feeder.feed([particle(i, (i, stack)) for i in range(9, 13)], close=True)
    finished(project, protocol)
    assert [item.getObjId() for item in items_of(protocol.outputParticles)] == [9, 10, 11, 12]
    assert any("Left out: 8 corrupt particles" in line for line in protocol.summary())


def test_bad_particles_are_counted_once(project, items):
    """Those found before any image, last of all, and those of a run that was closed once and whose input goes on."""
    images = np.random.default_rng(0).normal(size=(14, BOX, BOX))
    images[2] = np.nan
    stack = write_stack("late.mrcs", images)
    good, singular = matrix(np.eye(3), (1, 0)), np.zeros((4, 4))
    feeder = Feeder(project, alignment="Projection")
    feeder.feed([particle(i, (i, stack), good) for i in range(1, 9)], close=True)
    protocol = new_downsample(project, feeder.protocol, skipCorrupt=True, **SETTINGS, **FAST)
    headless.run(project, protocol)
    feeder.feed([particle(i, (i, stack), good) for i in range(9, 11)])
    go_on(project, protocol)
    wait_for(lambda: seen(project, protocol) == 9, "what is new")
    feeder.feed([particle(i, (i, stack), singular) for i in range(11, 15)], close=True)
    finished(project, protocol)
    assert [item.getObjId() for item in items_of(protocol.outputParticles)] == [1, 2, 4, 5, 6, 7, 8, 9, 10]
    assert any("Left out: 5 corrupt particles" in line for line in protocol.summary())
    with open(protocol._getExtraPath("bad_particles.star")) as file:
        listed = [line.split()[0] for line in file if line[:1].isdigit()]
    assert listed == ["3", "11", "12", "13", "14"]


def test_stacks_in_the_output_stay_as_they_are(project, items):
    """The output says which image of a stack is whose: skipping cannot be switched off afterwards."""
    images = np.random.default_rng(0).normal(size=(8, BOX, BOX))
    images[2] = np.nan
    stack = write_stack("mended.mrcs", images)
    feeder = Feeder(project)
    feeder.feed([particle(i, (i, stack)) for i in range(1, 9)])
    protocol = new_downsample(project, feeder.protocol, fourierCropSize=16, skipCorrupt=True, **FAST)
    project.launchProtocol(protocol, wait=False)
    wait_for(lambda: seen(project, protocol) == 7, "the first burst")
    kill(processes_of(protocol))
    images[2] = 1.0
    write_stack(stack, images)
    protocol.skipCorrupt.set(False)
    go_on(project, protocol)
    wait_for_end(project, protocol)
    assert "switch it on, or restart" in protocol.getErrorMessage()
    (path,) = protocol.outputParticles.getFiles()
    os.remove(path)  # lost, and the input has been mended: it would hold other particles
    protocol.skipCorrupt.set(True)
    go_on(project, protocol)
    wait_for_end(project, protocol)
    assert "different particles, expected the same; restart" in protocol.getErrorMessage()


def test_an_open_set_without_particles_in_the_form(project):
    feeder = Feeder(project)
    protocol = new_downsample(project, feeder.protocol, fourierCropSize=16)
    assert (protocol.validate(), protocol.warnings()) == ([], [])
    assert protocol.summary() == ["Output particles not ready yet."]
    assert "Particles per stack" in new_downsample(project, feeder.protocol, particlesPerStack=0).validate()[0]


def test_looking_at_an_open_set_does_not_lock_it(project, items):
    """The form, its checks and its wizards leave no reader behind that would keep the writer waiting."""
    from downsample_plugin.wizards.previews import Preview

    feeder = Feeder(project, alignment="Projection")
    feeder.feed(items[:20])
    protocol = new_downsample(project, feeder.protocol, **SETTINGS)
    assert protocol.validate() == []
    protocol.warnings()
    assert Preview(protocol).image(0).shape == (16, 16)
    start = time.monotonic()
    feeder.feed(items[20:], close=True)
    assert time.monotonic() - start < LONGEST


def test_an_open_set_that_closes_empty(project):
    feeder = Feeder(project)
    protocol = new_downsample(project, feeder.protocol, fourierCropSize=16, **FAST)
    feeder.feed([])
    project.launchProtocol(protocol, wait=False)
    wait_for(lambda: "followStep" in log_of(protocol), "its work")
    time.sleep(0.5)
    assert seen(project, protocol) == 0
    assert protocol.isActive()
    feeder.feed([], close=True)
    wait_for_end(project, protocol)
    assert protocol.isFailed()
    assert "none that can be downsampled have arrived" in protocol.getErrorMessage()


def test_a_finished_run_whose_input_goes_on(project, items, closed):
    """Opened again, it takes what is new, into the same output."""
    feeder = Feeder(project, alignment="Projection")
    feeder.feed(items[:20], close=True)
    protocol = new_downsample(project, feeder.protocol, **SETTINGS, **FAST)
    headless.run(project, protocol)
    feeder.feed(items[20:23])
    go_on(project, protocol)
    wait_for(lambda: seen(project, protocol) == 23, "what is new")
    feeder.feed(items[23:], close=True)
    finished(project, protocol)
    check_same(protocol, closed)


def test_back_to_full_size(project, items):
    from downsample_plugin.protocols import ProtRestoreFullSize

    feeder = Feeder(project, alignment="Projection")
    feeder.feed(items[:20])
    protocol = new_downsample(project, feeder.protocol, **SETTINGS, **FAST)
    project.launchProtocol(protocol, wait=False)
    wait_for(lambda: seen(project, protocol) == 20, "the first burst")
    feeder.feed(items[20:], close=True)
    finished(project, protocol)
    restored = headless.run(
        project, connect(project.newProtocol(ProtRestoreFullSize), inputParticles=protocol, downsampled=protocol)
    )
    for before, after in pairs(items, items_of(restored.outputParticles)):
        assert after.getObjId() == before.getObjId()
        assert after.getLocation() == before.getLocation()
        assert after.getTransform().getMatrix() == pytest.approx(before.getTransform().getMatrix(), abs=1e-6)


def test_a_set_that_is_written_while_it_is_looked_at():
    """It may have been seen in part: that it is closed counts only when it stays as it is during a look."""
    from downsample_plugin.protocols.stream import ParticleStream

    class Written:
        isOpen = False
        writes = 1

        def stamp(self):
            return self.writes

        def reload(self):
            self.writes = min(self.writes + 1, 3)
            return True

    stream = ParticleStream(Written(), None)
    looks = [(stream.look(), stream.isClosed) for _ in range(4)]
    assert looks == [(True, False), (True, False), (True, True), (False, True)]
