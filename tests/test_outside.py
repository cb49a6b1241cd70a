# SPDX-License-Identifier: GPL-3.0-or-later
"""Particles that have been outside Scipion come back to full size: sets as imports by other plugins leave them.

What those do: image files, or the folder that they are in, are linked into the import's own folder, or copied, or the
images are written again; ids and micrographs are numbered anew; names of micrographs stay, with or without suffix and
folder; coordinates stay as they were written; the plugin's own records are lost.
"""

import os
import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from downsample_plugin.simulate import random_rotation

from .scipion_sets import downsample, items_of, particle, particle_set, register, write_stack
from .test_round_trip import APIX, EXACT, TOLERANCE, WHOLE, Truth, applied, new_restore, restore

COUNT, BOX, MICROGRAPHS = 300, 32, 12
SETTINGS = {"cropSize": 28, "fourierCropSize": 14, "recenter": True, "particlesPerStack": 70}


class Full(NamedTuple):
    """Full-size particles: the protocol, and what is true of them by their ids."""

    protocol: object
    truths: dict


def full_size(project, name, seed, nameOf="mic_{:02d}.mrc".format, place=None):
    """COUNT particles in MICROGRAPHS micrographs, whose images and places are by chance."""
    rng = np.random.default_rng(seed)
    stack = write_stack(f"{name}.mrcs", rng.normal(size=(COUNT, BOX, BOX)))
    items, truths = [], {}
    for i in range(COUNT):
        key = 1001 + i
        truths[key] = truth = Truth(rng, "Projection")
        truth.rotation = random_rotation(rng)
        item = particle(key, (i + 1, stack), truth.matrix(), place or rng.integers(100, 3900, 2))
        item.getCoordinate().setMicId(1 + i % MICROGRAPHS)
        item.getCoordinate().setMicName(nameOf(1 + i % MICROGRAPHS))
        item.setMicId(1 + i % MICROGRAPHS)
        items.append(item)
    return Full(particle_set(project, items, APIX, "Projection"), truths)


@pytest.fixture(scope="module")
def full(project):
    return full_size(project, "full", 1)


@pytest.fixture(scope="module")
def runs(project, full):
    """Downsampled by whole pixels, and exactly."""
    return {mode: downsample(project, full.protocol, recenterMode=mode, **SETTINGS) for mode in (WHOLE, EXACT)}


def linked(protocol, name):
    """One link per file, in the folder of the import."""
    link = protocol._getExtraPath(os.path.basename(name))
    if not os.path.lexists(link):
        os.symlink(os.path.abspath(name), link)
    return link


def of_linked_folder(protocol, name):
    """A link to the folder that all images are below."""
    link = protocol._getExtraPath("Particles")
    if not os.path.lexists(link):
        os.symlink(os.getcwd(), link)
    return os.path.join(link, name)


def copied(protocol, name):
    copy = protocol._getExtraPath("imported_" + os.path.basename(name))
    if not os.path.exists(copy):
        shutil.copy(name, copy)
    return copy


MIC_NAMES = {  # of the base name
    "as it was": "{}.mrc".format,
    "no suffix": "{}".format,
    "folder": "Runs/000002_Import/extra/{}.mrc".format,
    "in a stack": "000005@elsewhere/{}.mrcs".format,
    "cryoSPARC": "J1/imported/014268357291648713092_{}.tif".format,
}


