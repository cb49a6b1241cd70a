# SPDX-License-Identifier: GPL-3.0-or-later
"""Particles as they come: following sets that other protocols are still filling."""

from __future__ import annotations

import os
import time

import numpy as np

from ..engine.job import Job
from ..engine.job_writing import write_job
from ..engine.tables import ParticleBlock
from .alignments import MATRIX
from .set_columns import tableOf
from .wanted import FILE, INDEX, PLACE, wantedOf

BATCHES = "batches"  # folder of the jobs of what came at a time


class ParticleStream:
    """What an input set, and perhaps an alignment set, has that no batch has taken yet. Both may grow during the run.

    A particle that a connected alignment set does not have yet waits for it until that set is closed.

    Attributes
    ----------
    alignment : the alignment of what has been collected
    bad : BadParticles found so far in what has not been taken yet
    unaligned, disabled : number of particles passed over for good
    """

    def __init__(self, particles, connected):
        """`particles` and, if an alignment is connected, its set, as InputParticles."""
        self._particles, self._connected = particles, connected
        self._seen = _Ids()  # of all rows that were noted: in batches, ready, waiting, or passed over
        self._isSettled = self._isFresh = False
        self.alignment = None
        self.bad = []
        self._ready = []  # ParticleBlocks
        self._waiting = []  # Blocks of particles that have no alignment yet
        self._stamps = self._since = None
        self.unaligned = self.disabled = 0

    def passOver(self, ids):
        """Particles that batches have taken before."""
        self._seen.add(self._seen.without(np.unique(np.asarray(ids, dtype=np.int64))))

    def look(self):
        """Read anew what the sets say of themselves, if their files have changed; returns whether they had."""
        sources = [self._particles, *([self._connected] if self._connected else [])]
        stamps = [source.stamp() for source in sources]
        if stamps == self._stamps:
            return False
        isRead = all([source.reload() for source in sources])
        # what was written while it was read may be seen in part only: then another look is due
        self._isSettled = isRead and stamps == [source.stamp() for source in sources]
        self._stamps = stamps if self._isSettled else None
        self._isFresh = self._isFresh or isRead
        return isRead

    @property
    def isClosed(self):
        """Whether nothing more will come, as of the last look."""
        isOpen = self._particles.isOpen or bool(self._connected and self._connected.isOpen)
        return self._isSettled and not isOpen

    @property
    def hasNews(self):
        """Whether looks have found something that has not been collected."""
        return self._isFresh and not self.isEmpty

    @property
    def isEmpty(self):
        """Whether there is nothing to tell box and alignment by yet."""
        return self._particles.first() is None or bool(self._connected and self._connected.first() is None)

    def collect(self, alignment, plan):
        """Take note of particles that have become ready."""
        self.alignment, self._isFresh = alignment, False
        (images,) = self._particles.sets()
        waiting, self._waiting = self._waiting, []
        for block in waiting:
            self._note(images, block, plan)
        self._noteNew(images, f"id>{self._seen.largest}", plan)
        if self._seen.count < self._particles.count:  # some came with lower ids
            self._noteNew(images, "1", plan)
        if not (alignment.connected and self._connected.isOpen):
            self.unaligned += sum(map(len, self._waiting))
            self._waiting = []
        if self.readyCount and self._since is None:
            self._since = time.monotonic()

    def _noteNew(self, images, where, plan):
        """Take note of particles for which an SQL condition holds, but for those that were seen."""
        for block in tableOf(images).blocks((INDEX, FILE, MATRIX, *PLACE), where):
            isNew = np.isin(block.ids, self._seen.without(block.ids))
            self._seen.add(block.ids[isNew])
            self.disabled += int(np.count_nonzero(isNew & ~block.enabled))
            self._note(images, block.only(np.flatnonzero(isNew & block.enabled)), plan)

    def _note(self, images, block, plan):
        """Take note of enabled particles: they are ready, cannot be used, or wait for their alignment."""
        wanted = wantedOf(images, block, self.alignment, plan)
        self.bad += wanted.bad
        if len(wanted.places):
            self._ready.append(wanted.forJob())
        if len(wanted.lacking):
            self._waiting.append(block.only(wanted.lacking))

    @property
    def readyCount(self):
        """Number of particles that may be taken."""
        return sum(len(block.particle_ids) for block in self._ready)

    def take(self, count):
        """The first so many of the particles that are ready, by their ids, as a ParticleBlock; and the bad ones so far.

        They are taken then.
        """
        ready = _joined(self._ready)
        order = np.argsort(ready.particle_ids, kind="stable")
        taken, rest = _of(ready, order[:count]), _of(ready, order[count:])
        self._ready = [rest] if len(rest.particle_ids) else []
        bad, self.bad = self.bad, []
        self._since = time.monotonic() if self._ready else None
        return taken, bad

    def waited(self):
        """For how many seconds particles have been ready."""
        return 0.0 if self._since is None else time.monotonic() - self._since


