# SPDX-License-Identifier: GPL-3.0-or-later
"""What other Scipion protocols find in the output: ids, order, attributes, shifts, coordinates, origin."""

import numpy as np
import pytest

from downsample_plugin import headless
from downsample_plugin.core.plan import Recenter
from downsample_plugin.simulate import Phantom, in_plane_rotation, random_rotation

from .scipion_sets import (
    class_set,
    downsample,
    image_of,
    items_of,
    matrix,
    micrograph_set,
    new_downsample,
    pairs,
    particle,
    particle_set,
    write_stack,
)
from .truth import blob_position

APIX, BOX = 1.5, 64
COUNT = 8
WHOLE, EXACT = 0, 1
AUTOMATIC, SHIFT_THEN_ROTATE, ROTATE_THEN_SHIFT = 0, 1, 2
OFF_CENTRE_BLOB = Phantom(np.zeros((1, 3)), np.array([4.0]), np.ones(1))


def shifts_of(count=COUNT, seed=1):
    return np.random.default_rng(seed).uniform(-7, 7, size=(count, 2))


def projection_matrix(rotation, shift):
    """s = -translation(inverse(M)), written from the definition: M = inverse([R | -s])."""
    inverse = np.eye(4)
    inverse[:3, :3] = rotation
    inverse[:2, 3] = -np.asarray(shift)
    return np.linalg.inv(inverse)


def matrix_2d(rotation, shift, convention):
    if convention == SHIFT_THEN_ROTATE:
        return matrix(rotation, shift)
    return matrix(rotation, rotation[:2, :2] @ shift)


def centred_by(item, alignment, convention=None):
    """Where the blob of an item stands, plus the shift its matrix holds: zero if the two agree."""
    m = item.getTransform().getMatrix()
    if alignment == "Projection":
        s = -np.linalg.inv(m)[:2, 3]
    elif convention == ROTATE_THEN_SHIFT:
        s = np.linalg.inv(m[:2, :2]) @ m[:2, 3]
    else:
        s = m[:2, 3]
    return blob_position(image_of(item)) + s


CASES = [("Projection", None, False)] + [
    ("2D", convention, mirror) for convention in (SHIFT_THEN_ROTATE, ROTATE_THEN_SHIFT) for mirror in (False, True)
]


@pytest.fixture(scope="module")
def blobs(project):
    """For each case a set of off-centre blobs with random orientations and the shifts that centre them."""
    from pyworkflow.object import Float, Integer

    sets = {}
    for case in CASES:
        alignment, convention, mirror = case
        rng = np.random.default_rng(7)
        shifts = shifts_of()
        images = [OFF_CENTRE_BLOB.project(np.eye(3), s, BOX, APIX) for s in shifts]
        stack = write_stack(f"blobs_{CASES.index(case)}.mrcs", images)
        items = []
        for i, s in enumerate(shifts):
            if alignment == "Projection":
                m = projection_matrix(random_rotation(rng), s)
            else:
                m = matrix_2d(in_plane_rotation(rng.uniform(0, 2 * np.pi), mirror), s, convention)
            items.append(
                particle(
                    i + 1,
                    (i + 1, stack),
                    m,
                    rng.integers(100, 900, size=2),
                    _rlnRandomSubset=Integer(1 + i % 2),
                    _someFutureAttribute=Float(i * 0.125),
                )
            )
        sets[case] = particle_set(project, items, APIX, alignment)
    return sets


