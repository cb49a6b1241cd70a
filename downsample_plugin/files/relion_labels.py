# SPDX-License-Identifier: GPL-3.0-or-later
"""The labels of RELION's particles that depend on the pixel size, the box or the centre of their images.

``docs/star_files.md`` says what becomes of each, and why.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from ..core.plan import DownsamplePlan
from .star import Table

IMAGE, OPTICS_GROUP = "rlnImageName", "rlnOpticsGroup"
MAGNIFICATION, DETECTOR = "rlnMagnification", "rlnDetectorPixelSize"
IMAGE_PIXEL_SIZE, MICROGRAPH_PIXEL_SIZE = "rlnImagePixelSize", "rlnMicrographPixelSize"
ORIGINAL_PIXEL_SIZE, DIMENSIONALITY = "rlnMicrographOriginalPixelSize", "rlnImageDimensionality"
#: the image that a particle was in the first place, and by how much (Å) its content was moved since, in x and y
RECORD = ("downsampleImage", "downsampleShiftXAngst", "downsampleShiftYAngst")

#: px, of the whole group
BOXES = ("rlnImageSize", "rlnImageSizeX", "rlnImageSizeY")
#: Å/px, of the whole group
PIXEL_SIZES = (
    IMAGE_PIXEL_SIZE,
    "rlnPixelSize",
    "rlnSamplingRate",
    "rlnSamplingRateX",
    "rlnSamplingRateY",
    "rlnSamplingRateZ",
)
#: what the pixel size of a group is taken from, if there is no magnification
PIXEL_SIZES_READ = (IMAGE_PIXEL_SIZE, "rlnPixelSize")
#: values that particles of a group have in common: they tell the groups apart
OF_GROUP = (
    OPTICS_GROUP,
    MAGNIFICATION,
    DETECTOR,
    *PIXEL_SIZES,
    *BOXES,
    DIMENSIONALITY,
    MICROGRAPH_PIXEL_SIZE,
    ORIGINAL_PIXEL_SIZE,
)

#: origins by label: number of the axis
ORIGINS_ANGSTROM = {f"rlnOrigin{axis}{prior}Angst": n for n, axis in enumerate("XY") for prior in ("", "Prior")}
ORIGINS_PIXELS = {f"rlnOrigin{axis}{prior}": n for n, axis in enumerate("XY") for prior in ("", "Prior")}
#: px of the image; recentring does not change them
LENGTHS_PIXELS = ("rlnOriginZ", "rlnOriginZPrior", "rlnHelicalTrackLength")
#: what a refinement finds, beside origins
REFINED = (
    *(f"rlnAngle{angle}{prior}" for angle in ("Rot", "Tilt", "Psi") for prior in ("", "Prior")),
    "rlnAnglePsiFlip",
    "rlnAnglePsiFlipRatio",
    "rlnAngleRotFlipRatio",
    "rlnClassNumber",
    "rlnRandomSubset",
    "rlnNormCorrection",
    "rlnLogLikeliContribution",
    "rlnMaxValueProbDistribution",
    "rlnNrOfSignificantSamples",
)
#: px of the micrograph
COORDINATES = {"rlnCoordinateX": 0, "rlnCoordinateY": 1}
#: what belongs to an image, and to no other one that is made of it or that it was made of
OF_IMAGE = (IMAGE, "rlnImageOriginalName", *OF_GROUP, *LENGTHS_PIXELS, *COORDINATES, *RECORD)
#: numbers of each particle that must be numbers
OF_PARTICLE = (*ORIGINS_ANGSTROM, *ORIGINS_PIXELS, *LENGTHS_PIXELS, *COORDINATES, *RECORD[1:])

#: what stands for more than the particle's image, which the output would have wrong
TOMOGRAPHY = ("rlnTomo", "rlnCenteredCoordinate")
BODIES = "images_body_"  # blocks of a multi-body refinement, a row for each particle
NOMINAL_MAGNIFICATION = 10000.0  # where there is none: the detector's µm are then the image's Å


def refusal(table: Table) -> str | None:
    """Why particles with such a table, or an optics table, are refused; None if they are not."""
    if "rlnReconstructImageName" in table.labels:
        return (
            "rlnReconstructImageName: got a second image for each particle, expected rlnImageName alone; remove the "
            "column, or downsample those images with a STAR file of their own"
        )
    for label in table.labels:
        if label.startswith(TOMOGRAPHY):
            return f"{label}: got particles from tomograms, expected images from micrographs; give a file of those"
    if table.block.startswith(BODIES):
        return (
            f"data_{table.block}: got a multi-body refinement, expected one body; remove these tables, or give the "
            "STAR file of the preceding refinement"
        )
    if set(RECORD) & set(table.labels) and not set(RECORD) <= set(table.labels):
        missing = ", ".join(label for label in RECORD if label not in table.labels)
        return (
            f"the record of an earlier run is incomplete: {missing} missing, expected {', '.join(RECORD)}; remove its "
            "columns"
        )
    return None


def new_group_values(values: Mapping[str, str], magnification: float | None, plan: DownsamplePlan) -> dict[str, str]:
    """New values for labels that a group has in common, from those it has; without those that are right already.

    The detector's pixel size means nothing without a magnification, and stays then.
    """
    new: dict[str, str] = dict.fromkeys(BOXES, str(plan.box_out))
    new.update(dict.fromkeys(PIXEL_SIZES, f"{plan.apix_out:.9g}"))
    if magnification is not None:
        new[DETECTOR] = detector_pixel_size(plan.apix_out, magnification)
    return {
        label: text
        for label, text in new.items()
        if label in values and not math.isclose(float(values[label]), float(text), rel_tol=1e-8)
    }


def detector_pixel_size(apix: float, magnification: float) -> str:
    """The detector's pixel size (µm) that goes with an image's (Å/px)."""
    return f"{apix * magnification / 1e4:.9g}"
