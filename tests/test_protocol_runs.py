# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs of the protocol as users make them: sets from many places, options, restart, copy and continue."""

import os
import shutil
from pathlib import Path

import mrcfile
import numpy as np
import pytest

from downsample_plugin import headless
from downsample_plugin.core import DownsamplePlan, downsample_images
from downsample_plugin.core.plan import FilterShape, Recenter

from . import relion_files
from .relion_files import write_refined
from .scipion_sets import (
    downsample,
    image_of,
    images_of_file,
    items_of,
    new_downsample,
    pairs,
    particle,
    particle_set,
    write_stack,
)

DATA = Path(__file__).parent / "data"
APIX, BOX = 1.31, 40


def noise(count, seed=0, box=BOX):
    return np.random.default_rng(seed).normal(size=(count, box, box)).astype(np.float32)


@pytest.fixture(scope="module")
def ten(project):
    stack = write_stack("ten.mrcs", noise(10))
    return particle_set(project, [particle(i, (i, stack)) for i in range(1, 11)], APIX)


def assert_images(output, expected):
    for item, image in pairs(items_of(output), expected):
        assert np.array_equal(image_of(item), image)
    assert output.getSize() == len(expected)


def test_every_form_parameter_reaches_the_images(project, ten):
    settings = {
        "cropSize": 36,
        "fourierCropSize": 21,
        "lowpassResolution": 9.0,
        "highpassResolution": 60.0,
        "filterShape": 1,
        "filterWidth": 3.0,
        "doNormalize": True,
        "backRadius": 8,
        "saveFloat16": True,
        "particlesPerStack": 4,
    }
    protocol = downsample(project, ten, **settings)
    plan = DownsamplePlan(
        BOX,
        APIX,
        crop_size=36,
        fourier_crop_size=21,
        lowpass_resolution=9.0,
        highpass_resolution=60.0,
        filter_shape=FilterShape.RAISED_COSINE,
        filter_width=3.0,
        normalize=True,
        background_radius=8,
        float16=True,
    )
    expected, _ = downsample_images(noise(10), plan)
    assert_images(protocol.outputParticles, expected)
    stacks = sorted(protocol.outputParticles.getFiles())
    assert [os.path.basename(name) for name in stacks] == [f"particles_{i:06d}.mrcs" for i in (1, 2, 3)]
    assert all(os.path.dirname(name) == protocol._getExtraPath() for name in stacks)
    assert mrcfile.open(stacks[0]).header.mode == 12


def test_butterworth_order_is_the_default(project, ten):
    protocol = downsample(project, ten, lowpassResolution=6.0, filterOrder=3)
    plan = DownsamplePlan(BOX, APIX, lowpass_resolution=6.0, filter_order=3)
    assert_images(protocol.outputParticles, downsample_images(noise(10), plan)[0])
    assert protocol.outputParticles.getSamplingRate() == APIX


