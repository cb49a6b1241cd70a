# SPDX-License-Identifier: GPL-3.0-or-later
"""The protocol under MPI and a real queue, with the hosts.conf of docs/cluster.md: the same bytes, and nothing lost.

The command by itself under mpirun and srun: test_crew.py.
"""

import socket
import subprocess
import time

import numpy as np
import pytest

from .scipion_sets import downsample, items_of, new_downsample, particle, particle_set, write_stack
from .slurm import jobs_under_way, running_slurm
from .test_streaming import Feeder

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

APIX, BOX, COUNT = 1.31, 40, 10
SETTINGS = {"fourierCropSize": 20, "lowpassResolution": 9.0, "particlesPerStack": 4, "numberOfThreads": 1}
STACKS = ["particles_000001.mrcs", "particles_000002.mrcs", "particles_000003.mrcs"]


@pytest.fixture(scope="module")
def given(project):
    stack = write_stack("ten.mrcs", np.random.default_rng(0).normal(size=(COUNT, BOX, BOX)))
    return particle_set(project, [particle(i, (i, stack)) for i in range(1, COUNT + 1)], APIX)


@pytest.fixture(scope="module")
def expected(project, given):
    """Bytes of the output stacks of a plain run."""
    return stacks_of(downsample(project, given, **SETTINGS))


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    with running_slurm(tmp_path_factory.mktemp("slurm")):
        yield


def stacks_of(protocol):
    assert protocol.isFinished(), protocol.getErrorMessage()
    assert [item.getObjId() for item in items_of(protocol.outputParticles)] == list(range(1, COUNT + 1))
    return {name: open(protocol._getExtraPath(name), "rb").read() for name in STACKS}


def finish(project, protocol, during=lambda: None):
    """Launch a protocol that uses a queue and follow it to its end."""
    project.launchProtocol(protocol, wait=False)
    end = time.monotonic() + 120
    while protocol.isActive() or not protocol.endTime.hasValue():
        assert time.monotonic() < end, f"{protocol.getStatus()}: it does not come to an end"
        during()
        time.sleep(0.3)
        project._updateProtocol(protocol, checkPid=True)
    return protocol


def queued(project, given, for_steps, **settings):
    protocol = new_downsample(project, given, **{**SETTINGS, **settings})
    protocol._useQueue.set(True)
    protocol.setQueueParams(("main", {"JOB_TIME": "1", "QUEUE_FOR_JOBS": "Y" if for_steps else "N"}))
    return protocol


def set_node(state):
    update = ["scontrol", "update", f"nodename={socket.gethostname()}", f"state={state}", "reason=test"]
    subprocess.run(update, check=True)


def batch_script(job):
    return subprocess.run(["scontrol", "write", "batch_script", job, "-"], capture_output=True, text=True).stdout


def log_of(protocol):
    with open(protocol.getStdoutLog(), encoding="utf-8", errors="replace") as file:
        return file.read()


@pytest.fixture
def mpi(monkeypatch):
    """Open MPI runs for root, and with more processes than cores."""
    for name in ("OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "OMPI_MCA_rmaps_base_oversubscribe"):
        monkeypatch.setenv(name, "1")


def test_mpi(project, given, expected, mpi):
    protocol = downsample(project, given, **{**SETTINGS, "numberOfMpi": 2})
    assert stacks_of(protocol) == expected
    assert "mpirun -np 2" in log_of(protocol)
    assert "Images made by each of the 2 processes: " in log_of(protocol)


def test_the_whole_run_as_one_job(project, given, expected, slurm):
    protocol = finish(project, queued(project, given, for_steps=False))
    assert stacks_of(protocol) == expected
    assert protocol.useQueueForProtocol()


def test_each_output_stack_as_a_job_of_its_own(project, given, expected, slurm):
    seen = {}
    protocol = finish(project, queued(project, given, for_steps=True), lambda: seen.update(jobs_under_way()))
    assert stacks_of(protocol) == expected
    assert log_of(protocol).count("Launched job with id") == len(STACKS)
    assert sum(name.startswith(f"{protocol.getObjId()}-") for name in seen.values()) == len(STACKS)


def test_a_piece_that_is_killed_fails_by_name_and_continue_makes_it(project, given, expected, slurm):
    """The queue does not tell of it: a job that was cancelled leaves its step without an error."""
    from pyworkflow.protocol.constants import MODE_RESUME

    protocol = queued(project, given, for_steps=True)
    killed = []

    def kill_the_second():
        """Once all three wait for the node, which takes no jobs until then."""
        mine = [job for job, name in jobs_under_way().items() if name.startswith(f"{protocol.getObjId()}-")]
        if killed or len(mine) < len(STACKS):
            return
        killed.extend(job for job in mine if "--part 2/3" in batch_script(job))
        subprocess.run(["scancel", *killed], check=True)
        set_node("resume")

    set_node("drain")
    finish(project, protocol, kill_the_second)
    assert len(killed) == 1
    assert protocol.isFailed()
    assert "particles_000002.mrcs" in protocol.getErrorMessage()
    assert not hasattr(protocol, "outputParticles")

    protocol.runMode.set(MODE_RESUME)
    finish(project, protocol)
    assert stacks_of(protocol) == expected


@pytest.mark.parametrize("for_steps", [False, True])
def test_an_open_set_under_a_queue(project, given, slurm, for_steps):
    """Each batch is a job of its own, or the whole run one job that waits for the particles."""
    items = items_of(given.outputParticles)
    feeder = Feeder(project, given.outputParticles.getSamplingRate())
    feeder.feed(items[:5])
    protocol = queued(project, feeder.protocol, for_steps, streamingSleepOnWait=1, streamingBatchWait=1)
    fed = []

    def feed_the_rest():
        if not fed and getattr(protocol, "outputParticles", None) is not None:
            fed.append(feeder.feed(items[5:], close=True))

    finish(project, protocol, feed_the_rest)
    assert protocol.isFinished(), protocol.getErrorMessage()
    assert [item.getObjId() for item in items_of(protocol.outputParticles)] == [item.getObjId() for item in items]
    if for_steps:
        assert log_of(protocol).count("Launched job with id") == len(protocol.jobs())
