# SPDX-License-Identifier: GPL-3.0-or-later
"""Downsample, work on the small particles, go back to full size: the alignment is the true one."""

import itertools
from pathlib import Path

import numpy as np
import pytest

from downsample_plugin import headless
from downsample_plugin.simulate import in_plane_rotation, random_rotation

from .scipion_sets import (
    class_set,
    connect,
    downsample,
    image_of,
    items_of,
    matrix,
    new_downsample,
    pairs,
    particle,
    particle_set,
    write_stack,
)

APIX, BOX, COUNT = 1.3, 48, 9
NONE, WHOLE, EXACT = None, 0, 1
AUTOMATIC, SHIFT_THEN_ROTATE, ROTATE_THEN_SHIFT = 0, 1, 2
TOLERANCE = 1e-4  # px of the full-size particles
KINDS = ["Projection", SHIFT_THEN_ROTATE, ROTATE_THEN_SHIFT]


class Truth:
    """What is true of one particle: its rotation, and the shift that brings it to the origin, in full-size pixels."""

    def __init__(self, rng, kind):
        self.kind = kind
        self.shift = rng.uniform(-6, 6, size=2)
        if kind == "Projection":
            self.rotation = random_rotation(rng)
        else:
            self.rotation = in_plane_rotation(rng.uniform(0, 6), bool(rng.integers(2)))

    def moved_a_little(self, rng):
        """The same, as a later refinement finds it: a little different."""
        later = Truth(rng, self.kind)
        later.rotation = in_plane_rotation(rng.normal(scale=0.05)) @ self.rotation
        later.shift = self.shift + rng.normal(scale=0.4, size=2)
        return later

    def matrix(self, shift=None):
        """Scipion's matrix, with this shift or another; written from the definitions."""
        s = self.shift if shift is None else shift
        if self.kind == "Projection":
            inverse = np.eye(4)
            inverse[:3, :3], inverse[:2, 3] = self.rotation, -s
            return np.linalg.inv(inverse)
        return matrix(self.rotation, s if self.kind == SHIFT_THEN_ROTATE else self.rotation[:2, :2] @ s)


def alignment_name(kind):
    return "Projection" if kind == "Projection" else "2D"


def attributes_of(kind):
    from pyworkflow.object import Float

    return {"_xmipp_maxCC": Float(0.5)} if kind == ROTATE_THEN_SHIFT else {}


def applied(shift, mode):
    """d, in full-size pixels, by the definition of the two ways to recentre."""
    return {NONE: np.zeros(2), WHOLE: np.sign(shift) * np.floor(np.abs(shift) + 0.5), EXACT: shift}[mode]


@pytest.fixture(scope="module")
def originals(project):
    """For each kind of alignment full-size particles, ids 21, 22, …, and what is true of them."""
    from pyworkflow.object import Integer, String

    found = {}
    for number, kind in enumerate(KINDS):
        rng = np.random.default_rng(number)
        truths = {21 + i: Truth(rng, kind) for i in range(COUNT)}
        stack = write_stack(f"original_{number}.mrcs", rng.normal(size=(COUNT, BOX, BOX)))
        items = [
            particle(
                key,
                (COUNT - i, stack),  # images in another order than ids
                truth.matrix(),
                (100 + 20 * i, 800 - 30 * i),
                _rlnRandomSubset=Integer(1),
                _fromTheMicroscope=String(f"note {key}"),
                **attributes_of(kind),
            )
            for i, (key, truth) in enumerate(truths.items())
        ]
        found[kind] = particle_set(project, items, APIX, alignment_name(kind)), truths
    return found


def refined(project, small, truths, mode, seed=3):
    """The small particles with an alignment found on them: true, but a little different, for the moved images."""
    from pyworkflow.object import Integer

    rng = np.random.default_rng(seed)
    later = {key: truth.moved_a_little(rng) for key, truth in truths.items()}
    items = items_of(small.outputParticles)
    q = APIX / small.outputParticles.getSamplingRate()
    for item in items:
        key = item.getObjId()
        left = (later[key].shift - applied(truths[key].shift, mode)) * q
        item.setTransform(transform(later[key].matrix(left)))
        item.setClassId(key % 3)
        item._rlnRandomSubset = Integer(1 + key % 2)
    kind = next(iter(truths.values())).kind
    given = particle_set(project, items, small.outputParticles.getSamplingRate(), alignment_name(kind))
    return given, later


