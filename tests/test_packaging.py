# SPDX-License-Identifier: GPL-3.0-or-later
"""Installed in any of the four ways, Scipion's domain lists protocols, viewer, wizards and templates."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SHIPPED = ["setup.py", "pyproject.toml", "README.md", "LICENSE", "CHANGES.md", "MANIFEST.in", "protocols.conf", "tests"]

LISTS_ALL = """
import sys, tempfile
from pathlib import Path
import downsample_plugin
from downsample_plugin import headless
headless.prepare(tempfile.mkdtemp())
from pwem import Domain
folder = Path(downsample_plugin.__file__).parent
for name in ("ProtDownsampleParticles", "ProtRestoreFullSize", "ProtShiftParticleCenter"):
    protocol = Domain.getProtocols()[name]
    assert protocol._plugin.getPath() == str(folder), protocol._plugin.getPath()
assert "DownsampleViewer" in Domain.getViewers()
assert {"DownsampleCropSizeWizard", "ParticleCenterWizard"} <= set(Domain.getWizards())
templates = [template.name for template in protocol._plugin.getTemplates()]
assert sorted(templates) == ["downsample_and_back", "sub_particles"], templates
assert (folder / "protocols.conf").is_file()
assert (folder / downsample_plugin._logo).is_file()
assert not (folder / "tests").exists() or (folder / "tests").is_symlink()
print(folder)
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A copy of the sources, so that building leaves nothing behind."""
    copy = tmp_path_factory.mktemp("source") / "project"
    shutil.copytree(ROOT / "downsample_plugin", copy / "downsample_plugin", symlinks=True, ignore=_no_caches)
    for name in SHIPPED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=_no_caches)
        else:
            shutil.copy(ROOT / name, copy / name, follow_symlinks=False)
    return copy


def _no_caches(_, names):
    return [name for name in names if name == "__pycache__"]


@pytest.fixture(scope="module")
def archives(source):
    """The sdist and the wheel that is built from it."""
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", "dist", "."]
    subprocess.run(command, cwd=source, check=True, capture_output=True, timeout=300)
    (sdist,), (wheel,) = (list((source / "dist").glob(pattern)) for pattern in ("*.tar.gz", "*.whl"))
    return {"sdist": sdist, "wheel": wheel}


@pytest.mark.parametrize("way", ["folder", "editable", "wheel", "sdist"])
def test_the_domain_lists_all(tmp_path, source, archives, way):
    target = {"folder": [str(source)], "editable": ["--editable", str(source)]}.get(way) or [str(archives[way])]
    python = _environment(tmp_path / "env")
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, *target], check=True, capture_output=True, timeout=300)
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("SCIPION", "PYTHON", "COV"))}
    done = subprocess.run(
        [str(python), "-c", LISTS_ALL],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    expected = source if way == "editable" else tmp_path / "env"
    assert Path(done.stdout.split("\n")[-2]).is_relative_to(expected)
    program = python.parent / "downsample-particles"
    assert subprocess.run([str(program), "--help"], capture_output=True, timeout=60).returncode == 0


def _environment(folder):
    """A virtual environment that sees the packages of this one; what is installed in it comes first."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True, timeout=60)
    python = folder / "bin" / "python"
    packages = sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)})
    Path(packages, "packages_of_the_tests.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python
