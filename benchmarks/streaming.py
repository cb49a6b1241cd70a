# SPDX-License-Identifier: GPL-3.0-or-later
"""``python benchmarks/streaming.py``: how soon particles of an open set are downsampled, and what a burst costs.

A set is fed in bursts while "downsample particles" follows it. *Latency* is from the moment that a burst is in the
set to the moment that its downsampled particles are in the output, as others see it; it holds the wait for the next
look. *Cost of a burst* is processor time of the protocol and its programs beyond that of the same particles as one
closed set, by the number of bursts. Prints a table for RESULTS.md.
"""

from __future__ import annotations

import os
import resource
import statistics
import tempfile
import time
from pathlib import Path

import mrcfile
import numpy as np

from downsample_plugin import headless

BURSTS, PER_BURST, BOX, CROPPED = 12, (50, 500), 256, 64
LOOK = 1  # s between two looks, and the longest wait for a full stack
PATIENCE = 120  # s


def main():
    """Measure and print."""
    with tempfile.TemporaryDirectory() as folder:
        headless.prepare(folder)
        project = headless.createProject("streaming")
        print("| particles a burst | latency, s: median | longest | cost of a burst, s | closed, s |")
        print("|---|---|---|---|---|")
        for count in PER_BURST:
            latencies, cost, closed = _measure(project, count)
            print(
                f"| {count} | {statistics.median(latencies):.1f} | {max(latencies):.1f} | {cost:.2f} | {closed:.1f} |"
            )


def _measure(project, count):
    """Latencies (s) of all bursts, processor time (s) that each costs, and that of all as one closed set."""
    stack = f"burst_{count}.mrcs"
    images = np.random.default_rng(0).normal(size=(count, BOX, BOX)).astype(np.float32)
    mrcfile.write(stack, images, overwrite=True)
    total = BURSTS * count
    feeder, fed = _open_set(project, f"whole_{count}")
    _feed(project, feeder, fed, range(1, total + 1), stack, count, close=True)
    before = _children()
    headless.run(project, _new_downsample(project, feeder))
    closed = _children() - before

    feeder, fed = _open_set(project, f"open_{count}")
    protocol = _new_downsample(project, feeder)
    before = _children()
    project.launchProtocol(protocol, wait=False)
    latencies = []
    for burst in range(BURSTS):
        ids = range(burst * count + 1, (burst + 1) * count + 1)
        start = time.monotonic()
        _feed(project, feeder, fed, ids, stack, count, close=burst == BURSTS - 1)
        while _seen(project, protocol) < ids[-1]:
            if time.monotonic() > start + PATIENCE:
                raise TimeoutError(protocol.getErrorMessage())
            time.sleep(0.05)
        latencies.append(time.monotonic() - start)
    while protocol.isActive():
        project._updateProtocol(protocol)
        time.sleep(0.2)
    return latencies, (_children() - before - closed) / BURSTS, closed


def _children():
    """Processor time (s) of all processes that were started, once they are gone: only then are they counted."""
    while True:
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            break
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _seen(project, protocol):
    project._updateProtocol(protocol)
    output = getattr(protocol, "outputParticles", None)
    return output.getSize() if output is not None else 0


def _open_set(project, name):
    """A running protocol with an open set, and the set."""
    from pwem.objects import SetOfParticles
    from pwem.protocols import EMProtocol

    protocol = project.newProtocol(EMProtocol)
    protocol.setObjLabel(name)
    project._setupProtocol(protocol)
    protocol.makePathsAndClean()
    particles = SetOfParticles.create(protocol.getPath())
    particles.setSamplingRate(1.0)
    particles.setStreamState(SetOfParticles.STREAM_OPEN)
    protocol._defineOutputs(outputParticles=particles)
    protocol.setRunning()
    project._storeProtocol(protocol)
    particles.close()
    return protocol, particles


def _feed(project, protocol, particles, ids, stack, count, close):
    from pwem.objects import Particle

    if not particles.isEmpty():
        particles.enableAppend()
    for particle_id in ids:
        item = Particle(location=((particle_id - 1) % count + 1, str(Path(stack))))
        item.setObjId(particle_id)
        particles.append(item)
    state = particles.STREAM_CLOSED if close else particles.STREAM_OPEN
    protocol._updateOutputSet("outputParticles", particles, state)
    project._storeProtocol(protocol)


def _new_downsample(project, feeder):
    from downsample_plugin.protocols import ProtDownsampleParticles

    protocol = project.newProtocol(
        ProtDownsampleParticles,
        fourierCropSize=CROPPED,
        numberOfThreads=2,
        streamingSleepOnWait=LOOK,
        streamingBatchWait=LOOK,
    )
    protocol.inputParticles.set(feeder)
    protocol.inputParticles.setExtended("outputParticles")
    return protocol


if __name__ == "__main__":
    main()
