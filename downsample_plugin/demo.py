# SPDX-License-Identifier: GPL-3.0-or-later
"""``python -m downsample_plugin.demo [STACK] [APIX]``: a whole Scipion project around one run, headless.

Without arguments it simulates particles whose truth is known, imports them, downsamples and recentres them, and
checks the result against the truth. With a stack of your own and its pixel size it downsamples that by two.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from pathlib import Path

import mrcfile
import numpy as np

from . import headless
from .errors import DataError
from .files.image_readers import ImageReader, open_stack
from .simulate import contrast_transfer, micrograph_like, particle_phantom, random_rotation

FOLDER = Path("demo_project")
PARTICLES, BOX, APIX = 200, 128, 1.31
MICROGRAPHS, MICROGRAPH_SIZE = 4, 2048


def main(arguments):
    """Run the demo on simulated particles, or on a stack of one's own; returns an exit code."""
    parser = argparse.ArgumentParser(prog="python -m downsample_plugin.demo", description=main.__doc__)
    parser.add_argument("stack", nargs="?", default="", help="MRC stack of particles (default: simulate some)")
    parser.add_argument("apix", nargs="?", default="", help="its pixel size in Å/px")
    options = parser.parse_args(arguments)
    try:
        own = (_readable(options.stack), _pixelSize(options.apix)) if options.stack else None
        headless.prepare(FOLDER)
        _run(headless.createProject("downsample_demo"), own)
    except (ValueError, RuntimeError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    return 0


def _run(project, own):
    if own:
        imported = _importStack(project, *own)
        settings = {"fourierCropSize": imported.outputParticles.getXDim() // 2}
    else:
        truth = simulate(Path("simulated"))
        imported = importSimulated(project)
        settings = {"targetPixelSize": 2.6, "recenter": True, "recenterMode": 1}
    downsampled = downsample(project, imported, settings)
    _report(imported.outputParticles, downsampled)
    if not own:
        before, after = (_offCentre(p.outputParticles, truth) for p in (imported, downsampled))
        print(f"Truth:         the particles were {before:.1f} Å off centre, now {after:.1f} Å (median)")
    print(f"Picture:       {os.path.abspath(downsampled.picturePath())}")


def _readable(stack):
    path = os.path.abspath(stack)
    try:
        open_stack(path).close()
    except DataError as error:
        raise ValueError(f"PARTICLES={path}: {error}") from error
    return path


def _pixelSize(text):
    try:
        apix = float(text)
    except (TypeError, ValueError):
        apix = 0.0
    if not 0 < apix < 1000:
        raise ValueError(f"APIX: got '{text or ''}', expected the pixel size of the stack in Å/px, such as APIX=1.31")
    return apix


def simulate(folder):
    """Write a stack, and a Scipion set with alignments, CTFs, coordinates, and the map; particles stand off centre."""
    from pwem.objects import Acquisition, Coordinate, CTFModel, Particle, SetOfParticles, Transform

    rng = np.random.default_rng(2026)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    phantom = particle_phantom(45.0, rng)
    stack = folder / "simulated.mrcs"
    particles = SetOfParticles(filename=str(folder / "simulated.sqlite"))
    particles.setSamplingRate(APIX)
    particles.setAcquisition(
        Acquisition(magnification=50000, voltage=300, sphericalAberration=2.7, amplitudeContrast=0.1)
    )
    particles.setHasCTF(True)
    particles.setAlignmentProj()
    images, truth = [], []
    for number in range(1, PARTICLES + 1):
        rotation, shift, defocus = random_rotation(rng), rng.uniform(-9, 9, size=2), rng.uniform(1e4, 2e4)
        clean = phantom.project(rotation, shift, BOX, APIX)
        images.append(micrograph_like(clean, contrast_transfer(BOX, APIX, defocus), 1.5 * clean.std(), rng))
        truth.append((rotation, phantom))
        matrix = np.eye(4)
        matrix[:3, :3] = rotation.T
        matrix[:3, 3] = rotation.T @ [*shift, 0.0]  # s = -translation(inverse(M))
        particle = Particle(location=(number, str(stack)))
        particle.setObjId(number)
        particle.setTransform(Transform(matrix))
        particle.setCTF(CTFModel(defocusU=defocus, defocusV=defocus, defocusAngle=0.0))
        x, y = (int(v) for v in rng.integers(BOX, MICROGRAPH_SIZE - BOX, size=2))
        coordinate = Coordinate(x=x, y=y)
        coordinate.setMicId(1 + number % MICROGRAPHS)
        coordinate.setMicName(f"micrograph_{1 + number % MICROGRAPHS}.mrc")
        particle.setCoordinate(coordinate)
        if number == 1:  # the set reads its dimensions from the first image
            mrcfile.write(stack, np.zeros((PARTICLES, BOX, BOX), dtype=np.float32), overwrite=True)
        particles.append(particle)
    mrcfile.write(stack, np.stack(images), overwrite=True, voxel_size=APIX)
    particles.write()
    particles.close()
    with mrcfile.new(folder / "map.mrc", overwrite=True) as file:
        file.set_data(phantom.volume(BOX, APIX).astype(np.float32))
        file.set_volume()
    return truth


def importSimulated(project):
    """Import what ``simulate`` wrote; the finished protocol."""
    from pwem.protocols import ProtImportParticles

    protocol = project.newProtocol(
        ProtImportParticles,
        importFrom=ProtImportParticles.IMPORT_FROM_SCIPION,
        sqliteFile="simulated/simulated.sqlite",
        samplingRate=APIX,
    )
    protocol.setObjLabel("import simulated particles")
    return headless.run(project, protocol)


def _importStack(project, stack, apix):
    """Import through a link: Scipion takes names in .mrcs for stacks, and brackets in names for patterns."""
    from pwem.protocols import ProtImportParticles

    os.makedirs("own", exist_ok=True)
    link = os.path.join("own", "particles.mrcs")
    if os.path.lexists(link):
        os.remove(link)
    os.symlink(stack, link)
    protocol = project.newProtocol(
        ProtImportParticles, filesPath="own", filesPattern="particles.mrcs", samplingRate=apix
    )
    protocol.setObjLabel("import particles")
    return headless.run(project, protocol)


def downsample(project, imported, settings):
    """Run "downsample particles" on imported particles; the finished protocol."""
    from .protocols import ProtDownsampleParticles

    protocol = project.newProtocol(ProtDownsampleParticles, numberOfThreads=os.cpu_count(), **settings)
    protocol.inputParticles.set(imported)
    protocol.inputParticles.setExtended("outputParticles")
    protocol.setObjLabel("downsample particles")
    return headless.run(project, protocol)


def _report(particles, downsampled):
    """Print what came out and where."""
    output = downsampled.outputParticles
    print(f"\nProject:       {os.getcwd()}")
    print(f"Particles:     {output.getSize()}")
    print(f"Box:           {particles.getXDim()} -> {output.getXDim()} px")
    print(f"Sampling rate: {particles.getSamplingRate():.5g} -> {output.getSamplingRate():.5g} Å/px")
    print(f"Stacks:        {', '.join(sorted(os.path.abspath(name) for name in output.getFiles()))}")


def _images(particles):
    """(particle, image) of all particles of a set."""
    with ImageReader() as reader:
        for particle in particles.iterItems():
            stack = reader.open(particle.getFileName())
            yield particle, stack.read(stack.number_of(particle.getIndex()))


def _offCentre(particles, truth):
    """Median distance (Å) of the particles from the centre of their boxes.

    Each is found where its noise-free projection, known in closed form, correlates best with the image.
    """
    box, apix = particles.getXDim(), particles.getSamplingRate()
    distances = []
    for (particle, image), (rotation, phantom) in zip(_images(particles), truth):
        transfer = contrast_transfer(box, apix, particle.getCTF().getDefocusU())
        expected = -np.fft.rfft2(phantom.project(rotation, (0, 0), box, apix)) * transfer
        correlation = np.fft.fftshift(np.fft.irfft2(np.fft.rfft2(image) * expected.conj(), s=image.shape))
        peak = np.unravel_index(correlation.argmax(), correlation.shape)
        distances.append(apix * np.hypot(*(np.array(peak) - box // 2)))
    return np.median(distances)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
