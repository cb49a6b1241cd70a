# SPDX-License-Identifier: GPL-3.0-or-later
"""Whole images: copies, conversion of types, normalisation, 16 bits, refusals."""

import numpy as np
import pytest

from downsample_plugin.core import DownsamplePlan, Downsampler, downsample_images
from downsample_plugin.core.plan import Recenter
from downsample_plugin.errors import DataError, PlanError

from .scipion_sets import pairs
from .truth import window


def noise(box=32, count=2, seed=0):
    return np.random.default_rng(seed).normal(size=(count, box, box)).astype(np.float32)


@pytest.mark.parametrize("box", [32, 33])
@pytest.mark.parametrize("crop", [20, 21, 40, 41])
def test_whole_pixels_without_a_fourier_crop_are_copied_bit_for_bit(box, crop):
    images = noise(box) + 100
    images[:, box // 2, box // 2] = -0.0
    shifts = [(3.4, -5.5), (-20, 0)]
    plan = DownsamplePlan(box, 1.0, crop_size=crop, recenter=Recenter.WHOLE_PIXELS)
    found, applied = downsample_images(images, plan, shifts)
    assert applied.tolist() == [[3, -6], [-20, 0]]
    for image, result, d in pairs(images, found, applied):
        assert result.tobytes() == window(image, crop, d.astype(int)).astype(np.float32).tobytes()


def test_only_16_bits_is_a_plain_copy():
    images = noise()
    found, _ = downsample_images(images, DownsamplePlan(32, 1.0, float16=True))
    assert found.dtype == np.float16
    assert np.array_equal(found, images.astype(np.float16))


def test_exact_recentring_by_whole_shifts_is_a_plain_copy():
    images = noise()
    found, _ = downsample_images(images, DownsamplePlan(32, 1.0, recenter=Recenter.EXACT), [(2, -1), (0, 0)])
    assert np.array_equal(found[0], window(images[0], 32, (2, -1)).astype(np.float32))
    assert np.array_equal(found[1], images[1])


@pytest.mark.parametrize("dtype", ["i1", "<i2", ">i2", "<u2", ">u2", "<f2", ">f2", "<f4", ">f4"])
def test_all_types_and_byte_orders(dtype):
    values = np.random.default_rng(2).integers(0, 100, size=(1, 32, 32)).astype(dtype)
    plan = DownsamplePlan(32, 1.0, fourier_crop_size=16)
    found, _ = downsample_images(values, plan)
    expected, _ = downsample_images(values.astype(np.float32), plan)
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("radius", [None, 5])
def test_normalisation_by_an_independent_fit(radius):
    image = noise(33, 1) * 3 + np.linspace(0, 10, 33)[None, :, None] - np.linspace(0, 4, 33)[None, None, :]
    plan = DownsamplePlan(33, 1.0, normalize=True, background_radius=radius)
    (found,), _ = downsample_images(image, plan)
    y, x = np.indices((33, 33)) - 16
    background = x**2 + y**2 > (radius or 16.5) ** 2
    design = np.stack([x, y, np.ones_like(x)], axis=-1).astype(float)
    plane = np.linalg.lstsq(design[background], image[0][background].astype(float), rcond=None)[0]
    flat = image[0] - design @ plane
    expected = (flat - flat[background].mean()) / flat[background].std()
    assert np.abs(found - expected).max() < 1e-5
    assert found[background].mean() == pytest.approx(0, abs=1e-6)
    assert found[background].std() == pytest.approx(1, abs=1e-6)


def test_normalisation_comes_after_the_fourier_crop():
    plan = DownsamplePlan(64, 1.0, fourier_crop_size=32, normalize=True, background_radius=10)
    (found,), _ = downsample_images(noise(64, 1), plan)
    y, x = np.indices((32, 32)) - 16
    assert found[x**2 + y**2 > 100].std() == pytest.approx(1, abs=1e-6)


def test_a_constant_image_cannot_be_normalised():
    plan = DownsamplePlan(32, 1.0, fourier_crop_size=16, normalize=True)
    with pytest.raises(DataError, match=r"background outside radius 8 px: .*expected noise"):
        downsample_images(np.full((1, 32, 32), 7.3, dtype=np.float32), plan)


def test_noise_of_rounding_is_no_background():
    """A high-pass takes the offset away, and what float32 has rounded of a smooth image with it is not its noise."""
    y, x = np.indices((64, 64))
    rounded = (1e6 / 3 + 1e-3 * x + 2e-3 * y).astype(np.float32)[None]
    plan = DownsamplePlan(64, 1.0, fourier_crop_size=32, highpass_resolution=40.0, normalize=True)
    with pytest.raises(DataError, match="background outside radius 16 px: its standard deviation is"):
        downsample_images(rounded, plan)
    noisy = rounded + np.random.default_rng(0).normal(size=rounded.shape).astype(np.float32)
    downsample_images(noisy, plan)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    "settings", [{"fourier_crop_size": 16}, {"crop_size": 16}, {"crop_size": 40}, {"float16": True}]
)
def test_pixels_that_are_not_numbers(bad, settings):
    images = noise()
    images[1, 5, 7] = bad
    with pytest.raises(DataError, match=r"not numbers: 1, the first at x = 7, y = 5"):
        downsample_images(images, DownsamplePlan(32, 1.0, **settings))


def test_16_bit_overflow_is_refused_and_the_limit_is_not():
    plan = DownsamplePlan(32, 1.0, float16=True)
    images = noise()
    images[0, 0, 0] = 65504
    found, _ = downsample_images(images, plan)
    assert np.isfinite(found).all()
    images[0, 0, 0] = -65505
    with pytest.raises(DataError, match="got 65505, expected at most 65504"):
        downsample_images(images, plan)


@pytest.mark.parametrize("shift", [(1e30, 0), (0, -36), (40, 0)])
def test_a_shift_out_of_sight(shift):
    plan = DownsamplePlan(32, 1.0, crop_size=40, recenter=Recenter.WHOLE_PIXELS)
    with pytest.raises(
        DataError, match="expected less than the box of 32 px: the particle would be moved out of its box"
    ):
        downsample_images(noise(count=1), plan, [shift])
    downsample_images(noise(count=1), plan, [(35, -35)])


@pytest.mark.parametrize("float16", [False, True])
def test_a_result_that_is_not_finite(float16):
    images = np.full((1, 32, 32), 3e38, dtype=np.float32)
    images[:, ::2] /= 2
    with pytest.raises(DataError, match="the result is not finite"):
        downsample_images(images, DownsamplePlan(32, 1.0, fourier_crop_size=16, float16=float16))


def test_an_image_of_another_box():
    with pytest.raises(DataError, match="got 31 x 30 px, expected 32 x 32 px"):
        downsample_images(np.zeros((1, 30, 31), dtype=np.float32), DownsamplePlan(32, 1.0, float16=True))


def test_a_plan_with_problems_is_refused():
    with pytest.raises(PlanError, match="got 64 px, expected 8 to 32 px"):
        Downsampler(DownsamplePlan(32, 1.0, fourier_crop_size=64))


def test_the_mean_of_its_own_pixels_fills_what_lies_outside():
    images = noise(31) + np.array([5, -3], dtype=np.float32)[:, None, None]
    found, _ = downsample_images(images, DownsamplePlan(31, 1.0, crop_size=41))
    for image, result in pairs(images, found):
        assert result[0, 0] == np.float32(image.astype(np.float64).mean())
