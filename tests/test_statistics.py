# SPDX-License-Identifier: GPL-3.0-or-later
"""Statistics of images, as headers give them."""

import numpy as np
import pytest

from downsample_plugin.core.statistics import STATISTICS, image_statistics


def noise(box, count=3):
    return np.random.default_rng(box).normal(size=(count, box, box))


@pytest.mark.parametrize("box", [8, 33, 64, 256])
@pytest.mark.parametrize("offset", [0, -0.9, 1.1, 30, 10000])
@pytest.mark.parametrize("scale", [1, 1e-25, 1e-18, 1e17, 1e30])
def test_they_keep_their_digits(box, offset, scale):
    """To 1e-7 of the deviation, whatever the offset and the unit."""
    images = ((noise(box) + offset) * scale).astype(np.float32)
    exact = images.astype(np.float64)
    with np.errstate(over="ignore"):
        found = image_statistics(images)
    deviation = exact.std(axis=(1, 2))
    assert np.array_equal(found["smallest"], exact.min(axis=(1, 2)))
    assert np.array_equal(found["largest"], exact.max(axis=(1, 2)))
    assert np.abs((found["mean"] - exact.mean(axis=(1, 2))) / deviation).max() < 1e-7
    assert np.sqrt(found["variance"]) == pytest.approx(deviation, rel=1e-7)


def test_a_constant_image():
    found = image_statistics(np.full((1, 16, 16), 7.3, dtype=np.float32))
    assert found["variance"] == pytest.approx(0, abs=1e-12)
    assert not image_statistics(np.zeros((1, 16, 16), dtype=np.float32)).view("f8").any()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_the_mean_tells_of_pixels_that_are_not_numbers(bad):
    images = noise(16).astype(np.float32)
    images[1, 3, 4] = bad
    with np.errstate(invalid="ignore"):
        found = image_statistics(images)
    assert np.isfinite(found["mean"]).tolist() == [True, False, True]


def test_they_do_not_depend_on_the_other_images():
    images = (noise(50, 9) + np.arange(9)[:, None, None]).astype(np.float32)
    together = image_statistics(images)
    assert together.dtype == STATISTICS
    for i, image in enumerate(images):
        assert image_statistics(image[None])[0] == together[i]
