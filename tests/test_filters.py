# SPDX-License-Identifier: GPL-3.0-or-later
import numpy as np
import pytest

from downsample_plugin.core import DownsamplePlan, downsample_images
from downsample_plugin.core.filters import butterworth, plan_gain, raised_cosine, spectrum_gain
from downsample_plugin.core.plan import FilterShape

from .truth import trigonometric_resample


def test_butterworth_gains():
    assert butterworth([0, 0.1, 0.2, 1e30], 0.1, 8) == pytest.approx([1, 0.5, 1 / (1 + 2**16), 0])


def test_raised_cosine_gains():
    f = [0, 0.09, 0.095, 0.1, 0.105, 0.11, 0.5]
    expected = [1, 1, 0.5 + 0.5 * np.cos(np.pi / 4), 0.5, 0.5 + 0.5 * np.cos(3 * np.pi / 4), 0, 0]
    assert raised_cosine(f, 0.1, 0.02) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("shape", list(FilterShape))
def test_highpass_is_one_minus_lowpass(shape):
    f = np.linspace(0, 0.2, 50)
    low = DownsamplePlan(64, 1.0, lowpass_resolution=20, filter_shape=shape)
    high = DownsamplePlan(64, 1.0, highpass_resolution=20, filter_shape=shape)
    assert plan_gain(low, f) + plan_gain(high, f) == pytest.approx(1)
    assert plan_gain(low, 0.0) == 1
    assert plan_gain(high, 0.0) == 0


@pytest.mark.parametrize("box, n", [(64, 32), (65, 32), (64, 31), (65, 65), (64, 64)])
@pytest.mark.parametrize(
    "request_",
    [
        {"lowpass_resolution": 9.0},
        {"highpass_resolution": 40.0},
        {"lowpass_resolution": 9.0, "highpass_resolution": 40.0, "filter_order": 3},
        {"lowpass_resolution": 9.0, "filter_shape": FilterShape.RAISED_COSINE, "filter_width": 5.0},
    ],
)
def test_filtered_noise_against_the_direct_sum(box, n, request_):
    apix = 1.5
    image = (np.random.default_rng(1).normal(size=(box, box)) + 20).astype(np.float32)
    plan = DownsamplePlan(box, apix, fourier_crop_size=n, **request_)
    (found,), _ = downsample_images(image[None], plan)
    expected = trigonometric_resample(image, n, gain=lambda cycles_per_px: plan_gain(plan, cycles_per_px / apix))
    assert np.abs(found - expected).max() < 3e-6 * image.std()


def test_gain_is_the_same_for_both_sides_of_a_spectrum():
    gain = spectrum_gain(DownsamplePlan(64, 1.0, fourier_crop_size=32, lowpass_resolution=8))
    assert gain.shape == (32, 17)
    assert np.array_equal(gain[1:16], gain[:16:-1])
    assert gain[3, 4] == gain[4, 3]
