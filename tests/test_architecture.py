# SPDX-License-Identifier: GPL-3.0-or-later
"""The core and the program know nothing of Scipion, and start quickly without it."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import downsample_plugin

from .breaks import breaks

BLOCK = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("pwem", "pyworkflow"):
            raise ImportError(name + " is blocked")

sys.meta_path.insert(0, Blocked())
"""


def python(code):
    return subprocess.run([sys.executable, "-c", BLOCK + code], capture_output=True, text=True, timeout=60)


def test_core_and_program_work_with_scipion_blocked():
    done = python("""
import numpy as np
from downsample_plugin import simulate
from downsample_plugin.command import downsample_particles, downsample_volumes, restore_particles
from downsample_plugin.pictures import maps, particles
from downsample_plugin.core import DownsamplePlan, downsample_images
from downsample_plugin.core.resampling import downsample_volume
from downsample_plugin.core.volume_plan import VolumePlan
assert downsample_volume(np.ones((16, 16, 16)), VolumePlan(16, 1.0, fourier_crop_size=8)).shape == (8, 8, 8)
images, _ = downsample_images(np.ones((1, 32, 32), "f4"), DownsamplePlan(32, 1.0, fourier_crop_size=16))
assert images.shape == (1, 16, 16)
""")
    assert done.returncode == 0, done.stderr


def test_the_block_blocks():
    assert "pwem is blocked" in python("import downsample_plugin.protocols").stderr


def test_only_the_scipion_layer_imports_it():
    """The program pulls in no picture library either: a cluster starts it a thousand times."""
    done = python("""
from downsample_plugin.command import downsample_particles, downsample_volumes, restore_particles
heavy = [name for name in ("matplotlib", "scipy.signal", "tkinter", "PyQt5") if name in sys.modules]
assert not heavy, heavy
""")
    assert done.returncode == 0, done.stderr


ROOMS = ("core", "files", "engine", "pictures", "command")  # each may import from those before it
SCIPION = {"protocols": ROOMS[:4], "wizards": (*ROOMS[:4], "protocols"), "viewers": (*ROOMS[:4], "protocols")}


@pytest.mark.parametrize("room", [*ROOMS, *SCIPION])
def test_rooms_lean_on_those_below(room):
    """What is in no room, errors and such, is open to all but leans on none."""
    allowed = {room, *(SCIPION[room] if room in SCIPION else ROOMS[: ROOMS.index(room)])}
    folder = Path(downsample_plugin.__file__).parent
    for path in (folder / room).rglob("*.py"):
        for imported in imports_of(path, folder):
            assert imported in allowed or not (folder / imported).is_dir(), f"{path.name} imports {imported}"
    for name in ("errors", "words", "simulate"):
        assert set(imports_of(folder / f"{name}.py", folder)) <= {"core"}


def imports_of(path, folder):
    """The first part, below the package, of what a module imports of it."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            parts = path.relative_to(folder).parts[: -node.level]
            for name in [node.module] if node.module else [alias.name for alias in node.names]:
                yield [*parts, *name.split(".")][0]


def test_nothing_that_is_read_is_run():
    for path in Path(downsample_plugin.__file__).parent.rglob("*.py"):
        found = re.findall(
            r"\bpickle\b|\beval\(|\bexec\(|shell=True|os\.system|yaml|allow_pickle=True", path.read_text("utf-8")
        )
        assert not found, path


def test_the_breaks_still_stand_in_their_files():
    """What ``make breaks`` takes out is there, once; and the tests that are to see it are."""
    for each in breaks():
        text = Path(downsample_plugin.__file__).parent.joinpath(each.file).read_text("utf-8")
        assert text.count(each.old) == 1, f"{each.file}: {each.old}"
        for name in each.tests.split():
            assert Path(__file__).with_name(f"{name}.py").exists(), name
