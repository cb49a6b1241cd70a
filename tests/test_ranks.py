# SPDX-License-Identifier: GPL-3.0-or-later
"""What launchers leave in the environment. The variables are those that real ones set, as far as they matter."""

import pytest

from downsample_plugin.engine.ranks import Launch, launched

BATCH = {"SLURM_JOB_ID": "4", "SLURM_PROCID": "0", "SLURM_NTASKS": "2", "SLURM_NPROCS": "2", "SLURM_NODEID": "0"}
STEP = {
    **BATCH,
    "SLURM_STEP_ID": "0",
    "SLURM_PROCID": "1",
    "SLURM_STEP_NUM_TASKS": "3",
    "SLURM_NODEID": "1",
    "SLURM_STEP_TASKS_PER_NODE": "1,2",
}
OPEN_MPI = {
    "OMPI_COMM_WORLD_RANK": "3",
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
    "PMIX_NAMESPACE": "585891841",
    "PMIX_RANK": "3",
}
HYDRA = {"PMI_RANK": "1", "PMI_SIZE": "4", "MPI_LOCALNRANKS": "2", "PMI_FD": "8"}


def without_token(launch):
    return launch._replace(token="")


@pytest.mark.parametrize("environ", [{}, BATCH, {"SLURM_JOB_ID": "5", "SLURM_NTASKS": "2"}, {"PMIX_RANK": "1"}])
def test_one_process(environ):
    """So is a batch script, whatever its number of tasks, and a shell that salloc has started."""
    assert launched(environ) == Launch()


def test_open_mpi():
    assert without_token(launched(OPEN_MPI)) == Launch(3, 4, 2, bound_by_habit=True)
    wish = {"OMPI_MCA_hwloc_base_binding_policy": "core"}
    assert without_token(launched({**OPEN_MPI, **wish})) == Launch(3, 4, 2)


def test_open_mpi_in_a_slurm_job_on_several_computers():
    """The first computer's processes are children of mpirun, the others' of what srun started: one launch."""
    first, second = launched({**OPEN_MPI, **BATCH}), launched({**OPEN_MPI, **STEP})
    assert first == second
    assert without_token(first) == Launch(3, 4, 2, bound_by_habit=True)


def test_hydra():
    assert without_token(launched(HYDRA)) == Launch(1, 4, 2)
    assert launched({**HYDRA, **BATCH}) == launched({**HYDRA, **STEP})


@pytest.mark.parametrize("node, here", [("0", 1), ("1", 2), ("2", 2), ("3", 7), ("4", 3), ("", 3)])
def test_srun(node, here):
    step = {**STEP, "SLURM_NODEID": node, "SLURM_STEP_TASKS_PER_NODE": "1,2(x2),7"}
    assert without_token(launched(step)) == Launch(1, 3, here, by_srun=True)


def test_srun_with_pmi2():
    found = launched({**STEP, "PMI_RANK": "1", "PMI_SIZE": "3", "PMI_JOBID": "4.0"})
    assert without_token(found) == without_token(launched(STEP))


@pytest.mark.parametrize("rank, size", [("4", "4"), ("-1", "4"), ("x", "4"), ("0", ""), ("0", "0")])
def test_nonsense_is_one_process(rank, size):
    assert launched({"PMI_RANK": rank, "PMI_SIZE": size}) == Launch()


@pytest.mark.parametrize(
    "environ, other",
    [
        (OPEN_MPI, {"PMIX_NAMESPACE": "585891842"}),
        (OPEN_MPI, {"OMPI_MCA_orte_precondition_transports": "e35b6023ca865c3c-374eb1bac6b0950e"}),
        (STEP, {"SLURM_STEP_ID": "1"}),
        (STEP, {"SLURM_JOB_ID": "5"}),
        (STEP, {"SLURM_RESTART_COUNT": "1"}),
        ({**HYDRA, "PBS_JOBID": "7"}, {"PBS_JOBID": "8"}),
    ],
)
def test_launches_are_told_apart(environ, other):
    assert launched(environ).token != launched({**environ, **other}).token
