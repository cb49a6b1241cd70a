# SPDX-License-Identifier: GPL-3.0-or-later
"""How many workers by default: bindings, control groups of both kinds, SLURM, and the share of a process of several."""

import os

import pytest

from downsample_plugin.engine.cores import leave_the_binding, usable_cores
from downsample_plugin.engine.ranks import Launch

CORES, ALONE = 8, Launch()


@pytest.fixture
def computer(tmp_path, monkeypatch):
    """A computer of eight cores without control groups, all of them this process's; ``write`` adds files."""
    bound = {0: set(range(CORES)), os.getppid(): set(range(CORES))}
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: bound[process])
    monkeypatch.setattr(os, "sched_setaffinity", lambda process, cores: bound.update({process: set(cores)}))
    return Computer(tmp_path, bound)


class Computer:
    def __init__(self, folder, bound):
        self.folder, self.bound = folder, bound

    def write(self, name, text):
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def cores(self, launch=ALONE, **environ):
        return usable_cores(launch, environ, str(self.folder / "proc"), str(self.folder / "sys"))


def test_all_or_those_that_are_bound(computer):
    assert computer.cores() == CORES
    computer.bound[0] = {1, 5, 6}
    assert computer.cores() == 3


@pytest.mark.parametrize(
    "text, cores",
    [
        ("max 100000", 8),
        ("300000 100000", 3),
        ("250000 100000", 3),
        ("5000 100000", 1),
        ("1600000 100000", 8),
        ("x", 8),
    ],
)
def test_a_quota_of_the_second_kind_is_rounded_up(computer, text, cores):
    computer.write("proc/self/cgroup", "0::/user.slice/mine\n")
    computer.write("sys/user.slice/mine/cpu.max", text + "\n")
    assert computer.cores() == cores


def test_the_quota_of_a_parent_counts_too(computer):
    computer.write("proc/self/cgroup", "0::/slurm/job_1/step_0\n")
    computer.write("sys/slurm/cpu.max", "200000 100000\n")
    computer.write("sys/slurm/job_1/step_0/cpu.max", "400000 100000\n")
    assert computer.cores() == 2
    computer.write("sys/slurm/job_1/cpu.max", "100000 100000\n")
    assert computer.cores() == 1


@pytest.mark.parametrize("path", ["/", "/../..", "/docker/not/to/be/seen"])
def test_in_a_container_the_root_is_its_own_group(computer, path):
    computer.write("proc/self/cgroup", f"0::{path}\n")
    computer.write("sys/cpu.max", "200000 100000\n")
    assert computer.cores() == 2


@pytest.mark.parametrize("controllers", ["cpu,cpuacct", "cpu", "cpuacct,cpu"])
@pytest.mark.parametrize("quota, cores", [("-1", 8), ("150000", 2)])
def test_a_quota_of_the_first_kind(computer, controllers, quota, cores):
    computer.write("proc/self/cgroup", f"4:memory:/other\n3:{controllers}:/batch/a:b\n1:name=systemd:/\n")
    computer.write(f"sys/{controllers}/batch/cpu.cfs_quota_us", quota)
    computer.write(f"sys/{controllers}/batch/cpu.cfs_period_us", "100000")
    computer.write("sys/memory/other/cpu.cfs_quota_us", "100000")
    computer.write("sys/memory/other/cpu.cfs_period_us", "100000")
    assert computer.cores() == cores


def test_both_kinds_at_once(computer):
    computer.write("proc/self/cgroup", "1:cpu:/\n0::/\n")
    computer.write("sys/unified/cpu.max", "500000 100000\n")
    assert computer.cores() == 5


@pytest.mark.parametrize("text, cores", [("2", 2), ("64", 8), ("0", 8), ("two", 8)])
def test_slurm_gives_so_many_per_task(computer, text, cores):
    assert computer.cores(SLURM_CPUS_PER_TASK=text) == cores


def test_processes_of_mpirun_share_the_computer(computer):
    assert computer.cores(Launch(1, 4, here=2)) == 4
    assert computer.cores(Launch(1, 64, here=64)) == 1
    computer.write("proc/self/cgroup", "0::/\n")
    computer.write("sys/cpu.max", "600000 100000\n")
    assert computer.cores(Launch(1, 4, here=2)) == 3


def test_a_binding_by_habit_is_left_and_one_by_wish_is_kept(computer):
    computer.bound[0] = {3}
    assert computer.cores(Launch(0, 2, here=2)) == 1
    leave_the_binding()
    assert computer.cores(Launch(0, 2, here=2)) == 4


@pytest.mark.parametrize("bound, on_node, cores", [(4, 8, 4), (8, 8, 4), (8, 2, 1), (4, None, 2)])
def test_srun_binds_each_to_its_own_or_all_to_the_same(computer, bound, on_node, cores):
    computer.bound[0] = set(range(bound))
    environ = {"SLURM_CPUS_ON_NODE": str(on_node)} if on_node else {}
    assert computer.cores(Launch(0, 2, here=2, by_srun=True), **environ) == cores


def test_this_computer():
    assert 1 <= usable_cores(Launch()) <= os.cpu_count()