def transform(m):
    from pwem.objects import Transform

    return Transform(m)


def new_restore(project, particles, small, **settings):
    from downsample_plugin.protocols import ProtRestoreFullSize

    pointers = {"inputParticles": particles, "downsampled": small}
    pointers.update({name: settings.pop(name) for name in ("fullSizeParticles",) if name in settings})
    return connect(project.newProtocol(ProtRestoreFullSize, **settings), **pointers)


def restore(project, particles, small, **settings):
    return headless.run(project, new_restore(project, particles, small, **settings))


def check(restored, original, later, keys=None):
    """Each particle has its own image and id, and the alignment that is true."""
    keys = sorted(later if keys is None else keys)
    items = items_of(restored.outputParticles)
    assert [item.getObjId() for item in items] == keys
    before = {item.getObjId(): item for item in items_of(original.outputParticles)}
    assert restored.outputParticles.getSamplingRate() == APIX
    assert restored.outputParticles.getAlignment() == original.outputParticles.getAlignment()
    for item in items:
        old = before[item.getObjId()]
        assert item.getLocation() == old.getLocation()
        assert item.getSamplingRate() == APIX
        assert item.getCoordinate().getPosition() == old.getCoordinate().getPosition()
        assert item._fromTheMicroscope.get() == f"note {item.getObjId()}"
        assert not item.hasAttribute("_downsampleShiftX")
        found = item.getTransform().getMatrix()
        assert np.abs(found - later[item.getObjId()].matrix()).max() < TOLERANCE


BOXES = [
    {"cropSize": 36, "fourierCropSize": 17},
    {"fourierCropSize": 20},
    {"cropSize": 60, "targetPixelSize": 2.5},
    {"lowpassResolution": 10.0},
]


@pytest.mark.parametrize("mode", [NONE, WHOLE, EXACT])
@pytest.mark.parametrize("kind, settings", [("Projection", box) for box in BOXES] + [(k, BOXES[0]) for k in KINDS[1:]])
def test_the_way_back(project, originals, kind, mode, settings):
    original, truths = originals[kind]
    small = downsample(project, original, **settings, recenter=mode is not NONE, recenterMode=mode or 0)
    particles, later = refined(project, small, truths, mode)
    restored = restore(project, particles, small)
    check(restored, original, later)
    for item in items_of(restored.outputParticles):
        assert item.getClassId() == item.getObjId() % 3
        assert item._rlnRandomSubset.get() == 1 + item.getObjId() % 2
    if kind == ROTATE_THEN_SHIFT:
        assert "rotate then shift: automatic" in "".join(restored.summary())
    assert {relation["name"] for relation in restored.getRelations()} == {"relation_datasource"}


@pytest.fixture(scope="module")
def trip(project, originals):
    """One trip to the small particles and their refinement: the original, the small, the refined, what is true."""
    original, truths = originals["Projection"]
    small = downsample(project, original, cropSize=40, fourierCropSize=18, recenter=True)
    return original, small, *refined(project, small, truths, WHOLE)


def test_a_subset(project, trip):
    from pwem.protocols import ProtSubSet

    original, small, particles, later = trip
    protocol = connect(
        project.newProtocol(ProtSubSet, chooseAtRandom=True, nElements=4, setOperation=ProtSubSet.SET_INTERSECTION),
        inputFullSet=particles,
    )
    subset = headless.run(project, protocol)
    kept = [item.getObjId() for item in items_of(subset.outputParticles)]
    assert len(kept) == 4
    check(restore(project, subset, small), original, later, kept)


