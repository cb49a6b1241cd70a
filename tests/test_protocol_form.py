# SPDX-License-Identifier: GPL-3.0-or-later
"""What users read and fill in: parameters, refusals, warnings, summary, methods; and that Scipion finds it all."""

import json
import sqlite3
from pathlib import Path

import mrcfile
import numpy as np
import pytest

from downsample_plugin.core import DownsamplePlan, checks

from .scipion_sets import downsample, matrix, new_downsample, particle, particle_set, write_stack

APIX, BOX = 1.31, 40

PARAMETERS = {
    "inputParticles": "Input particles",
    "alignments3D": "Alignments 3D",
    "alignments2D": "Alignments 2D",
    "cropSize": "Crop / pad to box size (px)",
    "targetPixelSize": "Desired approx. pixel size (Å/px)",
    "fourierCropSize": "Fourier crop to box size (px)",
    "lowpassResolution": "Lowpass resolution (Å)",
    "recenter": "Recenter using aligned shifts",
    "saveFloat16": "Save results in 16-bit floating point",
    "recenterMode": "Recentring",
    "alignment2DConvention": "2D alignment convention",
    "highpassResolution": "Highpass resolution (Å)",
    "filterShape": "Filter shape",
    "filterOrder": "Filter order",
    "filterWidth": "Filter width (Fourier shells)",
    "doNormalize": "Normalize background",
    "backRadius": "Background radius (px)",
    "particlesPerStack": "Particles per stack",
    "skipCorrupt": "Skip corrupt particles",
}
ADVANCED = {
    "recenterMode",
    "alignment2DConvention",
    "highpassResolution",
    "filterShape",
    "filterOrder",
    "filterWidth",
    "particlesPerStack",
    "skipCorrupt",
}
DEFAULTS = {
    "cropSize": None,
    "targetPixelSize": None,
    "fourierCropSize": None,
    "lowpassResolution": None,
    "recenter": False,
    "saveFloat16": False,
    "recenterMode": 0,
    "alignment2DConvention": 0,
    "highpassResolution": None,
    "filterShape": 0,
    "filterOrder": 8,
    "filterWidth": 2.0,
    "doNormalize": False,
    "backRadius": -1,
    "particlesPerStack": 10000,
    "skipCorrupt": False,
}


@pytest.fixture(scope="module")
def sets(project):
    """Particles without and with each kind of alignment."""
    stack = write_stack("some.mrcs", np.random.default_rng(0).normal(size=(3, BOX, BOX)))
    m = matrix(np.eye(3), (1.5, -0.25))
    found = {None: particle_set(project, [particle(i, (i, stack)) for i in (1, 2, 3)], APIX)}
    for alignment in ("2D", "3D", "Projection"):
        items = [particle(i, (i, stack), m) for i in (1, 2, 3)]
        found[alignment] = particle_set(project, items, APIX, alignment)
    return found


def test_parameters_are_the_interface(project, sets):
    protocol = new_downsample(project, sets[None])
    for name, label in PARAMETERS.items():
        param = protocol.getParam(name)
        assert param.getLabel() == label
        assert param.isExpert() == (name in ADVANCED), name
        assert len(param.getHelp()) > 60, f"{name} needs help that explains it"
    for name, default in DEFAULTS.items():
        assert getattr(protocol, name).get() == default, name
    assert protocol.getClassLabel() == "downsample particles"
    choices = {
        name: protocol.getParam(name).choices for name in ("recenterMode", "alignment2DConvention", "filterShape")
    }
    assert choices == {
        "recenterMode": ["whole pixels", "exact"],
        "alignment2DConvention": ["automatic", "shift then rotate", "rotate then shift"],
        "filterShape": ["Butterworth", "raised cosine"],
    }


@pytest.mark.parametrize(
    "settings, plan",
    [
        ({}, {}),
        ({"fourierCropSize": 41}, {"fourier_crop_size": 41}),
        ({"targetPixelSize": 3.0, "fourierCropSize": 20}, {"target_pixel_size": 3.0, "fourier_crop_size": 20}),
        ({"targetPixelSize": 1.0}, {"target_pixel_size": 1.0}),
        ({"cropSize": 4}, {"crop_size": 4}),
        ({"lowpassResolution": -1.0}, {"lowpass_resolution": -1.0}),
        ({"doNormalize": True, "backRadius": 30}, {"normalize": True, "background_radius": 30}),
    ],
)
def test_refusals_are_the_plans_own_words(project, sets, settings, plan):
    errors = new_downsample(project, sets[None], **settings).validate()
    assert errors == checks.problems(DownsamplePlan(BOX, APIX, **plan))
    assert len(errors) == 1