@pytest.mark.parametrize("mode", [None, WHOLE, EXACT])
@pytest.mark.parametrize("case", CASES)
def test_content_less_residual_shift_is_at_the_origin(project, blobs, case, mode):
    alignment, convention, _ = case
    settings = {"fourierCropSize": 32, "alignment2DConvention": convention or AUTOMATIC}
    if mode is not None:
        settings.update(recenter=True, recenterMode=mode)
    output = downsample(project, blobs[case], **settings).outputParticles
    inputs = items_of(blobs[case].outputParticles)
    q = 32 / BOX
    for before, after, s in pairs(inputs, items_of(output), shifts_of()):
        assert centred_by(after, alignment, convention) == pytest.approx([0, 0], abs=0.01)
        d = {None: np.zeros(2), WHOLE: np.sign(s) * np.floor(np.abs(s) + 0.5), EXACT: s}[mode]
        assert blob_position(image_of(after)) == pytest.approx((d - s) * q, abs=0.01)
        rotation_before, rotation_after = (i.getTransform().getMatrix()[:3, :3] for i in (before, after))
        assert np.array_equal(rotation_before, rotation_after)
        recorded = (after._downsampleShiftX.get(), after._downsampleShiftY.get())
        assert recorded == pytest.approx(d * APIX, abs=1e-9)
        expected = (np.array(before.getCoordinate().getPosition()) - d) * q
        assert np.abs(np.array(after.getCoordinate().getPosition()) - expected).max() <= 0.5 + 1e-9


def test_the_wrong_2d_convention_moves_particles_the_wrong_way(project, blobs):
    """The two conventions differ for these particles, so the tests above can tell them apart."""
    case = ("2D", ROTATE_THEN_SHIFT, False)
    output = downsample(
        project, blobs[case], recenter=True, recenterMode=EXACT, alignment2DConvention=SHIFT_THEN_ROTATE
    ).outputParticles
    off = [np.hypot(*blob_position(image_of(item))) for item in items_of(output)]
    assert max(off) > 3


def test_everything_else_survives(project, blobs):
    before_set = blobs[CASES[0]].outputParticles
    protocol = downsample(project, blobs[CASES[0]], fourierCropSize=32, cropSize=48)
    output = protocol.outputParticles
    assert output.getSamplingRate() == pytest.approx(APIX * 48 / 32, rel=1e-14)
    assert output.getDim() == (32, 32, 1)
    assert (output.getAlignment(), output.hasCTF()) == (before_set.getAlignment(), True)
    before, after = items_of(before_set), items_of(output)
    assert [item.getObjId() for item in after] == [item.getObjId() for item in before]
    changed = {"_index", "_filename", "_samplingRate", "_transform._matrix", "_coordinate._x", "_coordinate._y"}
    for old, new in pairs(before, after):
        assert new.getSamplingRate() == pytest.approx(APIX * 48 / 32, rel=1e-14)
        old_values, new_values = old.getObjDict(), new.getObjDict()
        for name in set(old_values) - changed:
            assert new_values[name] == old_values[name], name
        assert set(new_values) - set(old_values) == {"_downsampleShiftX", "_downsampleShiftY"}
    relations = [(r["name"], r["object_parent_extended"]) for r in protocol.getRelations()]
    assert ("relation_transform", "outputParticles") in relations


@pytest.mark.parametrize("mode", [WHOLE, EXACT])
@pytest.mark.parametrize("case", [CASES[0], ("2D", SHIFT_THEN_ROTATE, False)])
def test_extract_coordinates_finds_the_same_places(project, blobs, case, mode):
    """Without shifts on the output it finds what it finds with shifts on the input."""
    from pwem.protocols import ProtExtractCoords

    micrographs = micrograph_set(project, APIX / 2)
    downsampled = downsample(
        project, blobs[case], fourierCropSize=16, recenter=True, recenterMode=mode, alignment2DConvention=0
    )

    def coordinates(source, apply_shifts):
        protocol = project.newProtocol(ProtExtractCoords, applyShifts=apply_shifts)
        protocol.inputParticles.set(source)
        protocol.inputParticles.setExtended("outputParticles")
        protocol.inputMicrographs.set(micrographs)
        protocol.inputMicrographs.setExtended("outputMicrographs")
        found = headless.run(project, protocol).outputCoordinates
        return np.array([item.getPosition() for item in found])

    expected, found = coordinates(blobs[case], True), coordinates(downsampled, False)
    output_pixel = downsampled.outputParticles.getSamplingRate() / (APIX / 2)  # in micrograph px
    input_pixel = 2
    # half an output pixel from rounding the coordinate; with whole pixels, the rest of the shift stays in
    # the alignment, half an input pixel at most; and each run rounds to whole micrograph pixels
    tolerance = output_pixel / 2 + (input_pixel / 2 if mode == WHOLE else 0) + 1
    assert len(found) == COUNT
    assert np.abs(found - expected).max() <= tolerance


