# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the shifts of a run come from: the particles themselves or a connected set, in one interface."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from pwem.constants import ALIGN_2D, ALIGN_3D, ALIGN_NONE, ALIGN_PROJ
from pyworkflow.protocol import params
from pyworkflow.protocol.constants import LEVEL_ADVANCED

from ..core.alignment import Convention
from ..core.checks import LARGEST_NUMBER
from .set_columns import matricesOf, tableOf

MATRIX = "_transform._matrix"

CONVENTIONS_2D = [None, Convention.SHIFT_THEN_ROTATE, Convention.ROTATE_THEN_SHIFT]  # None: automatic


def addConventionParam(form):
    """Add to a form the choice of how 2D alignments are read: its value is the place in CONVENTIONS_2D."""
    form.addParam(
        "alignment2DConvention",
        params.EnumParam,
        choices=["automatic"] + [convention.value for convention in CONVENTIONS_2D if convention],
        default=0,
        expertLevel=LEVEL_ADVANCED,
        label="2D alignment convention",
        help="How a 2D alignment matrix stores the shift. RELION and cryoSPARC shift, then rotate; Xmipp rotates, "
        "then shifts. With the wrong convention, rotated particles move in the wrong direction. _automatic_ "
        "uses Xmipp's convention if the particles carry Xmipp's attributes (_xmipp_…), and RELION's otherwise; "
        "the summary says which one was used. 3D alignments need no choice.",
    )


class Aligned(NamedTuple):
    """Alignments of some particles.

    Attributes
    ----------
    texts : (n,) of their matrices as Scipion writes them, None for particles without
    matrices : (n, 4, 4), with shifts in pixels of the particles; nan where there is none or it cannot be read
    """

    texts: list
    matrices: np.ndarray

    @classmethod
    def fromTexts(cls, texts):
        """From the texts alone."""
        matrices = np.full((len(texts), 4, 4), np.nan)
        there = [place for place, text in enumerate(texts) if text is not None]
        if there:
            matrices[there] = matricesOf([texts[place] for place in there])
        return cls(texts, matrices)

    @property
    def areThere(self):
        """(n,) bool: whether a particle has one, usable or not."""
        return np.array([text is not None for text in self.texts], dtype=bool)


class OwnAlignment:
    """The alignment that the particles carry, if any.

    Attributes
    ----------
    name : which input this is, for people
    kind : Scipion's word for it, such as ALIGN_PROJ
    convention : how the matrices hold the shifts
    connected : whether it is a set of its own: particles that it lacks are left out
    """

    name = "the particles' own alignment"
    connected = False

    def __init__(self, particles, convention):
        """`particles` are InputParticles; `convention` of 2D alignments; None to choose by the items' attributes."""
        self._particles = particles
        first = particles.first()
        self.kind = ALIGN_NONE if first is None else particles.alignment
        self.convention = Convention.PROJECTION
        self._automatic = convention is None
        if self.kind == ALIGN_2D:
            self.convention = convention or _conventionOfItem(first)

    def problems(self, recentering):
        """Why the shifts cannot be had, as sentences; empty if they can."""
        if not recentering or self.kind in (ALIGN_PROJ, ALIGN_2D):
            return []
        if self.kind == ALIGN_3D:
            return [
                "Recenter using aligned shifts: the alignment of the particles is '3D', which is for volumes, "
                "expected 2D or projection alignment; connect alignments or switch recentring off."
            ]
        return [
            "Recenter using aligned shifts: the particles have no alignment, expected shifts to recentre by; "
            "connect Alignments 3D or Alignments 2D, or switch recentring off."
        ]

    def describe(self):
        """For summaries: the source, and for 2D which convention is used and why."""
        if self.kind != ALIGN_2D:
            return self.name
        return f"{self.name} (2D, {self.convention.value}: {'automatic' if self._automatic else 'as chosen'})"

    def caution(self, output):
        """For summaries: that later runs will read a set with this alignment wrongly, unless they are told."""
        first = output.getFirstItem()
        if self.kind == ALIGN_2D and first is not None and _conventionOfItem(first) is not self.convention:
            yield (
                f"Note: the shifts of the output are written as '{self.convention.value}', but nothing in its "
                "particles shows it; choose it as 2D alignment convention in later runs"
            )

    def of(self, block):
        """The alignments of the particles of a Block that was read with MATRIX, as Aligned."""
        return Aligned.fromTexts(block.texts(MATRIX))


class _ConnectedAlignment(OwnAlignment):
    """The alignment of another set, by particle id. Its pixel size may differ.

    Attributes
    ----------
    wanted : Scipion's word for the kind of alignment that it must have
    how : the same for people
    """

    connected = True
    wanted: str
    how: str

    def __init__(self, particles, convention, apix):
        """`particles` are those of the set; `apix` is the pixel size of the particles that are to be aligned by it."""
        super().__init__(particles, convention)
        self._apix = apix

    def problems(self, recentering):
        """Why the shifts cannot be had, as sentences; empty if they can."""
        if not self._particles.exists:
            return [
                f"{self.name}: the set does not exist yet, expected a finished output; run the protocol that "
                "creates it first."
            ]
        if self._particles.first() is None:
            return [f"{self.name}: the set is empty, expected aligned particles; connect another set."]
        if self.kind != self.wanted:
            return [
                f"{self.name}: the set has alignment '{self.kind}', expected '{self.wanted}'; connect a set that was "
                f"aligned {self.how}, or leave it empty."
            ]
        if not 0 < self._particles.apix < LARGEST_NUMBER:
            return [
                f"{self.name}: its sampling rate is {self._particles.apix:g} Å/px, expected the pixel size of its "
                "shifts; set its sampling rate first."
            ]
        return []

    def of(self, block):
        """The alignments that the set has for the particles of a Block, as Aligned, in pixels of the particles."""
        texts = dict.fromkeys(block.ids.tolist())
        for images in self._particles.sets():
            found = tableOf(images).rows(block.ids, (MATRIX,), "enabled=1")
            texts.update(zip(found.ids.tolist(), found.texts(MATRIX)))
        aligned = Aligned.fromTexts(list(texts.values()))
        aligned.matrices[:, :3, 3] *= self._particles.apix / self._apix
        return aligned


class Connected3D(_ConnectedAlignment):
    """What is connected to *Alignments 3D*."""

    name, wanted, how = "Alignments 3D", ALIGN_PROJ, "to a 3D reference"


class Connected2D(_ConnectedAlignment):
    """What is connected to *Alignments 2D*."""

    name, wanted, how = "Alignments 2D", ALIGN_2D, "in 2D"


def _conventionOfItem(item):
    """Xmipp's convention where an item carries Xmipp's attributes, RELION's otherwise."""
    if any(name.startswith("_xmipp_") for name, _ in item.getAttributes()):
        return Convention.ROTATE_THEN_SHIFT
    return Convention.SHIFT_THEN_ROTATE
