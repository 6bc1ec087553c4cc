# SPDX-License-Identifier: Apache-2.0
"""deploy/slurm: what prolog and epilog keep of a job, in any shell, and that they never fail one."""

import os
import subprocess
from pathlib import Path

import pytest

from gpuledger_agent.allocations import Devices, SlurmGpus, parse_job
from gpuledger_agent.processes import read_boot_id

SCRIPTS = Path(__file__).resolve().parents[2] / "deploy" / "slurm"


def run(script: str, directory: Path, **environment: str) -> None:
    """Run a script as slurmd does: with an environment of its own making, and no PATH in it."""
    done = subprocess.run(
        ["/bin/sh", str(SCRIPTS / script)],
        env={"GPULEDGER_JOBS_DIR": str(directory), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, "a prolog or epilog that fails drains the node"


JOB = {"SLURM_JOB_ID": "12", "SLURM_JOB_USER": "ada", "SLURM_JOB_GPUS": "0,3"}


def test_a_job_is_noted_as_the_agent_reads_it_and_forgotten_with_its_end(tmp_path: Path) -> None:
    directory = tmp_path / "new" / "jobs"
    run("prolog.sh", directory, **JOB, CUDA_VISIBLE_DEVICES="0,3")
    (file,) = directory.iterdir()
    job = parse_job(file.read_text(), SlurmGpus(order="minor"))
    assert (job.job, job.user, job.boot_id, job.sluid) == ("12", "ada", read_boot_id(), None)
    assert job.devices == Devices(minors=frozenset({0, 3}))
    assert file.stat().st_mode & 0o777 == 0o644
    run("epilog.sh", directory, **JOB)
    assert list(directory.iterdir()) == []


def test_uuids_and_the_other_id_of_a_newer_slurm_are_noted(tmp_path: Path) -> None:
    run("prolog.sh", tmp_path, **JOB, CUDA_VISIBLE_DEVICES="GPU-1,MIG-2", SLURM_JOB_SLUID="s5K1KKYAYG5D00")
    job = parse_job((tmp_path / "12").read_text(), SlurmGpus())
    assert (job.devices, job.sluid) == (Devices(uuids=frozenset({"GPU-1", "MIG-2"})), "s5K1KKYAYG5D00")


@pytest.mark.parametrize("environment", [{}, {"SLURM_JOB_ID": "12"}, {"SLURM_JOB_ID": "12", "SLURM_JOB_GPUS": ""}])
def test_a_job_without_gpus_is_not_noted(tmp_path: Path, environment: dict[str, str]) -> None:
    run("prolog.sh", tmp_path, **environment)
    run("epilog.sh", tmp_path, **environment)
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_cannot_be_written_to_fails_no_job(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    run("prolog.sh", blocked / "jobs", **JOB)
    run("epilog.sh", blocked / "jobs", **JOB)
    assert blocked.read_text() == ""


def test_the_scripts_can_be_run(tmp_path: Path) -> None:
    assert all(os.access(SCRIPTS / name, os.X_OK) for name in ("prolog.sh", "epilog.sh"))
