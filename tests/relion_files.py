# SPDX-License-Identifier: GPL-3.0-or-later
"""STAR files as RELION 3.1 leaves them after a refinement, of simulated particles whose truth is known."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from .scipion_sets import write_stack

BOX, APIX, MICROGRAPH_APIX = 64, 2.806, 1.403
OPTICS = f"""
# version 30001

data_optics

loop_~
_rlnOpticsGroup #1~
_rlnOpticsGroupName #2~
_rlnAmplitudeContrast #3~
_rlnSphericalAberration #4~
_rlnVoltage #5~
_rlnImagePixelSize #6~
_rlnMicrographOriginalPixelSize #7~
_rlnImageSize #8~
_rlnImageDimensionality #9~
           1 opticsGroup1     0.100000     2.700000   300.000000 {APIX:12.6f} {MICROGRAPH_APIX:12.6f} {BOX:12d} 2~
~
""".replace("~", " ")  # RELION leaves a blank at the end of these lines
LABELS = [
    "CoordinateX",
    "CoordinateY",
    "ImageOriginalName",
    "MicrographName",
    "CtfMaxResolution",
    "CtfFigureOfMerit",
    "DefocusU",
    "DefocusV",
    "DefocusAngle",
    "CtfBfactor",
    "CtfScalefactor",
    "PhaseShift",
    "AngleRot",
    "AngleTilt",
    "AnglePsi",
    "ClassNumber",
    "NormCorrection",
    "RandomSubset",
    "LogLikeliContribution",
    "MaxValueProbDistribution",
    "NrOfSignificantSamples",
    "ImageName",
    "OpticsGroup",
    "OriginXAngst",
    "OriginYAngst",
    "GroupNumber",
]


class Refined(NamedTuple):
    """What stands in a row: place (px of the micrograph), angles (degrees), shift (Å)."""

    place: np.ndarray
    angles: np.ndarray
    shift: np.ndarray


def write_refined(folder, count=5, largest_shift=0.7, seed=6):
    """Write ``refined.star`` and ``refined.mrcs``, white noise, in a folder; returns what stands in the rows.

    Shifts are below `largest_shift` Å: by default under half a pixel, as a refinement of centred particles leaves them.
    """
    rng = np.random.default_rng(seed)
    write_stack(str(Path(folder, "refined.mrcs")), rng.normal(size=(count, BOX, BOX)))
    found = [
        Refined(
            rng.integers(100, 3800, size=2).astype(float),
            np.round(rng.uniform(-180, 180, size=3) * (1, 0.5, 1), 6),
            np.round(rng.uniform(-largest_shift, largest_shift, size=2), 6),
        )
        for _ in range(count)
    ]
    head = "\n# version 30001\n\ndata_particles\n\nloop_ \n"
    head += "".join(f"_rln{label} #{i} \n" for i, label in enumerate(LABELS, start=1))
    rows = "".join(_row(i, *each) for i, each in enumerate(found, start=1))
    Path(folder, "refined.star").write_text(OPTICS + head + rows + " \n")
    return found


def _row(number, place, angles, shift):
    micrograph = "Micrographs/FoilHole_10984848_Data_10985376_10985377_20180810_2123-144102_DW.mrc"
    values = [
        *(f"{x:12.6f}" for x in place),
        f"{number:06d}@Extract/job133/{micrograph}s",
        micrograph,
        "    4.545000     0.089249 13108.082418 12845.582418   -160.39000     0.000000     1.000000     0.000000",
        *(f"{x:12.6f}" for x in angles),
        "           1     0.891387            1 2.586789e+05     0.051189          450",
        f"{number:06d}@refined.mrcs            1",
        *(f"{x:12.6f}" for x in shift),
        "           1 ",
    ]
    return " ".join(values) + "\n"