def imported(project, small, truths, mode, files=linked, names="as it was", refine=True, keep=COUNT, **more):
    """The small particles as they come back: (protocol, {new id: (id, true matrix)})."""
    from pwem.objects import SetOfParticles

    rng = np.random.default_rng(11)
    apix = small.outputParticles.getSamplingRate()
    expected = {}

    def fill(protocol):
        given = SetOfParticles.create(protocol.getPath())
        os.makedirs(protocol._getExtraPath(), exist_ok=True)
        given.setSamplingRate(more.get("apix", apix))
        given.setHasCTF(True)
        given.setAlignment("Projection")
        items = items_of(small.outputParticles)
        micrographs = rng.permutation(MICROGRAPHS) + 1
        for number, i in enumerate(rng.permutation(len(items))[:keep].tolist(), start=more.get("first", 1)):
            old = items[i]
            truth = truths[old.getObjId()]
            later = truth.moved_a_little(rng) if refine else truth
            left = (later.shift - applied(truth.shift, mode)) * APIX / apix
            new = particle(number, (old.getIndex(), files(protocol, old.getFileName())), later.matrix(left))
            new.setCTF(old.getCTF())
            new.setCoordinate(old.getCoordinate().clone())
            micrograph = int(micrographs[old.getMicId() - 1])
            new.setMicId(micrograph)
            new.getCoordinate().setMicId(micrograph)
            new.getCoordinate().setMicName(MIC_NAMES[names](Path(old.getCoordinate().getMicName()).stem))
            new.setSamplingRate(more.get("apix", apix))
            given.append(new)
            expected[number] = old.getObjId(), later.matrix()
        given.write()
        return given

    return register(project, fill), expected


def check(restored, expected):
    """Each of the expected ones is there, once, with the true alignment."""
    found = {item.getObjId(): item.getTransform().getMatrix() for item in items_of(restored.outputParticles)}
    assert sorted(found) == sorted(key for key, _ in expected.values())
    for key, truth in expected.values():
        assert np.abs(found[key] - truth).max() < TOLERANCE


def fails(project, particles, small):
    """The list of what is left out, of a run in which all are."""
    protocol = new_restore(project, particles, small)
    project.launchProtocol(protocol, wait=True)
    assert f"All {COUNT} particles are left out" in protocol.getErrorMessage()
    return Path(protocol._getExtraPath("left_out_particles.star")).read_text()


@pytest.mark.parametrize("names", MIC_NAMES)
@pytest.mark.parametrize("files", [linked, of_linked_folder, copied])
def test_it_comes_back(project, full, runs, files, names):
    """Refined, in another order, numbered anew, without records; where the images are links these lead back."""
    for mode, small in runs.items() if names == "as it was" else [(WHOLE, runs[WHOLE])]:
        given, expected = imported(project, small, full.truths, mode, files, names)
        restored = restore(project, given, small)
        check(restored, expected)
        summary = "\n".join(restored.summary())
        assert "WARNING" not in summary
        assert ("300 of them found by their positions" in summary) is (files is copied)


@pytest.mark.parametrize("files", [linked, copied])
def test_unchanged_and_a_subset(project, full, runs, files):
    for settings in ({"refine": False}, {"keep": 41}, {"first": 1001}):
        given, expected = imported(project, runs[WHOLE], full.truths, WHOLE, files, **settings)
        check(restore(project, given, runs[WHOLE]), expected)


def test_a_pixel_size_as_people_type_it(project, full, runs):
    """The places are counted in pixels: far out in a micrograph a rounded pixel size is several pixels off."""
    given, expected = imported(project, runs[WHOLE], full.truths, WHOLE, copied, apix=2.605)
    restored = restore(project, given, runs[WHOLE])
    assert sorted(item.getObjId() for item in items_of(restored.outputParticles)) == sorted(
        key for key, _ in expected.values()
    )


def test_downsampled_again_after_the_import(project, full, runs):
    """The way leads through the import to the originals."""
    given, expected = imported(project, runs[WHOLE], full.truths, WHOLE)
    again = downsample(project, given, fourierCropSize=10, recenter=True, recenterMode=EXACT)
    for named in (again, runs[WHOLE]):
        check(restore(project, again, named), expected)


# ---- what must not be taken for one another -----------------------------------------------------------------


def test_particles_of_another_run_are_refused(project, full, runs):
    """Of equal ids, in micrographs of equal names: links lead to the other run, places of copies tell."""
    other = full_size(project, "other", 2)
    small = downsample(project, other.protocol, recenterMode=WHOLE, **SETTINGS)
    given, _ = imported(project, small, other.truths, WHOLE, first=1001)
    (problem,) = new_restore(project, given, runs[WHOLE]).validate()
    assert "choose its output" in problem
    given, _ = imported(project, small, other.truths, WHOLE, copied, first=1001)
    listed = fails(project, given, runs[WHOLE])
    assert listed.count("no downsampled particle is at its position") >= COUNT - 2


