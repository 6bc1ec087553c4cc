# SPDX-License-Identifier: Apache-2.0
"""Who was given GPUs and what came of it, which nodes took no new work, what waited: rows by the hour. Pure.

Only whole cells count for which a scheduler was looked at without a break. A job on a GPU that is told by its index has
that GPU's states; of GPUs told as counts only the time is known. A GPU that several jobs share is theirs in equal
parts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from gpuledger.cells import CELL_MS, CELL_SLICE_MS, HOUR_MS, SLICES_PER_GPU, floor_to, share_equally
from gpuledger.states import State
from gpuledger.workload_time import WorkloadTime
from gpuledger_collector.roster import Entry
from gpuledger_collector.schedulers.view import Unschedulable
from gpuledger_collector.scheduling import Grant, Scheduling, indices_of

WILLING = ("Dependency", "BeginTime", "JobHeldUser", "DependencyNeverSatisfied")
"""Reasons for which a job waits because its owner said so: it wants no GPU yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AllotmentRow:
    """GPU time that one job was given at one node in one hour, and what of it was busy, held and reserved.

    `cluster` None: the node itself told of the allocation, and only the time without a process is known. `job`, `user`
    and `account` are digests. `untold_slice_ms` is the part of `slice_ms` of which nobody said which GPUs it was.
    """

    hour_ms: int
    cluster: str | None
    site: str
    node: str
    job: str
    user: str | None
    account: str | None
    partition: str | None
    gpus: int
    slice_ms: int
    busy_slice_ms: int
    held_slice_ms: int
    reserved_slice_ms: int
    untold_slice_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class UnschedulableRow:
    """GPU time of one node in one hour in which it took no new work, what of it was free, why, and since when."""

    hour_ms: int
    cluster: str
    site: str
    node: str
    why: Unschedulable
    reason: str | None
    by: str | None
    since_ms: int | None
    slice_ms: int
    free_slice_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueRow:
    """Jobs of one partition that waited for GPUs in one hour for one reason: the most at a time, and the GPU time."""

    hour_ms: int
    cluster: str
    partition: str | None
    reason: str
    jobs_max: int
    wanted_slice_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterRow:
    """One scheduler in one hour: for how long its view is known, and what could have been used while jobs waited.

    `free_slice_ms` is free time of GPUs at nodes that took new work, `wanted_slice_ms` the GPU time that jobs waited
    for, and `idle_wanted_slice_ms` what was both, cell by cell: free while jobs wanted it.
    """

    hour_ms: int
    cluster: str
    known_ms: int
    free_slice_ms: int
    wanted_slice_ms: int
    idle_wanted_slice_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AllotmentRows:
    """All of them, each in canonical order."""

    allotments: tuple[AllotmentRow, ...] = ()
    unschedulable: tuple[UnschedulableRow, ...] = ()
    queues: tuple[QueueRow, ...] = ()
    clusters: tuple[ClusterRow, ...] = ()


NO_ROWS = AllotmentRows()
_JobKey = tuple[int, str | None, str, str, str, str | None, str | None, str | None]
_GIVEN = (State.BUSY, State.HELD, State.RESERVED)


@dataclass(slots=True)
class _Job:
    gpus: set[str]
    gpus_max: int = 0
    """Of a scheduler's: what it says."""
    slice_ms: int = 0
    busy: int = 0
    held: int = 0
    reserved: int = 0
    untold: int = 0