class _Ids:
    """A set of ids, 8 bytes each."""

    def __init__(self):
        self._parts = []
        self.count, self.largest = 0, 0

    def add(self, ids):
        """Add ids (n,) that it does not have."""
        if len(ids):
            self._parts.append(ids)
            self.count += len(ids)
            self.largest = max(self.largest, int(ids.max()))

    def without(self, ids):
        """Those of ids (n,) that it does not have."""
        if not self.count or (len(ids) and ids.min() > self.largest):
            return ids
        self._parts = [np.concatenate(self._parts)]
        return ids[~np.isin(ids, self._parts[0])]


def _joined(blocks):
    """One ParticleBlock of several."""
    names: dict[str, int] = {}
    files = [
        np.array([names.setdefault(name, len(names)) for name in block.file_names])[block.files] for block in blocks
    ]
    columns = zip(*((block.particle_ids, block.image_indices, block.shifts) for block in blocks))
    ids, indices, shifts = (np.concatenate(column) for column in columns)
    return ParticleBlock(ids, np.concatenate(files), list(names), indices, shifts)


def _numbers(names, known):
    """Numbers of names; new ones are added to those that are known."""
    return np.array([known.setdefault(name, len(known)) for name in names], dtype=np.int32)


def _of(block, places):
    """The rows of a ParticleBlock at some places."""
    return block._replace(
        particle_ids=block.particle_ids[places],
        files=block.files[places],
        image_indices=block.image_indices[places],
        shifts=block.shifts[places],
    )


class Batches:
    """The jobs of a run: that of a set that was closed, and one for what has come at a time, each in its folder.

    Attributes
    ----------
    jobs : all of them, in their order
    bad : BadParticles of those that have been counted
    images, bytesOnDisk : of the output stacks of those
    """

    def __init__(self, folder):
        """Read those that are in a run's folder."""
        self._folder = os.path.join(folder, BATCHES)
        names = sorted(os.listdir(self._folder)) if os.path.isdir(self._folder) else []
        batches = [name for name in names if os.path.exists(Job.path_in(os.path.join(self._folder, name)))]
        paths = [Job.path_in(folder), *(Job.path_in(os.path.join(self._folder, name)) for name in batches)]
        self.jobs = [Job.read(path) for path in paths if os.path.exists(path)]
        self._number = int(batches[-1].split("_")[1]) if batches else 0  # of the last one
        self.bad, self.images, self.bytesOnDisk = [], 0, 0

    @staticmethod
    def areIn(folder):
        """Whether an open set was followed in a run's folder."""
        return os.path.isdir(os.path.join(folder, BATCHES))

    def write(self, plan, block, particlesPerStack, bad):
        """A new job for a ParticleBlock."""
        self._number += 1
        folder = os.path.join(self._folder, f"batch_{self._number:06d}")
        os.makedirs(folder, exist_ok=True)  # it may be there without a job, of a run that was killed just then
        self.jobs.append(write_job(folder, plan, [block], particlesPerStack, bad))
        return self.jobs[-1]

    def count(self, job):
        """Take note of what a job that is done has left."""
        self.bad += job.bad_particles(job.stacks)
        self.images += job.made_count
        self.bytesOnDisk += job.bytes_on_disk
