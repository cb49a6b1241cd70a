# SPDX-License-Identifier: GPL-3.0-or-later
"""All windows open on a screen, show what they should, and put what is chosen into the form."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from downsample_plugin import demo

pytestmark = [pytest.mark.scipion, pytest.mark.slow]

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def windows(tmp_path_factory):
    """For each window its title and texts, and where the pictures are."""
    folder = tmp_path_factory.mktemp("windows")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("SCIPION")}
    environment["PATH"] = f"{environment['PATH']}:/usr/bin"
    done = subprocess.run(
        ["xvfb-run", "-a", "-s", "-screen 0 1500x1000x24", sys.executable, ROOT / "docs" / "screenshots.py", folder],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return folder, json.loads((folder / "windows.json").read_text(encoding="utf-8"))


def test_there_is_a_picture_of_each(windows):
    folder, notes = windows
    for name in notes:
        with Image.open(folder / f"{name}.png") as picture:
            assert min(picture.size) > 150, name
            assert len(picture.convert("L").getcolors()) > 20, f"{name} is blank"


@pytest.mark.parametrize(
    "form, texts",
    [
        (
            "form_downsample",
            ["  downsample particles", "Input particles", "Alignments 3D", "Execute"],
        ),
        ("form_downsample_2", ["Desired approx. pixel size (Å/px)", "3.0", "Background radius (px)"]),
        ("form_restore", ["  restore full-size particles", "Downsampled particles"]),
        ("form_center", ["  move particle center", "Volume or mask", "20.0", "-10.0"]),
        ("viewer", ["  result of downsampling", "Result picture", "Power spectra", "Shifts"]),
    ],
)
def test_forms(windows, form, texts):
    shown = windows[1][form]["texts"]
    for text in texts:
        assert any(text == each for each in shown), (text, shown)


def test_conditions_hide_what_does_not_apply(windows):
    assert "Density threshold" not in windows[1]["form_center"]["texts"]
    assert "Filter order" not in windows[1]["form_downsample_2"]["texts"]


def test_pixel_size_wizard(windows):
    note = windows[1]["wizard_targetPixelSize"]
    assert "3 Å/px gives 2.9943 Å/px" in note["texts"][0]
    assert "56 | ÷2.29 | 2.9943 | 5.989 | fast" in note["texts"]
    assert float(note["form"]["targetPixelSize"]) == pytest.approx(demo.APIX * 128 / 56, rel=1e-15)


def test_box_wizards(windows):
    crop, fourier = windows[1]["wizard_cropSize"], windows[1]["wizard_fourierCropSize"]
    assert "128 px, 168 Å wide" in crop["texts"][0]
    assert crop["form"]["cropSize"] == "112"
    assert "56 | ÷2 | 2.62 | 5.24 | fast" in fourier["texts"]
    assert fourier["form"]["fourierCropSize"] == "56"
    assert fourier["form"]["targetPixelSize"] == "None"  # the two exclude each other


def test_filter_and_radius_wizards(windows):
    lowpass, radius = windows[1]["wizard_lowpassResolution"], windows[1]["wizard_backRadius"]
    assert "Nyquist limit of the output: 5.24 Å" in lowpass["texts"]
    assert lowpass["form"]["lowpassResolution"] == "15.0"
    assert windows[1]["wizard_highpassResolution"]["form"]["highpassResolution"] == "150.0"
    assert any("Radius 20 px = 52 Å in a box of 56 px" in text for text in radius["texts"])
    assert radius["form"]["backRadius"] == "20"


def test_filter_wizard_of_volumes(windows):
    note = windows[1]["wizard_volumes_lowpassResolution"]
    assert "Section" in note["texts"]
    assert "Nyquist limit of the output: 5.24 Å" in note["texts"]
    assert note["form"]["lowpassResolution"] == "25.0"


def test_center_picker(windows):
    """Clicks into two sections set all three coordinates; the first sets x and y, the second x again and z."""
    note = windows[1]["wizard_xCenter"]
    half = (demo.BOX / 2 - 0.5) * demo.APIX  # Å from the origin to the edge of the map
    x, y, z = (float(note["form"][name]) for name in ("xCenter", "yCenter", "zCenter"))
    assert (x, y, z) == pytest.approx((-0.2 * half, 0.35 * half, -0.2 * half), abs=0.5)
    assert f"New center: x = {x:.1f}, y = {y:.1f}, z = {z:.1f} Å from the origin" in note["texts"]


def test_viewer_windows(windows):
    titles = {name: note["title"] for name, note in windows[1].items() if name.startswith("viewer_")}
    places = {"showPlaces": "Where the particles are", "browsePlaces": "Particles and their centers"}
    assert (
        titles.items()
        >= {
            "viewer_showPicture": "Downsampled particles",
            "viewer_browsePairs": "Particles before and after",
            "viewer_showSpectra": "Power spectra",
            "viewer_showShifts": "Shifts",
            **{f"viewer_{name}_{entry}": title for name in ("restore", "center") for entry, title in places.items()},
        }.items()
    )


def test_a_failed_run_shows_why(windows):
    note = windows[1]["failed"]
    assert note["title"] == "The run has failed"
    assert note["message"].startswith("Protocol failed: 3 corrupt particles")
    assert [text.split(" | ")[:2] for text in note["texts"] if " | " in text] == [[n, n] for n in ("18", "64", "81")]


def test_the_tree_and_run_boxes_say_what_the_protocols_do(windows):
    labels = ("downsample particles", "restore full-size particles", "move particle center")
    project = windows[1]["project"]
    for label in labels:
        assert label in project["texts"], label
        assert any(label in box for box in project["boxes"]), label
    assert not any("downsample_plugin" in text for text in (*project["texts"], *project["boxes"]))
    assert any(text.startswith("restore full-size particles | ") for text in windows[1]["search"]["texts"])


def test_windows_of_volumes(windows):
    notes = windows[1]
    assert "  downsample volumes" in notes["form_volumes"]["texts"]
    assert {"Input volumes", "Particles or volume to fit"} <= set(notes["form_volumes"]["texts"])
    assert {"Fourier crop to box size (px)", "64"} <= set(notes["form_volumes_2"]["texts"])
    assert {"Result picture", "Central sections", "Power spectra"} <= set(notes["volumes_viewer"]["texts"])
    titles = [notes[f"volumes_viewer_show{name}"]["title"] for name in ("Picture", "Sections", "Spectra")]
    assert titles == ["Downsampled volumes", "Central sections", "Power spectra"]


def test_particles_are_shown_without_java(project):
    """The particles open in Scipion's own viewer, by Python alone."""
    import numpy as np
    from pwem import Domain
    from pwem.viewers.mdviewer.viewer import MDView
    from pyworkflow.viewer import DESKTOP_TKINTER

    from .scipion_sets import downsample, particle, particle_set, write_stack

    stack = write_stack("some.mrcs", np.random.default_rng(0).normal(size=(3, 32, 32)))
    given = particle_set(project, [particle(i, (i, stack)) for i in (1, 2, 3)], 1.5)
    run = downsample(project, given, fourierCropSize=16)
    viewer_class = Domain.findViewers(run, DESKTOP_TKINTER)[0]
    assert viewer_class.__module__.startswith("downsample_plugin.viewers.")
    viewer = viewer_class(project=project, protocol=run)
    viewer.setProtocol(run)
    (view,) = viewer._getVisualizeDict()["showParticles"]("showParticles")
    assert isinstance(view, MDView)


