# SPDX-License-Identifier: GPL-3.0-or-later
"""Launches of several processes of the command, slowed down (rank.py): by mpirun, by srun, or by hand."""

import contextlib
import os
import re
import secrets
import subprocess
import sys
from pathlib import Path

import psutil

from .waiting import LONGEST, wait_for

RANK = [sys.executable, str(Path(__file__).with_name("rank.py"))]


def command(*arguments, pause=0.02, patience=2 * LONGEST, jobs=1):
    return [*RANK, str(pause), str(patience), *arguments, "--jobs", str(jobs)]


def environment(**variables):
    """That of this process, which no launcher has started and no coverage is taken of, with Open MPI for root."""
    own = {name: value for name, value in os.environ.items() if not re.match("OMPI_|PMI_|PMIX_|SLURM_[^C]|COV", name)}
    names = ("OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "OMPI_MCA_rmaps_base_oversubscribe")
    return {**own, **dict.fromkeys(names, "1"), "PYTHONPATH": str(Path(__file__).parents[1]), **variables}


class Launch:
    """Processes under a launcher, or several that are told that they are of one launch."""

    def __init__(self, commands):
        """`commands` are (command, variables)."""
        self.processes = [
            subprocess.Popen(
                command,
                env=environment(**variables),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
            for command, variables in commands
        ]

    def end(self):
        """Wait for the end; returns exit codes and all that was said, of each."""
        try:
            said = [process.communicate(timeout=LONGEST) for process in self.processes]
        finally:
            for process in self.processes:
                process.kill()
        return [(process.returncode, *each) for process, each in zip(self.processes, said)]


def by_hand(size, *arguments, **settings):
    token = secrets.token_hex(4)
    variables = {"SLURM_STEP_NUM_TASKS": str(size), "SLURM_JOB_ID": token, "SLURM_STEP_ID": "0"}
    each = command(*arguments, **settings)
    return Launch([(each, {**variables, "SLURM_PROCID": str(rank)}) for rank in range(size)])


def by_mpirun(size, *arguments, **settings):
    return Launch([(["mpirun", "-np", str(size), *command(*arguments, **settings)], {})])


def by_srun(size, *arguments, **settings):
    return Launch([(["srun", f"-n{size}", "--overcommit", *command(*arguments, **settings)], {})])


LAUNCHERS = {"by hand": by_hand, "mpirun": by_mpirun, "srun": by_srun}


def rank(number):
    """The process of that rank of a launch in the current folder, once it is there."""

    def found():
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                environ = process.environ()
                its_number = environ.get("OMPI_COMM_WORLD_RANK", environ.get("SLURM_PROCID"))
                if its_number == str(number) and _is_rank(process) and not _is_rank(process.parent()):
                    return process
        return None

    return wait_for(found, f"a process of rank {number}")


def _is_rank(process):
    return process is not None and process.cmdline()[:2] == RANK and process.cwd() == os.getcwd()


def images_made(said):
    """By each process, as the first one says in the end."""
    (counts,) = re.findall(r"^Images made by each of the \d+ processes: ([\d, ]+)$", said, re.MULTILINE)
    return [int(count) for count in counts.split(", ")]
