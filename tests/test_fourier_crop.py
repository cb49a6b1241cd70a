# SPDX-License-Identifier: GPL-3.0-or-later
"""The Fourier crop against the direct trigonometric sum in float64, on white noise."""

import numpy as np
import pytest

from downsample_plugin.core import DownsamplePlan, downsample_images
from downsample_plugin.core.plan import Recenter

from .scipion_sets import pairs
from .truth import trigonometric_resample, window

BOXES = [(32, 16), (32, 15), (31, 16), (31, 15), (32, 31), (31, 30), (33, 33), (32, 32), (48, 9), (49, 8)]


def noise(box, count=2, seed=0, mean=0.0):
    return (np.random.default_rng(seed).normal(size=(count, box, box)) + mean).astype(np.float32)


def close(found, expected, images, tolerance=1e-6):
    assert np.abs(found - expected).max() < tolerance * images.std()


@pytest.mark.parametrize("box, box_out", BOXES)
@pytest.mark.parametrize("shift", [(0, 0), (2, -3), (0.3, -0.4), (-1.75, 2.5)])
def test_exact_recentring_is_the_trigonometric_sum(box, box_out, shift):
    images = noise(box)
    plan = DownsamplePlan(box, 1.3, fourier_crop_size=box_out, recenter=Recenter.EXACT)
    found, applied = downsample_images(images, plan, np.tile(shift, (2, 1)))
    whole = np.sign(shift) * np.floor(np.abs(shift) + 0.5)
    for image, result, d in pairs(images, found, applied):
        # the whole pixels are a window, the rest a phase
        expected = trigonometric_resample(window(image, box, whole.astype(int)), box_out, shift - whole)
        close(result, expected, images)
        assert d == pytest.approx(shift, abs=1e-12)


@pytest.mark.parametrize("box, box_out", BOXES)
@pytest.mark.parametrize("crop", [24, 25, 40, 41])
@pytest.mark.parametrize("shift", [(0, 0), (2.5, -3.49), (20, 0)])
def test_crop_pad_and_whole_pixel_recentring(box, box_out, crop, shift):
    images = noise(box, mean=10)
    box_out = min(box_out, crop)
    plan = DownsamplePlan(box, 1.3, crop_size=crop, fourier_crop_size=box_out, recenter=Recenter.WHOLE_PIXELS)
    found, applied = downsample_images(images, plan, np.tile(shift, (2, 1)))
    whole = (np.sign(shift) * np.floor(np.abs(shift) + 0.5)).astype(int)
    assert np.array_equal(applied, np.tile(whole, (2, 1)))
    for image, result in pairs(images, found):
        # float32 itself rounds values of about 10 by up to 5e-7
        close(result, trigonometric_resample(window(image, crop, whole), box_out), images, 2e-6)


def test_white_noise_at_production_size():
    for box, box_out in ((256, 128), (255, 128), (257, 100)):
        images = noise(box, count=1)
        found, _ = downsample_images(images, DownsamplePlan(box, 1.0, fourier_crop_size=box_out))
        close(found[0], trigonometric_resample(images[0], box_out), images)


@pytest.mark.parametrize("box, crop", [(64, 64), (64, 90), (255, 301)])
def test_large_offset_does_not_cost_digits(box, crop):
    """Counts of a camera: mean 10000, deviation 1. Only the rounding of the result itself remains."""
    contrast = np.round(noise(box) * 1024) / 1024  # 10000 + contrast is exact in float32
    images = (10000 + contrast).astype(np.float32)
    found, _ = downsample_images(images, DownsamplePlan(box, 1.0, crop_size=crop, fourier_crop_size=32))
    expected = trigonometric_resample(window(contrast[0], crop), 32) + 10000
    assert np.abs(found[0] - expected).max() <= np.spacing(np.float32(10000)) / 2 + 1e-6


@pytest.mark.parametrize("box, box_out", [(32, 16), (31, 15), (32, 15), (31, 16), (32, 32)])
def test_reflection_commutes(box, box_out):
    """Symmetric under reflection about the origin: no side of the Nyquist frequency is preferred."""

    def reflect(stack):  # x -> -x about pixel B // 2; an even box has one column without a partner
        return np.roll(stack[:, :, ::-1], (stack.shape[2] + 1) % 2, axis=2)

    images = noise(box)
    plan = DownsamplePlan(box, 1.0, fourier_crop_size=box_out, recenter=Recenter.EXACT)
    for turn in (lambda s: s, lambda s: s.transpose(0, 2, 1)):
        direct, _ = downsample_images(reflect(turn(images)), plan)
        after, _ = downsample_images(turn(images), plan)
        assert np.abs(direct - reflect(after)).max() < 1e-6


def test_mean_is_preserved():
    images = noise(33, mean=5)
    for box_out in (33, 32, 17, 16):
        plan = DownsamplePlan(33, 1.0, fourier_crop_size=box_out, lowpass_resolution=10)
        found, _ = downsample_images(images, plan)
        assert found.mean(axis=(1, 2)) == pytest.approx(images.mean(axis=(1, 2)), abs=1e-6)


@pytest.mark.parametrize("box, box_out", [(33, 16), (50, 49), (64, 32)])
def test_an_image_does_not_depend_on_the_others_of_its_block(box, box_out):
    images = noise(box, count=20, mean=100)
    plan = DownsamplePlan(box, 1.0, fourier_crop_size=box_out)
    together, _ = downsample_images(images, plan)
    for count in (1, 2, 7):
        some, _ = downsample_images(images[-count:], plan)
        assert np.array_equal(some, together[-count:])


@pytest.mark.parametrize("box, box_out", [(256, 64), (250, 50), (255, 64), (180, 66)])
def test_groups_that_are_cropped_at_once(box, box_out):
    """Large images go through in smaller groups, or alone, but for boxes whose memory does not fall into step."""
    images = noise(box, count=11)
    plan = DownsamplePlan(box, 1.0, fourier_crop_size=box_out)
    together, _ = downsample_images(images, plan)
    for i in (0, 4, 10):
        alone, _ = downsample_images(images[i : i + 1], plan)
        assert np.array_equal(alone[0], together[i])
    close(together[10], trigonometric_resample(images[10], box_out), images)


def test_results_do_not_depend_on_what_came_before():
    images = noise(31, count=5)
    shifts = np.array([[0.2, 0.4], [0, 0], [3, 0.1], [0, 0], [9, -9]])
    plan = DownsamplePlan(31, 1.0, crop_size=35, fourier_crop_size=16, recenter=Recenter.EXACT)
    together, _ = downsample_images(images, plan, shifts)
    for i in reversed(range(5)):
        alone, _ = downsample_images(images[i : i + 1], plan, shifts[i : i + 1])
        assert np.array_equal(alone[0], together[i])