class Allotments:
    """Adds up rows over the cells of a span."""

    def __init__(self, scheduling: Scheduling) -> None:
        self._scheduling = scheduling
        self._jobs: dict[_JobKey, _Job] = {}
        self._closed: dict[tuple[int, str, str, str, Unschedulable, str | None, str | None, int | None], list[int]] = {}
        self._free: dict[tuple[str, int], int] = {}
        self._told: dict[tuple[int, str], dict[tuple[str, Grant], int]] = {}
        self._sites: dict[tuple[int, str], str] = {}

    def holds(self, entry: Entry, index: int | None, cell_ms: int) -> bool:
        """Return whether a job had the GPU with this index on its node for the whole cell."""
        if index is None or self._scheduling.is_empty:
            return False
        return any(index in (grant.indices or ()) for _, grant in self._scheduling.grants(entry.node, cell_ms))

    def add(
        self,
        cell_ms: int,
        entry: Entry,
        states: Mapping[State, int],
        index: int | None,
        workloads: Iterable[WorkloadTime],
    ) -> int:
        """Take in one installed GPU's cell; return how much of its free time was not schedulable."""
        grants = () if self._scheduling.is_empty else self._scheduling.grants(entry.node, cell_ms)
        own = [] if index is None else indices_of(grants).get(index, [])
        if grants:
            self._sites[cell_ms, entry.node] = entry.site
            told = self._told.setdefault((cell_ms, entry.node), dict.fromkeys(grants, 0))
            for grant in own:
                told[grant] += 1
        if own:
            self._add_told(cell_ms, entry, states, own)
        else:
            self._add_by_node(cell_ms, entry, states.get(State.RESERVED, 0), workloads)
        return 0 if self._scheduling.is_empty else self._add_free(cell_ms, entry, states.get(State.FREE, 0))

    def _job(self, cell_ms: int, site: str, node: str, cluster: str | None, grant: Grant) -> _Job:
        key = (
            floor_to(cell_ms, HOUR_MS),
            cluster,
            site,
            node,
            grant.job,
            grant.user,
            grant.account,
            grant.partition,
        )
        return self._jobs.setdefault(key, _Job(gpus=set()))

    def _add_told(
        self, cell_ms: int, entry: Entry, states: Mapping[State, int], own: Sequence[tuple[str, Grant]]
    ) -> None:
        parts = {state: share_equally(states.get(state, 0), len(own)) for state in _GIVEN}
        times = share_equally(CELL_SLICE_MS, len(own))
        for position, (cluster, grant) in enumerate(own):
            job = self._job(cell_ms, entry.site, entry.node, cluster, grant)
            job.gpus_max = max(job.gpus_max, grant.count)
            job.slice_ms += times[position]
            job.busy += parts[State.BUSY][position]
            job.held += parts[State.HELD][position]
            job.reserved += parts[State.RESERVED][position]

    def _add_by_node(self, cell_ms: int, entry: Entry, reserved: int, workloads: Iterable[WorkloadTime]) -> None:
        """Take in whom the node's own agent named for time without a process."""
        left = reserved
        for part in workloads if left > 0 else ():
            amount = min(part.state_slice_ms.get(State.RESERVED, 0), left)
            if amount > 0:
                grant = Grant(node=entry.node, job=part.workload, user=part.user, count=1)
                job = self._job(cell_ms, entry.site, entry.node, None, grant)
                job.gpus.add(entry.gpu)
                job.slice_ms += amount
                job.reserved += amount
                left -= amount

    def _add_free(self, cell_ms: int, entry: Entry, free: int) -> int:
        """Note a GPU's free time at the clusters that know its node; return what of it was not schedulable."""
        tagged = 0
        for cluster, fact in self._scheduling.node(entry.node, cell_ms):
            if fact.why is None:
                self._free[cluster, cell_ms] = self._free.get((cluster, cell_ms), 0) + free
                continue
            tagged = free
            hour_ms = floor_to(cell_ms, HOUR_MS)
            key = (hour_ms, cluster, entry.site, entry.node, fact.why, fact.reason, fact.by, fact.since_ms)
            sums = self._closed.setdefault(key, [0, 0])
            sums[0] += CELL_SLICE_MS
            sums[1] += free
        return tagged

    def close(self, start_ms: int, end_ms: int) -> AllotmentRows:
        """Return the rows of [start_ms, end_ms), all cells of which were added."""
        self._add_untold()
        queues, clusters = self._waiting(start_ms, end_ms)
        closed = [
            UnschedulableRow(
                hour_ms=hour_ms,
                cluster=cluster,
                site=site,
                node=node,
                why=why,
                reason=reason,
                by=by,
                since_ms=since_ms,
                slice_ms=sums[0],
                free_slice_ms=sums[1],
            )
            for (hour_ms, cluster, site, node, why, reason, by, since_ms), sums in self._closed.items()
        ]
        return AllotmentRows(
            allotments=tuple(sorted((_row(key, job) for key, job in self._jobs.items()), key=_order)),
            unschedulable=tuple(sorted(closed, key=_closed_order)),
            queues=queues,
            clusters=clusters,
        )

    def _add_untold(self) -> None:
        """Add the GPUs of jobs of which it is not known which they were."""
        for (cell_ms, node), told in self._told.items():
            site = self._sites[cell_ms, node]
            for (cluster, grant), count in told.items():
                untold = max(grant.count - count, 0)
                if untold > 0:
                    job = self._job(cell_ms, site, node, cluster, grant)
                    job.gpus_max = max(job.gpus_max, grant.count)
                    job.slice_ms += untold * CELL_SLICE_MS
                    job.untold += untold * CELL_SLICE_MS

    def _waiting(self, start_ms: int, end_ms: int) -> tuple[tuple[QueueRow, ...], tuple[ClusterRow, ...]]:
        queues: dict[tuple[int, str, str | None, str], list[int]] = {}
        clusters: dict[tuple[int, str], list[int]] = {}
        for cell_ms in range(start_ms, end_ms, CELL_MS):
            hour_ms = floor_to(cell_ms, HOUR_MS)
            wanted = dict.fromkeys(self._scheduling.clusters, 0)
            for cluster, queue in self._scheduling.queues(cell_ms):
                sums = queues.setdefault((hour_ms, cluster, queue.partition, queue.reason), [0, 0])
                sums[0] = max(sums[0], queue.jobs_max)
                sums[1] += queue.gpu_ms * SLICES_PER_GPU
                if queue.reason not in WILLING:
                    wanted[cluster] = wanted.get(cluster, 0) + queue.gpu_ms * SLICES_PER_GPU
            for cluster, amount in wanted.items():
                if not self._scheduling.is_known(cluster, cell_ms):
                    continue
                free = self._free.get((cluster, cell_ms), 0)
                totals = clusters.setdefault((hour_ms, cluster), [0, 0, 0, 0])
                for position, value in enumerate((CELL_MS, free, amount, min(free, amount))):
                    totals[position] += value
        return (
            tuple(
                QueueRow(
                    hour_ms=hour_ms,
                    cluster=cluster,
                    partition=partition,
                    reason=reason,
                    jobs_max=sums[0],
                    wanted_slice_ms=sums[1],
                )
                for (hour_ms, cluster, partition, reason), sums in sorted(queues.items(), key=_queue_order)
            ),
            tuple(
                ClusterRow(
                    hour_ms=hour_ms,
                    cluster=cluster,
                    known_ms=totals[0],
                    free_slice_ms=totals[1],
                    wanted_slice_ms=totals[2],
                    idle_wanted_slice_ms=totals[3],
                )
                for (hour_ms, cluster), totals in sorted(clusters.items())
            ),
        )


