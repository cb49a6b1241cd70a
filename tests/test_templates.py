# SPDX-License-Identifier: GPL-3.0-or-later
"""The workflow templates load in Scipion and run to their ends, with the values that their questions ask for."""

import os
from pathlib import Path

import pytest

from downsample_plugin import demo, headless


def loaded(project, name, answers):
    """The protocols of a template, as Scipion makes them from it, with answers by alias."""
    from downsample_plugin.plugin import Plugin

    (template,) = [each for each in Plugin().getTemplates() if each.name == name]
    template.replaceEnvVariables()
    template.parseContent()
    for alias, value in answers.items():
        assert template.setParamValue(alias, str(value)) == 1, alias
    for param in template.getParams().values():
        assert param.validate() is None, param.getTitle()
    protocols = project.loadProtocols(template.createTemplateFile())
    return [protocols[number] for number in sorted(protocols, key=int)]


@pytest.fixture(scope="module")
def simulated(project):
    """What the demo simulates, and its map."""
    demo.simulate(Path("simulated"))


def test_downsample_and_back(project, simulated):
    folder = os.path.abspath("simulated")
    answers = {"folder": folder, "pattern": "simulated.mrcs", "apix": demo.APIX, "target": 2.6}
    answers.update(mapFolder=folder, map="map.mrc", voxel=demo.APIX)
    imported, small, restored, with_map, small_map = loaded(project, "downsample_and_back", answers)
    for protocol in (imported, small, restored, with_map, small_map):
        headless.run(project, protocol)
    assert small_map.outputVolume.getSamplingRate() == pytest.approx(2.62)
    assert small_map.outputVolume.getXDim() == small.outputParticles.getXDim()
    assert small.outputParticles.getSamplingRate() == 2.62
    assert restored.outputParticles.getSamplingRate() == demo.APIX
    assert restored.outputParticles.getSize() == demo.PARTICLES


def test_sub_particles(project, simulated):
    folder = os.path.abspath("simulated")
    answers = {"particles": f"{folder}/simulated.sqlite", "folder": folder, "map": "map.mrc"}
    answers.update(apix=demo.APIX, voxel=demo.APIX, x=10.0, crop=64)
    protocols = loaded(project, "sub_particles", answers)
    for protocol in protocols:
        headless.run(project, protocol)
    assert protocols[-1].outputParticles.getXDim() == 64
    assert "(10, 0, 0) Å" in protocols[2].summary()[0]
