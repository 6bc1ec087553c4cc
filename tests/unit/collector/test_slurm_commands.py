# SPDX-License-Identifier: Apache-2.0
"""Asking Slurm: programs that answer, fail, hang, say too much or are not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpuledger_collector.schedulers import slurm_commands
from gpuledger_collector.schedulers.slurm import SlurmError
from gpuledger_collector.schedulers.slurm_commands import SlurmCluster, SlurmUnavailable, look

DATA = Path(__file__).resolve().parents[2] / "data" / "slurm"
SQUEUE, NODES = DATA / "squeue-22.05.8.json", DATA / "scontrol-22.05.8.txt"


def program(directory: Path, name: str, script: str) -> str:
    path = directory / name
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    path.chmod(0o755)
    return str(path)


def cluster(directory: Path, squeue: str = f"cat {SQUEUE}", scontrol: str = f"cat {NODES}") -> SlurmCluster:
    return SlurmCluster(
        name="alpha",
        squeue=program(directory, "squeue", squeue),
        scontrol=program(directory, "scontrol", scontrol),
        config_file=directory / "slurm.conf",
    )


async def test_two_calls_give_the_view_of_a_cluster(tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    said = f'echo "$0 $* $TZ $SLURM_CONF" | sed "s#{tmp_path}/##g" >> {calls};'
    found = await look(cluster(tmp_path, f"{said} cat {SQUEUE}", f"{said} cat {NODES}"), 7)
    assert (found.cluster, found.at_ms, found.nodes) == ("alpha", 7, ("n1", "n2", "n3"))
    assert calls.read_text() == "squeue --json UTC slurm.conf\nscontrol -o show node UTC slurm.conf\n"


async def test_what_the_caller_s_environment_says_to_squeue_is_not_passed_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SQUEUE_USERS", "ada")
    found = await look(cluster(tmp_path, f'test -z "$SQUEUE_USERS" && cat {SQUEUE}'), 7)
    assert found.allocations


@pytest.mark.parametrize(
    ("squeue", "said"),
    [
        (
            "echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1",
            "ended with 1: slurm_load_jobs",
        ),
        ("exit 3", "squeue --json of cluster alpha ended with 3$"),
        ("sleep 60", "did not answer within 0.2 s"),
        ("trap '' TERM; sleep 60", "did not answer within 0.2 s"),
    ],
)
async def test_a_command_that_fails_or_hangs_is_a_sentence(tmp_path: Path, squeue: str, said: str) -> None:
    with pytest.raises(SlurmUnavailable, match=said):
        await look(cluster(tmp_path, squeue), 7, timeout_s=0.2)


async def test_a_command_that_is_not_there_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(SlurmUnavailable, match="cannot be run: No such file or directory"):
        await look(SlurmCluster(name="alpha", squeue=str(tmp_path / "squeue")), 7)


async def test_an_answer_without_end_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm_commands, "ANSWER_BYTES_MAX", 1 << 20)
    with pytest.raises(SlurmUnavailable, match="said more than 1048576 bytes"):
        await look(cluster(tmp_path, "yes"), 7)


async def test_what_is_not_slurm_s_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(SlurmError, match="not JSON"):
        await look(cluster(tmp_path, "echo hello"), 7)
