# SPDX-License-Identifier: GPL-3.0-or-later
"""What mpirun or srun, which start one command many times, tell a process of itself and the others."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

# What tells one launch from another, the same in all its processes. A job that the queue starts anew keeps its number.
QUEUE = ("SLURM_JOB_ID", "SLURM_RESTART_COUNT", "PBS_JOBID", "LSB_JOBID", "JOB_ID")
OPEN_MPI = ("PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid", "OMPI_MCA_orte_precondition_transports")
PMI = ("PMI_JOBID", "PALS_APID", *QUEUE)
SRUN = ("SLURM_STEP_ID", *QUEUE)
# Of Open MPI, if its user has said to which cores processes are bound
BINDING = "OMPI_MCA_hwloc_base_binding_policy"


class Launch(NamedTuple):
    """One process of a launch; by default one that was started by itself."""

    #: from 0, of `size`
    rank: int = 0
    size: int = 1
    #: processes of the launch on this computer
    here: int = 1
    #: the same in all processes of a launch, and in those of another one different, where the launcher tells them apart
    token: str = ""
    by_srun: bool = False
    #: whether the process was bound to a core or so because mpirun always does that: nobody has asked for it
    bound_by_habit: bool = False


def launched(environ: Mapping[str, str] = os.environ) -> Launch:
    """Which process of which launch this one is.

    mpirun comes first: it uses srun to reach the computers of a SLURM job, and leaves its variables in place. A batch
    script has a number and a count of tasks too, but it is one process: a step is what srun starts.
    """
    if found := _numbers(environ, "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"):
        here = number(environ, "OMPI_COMM_WORLD_LOCAL_SIZE") or found[1]
        return Launch(*found, here, _token(environ, OPEN_MPI), bound_by_habit=BINDING not in environ)
    step = _numbers(environ, "SLURM_PROCID", "SLURM_STEP_NUM_TASKS")
    found = _numbers(environ, "PMI_RANK", "PMI_SIZE") or step
    if not found:
        return Launch()
    here = number(environ, "MPI_LOCALNRANKS") or (_tasks_here(environ) if found == step else None) or found[1]
    return Launch(*found, here, _token(environ, PMI if "PMI_RANK" in environ else SRUN), by_srun=found == step)


def _numbers(environ: Mapping[str, str], rank: str, size: str) -> tuple[int, int] | None:
    of_rank, of_size = number(environ, rank), number(environ, size)
    return (of_rank, of_size) if of_rank is not None and of_size is not None and of_rank < of_size else None


def number(environ: Mapping[str, str], name: str) -> int | None:
    """A variable that is a number; None if it is none."""
    text = environ.get(name, "")
    return int(text) if re.fullmatch("[0-9]+", text) else None


def _tasks_here(environ: Mapping[str, str]) -> int | None:
    """Tasks of the step on this node; SLURM says for instance ``2(x3),1``."""
    node = number(environ, "SLURM_NODEID")
    counts = list(_expanded(environ.get("SLURM_STEP_TASKS_PER_NODE", "")))
    return counts[node] if node is not None and node < len(counts) else None


def _expanded(text: str) -> Iterator[int]:
    for count, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", text):
        yield from [int(count)] * int(times or 1)


def _token(environ: Mapping[str, str], names: Sequence[str]) -> str:
    values = [(name, environ[name]) for name in names if name in environ]
    return hashlib.sha256(repr(values).encode("utf-8", "surrogateescape")).hexdigest()[:16]
