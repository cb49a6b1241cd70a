# SPDX-License-Identifier: GPL-3.0-or-later
"""The result picture tells the truth: spectra agree with the filter, scale bars are as long as they say."""

import mrcfile
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from downsample_plugin.core.filters import plan_gain
from downsample_plugin.core.plan import DownsamplePlan, FilterShape, Recenter
from downsample_plugin.core.spectra import RadialPower
from downsample_plugin.engine.runner import run_job
from downsample_plugin.errors import DataError
from downsample_plugin.pictures.particles import (
    BAR_COLOR,
    draw_frame,
    draw_image,
    draw_particles,
    draw_result,
    round_length,
)
from downsample_plugin.pictures.plots import LEAST_GAP, draw_grey_values, draw_shifts, draw_spectra, round_resolutions
from downsample_plugin.pictures.sample import SHOWN, Sample

from .scipion_sets import Row, images_of_file, write_job, write_stack

pytestmark = pytest.mark.slow

APIX = 1.5


def job_of(plan, count=40, per_stack=15, shifts=None, folder="run"):
    """A job on white noise, done."""
    rng = np.random.default_rng(0)
    write_stack("noise.mrcs", rng.normal(size=(count, plan.box_in, plan.box_in)))
    shifts = rng.uniform(-5, 5, size=(count, 2)) if shifts is None else shifts
    if plan.recenter is Recenter.NONE:
        shifts = np.zeros((count, 2))
    rows = [Row(i + 1, i + 1, "noise.mrcs", *shift) for i, shift in enumerate(shifts)]
    job = write_job(folder, plan, rows, per_stack)
    run_job(job, job.stacks, 1, lambda done: None, False)
    return job


PLANS = {
    "lowpass": {"fourier_crop_size": 80, "lowpass_resolution": 9.0},
    "highpass, exact": {"fourier_crop_size": 80, "highpass_resolution": 30.0, "recenter": Recenter.EXACT},
    "cosine, cropped": {
        "crop_size": 101,
        "fourier_crop_size": 77,
        "lowpass_resolution": 8.0,
        "filter_shape": FilterShape.RAISED_COSINE,
        "filter_width": 12.0,
        "recenter": Recenter.WHOLE_PIXELS,
    },
    "padded": {"crop_size": 150, "fourier_crop_size": 90, "lowpass_resolution": 10.0, "filter_order": 4},
    "no filter": {"fourier_crop_size": 64},
}


@pytest.mark.parametrize("settings", PLANS.values(), ids=PLANS.keys())
def test_spectra_agree_with_the_filter(here, settings):
    """What is drawn after is what is drawn before times the drawn gain squared, within 1 % of the full gain."""
    plan = DownsamplePlan(128, APIX, **settings)
    figure = Figure()
    axis = figure.subplots()
    draw_spectra(axis, Sample.of_jobs([job_of(plan)]))
    drawn = {line.get_label(): line.get_data() for line in axis.get_lines()}
    (f_before, before), (f_after, after) = drawn["before"], drawn["after"]
    inner = slice(0, len(f_after) - 1)  # the shell at the Nyquist limit holds the halves of the two terms there
    assert f_after[inner] == pytest.approx(f_before[: len(f_after)][inner], rel=1e-6)
    if plan.filtered:
        (gain_line,) = figure.axes[1].get_lines()
        assert gain_line.get_xdata() == pytest.approx(f_after)
        gain = gain_line.get_ydata()
        smooth = plan_gain(plan, f_after)
        assert np.abs(gain - smooth).max() < 0.06  # a shell of a steep edge is not its middle
        assert np.abs(gain - smooth)[np.abs(smooth - 0.5) > 0.49].max() < 0.01
    else:
        gain = np.ones(len(f_after))
    measured = np.sqrt(after / before[: len(after)])
    assert np.abs(measured - gain)[inner].max() < 0.01
    nyquist = {name: xs[0] for name, (xs, _) in drawn.items() if name.startswith("Nyquist")}
    assert nyquist == {
        f"Nyquist before: {2 * APIX:.3g} Å": pytest.approx(1 / (2 * APIX)),
        f"Nyquist after: {2 * plan.apix_out:.3g} Å": pytest.approx(1 / (2 * plan.apix_out)),
    }


