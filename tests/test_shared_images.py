# SPDX-License-Identifier: GPL-3.0-or-later
"""Particles that show one image, as after an expansion of the symmetry: it is made once, and stands for all of them."""

import mrcfile
import numpy as np
import pytest

from downsample_plugin.core import DownsamplePlan, downsample_images
from downsample_plugin.core.plan import Recenter
from downsample_plugin.simulate import in_plane_rotation, random_rotation

from .scipion_sets import (
    Row,
    downsample,
    image_of,
    items_of,
    pairs,
    particle,
    particle_set,
    results_of,
    write_job,
    write_stack,
)
from .test_protocol_metadata import projection_matrix

BOX, APIX, COUNT, COPIES = 32, 1.5, 7, 4


def noise(count=COUNT):
    return np.random.default_rng(0).normal(size=(count, BOX, BOX)).astype(np.float32)


@pytest.fixture(scope="module")
def expanded(project):
    """C4: each particle four times, with the symmetry's rotations before its own; and its true shift."""
    rng = np.random.default_rng(4)
    stack = write_stack("noise.mrcs", noise())
    shifts = rng.uniform(-3, 3, size=(COUNT, 2))
    matrices = [projection_matrix(random_rotation(rng), shift) for shift in shifts]
    items = []
    for copy in range(COPIES):
        symmetry = np.eye(4)
        symmetry[:3, :3] = in_plane_rotation(copy * np.pi / 2)
        for i in range(COUNT):
            items.append(particle(copy * COUNT + i + 1, (i + 1, stack), symmetry @ matrices[i], (50 + i, 60)))
    return particle_set(project, items, APIX, "Projection"), shifts


@pytest.mark.parametrize("mode", [Recenter.NONE, Recenter.WHOLE_PIXELS, Recenter.EXACT])
def test_an_expanded_set(project, expanded, mode):
    """One image each, whatever the noise of the matrices; ids, order, own alignments and the record as ever."""
    given, shifts = expanded
    settings = {"recenter": mode is not Recenter.NONE, "recenterMode": int(mode is Recenter.EXACT)}
    run = downsample(project, given, fourierCropSize=16, particlesPerStack=5, **settings)
    plan = DownsamplePlan(BOX, APIX, fourier_crop_size=16, recenter=mode)
    expected, applied = downsample_images(noise(), plan, shifts)
    before, after = items_of(given.outputParticles), items_of(run.outputParticles)
    assert len({item.getLocation() for item in after}) == COUNT
    assert sorted(mrcfile.open(name).header.nz for name in run.outputParticles.getFiles()) == [2, 5]
    for old, new in pairs(before, after):
        i = (old.getObjId() - 1) % COUNT
        assert new.getObjId() == old.getObjId()
        assert image_of(new) == pytest.approx(expected[i], abs=1e-5)
        assert new._downsampleShiftX.get() == pytest.approx(applied[i][0] * APIX, abs=1e-9)
        m, m_new = old.getTransform().getMatrix(), new.getTransform().getMatrix()
        assert np.array_equal(m_new[:3, :3], m[:3, :3])
        left = -np.linalg.inv(m_new)[:2, 3]
        assert left == pytest.approx((shifts[i] - applied[i]) / 2, abs=1e-9)
    assert f"{COUNT} output images: particles with the same image and shift share one" in run.summary()


def test_another_shift_is_another_image(project, expanded):
    """Recentred, particles of one image with their own shifts are images of their own."""
    stack = write_stack("moved.mrcs", noise())
    items = [particle(i, (1, stack), projection_matrix(np.eye(3), (x, 0.0))) for i, x in enumerate((0, 2, 0.4, 2), 1)]
    given = particle_set(project, items, APIX, "Projection")
    run = downsample(project, given, recenter=True, cropSize=30)
    assert [item.getIndex() for item in items_of(run.outputParticles)] == [1, 2, 1, 2]
    run = downsample(project, given, recenter=True, recenterMode=1, cropSize=30)
    assert [item.getIndex() for item in items_of(run.outputParticles)] == [1, 2, 3, 2]


def test_a_corrupt_image_takes_all_its_particles(project):
    images = noise()
    images[2, 0, 0] = np.nan
    stack = write_stack("one_bad.mrcs", images)
    given = particle_set(project, [particle(i + 1, (i % COUNT + 1, stack)) for i in range(2 * COUNT)], APIX)
    run = downsample(project, given, fourierCropSize=16, skipCorrupt=True)
    good = [i + 1 for i in range(2 * COUNT) if i % COUNT != 2]
    assert [item.getObjId() for item in items_of(run.outputParticles)] == good
    expected, _ = downsample_images(noise(), DownsamplePlan(BOX, APIX, fourier_crop_size=16))
    for item in items_of(run.outputParticles):
        assert np.array_equal(image_of(item), expected[(item.getObjId() - 1) % COUNT])
    assert any("Left out: 2 corrupt particles" in line for line in run.summary())


def test_the_bytes_are_those_of_a_set_without_copies(here):
    write_stack("in.mrcs", noise())
    plan = DownsamplePlan(BOX, APIX, fourier_crop_size=16)
    rows = [Row(i + 1, i % COUNT + 1, "in.mrcs", 0, 0) for i in range(60 * COUNT)]
    from downsample_plugin.command import downsample_particles as cli

    for name, some in (("once", rows[:COUNT]), ("often", rows)):
        assert cli.main([write_job(name, plan, some, 5).path, "--jobs", "2"]) == 0
    once, often = write_job("once", plan, rows[:COUNT], 5), write_job("often", plan, rows, 5)
    for one, other in pairs(once.stacks, often.stacks):
        with open(one.path, "rb") as file, open(other.path, "rb") as same:
            assert file.read() == same.read()
    assert len(results_of(often)) == 60 * COUNT
