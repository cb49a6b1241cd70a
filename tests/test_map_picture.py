# SPDX-License-Identifier: GPL-3.0-or-later
"""The result picture of maps: sections through the origin, spectra that agree, and what is drawn."""

import mrcfile
import numpy as np
import pytest
from matplotlib.figure import Figure

from downsample_plugin.core.resampling import downsample_volume
from downsample_plugin.core.volume_plan import VolumePlan
from downsample_plugin.pictures.maps import MapLook, MapSample, draw_map_result, draw_map_spectra, draw_sections

BOX, APIX = 24, 1.5


def noise():
    return np.random.default_rng(0).normal(size=(BOX,) * 3).astype(np.float32)


def sample_of(plan, before):
    after = downsample_volume(before, plan)
    return MapSample(
        plan, MapLook.at(before, plan.apix_in, plan.box_crop), MapLook.at(after, plan.apix_out, plan.box_out)
    )


def test_sections_through_the_origin():
    volume = noise()
    sections = MapLook.at(volume, APIX, BOX).sections
    assert np.array_equal(sections[0], volume[12])  # y, x
    assert np.array_equal(sections[1], volume[:, 12])  # z, x
    assert np.array_equal(sections[2], volume[:, :, 12])  # z, y


@pytest.mark.parametrize(
    "settings",
    [
        {"fourier_crop_size": 16},
        {"crop_size": 20, "fourier_crop_size": 15},
        {"like_box": 36, "like_apix": 1.0},
        {"fourier_crop_size": 16, "lowpass_resolution": 8.0},
    ],
)
def test_spectra_before_and_after_agree(settings):
    """But for what the filter takes: the gain squared. White noise of deviation 1 has a flat one."""
    plan = VolumePlan(BOX, APIX, **settings)
    sample = sample_of(plan, noise())
    before, after = sample.before.power, sample.after.power
    count = min(len(before.power), len(after.power)) - 1
    assert after.frequency[:count] == pytest.approx(before.frequency[:count])
    gain = (1 / (1 + (before.frequency[:count] * plan.lowpass_resolution) ** 16)) if plan.filtered else 1.0
    kept = slice(0, count // 2 if plan.filtered else count)
    assert after.power[kept] == pytest.approx((before.power[:count] * gain**2)[kept], rel=0.03)
    # The projection of B voxels of deviation 1 has variance B a^2; a density is that times a^2
    expected = plan.box_crop * APIX**4
    assert before.power.mean() == pytest.approx(expected, rel=0.15)


def test_what_is_drawn(tmp_path):
    plan = VolumePlan(BOX, APIX, crop_size=20, fourier_crop_size=10, lowpass_resolution=8.0)
    sample = sample_of(plan, noise())
    figure = Figure()
    sections, spectra = figure.subplots(2)
    draw_sections(sections, sample)
    extents = [image.get_extent() for image in sections.images]
    assert len(extents) == 6
    assert extents[0] == pytest.approx([-18.75, 17.25, -18.75, 17.25])  # the origin is at 0
    across = extents[3][0] + 5.5 * plan.apix_out  # the small one stands below the other, about the same origin
    assert across == pytest.approx(extents[0][0] + 12.5 * APIX)
    assert len({(image.norm.vmin, image.norm.vmax) for image in sections.images}) == 1
    words = [text.get_text() for text in sections.texts]
    assert "before: 24 px, 1.5 Å/px; bar 10 Å" in words
    assert "after: 10 px, 3 Å/px; bar 10 Å" in words
    draw_map_spectra(spectra, sample)
    assert [text.get_text() for text in spectra.get_legend().texts][2:4] == [
        "Nyquist before: 3 Å",
        "Nyquist after: 6 Å",
    ]
    path = tmp_path / "map.mrc"
    with mrcfile.new(path) as file:
        file.set_data(noise())
        file.set_volume()
    of_files = MapSample.of_files(VolumePlan(BOX, APIX, lowpass_resolution=8.0), str(path), 0, str(path))
    draw_map_result(str(tmp_path / "picture.png"), of_files, "map.mrc")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_an_empty_mask_is_drawn(tmp_path):
    sample = sample_of(VolumePlan(BOX, APIX, fourier_crop_size=12, is_mask=True), np.zeros((BOX,) * 3, np.float32))
    draw_map_result(str(tmp_path / "picture.png"), sample, "mask.mrc")