def test_micrographs_of_one_name(project):
    """In two folders, which are lost: nothing tells which of the micrographs a copy is of."""
    halves = full_size(project, "halves", 3, lambda i: f"grid_{i % 2}/mic_{(i - 1) // 2:02d}.mrc")
    small = downsample(project, halves.protocol, recenterMode=WHOLE, **SETTINGS)
    given, expected = imported(project, small, halves.truths, WHOLE, linked)
    check(restore(project, given, small), expected)
    given, _ = imported(project, small, halves.truths, WHOLE, copied)
    listed = fails(project, given, small)
    assert listed.count("several micrographs have the name of its micrograph: 'mic_") == COUNT


def test_several_at_one_place(project):
    """They are not told from each other."""
    crowd = full_size(project, "crowd", 4, place=(1000, 1000))
    small = downsample(project, crowd.protocol, **{**SETTINGS, "recenter": False})
    given, expected = imported(project, small, crowd.truths, None, copied)
    assert fails(project, given, small).count("several downsampled particles are at its position") == COUNT
    given, expected = imported(project, small, crowd.truths, None, linked)
    check(restore(project, given, small), expected)


@pytest.mark.parametrize("later", [{"recenter": False}, {"recenterMode": EXACT, "cropSize": 32}])
def test_a_repeated_run_is_noticed(project, full, later):
    """The links lead to images of today: what was done to those that were refined is not recorded."""
    from downsample_plugin import headless

    small = downsample(project, full.protocol, recenterMode=WHOLE, **SETTINGS)
    given, _ = imported(project, small, full.truths, WHOLE)
    for name, value in later.items():
        getattr(small, name).set(value)
    small.runMode.set(1)  # restart
    headless.run(project, small)
    listed = fails(project, given, small)
    assert listed.count("the run has been repeated with different settings") >= COUNT / 3


def test_it_warns(project, full, runs):
    """At the top of the summary and in the log, where more than a few are left out."""
    from pwem.protocols import ProtUnionSet
    from pyworkflow.object import Pointer

    from downsample_plugin import headless

    other = full_size(project, "stranger", 6)
    strangers = downsample(project, other.protocol, recenterMode=WHOLE, **SETTINGS)
    for count, isWarned in ((3, False), (4, True)):
        given, expected = imported(project, runs[WHOLE], full.truths, WHOLE)
        added, _ = imported(project, strangers, other.truths, WHOLE, copied, keep=count)
        union = project.newProtocol(ProtUnionSet, inputType=0)
        for source in (given, added):
            union.inputSets.append(Pointer(source, extended="outputParticles"))
        restored = restore(project, (headless.run(project, union), "outputSet"), runs[WHOLE])
        check(restored, expected)
        first, log = restored.summary()[0], "".join(Path(name).read_text() for name in restored.getLogPaths()[:2])
        warning = f"WARNING: {count} of {COUNT + count} input particles are left out, {count} of them because: "
        assert first.startswith(warning) is isWarned
        assert (warning in log) is isWarned
        assert any(f"Left out: {count} particles" in line for line in restored.summary())


# ---- full-size images that are gone ------------------------------------------------------------------------


def in_files(project, count, folder):
    """Full-size particles in so many files."""
    os.makedirs(folder)
    rng = np.random.default_rng(8)
    items = []
    for i in range(8):
        name = f"{folder}/{i % count}.mrcs"
        if i < count:
            write_stack(name, rng.normal(size=(8, BOX, BOX)))
        items.append(particle(i + 1, (i + 1, name), Truth(rng, "Projection").matrix(), (100 * i, 50)))
    return particle_set(project, items, APIX, "Projection")