@pytest.mark.parametrize(
    "settings, sentence",
    [
        ({"lowpassResolution": 8.0, "filterOrder": None}, "Filter order: it is empty, expected a value; 8 is usual."),
        (
            {"filterShape": 1, "lowpassResolution": 8.0, "filterWidth": None},
            "Filter width (Fourier shells): it is empty",
        ),
        ({"particlesPerStack": None}, "Particles per stack: it is empty, expected a value; 10000 is usual."),
        (
            {"recenter": True, "recenterMode": 7},
            "Recentring: got 7, expected one of 0 (whole pixels), 1 (exact); choose one.",
        ),
        ({"recenter": True, "recenterMode": None}, "Recentring: got None, expected one of"),
        ({"alignment2DConvention": None}, "2D alignment convention: got None, expected one of 0 (automatic)"),
        ({"filterShape": -1}, "Filter shape: got -1, expected one of"),
        ({"filterShape": None}, "Filter shape: got None, expected one of"),
        ({"recenter": None}, "Recenter using aligned shifts: it is empty"),
        ({"doNormalize": None}, "Normalize background: it is empty"),
        ({"doNormalize": True, "backRadius": None}, "Background radius (px): it is empty"),
    ],
)
def test_values_that_are_missing_or_no_choice(project, sets, settings, sentence):
    protocol = new_downsample(project, sets["2D"], fourierCropSize=20)
    for name, value in settings.items():
        getattr(protocol, name).set(value)
    errors = protocol.validate()
    assert any(sentence in error for error in errors), errors
    assert not any("Protocol validation failed" in error for error in errors)
    assert protocol.warnings() == []
    assert protocol.summary() == ["Output particles not ready yet."]
    assert protocol.methods()


def test_empty_values_of_parameters_that_are_hidden_do_not_matter(project, sets):
    protocol = new_downsample(project, sets[None], fourierCropSize=20)
    for name in ("backRadius", "recenterMode", "filterWidth"):
        getattr(protocol, name).set(None)
    assert [error for error in protocol.validate() if "should be" not in error] == []
    assert protocol._validate() == []


def test_connected_sets_that_are_not_there_yet_or_empty(project, sets):
    """The scheduler waits for what is refused: the particles' own alignment must not step in meanwhile."""
    from pwem.protocols import ProtSubSet

    later = project.newProtocol(ProtSubSet)
    project.saveProtocol(later)
    for name in ("alignments3D", "alignments2D"):
        protocol = new_downsample(project, sets["Projection"], recenter=True, **{name: (later, "outputParticles")})
        (error,) = protocol.validate()
        assert (
            "the set does not exist yet, expected a finished output; run the protocol that creates it first." in error
        )
        assert protocol.warnings() == []
    disabled = [particle(i, (i, "some.mrcs"), np.eye(4)) for i in (1, 2)]
    for item in disabled:
        item.setEnabled(False)
    empty = particle_set(project, disabled, APIX, "Projection")
    protocol = new_downsample(project, sets["2D"], recenter=True, alignments3D=(empty, "outputParticles"))
    (error,) = protocol.validate()
    assert "Alignments 3D: the set is empty" in error


def test_recentring_needs_shifts(project, sets):
    errors = {kind: new_downsample(project, given, recenter=True).validate() for kind, given in sets.items()}
    assert errors["2D"] == errors["Projection"] == []
    assert "the particles have no alignment, expected shifts to recentre by" in errors[None][0]
    assert "is '3D', which is for volumes" in errors["3D"][0]


@pytest.mark.parametrize(
    "name, kind, sentence",
    [
        ("alignments3D", "2D", "Alignments 3D: the set has alignment '2D', expected 'Projection'"),
        ("alignments3D", "3D", "Alignments 3D: the set has alignment '3D', expected 'Projection'"),
        ("alignments2D", "Projection", "Alignments 2D: the set has alignment 'Projection', expected '2D'"),
        ("alignments2D", None, "Alignments 2D: the set has alignment 'None', expected '2D'"),
    ],
)
def test_alignments_of_the_wrong_kind(project, sets, name, kind, sentence):
    settings = {name: (sets[kind], "outputParticles"), "fourierCropSize": 20}
    (error,) = new_downsample(project, sets[None], **settings).validate()
    assert sentence in error


