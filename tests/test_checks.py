# SPDX-License-Identifier: GPL-3.0-or-later
"""Every refusal names the value, the allowed range and what to do; every doubt says what to expect."""

import dataclasses
import json

import numpy as np
import pytest

from downsample_plugin.core import DownsamplePlan, checks, downsample_images
from downsample_plugin.core.normalize import background_deviation
from downsample_plugin.core.plan import FilterShape, Recenter
from downsample_plugin.errors import PlanError

BASE = DownsamplePlan(320, 1.31)

REFUSED = [
    ({}, "Nothing to do: the particles would not change (320 px, 1.31 Å/px)"),
    ({"crop_size": 320}, "Nothing to do"),
    ({"target_pixel_size": 1.31}, "Nothing to do"),
    ({"crop_size": 7}, "Crop / pad to box size: got 7 px, expected 8 to 4096 px"),
    ({"crop_size": -5}, "got -5 px"),
    ({"crop_size": 10**12}, "got 1000000000000 px, expected 8 to 4096 px"),
    ({"fourier_crop_size": 321}, "Fourier crop to box size: got 321 px, expected 8 to 320 px"),
    ({"fourier_crop_size": 300, "crop_size": 200}, "got 300 px, expected 8 to 200 px"),
    ({"fourier_crop_size": 7}, "got 7 px, expected 8 to 320 px"),
    ({"fourier_crop_size": 0}, "got 0 px"),
    ({"target_pixel_size": 1.0}, "Desired approx. pixel size: got 1.0 Å/px, expected 1.31 Å/px or more"),
    ({"target_pixel_size": 100.0}, "got 100.0 Å/px, expected at most 52.4 Å/px"),
    ({"target_pixel_size": 0.0}, "got 0.0 Å/px, expected a number above 0"),
    ({"target_pixel_size": float("nan")}, "got nan Å/px, expected a number above 0"),
    (
        {"target_pixel_size": 3.0, "fourier_crop_size": 128},
        "Desired approx. pixel size (3.0 Å/px) and Fourier crop to box size (128 px) are both",
    ),
    ({"lowpass_resolution": 0.0}, "Lowpass resolution: got 0.0 Å, expected a number above 0"),
    ({"lowpass_resolution": -8.0}, "got -8.0 Å"),
    ({"highpass_resolution": float("inf")}, "Highpass resolution: got inf Å"),
    ({"lowpass_resolution": 420.0}, "Lowpass resolution: got 420 Å, expected at most 419.2 Å"),
    ({"box_in": 553648128, "float16": True}, "got 553648128 px, expected 8 to 4096 px"),
    ({"lowpass_resolution": 20.0, "highpass_resolution": 10.0}, "got 10.0 Å, expected more than 20 Å"),
    ({"fourier_crop_size": 64, "highpass_resolution": 13.0}, "got 13.0 Å, expected more than 13.1 Å"),
    ({"lowpass_resolution": 8.0, "filter_order": 0}, "Filter order: got 0, expected 1 to 1000"),
    (
        {"lowpass_resolution": 8.0, "filter_shape": FilterShape.RAISED_COSINE, "filter_width": 0.0},
        "Filter width: got 0.0 Fourier shells, expected a number above 0",
    ),
    (
        {"normalize": True, "background_radius": 161},
        "Background radius: got 161 px, expected more than 0 and at most 160",
    ),
    ({"normalize": True, "background_radius": 0}, "Background radius: got 0 px"),
    ({"box_in": 7, "float16": True}, "Box of the particles: got 7 px, expected 8 to 4096 px"),
    ({"apix_in": 0.0, "float16": True}, "Sampling rate of the particles: got 0.0 Å/px, expected a number above 0"),
    ({"apix_in": float("nan"), "float16": True}, "Sampling rate of the particles: got nan"),
]


@pytest.mark.parametrize("changes, sentence", REFUSED)
def test_refusals(changes, sentence):
    plan = dataclasses.replace(BASE, **changes)
    (problem,) = checks.problems(plan)
    assert sentence in problem
    assert problem.endswith(".")
    assert ";" in problem  # what to do comes after it
    if "Nothing to do" in sentence:  # no request, but the core can: it copies
        image = np.random.default_rng(0).normal(size=(1, plan.box_in, plan.box_in)).astype(np.float32)
        assert np.array_equal(downsample_images(image, plan)[0], image)
        return
    with pytest.raises(PlanError, match="expected"):
        checks.check(plan)


ACCEPTED = [
    {"crop_size": 8},
    {"crop_size": 319},
    {"crop_size": 333},
    {"fourier_crop_size": 8},
    {"fourier_crop_size": 319},
    {"target_pixel_size": 52.4},
    {"target_pixel_size": 1.32},
    {"recenter": Recenter.WHOLE_PIXELS},
    {"recenter": Recenter.EXACT},
    {"lowpass_resolution": 1e-3},
    {"highpass_resolution": 400.0},
    {"normalize": True},
    {"float16": True},
]


@pytest.mark.parametrize("changes", ACCEPTED)
def test_each_action_alone_is_enough(changes):
    assert checks.problems(dataclasses.replace(BASE, **changes)) == []


def test_several_problems_are_told_at_once():
    plan = dataclasses.replace(BASE, lowpass_resolution=0.0, normalize=True, background_radius=500)
    assert len(checks.problems(plan)) == 2


