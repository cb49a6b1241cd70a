# SPDX-License-Identifier: GPL-3.0-or-later
"""From a plan to volumes: files, half maps, origins and shifts, and the words on them."""

from __future__ import annotations

import os

import numpy as np
from pwem.objects import Volume

from .. import __version__
from ..errors import DataError
from ..files.maps import MapFile, downsample_map, moved_first_voxel
from ..files.whole_files import remove_abandoned
from .particles import InputParticles
from .results import filterWords


class VolumesMade:
    """Makes volumes in a folder, and counts what it made."""

    def __init__(self, plan, folder, tell):
        self.plan, self._folder, self._tell = plan, folder, tell
        self.count = self.halfMaps = self.bytes = 0
        #: the first volume, and the file of what came of it
        self.first = None

    def checkAll(self, volumes):
        """Raise DataError if a volume is of another box, before any is made."""
        for volume in volumes:
            box = boxOf(volume, f"Volume {volume.getObjId()}")
            if box != self.plan.box_in:
                raise DataError(
                    f"Volume {volume.getObjId()}, {volume.getFileName()}: the box is {box} px, expected "
                    f"{self.plan.box_in} px (that of the first); connect volumes with the same box."
                )

    def newVolume(self, volume, number):
        """What comes of a volume and its half maps: a new object of the same kind."""
        plan = self.plan
        name = f"{'mask' if plan.is_mask else 'volume'}_{number:06d}"
        path = self._downsample(volume.getFileName(), volume.getIndex(), f"{name}.mrc")
        new = volume.getClass()()
        new.copyInfo(volume)
        new.setLocation(path)
        new.setSamplingRate(plan.apix_out)
        halves = list(volume.getHalfMaps(asList=True))
        new.setHalfMaps([self._downsample(half, 0, f"{name}_half{i}.mrc") for i, half in enumerate(halves, start=1)])
        _moveOrigin(new, plan)
        _scaleShifts(new, plan)
        self.count += 1
        self.halfMaps += len(halves)
        self.first = self.first or (volume, path)
        return new

    def _downsample(self, source, index, name):
        """Make a file of the folder of a map, and return its path."""
        path = os.path.join(self._folder, name)
        remove_abandoned(self._folder, [name])
        self._tell(f"{source} → {path}")
        try:
            with MapFile(source, index) as sections:
                self.bytes += downsample_map(sections, self.plan, path)
        except DataError as error:
            raise DataError(f"{source}: {error}") from error
        except OSError as error:
            megabytes = 4 * self.plan.box_out**3 / 1e6
            raise DataError(
                f"{path}: the output cannot be written ({error.strerror or error}), expected a folder that can be "
                f"written to, with room for {megabytes:.0f} MB; check it, then continue the run"
            ) from error
        return path


def _moveOrigin(volume, plan):
    """Have Scipion's origin, which is where the first voxel stands in Å, go with the voxels; none stays none."""
    if volume.hasOrigin():
        moved = moved_first_voxel(np.array(volume.getOrigin().getShifts(), dtype=float), plan)
        volume.getOrigin().setShifts(*moved.tolist())


def _scaleShifts(volume, plan):
    """Have the shifts of a volume's alignment, which are in voxels, go with the voxel size."""
    if volume.hasTransform():
        matrix = np.array(volume.getTransform().getMatrix(), dtype=float)
        matrix[:3, 3] *= plan.scale
        volume.getTransform().setMatrix(matrix)


def boxOf(volume, label):
    """Box (px) of a volume; DataError, under a label of the form, if its file cannot be read."""
    try:
        with MapFile(volume.getFileName(), volume.getIndex()) as sections:
            return sections.box
    except DataError as error:
        raise DataError(f"{label}, {volume.getFileName()}: {error}") from error


def boxLike(like):
    """Box (px) of particles or a volume to fit; DataError if their files cannot be read."""
    if isinstance(like, Volume):
        return boxOf(like, "Particles or volume to fit")
    return InputParticles(like).box()


def methodsSentence(plan, count):
    """What was done, as a sentence for a paper."""
    noun = ("mask" if plan.is_mask else "map") + ("s" if count > 1 else "")
    done = []
    if plan.box_out != plan.box_in or plan.resampled:
        how = "resampled in Fourier space" if plan.resampled else "cropped or padded"
        done.append(f"{how} to {plan.box_out} px ({plan.apix_out:.4g} Å/px)")
    done += filterWords(plan)
    return (
        f"{count} {noun} ({plan.box_in} px, {plan.apix_in:.4g} Å/px) {'were' if count > 1 else 'was'} "
        f"{' and '.join(done)} with scipion-em-downsample {__version__} in Scipion [delaRosaTrevin2016]."
    )