def test_split_and_joined_again(project, trip):
    from pwem.protocols import ProtSplitSet, ProtUnionSet
    from pyworkflow.object import Pointer

    original, small, particles, later = trip
    parts = headless.run(
        project, connect(project.newProtocol(ProtSplitSet, numberOfSets=2, randomize=True), inputSet=particles)
    )
    union = project.newProtocol(ProtUnionSet, inputType=0)
    for name in ("outputParticles01", "outputParticles02"):
        union.inputSets.append(Pointer(parts, extended=name))
    joined = headless.run(project, union)
    check(restore(project, (joined, "outputSet"), small), original, later)


def test_joined_sets_that_are_numbered_anew(project, trip, originals):
    """Particles of two runs have the same ids, so a join renumbers them: images still tell which is which."""
    from pwem.protocols import ProtUnionSet
    from pyworkflow.object import Pointer

    original, small, particles, later = trip
    other = downsample(project, originals["Projection"][0], fourierCropSize=18, cropSize=40)
    strangers, _ = refined(project, other, originals["Projection"][1], NONE)
    union = project.newProtocol(ProtUnionSet, inputType=0)
    for source in (strangers, particles):
        union.inputSets.append(Pointer(source, extended="outputParticles"))
    joined = headless.run(project, union)
    assert max(item.getObjId() for item in items_of(joined.outputSet)) > max(later)
    restored = restore(project, (joined, "outputSet"), small)
    check(restored, original, later)
    assert any(f"Left out: {COUNT} particles that could not be found" in line for line in restored.summary())


def test_assigned_alignment(project, trip):
    """pwem's own protocol puts the alignment of the refined particles on another set of the same images."""
    from pwem.protocols import ProtAlignmentAssign

    original, small, particles, later = trip
    protocol = connect(project.newProtocol(ProtAlignmentAssign), inputParticles=small, inputAlignment=particles)
    check(restore(project, headless.run(project, protocol), small), original, later)


@pytest.mark.parametrize("kind", ["Projection", ROTATE_THEN_SHIFT])
def test_classes(project, originals, kind):
    original, truths = originals[kind]
    small = downsample(project, original, fourierCropSize=20, recenter=True, recenterMode=EXACT)
    particles, later = refined(project, small, truths, EXACT)
    groups = [[], []]
    for item in items_of(particles.outputParticles):
        groups[item.getObjId() % 2].append((item.getObjId(), item.getTransform().getMatrix()))
    kinds = {"Projection": "3D", ROTATE_THEN_SHIFT: "2D"}
    classes = class_set(project, particles, [*groups, []], alignment_name(kind), kinds[kind])
    restored = restore(project, (classes, "outputClasses"), small)
    check(restored, original, later)
    assert [item.getClassId() for item in items_of(restored.outputParticles)] == [1 + key % 2 for key in sorted(later)]


@pytest.mark.parametrize("modes", itertools.product([WHOLE, EXACT], repeat=2))
def test_two_runs_in_a_row(project, originals, modes):
    """Through both runs back to the originals, whichever of the two is named."""
    original, truths = originals["Projection"]
    first = downsample(project, original, cropSize=44, fourierCropSize=33, recenter=True, recenterMode=modes[0])
    between, later = refined(project, first, truths, modes[0])
    second = downsample(project, between, cropSize=27, fourierCropSize=18, recenter=True, recenterMode=modes[1])
    a_first, a_second = (run.outputParticles.getSamplingRate() for run in (first, second))
    rng = np.random.default_rng(8)
    last, items = {}, items_of(second.outputParticles)
    for item in items:
        key = item.getObjId()
        last[key] = later[key].moved_a_little(rng)
        first_d = applied(truths[key].shift, modes[0])
        second_d = applied((later[key].shift - first_d) * APIX / a_first, modes[1]) * a_first / APIX
        item.setTransform(transform(last[key].matrix((last[key].shift - first_d - second_d) * APIX / a_second)))
    particles = particle_set(project, items, a_second, "Projection")
    for named in (second, first):
        restored = restore(project, particles, named)
        check(restored, original, last)
    to_the_first = restore(project, particles, second, fullSizeParticles=between)
    for item in items_of(to_the_first.outputParticles):
        key = item.getObjId()
        left = (last[key].shift - applied(truths[key].shift, modes[0])) * APIX / a_first
        assert np.abs(item.getTransform().getMatrix() - last[key].matrix(left)).max() < TOLERANCE
    assert to_the_first.outputParticles.getSamplingRate() == a_first