@pytest.mark.parametrize(
    "own, values, sentence",
    [
        ("crop_size", {"cropSize": 0}, None),
        ("target_pixel_size", {"targetPixelSize": 0.0}, None),
        ("target_pixel_size", {"targetPixelSize": float("nan")}, None),
        ("fourier_crop_size", {"fourierCropSize": 500}, None),
        ("crop_size", {"targetPixelSize": float("inf")}, "Desired approx"),
        ("crop_size", {"targetPixelSize": 0.0}, "Desired approx"),
        ("target_pixel_size", {"cropSize": -4}, "Crop"),
    ],
)
def test_wizards_on_values_that_make_no_sense(project, own, values, sentence):
    """The wizard's own field gives way; another is complained of, in a sentence."""
    import numpy as np

    from downsample_plugin import wizards
    from downsample_plugin.errors import PlanError

    from .scipion_sets import new_downsample, particle, particle_set, write_stack

    stack = write_stack("odd.mrcs", np.zeros((1, 64, 64)))
    protocol = new_downsample(project, particle_set(project, [particle(1, (1, stack))], 1.5), **values)
    if sentence is None:
        assert getattr(wizards._boxPlanOf(protocol, own), own) is None
    else:
        with pytest.raises(PlanError, match=sentence):
            wizards._boxPlanOf(protocol, own)
