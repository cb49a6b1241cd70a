# SPDX-License-Identifier: GPL-3.0-or-later
"""Particles that a protocol cannot take over: counted for the summary, and listed in a file."""

from __future__ import annotations

import os

from ..errors import DataError
from ..tables import BadParticle, write_bad_particles


class LeftOut:
    """Particles left out of an output, each with its reason; listed in ``left_out_particles.star``."""

    def __init__(self, folder):
        self.path = os.path.join(folder, "left_out_particles.star")
        self._particles = []

    def add(self, particle, reason):
        """Note that a particle is left out, and why."""
        row = BadParticle(particle.getObjId(), particle.getIndex(), particle.getFileName(), str(reason))
        self._particles.append(row)

    def close(self, output):
        """Write the list; an old one goes. DataError if nothing is left for the output set."""
        if self._particles:
            write_bad_particles(self.path, self._particles)
        elif os.path.exists(self.path):
            os.remove(self.path)
        if not output.getSize():
            raise DataError(
                f"All {len(self._particles)} particles are left out, expected some that can be used. The first: "
                f"{self._particles[0]}\nAll are listed in {self.path}"
            )

    def describe(self, what):
        """A line for the summary if there are any, `what` they are included."""
        if self._particles:
            yield f"Left out: {len(self._particles)} particles {what}, listed in {self.path}"