def _row(key: _JobKey, job: _Job) -> AllotmentRow:
    hour_ms, cluster, site, node, name, user, account, partition = key
    return AllotmentRow(
        hour_ms=hour_ms,
        cluster=cluster,
        site=site,
        node=node,
        job=name,
        user=user,
        account=account,
        partition=partition,
        gpus=max(job.gpus_max, len(job.gpus)),
        slice_ms=job.slice_ms,
        busy_slice_ms=job.busy,
        held_slice_ms=job.held,
        reserved_slice_ms=job.reserved,
        untold_slice_ms=job.untold,
    )


def _order(row: AllotmentRow) -> tuple[int, str, str, str, str, str, str, str]:
    return (
        row.hour_ms,
        row.cluster or "",
        row.node,
        row.job,
        row.user or "",
        row.account or "",
        row.partition or "",
        row.site,
    )


def _closed_order(row: UnschedulableRow) -> tuple[int, str, str, str, str, str, int, str]:
    return (
        row.hour_ms,
        row.cluster,
        row.node,
        row.why.value,
        row.reason or "",
        row.by or "",
        -1 if row.since_ms is None else row.since_ms,
        row.site,
    )


def _queue_order(item: tuple[tuple[int, str, str | None, str], list[int]]) -> tuple[int, str, str, str]:
    hour_ms, cluster, partition, reason = item[0]
    return hour_ms, cluster, partition or "", reason
