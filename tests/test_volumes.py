# SPDX-License-Identifier: GPL-3.0-or-later
"""Maps and masks through the core: against direct sums, closed forms, and the particles that they belong to."""

import dataclasses
import itertools
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from downsample_plugin.core import DownsamplePlan, downsample_images, volume_checks
from downsample_plugin.core.plan import FilterShape
from downsample_plugin.core.resampling import downsample_sections, downsample_volume, survey
from downsample_plugin.core.volume_plan import VolumePlan
from downsample_plugin.errors import DataError, PlanError
from downsample_plugin.simulate import Phantom

from .truth import trigonometric_volume

APIX = 1.5


def noise(box, seed=0, level=0.0):
    return (np.random.default_rng(seed).normal(size=(box, box, box)) + level).astype(np.float32)


def like(box, apix, box_in, **settings):
    return VolumePlan(box_in, APIX, like_box=box, like_apix=apix, **settings)


# ---- against direct sums ---------------------------------------------------------------------------------


@pytest.mark.parametrize("box, out", [*itertools.product((24, 25), (15, 16, 23, 24))])
def test_fourier_crop_is_the_direct_sum(box, out):
    volume = noise(box, level=2.0)
    found = downsample_volume(volume, VolumePlan(box, APIX, fourier_crop_size=out))
    assert found.dtype == np.float32
    assert np.abs(found - trigonometric_volume(volume, out)).max() < 1e-6 * volume.std()


@pytest.mark.parametrize("box, out", [*itertools.product((14, 15), (15, 16, 22, 23, 31))])
def test_fourier_padding_is_the_direct_sum(box, out):
    volume = noise(box, level=2.0)
    found = downsample_volume(volume, like(out, APIX * box / out, box))
    assert np.abs(found - trigonometric_volume(volume, out)).max() < 1e-6 * volume.std()


@pytest.mark.parametrize("box, out, step", [(24, 11, 1.93), (25, 12, 1.707), (14, 20, 0.631), (15, 21, 0.7193)])
def test_any_ratio_is_the_direct_sum(box, out, step):
    """The polynomial of the next larger whole box, up to the output's Nyquist limit."""
    volume = noise(box)
    period = math.ceil(out * step)
    found = downsample_volume(volume, like(out, APIX * step, box))
    outside = survey(volume).border
    expected = trigonometric_volume(volume - np.float64(outside), out, step, period) + outside
    assert np.abs(found - expected).max() < 1e-6 * volume.std()


@pytest.mark.parametrize("box, crop, out", [(16, 21, 13), (15, 20, 12), (20, 15, 11), (21, 16, 12)])
def test_crop_and_pad_before_the_fourier_crop(box, crop, out):
    """What lies outside is the mean of the outermost layer of voxels."""
    volume = noise(box, level=1.0)
    inside = np.zeros((box,) * 3, dtype=bool)
    inside[1:-1, 1:-1, 1:-1] = True
    border = volume[~inside].mean(dtype=np.float64)
    found = downsample_volume(volume, VolumePlan(box, APIX, crop_size=crop, fourier_crop_size=out))
    expected = trigonometric_volume(volume - border, out, period=crop) + border
    assert np.abs(found - expected).max() < 1e-6 * volume.std()


