# SPDX-License-Identifier: GPL-3.0-or-later
"""A point of the reference becomes the origin: sub-particles, and the maps that they give."""

from pathlib import Path

import numpy as np
import pytest

from downsample_plugin import headless
from downsample_plugin.simulate import Phantom, in_plane_rotation, random_rotation

from .reconstruction import fourier_shell_correlation, reconstruct
from .scipion_sets import connect, downsample, image_of, items_of, pairs, particle, particle_set, register, write_stack
from .test_protocol_metadata import projection_matrix
from .test_round_trip import restore
from .truth import blob_position

APIX, BOX = 1.5, 64
WHOLE, EXACT = 0, 1
POINT, VOLUME = 0, 1


def new_move(project, particles, volume=None, **settings):
    from downsample_plugin.protocols import ProtShiftParticleCenter

    protocol = connect(project.newProtocol(ProtShiftParticleCenter, **settings), inputParticles=particles)
    return protocol if volume is None else connect(protocol, inputVolume=(volume, "outputVolume"))


def move(project, particles, **settings):
    return headless.run(project, new_move(project, particles, **settings))


def coordinates(point):
    return dict(zip(("xCenter", "yCenter", "zCenter"), map(float, point)))


def pose(item):
    """(rotation, shift s) of a particle by the definition: inverse(M) = [R | -s]."""
    inverse = np.linalg.inv(item.getTransform().getMatrix())
    return inverse[:3, :3], -inverse[:2, 3]


def aligned_particles(project, name, phantom, count, seed, box=BOX, apix=APIX, noise=0.0):
    """Projections of a phantom in random directions, off centre, with the true alignment."""
    rng = np.random.default_rng(seed)
    images, items = [], []
    for i in range(count):
        rotation, shift = random_rotation(rng), rng.uniform(-4, 4, size=2)
        images.append(phantom.project(rotation, shift, box, apix) + rng.normal(scale=noise, size=(box, box)))
        items.append(particle(i + 1, (i + 1, name), projection_matrix(rotation, shift), (300 + i, 400)))
    write_stack(name, images)
    return particle_set(project, items, apix, "Projection")


BLOB_CENTERS = np.array([[14.0, -6.0, 9.0], [-12.0, 10.0, 5.0], [3.0, 12.0, -15.0]])


@pytest.fixture(scope="module")
def single_blobs(project):
    """For each point of a particle, images in which only the blob there shows: its place can be measured."""
    sets = []
    for k, center in enumerate(BLOB_CENTERS):
        phantom = Phantom(center[None], np.array([4.0]), np.ones(1))
        sets.append(aligned_particles(project, f"blob_{k}.mrcs", phantom, 8, seed=5))
    return sets


@pytest.mark.parametrize("mode, tolerance", [(WHOLE, 0.5), (EXACT, 0.02)])
@pytest.mark.parametrize("k", range(len(BLOB_CENTERS)))
def test_the_point_stands_at_the_origin(project, single_blobs, k, mode, tolerance):
    moved = move(project, single_blobs[k], **coordinates(BLOB_CENTERS[k]))
    sub = downsample(project, moved, recenter=True, recenterMode=mode, cropSize=35)
    for item in items_of(sub.outputParticles):
        assert np.abs(blob_position(image_of(item))).max() <= tolerance + 1e-3
    halved = downsample(project, moved, recenter=True, recenterMode=EXACT, cropSize=36, fourierCropSize=18)
    for item in items_of(halved.outputParticles):
        assert np.abs(blob_position(image_of(item))).max() <= 0.02


def test_only_alignments_change(project, single_blobs):
    moved = move(project, single_blobs[0], **coordinates(BLOB_CENTERS[0]))
    before, after = items_of(single_blobs[0].outputParticles), items_of(moved.outputParticles)
    assert len(after) == len(before)
    for old, new in pairs(before, after):
        values, new_values = old.getObjDict(), new.getObjDict()
        assert {name for name in values if values[name] != new_values[name]} == {"_transform._matrix"}
        rotation, shift = pose(old)
        assert pose(new)[0] == pytest.approx(rotation, abs=1e-12)
        expected = shift - (rotation @ BLOB_CENTERS[0])[:2] / APIX
        assert pose(new)[1] == pytest.approx(expected, abs=1e-9)
    back = move(project, moved, centerUnit=1, **coordinates(-BLOB_CENTERS[0] / APIX))
    for old, new in pairs(before, items_of(back.outputParticles)):
        assert new.getTransform().getMatrix() == pytest.approx(old.getTransform().getMatrix(), abs=1e-9)
    assert "(14, -6, 9) Å" in moved.summary()[0]