def test_no_particles_and_no_sampling_rate(project, sets):
    from downsample_plugin.protocols import ProtDownsampleParticles

    errors = project.newProtocol(ProtDownsampleParticles, fourierCropSize=20).validate()
    assert errors == ["*Input particles* cannot be EMPTY."]
    stack = "some.mrcs"
    unsized = particle_set(project, [particle(1, (1, stack))], None)
    (error,) = new_downsample(project, unsized, fourierCropSize=20).validate()
    assert "Sampling rate of the particles: got 0.0 Å/px" in error
    oblong = write_stack("oblong.mrcs", np.zeros((2, 40, 30)))
    given = particle_set(project, [particle(1, (1, oblong))], APIX)
    (error,) = new_downsample(project, given, fourierCropSize=20).validate()
    assert "the images are 30 x 40 px, expected square ones" in error


def test_a_map_connected_as_particles(project):
    with mrcfile.new("map.mrc") as file:
        file.set_data(np.zeros((32, 32, 32), np.float32))
        file.set_volume()
    given = particle_set(project, [particle(i, (i, "map.mrc")) for i in range(1, 33)], APIX)
    (error,) = new_downsample(project, given, fourierCropSize=20).validate()
    assert "Input particles, map.mrc: the file is a 3D map (32 x 32 x 32" in error


@pytest.mark.parametrize("value", [np.inf, -np.inf])
def test_coordinates_that_are_no_numbers(project, sets, value):
    """They are found before any image is read, and may be skipped."""
    items = [particle(i, (i, "some.mrcs"), np.eye(4), (10 * i, 10)) for i in (1, 2, 3)]
    given = particle_set(project, items, APIX, "Projection")
    set_value(given.outputParticles, "_coordinate._x", 2, value)
    protocol = new_downsample(project, given, fourierCropSize=20)
    project.launchProtocol(protocol, wait=True)
    assert "Particle 2, image 2 of some.mrcs: coordinates: got (" in protocol.getErrorMessage()
    protocol.skipCorrupt.set(True)
    project.launchProtocol(protocol, wait=True)
    assert [item.getObjId() for item in protocol.outputParticles.iterItems()] == [1, 3]


def test_threads_and_alignments_without_a_sampling_rate(project, sets):
    (error,) = new_downsample(project, sets[None], fourierCropSize=20, numberOfThreads=0).validate()
    assert "Threads: got 0, expected 1 or more" in error
    unsized = particle_set(project, [particle(1, (1, "some.mrcs"), np.eye(4))], None, "Projection")
    protocol = new_downsample(project, sets[None], fourierCropSize=20, alignments3D=(unsized, "outputParticles"))
    (error,) = protocol.validate()
    assert "Alignments 3D: its sampling rate is 0 Å/px, expected the pixel size" in error


def test_no_common_particles(project, sets):
    others = particle_set(project, [particle(9, (1, "some.mrcs"), np.eye(4))], APIX, "Projection")
    protocol = new_downsample(project, sets[None], alignments3D=(others, "outputParticles"), fourierCropSize=20)
    project.launchProtocol(protocol, wait=True)
    assert "none are left to downsample, expected one or more" in protocol.getErrorMessage()


def set_value(particles, label, particle_id, value):
    """Write a value into the file of a set that Scipion would not write."""
    with sqlite3.connect(particles.getFileName()) as connection:
        ((column,),) = connection.execute("SELECT column_name FROM Classes WHERE label_property=?", [label])
        connection.execute(f"UPDATE Objects SET {column}=? WHERE id=?", [value, particle_id])
    particles.close()


def test_a_coordinate_that_is_text(project, sets):
    items = [particle(i, (i, "some.mrcs"), np.eye(4), (10 * i, 10)) for i in (1, 2, 3)]
    given = particle_set(project, items, APIX, "Projection")
    set_value(given.outputParticles, "_coordinate._y", 3, "west")
    protocol = new_downsample(project, given, fourierCropSize=20)
    project.launchProtocol(protocol, wait=True)
    assert "_coordinate._y: got something other than numbers" in protocol.getErrorMessage()
    assert not list(Path(protocol._getExtraPath()).glob("*.mrcs"))


