# SPDX-License-Identifier: Apache-2.0
"""A real Slurm's jobs: known by /proc alone, and by what prolog and epilog keep, whose numbers are not NVML's.

Slurm has GPUs 4 to 7 of eight (by device file), and NVML's order is the other way round: Slurm's GPU 0 is /dev/nvidia4,
which is NVML's index 3.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpuledger.states import State
from gpuledger_agent import once
from gpuledger_agent.config import AgentConfig
from gpuledger_agent.nvml import Nvml
from gpuledger_agent.processes import SystemProcessTable
from tests.fakes.clock import FakeClock
from tests.fakes.nvml import FakeGpu, FakeNvml, gpus
from tests.integration.agents import wait_for
from tests.integration.slurm import GPUS, USER, Cluster, pids_of, running

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=["cgroup", "linuxproc"])
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    with running(request.param) as found:
        yield found


class Look:
    """What the agent sees of the node; a GPU is named by the number of its device file."""

    def __init__(self, cluster: Cluster, **settings: str) -> None:
        self.config = AgentConfig(
            state_dir=Path("/nowhere"),
            slurm_dir=cluster.jobs,
            slurm_gpu_files=tuple(f"/dev/nvidia{number}" for number in GPUS),
            **settings,  # type: ignore[arg-type]
        )
        self.gpus = gpus(8)
        for index, gpu in enumerate(self.gpus):
            gpu.minor = 7 - index

    def gpu(self, number: int) -> FakeGpu:
        return self.gpus[7 - number]

    def __call__(self) -> dict[int, tuple[State, list[tuple[str | None, str]]]]:
        """Return what each GPU is, and who holds it or was given it."""
        clock = FakeClock()
        found = once.look(self.config, clock, Nvml(FakeNvml(clock, self.gpus)), SystemProcessTable())
        seen = {}
        for gpu in found.gpus:
            assert isinstance(gpu.result, State)
            assert gpu.identity.minor_number is not None
            seen[gpu.identity.minor_number] = (gpu.result, list(gpu.holders or ()))
        return seen


FREE: tuple[State, list[tuple[str | None, str]]] = (State.FREE, [])


def only(**states: tuple[State, list[tuple[str | None, str]]]) -> dict[int, tuple[State, list[tuple[str | None, str]]]]:
    """Return all eight GPUs free but for some: `g4=...`."""
    return {number: states.get(f"g{number}", FREE) for number in range(8)}


def mark() -> str:
    """Return a number of seconds that no other process on the machine sleeps for."""
    return f"3600.{secrets.randbelow(10**9):09d}"


def test_a_job_is_reserved_without_a_process_holds_with_one_and_is_gone_with_its_end(cluster: Cluster) -> None:
    look, seconds = Look(cluster), mark()
    assert look() == only()
    # One process of the batch script, and one of a step beside it.
    job = cluster.submit(f"srun --overlap sleep {seconds} &\nsleep {seconds}\nwait", "--gres=gpu:2")
    wait_for("the prolog's file", (cluster.jobs / job).exists)
    given: list[tuple[str | None, str]] = [(USER, f"slurm:{job}")]
    assert look() == only(g4=(State.RESERVED, given), g5=(State.RESERVED, given))
    # srun has the mark on its own command line as well: it and its child, which Slurm does not know, are the script's.
    wait_for("both processes", lambda: len(pids_of(seconds)) >= 3)
    pids = pids_of(seconds)
    look.gpu(4).work(0, *pids)
    look.gpu(5).work(90, pids[-1])
    assert look() == only(g4=(State.HELD, given), g5=(State.BUSY, given))
    cluster.cancel(job)
    wait_for("the epilog", lambda: not (cluster.jobs / job).exists())
    for number in (4, 5):
        look.gpu(number).processes = []
    look.gpu(5).percent = 0
    assert look() == only()


def test_a_job_is_known_by_its_processes_alone(cluster: Cluster) -> None:
    look, seconds = Look(cluster, slurm_cluster="gpuledger"), mark()
    job = cluster.submit(f"sleep {seconds}")
    wait_for("the process", lambda: len(pids_of(seconds)) == 1)
    assert not (cluster.jobs / job).exists(), "a job without GPUs is not noted"
    look.gpu(7).work(0, *pids_of(seconds))
    assert look() == only(g7=(State.HELD, [(USER, f"slurm:gpuledger/{job}")]))
    cluster.cancel(job)
    wait_for("its end", lambda: pids_of(seconds) == [])


def test_tasks_of_an_array_are_jobs_of_their_own(cluster: Cluster) -> None:
    look, seconds = Look(cluster), mark()
    array = cluster.submit(f"sleep {seconds}", "--array=1-2", "--gres=gpu:1")
    wait_for("both processes", lambda: len(pids_of(seconds)) == 2 and len(list(cluster.jobs.iterdir())) == 2)
    jobs = sorted(file.name for file in cluster.jobs.iterdir())
    states = look()
    assert sorted(names for _, names in states.values() if names) == [[(USER, f"slurm:{job}")] for job in jobs]
    for number, pid in zip((4, 5), pids_of(seconds), strict=True):
        look.gpu(number).work(0, pid)
    held = look()
    assert {tuple(held[number][1]) for number in (4, 5)} == {((USER, f"slurm:{job}"),) for job in jobs}
    cluster.cancel(array)
    wait_for("the epilogs", lambda: list(cluster.jobs.iterdir()) == [])