def test_other_full_size_particles(project, trip):
    """Such as the same particles at a finer pixel; some are gone: counted and listed, not made up."""
    _, small, particles, later = trip
    stack = write_stack("finer.mrcs", np.zeros((COUNT, 2 * BOX, 2 * BOX)))
    finer = particle_set(project, [particle(key, (i + 1, stack)) for i, key in enumerate(later) if key != 23], APIX / 2)
    restored = restore(project, particles, small, fullSizeParticles=finer)
    items = items_of(restored.outputParticles)
    assert [item.getObjId() for item in items] == [key for key in sorted(later) if key != 23]
    for item in items:
        truth = later[item.getObjId()]
        assert item.getFileName() == stack
        assert np.abs(item.getTransform().getMatrix() - truth.matrix(2 * truth.shift)).max() < TOLERANCE
    assert any("Left out: 1 particle that could not be found" in line for line in restored.summary())
    listed = Path(restored._getExtraPath("left_out_particles.star")).read_text()
    assert "\n23 " in listed
    assert "has the id 23" in listed


def test_symmetry_expanded_particles(project, trip):
    """Several entries per particle, numbered anew: each finds its own image, and keeps its own alignment."""
    original, small, particles, later = trip
    items, expected = [], {}
    for item in items_of(particles.outputParticles):
        key = item.getObjId()
        for k in range(4):
            copy = item.clone()
            copy.setObjId(len(items) + 1)
            quarter = matrix(in_plane_rotation(k * np.pi / 2), (0, 0))
            copy.setTransform(transform(quarter @ item.getTransform().getMatrix()))
            expected[copy.getObjId()] = key, quarter @ later[key].matrix()
            items.append(copy)
    expanded = particle_set(project, items, small.outputParticles.getSamplingRate(), "Projection")
    restored = restore(project, expanded, small)
    originals = {item.getObjId(): item for item in items_of(original.outputParticles)}
    found = items_of(restored.outputParticles)
    assert len(found) == 4 * COUNT
    for item in found:
        key, m = expected[item.getObjId()]
        assert item._fullSizeId.get() == key
        assert item.getLocation() == originals[key].getLocation()
        assert np.abs(item.getTransform().getMatrix() - m).max() < TOLERANCE


def rewritten(project, particles, scale=1.0, ids=None):
    """The particles as another protocol leaves that writes images again, here coarser by a factor."""
    items = items_of(particles.outputParticles)
    stack = write_stack(f"rewritten_{len(project.getRuns())}.mrcs", np.zeros((len(items), 12, 12)))
    for i, item in enumerate(items):
        item.setLocation(i + 1, stack)
        if ids:
            item.setObjId(ids[item.getObjId()])
        item.getTransform().scaleShifts(scale)
        item.getCoordinate().scale(scale)
    return particle_set(
        project, items, particles.outputParticles.getSamplingRate() / scale, particles.outputParticles.getAlignment()
    )


@pytest.mark.parametrize("scale", [1.0, 0.4])
def test_images_that_were_written_again_are_found_by_their_ids(project, trip, scale):
    original, small, particles, later = trip
    check(restore(project, rewritten(project, particles, scale), small), original, later)


def test_ids_that_were_exchanged_are_not_believed(project, trip):
    original, small, particles, later = trip
    exchanged = {key: key for key in later}
    exchanged[21], exchanged[22] = 22, 21
    restored = restore(project, rewritten(project, particles, ids=exchanged), small)
    check(restored, original, later, [key for key in later if key not in (21, 22)])
    assert any("Left out: 2 particles that could not be found" in line for line in restored.summary())


def test_particles_without_alignment_keep_that_of_the_full_size_ones(project, trip, originals):
    original, small, particles, _ = trip
    items = items_of(particles.outputParticles)[:3]
    for item in items:
        item.setTransform(None)
    plain = particle_set(project, items, small.outputParticles.getSamplingRate())
    check(restore(project, plain, small), original, originals["Projection"][1], [item.getObjId() for item in items])


