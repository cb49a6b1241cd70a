"""A map from aligned particles, by filtered back-projection, and its resolution against another."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

UPSAMPLED = 4  # so fine that splines between pixels are as good as exact


def reconstruct(particles, box, apix, nyquist):
    """The map (z, y, x) of particles: (image, apix, rotation, shift s), on a grid of its own, up to 1/nyquist Å.

    Point p of the reference stands at R p - s in the image. Each image is weighted by its frequency's radius and
    smeared along its beam.
    """
    grid = (np.arange(box) - box // 2) * apix
    z, y, x = np.meshgrid(grid, grid, grid, indexing="ij")
    points = np.stack([x.ravel(), y.ravel(), z.ravel()])
    volume = np.zeros(box**3)
    for image, image_apix, rotation, shift in particles:
        fine, origin, fine_apix = _filtered(image.astype(np.float64), image_apix, nyquist)
        at = (rotation @ points)[:2] - np.multiply(shift, image_apix)[:, None]
        volume += ndimage.map_coordinates(fine, (at / fine_apix)[::-1] + origin, order=3, mode="nearest")
    return volume.reshape(box, box, box) / len(particles)


def _filtered(image, apix, nyquist):
    """The image with the ramp, upsampled by padding its transform about its origin."""
    box = len(image)
    spectrum = np.fft.fft2(np.fft.ifftshift(image - image.mean()))  # ifftshift puts pixel box // 2 first
    f = np.fft.fftfreq(box, apix)
    radius = np.hypot(f[:, None], f[None, :])
    spectrum *= radius * (radius <= 1 / nyquist)
    fine_box = UPSAMPLED * box
    padded = np.zeros((fine_box, fine_box), dtype=complex)
    k = np.fft.fftfreq(box, 1 / box).astype(int)
    padded[np.ix_(k, k)] = spectrum
    fine = np.fft.fftshift(np.fft.ifft2(padded).real) * UPSAMPLED**2
    return fine, fine_box // 2, apix / UPSAMPLED


def fourier_shell_correlation(one, other):
    """Correlation of two maps in shells of one Fourier pixel, from 1 to box // 2."""
    a, b = np.fft.fftn(one), np.fft.fftn(other)
    k = np.fft.fftfreq(len(one), 1 / len(one))
    shell = np.rint(np.sqrt(k[:, None, None] ** 2 + k[None, :, None] ** 2 + k[None, None, :] ** 2)).astype(int)

    def summed(values):
        return np.bincount(shell.ravel(), values.ravel())[1 : len(one) // 2 + 1]

    return summed((a * b.conj()).real) / np.sqrt(summed(np.abs(a) ** 2) * summed(np.abs(b) ** 2))
