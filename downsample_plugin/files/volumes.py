# SPDX-License-Identifier: GPL-3.0-or-later
"""Volumes and masks: reading them, and where their mass is."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..core.geometry import origin
from ..errors import DataError
from .maps import MapFile


def read_volume(path: str, index: int = 0) -> NDArray[np.float32]:
    """A volume (z, y, x), float32, of an MRC file or, through Xmipp's library, of another format.

    Parameters
    ----------
    path : the file; its name may end in ``:mrc``, as Scipion marks volumes of the suffix .mrcs
    index : number of the volume in a file of several, from 1, or 0 for a file that holds one

    Raises DataError if it cannot be read, is not a cube, or is not finite.
    """
    with MapFile(path, index) as sections:
        volume: NDArray[np.float32] = np.stack([sections[z] for z in range(len(sections))])
    if not np.isfinite(volume).all():
        raise DataError("the file has voxels that are not numbers, expected finite ones; create it again")
    return volume


def center_of_mass(volume: NDArray[np.float32], threshold: float) -> NDArray[np.float64]:
    """(x, y, z) of the centre of mass from the volume's origin, voxel ``B // 2``, in voxels.

    Voxels at or below the threshold count as nothing, those above by their value.

    Raises DataError if there is none above the threshold.
    """
    masses = np.where(volume > threshold, volume, 0).astype(np.float64)
    total = float(masses.sum())
    if not total > 0:
        raise DataError(
            f"no voxel is above {threshold:g} (the largest is {volume.max():.4g}), or their sum is 0, expected some "
            "mass to find the centre of; give another threshold"
        )
    voxels = np.arange(len(volume)) - origin(len(volume))
    along = [float(masses.sum(axis=axes) @ voxels) for axes in ((0, 1), (0, 2), (1, 2))]
    return np.array(along) / total
