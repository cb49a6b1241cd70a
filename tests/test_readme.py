# SPDX-License-Identifier: GPL-3.0-or-later
"""What the README tells people to do works: its script, and the demo."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from .scipion_sets import write_stack

ROOT = Path(__file__).parents[1]


def run(*command, folder):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("SCIPION")}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=180)


@pytest.mark.scipion
def test_the_script_for_a_scripted_project(tmp_path):
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    write_stack(str(tmp_path / "data" / "some.mrcs"), np.random.default_rng(0).normal(size=(5, 64, 64)))
    done = run(sys.executable, "-c", code.replace("/data", str(tmp_path / "data")), folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[-2].startswith("2.994")


@pytest.fixture
def demo(tmp_path):
    return lambda *arguments: run(sys.executable, "-m", "downsample_plugin.demo", *arguments, folder=tmp_path)


@pytest.mark.slow
@pytest.mark.scipion
def test_the_demo_finds_the_truth(demo):
    assert demo().returncode == 0
    done = demo("", "")  # again, over the first
    assert done.returncode == 0, done.stderr
    lines = dict(re.findall(r"^(\w[\w ]*): +(.*)$", done.stdout, re.MULTILINE))
    assert lines["Particles"] == "200"
    assert lines["Box"] == "128 -> 64 px"
    assert lines["Sampling rate"] == "1.31 -> 2.62 Å/px"
    before, after = (float(number) for number in re.findall(r"([\d.]+) Å", lines["Truth"]))
    assert before > 5
    assert after < 0.1
    assert Path(lines["Picture"]).read_bytes().startswith(b"\x89PNG")
    assert Path(lines["Stacks"]).is_file()


@pytest.mark.scipion
def test_the_demo_on_a_stack_of_ones_own(demo, tmp_path):
    stack = write_stack(str(tmp_path / "mine [1] $x.mrc"), np.random.default_rng(0).normal(size=(5, 63, 63)))
    done = demo(stack, "1.5")
    assert done.returncode == 0, done.stderr
    assert "Box:           63 -> 31 px" in done.stdout
    assert "Sampling rate: 1.5 -> 3.0484 Å/px" in done.stdout


@pytest.mark.scipion
@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (("nowhere.mrcs", "1.3"), "nowhere.mrcs: the file cannot be opened"),
        ((__file__, "1.3"), "test_readme.py: the file is no MRC stack"),
        (("some.mrcs",), "APIX: got ''"),
    ],
)
def test_the_demo_says_what_is_wrong(demo, tmp_path, arguments, sentence):
    write_stack(str(tmp_path / "some.mrcs"), np.zeros((2, 16, 16)))
    done = demo(*arguments)
    assert done.returncode == 1
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "missing, package", [("tkinter", "python3-tk"), ("venv", "python3-venv"), ("ensurepip", "python3-venv")]
)
def test_make_names_the_missing_debian_package(tmp_path, missing, package):
    python = tmp_path / "python3"
    python.write_text(f'#!/bin/sh\ncase "$*" in *import*{missing}*) exit 1;; esac\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    (tmp_path / "Makefile").write_text((ROOT / "Makefile").read_text())
    (tmp_path / "setup.py").write_text("")
    done = run("make", f"PYTHON={python}", "test", folder=tmp_path)
    assert done.returncode != 0
    told = [line for line in done.stderr.split("\n") if not line.startswith("make")]
    assert len(told) == 2 and package in told[0], done.stderr


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "CONTRIBUTING.md", ROOT / "CHANGES.md"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    """Those of the README are whole addresses, since the package index shows it too."""
    here = r"https://(?:github\.com/scipion-em/scipion-em-downsample/blob|raw\.githubusercontent\.com/[\w/-]+)/main/"
    for link in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
        local = re.sub(here, "", link)
        if local.startswith("http"):
            assert local == link
            continue
        assert (ROOT / local if local != link else page.parent / link).exists(), link
        assert local != link or page.name != "README.md", link


def test_the_readme_is_short_and_the_index_whole():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= 900
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    for page in (ROOT / "docs").glob("*.md"):
        assert page.name == "index.md" or f"({page.name})" in index, page.name