@pytest.mark.parametrize("box, crop", [*itertools.product((16, 17), (12, 13, 20, 21))])
def test_a_window_copies_bit_for_bit(box, crop):
    volume = noise(box, level=1.0)
    found = downsample_volume(volume, VolumePlan(box, APIX, crop_size=crop))
    expected = np.full((crop,) * 3, np.float32(survey(volume).border))
    for z, y, x in itertools.product(range(crop), repeat=3):
        place = tuple(i - crop // 2 + box // 2 for i in (z, y, x))
        if all(0 <= i < box for i in place):
            expected[z, y, x] = volume[place]
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("box, out", [(24, 16), (25, 15), (16, 16), (15, 15)])
def test_filters_are_those_of_particles(box, out):
    volume = noise(box, level=2.0)
    plan = VolumePlan(box, APIX, fourier_crop_size=out, lowpass_resolution=6.0, highpass_resolution=20.0)

    def gain(frequency):  # cycles per input voxel
        low, high = (1 / (1 + (frequency / APIX * corner) ** 16) for corner in (6.0, 20.0))
        return low * (1 - high)

    assert np.abs(downsample_volume(volume, plan) - trigonometric_volume(volume, out, gain=gain)).max() < 1e-6
    lowpass = dataclasses.replace(plan, highpass_resolution=None)
    assert downsample_volume(volume, lowpass).mean() == pytest.approx(volume.mean(dtype=float), abs=1e-6)


@pytest.mark.parametrize("box, out", [(24, 16), (25, 25)])
def test_the_raised_cosine(box, out):
    """Its width is in Fourier shells of the output box: 4 of them about shell 5."""
    volume = noise(box)
    plan = VolumePlan(
        box,
        APIX,
        fourier_crop_size=out,
        lowpass_resolution=box * APIX / 5,
        filter_shape=FilterShape.RAISED_COSINE,
        filter_width=4,
    )

    def gain(frequency):
        return 0.5 - 0.5 * np.sin(np.pi * np.clip((frequency * box - 5) / 4, -0.5, 0.5))

    assert np.abs(downsample_volume(volume, plan) - trigonometric_volume(volume, out, gain=gain)).max() < 1e-6


# ---- with the particles ----------------------------------------------------------------------------------

#: no mass in all, as of particles and maps whose background is 0: padding adds nothing then
CENTERS, SIGMAS = np.array([[3.0, -2.0, 4.0], [-4.0, 3.0, -1.0]]), np.array([5.0, 6.0])
HEIGHTS = np.array([1.0, -((5.0 / 6.0) ** 3)])


def balanced():
    return Phantom(CENTERS, SIGMAS, HEIGHTS)


def projection(phantom, box, apix):
    """Line integrals along z of the Gaussians, Å times the units of the map."""
    image = np.zeros((box, box))
    for center, sigma, height in zip(phantom.centers, phantom.sigmas, phantom.heights):
        one = Phantom(center[None], np.array([sigma]), np.ones(1))
        image += height * sigma * np.sqrt(2 * np.pi) * one.project(np.eye(3), (0, 0), box, apix)
    return image


@pytest.mark.parametrize("box, crop, out", [*itertools.product((54, 55), (48, 49, 60, 61), (30, 31))])
def test_projections_of_the_small_map_are_the_small_particles(box, crop, out):
    phantom = balanced()
    plan = dict(crop_size=crop, fourier_crop_size=out)
    particle = projection(phantom, box, APIX)
    (small,), _ = downsample_images(particle[None].astype(np.float32), DownsamplePlan(box, APIX, **plan))
    volume_plan = VolumePlan(box, APIX, **plan)
    volume = downsample_volume(phantom.volume(box, APIX).astype(np.float32), volume_plan)
    sums = volume.sum(axis=0, dtype=np.float64) * volume_plan.apix_out
    assert np.abs(sums - small).max() < 1e-5 * np.abs(particle).max()
    assert np.abs(volume - phantom.volume(out, volume_plan.apix_out)).max() < 1e-5


@pytest.mark.parametrize("box, out, apix", [(54, 30, 2.71), (55, 31, 2.5), (48, 64, 1.0), (49, 63, 1.13)])
def test_like_others_of_any_pixel_size(box, out, apix):
    """Their own pixel size to the last digit, about the same origin."""
    phantom, plan = balanced(), like(out, apix, box)
    assert (plan.box_out, plan.apix_out) == (out, apix)
    volume = downsample_volume(phantom.volume(box, APIX).astype(np.float32), plan)
    assert np.abs(volume - phantom.volume(out, apix)).max() < 1e-5


@pytest.mark.parametrize("box, out", [*itertools.product((54, 55), (30, 31))])
def test_the_center_of_mass_stays(box, out):
    center = np.array([5.0, -3.0, 2.0])
    phantom = Phantom(center[None], np.array([6.0]), np.ones(1))
    plan = VolumePlan(box, APIX, fourier_crop_size=out)
    small = downsample_volume(phantom.volume(box, APIX).astype(np.float32), plan).astype(np.float64)
    places = (np.arange(out) - out // 2) * plan.apix_out
    found = [(small.sum(axis=axes) @ places) / small.sum() for axes in ((0, 1), (0, 2), (1, 2))]
    assert found == pytest.approx(center.tolist(), abs=2e-3)


# ---- there and back --------------------------------------------------------------------------------------


@pytest.mark.parametrize("box, out", [*itertools.product((24, 25), (15, 16))])
def test_there_and_back(box, out):
    """Below the small Nyquist frequency nothing changes; beyond it nothing is left."""
    volume = noise(box)
    small = downsample_volume(volume, VolumePlan(box, APIX, fourier_crop_size=out))
    back = downsample_volume(small, VolumePlan(out, APIX * box / out, like_box=box, like_apix=APIX))
    k = np.abs(np.fft.fftfreq(box, 1 / box))
    largest = np.maximum(np.maximum(k[:, None, None], k[None, :, None]), k[None, None, :])
    before, after = (np.fft.fftn(each.astype(np.float64)) for each in (volume, back))
    kept = largest < out / 2
    difference = np.where(kept, after - before, np.where(largest > out / 2, after, 0))
    assert np.abs(np.fft.ifftn(difference)).max() < 1e-6 * volume.std()


def test_a_mask_there_and_back():
    """A soft ball at full size, made small, taken back: itself, within 0 and 1."""
    box, out = 64, 32
    radius = np.sqrt(sum((np.indices((box,) * 3)[axis] - box // 2) ** 2 for axis in range(3)))
    mask = (0.5 - 0.5 * np.sin(np.pi * np.clip((radius - 18) / 10, -0.5, 0.5))).astype(np.float32)
    small = downsample_volume(mask, VolumePlan(box, APIX, fourier_crop_size=out, is_mask=True))
    back = downsample_volume(small, VolumePlan(out, 2 * APIX, like_box=box, like_apix=APIX, is_mask=True))
    for each in (small, back):
        assert (each.min(), each.max()) == (0, 1)
    assert np.abs(back - mask).max() < 5e-3  # of the edge, which is not band-limited


# ---- masks, levels, refusals -----------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{"crop_size": 40}, {"fourier_crop_size": 16}, {"lowpass_resolution": 8.0}])
def test_masks_are_padded_with_0_and_clipped(settings):
    mask = np.zeros((24, 24, 24), dtype=np.float32)
    mask[6:18, 6:18, :20] = 1  # a hard edge rings, and meets the border
    found = downsample_volume(mask, VolumePlan(24, APIX, is_mask=True, **settings))
    assert found.min() == 0
    assert found.max() == 1
    if "crop_size" in settings:
        assert found.sum() == mask.sum()
    as_map = downsample_volume(mask, VolumePlan(24, APIX, **settings))
    assert as_map.min() < 0 or as_map.sum() > mask.sum()


def test_a_level_does_not_cost_digits():
    volume = noise(24)
    plan = VolumePlan(24, APIX, fourier_crop_size=16, lowpass_resolution=7.0)
    on_level = downsample_volume(volume + np.float32(1024), plan)
    assert np.abs(on_level - 1024 - downsample_volume(volume, plan)).max() < 2e-4  # digits of float32 at 1024


def test_what_is_no_mask():
    with pytest.raises(DataError, match="voxels from 0 to 255, expected 0 to 1, as in a mask"):
        mask = np.zeros((16, 16, 16))
        mask[4] = 255
        downsample_volume(mask, VolumePlan(16, APIX, fourier_crop_size=8, is_mask=True))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_voxels_that_are_not_numbers(value):
    volume = noise(16)
    volume[3, 4, 5] = value
    with pytest.raises(DataError, match="the first at x = 5, y = 4, z = 3 "):
        next(downsample_sections(volume, VolumePlan(16, APIX, crop_size=8)))


@pytest.mark.parametrize(
    "plan, sentence",
    [
        (VolumePlan(4, APIX, fourier_crop_size=4), "Box of the volume: got 4 px, expected 8 to 2048 px"),
        (VolumePlan(32, 0.0, fourier_crop_size=16), "Sampling rate of the volume: got 0.0 Å/px"),
        (VolumePlan(32, math.nan, fourier_crop_size=16), "Sampling rate of the volume: got nan Å/px"),
        (VolumePlan(32, APIX, fourier_crop_size=33), "Fourier crop to box size: got 33 px, expected 8 to 32 px"),
        (
            VolumePlan(32, APIX, target_pixel_size=1.0),
            "got 1.0 Å/px, expected 1.5 Å/px or more (the pixel size of the input",
        ),
        (VolumePlan(32, APIX, crop_size=5000), "Crop / pad to box size: got 5000 px, expected 8 to 2048 px"),
        (VolumePlan(32, APIX), "Nothing to do: the volume would not change (32 px, 1.5 Å/px)"),
        (like(32, APIX, 32), "Nothing to do"),
        (like(16, 3.0, 32, crop_size=30), "given together with a box or a pixel size"),
        (like(16, 0.0, 32), "Particles or volume to fit: got 0.0 Å/px"),
        (like(4, 3.0, 32), "Particles or volume to fit: got a box of 4 px, expected 8 to 2048 px"),
        (like(16, 0.1, 32), "their box is 1.6 Å wide, expected at least 8 voxels of the volume (12 Å)"),
        (like(16, 3.0, 32, lowpass_resolution=-1.0), "Lowpass resolution: got -1.0 Å"),
        (like(16, 3.0, 32, is_mask=True, highpass_resolution=40.0), "expected none for a mask"),
    ],
)
def test_refusals(plan, sentence):
    (found,) = volume_checks.problems(plan)
    assert sentence in found
    with pytest.raises(PlanError) as error:
        volume_checks.check(plan)
    assert error.value.problems == (found,)


def test_warnings():
    assert volume_checks.warnings(VolumePlan(32, APIX, fourier_crop_size=16)) == []
    (finer,) = volume_checks.warnings(like(32, APIX / 2, 16))
    assert "the output is finer (0.75 Å/px) than the volume (1.5 Å/px)" in finer
    (approximate,) = volume_checks.warnings(VolumePlan(32, APIX, target_pixel_size=3.2))
    assert "3.2 Å/px was requested; the output has 3 Å/px" in approximate


def test_sizes_of_a_plan_that_fits_others():
    """Pixel sizes in files have some six digits: a box that is whole but for that is whole."""
    plan = like(140, 2.994286, 320)
    plan = dataclasses.replace(plan, apix_in=1.31)
    assert (plan.box_crop, plan.box_out, plan.kept, plan.apix_out) == (320, 140, 140, 2.994286)
    assert like(32, APIX * (1 + 5e-7), 40).apix_out == APIX  # the same pixel size: voxels are copied
    finer = like(64, APIX / 2, 20)
    assert (finer.box_crop, finer.kept, finer.scale) == (32, 32, 2.0)


# ---- memory ----------------------------------------------------------------------------------------------

MEASURED = """
import resource, sys
import numpy as np
from downsample_plugin.core.plan import FilterShape
from downsample_plugin.core.resampling import downsample_sections
from downsample_plugin.core.volume_plan import VolumePlan

class Sections:
    def __len__(self):
        return {box}
    def __getitem__(self, z):
        return np.random.default_rng(z).random(({box}, {box}), dtype=np.float32)

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

before = peak()
for section in downsample_sections(Sections(), VolumePlan({box}, 1.0, {settings})):
    pass
print(peak() - before)
"""


@pytest.mark.parametrize(
    "settings",
    ["fourier_crop_size=96", "lowpass_resolution=8.0", "like_box=192, like_apix=0.9, lowpass_resolution=8.0"],
)
def test_memory(settings):
    """At most two and a half times that of the map, or of the output where that is larger."""
    box = 192
    code = MEASURED.format(box=box, settings=settings)
    root = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=120, check=True
    )
    assert int(done.stdout) < 2.5 * 4 * box**3
