# SPDX-License-Identifier: GPL-3.0-or-later
"""Particles as they come: following sets that other protocols are still filling."""

from __future__ import annotations

import os
import time

from ..job import Job
from .alignments import particleRows

BATCHES = "batches"  # folder of the jobs of what came at a time


class ParticleStream:
    """What an input set, and perhaps an alignment set, has that no batch has taken yet. Both may grow meanwhile.

    A particle that a connected alignment set does not have yet waits for it until that set is closed.

    Attributes
    ----------
    alignment : the alignment of what has been collected
    ready : ParticleRows that may be taken, by their ids
    bad : BadParticles found so far in what has not been taken yet
    unaligned, disabled : number of particles passed over for good
    """

    def __init__(self, particles, connected):
        """`particles` and, if an alignment is connected, its set, as InputParticles."""
        self._particles, self._connected = particles, connected
        self._seen = set()  # in batches, ready, or passed over
        self._isSettled = self._isFresh = False
        self.alignment = None
        self.ready, self.bad = [], []
        self._stamps = self._since = None
        self.unaligned = self.disabled = 0

    def passOver(self, ids):
        """Particles that batches have taken before."""
        self._seen.update(ids)

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
        """Take note of particles that have become ready. The alignment is to be loaded."""
        self.alignment, self._isFresh = alignment, False
        mayCome = alignment.connected and self._connected.isOpen
        last = max(self._seen, default=0)
        self._scan(self._particles.allItems(f"id>{last}"), alignment, plan, mayCome)
        if len(self._seen) < self._particles.count:  # some came with lower ids, or wait for their alignment
            self._scan(self._particles.allItems(), alignment, plan, mayCome)
        self.ready.sort(key=lambda row: row.particle_id)
        if self.ready and self._since is None:
            self._since = time.monotonic()

    def _scan(self, items, alignment, plan, mayCome):
        for item in items:
            particleId = item.getObjId()
            if particleId in self._seen:
                continue
            if not item.isEnabled():
                self.disabled += 1
            else:
                before = len(self.bad)
                rows = list(particleRows([item], alignment, plan, self.bad))
                self.ready += rows
                if not rows and len(self.bad) == before:  # it has no alignment
                    if mayCome:
                        continue
                    self.unaligned += 1
            self._seen.add(particleId)

    def take(self, count):
        """The first so many rows that are ready, which are then taken; and the bad particles so far."""
        rows, self.ready = self.ready[:count], self.ready[count:]
        bad, self.bad = self.bad, []
        self._since = time.monotonic() if self.ready else None
        return rows, bad

    def waited(self):
        """For how many seconds particles have been ready."""
        return 0.0 if self._since is None else time.monotonic() - self._since


class Batches:
    """The jobs of a run: that of a set that was closed, and one for what has come at a time, each in its folder.

    Attributes
    ----------
    jobs : all of them, in their order
    bad : BadParticles of those that have been counted
    bytesOnDisk : of the output stacks of those
    """

    def __init__(self, folder):
        """Read those that are in a run's folder."""
        self._folder = os.path.join(folder, BATCHES)
        paths = [Job.path_in(folder), *(Job.path_in(os.path.join(self._folder, name)) for name in self._names())]
        self.jobs = [Job.read(path) for path in paths if os.path.exists(path)]
        self.bad, self.bytesOnDisk = [], 0

    @staticmethod
    def areIn(folder):
        """Whether an open set was followed in a run's folder."""
        return os.path.isdir(os.path.join(folder, BATCHES))

    def write(self, plan, rows, particlesPerStack, bad):
        """A new job."""
        last = max((name for name in self._names() if self._hasJob(name)), default=f"batch_{0:06d}")
        folder = os.path.join(self._folder, f"batch_{int(last.split('_')[1]) + 1:06d}")
        os.makedirs(folder, exist_ok=True)  # it may be there without a job, of a run that was killed just then
        self.jobs.append(Job.write(folder, plan, rows, particlesPerStack, bad))
        return self.jobs[-1]

    def count(self, job):
        """Take note of what a job that is done has left."""
        self.bad += job.bad_particles(job.stacks)
        self.bytesOnDisk += job.bytes_on_disk

    def _names(self):
        return sorted(os.listdir(self._folder)) if os.path.isdir(self._folder) else []

    def _hasJob(self, name):
        return os.path.exists(Job.path_in(os.path.join(self._folder, name)))