WARNED = [
    ({"target_pixel_size": 3.0}, "3 Å/px was requested; the output has 2.9943 Å/px"),
    ({"fourier_crop_size": 254, "normalize": True}, "Box of 254 px has the prime factor 127"),
    ({"crop_size": 298, "fourier_crop_size": 100, "normalize": True}, "Box of 298 px has the prime factor 149"),
    (
        {"fourier_crop_size": 160, "lowpass_resolution": 5.0},
        "5 Å is not coarser than the output's Nyquist limit of 5.24 Å",
    ),
    ({"float16": True}, "RELION 4 and later"),
    ({"fourier_crop_size": 80}, "end up with about 0.25"),
    ({"fourier_crop_size": 135, "normalize": True}, "135 px is odd. RELION 3.1 reconstructs wrong maps"),
]


@pytest.mark.parametrize("changes, sentence", WARNED)
def test_warnings(changes, sentence):
    plan = dataclasses.replace(BASE, **changes)
    assert checks.problems(plan) == []
    assert any(sentence in warning for warning in checks.warnings(plan))


QUESTIONS = [  # what is worth stopping for, besides images that have been found normalised
    ({"target_pixel_size": 3.0}, []),  # 0.2 % away
    ({"box_in": 20, "target_pixel_size": 1.7}, []),  # 3.7 % away
    ({"box_in": 20, "target_pixel_size": 1.55}, ["the output has 1.6375 Å/px"]),  # 5.6 % away
    ({"fourier_crop_size": 135}, ["135 px is odd"]),
    ({"crop_size": 135}, ["135 px is odd"]),
    ({"crop_size": 135, "target_pixel_size": 2.0}, []),  # of an even box
    ({"box_in": 135, "float16": True}, []),  # as it came
    ({"fourier_crop_size": 254}, ["prime factor 127"]),
    ({"box_in": 254, "float16": True}, []),
    ({"fourier_crop_size": 160, "lowpass_resolution": 5.0}, ["5 Å is not coarser"]),
    ({"fourier_crop_size": 80}, []),
]


@pytest.mark.parametrize("changes, sentences", QUESTIONS)
def test_questions(changes, sentences):
    """They are among the warnings; with images of deviation 1, there is one more where pixels are averaged."""
    plan = dataclasses.replace(BASE, **changes)
    assert checks.problems(plan) == []
    found = checks.questions(plan, normalised=False)
    assert len(found) == len(sentences)
    for question, sentence in zip(found, sentences):
        assert sentence in question
    assert set(found) <= set(checks.warnings(plan, normalised=False))
    more = checks.questions(plan, normalised=True)[len(found) :]
    assert len(more) == (plan.box_out != plan.box_crop)
    assert all("Standard deviation: averaging pixels reduces the noise" in question for question in more)


def test_the_deviation_of_a_background():
    noise = np.random.default_rng(0).normal(scale=3.0, size=(200, 200))
    y, x = np.mgrid[:200, :200] - 100
    noise[x**2 + y**2 < 90**2] += 50  # a particle
    assert background_deviation(noise) == pytest.approx(3.0, rel=0.03)
    noise[x**2 + y**2 > 100**2] = 7.0
    assert background_deviation(noise.astype(np.int8)) == 0.0


SUMMARIES = [
    ({"fourier_crop_size": 160}, "box 320 → 160 px, pixel size 1.31 → 2.62 Å/px, Nyquist 5.24 Å"),
    (
        {"crop_size": 256, "float16": True},
        "box 320 → 256 px, pixel size 1.31 Å/px, Nyquist 2.62 Å; cropped, 16 bits",
    ),
    (
        {"crop_size": 400, "fourier_crop_size": 200, "recenter": Recenter.EXACT, "highpass_resolution": 200.0},
        "box 320 → 400 → 200 px, pixel size 1.31 → 2.62 Å/px, Nyquist 5.24 Å; "
        "recentred (exact), padded, high-pass 200 Å",
    ),
    (
        {"lowpass_resolution": 8.5, "normalize": True, "float16": True},
        "box 320 px, pixel size 1.31 Å/px, Nyquist 2.62 Å; low-pass 8.5 Å, background normalised, 16 bits",
    ),
]


@pytest.mark.parametrize("changes, line", SUMMARIES)
def test_the_summary_names_all_that_is_done_and_nothing_else(changes, line):
    assert dataclasses.replace(BASE, **changes).summary() == line


def test_nothing_to_warn_of():
    plan = dataclasses.replace(BASE, target_pixel_size=2.62, normalize=True, lowpass_resolution=8.0)
    assert checks.warnings(plan) == []


def test_a_plan_survives_json():
    plan = dataclasses.replace(
        BASE, target_pixel_size=3.1, recenter=Recenter.EXACT, filter_shape=FilterShape.RAISED_COSINE, float16=True
    )
    assert DownsamplePlan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan


@pytest.mark.parametrize("change", [{"recenter": "sideways"}, {"unknown": 1}, {"filter_shape": 3}])
def test_a_plan_that_cannot_be_read(change):
    with pytest.raises(PlanError, match="plan: it cannot be read"):
        DownsamplePlan.from_dict({**BASE.to_dict(), **change})


@pytest.mark.parametrize(
    "changes, crop, box, apix",
    [
        ({"fourier_crop_size": 128}, 320, 128, 1.31 * 320 / 128),
        ({"crop_size": 255, "fourier_crop_size": 127}, 255, 127, 1.31 * 255 / 127),
        ({"crop_size": 400, "target_pixel_size": 2.0}, 400, 262, 1.31 * 400 / 262),
        ({"crop_size": 200}, 200, 200, 1.31),
    ],
)
def test_what_follows(changes, crop, box, apix):
    plan = dataclasses.replace(BASE, **changes)
    assert (plan.box_crop, plan.box_out) == (crop, box)
    assert plan.apix_out == pytest.approx(apix, rel=1e-15)
    assert plan.scale == pytest.approx(1.31 / apix, rel=1e-15)
    assert plan.nyquist_resolution == pytest.approx(2 * apix)
