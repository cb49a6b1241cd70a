# SPDX-License-Identifier: GPL-3.0-or-later
"""The protocol "downsample volumes": volumes, masks and sets, with half maps, origins and pixel sizes."""

import errno
import os
import time
from pathlib import Path

import mrcfile
import numpy as np
import pytest

from downsample_plugin import headless
from downsample_plugin.core import volume_checks
from downsample_plugin.core.plan import FilterShape
from downsample_plugin.core.resampling import downsample_sections, downsample_volume
from downsample_plugin.core.volume_plan import VolumePlan
from downsample_plugin.errors import DataError, PlanError
from downsample_plugin.files.volumes import read_volume
from downsample_plugin.simulate import particle_phantom

from .launching import go_on, kill, processes_of
from .scipion_sets import connect, downsample, particle, particle_set, register, write_stack
from .test_protocol_form import DEFAULTS, PARAMETERS
from .waiting import wait_for

BOX, APIX = 48, 1.5
SIZES = ("cropSize", "targetPixelSize", "fourierCropSize")


@pytest.fixture(scope="module")
def maps():
    """A map and its half maps."""
    whole = particle_phantom(20, np.random.default_rng(1)).volume(BOX, APIX)
    rng = np.random.default_rng(2)
    return [(whole + rng.normal(scale=0.1, size=whole.shape)).astype(np.float32) for _ in range(3)]


def write_map(path, volume):
    with mrcfile.new(path, overwrite=True) as file:
        file.set_data(volume)
        file.set_volume()
    return path


def given(project, make, output="outputVolume"):
    """A finished protocol whose output is ``make(folder)``."""
    return register(project, lambda protocol: make(protocol._getPath()), output)


def volume_in(folder, maps, kind="Volume", origin=None, apix=APIX, number=1):
    import pwem.objects

    path, *halves = [write_map(f"{folder}/map{number}_{i}.mrc", each) for i, each in enumerate(maps)]
    volume = getattr(pwem.objects, kind)(location=path)
    volume.setSamplingRate(apix)
    if halves:
        volume.setHalfMaps(halves)
    if origin is not None:
        volume.setOrigin(pwem.objects.Transform())
        volume.getOrigin().setShifts(*origin)
    return volume


def set_in(folder, all_maps, apix=APIX):
    from pwem.objects import SetOfVolumes, Transform
    from pyworkflow.object import Float

    volumes = SetOfVolumes.create(folder)
    volumes.setSamplingRate(apix)
    for number, maps in enumerate(all_maps, start=1):
        volume = volume_in(folder, maps, origin=(-10.0 * number, 0, 5), number=number)
        volume.setObjId(3 * number)
        volume.setClassId(number)
        volume.setObjLabel(f"class {number}")
        volume.setTransform(Transform(np.array([[0, 1, 0, 3], [1, 0, 0, -6], [0, 0, -1, 1.5], [0, 0, 0, 1]], float)))
        volume._rlnResolution = Float(4.5 + number)
        volume.setEnabled(number != 2)
        volumes.append(volume)
    volumes.write()
    return volumes


def new(project, source, output="outputVolume", like=None, **settings):
    from downsample_plugin.protocols import ProtDownsampleVolumes

    inputs = {"inputVolumes": (source, output), **({"likeParticles": like} if like else {})}
    return connect(project.newProtocol(ProtDownsampleVolumes, **settings), **inputs)


def run(project, source, output="outputVolume", like=None, **settings):
    return headless.run(project, new(project, source, output, like, **settings))


def data_of(path):
    assert mrcfile.validate(path)
    return mrcfile.read(path)


def particles_of(project, box, apix, name):
    stack = write_stack(name, np.random.default_rng(0).normal(size=(2, box, box)))
    return particle_set(project, [particle(i, (i, stack)) for i in (1, 2)], apix)


# ---- outputs ---------------------------------------------------------------------------------------------