def test_coordinates_move_when_images_do(project, single_blobs):
    moved = move(project, single_blobs[0], **coordinates(BLOB_CENTERS[0]))
    sub = downsample(project, moved, recenter=True, cropSize=32)
    for old, new in pairs(items_of(single_blobs[0].outputParticles), items_of(sub.outputParticles)):
        rotation, shift = pose(old)
        stands_at = np.array(old.getCoordinate().getPosition()) - (shift - (rotation @ BLOB_CENTERS[0])[:2] / APIX)
        assert np.abs(np.array(new.getCoordinate().getPosition()) - stands_at).max() <= 0.5 + 1e-9


def volume_of(project, name, center, box, apix, kind="VolumeMask", **values):
    """A finished protocol with a volume: a ball about a point (Å from voxel box // 2), and voxels set by slices."""
    import mrcfile
    import pwem.objects

    z, y, x = np.indices((box, box, box)) - box // 2
    at = np.array(center) / apix
    ball = ((x - at[0]) ** 2 + (y - at[1]) ** 2 + (z - at[2]) ** 2 < 3**2).astype(np.float32)
    ball += np.float32(values.get("floor", 0))

    def fill(protocol):
        path = protocol._getPath(name)
        with mrcfile.new(path) as file:
            file.set_data(ball)
            file.set_volume()
        volume = getattr(pwem.objects, kind)(location=path)
        volume.setSamplingRate(apix)
        return volume

    return register(project, fill, "outputVolume")


@pytest.mark.parametrize(
    "box, kind, settings, values",
    [
        (32, "VolumeMask", {}, {}),
        (33, "Volume", {"volumeThreshold": 0.5}, {"floor": 0.25}),
    ],
)
def test_the_center_of_a_volume(project, single_blobs, box, kind, settings, values):
    center = np.array([12.0, -6.0, 9.0])  # whole voxels of 3 Å
    volume = volume_of(project, "ball.mrc", center, box, 3.0, kind, **values)
    protocol = new_move(project, single_blobs[0], volume, centerFrom=VOLUME, **settings)
    assert protocol.newCenter() == pytest.approx(center, abs=1e-6)
    headless.run(project, protocol)
    same = move(project, single_blobs[0], **coordinates(center))
    for one, other in pairs(items_of(protocol.outputParticles), items_of(same.outputParticles)):
        assert one.getTransform().getMatrix() == pytest.approx(other.getTransform().getMatrix(), abs=1e-6)


def test_a_spider_volume_and_a_file_of_several(project, single_blobs, tmp_path):
    import xmippLib

    from downsample_plugin.files.volumes import center_of_mass, read_volume

    volume = np.zeros((12, 12, 12), dtype=np.float32)
    volume[9, 4, 7] = 2.0  # z, y, x
    image = xmippLib.Image()
    image.setData(volume)
    image.write(str(tmp_path / "one.vol"))
    assert center_of_mass(read_volume(str(tmp_path / "one.vol")), 0.0).tolist() == [1, -2, 3]
    write_stack(str(tmp_path / "two.mrcs"), np.concatenate([np.zeros_like(volume), volume]))
    assert center_of_mass(read_volume(f"{tmp_path / 'two.mrcs'}:mrc", 2), 0.0).tolist() == [1, -2, 3]


