# SPDX-License-Identifier: GPL-3.0-or-later
"""Analytic Gaussians rendered on both grids: the origin stays the origin, for every parity."""

import numpy as np
import pytest

from downsample_plugin.core import DownsamplePlan, downsample_images
from downsample_plugin.core.filters import butterworth
from downsample_plugin.core.plan import Recenter
from downsample_plugin.simulate import Phantom, in_plane_rotation, random_rotation

from .truth import blob_position

APIX = 1.5
TOLERANCE = 1e-5  # of the maximum


def balanced_phantom(seed=0):
    """Blobs whose integrals cancel: the mean of an image, which fills what lies outside, is zero."""
    rng = np.random.default_rng(seed)
    sigmas = np.array([6.5, 7.5, 7.0, 8.0])
    heights = np.array([1.0, -0.8, 0.9, 0.0])
    heights[-1] = -(heights * sigmas**2).sum() / sigmas[-1] ** 2
    return Phantom(rng.uniform(-12, 12, size=(4, 3)), sigmas, heights)


@pytest.mark.parametrize("box", [96, 97])
@pytest.mark.parametrize("crop", [80, 81, 96, 97, 120, 121])
@pytest.mark.parametrize("box_out", [50, 51, None])
@pytest.mark.parametrize(
    "recenter, shift",
    [
        (Recenter.NONE, (0, 0)),
        (Recenter.NONE, (1.5, -2.25)),
        (Recenter.WHOLE_PIXELS, (4.5, -3.4)),
        (Recenter.EXACT, (4.3, -3.75)),
    ],
)
def test_phantom_on_both_grids(box, crop, box_out, recenter, shift):
    phantom = balanced_phantom()
    rotation = random_rotation(np.random.default_rng(box))
    # a lowpass at 1 Å is 1 everywhere here: it lets a plan that changes nothing pass
    plan = DownsamplePlan(
        box, APIX, crop_size=crop, fourier_crop_size=box_out, recenter=recenter, lowpass_resolution=1.0
    )
    image = phantom.project(rotation, shift, box, APIX)
    (found,), (applied,) = downsample_images(image[None], plan, [shift])
    left = (np.array(shift) - applied) * plan.scale
    expected = phantom.project(rotation, left, plan.box_out, plan.apix_out)
    assert np.abs(found - expected).max() < TOLERANCE * np.abs(image).max()


@pytest.mark.parametrize("box, crop, box_out", [(96, 96, 48), (97, 97, 48), (97, 97, 49), (96, 96, 49), (97, 80, 41)])
def test_exact_recentring_puts_the_particle_at_the_origin(box, crop, box_out):
    phantom = Phantom(np.zeros((1, 3)), np.array([6.0]), np.ones(1))
    shifts = np.random.default_rng(3).uniform(-8, 8, size=(6, 2))
    images = np.stack([phantom.project(np.eye(3), s, box, APIX) for s in shifts])
    plan = DownsamplePlan(box, APIX, crop_size=crop, fourier_crop_size=box_out, recenter=Recenter.EXACT)
    found, _ = downsample_images(images, plan, shifts)
    for image in found:
        assert blob_position(image) == pytest.approx([0, 0], abs=0.002)


def test_rotating_first_or_last_is_the_same():
    """Downsampling commutes with a turn of the phantom by 90 degrees, pixel for pixel on an odd box."""
    phantom = balanced_phantom(4)
    plan = DownsamplePlan(97, APIX, fourier_crop_size=49)
    images = [phantom.project(in_plane_rotation(a), (0, 0), 97, APIX) for a in (0, np.pi / 2)]
    (plain, turned), _ = downsample_images(np.stack(images), plan)
    assert np.abs(np.rot90(plain, -1) - turned).max() < 1e-6


def test_lowpass_of_a_gaussian_against_its_transform():
    """A Gaussian filtered by the formula: the integral of its transform times the gain, summed directly."""
    box, sigma, resolution = 64, 5.0, 12.0
    image = Phantom(np.zeros((1, 3)), np.array([sigma]), np.ones(1)).project(np.eye(3), (0, 0), box, APIX)
    plan = DownsamplePlan(box, APIX, lowpass_resolution=resolution)
    (found,), _ = downsample_images(image[None], plan)
    frequency = (np.arange(box) - box // 2) / (box * APIX)
    fy, fx = np.meshgrid(frequency, frequency, indexing="ij")
    transform = 2 * np.pi * sigma**2 * np.exp(-2 * np.pi**2 * sigma**2 * (fx**2 + fy**2))
    transform *= butterworth(np.hypot(fx, fy), 1 / resolution, 8)
    turn = np.exp(2j * np.pi * np.outer((np.arange(box) - box // 2) * APIX, frequency))
    expected = (turn @ transform @ turn.T).real / (box * APIX) ** 2
    assert np.abs(found - expected).max() < TOLERANCE
