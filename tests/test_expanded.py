# SPDX-License-Identifier: GPL-3.0-or-later
"""Symmetry-expanded particles that are downsampled as such: several entries share an image, and each finds its way."""

from pathlib import Path

import numpy as np
import pytest

from downsample_plugin import headless
from downsample_plugin.simulate import in_plane_rotation

from .scipion_sets import connect, downsample, items_of, matrix, particle, particle_set, write_stack
from .test_round_trip import APIX, BOX, NONE, TOLERANCE, WHOLE, Truth, applied, restore, rewritten, transform

COUNT, COPIES = 6, 4
TURNS = [matrix(in_plane_rotation(k * np.pi / 2), (0, 0)) for k in range(COPIES)]
NOTHING_TELLS = "several particles share its image, and nothing tells which one it is"


class Expanded:
    """A set of a project with COPIES entries for each of COUNT images, whose ids run image by image from `first` on.

    `truths` tells of each image, `image` and `turn` of each entry: its image's number and its symmetry.
    """

    def __init__(self, project, name, first=1, seed=5):
        from pyworkflow.object import Integer

        rng = np.random.default_rng(seed)
        stack = write_stack(name, rng.normal(size=(COUNT, BOX, BOX)))
        self.truths = [Truth(rng, "Projection") for _ in range(COUNT)]
        ids = range(first, first + COUNT * COPIES)
        self.image = {key: (key - first) // COPIES for key in ids}
        self.turn = {key: TURNS[(key - first) % COPIES] for key in ids}
        items = [
            particle(
                key,
                (self.image[key] + 1, stack),
                self.turn[key] @ self.truths[self.image[key]].matrix(),
                (100 + 50 * self.image[key], 500),
                _rlnCopy=Integer(key % COPIES),
            )
            for key in ids
        ]
        self.protocol = particle_set(project, items, APIX, "Projection")
        self.stack = stack


@pytest.fixture(scope="module")
def expanded(project):
    return Expanded(project, "expanded.mrcs")


@pytest.fixture(scope="module")
def other(project):
    """Another one, with the same ids."""
    return Expanded(project, "other.mrcs", seed=6)


def refined(project, small, expanded, mode, numbers=lambda key: key, keep=lambda key: True, align=True):
    """Alignments as found on the small images, different for each entry, on particles with ids `numbers(id)`.

    And {id: (id of the entry, the true full-size matrix)}.
    """
    rng = np.random.default_rng(9)
    apix = small.outputParticles.getSamplingRate()
    items, expected = [], {}
    for item in items_of(small.outputParticles):
        key = item.getObjId()
        truth = expanded.truths[expanded.image[key]]
        later, turn = truth.moved_a_little(rng), expanded.turn[key]
        left = (later.shift - applied(truth.shift, mode)) * APIX / apix
        item.setTransform(transform(turn @ later.matrix(left)) if align else None)
        item.setObjId(numbers(key))
        if keep(key):
            items.append(item)
            expected[item.getObjId()] = key, turn @ later.matrix()
    return particle_set(project, items, apix, "Projection" if align else None), expected


def check(restored, expanded, expected, by_own_id):
    """Each entry has the image that it is of and its own alignment; and its own id if that was to be known."""
    items = {item.getObjId(): item for item in items_of(restored.outputParticles)}
    assert len(items) == len(expected)
    isNumberedAnew = any(item.hasAttribute("_fullSizeId") for item in items.values())
    assert isNumberedAnew != by_own_id
    for number, (key, truth) in expected.items():
        item = items[key if by_own_id else number]
        full_id = key if by_own_id else item._fullSizeId.get()
        assert item.getLocation() == (expanded.image[key] + 1, expanded.stack)
        assert expanded.image[full_id] == expanded.image[key]
        assert item.getCoordinate().getX() == 100 + 50 * expanded.image[key]
        assert item._rlnCopy.get() == key % COPIES
        assert np.abs(item.getTransform().getMatrix() - truth).max() < TOLERANCE


def listed(protocol):
    return Path(protocol._getExtraPath("left_out_particles.star")).read_text()


def locations(protocol):
    return [item.getLocation() for item in items_of(protocol.outputParticles)]


@pytest.mark.parametrize("mode", [NONE, WHOLE])
def test_they_share_images_and_each_comes_back_as_itself(project, expanded, mode):
    small = downsample(project, expanded.protocol, fourierCropSize=18, recenter=mode is not NONE)
    assert len(set(locations(small))) == COUNT
    particles, expected = refined(project, small, expanded, mode)
    check(restore(project, particles, small), expanded, expected, by_own_id=True)
    few, expected = refined(project, small, expanded, mode, keep=lambda key: key % 5 == 0)
    check(restore(project, few, small), expanded, expected, by_own_id=True)


@pytest.mark.parametrize("numbers", [lambda key: key + 1000, lambda key: 2 * key, lambda key: 25 - key])
def test_numbered_anew(project, expanded, numbers):
    """Any entry of the image serves, whether the new id is another particle's, another entry's or nobody's."""
    small = downsample(project, expanded.protocol, fourierCropSize=18, recenter=True)
    particles, expected = refined(project, small, expanded, WHOLE, numbers)
    check(restore(project, particles, small), expanded, expected, by_own_id=False)
    chosen = restore(project, particles, small, fullSizeParticles=expanded.protocol)
    check(chosen, expanded, expected, by_own_id=False)


def joined(project, *protocols):
    from pwem.protocols import ProtUnionSet
    from pyworkflow.object import Pointer

    union = project.newProtocol(ProtUnionSet, inputType=0)
    for source in protocols:
        union.inputSets.append(Pointer(source, extended="outputParticles"))
    return headless.run(project, union), "outputSet"


def test_subsets_joined_with_particles_of_another_run(project, expanded, other):
    """The join numbers them anew; those of the other run are left out."""
    small, strange = (
        downsample(project, each.protocol, fourierCropSize=18, recenter=True) for each in (expanded, other)
    )
    few, expected = refined(project, small, expanded, WHOLE, keep=lambda key: key % 3 != 1)
    strangers, _ = refined(project, strange, other, WHOLE)
    union = joined(project, strangers, few)
    numbers = [item.getObjId() for item in items_of(union[0].outputSet)][len(expanded.image) :]
    expected = dict(zip(numbers, expected.values()))
    restored = restore(project, union, small)
    check(restored, expanded, expected, by_own_id=False)
    assert any(f"Left out: {len(other.image)} particles" in line for line in restored.summary())


@pytest.mark.parametrize("renumber", ["before", "after", "never"])
def test_two_runs_in_a_row(project, expanded, renumber):
    first = downsample(project, expanded.protocol, fourierCropSize=36, recenter=True)
    numbers = {"before": lambda key: key + 1000}.get(renumber, lambda key: key)
    between, expected = refined(project, first, expanded, WHOLE, numbers)
    second = downsample(project, between, fourierCropSize=18)
    assert len(set(locations(second))) == COUNT
    items = items_of(second.outputParticles)
    last = {}
    for item in items:
        number = item.getObjId() + (2000 if renumber == "after" else 0)
        last[number] = expected[item.getObjId()]
        item.setObjId(number)
    particles = particle_set(project, items, second.outputParticles.getSamplingRate(), "Projection")
    for named in (first, second):
        check(restore(project, particles, named), expanded, last, by_own_id=renumber == "never")


def test_moved_apart(project, expanded):
    """About a point off the axis the entries have images of their own."""
    from .test_shift_center import move

    moved = move(project, expanded.protocol, xCenter=9.0, yCenter=3.0)
    sub = downsample(project, moved, cropSize=24, recenter=True)
    assert len(set(locations(sub))) == COUNT * COPIES
    before, after = items_of(moved.outputParticles), items_of(restore(project, sub, sub).outputParticles)
    assert [item.getObjId() for item in after] == [item.getObjId() for item in before]
    for one, other in zip(before, after):
        assert one.getLocation() == other.getLocation()
        assert np.abs(one.getTransform().getMatrix() - other.getTransform().getMatrix()).max() < TOLERANCE


@pytest.mark.parametrize("chosen", [False, True])
def test_without_alignment(project, expanded, chosen):
    """The full-size alignment stays, so it matters which entry it is: by its id, or not at all."""
    settings = {"fullSizeParticles": expanded.protocol} if chosen else {}
    small = downsample(project, expanded.protocol, fourierCropSize=18)
    same, _ = refined(project, small, expanded, NONE, keep=lambda key: key % 2, align=False)
    originals = {item.getObjId(): item for item in items_of(expanded.protocol.outputParticles)}
    items = items_of(restore(project, same, small, **settings).outputParticles)
    assert [item.getObjId() for item in items] == [key for key in originals if key % 2]
    for item in items:
        original = originals[item.getObjId()].getTransform().getMatrix()
        assert np.array_equal(item.getTransform().getMatrix(), original)
    anew, _ = refined(project, small, expanded, NONE, numbers=lambda key: key + 1, align=False)
    protocol = restore_that_fails(project, anew, small, **settings)
    assert f"All {len(expanded.image)} particles are left out" in protocol.getErrorMessage()
    assert NOTHING_TELLS in listed(protocol)


def restore_that_fails(project, *arguments, **settings):
    from .test_round_trip import new_restore

    protocol = new_restore(project, *arguments, **settings)
    project.launchProtocol(protocol, wait=True)
    assert protocol.isFailed()
    return protocol


@pytest.mark.parametrize("numbers", [lambda key: key, lambda key: key + 1000])
def test_brought_from_another_project(project, expanded, numbers):
    """Small particles whose run is not here: the images that entries share are in the brought set."""
    small = downsample(project, expanded.protocol, fourierCropSize=18, recenter=True)
    particles, expected = refined(project, small, expanded, WHOLE, numbers)
    places = {image: i + 1 for i, image in enumerate(dict.fromkeys(locations(small)))}
    stack = write_stack(f"brought_{len(project.getRuns())}.mrcs", np.zeros((COUNT, 18, 18)))

    def brought(protocol):
        items = items_of(protocol.outputParticles)
        for item in items:
            item.setLocation(places[item.getLocation()], stack)
        return particle_set(project, items, protocol.outputParticles.getSamplingRate(), "Projection")

    restored = restore(project, brought(particles), brought(small), fullSizeParticles=expanded.protocol)
    check(restored, expanded, expected, by_own_id=numbers(1) == 1)


def test_one_image_for_different_particles(project):
    """As nonsense of another program: only the ids could tell, and they do not."""
    from pyworkflow.object import Float

    records = {"_downsampleShiftX": Float(0.0), "_downsampleShiftY": Float(0.0)}
    stack = write_stack("different.mrcs", np.zeros((3, BOX, BOX)))
    full = particle_set(project, [particle(key, (key, stack), np.eye(4)) for key in (1, 2, 3)], APIX, "Projection")
    small = [particle(key, (1, "one.mrcs"), np.eye(4), **records) for key in (1, 2, 3)]
    write_stack("one.mrcs", np.zeros((1, 12, 12)))
    named = particle_set(project, small, 2 * APIX, "Projection")
    small[0].setObjId(7)
    particles = particle_set(project, small, 2 * APIX, "Projection")
    restored = restore(project, particles, named, fullSizeParticles=full)
    assert [item.getObjId() for item in items_of(restored.outputParticles)] == [2, 3]
    assert f'7 1 "one.mrcs" "{NOTHING_TELLS}"' in listed(restored)


def test_images_written_again(project, expanded):
    """Nothing but the id can tell entries apart then."""
    small = downsample(project, expanded.protocol, fourierCropSize=18, recenter=True)
    particles, expected = refined(project, small, expanded, WHOLE)
    restored = restore(project, rewritten(project, particles), small)
    check(restored, expanded, expected, by_own_id=True)
    assert any(f"{len(expected)} of them found by their ids" in line for line in restored.summary())


def test_shared_images_of_a_run_that_was_repeated(project, expanded, other):
    """With other particles: those that stand elsewhere are not taken for the first that has the image."""
    small = downsample(project, expanded.protocol, fourierCropSize=18)
    particles, _ = refined(project, small, expanded, NONE, numbers=lambda key: key + 1000)
    items = items_of(other.protocol.outputParticles)
    for item in items:
        item.getCoordinate().setX(item.getCoordinate().getX() + (40 if item.getObjId() > COPIES else 0))
    connect(small, inputParticles=particle_set(project, items, APIX, "Projection"))
    small.runMode.set(1)  # restart
    headless.run(project, small)
    restored = restore(project, particles, small)
    assert restored.outputParticles.getSize() == COPIES
    assert "the run has been repeated with different particles: they are 52 Å apart" in listed(restored)
