# SPDX-License-Identifier: Apache-2.0
"""Looks at every scheduler at its own pace, each on its own: one that fails costs only itself, and leaves a hole."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from gpuledger.clock import Clock
from gpuledger.errors import ConfigurationError, GpuledgerError, StorageError
from gpuledger_collector.schedule_book import ScheduleBook, ViewTooLarge
from gpuledger_collector.scheduler_files import Scheduler
from gpuledger_collector.schedulers.kubernetes_watch import KubernetesCluster, KubernetesWatch
from gpuledger_collector.schedulers.slurm import SlurmError
from gpuledger_collector.schedulers.slurm_commands import SlurmCluster, SlurmUnavailable, look
from gpuledger_collector.schedulers.view import ClusterView

logger = logging.getLogger(__name__)


class NoView(GpuledgerError):
    """A watch has nothing up to date to show; the text says why."""


_REASONS: tuple[tuple[type[GpuledgerError], str], ...] = (
    (SlurmUnavailable, "unavailable"),
    (NoView, "unavailable"),
    (SlurmError, "illegible"),
    (ViewTooLarge, "too_large"),
    (StorageError, "storage"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerFigures:
    """What became of the looks at one scheduler since the start; `last_ms` is the last one that worked."""

    looks: int = 0
    failures: Mapping[str, int] = field(default_factory=dict)
    last_ms: int | None = None
    trouble: str | None = None
    jobs: int = 0
    waiting: int = 0
    unschedulable: int = 0


@dataclass(slots=True)
class _Known:
    looks: int = 0
    failures: dict[str, int] = field(default_factory=dict)
    last_ms: int | None = None
    trouble: str | None = None
    view: ClusterView | None = None


class SchedulerWatch:
    """Runs all looks; `figures` may be asked from any thread."""

    def __init__(self, schedulers: Sequence[Scheduler], book: ScheduleBook, clock: Clock) -> None:
        self._schedulers, self._book, self._clock = schedulers, book, clock
        self._known = {scheduler.name: _Known() for scheduler in schedulers}

    async def run(self) -> None:
        """Look until cancelled; only a bug ends it."""
        async with asyncio.TaskGroup() as group:
            for scheduler in self._schedulers:
                if isinstance(scheduler.cluster, SlurmCluster):
                    group.create_task(self._look_at_slurm(scheduler, scheduler.cluster))
                else:
                    watch = KubernetesWatch(scheduler.cluster, self._clock)
                    group.create_task(self._watch_kubernetes(scheduler, scheduler.cluster, watch))
            group.create_task(asyncio.Event().wait())

    def figures(self) -> dict[str, SchedulerFigures]:
        """Return what became of the looks, by scheduler."""
        return {
            name: SchedulerFigures(
                looks=known.looks,
                failures=dict(known.failures),
                last_ms=known.last_ms,
                trouble=known.trouble,
                jobs=0 if view is None else len({one.job for one in view.allocations}),
                waiting=0 if view is None else sum(one.tasks for one in view.pending),
                unschedulable=0 if view is None else len(view.unschedulable),
            )
            for name, known in self._known.items()
            for view in (known.view,)
        }

    def finish(self) -> None:
        """Log what was looked at; StorageError is logged: then that much is not known."""
        try:
            self._book.finish(self._clock.wall_ns() // 1_000_000)
        except StorageError as exc:
            logger.error("looks_not_logged", extra={"why": str(exc)})  # noqa: TRY400 - the sentence says it all

    # ------------------------------------------------------------------------------------------ one scheduler

    async def _look_at_slurm(self, scheduler: Scheduler, cluster: SlurmCluster) -> None:
        while True:
            begun_ns = self._clock.boottime_ns()
            try:
                # As of the moment before it was asked: what it says may be older than its answer.
                view = await look(cluster, self._clock.wall_ns() // 1_000_000, scheduler.timeout_s)
                await self._take(scheduler, view)
            except GpuledgerError as exc:
                self._fail(scheduler.name, exc)
            await self._rest(begun_ns, scheduler.interval_s)

    async def _watch_kubernetes(self, scheduler: Scheduler, cluster: KubernetesCluster, watch: KubernetesWatch) -> None:
        running = asyncio.create_task(watch.run(), name=f"kubernetes {cluster.name}")
        try:
            while True:
                begun_ns = self._clock.boottime_ns()
                try:
                    await self._take(scheduler, _view_of(watch, running))
                except GpuledgerError as exc:
                    self._fail(scheduler.name, exc)
                is_first = self._known[scheduler.name].last_ms is None
                await self._rest(begun_ns, min(1.0, scheduler.interval_s) if is_first else scheduler.interval_s)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    async def _take(self, scheduler: Scheduler, view: ClusterView) -> None:
        await asyncio.to_thread(self._book.take, view)
        known = self._known[scheduler.name]
        if known.trouble is not None:
            logger.info("scheduler_recovered", extra={"cluster": scheduler.name})
        known.looks, known.last_ms, known.trouble, known.view = known.looks + 1, view.at_ms, None, view

    def _fail(self, name: str, exc: GpuledgerError) -> None:
        known = self._known[name]
        reason = next((reason for kind, reason in _REASONS if isinstance(exc, kind)), "other")
        known.failures[reason] = known.failures.get(reason, 0) + 1
        if known.trouble != str(exc):
            logger.warning("scheduler_failed", extra={"cluster": name, "why": str(exc)})
        known.trouble = str(exc)

    async def _rest(self, begun_ns: int, interval_s: float) -> None:
        spent_s = (self._clock.boottime_ns() - begun_ns) / 1e9
        await asyncio.sleep(max(interval_s - spent_s, min(interval_s, 1.0)))


def _view_of(watch: KubernetesWatch, running: asyncio.Task[None]) -> ClusterView:
    """Return what a watch shows now; raises NoView, and whatever bug ended it."""
    if running.done():
        try:
            running.result()
        except ConfigurationError as exc:
            raise NoView(str(exc)) from exc
    if watch.trouble is not None:
        raise NoView(watch.trouble)
    view = watch.view()
    if view is None:
        raise NoView("pods and nodes are not listed yet")
    return view
