# SPDX-License-Identifier: GPL-3.0-or-later
"""Even boxes agree with RELION 3.1.3, whose results data/record_relion.py recorded."""

from pathlib import Path

import numpy as np
import pytest

from downsample_plugin.core import DownsamplePlan, downsample_images
from downsample_plugin.core.plan import FilterShape

APIX = 1.5


@pytest.fixture(scope="module")
def relion():
    return np.load(Path(__file__).with_name("data") / "relion_3.1.3.npz")


def test_fourier_crop_inside_nyquist(relion):
    """At the Nyquist frequency itself programs differ among themselves; it is left out."""
    image = relion["image"]
    found, _ = downsample_images(image, DownsamplePlan(64, APIX, fourier_crop_size=32))
    difference = np.fft.fft2(found.astype(np.float64) - relion["scaled"])
    difference[:, 16, :] = difference[:, :, 16] = 0
    assert np.abs(np.fft.ifft2(difference)).max() < 1e-6 * image.std()


def test_normalisation(relion):
    plan = DownsamplePlan(64, APIX, normalize=True, background_radius=20)
    found, _ = downsample_images(relion["image"], plan)
    assert np.abs(found - relion["normalized"]).max() < 1e-6


def test_raised_cosine_lowpass(relion):
    """6 Å is shell 16 of this box exactly, so RELION's rounding to whole shells plays no part."""
    plan = DownsamplePlan(64, APIX, lowpass_resolution=6, filter_shape=FilterShape.RAISED_COSINE, filter_width=2)
    found, _ = downsample_images(relion["image"], plan)
    assert np.abs(found - relion["lowpass"]).max() < 1e-6
