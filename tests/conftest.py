# SPDX-License-Identifier: GPL-3.0-or-later
"""Scipion's environment, set before anything imports it, and projects to run protocols in."""

import os

import pytest

from downsample_plugin import headless

os.environ["SCIPION_LOG_TO_CONSOLE"] = "False"


@pytest.fixture(scope="session")
def scipion(tmp_path_factory):
    """A folder for Scipion projects; asking for it makes Scipion importable."""
    folder = tmp_path_factory.mktemp("scipion")
    headless.prepare(folder)
    return folder


@pytest.fixture(scope="module")
def project(scipion, request):
    """An empty Scipion project for a module of tests, as the current folder."""
    before = os.getcwd()
    project = headless.createProject(request.module.__name__.split(".")[-1])
    yield project
    os.chdir(before)