def test_a_singular_alignment_is_left_out(project, trip):
    original, small, particles, later = trip
    items = items_of(particles.outputParticles)
    items[4].setTransform(transform(np.zeros((4, 4))))
    broken = particle_set(project, items, small.outputParticles.getSamplingRate(), "Projection")
    check(restore(project, broken, small), original, later, [key for key in later if key != items[4].getObjId()])


def test_refusals(project, trip, originals):
    original, small, particles, _ = trip
    other = downsample(project, original, fourierCropSize=30)
    (problem,) = new_restore(project, particles, other).validate()
    assert "images from" in problem
    assert "choose its output" in problem
    (problem,) = new_restore(project, particles, original).validate()
    assert "not the output of a 'downsample particles' run" in problem
    stranger = particle_set(project, [particle(1, (1, "original_0.mrcs"), np.eye(4))], APIX, "Projection")
    restored = new_restore(project, stranger, small)
    project.launchProtocol(restored, wait=True)
    assert restored.isFailed()
    assert "All 1 particles are left out" in restored.getErrorMessage()
    volumes = particle_set(project, [particle(1, (1, "original_0.mrcs"), np.eye(4))], APIX, "3D")
    (problem,) = new_restore(project, volumes, small).validate()
    assert "for volumes" in problem


def test_downsampled_classes(project, trip):
    """Classes as the input: their particles, with the same images and metadata as from the set, by either input."""
    original, _, _, _ = trip
    items = items_of(original.outputParticles)
    groups = [[(item.getObjId(), item.getTransform().getMatrix()) for item in items[start::3]] for start in range(3)]
    classes = class_set(project, original, [[], *groups], "Projection", "3D")
    settings = {"fourierCropSize": 21, "recenter": True}
    from_set = downsample(project, original, **settings)
    from_classes = downsample(project, (classes, "outputClasses"), **settings)
    with_classes = downsample(project, original, alignments3D=(classes, "outputClasses"), **settings)
    expected = items_of(from_set.outputParticles)
    for run in (from_classes, with_classes):
        found = items_of(run.outputParticles)
        assert type(run.outputParticles) is type(from_set.outputParticles)
        assert run.outputParticles.getSamplingRate() == from_set.outputParticles.getSamplingRate()
        assert [item.getObjId() for item in found] == [item.getObjId() for item in expected]
        for item, other in pairs(found, expected):
            assert np.array_equal(image_of(item), image_of(other))
            assert np.array_equal(item.getTransform().getMatrix(), other.getTransform().getMatrix())
            assert item.getCoordinate().getPosition() == other.getCoordinate().getPosition()
            assert item._downsampleShiftX.get() == other._downsampleShiftX.get()
    check(restore(project, from_classes, from_classes), original, originals_truth(items))
    assert {item.getClassId() for item in items_of(from_classes.outputParticles)} == {2, 3, 4}


def originals_truth(items):
    """What the particles' own matrices say."""

    class Own:
        def __init__(self, m):
            self._m = m

        def matrix(self):
            return self._m

    return {item.getObjId(): Own(item.getTransform().getMatrix()) for item in items}


def test_records_suffice_where_the_run_is_not_in_the_project(project, trip):
    """Small particles brought from another project: their images are elsewhere, their records are on them."""
    original, small, particles, later = trip
    brought = rewritten(project, small)
    moved = rewritten(project, particles)
    (problem,) = new_restore(project, moved, brought).validate()
    assert "Full-size particles: they cannot be found" in problem
    check(restore(project, moved, brought, fullSizeParticles=original), original, later)


# ---- cases that an easier way would get wrong ---------------------------------------------------------------