def test_what_projects_outside_the_box(project, single_blobs):
    """A point 60 Å = 40 px from the origin, in boxes of 64 px whose particles are up to 4 px off."""
    point = np.array([0.0, 60.0, 0.0])
    outside = set()
    for item in items_of(single_blobs[0].outputParticles):
        rotation, shift = pose(item)
        at = (rotation @ point)[:2] / APIX - shift + BOX // 2
        if (at < -0.5).any() or (at >= BOX - 0.5).any():
            outside.add(item.getObjId())
    assert 0 < len(outside) < 8
    stay = move(project, single_blobs[0], **coordinates(point))
    assert stay.outputParticles.getSize() == 8
    assert any(f"For {len(outside)} of them, the point lies outside the box" in line for line in stay.summary())
    left = move(project, single_blobs[0], excludeOutside=True, **coordinates(point))
    assert {item.getObjId() for item in items_of(left.outputParticles)} == set(range(1, 9)) - outside
    assert any(f"Left out: {len(outside)} particles" in line for line in left.summary())


def test_the_edge_of_the_box(project):
    """A pixel reaches half its width to either side: 31.4 px right of pixel 32 is in a box of 64, 31.6 is not."""
    stack = write_stack("edge.mrcs", np.zeros((1, BOX, BOX)))
    given = particle_set(project, [particle(1, (1, stack), np.eye(4))], APIX, "Projection")
    for x, isInside in ((31.4, True), (31.6, False), (-32.4, True), (-32.6, False)):
        moved = move(project, given, centerUnit=1, xCenter=x)
        assert any("outside the box" in line for line in moved.summary()) != isInside, x


@pytest.mark.parametrize("choice, sign", [(0, 0), (1, -1), (2, 1)])
def test_defocus_by_height(project, single_blobs, choice, sign):
    moved = move(project, single_blobs[0], defocusByHeight=choice, **coordinates(BLOB_CENTERS[0]))
    for old, new in pairs(items_of(single_blobs[0].outputParticles), items_of(moved.outputParticles)):
        height = (pose(old)[0] @ BLOB_CENTERS[0])[2]
        for name in ("getDefocusU", "getDefocusV"):
            change = getattr(new.getCTF(), name)() - getattr(old.getCTF(), name)()
            assert change == pytest.approx(sign * height, abs=1e-6)
        assert new.getCTF().getDefocusAngle() == old.getCTF().getDefocusAngle()
        if sign:
            assert new.getCTF().getDefocusRatio() == pytest.approx(
                new.getCTF().getDefocusU() / new.getCTF().getDefocusV()
            )


def test_particles_that_lack_something(project, single_blobs):
    """Without alignment they are left out; disabled ones are not taken; a defocus that is not there stays so."""
    from .test_set_columns import update

    lacking = particle_set(project, items_of(single_blobs[0].outputParticles), APIX, "Projection")
    path = lacking.outputParticles.getFileName()
    update(path, {"_transform._matrix": None}, "id in (1, 4)")
    update(path, {"_transform._matrix": "[[1, 0], [0, 1]]"}, "id=8")
    update(path, {"_ctfModel._defocusV": None, "_ctfModel._defocusRatio": None}, "id=3")
    update(path, {"_ctfModel._defocusV": 0.0}, "id=5")
    update(path, {"enabled": 0}, "id=6")
    point = coordinates(BLOB_CENTERS[0])
    moved = move(project, lacking, defocusByHeight=2, **point)
    whole = move(project, single_blobs[0], defocusByHeight=2, **point)
    items = {item.getObjId(): item.clone() for item in moved.outputParticles.iterItems()}
    assert list(items) == [2, 3, 5, 7]
    for item in items_of(whole.outputParticles):
        if item.getObjId() in items:
            found = items[item.getObjId()]
            assert np.array_equal(found.getTransform().getMatrix(), item.getTransform().getMatrix())
            assert found.getCTF().getDefocusU() == item.getCTF().getDefocusU()
    assert items[3].getCTF().getDefocusV() is items[3].getCTF().getDefocusRatio() is None
    assert moved.summary()[-1].startswith("Left out: 3 particles (no usable alignment")
    listed = Path(moved._getExtraPath("left_out_particles.star")).read_text().splitlines()[-3:]
    assert listed[:2] == [f'{key} {key} "blob_0.mrcs" "it has no alignment"' for key in (1, 4)]
    assert listed[2].startswith('8 8 "blob_0.mrcs" "alignment matrix: got [[nan')


