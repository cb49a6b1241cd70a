# SPDX-License-Identifier: GPL-3.0-or-later
"""Files of maps and masks: read section by section, downsampled, and written under their names when whole.

In the MRC format a map is a stack of sections whose header says that it is one volume.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
from mrcfile.dtypes import HEADER_DTYPE
from numpy.typing import NDArray

from ..core.downsampler import FLOAT16_MAX
from ..core.geometry import origin
from ..core.resampling import downsample_sections
from ..core.statistics import STATISTICS, image_statistics
from ..core.volume_plan import VolumePlan
from ..errors import DataError, InputError
from .fingerprints import FileState, difference, file_state
from .library_readers import XMIPP_SUFFIXES
from .mrc_reader import MrcReader
from .stack_writer import new_header
from .whole_files import whole_binary_file

SUFFIXES_OF_XMIPP = (".vol", *XMIPP_SUFFIXES)
MRC_MARK = ":mrc"  # how Scipion marks volumes in files of the suffix .mrcs
SUFFIX_OF_STACKS = ".mrcs"
VOXELS_DIFFER = 1e-3  # relative


class MapFile:
    """A map in a file, section by section: ``len`` of it is its box, ``[z]`` a section (B, B). A context manager.

    Attributes
    ----------
    box : px
    apix : voxel size (Å) that the header gives; it may be 0 or wrong
    first_voxel : (x, y, z) in Å of the centre of the first voxel, as the header gives it
    """

    def __init__(self, path: str, index: int = 0):
        """Open a map, of the number `index` (from 1) in a file of several, or 0 for a file that holds one.

        `path` may end in ``:mrc``. Raises DataError, which does not name the file, if it cannot be read or holds no
        cubic map.
        """
        self._mrc: MrcReader | None = None
        self._first = 0
        is_marked = path.endswith(MRC_MARK)
        self._path = plain = path[: -len(MRC_MARK)] if is_marked else path
        if plain.lower().endswith(SUFFIXES_OF_XMIPP):
            #: what the file was when it was opened
            self.state = file_state(plain)
            self._sections: Any = _read_by_xmipp(plain, index)
            self.box, self.apix, self.first_voxel = len(self._sections), 0.0, np.zeros(3)
            return
        self._mrc = MrcReader(plain)
        self.state = self._mrc.state
        try:
            if not (is_marked or index):  # else whoever names it knows that it is a volume
                self._refuse_images(is_stack_by_name=plain.lower().endswith(SUFFIX_OF_STACKS))
            self._look_at_header(index)
        except BaseException:
            self._mrc.close()
            raise

    def __enter__(self) -> MapFile:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._mrc is not None:
            self._mrc.close()

    def __len__(self) -> int:
        return self.box

    def __getitem__(self, z: int) -> NDArray[Any]:
        if self._mrc is None:
            section: NDArray[Any] = self._sections[z]
            return section
        return self._mrc.read(self._first + z).astype(np.float32)

    def check_unchanged(self, before: FileState | None) -> None:
        """Raise InputError, which does not name the file, if it was another before, or is another now."""
        found = difference(before, self.state) or difference(self.state, file_state(self._path))
        if found:
            raise InputError(f"{found} during the run, expected the same file until its end; start the run again")

    def _refuse_images(self, is_stack_by_name: bool) -> None:
        assert self._mrc is not None
        header, count = self._mrc.header, self._mrc.count
        if is_stack_by_name or (header["ispg"] == 0 and header["mz"] == 1 and count > 1):
            raise DataError(
                f"the file is a stack of {count} images, according to its {'name' if is_stack_by_name else 'header'}, "
                "expected a map or mask; use downsample-particles for images, and rename a volume to .mrc"
            )

    def _look_at_header(self, index: int) -> None:
        assert self._mrc is not None
        header, (columns, rows), count = self._mrc.header, self._mrc.box, self._mrc.count
        self.box, self._first = columns, max(index - 1, 0) * columns
        if rows != columns or count % columns or self._first + columns > count:
            raise DataError(
                f"the file has {columns} x {rows} x {count} voxels, expected a cube for each volume; give a map or "
                "mask in the box of the refinement"
            )
        if not index and count > columns:
            raise DataError(f"the file has {count // columns} volumes, expected one; give them one by one")
        self.apix = self._mrc.apix
        self.first_voxel = _first_voxel(header, self.apix)
        sizes = [float(header["cella"][axis]) / max(int(header[f"m{axis}"]), 1) for axis in "xyz"]
        if all(sizes) and not np.allclose(sizes, sizes[0], rtol=VOXELS_DIFFER):
            raise DataError(
                f"the voxels are {' x '.join(f'{size:.5g}' for size in sizes)} Å, according to the header, expected "
                "cubic ones; correct the header, or resample the map"
            )


def downsample_map(source: MapFile, plan: VolumePlan, path: str, over: bool = True) -> int:
    """Write what a plan makes of a map to an MRC file, which is there when it is whole; returns its bytes.

    Raises DataError, which does not name the file, if the map cannot be used or changes meanwhile. Unless `over`, a
    file that is there is not written over.
    """
    if source.box != plan.box_in:
        raise DataError(
            f"the box is {source.box} px, expected {plan.box_in} px (that of the first); give maps with the same box, "
            "or give them one by one"
        )
    with whole_binary_file(path, over) as file:
        file.seek(HEADER_DTYPE.itemsize)
        statistics = np.empty(plan.box_out, dtype=STATISTICS)
        for z, stored in enumerate(_stored(source, plan)):
            statistics[z] = image_statistics(stored[None].astype(np.float32))[0]
            file.write(stored.tobytes())
        size: int = file.tell()
        file.seek(0)
        file.write(_header(source, plan, statistics).tobytes())
        source.check_unchanged(source.state)
    return size


def moved_first_voxel(first_voxel: NDArray[np.float64], plan: VolumePlan) -> NDArray[np.float64]:
    """Where the first voxel of the output stands, (x, y, z) in Å, for the origin voxel to stay where it is."""
    return first_voxel + origin(plan.box_in) * plan.apix_in - origin(plan.box_out) * plan.apix_out


def _stored(source: MapFile, plan: VolumePlan) -> Iterator[NDArray[Any]]:
    """The sections of the output as they go to the file."""
    for section in downsample_sections(source, plan):
        largest = float(np.abs(section).max())
        if not np.isfinite(largest):
            raise DataError(
                "voxel values too large for 32-bit arithmetic, expected numbers well below 1e38; rescale the map"
            )
        if plan.float16 and largest > FLOAT16_MAX:
            raise DataError(
                f"voxel value for 16-bit output: got {largest:.6g}, expected at most {FLOAT16_MAX:g} (the largest "
                "number in that format); save in 32 bits"
            )
        yield section.astype(np.float16 if plan.float16 else np.float32)


def _header(source: MapFile, plan: VolumePlan, statistics: NDArray[np.void]) -> NDArray[np.void]:
    """MRC2014 header of one volume: ispg 1, mz = nz, cubic voxels."""
    n = plan.box_out
    header = new_header(n, n, np.dtype(np.float16 if plan.float16 else np.float32), plan.apix_out, statistics)
    header["ispg"], header["mz"] = 1, n
    header["cella"]["z"] = n * plan.apix_out
    for axis, place in zip("xyz", moved_first_voxel(source.first_voxel, plan).tolist()):
        header["origin"][axis] = place if abs(place) > 1e-6 * plan.apix_out else 0.0
    return header


def _first_voxel(header: np.void, apix: float) -> NDArray[np.float64]:
    """Programs give the place of the first voxel in Å as the origin or, where that is 0, in voxels as the start."""
    place = np.array([float(header["origin"][axis]) for axis in "xyz"])
    if not place.any():
        place = np.array([float(header[f"n{axis}start"]) for axis in "xyz"]) * apix
    return place if np.isfinite(place).all() else np.zeros(3)


def _read_by_xmipp(path: str, index: int) -> NDArray[np.float32]:
    import xmippLib

    image = xmippLib.Image()
    try:
        os.close(os.open(path, os.O_RDONLY))
        image.read(f"{index}@{path}" if index else path)
        volume = np.asarray(image.getData(), dtype=np.float32)
    except OSError as error:
        raise DataError(
            f"the file cannot be opened ({error.strerror}), expected a volume; check that it exists and is readable"
        ) from error
    except Exception as error:  # the library raises anything
        raise DataError(
            f"Xmipp's library cannot read the file ({type(error).__name__}), expected a volume; convert it to MRC first"
        ) from error
    if volume.ndim != 3 or len(set(volume.shape)) > 1:
        raise DataError(f"the file has {volume.shape[::-1]} voxels, expected a cube; give a map or mask")
    return volume