def test_radial_power_is_a_density():
    """White noise of deviation 2 at 1.5 Å/px has the power 4 * 1.5^2 at every frequency; a wave stands in its shell."""
    rng = np.random.default_rng(1)
    for box in (64, 65):
        spectrum = RadialPower(box, APIX)
        for _ in range(50):
            spectrum.add(rng.normal(scale=2.0, size=(box, box)))
        assert spectrum.power == pytest.approx(4 * APIX**2, rel=0.2)
        assert spectrum.power.mean() == pytest.approx(4 * APIX**2, rel=0.01)
    wave = RadialPower(64, APIX)
    wave.add(np.cos(2 * np.pi * 9 * np.arange(64) / 64)[None, :] * np.ones((64, 1)))
    assert wave.power.argmax() == 9 - 1
    assert wave.frequency[8] == pytest.approx(9 / (64 * APIX), rel=0.01)


@pytest.mark.parametrize("crop", [None, 64, 160])
def test_the_scale_is_right(here, crop):
    """Images are as wide as their box is in Å, bars as long as the text says; one unit across and up."""
    plan = DownsamplePlan(128, APIX, crop_size=crop, fourier_crop_size=40, recenter=Recenter.WHOLE_PIXELS)
    figure = Figure(figsize=(10, 6))
    axis = figure.add_axes((0, 0, 1, 1))
    draw_particles(axis, Sample.of_jobs([job_of(plan)]))
    widths = [(image.get_extent()[1] - image.get_extent()[0]) for image in axis.get_images()]
    heights = [(image.get_extent()[3] - image.get_extent()[2]) for image in axis.get_images()]
    assert widths == pytest.approx(heights)
    before, after = 128 * APIX, (crop or 128) * APIX
    assert widths == pytest.approx([before] * SHOWN + [after] * SHOWN + [before] * SHOWN + [after] * SHOWN)
    assert axis.get_aspect() == 1.0
    bars = [line.get_xdata() for line in axis.get_lines()]
    lengths = {round(float(bar[1] - bar[0]), 6) for bar in bars}
    (length,) = lengths
    texts = [text.get_text() for text in axis.texts]
    cut = "; frame: cropped region" if crop == 64 else ""
    assert f"before: 128 px, 1.5 Å/px; bar {length:g} Å{cut}" in texts
    assert f"after: 40 px, {plan.apix_out:.4g} Å/px; bar {length:g} Å" in texts
    extents = [image.get_extent() for image in axis.get_images()]
    for i, one in enumerate(extents):
        for other in extents[:i]:
            apart = one[0] >= other[1] or other[0] >= one[1] or one[2] >= other[3] or other[2] >= one[3]
            assert apart, "images overlap"


def test_bars_in_the_file_are_as_long_as_they_say(here):
    """Measured in the PNG: the golden pixels of a bar against the image that it stands in."""
    plan = DownsamplePlan(100, 2.0, fourier_crop_size=50)
    draw_result("result.png", Sample.of_jobs([job_of(plan)]))
    from matplotlib.image import imread

    picture = imread("result.png")[..., :3]
    gold = np.abs(picture - to_rgb(BAR_COLOR)).max(axis=2) < 0.05
    row = np.flatnonzero(gold.any(axis=1))[0] + 1
    bar = gold[row].sum()
    gray = (np.ptp(picture, axis=2) < 0.02) & (picture.mean(axis=2) < 0.99)
    (columns,) = np.nonzero(gray[row - 20 : row].any(axis=0))
    first_image = columns[: np.flatnonzero(np.diff(columns) > 3)[0] + 1]
    assert bar / len(first_image) == pytest.approx(50 / 200, abs=0.02)  # a bar of 50 Å, an image of 200 Å