def test_particles_without_ctf(project):
    from .test_set_columns import bare

    stack = write_stack("stack.mrcs", np.zeros((2, BOX, BOX)))
    items = [bare(1), bare(2)]
    for item in items:
        item.setTransform(particle(1, (1, stack), np.eye(4)).getTransform())
    given = particle_set(project, items, APIX, "Projection")
    moved = move(project, given, defocusByHeight=1, xCenter=3.0)
    assert [item.getTransform().getMatrix()[0, 3] for item in items_of(moved.outputParticles)] == [-2.0, -2.0]
    assert not any(item.hasCTF() for item in items_of(moved.outputParticles))


def test_refusals_and_warnings(project, single_blobs):
    given = single_blobs[0]
    assert "more than half the particles' box" in new_move(project, given, xCenter=200.0).warnings()[0]
    assert new_move(project, given, xCenter=20.0).warnings() == []
    assert "none is given" in new_move(project, given, centerFrom=VOLUME).validate()[0]
    assert "*Y* should be a float" in new_move(project, given, yCenter=None).validate()[0]
    assert "not finite" in new_move(project, given, yCenter=float("nan")).validate()[0]
    flat = particle_set(project, [particle(1, (1, "blob_0.mrcs"), np.eye(4))], APIX, "2D")
    assert "alignment '2D', expected 'Projection'" in new_move(project, flat).validate()[0]
    empty = volume_of(project, "empty.mrc", (0, 0, 0), 16, 3.0)
    protocol = new_move(project, given, empty, centerFrom=VOLUME, volumeThreshold=2.0)
    assert "no voxel is above 2" in protocol.warnings()[0]
    project.launchProtocol(protocol, wait=True)
    assert protocol.isFailed()
    assert "no voxel is above 2" in protocol.getErrorMessage()
    singular = particle_set(project, [particle(1, (1, "blob_0.mrcs"), np.zeros((4, 4)))], APIX, "Projection")
    protocol = new_move(project, singular)
    project.launchProtocol(protocol, wait=True)
    assert "singular" in protocol.getErrorMessage()


# ---- maps ------------------------------------------------------------------------------------------------


MAP_COUNT, MAP_APIX, MAP_BOX = 150, 2.0, 48


@pytest.fixture(scope="module")
def lumpy(project):
    """Particles of many small blobs, all within a third of the box; the blob to move to is the first.

    Their mean is that of the background, as with real particles: what recentring exposes is filled with it.
    """
    rng = np.random.default_rng(11)
    centers, sigmas = rng.uniform(-9, 9, size=(14, 3)), rng.uniform(2.2, 2.8, size=14)
    heights = rng.uniform(0.5, 1.0, size=14)
    heights[7:] *= -(heights[:7] @ sigmas[:7] ** 2) / (heights[7:] @ sigmas[7:] ** 2)
    phantom = Phantom(centers, sigmas, heights)
    return phantom, aligned_particles(project, "lumpy.mrcs", phantom, MAP_COUNT, 12, MAP_BOX, MAP_APIX)


def map_of(protocol, box, apix, center=(0, 0, 0)):
    items = items_of(protocol.outputParticles)
    rate = protocol.outputParticles.getSamplingRate()
    images = {}

    def image(item):
        name = item.getFileName()
        if name not in images:
            import mrcfile

            images[name] = mrcfile.read(name)
        return images[name][item.getIndex() - 1]

    aligned = [(image(item), rate, *pose(item)) for item in items]
    if np.any(center):  # seen from another point of the reference
        aligned = [(i, a, r, s - (r @ np.asarray(center))[:2] / a) for i, a, r, s in aligned]
    return reconstruct(aligned, box, apix, 2 * apix)


