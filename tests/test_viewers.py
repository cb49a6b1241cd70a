# SPDX-License-Identifier: GPL-3.0-or-later
"""What *Analyze results* shows: pages of particles, places in the box, failed runs, and how far a run is."""

import os
import time
from pathlib import Path
from types import SimpleNamespace

import mrcfile
import numpy as np
import pytest
from matplotlib.backend_bases import MouseButton, MouseEvent
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from downsample_plugin.core.plan import DownsamplePlan, Recenter
from downsample_plugin.engine.runner import run_job
from downsample_plugin.engine.tables import BadParticle, list_bad_particles, listed_particles
from downsample_plugin.pictures.sample import Pairs
from downsample_plugin.simulate import Phantom

from .scipion_sets import downsample, image_of, items_of, new_downsample, particle, particle_set, write_stack
from .test_picture import job_of
from .test_round_trip import restore
from .test_shift_center import aligned_particles, coordinates, move
from .truth import blob_position

APIX, BOX = 1.5, 64
BLOB = Phantom(np.array([[10.0, -6.0, 4.0]]), np.array([4.0]), np.ones(1))


def new_figure():
    figure = Figure(figsize=(10, 6))
    FigureCanvasAgg(figure)
    return figure


def viewer_of(project, protocol):
    from pwem import Domain
    from pyworkflow.viewer import DESKTOP_TKINTER

    viewer_class = Domain.findViewers(protocol, DESKTOP_TKINTER)[0]
    viewer = viewer_class(project=project, protocol=protocol)
    viewer.setProtocol(protocol)
    return viewer


def press(figure, axis):
    """Click into the middle of an axis."""
    x, y = axis.transAxes.transform((0.5, 0.5))
    for name in ("button_press_event", "button_release_event"):
        figure.canvas.callbacks.process(name, MouseEvent(name, figure.canvas, x, y, MouseButton.LEFT))


def test_pairs_are_numbered_through_all_stacks(here):
    plan = DownsamplePlan(32, APIX, recenter=Recenter.WHOLE_PIXELS)
    job = job_of(plan, 25, per_stack=10)
    pairs = Pairs([job])
    given, made = mrcfile.read("noise.mrcs"), np.concatenate([mrcfile.read(stack.path) for stack in job.stacks])
    assert len(pairs) == 25
    for number in (0, 9, 10, 19, 20, 24):
        pair = pairs[number]
        assert pair.place == f"{number + 1}@noise.mrcs"
        assert np.array_equal(pair.before, given[number])
        assert np.array_equal(pair.after, made[number])
        assert np.array_equal(pair.applied, np.round(pairs.wanted[number]))
    job.stacks[1].forget()  # a run that is not through
    assert [pair.place for pair in Pairs([job])][10] == "21@noise.mrcs"


def test_pages(here, scipion):
    from downsample_plugin.viewers.browser import Browser, draw_pair

    figure = new_figure()
    pairs = Pairs([job_of(DownsamplePlan(32, APIX, crop_size=20, fourier_crop_size=10), 12)])
    browser = Browser(figure, len(pairs), draw_pair(pairs))

    def shown():
        return [np.asarray(axis.get_images()[0].get_array()) for axis in browser.axes]

    assert browser.axes[0].get_title(loc="left").endswith("1@noise.mrcs")
    browser.lowpass.set_val(0)
    browser.entry.set_val("7")
    assert browser.number == 7
    for image, expected in zip(shown(), pairs[6]):
        assert np.array_equal(image, expected)
    widths = [np.ptp(axis.get_images()[0].get_extent()[:2]) for axis in browser.axes]
    assert widths == pytest.approx([32 * APIX, 20 * APIX])
    assert browser.axes[0].get_xlim() == browser.axes[1].get_xlim()  # one scale
    browser.lowpass.set_val(20)
    assert browser.lowpass.valtext.get_text() == "20 Å"
    assert shown()[0].std() < 0.3 * pairs[6].before.std()
    browser.lowpass.set_val(60)  # wider than the image is
    for entered, number in (("99", 12), ("0", 1), ("five", 1), ("12", 12)):
        browser.entry.set_val(entered)
        assert (browser.number, browser.entry.text) == (number, str(number))
    for button, number in ((0, 11), (0, 10), (1, 11)):
        press(figure, browser.buttons[button].ax)
        assert browser.number == number
    os.remove("noise.mrcs")
    browser.show(3)
    assert "the file cannot be opened" in browser.axes[0].get_title(loc="left")


