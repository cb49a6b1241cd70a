# SPDX-License-Identifier: GPL-3.0-or-later
"""``python benchmarks/metadata.py [PARTICLES ...]``: what the particles cost beside their pixels; prints a table.

From a Scipion set to a job and from the results to the output set, against pwem's bare ``copyItems`` of the same
set, in turn; and the program on that job. All particles share one small stack. Each figure from a process of its
own, so that its peak memory is its own.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any, Callable, NamedTuple

import mrcfile
import numpy as np

SET, COPY = "Runs/000001_In/particles.sqlite", "Runs/000002_Copy/particles.sqlite"  # pwem wants such paths
BOX, CROPPED, IMAGES, PER_STACK = 16, 8, 100, 10000
PARTICLES = (10**4, 10**5, 10**6)
HEAD = """\
| particles | copyItems, s | ours, s | times as long | MB | program, particles/s | MB |
|---|---|---|---|---|---|---|
"""


class Cost(NamedTuple):
    """Seconds, and peak memory (MB) of the process."""

    seconds: float
    megabytes: float


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("particles", type=int, nargs="*", default=PARTICLES)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        print(HEAD, end="")
        for count in options.particles:
            print(row(count, options.rounds), flush=True)


def row(count: int, rounds: int) -> str:
    """A row of the table, made in the current folder."""
    mrcfile.write("in.mrcs", np.random.default_rng(0).normal(size=(IMAGES, BOX, BOX)).astype("f4"), overwrite=True)
    for name in (SET, COPY):
        os.makedirs(os.path.dirname(name), exist_ok=True)
    _alone(_make_set, count)
    _alone(_write_job)
    start = time.perf_counter()
    program = subprocess.Popen(
        [sys.executable, "-m", "downsample_plugin", "job/job.json", "--jobs", "2"], stdout=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(program.pid, 0)
    rate = count / (time.perf_counter() - start)
    program.returncode = os.waitstatus_to_exitcode(status)
    assert program.returncode == 0
    pairs = [(_alone(_copy_items), _alone(_our_part)) for _ in range(rounds)]
    bare, ours = (statistics.median(cost.seconds for cost in costs) for costs in zip(*pairs))
    ratio = statistics.median(b.seconds / a.seconds for a, b in pairs)
    memory = max(b.megabytes for _, b in pairs)
    program_memory = usage.ru_maxrss / 1024  # of its largest process
    return f"| {count} | {bare:.2f} | {ours:.2f} | {ratio:.2f} | {memory:.0f} | {rate:.0f} | {program_memory:.0f} |"


def _alone(work: Callable[..., float], *arguments: int) -> Cost:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_measured, (work, arguments))


def _measured(work: Callable[..., float], arguments: tuple[int, ...]) -> Cost:
    return Cost(work(*arguments), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def _make_set(count: int) -> float:
    """Aligned particles with CTF, coordinate and an attribute of another program."""
    from pwem.objects import Acquisition, Coordinate, CTFModel, Particle, SetOfParticles, Transform
    from pyworkflow.object import Float

    _remove(SET)
    particles = SetOfParticles(filename=SET)
    particles.setSamplingRate(1.0)
    particles.setAlignmentProj()
    particles.setHasCTF(True)
    particles.setAcquisition(
        Acquisition(magnification=50000, voltage=300, sphericalAberration=2.7, amplitudeContrast=0.1)
    )
    rng = np.random.default_rng(1)
    for i in range(count):
        particle = Particle()
        particle.setLocation(i % IMAGES + 1, "in.mrcs")
        matrix = np.eye(4)
        matrix[:2, 3] = rng.normal(size=2)
        particle.setTransform(Transform(matrix))
        particle.setCTF(CTFModel(defocusU=1e4, defocusV=1e4, defocusAngle=3.0))
        coordinate = Coordinate(x=10, y=20)
        coordinate.setMicId(1)
        coordinate.setMicName("micrograph")
        particle.setCoordinate(coordinate)
        particle._rlnLogLikeliContribution = Float(i)
        particles.append(particle)
    particles.write()
    return 0.0


def _copy_items() -> float:
    from pwem.objects import SetOfParticles

    particles = SetOfParticles(filename=SET)
    _remove(COPY)
    start = time.perf_counter()
    copy = SetOfParticles(filename=COPY)
    copy.copyInfo(particles)
    copy.copyItems(particles)
    copy.write()
    return time.perf_counter() - start


def _our_part() -> float:
    """All that the protocol does but for the program: the job is written again, is found to be the same, and done."""
    from downsample_plugin.protocols.results import Results

    shutil.rmtree("out", ignore_errors=True)
    os.mkdir("out")
    write = _job_writer()
    start = time.perf_counter()
    job, particles, alignment = write()
    Results(job).outputSet(particles, alignment, "out").write()
    return time.perf_counter() - start


def _write_job() -> float:
    shutil.rmtree("job", ignore_errors=True)
    _job_writer()()
    return 0.0


def _job_writer() -> Callable[[], tuple[Any, Any, Any]]:
    from pwem.objects import SetOfParticles

    from downsample_plugin.core import DownsamplePlan
    from downsample_plugin.core.plan import Recenter
    from downsample_plugin.job import Job
    from downsample_plugin.protocols.alignments import OwnAlignment, particleRows

    def write() -> tuple[Any, Any, Any]:
        particles = SetOfParticles(filename=SET)
        plan = DownsamplePlan(BOX, 1.0, fourier_crop_size=CROPPED, recenter=Recenter.WHOLE_PIXELS)
        alignment = OwnAlignment(particles, None).load(plan.apix_in)
        return Job.write("job", plan, particleRows(particles, alignment, plan, []), PER_STACK), particles, alignment

    return write


def _remove(name: str) -> None:
    if os.path.exists(name):
        os.remove(name)


if __name__ == "__main__":
    main()
