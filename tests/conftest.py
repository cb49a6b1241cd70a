# SPDX-License-Identifier: GPL-3.0-or-later
"""Scipion's environment, set before anything imports it, and projects to run protocols in."""

import os
import re
import signal
from pathlib import Path

import hypothesis
import pytest

from downsample_plugin import headless

from . import launching

CLUSTER = Path(__file__).parents[1] / "docs" / "cluster.md"  # whose settings for SLURM the tests use
os.environ["SCIPION_LOG_TO_CONSOLE"] = "False"
# Shells have what they start in the background ignore Ctrl-C, and that would be handed down to the programs under test
signal.signal(signal.SIGINT, signal.default_int_handler)
# The same examples each time, so that a change is blamed for what it breaks alone; `make fuzz` tries new ones
hypothesis.settings.register_profile("the same", derandomize="FUZZ_EXAMPLES" not in os.environ)
hypothesis.settings.load_profile("the same")


@pytest.hookimpl(tryfirst=True)  # before the workers ask for groups
def pytest_collection_modifyitems(items):
    """What asks for a project or for Scipion needs it. Modules stay together, but for those of many slow tests."""
    for item in items:
        if {"scipion", "project"} & set(item.fixturenames):
            item.add_marker("scipion")
        if "slurm" in item.fixturenames or item.get_closest_marker("cluster"):
            item.add_marker(pytest.mark.xdist_group("cluster"))
        elif not getattr(item.module, "each_by_itself", False):
            item.add_marker(pytest.mark.xdist_group(item.module.__name__))


@pytest.fixture(scope="session")
def scipion(tmp_path_factory):
    """A folder for Scipion projects; asking for it makes Scipion importable."""
    folder = tmp_path_factory.mktemp("scipion")
    (hosts,) = re.findall(r"```ini\n(.*?)```", CLUSTER.read_text(encoding="utf-8"), re.DOTALL)
    (folder / "hosts.conf").write_text(hosts)
    headless.prepare(folder)
    launching.use_forks()
    return folder


@pytest.fixture(scope="module")
def project(scipion, request):
    """An empty Scipion project for a module of tests, as the current folder. Its runs draw no result pictures."""
    before = os.getcwd()
    project = headless.createProject(request.module.__name__.split(".")[-1])
    with launching.without_pictures():
        yield project
    os.chdir(before)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder, as the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