def test_a_volume_with_half_maps(project, maps):
    source = given(project, lambda folder: volume_in(folder, maps, origin=(-36.0, -36.0, -30.0)))
    protocol = run(project, source, cropSize=40, fourierCropSize=25, lowpassResolution=6.0)
    output = protocol.outputVolume
    assert output.getClassName() == "Volume"
    plan = VolumePlan(BOX, APIX, crop_size=40, fourier_crop_size=25, lowpass_resolution=6.0)
    assert output.getSamplingRate() == plan.apix_out
    assert output.getDim() == (25, 25, 25)
    files = [output.getFileName(), *output.getHalfMaps(asList=True)]
    assert [os.path.basename(path) for path in files] == [
        "volume_000001.mrc",
        "volume_000001_half1.mrc",
        "volume_000001_half2.mrc",
    ]
    for path, volume in zip(files, maps):
        assert np.array_equal(data_of(path), downsample_volume(volume, plan))
    # The origin voxel, 24 of 48 and 12 of 25, stays where it is
    moved = [shift + 24 * APIX - 12 * plan.apix_out for shift in (-36.0, -36.0, -30.0)]
    assert output.getOrigin().getShifts() == pytest.approx(tuple(moved))
    assert source.outputVolume.getOrigin().getShifts() == pytest.approx((-36.0, -36.0, -30.0))
    assert protocol.summary()[:2] == [
        "1 volume: box 48 → 40 → 25 px, pixel size 1.5 → 2.4 Å/px, Nyquist 4.8 Å; cropped, low-pass 6 Å",
        "2 half maps as well",
    ]
    assert protocol._methods()[0].startswith(
        "1 map (48 px, 1.5 Å/px) was resampled in Fourier space to 25 px (2.4 Å/px) and low-pass filtered at 6 Å "
        "(Butterworth, order 8) with scipion-em-downsample "
    )
    assert Path(protocol.picturePath()).read_bytes().startswith(b"\x89PNG")
    assert not hasattr(protocol, "outputMask")


