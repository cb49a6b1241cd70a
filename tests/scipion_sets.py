# SPDX-License-Identifier: GPL-3.0-or-later
"""Scipion sets with known content, and protocols run on them."""

import itertools
import os
import warnings
from typing import NamedTuple

import mrcfile
import numpy as np

from downsample_plugin import headless
from downsample_plugin.engine import job_writing
from downsample_plugin.engine.tables import ParticleBlock

_numbers = itertools.count(1)


def write_stack(name, images, **settings):
    os.makedirs(os.path.dirname(name) or ".", exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of pixels that are not numbers, where a test wants them
        mrcfile.write(name, np.asarray(images, dtype=np.float32), overwrite=True, **settings)
    return name


def particle(particle_id, location, matrix=None, position=None, **attributes):
    """A particle; attributes are pyworkflow objects, stored under their names."""
    from pwem.objects import Acquisition, Coordinate, CTFModel, Particle, Transform

    item = Particle(location=location)
    item.setObjId(particle_id)
    item.setAcquisition(Acquisition(magnification=50000, voltage=300, sphericalAberration=2.7, amplitudeContrast=0.1))
    item.setCTF(CTFModel(defocusU=10000.0 + particle_id, defocusV=9000.0, defocusAngle=30.0))
    if matrix is not None:
        item.setTransform(Transform(np.array(matrix, dtype=float)))
    if position is not None:
        coordinate = Coordinate(x=int(position[0]), y=int(position[1]))
        coordinate.setMicId(1)
        coordinate.setMicName("micrograph.mrc")
        item.setCoordinate(coordinate)
    for name, value in attributes.items():
        setattr(item, name, value)
    return item


def register(project, fill, output="outputParticles", finished=True):
    """Run a tiny protocol that registers what ``fill(protocol)`` makes, and return it, finished or still running."""
    from pwem.protocols import EMProtocol

    protocol = project.newProtocol(EMProtocol)
    protocol.setObjLabel(f"given set {next(_numbers)}")
    project._setupProtocol(protocol)
    protocol.makePathsAndClean()
    protocol._defineOutputs(**{output: fill(protocol)})
    protocol.setFinished() if finished else protocol.setRunning()
    project._storeProtocol(protocol)
    return protocol


def particle_set(project, items, apix, alignment=None, set_class="SetOfParticles"):
    """A finished protocol whose outputParticles are the items."""
    import pwem.objects

    def fill(protocol):
        particles = getattr(pwem.objects, set_class).create(protocol.getPath())
        particles.setSamplingRate(apix)
        particles.setHasCTF(True)
        if alignment:
            particles.setAlignment(alignment)
        for item in items:
            particles.append(item)
        particles.write()
        return particles

    return register(project, fill)


def micrograph_set(project, apix):
    from pwem.objects import Micrograph, SetOfMicrographs

    def fill(protocol):
        micrographs = SetOfMicrographs.create(protocol.getPath())
        micrographs.setSamplingRate(apix)
        name = write_stack(protocol._getPath("micrograph.mrc"), np.zeros((64, 64)))
        micrograph = Micrograph(location=name)
        micrograph.setMicName("micrograph.mrc")
        micrograph.setObjId(1)
        micrographs.append(micrograph)
        micrographs.write()
        return micrographs

    return register(project, fill, "outputMicrographs")


def class_set(project, images, groups, alignment, kind="2D"):
    """Classes of the particles of a protocol: groups are lists of (id, matrix or None)."""
    import pwem.objects
    from pwem.objects import Transform

    def fill(protocol):
        classes = getattr(pwem.objects, f"SetOfClasses{kind}").create(protocol.getPath())
        pointer = _pointer(images, "outputParticles")
        classes.setImages(pointer)
        for number, members in enumerate(groups, start=1):
            members_class = classes.ITEM_TYPE()
            members_class.setObjId(number)
            members_class.copyInfo(images.outputParticles)
            members_class.setAlignment(alignment)
            classes.append(members_class)
            members_class.enableAppend()
            for particle_id, matrix in members:
                item = images.outputParticles[particle_id].clone()
                if matrix is not None:
                    item.setTransform(Transform(np.array(matrix, dtype=float)))
                item.setClassId(number)
                members_class.append(item)
            classes.update(members_class)
        classes.write()
        return classes

    return register(project, fill, "outputClasses")


def _pointer(protocol, output):
    from pyworkflow.object import Pointer

    return Pointer(protocol, extended=output)


def connect(protocol, **inputs):
    """Connect inputs: finished protocols, which stand for their outputParticles, or (protocol, output)."""
    for name, source in inputs.items():
        source, output = source if isinstance(source, tuple) else (source, "outputParticles")
        getattr(protocol, name).set(source)
        getattr(protocol, name).setExtended(output)
    return protocol


def new_downsample(project, particles, **settings):
    """A "downsample particles" on the output of a protocol, not run yet; alignment settings are inputs too."""
    from downsample_plugin.protocols import ProtDownsampleParticles

    inputs = {"inputParticles": particles}
    inputs.update({name: settings.pop(name) for name in ("alignments2D", "alignments3D") if name in settings})
    settings.setdefault("numberOfThreads", 2)
    return connect(project.newProtocol(ProtDownsampleParticles, **settings), **inputs)


def downsample(project, particles, **settings):
    return headless.run(project, new_downsample(project, particles, **settings))


class Row(NamedTuple):
    """A particle for a job: its id, its image, the wanted shift."""

    particle_id: int
    image_index: int
    image_file: str
    shift_x: float
    shift_y: float


def block_of(rows):
    """Rows as a job wants them: one block of columns."""
    ids, indices, names, x, y = zip(*rows) if rows else ((), (), (), (), ())
    places = {}
    files = [places.setdefault(name, len(places)) for name in names]
    return ParticleBlock(
        np.array(ids, dtype=np.int64),
        np.array(files, dtype=np.int32),
        list(places),
        np.array(indices, dtype=np.int64),
        np.array([x, y], dtype=float).T.reshape(-1, 2),
    )


def write_job(folder, plan, rows, per_stack, bad=()):
    """A job for rows."""
    return job_writing.write_job(folder, plan, [block_of(list(rows))], per_stack, bad)


def results_of(job):
    """What became of the rows of a job: rows that name the new images; those that were left out are not in it."""
    paths = [stack.path for stack in job.stacks]
    return [Row(i, index, paths[stack - 1], x, y) for i, stack, index, x, y in job.results().tolist() if index]


def items_of(particles):
    return [item.clone() for item in particles.iterItems()]


def pairs(*lists):
    """Like zip, but lists of different lengths are a failure."""
    lengths = [len(each) for each in lists]
    assert len(set(lengths)) == 1, f"{lengths} things to compare"
    return zip(*lists)


def images_of_file(path):
    """All images (count, rows, columns), whatever the header lacks."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        with mrcfile.open(path, permissive=True) as stack:
            data = stack.data
    return data if data.ndim == 3 else data[None]


def image_of(item):
    return images_of_file(item.getFileName())[max(item.getIndex(), 1) - 1]


def matrix(rotation, translation):
    result = np.eye(4)
    result[:3, :3] = rotation
    result[:3, 3] = [*translation, 0.0][:3]
    return result