@pytest.mark.parametrize("stop", ["first run's output", "a subset of it", "the classes' particles"])
def test_a_stop_at_the_particles_in_between(project, originals, stop):
    """Only the shift of the second run is put back, whichever set holds the images of the first."""
    original, truths = originals["Projection"]
    first = downsample(project, original, fourierCropSize=36, recenter=True)
    between, later = refined(project, first, truths, WHOLE)
    groups = [[(item.getObjId(), item.getTransform().getMatrix()) for item in items_of(between.outputParticles)]]
    classes = class_set(project, between, groups, "Projection", "3D")
    second = downsample(project, (classes, "outputClasses"), fourierCropSize=18, recenter=True, recenterMode=EXACT)
    kept = items_of(first.outputParticles)
    a_first = first.outputParticles.getSamplingRate()
    subset = particle_set(project, kept[2:], a_first, "Projection")
    given = {"first run's output": first, "a subset of it": subset, "the classes' particles": between}[stop]
    restored = restore(project, second, second, fullSizeParticles=given)
    expected = [item.getObjId() for item in items_of(given.outputParticles)]
    assert [item.getObjId() for item in items_of(restored.outputParticles)] == expected
    for item in items_of(restored.outputParticles):
        left = (later[item.getObjId()].shift - applied(truths[item.getObjId()].shift, WHOLE)) * APIX / a_first
        assert np.abs(item.getTransform().getMatrix() - later[item.getObjId()].matrix(left)).max() < TOLERANCE


def test_a_join_of_two_runs_downsampled_again(project, originals):
    """Each particle goes back through the run that its own image came from."""
    from pwem.protocols import ProtUnionSet
    from pyworkflow.object import Pointer

    original, truths = originals["Projection"]
    runs = [downsample(project, original, fourierCropSize=36, recenter=r, recenterMode=EXACT) for r in (True, False)]
    union = project.newProtocol(ProtUnionSet, inputType=0)
    for run in runs:
        union.inputSets.append(Pointer(run, extended="outputParticles"))
    joined = headless.run(project, union)
    again = downsample(project, (joined, "outputSet"), fourierCropSize=18, recenter=True)
    for named in (again, *runs):
        restored = restore(project, again, named, fullSizeParticles=original)
        items = items_of(restored.outputParticles)
        ways = 2 if named is again else 1
        assert len(items) == ways * COUNT
        for item in items:
            key = item._fullSizeId.get() if ways == 2 else item.getObjId()
            assert np.abs(item.getTransform().getMatrix() - truths[key].matrix()).max() < TOLERANCE


def test_a_join_of_particles_from_two_originals(project, originals):
    """Ids of one original set are not taken for those of the other."""
    from pwem.protocols import ProtUnionSet
    from pyworkflow.object import Pointer

    truths = originals["Projection"][1]
    stack = write_stack("elsewhere.mrcs", np.zeros((COUNT, BOX, BOX)))
    items = [particle(key, (i + 1, stack), truth.matrix()) for i, (key, truth) in enumerate(truths.items())]
    sources = [originals["Projection"][0], particle_set(project, items, APIX, "Projection")]
    union = project.newProtocol(ProtUnionSet, inputType=0)
    for source in sources:
        union.inputSets.append(Pointer(downsample(project, source, fourierCropSize=36), extended="outputParticles"))
    again = downsample(project, (headless.run(project, union), "outputSet"), fourierCropSize=18)
    restored = restore(project, again, again)
    files = {item.getFileName() for item in items_of(restored.outputParticles)}
    assert files in ({stack}, {"original_0.mrcs"})
    assert restored.outputParticles.getSize() == COUNT
    assert any(f"Left out: {COUNT} particles" in line for line in restored.summary())


def test_a_run_that_was_repeated_with_other_settings(project, originals):
    """The refined particles' own records tell what was done to the images that they were aligned by."""
    original, truths = originals["Projection"]
    small = downsample(project, original, fourierCropSize=18, recenter=True)
    particles, later = refined(project, small, truths, WHOLE)
    small.recenter.set(False)
    small.runMode.set(1)  # restart
    headless.run(project, small)
    assert small.outputParticles.getFirstItem()._downsampleShiftX.get() == 0
    check(restore(project, particles, small), original, later)
    small.particlesPerStack.set(2)  # most images have other places now
    headless.run(project, small)
    check(restore(project, particles, small), original, later)


