# SPDX-License-Identifier: Apache-2.0
"""A real Slurm on one machine: munged, slurmctld and one slurmd whose GPUs are device files that do nothing.

The node has a name of its own, so that nothing of it meets another Slurm on the machine. Needs root: slurmd makes
cgroups and changes users.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.integration.agents import ROOT, wait_for
from tests.parts import require_part

GPUS = (4, 5, 6, 7)
"""Numbers of the device files that Slurm has: the upper half of a node of eight."""
FREEZER = Path("/sys/fs/cgroup/freezer")
USER = "nobody"

_PROCTRACK = {
    "cgroup": "ProctrackType=proctrack/cgroup\nTaskPlugin=task/cgroup",
    "linuxproc": "ProctrackType=proctrack/linuxproc\nTaskPlugin=task/none",
}
_CONF = """ClusterName=gpuledger
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmUser=root
SlurmdUser=root
AuthInfo=socket={folder}/munge.sock
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
MailProg=/bin/true
MpiDefault=none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=batch_sched_delay=0,sched_interval=1
GresTypes=gpu
SlurmdParameters=config_overrides
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
KillWait=1
PrologFlags=Alloc
Prolog={folder}/prolog
Epilog={folder}/epilog
{proctrack}
NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={node_port} CPUs=16 RealMemory=500 Gres=gpu:h100:4
PartitionName=all Nodes=ALL Default=YES State=UP OverSubscribe=FORCE:8
"""


class Cluster:
    """A running Slurm; `jobs` is the directory that its prolog and epilog keep."""

    def __init__(self, folder: Path, node: str) -> None:
        self.folder, self.node = folder, node
        self.jobs = folder / "jobs"
        self._environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}

    def run(self, *command: str) -> str:
        done = subprocess.run(command, env=self._environment, capture_output=True, text=True, check=False, cwd="/")
        assert done.returncode == 0, f"{command}: {done.stderr}\n{self.logs()}"
        return done.stdout.strip()

    def submit(self, script: str, *options: str) -> str:
        """Submit a batch job of USER and return its id."""
        file = self.folder / f"job-{secrets.token_hex(4)}"
        file.write_text(f"#!/bin/sh\n{script}\n")
        file.chmod(0o755)
        user = ("--uid", USER, "--chdir", "/", "--output", "/dev/null")
        return self.run("sbatch", "--parsable", *user, *options, str(file))

    def cancel(self, job: str) -> None:
        self.run("scancel", job)

    def logs(self) -> str:
        return "\n".join(file.read_text(errors="replace")[-2_000:] for file in sorted(self.folder.glob("*.log")))


def pids_of(mark: str) -> list[int]:
    """Return the processes whose command line has the mark as an argument."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                if mark.encode() in (entry / "cmdline").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
    return sorted(found)


@contextmanager
def running(proctrack: str) -> Iterator[Cluster]:
    """Start a Slurm that tracks its processes in one of two ways; skips where that cannot be."""
    programs = [str(require_part(name)) for name in ("munged", "slurmctld", "slurmd")]
    if os.geteuid() != 0:
        pytest.skip("only root can run slurmd")
    if proctrack == "cgroup" and not FREEZER.is_dir():
        pytest.skip("this machine has no freezer of cgroup v1, which Slurm 22.05 needs without systemd")
    # Where anybody may enter: the jobs are another user's.
    folder = Path(tempfile.mkdtemp(prefix="gpuledger-slurm-"))
    folder.chmod(0o755)
    cluster = Cluster(folder, f"gl-{secrets.token_hex(4)}")
    _write(cluster, proctrack)
    daemons: list[subprocess.Popen[bytes]] = []
    try:
        for command in _commands(cluster, programs):
            log = (folder / f"{Path(command[0]).name}.out.log").open("wb")
            daemons.append(subprocess.Popen(command, env=cluster._environment, stdout=log, stderr=log, cwd="/"))
            log.close()
        wait_for("the node to be idle", lambda: _is_idle(cluster))
        yield cluster
    finally:
        _end_jobs(cluster)
        for daemon in reversed(daemons):
            daemon.terminate()
            daemon.wait()
        shutil.rmtree(folder)
        _remove_cgroups(cluster.node)


def _commands(cluster: Cluster, programs: Sequence[str]) -> list[list[str]]:
    folder, (munged, controller, daemon) = cluster.folder, programs
    files = {"key-file": "key", "socket": "sock", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
    options = [option for name, end in files.items() for option in (f"--{name}", str(folder / f"munge.{end}"))]
    return [[munged, "--foreground", "--force", *options], [controller, "-D"], [daemon, "-D", "-N", cluster.node]]


def _write(cluster: Cluster, proctrack: str) -> None:
    folder = cluster.folder
    for name in ("state", "spool", "dev", "jobs"):
        (folder / name).mkdir()
    for number in GPUS:
        os.mknod(folder / "dev" / f"nvidia{number}", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    (folder / "munge.key").write_bytes(secrets.token_bytes(128))
    (folder / "munge.key").chmod(0o600)
    text = _CONF.format(
        host=socket.gethostname().partition(".")[0],
        node=cluster.node,
        folder=folder,
        controller_port=_free_port(),
        node_port=_free_port(),
        proctrack=_PROCTRACK[proctrack],
    )
    (folder / "slurm.conf").write_text(text)
    (folder / "gres.conf").write_text(
        f"NodeName={cluster.node} Name=gpu Type=h100 File={folder}/dev/nvidia[{GPUS[0]}-{GPUS[-1]}]\n"
    )
    (folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\nCgroupAutomount=no\nCgroupMountpoint=/sys/fs/cgroup\n")
    for name in ("prolog", "epilog"):
        # slurmd gives its scripts an environment of its own making.
        (folder / name).write_text(f"#!/bin/sh\nGPULEDGER_JOBS_DIR={folder}/jobs exec {ROOT}/deploy/slurm/{name}.sh\n")
        (folder / name).chmod(0o755)


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def _is_idle(cluster: Cluster) -> bool:
    command = ["sinfo", "-h", "-n", cluster.node, "-o", "%T"]
    done = subprocess.run(command, env=cluster._environment, capture_output=True, text=True, check=False)
    return done.stdout.strip() == "idle"


def _end_jobs(cluster: Cluster) -> None:
    """Cancel what a failed test left; a job outlives its daemons otherwise."""
    for command in (["scancel", "--user", USER], ["squeue", "-h"]):
        for _ in range(50):
            done = subprocess.run(command, env=cluster._environment, capture_output=True, text=True, check=False)
            if done.returncode != 0 or not done.stdout.strip():
                break
            time.sleep(0.1)


def _remove_cgroups(node: str) -> None:
    for path in Path("/sys/fs/cgroup").glob(f"*/slurm_{node}"):
        for folder, _, _ in os.walk(path, topdown=False):
            with suppress(OSError):
                Path(folder).rmdir()