def same(one, other, box):
    shells = int(0.8 * (box // 2))
    return fourier_shell_correlation(one, other)[:shells].min() > 0.99


@pytest.mark.slow
def test_the_map_stays_the_same(project, lumpy):
    """Full size, downsampled, moved to a blob, cropped to sub-particles, and back: one map."""
    phantom, original = lumpy
    coarse = 3.0
    box = round(MAP_BOX * MAP_APIX / coarse)
    expected = map_of(original, box, coarse)
    small = downsample(project, original, fourierCropSize=box, recenter=True, recenterMode=WHOLE)
    assert same(map_of(small, box, coarse), expected, box)
    back = restore(project, small, small)
    assert same(map_of(back, box, coarse), expected, box)

    point = phantom.centers[0]
    moved = move(project, small, **coordinates(point))
    about_point = map_of(original, box, coarse, point)
    assert same(map_of(moved, box, coarse), about_point, box)
    assert not same(map_of(moved, box, coarse), expected, box)

    sub = downsample(project, moved, cropSize=26, recenter=True, recenterMode=EXACT)
    edge = box // 2 - 12
    assert same(map_of(sub, 24, coarse), about_point[(slice(edge, edge + 24),) * 3], 24)

    home = restore(project, sub, sub)
    assert home.outputParticles.getSamplingRate() == MAP_APIX
    assert same(map_of(home, box, coarse), about_point, box)


def test_the_moved_map_is_centred_on_the_blob(project, lumpy):
    """One blob of its own, far from the rest: in the moved map it is the ball about the origin."""
    phantom = Phantom(np.array([[15.0, -10.0, 8.0]]), np.array([3.0]), np.ones(1))
    given = aligned_particles(project, "one.mrcs", phantom, MAP_COUNT, 13, MAP_BOX, MAP_APIX)
    moved = move(project, given, **coordinates(phantom.centers[0]))
    volume = map_of(moved, 24, 2.0)
    assert np.unravel_index(volume.argmax(), volume.shape) == (12, 12, 12)
    for section in (volume[12], volume[:, 12], volume[:, :, 12]):
        assert np.abs(blob_position(section)).max() < 0.02


def test_sub_particles_of_a_c4_particle(project):
    """Expanded by hand, moved to the blob, recentred, cropped: all four sub-particles show the same blob."""
    rng = np.random.default_rng(21)
    corner = np.array([16.0, 4.0, 7.0])
    quarters = [in_plane_rotation(k * np.pi / 2) for k in range(4)]
    phantom = Phantom(np.array([q @ corner for q in quarters]), np.full(4, 2.5), np.ones(4))
    count = 20
    given = aligned_particles(project, "c4.mrcs", phantom, count, 22, MAP_BOX, MAP_APIX)
    items = []
    for k, quarter in enumerate(quarters):
        symmetry = np.eye(4)
        symmetry[:3, :3] = quarter
        for item in items_of(given.outputParticles):
            expanded = item.clone()
            expanded.setObjId(k * count + item.getObjId())
            expanded.getTransform().setMatrix(symmetry @ item.getTransform().getMatrix())
            items.append(expanded)
    rng.shuffle(items)
    expanded = particle_set(project, items, MAP_APIX, "Projection")
    moved = move(project, expanded, **coordinates(corner))
    sub = downsample(project, moved, cropSize=24, recenter=True, recenterMode=EXACT)
    assert sub.outputParticles.getSize() == 4 * count
    by_copy = [[], [], [], []]
    for item in items_of(sub.outputParticles):
        by_copy[(item.getObjId() - 1) // count].append(image_of(item).astype(np.float64))
    # each copy of the blob, alone, in the same views, would give this average
    blob = Phantom(np.zeros((1, 3)), np.array([2.5]), np.ones(1)).project(np.eye(3), (0, 0), 24, MAP_APIX)
    averages = [np.mean(images, axis=0) for images in by_copy]
    inner = (slice(9, 16), slice(9, 16))
    for average in averages:
        y, x = np.unravel_index(average.argmax(), average.shape)
        assert (x, y) == (12, 12)
        # other blobs of the particle project all about it; what they add there is faint and even
        rest = (average - blob)[inner]
        assert rest.std() < 0.05
        assert np.corrcoef(average[inner].ravel(), blob[inner].ravel())[0, 1] > 0.98
    restored = restore(project, sub, sub)
    assert restored.outputParticles.getSize() == 4 * count
    expected = {item.getObjId(): item for item in items_of(moved.outputParticles)}
    for item in items_of(restored.outputParticles):
        matrix = expected[item.getObjId()].getTransform().getMatrix()
        assert np.abs(item.getTransform().getMatrix() - matrix).max() < 1e-4
        assert item.getLocation() == expected[item.getObjId()].getLocation()
