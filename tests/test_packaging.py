# SPDX-License-Identifier: GPL-3.0-or-later
"""Installed in any of the four ways, Scipion's domain lists protocols, viewer, wizards and templates."""

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from pathlib import Path

import pytest

pytestmark = [pytest.mark.scipion, pytest.mark.slow]

ROOT = Path(__file__).parents[1]
LEFT_BEHIND = shutil.ignore_patterns(
    *(".git", ".venv", "__pycache__", ".*_cache", ".hypothesis", ".coverage*", "build", "dist", "demo_project"),
    *("screenshots", "*.egg-info"),
)

LISTS_ALL = """
import sys, tempfile
from pathlib import Path
import downsample_plugin
from downsample_plugin import headless
headless.prepare(tempfile.mkdtemp())
from pwem import Domain
folder = Path(downsample_plugin.__file__).parent
for name in ("ProtDownsampleParticles", "ProtDownsampleVolumes", "ProtRestoreFullSize", "ProtShiftParticleCenter"):
    protocol = Domain.getProtocols()[name]
    assert protocol._plugin.getPath() == str(folder), protocol._plugin.getPath()
assert {"DownsampleViewer", "DownsampleVolumesViewer"} <= set(Domain.getViewers())
assert {"DownsampleCropSizeWizard", "ParticleCenterWizard"} <= set(Domain.getWizards())
templates = [template.name for template in protocol._plugin.getTemplates()]
assert sorted(templates) == ["downsample_and_back", "sub_particles"], templates
assert (folder / "protocols.conf").is_file()
assert (folder / "launcher" / "downsample_particles.py").is_file()
assert (folder / downsample_plugin._logo).is_file()
print(folder)
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A copy of the sources, so that building leaves nothing behind."""
    copy = tmp_path_factory.mktemp("source") / "project"
    shutil.copytree(ROOT, copy, symlinks=True, ignore=LEFT_BEHIND)
    return copy


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
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("SCIPION", "PYTHON", "COV"))}
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, *target], env=environment, check=True, capture_output=True, timeout=300)
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
    for program in ("downsample-particles", "downsample-volumes"):
        assert subprocess.run([str(python.parent / program), "--help"], capture_output=True, timeout=60).returncode == 0


def _environment(folder):
    """A virtual environment that sees the packages of this one; what is installed in it comes first."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True, timeout=60)
    python = folder / "bin" / "python"
    packages = sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)})
    Path(packages, "packages_of_the_tests.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


def test_the_sdist_has_all_that_its_tests_need(tmp_path, source, archives):
    """The files of the project, but for what only its repository needs; and tests that run there."""
    with tarfile.open(archives["sdist"]) as archive:
        archive.extractall(tmp_path)
    (unpacked,) = tmp_path.iterdir()

    shutil.copytree(source, tmp_path / "source", symlinks=True, ignore=LEFT_BEHIND)

    def files(folder):
        return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}

    lacks = files(tmp_path / "source") - files(unpacked)
    assert {name for name in lacks if not name.startswith(".git")} == set()
    command = [sys.executable, "-m", "pytest", "-q", "tests/test_relion.py", "tests/test_cli.py", "-k", "relion"]
    done = subprocess.run(command, cwd=unpacked, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout


def test_scipions_own_tests(tmp_path):
    """As ``scipion3 tests`` runs them; protocols are started by Scipion's launcher here."""
    package = importlib.util.find_spec("pyworkflow")  # not imported: that takes an environment
    script = Path(package.origin).parent / "apps" / "pw_run_tests.py"
    code = f"import runpy, sys; from downsample_plugin import headless; headless.prepare({str(tmp_path)!r}); "
    code += f"sys.argv = [{str(script)!r}, *sys.argv[1:]]; runpy.run_path({str(script)!r}, run_name='__main__')"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("SCIPION")}

    def scipion_tests(*arguments):
        command = [sys.executable, "-c", code, *arguments]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)

    shown = scipion_tests("--show", "--grep", "downsample")
    assert "downsample_plugin.tests.test_protocols.TestDownsample" in shown.stdout
    done = scipion_tests("downsample_plugin.tests.test_protocols")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 tests" in done.stdout + done.stderr
    assert "FAILED" not in done.stdout + done.stderr
