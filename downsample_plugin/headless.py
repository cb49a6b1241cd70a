# SPDX-License-Identifier: GPL-3.0-or-later
"""Scipion without its launcher: the environment of a pip installation, and projects in a folder of one's own."""

from __future__ import annotations

import os
import sys
from pathlib import Path

HOSTS_CONF = """[localhost]
PARALLEL_COMMAND = mpirun -np %_(JOB_NODES)d %_(COMMAND)s
"""


def prepare(folder):
    """Set what Scipion wants to find in the environment; call this before pyworkflow is first imported.

    Projects go below `folder`. Variables that are set already, as by Scipion's launcher, stay.
    """
    folder = Path(folder).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    hosts = folder / "hosts.conf"
    if not hosts.exists():
        hosts.write_text(HOSTS_CONF)
    defaults = {
        "SCIPION_DOMAIN": "pwem",
        "SCIPION_PRIORITY_PACKAGE_LIST": "pwem",
        "SCIPION_HOSTS": str(hosts),
        "SCIPION_HOME": str(folder),
        "SCIPION_USER_DATA": str(folder),
        "SCIPION_PYTHON": sys.executable,
        "SCIPION_NOTIFY": "False",
    }
    for name, value in defaults.items():
        os.environ.setdefault(name, value)


def createProject(name):
    """A new, empty project of that name, which is then the current folder; an old one of the name is wiped."""
    from pyworkflow.project import Manager

    project = Manager().createProject(name)
    os.chdir(project.getPath())
    return project


def run(project, protocol):
    """Run a protocol to its end and return it; RuntimeError, with its message, if it did not finish."""
    project.launchProtocol(protocol, wait=True)
    if not protocol.isFinished():
        raise RuntimeError(f"{protocol.getObjLabel() or protocol.getClassName()}: {protocol.getErrorMessage()}")
    return protocol
