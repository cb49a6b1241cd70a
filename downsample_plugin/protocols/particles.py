# SPDX-License-Identifier: GPL-3.0-or-later
"""The particles of an input, whether a set of particles or a set of classes is connected."""

from __future__ import annotations

import contextlib
import os
import sqlite3

from pwem.constants import ALIGN_NONE
from pwem.objects import Class2D, Class3D, Particle, SetOfClasses, SetOfParticles
from pyworkflow.mapper.sqlite import SqliteFlatMapperException

from ..errors import DataError
from ..files.image_readers import open_stack
from .set_columns import tableOf

PARTICLES_OR_CLASSES = "SetOfParticles,SetOfClasses2D,SetOfClasses3D"
# What Scipion itself keeps on a particle; some of it only where there is any
_STANDARD_ATTRIBUTES = {name for name, _ in Particle().getAttributes()} | {
    "_transform",
    "_ctfModel",
    "_acquisition",
    "_coordinate",
}


class InputParticles:
    """The particles of a set, or those in the enabled classes of a set of classes, class by class."""

    def __init__(self, source):
        """`source` is a SetOfParticles, a SetOfClasses2D or 3D, or None for a set that is not there."""
        self._source = source
        self._isClasses = isinstance(source, SetOfClasses)

    @property
    def exists(self):
        """Whether there is a set at all."""
        return self._source is not None

    def sets(self):
        """The set itself, or its enabled classes, but no empty ones: those may have no table that could be read."""
        if not self._isClasses:
            return iter([self._source] if self.exists and not self._source.isEmpty() else [])
        return (images for images in self._source.iterItems() if images.isEnabled() and not images.isEmpty())

    def first(self):
        """The first enabled particle, a copy, or None.

        Asked for alone: an iteration that is left half-way keeps others from writing to the set's file.
        """
        for images in self.sets():
            found = [item.clone() for item in images.iterItems(where="enabled=1", limit=1)]
            if found:
                return found[0]
        return None

    def byId(self):
        """The set whose particles can be had by their ids: of classes, the one that was classified; None if lost."""
        return self._source.getImages() if self._isClasses else self._source

    @property
    def count(self):
        """Number of particles, disabled ones too."""
        return sum(images.getSize() for images in self.sets())

    def countWhere(self, where):
        """Number of particles for which an SQL condition holds."""
        return sum(tableOf(images).count(where) for images in self.sets())

    @property
    def apix(self):
        """Pixel size (Å/px) of the images, which shifts are counted in too; 0 if the set does not know it."""
        rates = (images.getSamplingRate() for images in self.sets())
        return next((rate for rate in rates if rate), 0.0)

    @property
    def alignment(self):
        """Scipion's word for the sort of alignment, such as ALIGN_PROJ."""
        return next((images.getAlignment() for images in self.sets()), ALIGN_NONE)

    def files(self):
        """Names of all image files, sorted."""
        return sorted({name for images in self.sets() for name in images.getFiles()})

    def attributesOfPrograms(self):
        """Attributes that Scipion's own particles do not have, `_rln…`, `_xmipp_…` and such: {name: class of values}.

        Classes may differ in them: all are named. Not while the particles are iterated: that would end there.
        """
        return {
            name: type(value)
            for images in self.sets()
            for first in images.iterItems(limit=1)
            for name, value in first.getAttributes()
            if name not in _STANDARD_ATTRIBUTES
        }

    @property
    def areClasses(self):
        """Whether a set of classes is connected."""
        return self._isClasses

    @property
    def isOpen(self):
        """Whether more particles may come: the set is still being filled. Sets of classes are taken as they are."""
        return self.exists and not self._isClasses and self._source.isStreamOpen()

    def stamp(self):
        """What changes when anything is written to the set's file; None if there is no file yet."""
        found = []
        for suffix in ("", "-wal"):  # where some settings of SQLite have it written first
            with contextlib.suppress(FileNotFoundError):
                state = os.stat(self._source.getFileName() + suffix)
                found.append((suffix, state.st_mtime_ns, state.st_size))
        return found or None

    def reload(self):
        """Read the properties of the set anew from its file, where another protocol may be writing.

        Returns whether that could be done: a set without any particle has no tables yet, and a file may be locked.
        """
        if self.stamp() is None:
            return False
        try:
            self._source.close()
            self._source.load()
            self._source.loadAllProperties()
        except (sqlite3.OperationalError, SqliteFlatMapperException):
            return False
        return True

    def isSameSet(self, other):
        """Whether both are the same set of Scipion's."""
        return self._source.getFileName() == other._source.getFileName()

    def newOutput(self, folder):
        """An empty set for the particles of this input, with its properties; averages stay averages."""
        isPlain = not self._isClasses and not isinstance(self._source, (Class2D, Class3D))
        setClass = self._source.getClass() if isPlain else SetOfParticles
        output = setClass.create(folder, indexes=["_classId", "_micId"])
        output.copyInfo(next(self.sets()))
        return output

    def box(self):
        """The box in px: of the first image, or of another file if that one cannot be used.

        The set's own idea is wrong for files of the other byte order. Raises DataError if none can be used.
        """
        first = self.first()
        if first is None:
            raise DataError("the set is empty, expected one or more particles; connect another set.")
        try:
            return _boxOf(first.getFileName())
        except DataError:
            for path in self.files():
                with contextlib.suppress(DataError):
                    return _boxOf(path)
            raise

    def bytesPerImage(self):
        """What the first image takes on disk, more or less: some formats are read as if they took 4 bytes a pixel."""
        with open_stack(self.first().getFileName()) as stack:
            return stack.box[0] * stack.box[1] * stack.dtype.itemsize

    def imageProblems(self, label):
        """Why the images cannot be worked on, by the first of them, as sentences; empty if they can."""
        first = self.first()
        if first is None:
            return [f"{label}: the set is empty, expected one or more particles; connect another set."]
        try:
            self.box()
            _checkImages(first.getFileName())
        except DataError as error:
            return [f"{label}, {first.getFileName()}: {error}"]
        return []


def _boxOf(path):
    with open_stack(path) as stack:
        return stack.square_box()


def _checkImages(path):
    """Raise DataError if a file holds maps. One that cannot be read is for the run to complain of."""
    try:
        stack = open_stack(path)
    except DataError:
        return
    with stack:
        stack.check_images()


def complete(item, attributes):
    """Give a particle those of the attributes that it lacks, without values: a set has one table."""
    for name, kind in attributes.items():
        if not item.hasAttribute(name):
            setattr(item, name, kind())
