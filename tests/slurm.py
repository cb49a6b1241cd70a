# SPDX-License-Identifier: GPL-3.0-or-later
"""A real SLURM of one node, started by hand in a folder: munged, slurmctld and slurmd on ports of their own."""

import contextlib
import os
import pwd
import socket
import subprocess

from .waiting import wait_for

CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CryptoType=crypto/munge
AuthInfo=socket={folder}/munge.socket
SlurmctldPort={port}
SlurmdPort={port_of_node}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


@contextlib.contextmanager
def running_slurm(folder):
    """SLURM with a partition "main", as long as the context lasts; SLURM_CONF in the environment names it."""
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    folder.chmod(0o755)  # munged wants its socket where others may look
    key = folder / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    configuration = folder / "slurm.conf"
    configuration.write_text(
        CONFIGURATION.format(
            folder=folder,
            host=socket.gethostname(),
            user=pwd.getpwuid(os.getuid()).pw_name,
            port=_free_port(),
            port_of_node=_free_port(),
            cpus=os.cpu_count(),
        )
    )
    files = [f"--{name}-file={folder}/munged.{name}" for name in ("pid", "log", "seed")]
    munged = ["munged", "--foreground", "--force", f"--key-file={key}", f"--socket={folder}/munge.socket", *files]
    os.environ["SLURM_CONF"] = str(configuration)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_daemon(munged, folder / "munged.out"))
        wait_for((folder / "munge.socket").exists, "munged")
        stack.enter_context(_daemon(["slurmctld", "-D"], folder / "slurmctld.out"))
        stack.enter_context(_daemon(["slurmd", "-D"], folder / "slurmd.out"))
        wait_for(lambda: "idle" in _output("sinfo", "-h", "-o", "%T"), "SLURM, see the logs in its folder,")
        yield
    del os.environ["SLURM_CONF"]


def jobs_under_way():
    """{job id: name} of the jobs that SLURM has."""
    lines = _output("squeue", "-h", "-o", "%i %j").split("\n")
    return dict(line.split(maxsplit=1) for line in lines if line.strip())


@contextlib.contextmanager
def _daemon(command, log):
    with open(log, "w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        try:
            yield
        finally:
            process.terminate()
            process.wait(timeout=30)


def _output(*command):
    return subprocess.run(command, capture_output=True, text=True, timeout=30).stdout


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