def test_stacks_of_one_name_in_shuffled_order_and_single_images(project):
    images, items = noise(12, seed=4), []
    places = np.random.default_rng(0).permutation(9)
    for folder in ("a", "b b", "c;'$(touch x)'"):
        write_stack(
            f"many/{folder}/particles.mrcs",
            images[[("a", "b b", "c;'$(touch x)'").index(folder) + 3 * i for i in range(3)]],
        )
    for place in places:
        folder = ("a", "b b", "c;'$(touch x)'")[place % 3]
        items.append((place, (int(place) // 3 + 1, f"many/{folder}/particles.mrcs")))
    for number in (9, 10, 11):
        items.append((number, (0, write_stack(f"many/single_{number}.mrc", images[number]))))
    particles = particle_set(project, [particle(10 + 3 * rank, at) for rank, (_, at) in enumerate(items)], APIX)
    output = downsample(project, particles, fourierCropSize=20, particlesPerStack=5).outputParticles
    assert [item.getObjId() for item in items_of(output)] == [10 + 3 * rank for rank in range(12)]
    expected, _ = downsample_images(
        images[[place for place, _ in items]], DownsamplePlan(BOX, APIX, fourier_crop_size=20)
    )
    assert_images(output, expected)
    assert not os.path.exists("x")


def test_a_subset_made_by_scipion(project, ten):
    from pwem.protocols import ProtSubSet

    subset = project.newProtocol(ProtSubSet, chooseAtRandom=True, nElements=4)
    subset.inputFullSet.set(ten)
    subset.inputFullSet.setExtended("outputParticles")
    headless.run(project, subset)
    chosen = [item.getObjId() for item in items_of(subset.outputParticles)]
    output = downsample(project, subset, fourierCropSize=20).outputParticles
    assert [item.getObjId() for item in items_of(output)] == chosen
    plan = DownsamplePlan(BOX, APIX, fourier_crop_size=20)
    assert_images(output, downsample_images(noise(10)[[i - 1 for i in chosen]], plan)[0])


def test_an_import_of_files(project):
    from pwem.protocols import ProtImportParticles

    write_stack("imported/stack.mrcs", noise(3, seed=9))
    imported = project.newProtocol(
        ProtImportParticles, filesPath="imported", filesPattern="stack.mrcs", samplingRate=APIX
    )
    headless.run(project, imported)
    output = downsample(project, imported, targetPixelSize=2.6).outputParticles
    plan = DownsamplePlan(BOX, APIX, fourier_crop_size=20)
    assert_images(output, downsample_images(noise(3, seed=9), plan)[0])
    assert output.getSamplingRate() == pytest.approx(2 * APIX, rel=1e-14)


@pytest.mark.parametrize("dtype", ["i1", ">i2", "<u2", ">f2", ">f4"])
def test_all_types_of_files(project, dtype):
    """Scipion itself reads the sizes of big-endian files the wrong way round."""
    images = np.random.default_rng(2).integers(0, 100, size=(3, BOX, BOX)).astype(dtype)
    name = f"types_{dtype[-2:]}{'big' if dtype[0] == '>' else ''}.mrcs"
    mrcfile.write(name, images)
    particles = particle_set(project, [particle(i, (i, name)) for i in (1, 2, 3)], APIX)
    output = downsample(project, particles, fourierCropSize=20).outputParticles
    plan = DownsamplePlan(BOX, APIX, fourier_crop_size=20)
    assert_images(output, downsample_images(images.astype(np.float32), plan)[0])


# ---- real particles ------------------------------------------------------------------------------------


def test_empiar_10076(project):
    """Seven ribosome particles in a stack that is named .mrc, whose header knows no pixel size."""
    stack = str(DATA / "empiar_10076_7.mrc")
    particles = particle_set(project, [particle(i, (i, stack)) for i in range(1, 8)], 1.31)
    protocol = downsample(project, particles, targetPixelSize=3.275, doNormalize=True, saveFloat16=True)
    output = protocol.outputParticles
    assert (output.getXDim(), output.getSamplingRate()) == (128, pytest.approx(3.275))
    originals = images_of_file(stack)
    small = np.stack([image_of(item) for item in items_of(output)]).astype(np.float64)
    y, x = np.indices((128, 128)) - 64
    background = x**2 + y**2 > 64**2
    assert small[:, background].mean(axis=1) == pytest.approx(0, abs=1e-3)
    assert small[:, background].std(axis=1) == pytest.approx(1, abs=1e-3)
    # inside the new Nyquist limit the transform is that of the original, up to the normalisation
    for image, original in pairs(small, originals):
        ours = np.fft.fft2(image)[1:40, 1:40]
        theirs = np.fft.fft2(original.astype(np.float64))[1:40, 1:40]
        correlation = np.abs(np.vdot(ours, theirs)) / np.linalg.norm(ours) / np.linalg.norm(theirs)
        assert correlation > 0.999


def refined_particles():
    """Particles of RELION's refined.star: items with matrices as Scipion holds them, and shifts in px."""
    from pwem.convert.transformations import euler_matrix

    for i, row in enumerate(write_refined("."), start=1):
        inverse = euler_matrix(*-np.radians(row.angles), axes="szyz")
        inverse[:2, 3] = -row.shift / relion_files.APIX
        yield particle(i, (i, "refined.mrcs"), np.linalg.inv(inverse), row.place / 2), row.shift / relion_files.APIX


@pytest.mark.parametrize("mode", [Recenter.WHOLE_PIXELS, Recenter.EXACT])
def test_refined_particles_of_relion(project, mode):
    """RELION's angles and origins (in Å, all below half a pixel, as a refinement leaves them)."""
    items, shifts = zip(*refined_particles())
    particles = particle_set(project, items, relion_files.APIX, "Projection")
    settings = {"recenter": True, "recenterMode": [Recenter.WHOLE_PIXELS, Recenter.EXACT].index(mode)}
    output = downsample(project, particles, fourierCropSize=32, **settings).outputParticles
    plan = DownsamplePlan(relion_files.BOX, relion_files.APIX, fourier_crop_size=32, recenter=mode)
    expected, applied = downsample_images(images_of_file("refined.mrcs"), plan, shifts)
    assert np.array_equal(applied, np.zeros((5, 2))) == (mode is Recenter.WHOLE_PIXELS)
    for item, image, d, shift in pairs(items_of(output), expected, applied, shifts):
        assert image_of(item) == pytest.approx(image, abs=1e-5)
        left = -np.linalg.inv(item.getTransform().getMatrix())[:2, 3]
        assert left == pytest.approx((shift - d) / 2, abs=1e-9)


# ---- again and again -------------------------------------------------------------------------------------


def test_restart_copy_and_continue(project, ten):
    from pyworkflow.protocol.constants import MODE_RESTART, MODE_RESUME

    protocol = downsample(project, ten, fourierCropSize=20, particlesPerStack=3)
    assert len(protocol.outputParticles.getFiles()) == 4

    def finished_at():
        return os.path.getmtime(protocol._getExtraPath("particles_000001.mrcs"))

    first = finished_at()
    protocol.runMode.set(MODE_RESUME)
    headless.run(project, protocol)
    assert finished_at() == first, "nothing changed, nothing is done again"

    protocol.runMode.set(MODE_RESUME)
    protocol.fourierCropSize.set(16)
    protocol.particlesPerStack.set(100)
    headless.run(project, protocol)
    assert protocol.outputParticles.getXDim() == 16
    stacks = [name for name in os.listdir(protocol._getExtraPath()) if ".mrcs" in name]
    assert stacks == ["particles_000001_2.mrcs"], "stacks of the old run are gone"
    assert protocol.outputParticles.getSamplingRate() == pytest.approx(APIX * 2.5, rel=1e-14)

    protocol.runMode.set(MODE_RESTART)
    protocol.fourierCropSize.set(10)
    headless.run(project, protocol)
    assert protocol.outputParticles.getXDim() == 10
    assert "→ 10 px" in "".join(protocol.summary())

    copy = project.copyProtocol(protocol)
    assert (copy.fourierCropSize.get(), copy.particlesPerStack.get()) == (10, 100)
    headless.run(project, copy)
    assert copy.outputParticles.getXDim() == 10


def test_a_failed_run_says_why_and_goes_on_when_mended(project):
    from pyworkflow.protocol.constants import MODE_RESUME

    stack = write_stack("mend/stack.mrcs", noise(4))
    particles = particle_set(project, [particle(i, (i, stack)) for i in range(1, 5)], APIX)
    shutil.move(stack, stack + ".away")
    protocol = new_downsample(project, particles, fourierCropSize=20)
    with pytest.raises(RuntimeError, match=r"Input particles, mend/stack\.mrcs: the file cannot be opened"):
        headless.run(project, protocol)
    assert not hasattr(protocol, "outputParticles")
    shutil.move(stack + ".away", stack)
    protocol.runMode.set(MODE_RESUME)
    headless.run(project, protocol)
    assert protocol.outputParticles.getSize() == 4

    # Changed, and failing: the old output stays whole, and what is told is told of it
    changed = noise(4)
    changed[2, 3, 3] = np.nan
    write_stack(stack, changed)
    protocol.runMode.set(MODE_RESUME)
    protocol.fourierCropSize.set(16)
    with pytest.raises(RuntimeError, match=r"Particle 3, image 3 of mend/stack\.mrcs: pixels that are not numbers"):
        headless.run(project, protocol)
    plan = DownsamplePlan(BOX, APIX, fourier_crop_size=20)
    assert_images(protocol.outputParticles, downsample_images(noise(4), plan)[0])
    assert "Fourier cropped to 20 px" in protocol._methods()[0]
    assert "→ 20 px" in protocol.summary()[0]

    write_stack(stack, noise(4))
    protocol.runMode.set(MODE_RESUME)
    headless.run(project, protocol)
    assert protocol.outputParticles.getXDim() == 16
    assert sum(".mrcs" in name for name in os.listdir(protocol._getExtraPath())) == 1
    protocol.fourierCropSize.set(10)  # in the form only
    assert "Fourier cropped to 16 px" in protocol._methods()[0]