def without_marks(project, items, apix, shape=12):
    """Particles as another protocol leaves them that keeps nothing but the alignment."""
    stack = write_stack(f"plain_{len(project.getRuns())}.mrcs", np.zeros((len(items), shape, shape)))
    plain = []
    for i, (key, item) in enumerate(items):
        bare = particle(key, (i + 1, stack), item.getTransform().getMatrix())
        bare.setCTF(item.getCTF())
        bare._downsampleShiftX, bare._downsampleShiftY = item._downsampleShiftX, item._downsampleShiftY
        plain.append(bare)
    return particle_set(project, plain, apix, "Projection")


def test_nothing_is_invented_from_ids_alone(project, originals):
    """Images written again, no coordinates, no recentring: ids count only where defocus and numbering speak for it."""
    original, truths = originals["Projection"]
    small = downsample(project, original, fourierCropSize=18)
    particles, later = refined(project, small, truths, NONE)
    apix = small.outputParticles.getSamplingRate()
    items = items_of(particles.outputParticles)
    same = without_marks(project, [(item.getObjId(), item) for item in items], apix)
    restored = restore(project, same, small)
    check(restored, original, later)
    assert any(f"{COUNT} of them found by their ids" in line for line in restored.summary())
    renumbered = without_marks(project, [(item.getObjId() - 2, item) for item in items[2:]], apix)
    protocol = new_restore(project, renumbered, small)
    project.launchProtocol(protocol, wait=True)
    assert protocol.isFailed()
    assert "its defocus is" in protocol.getErrorMessage()
    for item in items:  # one micrograph, one defocus: nothing left to tell particles by
        item.setCTF(items[0].getCTF())
    everywhere = without_marks(project, [(i + 20, item) for i, item in enumerate(items)], apix)
    protocol = new_restore(project, everywhere, small)
    project.launchProtocol(protocol, wait=True)
    assert protocol.isFailed()


def test_classes_with_different_attributes(project, trip):
    """What only some classes carry stays with their particles, and leaks into no others."""
    from pwem.objects import SetOfClasses3D
    from pyworkflow.object import Float, Pointer

    from .scipion_sets import register

    original, small, particles, later = trip

    def fill(protocol):
        classes = SetOfClasses3D.create(protocol.getPath())
        classes.setImages(Pointer(particles, extended="outputParticles"))
        for number, members in enumerate((sorted(later)[:3], sorted(later)[3:]), start=1):
            one = classes.ITEM_TYPE()
            one.setObjId(number)
            one.copyInfo(particles.outputParticles)
            classes.append(one)
            for key in members:
                item = particles.outputParticles[key].clone()
                if number == 1:
                    item._late = Float(key)
                one.append(item)
            classes.update(one)
        classes.write()
        return classes

    classes = register(project, fill, "outputClasses")
    restored = restore(project, (classes, "outputClasses"), small)
    again = downsample(project, (classes, "outputClasses"), fourierCropSize=12)
    for run in (restored, again):
        values = {item.getObjId(): item._late.get() for item in items_of(run.outputParticles)}
        assert values == {key: float(key) if key in sorted(later)[:3] else None for key in later}
    check(restored, original, later)


def test_classes_of_images_that_were_written_again(project, trip):
    """Found by place as from a set; where nothing tells, the numbering of all classes counts."""
    original, small, particles, later = trip
    keys = sorted(later)
    again = rewritten(project, particles)
    groups = [[(key, None) for key in keys[:4]], [], [(key, None) for key in keys[4:]]]
    classes = class_set(project, again, groups, "Projection", "3D")
    restored = restore(project, (classes, "outputClasses"), small)
    check(restored, original, later)
    assert {item.getObjId(): item.getClassId() for item in items_of(restored.outputParticles)} == {
        key: 1 if key in keys[:4] else 3 for key in keys
    }

    unmoved = downsample(project, original, fourierCropSize=18)
    items = items_of(unmoved.outputParticles)
    for i, item in enumerate(items):  # only the second class shows that the numbers are others
        item.setObjId(keys[i] if i < 4 else keys[i] + 100)
        item.setCTF(None)
    plain = without_marks(
        project, [(item.getObjId(), item) for item in items], unmoved.outputParticles.getSamplingRate()
    )
    groups = [[(item.getObjId(), None) for item in part] for part in (items[:4], items[4:])]
    numbered = class_set(project, plain, groups, "Projection", "3D")
    protocol = new_restore(project, (numbered, "outputClasses"), unmoved)
    project.launchProtocol(protocol, wait=True)
    assert f"All {COUNT} particles are left out" in protocol.getErrorMessage()
    listed = Path(protocol._getExtraPath("left_out_particles.star")).read_text()
    assert listed.count("the set has been renumbered, and nothing identifies") == 4
    assert listed.count("neither its image nor its id") == COUNT - 4