def test_xmipp_items_are_read_the_xmipp_way(project):
    from pyworkflow.object import Float

    s = np.array([5.0, -3.0])
    stack = write_stack("xmipp.mrcs", [OFF_CENTRE_BLOB.project(np.eye(3), s, BOX, APIX)] * 2)
    rotation = in_plane_rotation(1.0)
    for convention, attributes in (
        (ROTATE_THEN_SHIFT, {"_xmipp_maxCC": Float(0.5)}),
        (SHIFT_THEN_ROTATE, {"_rlnMaxValueProbDistribution": Float(0.5)}),
    ):
        items = [particle(i, (i, stack), matrix_2d(rotation, s, convention), **attributes) for i in (1, 2)]
        given = particle_set(project, items, APIX, "2D")
        protocol = downsample(project, given, recenter=True, recenterMode=EXACT, fourierCropSize=32)
        for item in items_of(protocol.outputParticles):
            assert blob_position(image_of(item)) == pytest.approx([0, 0], abs=0.01)
        used = {ROTATE_THEN_SHIFT: "rotate then shift", SHIFT_THEN_ROTATE: "shift then rotate"}[convention]
        assert any(f"{used}: automatic" in line for line in protocol.summary())


@pytest.fixture(scope="module")
def unaligned(project):
    """Off-centre blobs that know nothing of it, with ids 11, 12, …"""
    images = [OFF_CENTRE_BLOB.project(np.eye(3), s, BOX, APIX) for s in shifts_of()]
    stack = write_stack("unaligned.mrcs", images)
    return particle_set(project, [particle(i + 11, (i + 1, stack)) for i in range(COUNT)], APIX)