def test_original_images_that_are_gone(project):
    """All of them: the form says so; some: a warning, and the run says so if it needs them."""
    given = in_files(project, 4, "going")
    small = downsample(project, given, fourierCropSize=16, recenter=True)
    assert new_restore(project, small, small).validate() == []
    assert new_restore(project, small, small).warnings() == []
    os.remove("going/2.mrcs")
    os.symlink("nowhere.mrcs", "going/2.mrcs")
    sentence = "Full-size particles: 1 of their 4 image files are missing (going/2.mrcs), expected the images"
    protocol = new_restore(project, small, small)
    assert protocol.validate() == []
    assert protocol.warnings()[0].startswith(sentence)
    project.launchProtocol(protocol, wait=True)
    assert sentence in protocol.getErrorMessage()
    assert not hasattr(protocol, "outputParticles")
    others = [item for item in items_of(small.outputParticles) if item.getObjId() % 4 != 3]
    kept = particle_set(project, others, small.outputParticles.getSamplingRate(), "Projection")
    assert restore(project, kept, small).outputParticles.getSize() == 6
    for i in range(4):
        os.remove(f"going/{i}.mrcs")
    (problem,) = new_restore(project, small, small).validate()
    assert "4 of their 4 image files are missing (going/0.mrcs, going/1.mrcs, going/2.mrcs, …)" in problem


def test_many_files_are_looked_for_in_the_run(project, monkeypatch):
    from downsample_plugin.errors import DataError
    from downsample_plugin.protocols import protocol_restore

    given = in_files(project, 4, "many")
    small = downsample(project, given, fourierCropSize=16)
    shutil.rmtree("many")
    monkeypatch.setattr(protocol_restore, "_QUICK", 3)
    protocol = new_restore(project, small, small)
    assert protocol.validate() == [] and protocol.warnings() == []
    project._setupProtocol(protocol)
    protocol.makePathsAndClean()
    with pytest.raises(DataError, match="4 of their 4 image files are missing"):
        protocol.makeOutput()


# ---- shifts that would be applied twice ----------------------------------------------------------------------


@pytest.mark.parametrize("mode", [WHOLE, EXACT])
def test_shifts_that_would_count_twice(project, full, runs, mode):
    """pwem's own protocol puts the whole shift of the full-size particles on the recentred ones: both runs warn."""
    from pwem.protocols import ProtAlignmentAssign

    from downsample_plugin import headless

    from .scipion_sets import connect, new_downsample

    small = runs[mode]
    assign = connect(project.newProtocol(ProtAlignmentAssign), inputParticles=small, inputAlignment=full.protocol)
    assigned = headless.run(project, assign)
    for protocol in (
        new_restore(project, assigned, small),
        new_downsample(project, assigned, fourierCropSize=10),
        new_downsample(project, small, alignments3D=(full.protocol, "outputParticles"), fourierCropSize=10),
    ):
        (warning,) = [line for line in protocol.warnings() if "applied twice" in line]
        assert warning.startswith("WARNING: Input particles: got shifts as large as those that recentring has")
        headless.run(project, protocol)
        assert protocol.summary()[0] == warning
        assert warning in "".join(Path(name).read_text() for name in protocol.getLogPaths()[:2])


def test_no_false_alarm(project, full, runs):
    """After proper refinement what is left is small; without recentring the shifts are whole, and right."""
    from .scipion_sets import new_downsample

    plain = downsample(project, full.protocol, **{**SETTINGS, "recenter": False})
    assert not any("WARNING" in line for line in plain.summary())
    for mode, small in (*runs.items(), (None, plain)):
        given, _ = imported(project, small, full.truths, mode)
        items = items_of(given.outputParticles)
        records = {
            (item.getIndex(), os.path.basename(item.getFileName())): (item._downsampleShiftX, item._downsampleShiftY)
            for item in items_of(small.outputParticles)
        }
        for item in items:
            found = records[item.getIndex(), os.path.basename(item.getFileName())]
            item._downsampleShiftX, item._downsampleShiftY = found
        refined = particle_set(project, items, small.outputParticles.getSamplingRate(), "Projection")
        for protocol in (new_restore(project, refined, small), new_downsample(project, refined, fourierCropSize=10)):
            assert not any("WARNING" in line for line in protocol.warnings())
        assert not any("WARNING" in line for line in restore(project, refined, small).summary())
