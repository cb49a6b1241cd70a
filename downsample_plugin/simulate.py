# SPDX-License-Identifier: GPL-3.0-or-later
"""Simulated particles whose truth is known in closed form: projections of three-dimensional Gaussians.

A Gaussian blob projects to a Gaussian whatever the direction, so its image on any grid is a formula: no
interpolation and no Fourier transform stands between the truth and a test.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .core.geometry import origin

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Phantom:
    """Gaussian blobs: centres (count, 3) in Å from the origin, sigmas (count,) in Å, heights (count,)."""

    centers: Array
    sigmas: Array
    heights: Array

    def project(self, rotation: ArrayLike, shift: ArrayLike, box: int, apix: float) -> Array:
        """Projection along z after a rotation, as an image (box, box), float64.

        The particle stands at ``box // 2 - shift``: `shift` (sx, sy), in px of this image, brings it to the origin.
        """
        positions = self.centers @ np.asarray(rotation, dtype=np.float64).T
        s = np.asarray(shift, dtype=np.float64) * apix
        pixels = (np.arange(box) - origin(box)) * apix
        image = np.zeros((box, box))
        for (x, y, _), sigma, height in zip(positions, self.sigmas, self.heights):
            along_x = np.exp(-((pixels - x + s[0]) ** 2) / (2 * sigma**2))
            along_y = np.exp(-((pixels - y + s[1]) ** 2) / (2 * sigma**2))
            image += height * along_y[:, None] * along_x[None, :]
        return image

    def volume(self, box: int, apix: float) -> Array:
        """The phantom itself, (box, box, box) as z, y, x, float64, with its origin at voxel ``box // 2``."""
        voxels = (np.arange(box) - origin(box)) * apix
        volume = np.zeros((box, box, box))
        for center, sigma, height in zip(self.centers, self.sigmas, self.heights):
            x, y, z = (np.exp(-((voxels - at) ** 2) / (2 * sigma**2)) for at in center)
            volume += height * z[:, None, None] * y[None, :, None] * x[None, None, :]
        return volume


def one_blob(sigma: float) -> Phantom:
    """A single blob at the origin: its centroid tells where a particle stands."""
    return Phantom(np.zeros((1, 3)), np.array([sigma]), np.ones(1))


def particle_phantom(radius: float, rng: np.random.Generator) -> Phantom:
    """A lumpy, asymmetric particle of about the given radius (Å)."""
    count = 12
    directions = rng.normal(size=(count, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    centers = directions * radius * rng.uniform(0.2, 0.8, size=(count, 1))
    centers -= centers.mean(axis=0)
    return Phantom(centers, radius * rng.uniform(0.12, 0.25, size=count), rng.uniform(0.5, 1.0, size=count))


def random_rotation(rng: np.random.Generator) -> Array:
    """A uniformly random rotation matrix (3, 3)."""
    q, r = np.linalg.qr(rng.normal(size=(3, 3)))
    q *= np.sign(np.diag(r))
    q[:, 0] *= np.linalg.det(q)
    rotation: Array = q
    return rotation


def in_plane_rotation(angle: float, mirror: bool = False) -> Array:
    """Rotation by an angle (radians) about the beam, (3, 3), with x mirrored if asked."""
    c, s = np.cos(angle), np.sin(angle)
    rotation = np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
    return rotation @ np.diag([-1.0, 1.0, 1.0]) if mirror else rotation


def contrast_transfer(
    box: int, apix: float, defocus: float, voltage: float = 300.0, cs: float = 2.7, amplitude_contrast: float = 0.1
) -> Array:
    """CTF on the half spectrum (box, box // 2 + 1); defocus in Å, voltage in kV, spherical aberration in mm.

    ``-sin(pi lambda defocus f^2 - pi/2 Cs lambda^3 f^4 + asin(amplitude contrast))`` with the relativistic
    electron wavelength.
    """
    volts = voltage * 1e3
    wavelength = 12.2643247 / np.sqrt(volts * (1.0 + volts * 0.978466e-6))  # Å
    f2 = np.fft.fftfreq(box, apix)[:, None] ** 2 + np.fft.rfftfreq(box, apix)[None, :] ** 2
    phase = np.pi * wavelength * defocus * f2 - 0.5 * np.pi * cs * 1e7 * wavelength**3 * f2**2
    transfer: Array = -np.sin(phase + np.arcsin(amplitude_contrast))
    return transfer


def micrograph_like(image: Array, transfer: Array, noise: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """An image as a microscope shows it: through the CTF, with white noise, dark particle made bright."""
    seen = np.fft.irfft2(-np.fft.rfft2(image) * transfer, s=image.shape)
    return (seen + rng.normal(scale=noise, size=image.shape)).astype(np.float32)