def test_shifts(here):
    shifts = np.array([[3.2, 0.0], [0.0, -4.4], [0.3, 0.4]])
    plan = DownsamplePlan(64, 2.0, fourier_crop_size=32, recenter=Recenter.WHOLE_PIXELS)
    sample = Sample.of_jobs([job_of(plan, 3, shifts=shifts)])
    assert sample.applied == pytest.approx(np.array([[6, 0], [0, -8], [0, 0]]), abs=1e-9)
    assert sample.left == pytest.approx(np.array([[0.4, 0], [0, -0.8], [0.6, 0.8]]), abs=1e-9)
    axis = Figure().subplots()
    draw_shifts(axis, sample)
    legend = [text.get_text() for text in axis.get_legend().get_texts()]
    assert legend == ["applied: median 6 Å", "left in the alignment: median 0.8 Å"]


def test_grey_values(here):
    """Means and deviations are those of the pixels; averaging four of noise halves the deviation."""
    axis = Figure().subplots()
    draw_grey_values(axis, Sample.of_jobs([job_of(DownsamplePlan(64, 2.0, fourier_crop_size=32))]))
    before, after = (text.get_text() for text in axis.get_legend().get_texts())
    assert float(before.split()[-1]) == pytest.approx(1, abs=0.02)
    assert float(after.split()[-1]) == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize(
    "recenter, label", [(Recenter.NONE, "grey value"), (Recenter.EXACT, "length of the shift (Å)")]
)
def test_the_fourth_field_shows_what_there_is(here, monkeypatch, recenter, label):
    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, path: drawn.append(figure))
    plan = DownsamplePlan(64, 2.0, fourier_crop_size=32, recenter=recenter, normalize=True, float16=True)
    draw_result("result.png", Sample.of_jobs([job_of(plan, 1)]))
    (figure,) = drawn
    assert figure.axes[-1].get_xlabel() == label
    title = figure.get_suptitle()
    assert title.startswith("1 image: box 64 → 32 px, pixel size 2 → 4 Å/px, Nyquist 8 Å\n")
    assert title.endswith("background normalised, 16 bits")
    assert ("recentred (exact)" in title) == (recenter is Recenter.EXACT)


@pytest.mark.parametrize(
    "finest, expected", [(2.62, [2.5, 3, 4, 5, 6, 10, 20]), (20, [20, 30, 40, 50, 100]), (1.0, [1, 1.2])]
)
def test_resolutions_on_the_axis_are_round(finest, expected):
    found = round_resolutions(1.05 / finest)
    assert found[: len(expected)] == expected
    assert np.diff([1 / each for each in found[::-1]]).min() >= LEAST_GAP * 1.05 / finest


def test_the_legend_hides_no_line(here):
    figure = Figure(figsize=(7, 5))
    FigureCanvasAgg(figure)
    axis = figure.add_axes((0.12, 0.3, 0.76, 0.6))
    draw_spectra(axis, Sample.of_jobs([job_of(DownsamplePlan(64, 2.0, fourier_crop_size=32, lowpass_resolution=12.0))]))
    figure.draw_without_rendering()
    assert not axis.get_legend().get_window_extent().overlaps(axis.get_window_extent())


def test_the_frame_shows_what_is_cut_out(here):
    """What stands in the frame, as it is drawn, is what comes out; whole pixels, all shifts."""
    plan = DownsamplePlan(32, 2.0, crop_size=12, recenter=Recenter.WHOLE_PIXELS)
    for pair in Sample.of_jobs([job_of(plan, 4)]).shown:
        axis = Figure().subplots()
        draw_image(axis, pair.before, plan.apix_in)
        draw_frame(axis, plan, pair.applied)
        (frame,) = axis.patches
        left, _, _, top = axis.get_images()[0].get_extent()
        column = (frame.get_x() - left) / plan.apix_in
        row = (top - frame.get_y() - frame.get_height()) / plan.apix_in  # from the top, where the first row is
        assert (column, row) == pytest.approx((round(column), round(row)))
        column, row = round(column), round(row)
        assert np.array_equal(pair.before[row : row + 12, column : column + 12], pair.after)