def test_disabled_particles(project, trip):
    """Those of the input are not taken; those of the full-size set are, as they are."""
    from .test_set_columns import update

    original, small, particles, later = trip
    some = particle_set(
        project, items_of(particles.outputParticles), small.outputParticles.getSamplingRate(), "Projection"
    )
    update(some.outputParticles.getFileName(), {"enabled": 0}, "id=25")
    chosen = particle_set(project, items_of(original.outputParticles), APIX, "Projection")
    update(chosen.outputParticles.getFileName(), {"enabled": 0}, "id=23")
    restored = restore(project, some, small, fullSizeParticles=chosen)
    check(restored, original, later, [key for key in later if key != 25])
    assert [item.getObjId() for item in restored.outputParticles.iterItems() if not item.isEnabled()] == [23]


def test_unfit_full_size_particles(project, trip):
    _, small, particles, _ = trip
    from downsample_plugin.protocols import ProtDownsampleParticles

    def problem(full):
        (found,) = new_restore(project, particles, small, fullSizeParticles=full).validate()
        return found

    assert "does not exist yet" in problem(project.newProtocol(ProtDownsampleParticles))
    assert "the set is empty" in problem(particle_set(project, [], APIX))
    assert "no sampling rate" in problem(particle_set(project, [particle(21, (1, "original_0.mrcs"))], None))
    assert "the input particles themselves" in problem(particles)


def test_an_empty_class_is_a_sentence(project, trip):
    from downsample_plugin.protocols import ProtShiftParticleCenter

    _, small, particles, _ = trip
    classes = class_set(project, particles, [[], [(21, np.eye(4))]], "Projection", "3D")
    empty = (classes, "outputClasses.1")
    for protocol in (
        new_restore(project, empty, small),
        new_restore(project, particles, empty),
        connect(project.newProtocol(ProtShiftParticleCenter), inputParticles=empty),
        new_downsample(project, empty),
    ):
        (problem,) = protocol.validate()
        assert "is empty" in problem
        assert protocol.warnings() == []
        assert protocol.summary() == ["Output particles not ready yet."]


def test_a_2d_convention_that_does_not_show_is_told(project, originals):
    """Particles without Xmipp's attributes get an alignment in Xmipp's convention: later runs must be told."""
    original, truths = originals["Projection"]
    xmipp, _ = originals[ROTATE_THEN_SHIFT]
    settings = {"alignments2D": (xmipp, "outputParticles"), "fourierCropSize": 20}
    plain = particle_set(
        project, [particle(key, (1, "original_0.mrcs"), truth.matrix()) for key, truth in truths.items()], APIX
    )
    small = downsample(project, plain, **settings)
    assert any("written as 'rotate then shift'" in line for line in small.summary())
    restored = restore(project, small, small, alignment2DConvention=ROTATE_THEN_SHIFT, fullSizeParticles=original)
    assert any("written as 'rotate then shift'" in line for line in restored.summary())
    for before, after in pairs(items_of(xmipp.outputParticles), items_of(restored.outputParticles)):
        assert np.abs(before.getTransform().getMatrix() - after.getTransform().getMatrix()).max() < TOLERANCE
    assert not any("Note" in line for line in downsample(project, xmipp, fourierCropSize=20).summary())