def test_a_singular_matrix_names_its_particle(project, sets):
    singular = particle_set(
        project, [particle(i, (i, "some.mrcs"), np.diag([1, 1, i - 2.0, 1])) for i in (1, 2, 3)], APIX, "Projection"
    )
    protocol = new_downsample(project, singular, recenter=True)
    project.launchProtocol(protocol, wait=True)
    assert "Particle 2, image 2 of some.mrcs: alignment matrix: " in protocol.getErrorMessage()


def test_warnings_and_the_expected_outcome(project, sets):
    protocol = new_downsample(project, sets[None], targetPixelSize=3.0)
    size, deviation = checks.warnings(DownsamplePlan(BOX, APIX, target_pixel_size=3.0))
    assert "the output has 2.9111 Å/px" in size
    assert protocol.warnings() == [deviation]  # the images are noise of deviation 1
    will_give = "Planned: box 40 → 18 px, pixel size 1.31 → 2.9111 Å/px, Nyquist 5.822 Å"
    assert protocol.summary() == [will_give, size, deviation]
    assert new_downsample(project, sets[None]).warnings() == []


def test_questions_are_for_what_is_off(project, sets):
    """Nothing that nearly every run would ask; the same sentences are lines of the summary."""
    raw = write_stack("raw.mrcs", 12 * np.random.default_rng(0).normal(size=(3, BOX, BOX)))
    given = particle_set(project, [particle(i, (i, raw)) for i in (1, 2, 3)], APIX)
    usual = new_downsample(project, given, targetPixelSize=2.6, saveFloat16=True)
    assert usual.warnings() == []
    (_, size, bits) = usual.summary()
    assert "the output has 2.62 Å/px" in size
    assert "16-bit floating point" in bits
    for settings, sentence in (
        ({"targetPixelSize": 2.77}, "2.77 Å/px was requested; the output has 2.9111 Å/px"),  # 5.1 % away
        ({"fourierCropSize": 21}, "21 px is odd. RELION 3.1 reconstructs wrong maps"),
        ({"cropSize": 39}, "39 px is odd"),
        ({"fourierCropSize": 34}, "prime factor 17"),
        ({"fourierCropSize": 20, "lowpassResolution": 4.0}, "has almost no effect"),
    ):
        (question,) = new_downsample(project, given, **settings).warnings()
        assert sentence in question
        assert question in new_downsample(project, given, **settings).summary()


def test_an_odd_box_that_nobody_chose_is_no_question(project):
    odd = write_stack("odd.mrcs", np.random.default_rng(0).normal(size=(2, 41, 41)))
    given = particle_set(project, [particle(i, (i, odd)) for i in (1, 2)], APIX)
    protocol = new_downsample(project, given, lowpassResolution=8.0)
    assert protocol.warnings() == []
    assert "41 px is odd" in protocol.summary()[1]


def test_summary_methods_and_citations(project, sets):
    protocol = downsample(
        project,
        sets["2D"],
        fourierCropSize=20,
        recenter=True,
        lowpassResolution=8.0,
        doNormalize=True,
        alignment2DConvention=2,
    )
    assert protocol.summary() == [
        "3 particles: box 40 → 20 px, pixel size 1.31 → 2.62 Å/px, Nyquist 5.24 Å; "
        "recentred (whole pixels), low-pass 8 Å, background normalised",
        "Images on disk: 19 kB → 6 kB",
        "Recentred (whole pixels) by the particles' own alignment (2D, rotate then shift: as chosen)",
        "Note: the shifts of the output are written as 'rotate then shift', but nothing in its particles shows it; "
        "choose it as 2D alignment convention in later runs",
    ]
    (sentence,) = protocol._methods()
    assert sentence.startswith(
        "3 particle images (40 px, 1.31 Å/px) were recentred by their aligned shifts in whole pixels, Fourier cropped "
        "to 20 px (2.62 Å/px), low-pass filtered at 8 Å (Butterworth, order 8) and normalised to their background "
        "outside a radius of 10 px [Scheres2012] with scipion-em-downsample "
    )
    assert "not found" not in "".join(protocol.citations())
    assert "\\" not in "".join(protocol.citations())
    assert "de la Rosa-Trevín" in "".join(protocol.citations())
    assert set(protocol.getCitations()) == {"Frigo2005", "delaRosaTrevin2016", "Scheres2012"}


