# SPDX-License-Identifier: Apache-2.0
"""What schedulers say, look by look, brought into the log: once for every cell, and only what changed.

A look holds back to the one before it, as a tick of the agent does, if they are at most GAP_MS_MAX apart. What both saw
was so in between; what waited for GPUs in both did so in between, as much as in the lesser. After a longer gap, or a
restart, what was seen before and is there still is one fact with a hole in what is known of it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from gpuledger.cells import CELL_MS, floor_to
from gpuledger.errors import GpuledgerError
from gpuledger_collector.beside import Beside
from gpuledger_collector.catalog import Catalog
from gpuledger_collector.given_entries import Closed, Opened, ScheduleEntry, pack_schedule
from gpuledger_collector.names import Namer
from gpuledger_collector.schedulers.view import Allocation, ClusterView, NodeState, Pending
from gpuledger_collector.scheduling import Grant, NodeFact, Queue

GAP_MS_MAX = 180_000
FACTS_MAX = 200_000
"""Nodes and jobs of one cluster at a time; some 300 bytes of the log for each when it comes, 60 when it goes."""
QUEUES_MAX = 100
"""Pairs of partition and reason of one cell; what is beyond is added up as REST."""
INDICES_MAX = 64
REST = "other reasons"
TEXT_CHARACTERS_MAX = 200

logger = logging.getLogger(__name__)

_FactKey = tuple[str, str | None]
_QueueKey = tuple[str | None, str]
_Waiting = Mapping[_QueueKey, tuple[int, int]]
"""Jobs and GPUs wanted."""


class ViewTooLarge(GpuledgerError):
    """A scheduler names more jobs and nodes than are kept."""


@dataclass(slots=True)
class _Cluster:
    """What is known of one cluster; `last_ms` is the last look, None before the first of this run."""

    facts: dict[_FactKey, Grant | NodeFact] = field(default_factory=dict)
    waiting: _Waiting = field(default_factory=dict)
    last_ms: int | None = None
    from_ms: int = 0
    """From when on the stretch of looks is not logged."""
    opened: dict[_FactKey, Opened] = field(default_factory=dict)
    closed: list[Closed] = field(default_factory=list)
    queues: dict[_QueueKey, tuple[int, int]] = field(default_factory=dict)
    """The most jobs at a time, and GPU-ms, since `from_ms`."""


class ScheduleBook:
    """Takes in one look after the other; safe to use from several threads.

    With `entries_at_once` a past that is played is logged in batches of so many; what is not logged yet, `finish` logs.
    """

    def __init__(self, catalog: Catalog, namer: Namer, entries_at_once: int = 1) -> None:
        self._entries_at_once = entries_at_once
        self._held: list[ScheduleEntry] = []
        self._catalog = catalog
        self._store = catalog.store
        self._namer = namer
        self._clusters: dict[str, _Cluster] = {}
        self._mutex = threading.Lock()

    def take(self, view: ClusterView) -> None:
        """Take in a look; logs what came before the cell it is in. Raises StorageError, and ViewTooLarge."""
        with self._mutex:
            cluster = self._known(view.cluster)
            if cluster.last_ms is not None and view.at_ms <= cluster.last_ms:
                return  # A clock that was set back: until it has caught up nothing is known.
            facts, waiting = self._read(view)
            entries: list[ScheduleEntry] = []
            if cluster.last_ms is not None and view.at_ms - cluster.last_ms <= GAP_MS_MAX:
                self._close_missing(cluster, facts, cluster.last_ms)
                entries += self._advance(view.cluster, cluster, waiting, view.at_ms)
            else:
                last_ms = self._store.watched_to_ms(view.cluster) if cluster.last_ms is None else cluster.last_ms
                self._close_missing(cluster, facts, view.at_ms if last_ms is None else last_ms)
                entries += self._end_stretch(view.cluster, cluster)
                cluster.from_ms = view.at_ms
            for key, fact in facts.items():
                if key not in cluster.facts:
                    cluster.opened[key] = _opened(fact, view.at_ms)
            cluster.facts, cluster.waiting, cluster.last_ms = facts, waiting, view.at_ms
            try:
                self._log(entries, view.at_ms)
            except GpuledgerError:
                del self._clusters[view.cluster]  # The next look goes on from what is logged.
                raise

    def finish(self, now_ms: int) -> None:
        """Log what was looked at and is not logged yet: the end of a run."""
        with self._mutex:
            entries = [one for name, known in self._clusters.items() for one in self._end_stretch(name, known)]
            self._entries_at_once = 1
            self._log(entries, now_ms)

    def _known(self, name: str) -> _Cluster:
        found = self._clusters.get(name)
        if found is None:
            facts = {_key(seen.fact): seen.fact for seen in self._store.open_facts(name)}
            found = self._clusters[name] = _Cluster(facts=facts)
        return found

    def _log(self, entries: list[ScheduleEntry], now_ms: int) -> None:
        held = [*self._held, *entries]
        if not held or len(held) < self._entries_at_once:
            self._held = held
            return
        openings = Beside(openings=self._namer.take_openings())
        self._catalog.commit(held, now_ms=now_ms, besides=[openings])
        self._held = []

    # ------------------------------------------------------------------------------------------ one look

    def _read(self, view: ClusterView) -> tuple[dict[_FactKey, Grant | NodeFact], _Waiting]:
        if len(view.nodes) + len(view.allocations) > FACTS_MAX:
            raise ViewTooLarge(f"cluster {view.cluster} has more than {FACTS_MAX} nodes and jobs")
        facts: dict[_FactKey, Grant | NodeFact] = {(node, None): NodeFact(node=node) for node in view.nodes}
        for state in view.unschedulable:
            facts[state.node, None] = self._node(state)
        for allocation in view.allocations:
            grant = self._grant(allocation)
            known = facts.get((grant.node, grant.job))
            facts[grant.node, grant.job] = grant if not isinstance(known, Grant) else _joined(known, grant)
        return facts, _waiting_in(view.pending)

    def _node(self, state: NodeState) -> NodeFact:
        return NodeFact(
            node=state.node,
            why=state.why,
            reason=state.reason,
            by=self._namer.digest_or_none(state.by),
            since_ms=state.since_ms,
        )

    def _grant(self, allocation: Allocation) -> Grant:
        indices = allocation.indices
        return Grant(
            node=allocation.node,
            job=self._namer.digest(allocation.job),
            user=self._namer.digest_or_none(allocation.user),
            account=self._namer.digest_or_none(allocation.account),
            partition=_short(allocation.partition),
            count=allocation.count,
            indices=indices if indices is None or len(indices) <= INDICES_MAX else None,
        )

    # ------------------------------------------------------------------------------------------ stretches

    def _close_missing(self, cluster: _Cluster, facts: Mapping[_FactKey, Grant | NodeFact], last_ms: int) -> None:
        for key, fact in cluster.facts.items():
            if facts.get(key) == fact:
                continue
            # What came and went between two edges was there in no whole cell, and is not logged.
            if cluster.opened.pop(key, None) is None:
                cluster.closed.append(Closed(node=key[0], job=key[1], to_ms=last_ms))
        cluster.facts = {key: fact for key, fact in cluster.facts.items() if facts.get(key) == fact}

    def _advance(self, name: str, cluster: _Cluster, waiting: _Waiting, at_ms: int) -> Iterator[ScheduleEntry]:
        """Extend the stretch to a look, and log it cell by cell where an edge lies in between."""
        last_ms = at_ms if cluster.last_ms is None else cluster.last_ms
        while (edge_ms := floor_to(last_ms, CELL_MS) + CELL_MS) <= at_ms:
            _wait(cluster, waiting, edge_ms - last_ms)
            cluster.last_ms = edge_ms
            yield from self._end_stretch(name, cluster)
            cluster.from_ms = last_ms = edge_ms
        _wait(cluster, waiting, at_ms - last_ms)

    def _end_stretch(self, name: str, cluster: _Cluster) -> Iterator[ScheduleEntry]:
        if cluster.last_ms is None or (cluster.last_ms <= cluster.from_ms and not cluster.closed):
            return
        queues = [
            Queue(partition=partition, reason=reason, jobs_max=jobs, gpu_ms=gpu_ms)
            for (partition, reason), (jobs, gpu_ms) in sorted(cluster.queues.items(), key=_queue_order)
        ]
        span = cluster.from_ms, cluster.last_ms
        yield from pack_schedule(name, span, _bounded(queues), cluster.closed, list(cluster.opened.values()))
        cluster.closed, cluster.opened, cluster.queues = [], {}, {}


def _key(fact: Grant | NodeFact) -> _FactKey:
    return fact.node, fact.job if isinstance(fact, Grant) else None


def _opened(fact: Grant | NodeFact, at_ms: int) -> Opened:
    return Opened(from_ms=at_ms, grant=fact) if isinstance(fact, Grant) else Opened(from_ms=at_ms, node=fact)


def _joined(one: Grant, other: Grant) -> Grant:
    """Return what a job that stands twice for one node has there."""
    indices = None
    if one.indices is not None and other.indices is not None:
        indices = tuple(sorted({*one.indices, *other.indices}))
    return Grant(
        node=one.node,
        job=one.job,
        user=one.user,
        account=one.account,
        partition=one.partition,
        count=one.count + other.count,
        indices=indices,
    )


def _waiting_in(pending: tuple[Pending, ...]) -> _Waiting:
    found: dict[_QueueKey, tuple[int, int]] = {}
    for job in pending:
        key = _short(job.partition), job.reason[:TEXT_CHARACTERS_MAX]
        jobs, gpus = found.get(key, (0, 0))
        found[key] = jobs + job.tasks, gpus + job.tasks * job.gpus
    return found


def _wait(cluster: _Cluster, waiting: _Waiting, time_ms: int) -> None:
    """Add the time between two looks to the queues: of what waited in both, the lesser."""
    for key in cluster.waiting.keys() & waiting.keys():
        jobs = min(cluster.waiting[key][0], waiting[key][0])
        gpus = min(cluster.waiting[key][1], waiting[key][1])
        most, gpu_ms = cluster.queues.get(key, (0, 0))
        cluster.queues[key] = max(most, jobs), gpu_ms + gpus * time_ms


def _bounded(queues: list[Queue]) -> list[Queue]:
    """Return at most QUEUES_MAX of them: those that wanted most, and one for all others."""
    if len(queues) <= QUEUES_MAX:
        return queues
    kept = sorted(queues, key=lambda queue: -queue.gpu_ms)[: QUEUES_MAX - 1]
    rest = [queue for queue in queues if queue not in kept]
    return [
        *kept,
        Queue(
            partition=None,
            reason=REST,
            jobs_max=sum(queue.jobs_max for queue in rest),
            gpu_ms=sum(queue.gpu_ms for queue in rest),
        ),
    ]


def _queue_order(item: tuple[_QueueKey, tuple[int, int]]) -> tuple[str, str]:
    return item[0][0] or "", item[0][1]


def _short(text: str | None) -> str | None:
    return None if text is None else text[:TEXT_CHARACTERS_MAX]