@pytest.fixture(scope="module")
def blobs(project):
    return aligned_particles(project, "blobs.mrcs", BLOB, 12, seed=3, noise=0.0)


@pytest.fixture(scope="module")
def small(project, blobs):
    return downsample(project, blobs, fourierCropSize=32, recenter=True)


def measured(protocol):
    """Where the one blob stands, (n, 2) in Å from the origin, y down the image."""
    images = [image_of(item) for item in items_of(protocol.outputParticles)]
    return np.array([blob_position(image) for image in images]) * APIX


def test_places_of_a_moved_center(project, blobs):
    """The new centre is the blob: it is where it is measured, and in the middle once moved."""
    moved = move(project, blobs, **coordinates(BLOB.centers[0]))
    centers = viewer_of(project, moved)._centers()
    assert centers.after == pytest.approx(measured(blobs), abs=0.05)
    assert len(centers) == 12
    for number in (0, 5, 11):
        standing = centers[number]
        assert standing.after == pytest.approx(centers.after[number])
        assert standing.before == pytest.approx(centers.before[number])
        assert np.array_equal(standing.image, mrcfile.read("blobs.mrcs")[number])
        assert np.abs(np.array(blob_position(standing.centred)) * APIX).max() <= 0.55 * APIX
    assert not np.allclose(centers.before, centers.after, atol=1)


def test_places_of_restored_particles(project, blobs, small):
    restored = restore(project, small, small)
    centers = viewer_of(project, restored)._centers()
    original = viewer_of(project, move(project, blobs, xCenter=0.0))._centers()
    assert centers.after == pytest.approx(original.before, abs=1e-3)
    assert np.abs(centers.before).max() <= 0.5 * APIX + 1e-6  # what whole pixels left
    assert (centers.box, centers.apix) == (BOX, APIX)
    assert centers[3].before is None  # it is no place in this image


def test_all_that_the_viewers_offer_is_drawn(project, blobs, small):
    runs = [small, restore(project, small, small), move(project, blobs, xCenter=20.0)]
    for run in runs:
        viewer = viewer_of(project, run)
        for name, show in viewer._getVisualizeDict().items():
            if name in ("showParticles", "showLeftOut", "showPicture"):
                continue  # other windows; and test runs draw no picture
            (plotter,) = show(name)
            plotter.getFigure().canvas.draw()
            plotter.close()
    (plotter,) = viewer._getVisualizeDict()["showPlaces"]("showPlaces")
    figure = plotter.getFigure()
    assert figure.get_suptitle() == "12 of 12 particles in the output"
    places, distances = figure.axes
    top, bottom = places.get_ylim()[::-1]
    assert top < bottom  # y down, as the images are shown
    assert distances.get_legend().get_texts()[1].get_text().startswith("new center: median")


def test_wizards_preview_any_particle_as_it_comes_out(project, blobs, small):
    from downsample_plugin.wizards.previews import Preview

    protocol = new_downsample(project, blobs, fourierCropSize=32, recenter=True, lowpassResolution=20.0)
    preview = Preview(protocol, lowpass_resolution=None)
    assert preview.count == 12
    filtered = downsample(project, blobs, fourierCropSize=32, recenter=True, lowpassResolution=20.0)
    for run, changed in ((small, {}), (filtered, {"lowpass_resolution": 20.0})):
        for number, item in enumerate(items_of(run.outputParticles)):
            assert preview.image(number, **changed) == pytest.approx(image_of(item), abs=1e-6)


@pytest.fixture
def problems(monkeypatch):
    """What windows on problems are asked to show."""
    from downsample_plugin.viewers import places, results

    shown = []
    for module in (places, results):
        monkeypatch.setattr(module, "ProblemDialog", lambda parent, *what: shown.append(what))
    return shown


def analyze(project, protocol):
    viewer_of(project, protocol).visualize(protocol, windows=SimpleNamespace(root=None))