def test_a_mask_for_downsampled_particles_and_back(project):
    """The small particles' box and pixel size; then those of the full-size ones again."""
    ball = sum((np.indices((BOX,) * 3)[axis] - BOX // 2) ** 2 for axis in range(3)) < 12**2
    source = given(project, lambda folder: volume_in(folder, [ball.astype(np.float32)], "VolumeMask"))
    full = particles_of(project, BOX, APIX, "full.mrcs")
    small = downsample(project, full, cropSize=40, targetPixelSize=2.9)
    protocol = run(project, source, like=small)
    output = protocol.outputMask
    assert output.getClassName() == "VolumeMask"
    assert output.getSamplingRate() == small.outputParticles.getSamplingRate()
    assert output.getDim()[:2] == small.outputParticles.getDim()[:2] == (20, 20)
    mask = data_of(output.getFileName())
    assert (mask.min(), mask.max()) == (0, 1)
    assert not output.hasOrigin()
    assert "Box and pixel size of" in protocol.summary()[1]
    back = new(project, protocol, "outputMask", like=full)
    assert "the output is finer (1.5 Å/px) than the volume (3 Å/px)" in back.warnings()[0]
    headless.run(project, back)
    assert back.outputMask.getSamplingRate() == APIX
    again = data_of(back.outputMask.getFileName())
    assert again.shape == (BOX,) * 3
    assert np.mean((again > 0.5) != ball) < 0.01


def test_a_set_of_volumes(project, maps):
    source = given(project, lambda folder: set_in(folder, [maps, maps[:1], maps[1:]]), "outputVolumes")
    protocol = run(project, source, "outputVolumes", targetPixelSize=3.0)
    volumes = [volume.clone() for volume in protocol.outputVolumes.iterItems()]
    assert protocol.outputVolumes.getClassName() == "SetOfVolumes"
    assert protocol.outputVolumes.getSamplingRate() == 3.0
    assert protocol.outputVolumes.getDim() == (24, 24, 24)
    assert [volume.getObjId() for volume in volumes] == [3, 9]  # the second is disabled
    for volume, number, of in zip(volumes, (1, 3), (maps, maps[1:])):
        assert volume.getSamplingRate() == 3.0
        assert volume.getClassId() == number
        assert volume.getObjLabel() == f"class {number}"
        assert volume._rlnResolution.get() == 4.5 + number
        assert volume.getOrigin().getShifts() == pytest.approx((-10.0 * number, 0, 5))
        matrix = volume.getTransform().getMatrix()
        assert matrix[:3, 3].tolist() == [1.5, -3, 0.75]
        assert matrix[:3, :3].tolist() == [[0, 1, 0], [1, 0, 0], [0, 0, -1]]
        files = [volume.getFileName(), *volume.getHalfMaps(asList=True)]
        assert len(files) == len(of)
        for path, given_map in zip(files, of):
            expected = downsample_volume(given_map, VolumePlan(BOX, APIX, target_pixel_size=3.0))
            assert np.array_equal(data_of(path), expected)
    assert protocol.pairOf(2)[0].getObjId() == protocol.pairOf(2)[1].getObjId() == 9
    assert protocol.summary()[1] == "3 half maps as well"


def test_a_raised_cosine(project, maps):
    source = given(project, lambda folder: volume_in(folder, maps[:1]))
    protocol = run(project, source, lowpassResolution=8.0, filterShape=1, filterWidth=3.0)
    plan = VolumePlan(BOX, APIX, lowpass_resolution=8.0, filter_shape=FilterShape.RAISED_COSINE, filter_width=3.0)
    assert np.array_equal(data_of(protocol.outputVolume.getFileName()), downsample_volume(maps[0], plan))
    assert "was low-pass filtered at 8 Å (raised cosine, 3 Fourier shells wide) with" in protocol._methods()[0]


def test_the_output_is_an_input_again(project, maps):
    source = given(project, lambda folder: volume_in(folder, maps[:1]))
    first = run(project, source, fourierCropSize=32)
    second = run(project, first, fourierCropSize=24)
    plan = VolumePlan(32, APIX * BOX / 32, fourier_crop_size=24)
    small = downsample_volume(maps[0], VolumePlan(BOX, APIX, fourier_crop_size=32))
    assert np.array_equal(data_of(second.outputVolume.getFileName()), downsample_volume(small, plan))
    like = run(project, source, like=(second, "outputVolume"))
    assert like.outputVolume.getSamplingRate() == pytest.approx(3.0)


# ---- form ------------------------------------------------------------------------------------------------


def test_names_and_labels_are_those_of_particles(project, maps):
    protocol = new(project, given(project, lambda folder: volume_in(folder, maps[:1])))
    labels = {name: param.getLabel() for name, param in protocol.getDefinition().iterParams()}
    shared = set(labels) & set(PARAMETERS)
    assert shared == {*SIZES, "lowpassResolution", "highpassResolution", "filterShape", "filterOrder", "filterWidth"}
    for name in shared:
        assert labels[name] == PARAMETERS[name]
        assert getattr(protocol, name).get() == DEFAULTS[name]
        assert len(protocol.getParam(name).getHelp()) > 60
    assert labels["inputVolumes"] == "Input volumes"
    assert labels["likeParticles"] == "Particles or volume to fit"
    assert protocol.getClassLabel() == "downsample volumes"


@pytest.mark.parametrize(
    "settings, plan",
    [
        ({}, {}),
        ({"fourierCropSize": 49}, {"fourier_crop_size": 49}),
        ({"targetPixelSize": 1.0}, {"target_pixel_size": 1.0}),
        ({"targetPixelSize": 3.0, "fourierCropSize": 20}, {"target_pixel_size": 3.0, "fourier_crop_size": 20}),
        ({"cropSize": 4}, {"crop_size": 4}),
        ({"lowpassResolution": -1.0}, {"lowpass_resolution": -1.0}),
        ({"lowpassResolution": 8.0, "filterOrder": 0}, {"lowpass_resolution": 8.0, "filter_order": 0}),
    ],
)
def test_refusals_are_the_plans_own_words(project, maps, settings, plan):
    source = given(project, lambda folder: volume_in(folder, maps[:1]))
    errors = new(project, source, **settings).validate()
    assert errors == volume_checks.problems(VolumePlan(BOX, APIX, **plan))
    assert len(errors) == 1


def test_other_refusals(project, maps):
    from downsample_plugin.protocols import ProtDownsampleVolumes

    assert project.newProtocol(ProtDownsampleVolumes).validate() == ["*Input volumes* cannot be EMPTY."]
    source = given(project, lambda folder: volume_in(folder, maps[:1]))
    particles = particles_of(project, 24, 3.0, "like.mrcs")
    (error,) = new(project, source, like=particles, cropSize=40).validate()
    assert "Particles or volume to fit: given together with a box or a pixel size" in error
    oblong = given(project, lambda folder: volume_in(folder, [np.zeros((20, 24, 24), dtype=np.float32)]))
    (error,) = new(project, oblong, fourierCropSize=16).validate()
    assert "Input volumes, " in error and "24 x 24 x 20 voxels, expected a cube" in error
    unsized = given(project, lambda folder: volume_in(folder, maps[:1], apix=0))
    assert new(project, unsized, fourierCropSize=16).validate() == [
        "Input volumes: the sampling rate is missing, expected the voxel size; set it first."
    ]
    (error,) = new(project, source, like=particles_of(project, 24, None, "unsized.mrcs")).validate()
    assert "Particles or volume to fit: the sampling rate is missing" in error
    mask = given(project, lambda folder: volume_in(folder, [np.zeros((24,) * 3, np.float32)], "VolumeMask"))
    (error,) = new(project, mask, fourierCropSize=16, highpassResolution=20.0).validate()
    assert "expected none for a mask" in error
    os.remove(source.outputVolume.getFileName())
    (error,) = new(project, source, fourierCropSize=16).validate()
    assert "the file cannot be opened" in error


@pytest.mark.parametrize("missing", [False, True])
def test_a_bad_half_map_fails_the_run_with_its_name(project, maps, missing):
    bad = maps[2].copy()
    bad[3, 2, 1] = np.inf
    with pytest.warns(RuntimeWarning):
        source = given(project, lambda folder: volume_in(folder, [*maps[:2], bad]))
    half = source.outputVolume.getHalfMaps(asList=True)[1]
    if missing:
        os.remove(half)
    protocol = new(project, source, fourierCropSize=16)
    project.launchProtocol(protocol, wait=True)
    assert protocol.isFailed()
    message = protocol.getErrorMessage()
    assert f"{half}: " in message and "Traceback" not in message
    assert ("cannot be opened" if missing else "the first at x = 1, y = 2, z = 3 (inf)") in message
    assert sorted(os.listdir(protocol._getExtraPath())) == ["volume_000001.mrc", "volume_000001_half1.mrc"]
    write_map(half, maps[2])
    go_on(project, protocol, wait=True)  # and with the map mended
    assert protocol.isFinished()
    assert len(protocol.outputVolume.getHalfMaps(asList=True)) == 2


def test_a_full_disk_is_a_sentence(project, maps, monkeypatch):
    from downsample_plugin.protocols import volumes_made

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    source = given(project, lambda folder: volume_in(folder, maps[:1]))
    protocol = new(project, source, cropSize=100)
    with monkeypatch.context() as patched:
        patched.setattr(volumes_made, "downsample_map", full)
        project.launchProtocol(protocol, wait=True)
    message = protocol.getErrorMessage()
    assert "the output cannot be written (No space left on device), expected a folder" in message
    assert "with room for 4 MB; check it, then continue the run" in message and "Traceback" not in message
    go_on(project, protocol, wait=True)
    assert protocol.isFinished()


@pytest.mark.slow
@pytest.mark.parametrize("size", [1000, 10_000_000, 50_000_000])
def test_killed_while_it_writes(project, maps, monkeypatch, size):
    """Nothing stands under its name that is not whole; on Continue nothing is left of the unfinished file."""
    source = given(project, lambda folder: volume_in(folder, maps))
    protocol = new(project, source, cropSize=240)

    def slowly(*arguments):
        for section in downsample_sections(*arguments):
            time.sleep(0.005)  # so that the file is seen in each of its sizes
            yield section

    with monkeypatch.context() as patched:
        patched.setattr("downsample_plugin.files.maps.downsample_sections", slowly)
        project.launchProtocol(protocol, wait=False)
    folder = Path(protocol._getExtraPath())

    def has_begun():
        return any(path.stat().st_size > size for path in folder.glob("*.part"))

    wait_for(has_begun, "the unfinished file")
    kill(processes_of(protocol))
    for path in folder.glob("*.mrc"):
        assert data_of(path).shape == (240,) * 3
    go_on(project, protocol, wait=True)
    assert protocol.isFinished()
    assert sorted(path.name for path in folder.iterdir() if path.suffix != ".png") == [
        "volume_000001.mrc",
        "volume_000001_half1.mrc",
        "volume_000001_half2.mrc",
    ]


def test_volumes_of_different_boxes(project, maps):
    small = [maps[0][:40, :40, :40]]
    source = given(project, lambda folder: set_in(folder, [maps[:1], maps[:1], small]), "outputVolumes")
    protocol = new(project, source, "outputVolumes", fourierCropSize=16)
    project.launchProtocol(protocol, wait=True)
    assert "Volume 9, " in protocol.getErrorMessage()
    assert "the box is 40 px, expected 48 px (that of the first)" in protocol.getErrorMessage()


# ---- what Scipion finds ----------------------------------------------------------------------------------


def test_scipion_finds_protocol_viewer_and_wizards(project, maps):
    from pwem import Domain
    from pyworkflow.gui.project.viewprotocols_extra import ProtocolTreeConfig
    from pyworkflow.viewer import DESKTOP_TKINTER

    from downsample_plugin.protocols import ProtDownsampleVolumes

    assert Domain.getProtocols()["ProtDownsampleVolumes"] is ProtDownsampleVolumes
    protocol = new(project, given(project, lambda folder: volume_in(folder, maps[:1])))
    viewers = [viewer.__name__ for viewer in Domain.findViewers(protocol, DESKTOP_TKINTER)]
    assert viewers[0] == "DownsampleVolumesViewer"
    wizards = Domain.findWizards(protocol, DESKTOP_TKINTER)
    boxes, filters = {"cropSize", "targetPixelSize", "fourierCropSize"}, {"lowpassResolution", "highpassResolution"}
    assert boxes | filters <= set(wizards)

    def paths(menu, above=()):
        for child in menu.childs:
            if child.value == "ProtDownsampleVolumes":
                yield above
            yield from paths(child, (*above, child.text))

    views = ProtocolTreeConfig.load(Domain, project.getPath("protocols.conf"))
    assert list(paths(views["Protocols SPA"])) == [("3D", "Preprocess")]


def test_what_the_wizards_offer(project, maps):
    from downsample_plugin.core.choices import fourier_crop_choices
    from downsample_plugin.wizards import _boxPlanOf

    source = given(project, lambda folder: volume_in(folder, maps[:1]))
    plan = _boxPlanOf(new(project, source, cropSize=40), "fourier_crop_size")
    assert (plan.box_in, plan.apix_in, plan.box_crop) == (BOX, APIX, 40)
    assert fourier_crop_choices(plan).rows[0].value == 40


@pytest.mark.parametrize("number", [0, 1, 2])
def test_the_filter_wizard_shows_what_comes_out(project, maps, number):
    from downsample_plugin.wizards.previews import MapPreview

    source = given(project, lambda folder: volume_in(folder, maps[:1]))
    form = {"cropSize": 44, "fourierCropSize": 30, "filterOrder": 4}
    made = read_volume(run(project, source, **form, lowpassResolution=20.0).outputVolume.getFileName())
    preview = MapPreview(new(project, source, **form), lowpass_resolution=None)
    shown = preview.image(number, lowpass_resolution=20.0)
    assert shown == pytest.approx(made.take(15, axis=number), abs=1e-6 * made.std())


def test_the_filter_wizard_shows_large_maps_coarsely(project, maps, monkeypatch):
    """About the same origin, at the same scale."""
    from downsample_plugin.wizards import previews

    source = given(project, lambda folder: volume_in(folder, maps[:1]))
    protocol = new(project, source, cropSize=44, lowpassResolution=40.0)
    fine = previews.MapPreview(protocol).image(0)
    monkeypatch.setattr(previews, "LARGEST_MAP_SHOWN", 22)
    preview = previews.MapPreview(protocol)
    assert preview.name(2) == "section across x (shown at 3 Å/px)"
    coarse = preview.image(0)
    assert coarse.shape == (22, 22)
    assert coarse == pytest.approx(fine[::2, ::2], abs=0.02 * fine.std())


def test_the_filter_wizard_without_a_volume(project, maps):
    from downsample_plugin.protocols import ProtDownsampleVolumes
    from downsample_plugin.wizards.previews import MapPreview

    with pytest.raises(DataError, match="Input volumes: none are given"):
        MapPreview(project.newProtocol(ProtDownsampleVolumes))


def test_the_filter_wizard_before_anything_else_is_given(project, maps):
    from downsample_plugin.wizards.previews import MapPreview

    source = given(project, lambda folder: volume_in(folder, maps[:1]))
    preview = MapPreview(new(project, source, lowpassResolution=20.0), lowpass_resolution=None)
    assert preview.image(1) == pytest.approx(maps[0][:, BOX // 2])
    with pytest.raises(PlanError, match="Fourier crop to box size: got 64 px"):
        MapPreview(new(project, source, fourierCropSize=64))


def test_the_high_pass_wizard_on_a_mask(project, maps):
    from downsample_plugin.wizards.previews import MapPreview

    voxels = (maps[0] > 0.5).astype(np.float32)
    mask = given(project, lambda folder: volume_in(folder, [voxels], "VolumeMask"), "outputMask")
    preview = MapPreview(new(project, mask, "outputMask", fourierCropSize=24), highpass_resolution=None)
    assert preview.image(0).max() <= 1
    with pytest.raises(PlanError, match="expected none for a mask"):
        preview.image(0, highpass_resolution=100.0)
