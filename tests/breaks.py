# SPDX-License-Identifier: GPL-3.0-or-later
"""Breaks the code on purpose, in a copy, one place at a time (breaks.txt): the tests named with each are to fail.

``make breaks`` tries all of them; ``python tests/breaks.py WORD …`` those that have one of the words in their files or
texts. What no test sees is printed at the end. ``test_architecture.py`` looks that each text still stands in its file.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
COPIED = ("downsample_plugin", "tests", "docs", "README.md", "pyproject.toml", "setup.py", "Makefile", "protocols.conf")
LONGEST = 300  # s of the tests of one break


class Break(NamedTuple):
    """A text of a file and what takes its place, and the tests that are to see it."""

    file: str
    old: str
    new: str
    tests: str


def breaks():
    """All breaks of breaks.txt, in their order."""
    found = []
    for line in Path(__file__).with_suffix(".txt").read_text(encoding="utf-8").splitlines():
        if line[:1] in {"-", "+"}:
            found[-1][line[0]].append(line[2:])
        elif line and line[0] != "#":
            found.append({"head": line.split(": "), "-": [], "+": []})
    return [Break(each["head"][0], "\n".join(each["-"]), "\n".join(each["+"]), each["head"][1]) for each in found]


def main(words):
    """Try the breaks that have one of the words, or all; returns the number of those that no test has seen."""
    wanted = [each for each in breaks() if not words or any(word in f"{each.file} {each.old}" for word in words)]
    survivors = []
    for number, each in enumerate(wanted, start=1):
        seen = is_seen(each)
        print(f"{number}/{len(wanted)} {'seen' if seen else 'NOT SEEN'}: {each.file}: {each.old!r}", flush=True)
        if not seen:
            survivors.append(each)
    print(f"{len(wanted) - len(survivors)} of {len(wanted)} breaks are seen")
    return len(survivors)


def is_seen(each):
    """Whether the tests of a break fail in a copy of the project that has it."""
    with tempfile.TemporaryDirectory() as folder:
        for name in COPIED:
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            copy(ROOT / name, Path(folder, name))
        broken = Path(folder, "downsample_plugin", each.file)
        text = broken.read_text(encoding="utf-8")
        assert text.count(each.old) == 1, f"{each.file} has {text.count(each.old)} times {each.old!r}, expected once"
        broken.write_text(text.replace(each.old, each.new), encoding="utf-8")
        tests = [f"tests/{name}.py" for name in each.tests.split()]
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests]
        environment = {**os.environ, "PYTHONPATH": folder, "PYTHONDONTWRITEBYTECODE": "1"}
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            return process.wait(timeout=LONGEST) != 0
        except subprocess.TimeoutExpired:  # what hangs is seen too
            process.kill()
            return True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