@pytest.fixture(scope="module")
def coarse_alignment(project, unaligned):
    """A 3D alignment found on particles of twice the pixel size, that lacks the ids 13 and 18."""
    rng = np.random.default_rng(5)
    stack = write_stack("coarse.mrcs", np.zeros((COUNT, BOX // 2, BOX // 2)))
    items = [
        particle(i + 11, (i + 1, stack), projection_matrix(random_rotation(rng), s / 2))
        for i, s in enumerate(shifts_of())
        if i + 11 not in (13, 18)
    ]
    return particle_set(project, items, 2 * APIX, "Projection")


def test_alignment_of_another_pixel_size_with_missing_particles(project, unaligned, coarse_alignment):
    protocol = downsample(
        project,
        unaligned,
        alignments3D=(coarse_alignment, "outputParticles"),
        recenter=True,
        recenterMode=WHOLE,
        targetPixelSize=3.0,
    )
    output = protocol.outputParticles
    assert [item.getObjId() for item in items_of(output)] == [11, 12, 14, 15, 16, 17]
    assert output.getAlignment() == "Projection"
    for item in items_of(output):
        assert centred_by(item, "Projection") == pytest.approx([0, 0], abs=0.01)
    assert any("2 particles that Alignments 3D does not contain" in line for line in protocol.summary())


def test_missing_particles_are_left_out_without_recentring_too(project, unaligned, coarse_alignment):
    output = downsample(
        project, unaligned, alignments3D=(coarse_alignment, "outputParticles"), fourierCropSize=32
    ).outputParticles
    assert output.getSize() == COUNT - 2
    for item in items_of(output):
        assert centred_by(item, "Projection") == pytest.approx([0, 0], abs=0.01)


def test_3d_wins_over_2d_with_a_warning(project, unaligned, coarse_alignment):
    wrong = particle_set(
        project,
        [particle(i, (1, "unaligned.mrcs"), matrix(np.eye(3), (20, 20))) for i in range(11, 19)],
        APIX,
        "2D",
    )
    protocol = new_downsample(
        project,
        unaligned,
        alignments3D=(coarse_alignment, "outputParticles"),
        alignments2D=(wrong, "outputParticles"),
        recenter=True,
        recenterMode=EXACT,
        fourierCropSize=32,
    )
    assert any("Alignments 2D: not used" in warning for warning in protocol.warnings())
    headless.run(project, protocol)
    for item in items_of(protocol.outputParticles):
        assert blob_position(image_of(item)) == pytest.approx([0, 0], abs=0.01)


@pytest.mark.parametrize("kind, alignment", [("2D", "2D"), ("3D", "Projection")])
def test_classes_as_alignment(project, unaligned, kind, alignment):
    rng = np.random.default_rng(6)
    groups = [[], [], [], [], []]  # the first and the last stay empty
    for i, s in enumerate(shifts_of()):
        if kind == "2D":
            m = matrix_2d(in_plane_rotation(rng.uniform(0, 6)), s, SHIFT_THEN_ROTATE)
        else:
            m = projection_matrix(random_rotation(rng), s)
        groups[1 + i % 3].append((i + 11, m))
    classes = class_set(project, unaligned, groups, alignment, kind)
    protocol = downsample(
        project,
        unaligned,
        **{f"alignments{kind}": (classes, "outputClasses")},
        recenter=True,
        recenterMode=EXACT,
        fourierCropSize=32,
    )
    items = items_of(protocol.outputParticles)
    assert [item.getObjId() for item in items] == list(range(11, 19))
    assert protocol.outputParticles.getAlignment() == alignment
    for item in items:
        assert blob_position(image_of(item)) == pytest.approx([0, 0], abs=0.01)


def test_a_z_shift_is_scaled(project):
    stack = write_stack("z.mrcs", np.random.default_rng(0).normal(size=(1, BOX, BOX)))
    m = matrix(np.eye(3), (1.0, 2.0))
    m[2, 3] = 8.0
    given = particle_set(project, [particle(1, (1, stack), m)], APIX, "Projection")
    (item,) = items_of(downsample(project, given, fourierCropSize=16).outputParticles)
    assert item.getTransform().getMatrix()[:3, 3] == pytest.approx([0.25, 0.5, 2.0], abs=1e-12)


def test_averages_stay_averages_and_disabled_particles_stay_out(project):
    from pwem.objects import SetOfAverages

    stack = write_stack("averages.mrcs", np.random.default_rng(0).normal(size=(3, BOX, BOX)))
    items = [particle(i, (i, stack)) for i in (1, 2, 3)]
    items[1].setEnabled(False)
    given = particle_set(project, items, APIX, set_class="SetOfAverages")
    protocol = downsample(project, given, fourierCropSize=32)
    assert type(protocol.outputParticles) is SetOfAverages
    assert [item.getObjId() for item in items_of(protocol.outputParticles)] == [1, 3]
    assert any("1 particle disabled" in line for line in protocol.summary())


def test_two_runs_in_a_row_record_their_own_shift(project, blobs):
    first = downsample(project, blobs[CASES[0]], fourierCropSize=48, recenter=True)
    second = downsample(project, first, fourierCropSize=24, recenter=True, recenterMode=EXACT)
    outputs = items_of(first.outputParticles), items_of(second.outputParticles)
    for one, two, s in pairs(*outputs, shifts_of()):
        assert centred_by(two, "Projection") == pytest.approx([0, 0], abs=0.01)
        both = one._downsampleShiftX.get() + two._downsampleShiftX.get()
        assert both == pytest.approx(s[0] * APIX, abs=1e-9)


def test_recentring_modes_are_those_of_the_plan():
    from downsample_plugin.protocols.form_downsample import RECENTER_MODES

    assert [RECENTER_MODES[WHOLE], RECENTER_MODES[EXACT]] == [Recenter.WHOLE_PIXELS, Recenter.EXACT]
