# SPDX-License-Identifier: GPL-3.0-or-later
"""``python benchmarks/metadata.py [PARTICLES ...]``: what particles cost beside their pixels; prints tables.

For protocols, processor time of all that is not the workers, against pwem's bare ``copyItems`` of the same set in the
same round; for STAR files the same. Each figure comes from a process of its own, so that its peak memory is its
own. Particles differ in their images' numbers, which all lead to a few tiny images by links.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any, Callable, NamedTuple

import mrcfile
import numpy as np

BOX, CROPPED, IMAGES, PER_STACK = 16, 8, 1000, 10000
PARTICLES = (10**4, 10**5)
STAR_COLUMNS = (13, 60)
HEAD = """\
| particles | what | serial, µs | times copyItems | peak memory, MB |
|---|---|---|---|---|
"""
STAR_HEAD = """\
| rows | columns | serial, µs | µs where copyItems takes 85 | peak memory, MB |
|---|---|---|---|---|
"""
PROGRAM = """
import json, os, resource, sys, time
from downsample_plugin.command import downsample_particles as cli
code = cli.main(sys.argv[1:])
own = resource.getrusage(resource.RUSAGE_SELF)
sys.stderr.write(json.dumps({"seconds": own.ru_utime + own.ru_stime, "megabytes": own.ru_maxrss / 1024}))
sys.exit(code)
"""


class Cost(NamedTuple):
    """Processor time (s), and peak memory (MB) of the process."""

    seconds: float
    megabytes: float


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("particles", type=int, nargs="*", default=PARTICLES)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        print(HEAD, end="")
        bare = {}
        for count in options.particles:
            bare[count], lines = protocol_rows(count, options.rounds)
            print("\n".join(lines), flush=True)
        print("\n" + STAR_HEAD, end="")
        for count in options.particles:
            for columns in STAR_COLUMNS:
                print(star_row(count, columns, options.rounds, bare[count] / count), flush=True)


def protocol_rows(count: int, rounds: int) -> tuple[float, list[str]]:
    """Seconds of ``copyItems``, and the rows of the table."""
    found: dict[str, list[tuple[float, Cost]]] = {}
    bares = []
    for number in range(rounds):
        folder = os.path.abspath(f"round_{count}_{number}")
        os.mkdir(folder)
        bare, costs = _alone(_protocols, folder, count)
        bares.append(bare)
        for name, cost in costs.items():
            found.setdefault(name, []).append((bare, cost))
    lines = []
    for name, pairs in found.items():
        serial = statistics.median(cost.seconds for _, cost in pairs)
        ratio = statistics.median(cost.seconds / bare for bare, cost in pairs)
        memory = max(cost.megabytes for _, cost in pairs)
        lines.append(f"| {count} | {name} | {serial / count * 1e6:.1f} | {ratio:.2f} | {memory:.0f} |")
    return statistics.median(bares), lines


def star_row(count: int, columns: int, rounds: int, bare: float) -> str:
    """A row of the table of STAR files; `bare` is what a particle costs ``copyItems`` here."""
    name = f"in_{count}_{columns}.star"
    _write_star(name, count, columns)
    costs = []
    for number in range(rounds):
        arguments = [name, "-o", f"star_{count}_{columns}_{number}", "--box", str(CROPPED), "--recenter", "--jobs", "1"]
        arguments.append("--no-picture")  # which takes half a second, however many particles there are
        costs.append(_program(arguments))
    serial = statistics.median(cost.seconds for cost in costs) / count
    memory = max(cost.megabytes for cost in costs)
    return f"| {count} | {columns} | {serial * 1e6:.1f} | {serial / bare * 85:.1f} | {memory:.0f} |"


def _alone(work: Callable[..., Any], *arguments: Any) -> Any:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(work, arguments)


def _program(arguments: list[str]) -> Cost:
    """Of the program, but not of its workers."""
    done = subprocess.run([sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, check=True)
    return Cost(**json.loads(done.stderr[done.stderr.index("{") :]))


def _protocols(folder: str, count: int) -> tuple[float, dict[str, Cost]]:
    """Seconds of ``copyItems``, and the cost of each protocol, each in a fork of its own."""
    from downsample_plugin import headless

    headless.prepare(folder)
    project = headless.createProject("benchmark")
    mrcfile.write("in.mrcs", np.random.default_rng(0).normal(size=(IMAGES, BOX, BOX)).astype("f4"))
    particles = _given(project, count, 0)
    aligned = _given(project, count, 1)
    bare = _forked(lambda: _copy_items(particles.outputParticles))
    small = _new(project, "ProtDownsampleParticles", particles, fourierCropSize=CROPPED, recenter=True)
    small.alignments3D.set(aligned)
    small.alignments3D.setExtended("outputParticles")
    small.particlesPerStack.set(PER_STACK)
    writing = _forked(lambda: small.writeJobStep(0.0))
    program = _program([small._getExtraPath("job.json"), "--jobs", "2"])
    registering = _forked(lambda: small.createOutputStep(0.0))
    total = writing.seconds + program.seconds + registering.seconds
    memory = max(writing.megabytes, program.megabytes, registering.megabytes)
    costs = {"downsample, alignment connected": Cost(total, memory)}
    small.createOutputStep(0.0)
    project._storeProtocol(small)
    restore = _new(project, "ProtRestoreFullSize", small)
    restore.downsampled.set(small)
    restore.downsampled.setExtended("outputParticles")
    costs["restore full size"] = _forked(lambda: restore.makeOutput()[0].write())
    center = _new(project, "ProtShiftParticleCenter", small, xCenter=3.0)
    costs["move centre"] = _forked(lambda: center.makeOutput()[0].write())
    return bare.seconds, costs


def _forked(work: Callable[[], Any]) -> Cost:
    """The cost of some work, in a fork of this process."""
    reader, writer = os.pipe()
    number = os.fork()
    if number == 0:
        try:
            start = time.process_time()
            work()
            seconds = time.process_time() - start
            memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            os.write(writer, json.dumps([seconds, memory]).encode())
        finally:
            os._exit(0)
    os.close(writer)
    os.waitpid(number, 0)
    with open(reader) as pipe:
        return Cost(*json.loads(pipe.read()))


def _new(project: Any, name: str, particles: Any, **settings: Any) -> Any:
    from downsample_plugin import protocols

    protocol = project.newProtocol(getattr(protocols, name), **settings)
    protocol.inputParticles.set(particles)
    protocol.inputParticles.setExtended("outputParticles")
    project._setupProtocol(protocol)
    protocol.makePathsAndClean()
    return protocol


def _given(project: Any, count: int, seed: int) -> Any:
    """A finished protocol with aligned particles, with CTF, coordinate and attributes of another program, shuffled."""
    from pwem.objects import Acquisition, Coordinate, CTFModel, Particle, SetOfParticles, Transform
    from pwem.protocols import EMProtocol
    from pyworkflow.object import Float, Integer

    protocol = project.newProtocol(EMProtocol)
    project._setupProtocol(protocol)
    protocol.makePathsAndClean()
    particles = SetOfParticles.create(protocol.getPath())
    particles.setSamplingRate(1.0)
    particles.setAlignmentProj()
    particles.setHasCTF(True)
    acquisition = Acquisition(magnification=50000, voltage=300, sphericalAberration=2.7, amplitudeContrast=0.1)
    particles.setAcquisition(acquisition)
    for number in range(-(-count // IMAGES)):
        if not os.path.lexists(f"in_{number}.mrcs"):
            os.symlink("in.mrcs", f"in_{number}.mrcs")
    rng = np.random.default_rng(seed)
    for i in rng.permutation(count).tolist():
        particle = Particle(location=(i % IMAGES + 1, f"in_{i // IMAGES}.mrcs"))
        particle.setObjId(i + 1)
        matrix = np.eye(4)
        matrix[:3, :3] = np.linalg.qr(rng.normal(size=(3, 3)))[0]
        matrix[:2, 3] = rng.normal(size=2)
        particle.setTransform(Transform(matrix))
        particle.setCTF(CTFModel(defocusU=1e4, defocusV=1e4, defocusAngle=3.0))
        coordinate = Coordinate(x=10, y=20)
        coordinate.setMicId(1)
        coordinate.setMicName("micrograph")
        particle.setCoordinate(coordinate)
        particle._rlnLogLikeliContribution = Float(i)
        particle._rlnRandomSubset = Integer(1 + i % 2)
        particle._rlnNormCorrection = Float(0.9)
        particles.append(particle)
    particles.write()
    protocol._defineOutputs(outputParticles=particles)
    protocol.setFinished()
    project._storeProtocol(protocol)
    return protocol


def _copy_items(particles: Any) -> None:
    copy = particles.getClass().create(".")
    copy.copyInfo(particles)
    copy.copyItems(particles)
    copy.write()


def _write_star(name: str, count: int, columns: int) -> None:
    """A STAR file as RELION leaves it, with so many columns."""
    labels = ["ImageName", "OriginXAngst", "OriginYAngst", "CoordinateX", "CoordinateY", "AngleRot", "AngleTilt"]
    labels += ["AnglePsi", "DefocusU", "DefocusV", "DefocusAngle", "OpticsGroup", "MicrographName"]
    labels += [f"Other{number}" for number in range(columns - len(labels))]
    rng = np.random.default_rng(2)
    for number in range(-(-count // IMAGES)):
        if not os.path.lexists(f"in_{number}.mrcs"):
            if not os.path.exists("in.mrcs"):
                mrcfile.write("in.mrcs", rng.normal(size=(IMAGES, BOX, BOX)).astype("f4"))
            os.symlink("in.mrcs", f"in_{number}.mrcs")
    with open(name, "w") as file:
        file.write("\ndata_optics\n\nloop_\n_rlnOpticsGroup #1\n_rlnImagePixelSize #2\n_rlnImageSize #3\n")
        file.write(f"1 1.000000 {BOX}\n\n\ndata_particles\n\nloop_\n")
        file.writelines(f"_rln{label} #{number}\n" for number, label in enumerate(labels, start=1))
        for i, (x, y) in enumerate(rng.normal(size=(count, 2)).tolist()):
            image = f"{i % IMAGES + 1:06d}@in_{i // IMAGES}.mrcs"
            values = [image, f"{x:12.6f}", f"{y:12.6f}", "  100.000000   200.000000", *["   12.345678"] * 6]
            values += ["           1", f"Micrographs/micrograph_{i // 300:05d}.mrc", *["    0.123456"] * (columns - 13)]
            file.write(" ".join(values) + " \n")
        file.write("\n")


if __name__ == "__main__":
    main()