def test_a_failed_run_shows_its_error_and_its_bad_particles(project, problems):
    images = np.random.default_rng(0).normal(size=(5, 32, 32))
    images[[1, 3]] = np.nan
    stack = write_stack("spoilt.mrcs", images)
    given = particle_set(project, [particle(i, (i, stack)) for i in range(1, 6)], APIX)
    protocol = new_downsample(project, given, fourierCropSize=16)
    project.launchProtocol(protocol, wait=True)
    analyze(project, protocol)
    ((title, text, path),) = problems
    assert title == "The run has failed"
    assert "2 corrupt particles, expected none" in text
    assert "\x1b" not in text
    listed = listed_particles(path, 100)
    assert [(each.particle_id, each.image_index, each.image_file) for each in listed] == [(2, 2, stack), (4, 4, stack)]
    assert all("pixels that are not numbers" in each.problem for each in listed)
    assert protocol.summary()[0] == "0 of 5 images done (0%)"  # the stack with them is not made
    assert protocol.summary()[1] == f"Corrupt particles are listed in {path}"


def test_particles_that_are_left_out_are_shown(project, blobs, problems):
    """A point 30 Å off is outside the box of 32 px in some projections."""
    narrow = downsample(project, blobs, cropSize=32)
    moved = move(project, narrow, **coordinates([28.0, 0.0, 0.0]), excludeOutside=True)
    found = moved.outputParticles.getSize()
    assert 0 < found < 12
    viewer = viewer_of(project, moved)
    viewer._getVisualizeDict()["showLeftOut"]("showLeftOut")
    ((title, _, path),) = problems
    assert title == "Particles left out"
    assert len(listed_particles(path, 100)) == 12 - found
    (plotter,) = viewer._getVisualizeDict()["showPlaces"]("showPlaces")
    assert plotter.getFigure().get_suptitle() == f"{found} of 12 particles in the output, {12 - found} left out"
    plotter.close()


def test_runs_that_are_killed_or_not_through_say_so(project, blobs, problems):
    protocol = new_downsample(project, blobs, fourierCropSize=16)
    project._setupProtocol(protocol)
    protocol.makePathsAndClean()
    protocol.setFailed("")
    analyze(project, protocol)
    protocol.setRunning()
    analyze(project, protocol)
    assert problems[0][:2] == ("The run has failed", "It was killed; see its log, then continue it.")
    assert problems[1][:2] == ("The run is running", "Output particles not ready yet.")


def test_the_summary_of_a_running_run_says_how_far_it_is(project, blobs):
    """By the notes of programs that run now, each on a part of the stacks; by the stacks where there is no note."""
    protocol = new_downsample(project, blobs, fourierCropSize=16, particlesPerStack=3)
    project._setupProtocol(protocol)
    protocol.makePathsAndClean()
    protocol.setRunning()
    assert protocol.summary() == ["Output particles not ready yet."]
    protocol.writeJobStep(0)
    assert protocol.summary() == ["0 of 12 images done (0%)"]
    (job,) = protocol.jobs()

    def note(part, parts, text):
        Path(job.note_path(part, parts)).write_text(text)

    note(1, 2, "[3, 6, 0.5]")
    note(2, 2, "[1, 6, 0.25]")
    assert protocol.summary() == ["4 of 12 images done (33%), 0.75 a second, about 11 s left"]
    run_job(job, job.share(1, 2), 1, lambda done: None)
    assert protocol.summary()[0].startswith("4 of 12")  # what the notes tell of counts once
    note(2, 2, "[1, 6")  # just being written
    assert protocol.summary() == ["3 of 12 images done (25%), 0.5 a second, about 18 s left"]
    os.utime(job.note_path(1, 2), (time.time() - 1000,) * 2)  # of a program that was killed
    protocol.setAborted()
    assert protocol.summary()[0] == "6 of 12 images done (50%)"
    run_job(job, job.stacks, 1, lambda done: None)
    protocol.setRunning()
    assert protocol.summary() == ["12 of 12 images done (100%)", "The output set is being written."]


def test_lists_of_particles_are_read_as_they_were_written(here):
    bad = [BadParticle(7, 3, 'odd "name".mrcs', "what;\nis wrong"), BadParticle(-1, 0, "b c.mrcs", "")]
    list_bad_particles("bad.star", bad)
    assert listed_particles("bad.star", 10) == [
        BadParticle(7, 3, "odd 'name'.mrcs", "what; is wrong"),
        BadParticle(-1, 0, "b c.mrcs", ""),
    ]
    assert len(listed_particles("bad.star", 1)) == 1
    assert listed_particles("none.star", 10) == []
