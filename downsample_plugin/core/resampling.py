# SPDX-License-Identifier: GPL-3.0-or-later
"""Maps and masks through a whole plan: window, Fourier crop or Fourier padding, filters.

A map is taken as a trigonometric polynomial about its origin, voxel ``B // 2``, cut at the Nyquist frequency of the
output in x, y and z and sampled on the grid of the output. Without a filter that is one matrix along each axis, whose
entries have a closed form, for any ratio of the two pixel sizes. A filter is radial, and takes the spectrum
of what came out. Sums are in float64; what stays in memory is float32, and it is the box that is being made by
the sections that are being read.

Values keep their scale, as those of particles do: so sums along z times the voxel size, which are the projections,
are what the same plan makes of the projections.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from .filters import plan_gain
from .geometry import origin, window_slices
from .volume_plan import VolumePlan

BYTES_AT_ONCE = 1 << 22  # of float64 or complex128, beside the map
LARGEST_OF_MASK, SMALLEST_OF_MASK = 1.5, -0.5  # a filter or a Fourier crop may ring so far beyond 0 and 1


class Sections(Protocol):
    """A map as its z sections, from 0: an array (B, B, B), or what reads them from a file one by one."""

    def __len__(self) -> int: ...

    def __getitem__(self, z: int, /) -> NDArray[Any]: ...


class Survey(NamedTuple):
    """What a look at all voxels tells: extremes, and the mean of the outermost layer, which is the background."""

    smallest: float
    largest: float
    border: float


def survey(sections: Sections) -> Survey:
    """Look at all voxels of a map. Raises DataError if one is not finite, or too large for float32."""
    box = len(sections)
    smallest, largest = np.inf, -np.inf
    border = 0.0
    for z in range(box):
        section = sections[z]
        low, high = float(section.min()), float(section.max())
        if not (np.isfinite(low) and np.isfinite(high)):
            y, x = np.argwhere(~np.isfinite(section))[0]
            raise DataError(
                f"voxels that are not numbers, the first at x = {x}, y = {y}, z = {z} ({section[y, x]}), expected "
                "none; create the map again"
            )
        smallest, largest = min(smallest, low), max(largest, high)
        total = section.sum(dtype=np.float64)
        inside = section[1:-1, 1:-1].sum(dtype=np.float64) if 0 < z < box - 1 else 0.0
        border += float(total - inside)
    return Survey(smallest, largest, border / (box**3 - (box - 2) ** 3))


def downsample_sections(sections: Sections, plan: VolumePlan) -> Iterator[NDArray[np.float32]]:
    """The sections (n, n) of what a plan makes of a map, float32, one after the other.

    Parameters
    ----------
    sections : of the map, N of (N, N), rows are y; any real dtype
    plan : without problems

    Raises DataError if voxels are not finite, or are not those of a mask where the plan says so.
    """
    found = survey(sections)
    if plan.is_mask and not (found.smallest >= SMALLEST_OF_MASK and found.largest <= LARGEST_OF_MASK):
        raise DataError(
            f"voxels from {found.smallest:.4g} to {found.largest:.4g}, expected 0 to 1, as in a mask; rescale it, or "
            "give it as a map"
        )
    outside = 0.0 if plan.is_mask else found.border
    for section in _sections_of(sections, plan, outside):
        yield np.clip(section, 0, 1) if plan.is_mask else section


def downsample_volume(sections: Sections, plan: VolumePlan) -> NDArray[np.float32]:
    """What a plan makes of a map, as z, y, x: (n, n, n), float32. Input and errors as of ``downsample_sections``."""
    return np.stack(list(downsample_sections(sections, plan)))


def _sections_of(sections: Sections, plan: VolumePlan, outside: float) -> Iterator[NDArray[np.float32]]:
    axis = _Axis(plan)
    if not plan.resampled and not plan.filtered:
        yield from _windows(sections, axis, outside)
        return
    # Without its level, float32 keeps its digits for the contrast; and nothing needs be done to pad it
    work = _resampled(sections, axis, outside, plan.filtered)
    if plan.filtered:
        _filter(work, plan)
    level = outside * float(plan_gain(plan, 0.0))
    for z in range(plan.box_out):
        with np.errstate(over="ignore"):
            yield (work[z, :, : plan.box_out] + level).astype(np.float32)


class _Axis:
    """What becomes of a map along any one of its axes."""

    def __init__(self, plan: VolumePlan):
        self.box = plan.box_out
        #: the voxels that the window has of the input, and their places in the window
        self.taken, self.placed = window_slices(plan.box_in, plan.box_crop, 0)
        #: (n, taken), or None where the window is the output
        self.matrix: NDArray[np.float64] | None = None
        if plan.resampled:
            to = (np.arange(plan.box_out) - origin(plan.box_out)) * plan.step
            at = np.arange(self.taken.start, self.taken.stop) - origin(plan.box_in)
            self.matrix = interpolation(to[:, None] - at[None, :], plan.box_crop, plan.kept)

    @property
    def depth(self) -> int:
        """Number of voxels that are taken."""
        return len(range(self.taken.start, self.taken.stop))

    def along_first(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """What becomes of voxels (taken, …) along the first axis: (n, …); 0 outside the input."""
        if self.matrix is not None:
            return self.matrix @ values
        padded = np.zeros((self.box, *values.shape[1:]))
        padded[self.placed] = values
        return padded


def interpolation(distance: NDArray[np.float64], period: int, count: int) -> NDArray[np.float64]:
    """What a sample counts at a distance (in samples) from it, for a polynomial of `count` Fourier terms.

    Dirichlet's kernel, ``sin(pi count t / period) / (period sin(pi t / period))`` for an odd count. With an even one
    the terms at both ends count half, which has ``tan`` in the place of the second ``sin``.
    """
    t = distance - period * np.rint(distance / period)
    angle = np.pi * t / period
    below = np.sin(angle) if count % 2 else np.tan(angle)
    at_zero = np.abs(below) < 1e-200
    kernel: NDArray[np.float64] = np.sin(count * angle) / np.where(at_zero, 1.0, below)
    kernel[at_zero] = count
    return kernel / period


def _windows(sections: Sections, axis: _Axis, outside: float) -> Iterator[NDArray[np.float32]]:
    """Cropped or padded, and nothing else: values are copied."""
    for z in range(axis.box):
        window = np.full((axis.box, axis.box), outside, dtype=np.float32)
        if axis.placed.start <= z < axis.placed.stop:
            section = sections[z - axis.placed.start + axis.taken.start]
            window[axis.placed, axis.placed] = section[axis.taken, axis.taken]
        yield window


def _resampled(sections: Sections, axis: _Axis, outside: float, for_filter: bool) -> NDArray[np.float32]:
    """A map without its level, resampled: the first n sections (n, n) of an array, whose rows have room for spectra."""
    n = axis.box
    width = 2 * (n // 2 + 1) if for_filter else n
    work = np.zeros((max(axis.depth, n), n, width), dtype=np.float32)
    for place, z in enumerate(range(axis.taken.start, axis.taken.stop)):
        section = sections[z][axis.taken, axis.taken].astype(np.float64) - outside
        work[place, :, :n] = axis.along_first(axis.along_first(section).T).T
    columns = work.reshape(len(work), -1)
    at_once = max(BYTES_AT_ONCE // (8 * len(work)), 1)
    for start in range(0, columns.shape[1], at_once):
        some = slice(start, start + at_once)
        columns[:n, some] = axis.along_first(columns[: axis.depth, some].astype(np.float64))
    return work


def _filter(work: NDArray[np.float32], plan: VolumePlan) -> None:
    """Filter the map in the first n sections and columns of an array, in its place."""
    n = plan.box_out
    spectra = work[:n].view(np.complex64)  # (n, n, n // 2 + 1): z, ky, kx, then kz, ky, kx
    for z in range(n):
        spectra[z] = np.fft.rfft2(work[z, :, :n].astype(np.float64), norm="forward")
    kx, k = np.arange(n // 2 + 1), np.fft.fftfreq(n, 1.0 / n)
    at_once = max(BYTES_AT_ONCE // (16 * n * len(kx)), 1)
    for start in range(0, n, at_once):
        rows = slice(start, start + at_once)
        radius = np.sqrt(k[:, None, None] ** 2 + k[None, rows, None] ** 2 + kx[None, None, :] ** 2)
        columns = np.fft.fft(spectra[:, rows].astype(np.complex128), axis=0) * plan_gain(
            plan, radius / (n * plan.apix_out)
        )
        spectra[:, rows] = np.fft.ifft(columns, axis=0)
    for z in range(n):
        work[z, :, :n] = np.fft.irfft2(spectra[z].astype(np.complex128), s=(n, n), norm="forward")