# ---- what Scipion finds ---------------------------------------------------------------------------------------


def test_the_domain_finds_the_protocol(scipion):
    from pwem import Domain

    from downsample_plugin.protocols import ProtDownsampleParticles

    assert Domain.getProtocols()["ProtDownsampleParticles"] is ProtDownsampleParticles
    assert "downsample_plugin" in Domain.getPlugins()
    assert [output.name for output in ProtDownsampleParticles._possibleOutputs] == ["outputParticles"]


def test_the_tree_shows_it_under_particles_preprocess(project):
    from pwem import Domain
    from pyworkflow.gui.project.viewprotocols_extra import ProtocolTreeConfig

    def paths(menu, above=()):
        for child in menu.childs:
            here = (*above, child.text)
            if child.value == "ProtDownsampleParticles":
                yield above
            yield from paths(child, here)

    views = ProtocolTreeConfig.load(Domain, project.getPath("protocols.conf"))
    assert list(paths(views["Protocols SPA"])) == [("Particles", "Preprocess")]


FOUND_BY = {
    "ProtDownsampleParticles": "downsample, bin, binning, rescale, resize, scale, crop, Fourier crop, pad, recenter, "
    "recentre, center, shift, normalize, lowpass, low-pass, pixel size, restore, full size",
    "ProtRestoreFullSize": "downsample, bin, scale, recenter, shift, restore, unbin, full size, full-size, re-extract, "
    "coordinates",
    "ProtShiftParticleCenter": "center, recenter, recentre, shift, crop, sub-particle, sub-particles, subparticle, "
    "subparticles, downsample, localized reconstruction",
}


@pytest.mark.parametrize("name", FOUND_BY)
def test_the_search_finds_them_by_the_words_of_users(scipion, name):
    """Scipion's own search: the whole phrase stands in the label or the help, which is worth 5 points or more."""
    from types import SimpleNamespace

    from pyworkflow.gui.project.searchprotocol import SearchProtocolWindow

    for words in FOUND_BY[name].split(", "):
        search = SimpleNamespace(
            _isSuggestionActive=lambda: False,
            _searchVar=SimpleNamespace(get=lambda words=words: words),
            lbl=SimpleNamespace(set=lambda text: None),
            _addSearchWeight=SearchProtocolWindow._addSearchWeight,
        )
        found = {line[0]: line[-1] for line in SearchProtocolWindow.scoreProtocols(search)}
        assert found.get(name, 0) >= 5, words


def test_labels_say_what_they_do(scipion):
    from downsample_plugin import protocols, viewers

    shown = [getattr(protocols, name).getClassLabel() for name in protocols.__all__]
    assert sorted(shown) == [
        "downsample particles",
        "downsample volumes",
        "move particle center",
        "restore full-size particles",
    ]
    assert viewers.DownsampleViewer.getClassLabel() == "result of downsampling"


def test_the_long_tab_has_groups(project, sets):
    from pyworkflow.protocol.params import Group

    protocol = new_downsample(project, sets[None])
    groups = {param.getLabel(): [name for name, _ in param.iterParams()]
              for _, param in protocol.getDefinition()._paramsDict.items() if isinstance(param, Group)}  # fmt: skip
    assert list(groups) == ["Box and pixel size", "Recentring", "Filters", "Normalization", "Storage"]
    assert groups["Box and pixel size"] == ["cropSize", "targetPixelSize", "fourierCropSize"]
    for name in ("cropSize", "fourierCropSize"):
        assert "RELION 3.1 reconstructs wrong maps from them without any warning" in protocol.getParam(name).getHelp()


def test_protocols_conf_is_json_where_scipion_wants_it():
    package = Path(__file__).parents[1] / "downsample_plugin" / "protocols.conf"
    top = Path(__file__).parents[1] / "protocols.conf"
    assert top.is_symlink()
    assert top.resolve() == package.resolve()
    json.loads(package.read_text().split("Protocols SPA = ")[1])