def rendered(image):
    """An image as ``draw_image`` shows it, one pixel of the screen each, from top to bottom."""
    box = len(image)
    figure = Figure(figsize=(box / 100, box / 100), dpi=100)
    canvas = FigureCanvasAgg(figure)
    axis = figure.add_axes((0, 0, 1, 1))
    draw_image(axis, image, 1.0)
    axis.set_axis_off()
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., 0].astype(float)


def test_images_stand_as_in_scipions_own_viewer(here, scipion):
    """An image without any symmetry, as MDViewer's reader gives it to the screen and as we draw it."""
    from pwem.viewers.mdviewer.readers import ScipionImageReader

    y, x = np.mgrid[:64, :64]
    image = np.exp(-((x - 20) ** 2 + (y - 12) ** 2) / 60) + 0.5 * np.exp(-((x - 45) ** 2 + (y - 40) ** 2) / 90)
    stack = write_stack("asymmetric.mrcs", image[None])
    theirs = np.asarray(ScipionImageReader.open(f"1@{stack}")).astype(float)
    ours = rendered(image)
    assert theirs.shape == ours.shape
    assert np.corrcoef(theirs.ravel(), ours.ravel())[0, 1] > 0.98
    for turned in (ours[::-1], ours[:, ::-1], ours.T):
        assert np.corrcoef(theirs.ravel(), turned.ravel())[0, 1] < 0.7


def test_the_sample_is_taken_evenly(here):
    job = job_of(DownsamplePlan(16, 2.0, fourier_crop_size=8), 100, per_stack=3)
    sample = Sample.of_jobs([job])
    places = [next(i for i, image in enumerate(images_of_file("noise.mrcs")) if np.array_equal(image, shown))
              for shown in (pair.before for pair in sample.shown)]  # fmt: skip
    assert len(places) == SHOWN
    assert (places[0], places[-1]) == (0, 99)
    assert np.diff(places).min() >= 10


def test_particles_that_are_gone_are_passed_over(here):
    job = job_of(DownsamplePlan(32, 2.0, fourier_crop_size=16), 4)
    with mrcfile.mmap("noise.mrcs", mode="r+") as stack:
        stack.data[0] = np.nan
    sample = Sample.of_jobs([job])
    assert (sample.spectrum_before.count, sample.spectrum_after.count) == (3, 3)
    (here / "noise.mrcs").unlink()
    none_left = Sample.of_jobs([job])
    assert none_left.shown == []
    draw_result("result.png", none_left)
    assert (here / "result.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("length, expected", [(1.0, 1), (9.99, 5), (10, 10), (66, 50), (0.3, 0.2), (199, 100)])
def test_bars_have_round_lengths(length, expected):
    assert round_length(length) == pytest.approx(expected)


@pytest.mark.parametrize(
    "settings",
    [{"box_in": 8, "normalize": True}, {"box_in": 64, "crop_size": 16, "fourier_crop_size": 8}, {"box_in": 32}],
)
def test_narrow_fields_of_view(here, settings):
    """An image that is narrower than what is kept for the eye is shown all the same."""
    plan = DownsamplePlan(apix_in=0.5, float16=True, **settings)
    draw_result("result.png", Sample.of_jobs([job_of(plan, 5)]))
    assert (here / "result.png").read_bytes().startswith(b"\x89PNG")


def test_normalised_spectra_are_drawn_on_one_scale(here):
    plan = DownsamplePlan(64, APIX, fourier_crop_size=32, normalize=True, lowpass_resolution=10.0)
    axis = Figure().subplots()
    draw_spectra(axis, Sample.of_jobs([job_of(plan)]))
    drawn = {line.get_label(): line.get_data()[1] for line in axis.get_lines()}
    before, after = drawn["before, on the normalised scale"], drawn["after"]
    assert np.median(after[:5] / before[:5]) == pytest.approx(1, abs=0.1)
    low, high = axis.get_ylim()
    assert low < after[:5].min() < after[:5].max() < high


def test_nothing_to_show_yet_is_a_sentence():
    with pytest.raises(DataError, match="no particles have been downsampled yet"):
        Sample.of_jobs([])
