# SPDX-License-Identifier: Apache-2.0
"""Looks at several schedulers at once: one that fails costs only itself, is counted, and says why."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from gpuledger.cells import HOUR_MS, SLICES_PER_GPU
from gpuledger.clock import SystemClock
from gpuledger.states import State
from gpuledger_collector.given_entries import ScheduleEntry
from gpuledger_collector.schedule_book import ScheduleBook
from gpuledger_collector.scheduler_files import Scheduler
from gpuledger_collector.scheduler_watch import SchedulerWatch
from gpuledger_collector.schedulers.kubernetes_watch import KubernetesCluster
from gpuledger_collector.schedulers.slurm_commands import SlurmCluster
from gpuledger_collector.schedulers.view import Unschedulable
from tests.fakes.readings import MONDAY_MS, FakeNode
from tests.fakes.storage import Storage
from tests.unit.collector.test_kubernetes import node, pod
from tests.unit.collector.test_kubernetes_watch import ApiServer, until, watching
from tests.unit.collector.test_slurm_commands import cluster as slurm


async def running(watch: SchedulerWatch, is_so: Callable[[], bool]) -> None:
    """Let it look until it is so."""
    task = asyncio.create_task(watch.run())
    try:
        await until(lambda: is_so() or task.done())
        if task.done():
            task.result()
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    watch.finish()


async def test_one_that_works_is_taken_in_beside_one_that_is_not_there_and_one_that_talks_nonsense(
    storage: Storage, tmp_path: Path
) -> None:
    good, odd = tmp_path / "good", tmp_path / "odd"
    good.mkdir()
    odd.mkdir()
    schedulers = [
        Scheduler(cluster=slurm(good), interval_s=1),
        Scheduler(cluster=SlurmCluster(name="gone", squeue=str(tmp_path / "nothing")), interval_s=1),
        Scheduler(cluster=SlurmCluster(name="odd", squeue=slurm(odd, "echo x").squeue, scontrol="true"), interval_s=1),
    ]
    watch = SchedulerWatch(schedulers, ScheduleBook(storage.catalog, storage.namer), SystemClock())
    await running(watch, lambda: watch.figures()["alpha"].looks > 1 and watch.figures()["odd"].trouble is not None)
    figures = watch.figures()
    assert figures["alpha"].trouble is None
    assert figures["alpha"].jobs > 0
    assert figures["alpha"].unschedulable > 0
    assert figures["gone"].failures.keys() == {"unavailable"}
    assert "nothing --json of cluster gone cannot be run" in str(figures["gone"].trouble)
    assert figures["odd"].failures.keys() == {"illegible"}
    logged = [entry for entry in storage.logged() if isinstance(entry, ScheduleEntry)]
    assert {entry.cluster for entry in logged} == {"alpha"}
    assert sum(len(entry.opened) for entry in logged) > 0


async def test_kubernetes_is_listed_once_and_what_it_shows_is_taken_in(storage: Storage, tmp_path: Path) -> None:
    api = ApiServer()
    api.objects["pods"] = [pod(node="n1")]
    api.objects["nodes"] = [node("n1")]
    async with watching(api, tmp_path) as known:
        cluster = known._cluster
        scheduler = Scheduler(cluster=cluster, interval_s=1)
        watch = SchedulerWatch([scheduler], ScheduleBook(storage.catalog, storage.namer), SystemClock())
        await running(watch, lambda: watch.figures()["k1"].looks > 1)
        assert watch.figures()["k1"].jobs == 1
        # Before its lists were there, nothing was shown as if there were none.
        assert watch.figures()["k1"].failures.keys() <= {"unavailable"}


async def test_what_a_kubernetes_server_shows_comes_into_the_ledger_with_owners_queue_and_cordoned_node(
    storage: Storage, tmp_path: Path
) -> None:
    api = ApiServer()
    api.objects["pods"] = [pod(name="train-0", node="n1"), pod(name="waits", node=None, phase="Pending")]
    cordoned = node("n1")
    cordoned["spec"]["unschedulable"] = True
    api.objects["nodes"] = [cordoned]
    async with watching(api, tmp_path) as known:
        await until(lambda: known.view() is not None)
        view = known.view()
    assert view is not None
    book = ScheduleBook(storage.catalog, storage.namer)
    sealing = FakeNode(name="n1", gpus=2)
    sealing.seal_cells(MONDAY_MS, 12, {})
    for minute in range(61):
        book.take(replace(view, at_ms=MONDAY_MS + minute * 60_000))
    book.finish(storage.now_ms)
    storage.take(sealing)
    storage.refresh()
    span = MONDAY_MS, MONDAY_MS + HOUR_MS
    (closed,) = storage.files.not_schedulable(*span)
    assert (closed.cluster, closed.node, closed.why) == ("k1", "n1", Unschedulable.CORDONED)
    assert closed.free_slice_ms == 2 * HOUR_MS * SLICES_PER_GPU
    # A count says for how long a pod had GPUs, and moves nothing.
    (row,) = storage.files.sum_by((), *span)
    assert row.account.slice_ms(State.RESERVED) == 0
    (allotted,) = storage.files.allotments(*span)
    assert allotted.job_name is not None
    assert allotted.job_name.endswith("/train-0")
    assert allotted.untold_slice_ms == allotted.slice_ms > 0
    (queue,) = storage.files.queues(*span)
    assert queue.wanted_slice_ms > 0


async def test_certificates_that_cannot_be_read_cost_that_scheduler_alone(storage: Storage, tmp_path: Path) -> None:
    cluster = KubernetesCluster(name="k", server="https://127.0.0.1:1", ca_file=tmp_path / "none", token_file=None)
    schedulers = [Scheduler(cluster=cluster, interval_s=1), Scheduler(cluster=slurm(tmp_path), interval_s=1)]
    watch = SchedulerWatch(schedulers, ScheduleBook(storage.catalog, storage.namer), SystemClock())
    await running(
        watch,
        lambda: watch.figures()["alpha"].looks > 0 and "certificates" in str(watch.figures()["k"].trouble),
    )
    assert watch.figures()["k"].looks == 0
