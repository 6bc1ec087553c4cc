# SPDX-License-Identifier: Apache-2.0
"""A real Slurm's jobs, queue and drained node in ledger and report: every look asks it, at times that a test sets."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from gpuledger.cells import CELL_MS, HOUR_MS, SLICES_PER_GPU
from gpuledger.states import State
from gpuledger_collector.schedule_book import ScheduleBook
from gpuledger_collector.schedulers.slurm_commands import SlurmCluster, look
from gpuledger_collector.schedulers.view import Unschedulable
from tests.fakes.readings import MONDAY_MS, FakeNode, gpu_time
from tests.fakes.storage import Storage
from tests.integration.agents import wait_for
from tests.integration.slurm import USER, Cluster, running
from tests.integration.test_collector import listening, started

pytestmark = pytest.mark.slow

MINUTE_MS = 60_000
END_MS = MONDAY_MS + HOUR_MS


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with running("linuxproc") as found:
        yield found


def asked(cluster: Cluster) -> SlurmCluster:
    return SlurmCluster(name="train", config_file=cluster.folder / "slurm.conf")


def states(cluster: Cluster) -> str:
    return cluster.run("squeue", "-h", "-o", "%i %T %r")


class Ledger:
    """A collector's storage that looks at a real Slurm minute by minute of a Monday."""

    def __init__(self, storage: Storage, cluster: Cluster) -> None:
        self.storage, self.cluster = storage, cluster
        self.book = ScheduleBook(storage.catalog, storage.namer)
        self.node = FakeNode(name=cluster.node, gpus=4)

    def pass_cells(self, first: int, count: int) -> None:
        """Let the node's agent seal free cells, and look once a minute meanwhile."""
        for cell in range(first, first + count):
            start_ms = MONDAY_MS + cell * CELL_MS
            gpus = [replace(gpu_time(uuid, CELL_MS), index=index) for index, uuid in enumerate(self.node.uuids)]
            self.node.seal(start_ms, gpus=gpus)
            for minute in range(5):
                self.book.take(asyncio.run(look(asked(self.cluster), start_ms + minute * MINUTE_MS)))

    def settle(self) -> None:
        self.book.finish(END_MS)
        self.storage.now_ms = END_MS
        self.storage.take(self.node)
        self.storage.refresh()


def test_jobs_queue_and_drained_node_of_a_real_slurm_are_in_the_ledger_with_names_and_reasons(
    cluster: Cluster, tmp_path: Path
) -> None:
    seconds = f"3600.{secrets.randbelow(10**9):09d}"
    with Storage(tmp_path / "state") as storage:
        ledger = Ledger(storage, cluster)
        ledger.pass_cells(0, 2)
        job = cluster.submit(f"sleep {seconds}", "--gres=gpu:3")
        waits = cluster.submit(f"sleep {seconds}", "--gres=gpu:4")
        wait_for("both jobs", lambda: f"{job} RUNNING" in states(cluster) and "PENDING Resources" in states(cluster))
        ledger.pass_cells(2, 4)
        cluster.cancel(waits)
        cluster.cancel(job)
        wait_for("their ends", lambda: not states(cluster))
        cluster.run("scontrol", "update", f"NodeName={cluster.node}", "State=DRAIN", "Reason=fan 3 is dead")
        try:
            ledger.pass_cells(6, 5)
        finally:
            cluster.run("scontrol", "update", f"NodeName={cluster.node}", "State=RESUME")
        ledger.pass_cells(11, 1)
        ledger.settle()
        files = storage.files
        span = MONDAY_MS, END_MS
        (total,) = files.sum_by((), *span)
        # Looks at the first minute of a cell hold back to the edge only where the last one saw the same.
        reserved = total.account.slice_ms(State.RESERVED)
        assert reserved in {3 * cells * CELL_MS * SLICES_PER_GPU for cells in (3, 4)}
        (allotted,) = files.allotments(*span)
        assert (allotted.cluster, allotted.node, allotted.partition) == ("train", cluster.node, "all")
        assert (allotted.job_name, allotted.user_name, allotted.gpus) == (job, USER, 3)
        assert allotted.reserved_slice_ms == allotted.slice_ms == reserved
        (closed,) = files.not_schedulable(*span)
        assert (closed.node, closed.why, closed.reason) == (cluster.node, Unschedulable.DRAINED, "fan 3 is dead")
        assert closed.by_name == "root"
        assert closed.since_ms is not None
        assert closed.free_slice_ms == total.tags.not_schedulable_slice_ms > 0
        queues = [queue for queue in files.queues(*span) if queue.reason == "Resources"]
        assert [(queue.cluster, queue.partition, queue.jobs_max) for queue in queues] == [("train", "all", 1)]
        (known,) = files.clusters(*span)
        assert known.idle_wanted_slice_ms > 0
        digest = files.digest(*span)
        storage.keeper.rebuild()
        assert files.digest(*span) == digest


async def test_a_collector_looks_at_a_real_slurm_by_itself(cluster: Cluster, tmp_path: Path) -> None:
    settings = (
        f'[[slurm]]\nname = "train"\nconfig_file = "{cluster.folder / "slurm.conf"}"\ninterval_seconds = 1\n'
        '[[slurm]]\nname = "gone"\nsqueue = "/nowhere/squeue"\ninterval_seconds = 1\n'
    )
    with started(tmp_path, settings=settings) as collector:
        await listening(collector)
        text = await collector.text_when(
            "/metrics",
            lambda found: (
                'scheduler_looks_total{cluster="train"} 2.0' in found
                and 'scheduler_failures_total{cluster="gone",reason="unavailable"}' in found
            ),
        )
        assert 'gpuledger_collector_scheduler_jobs{cluster="train",state="allocated"} 0.0' in text
        page = await collector.text_when("/", lambda found: "/nowhere/squeue" in found)
        assert "scheduler gone" in page
        assert collector.stop() == 0
