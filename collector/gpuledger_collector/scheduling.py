# SPDX-License-Identifier: Apache-2.0
"""What schedulers were seen to have decided, and for which time that is known. Pure.

A scheduler is looked at about once a minute. What two looks in a row saw was so in between; a break in the looks is
time for which nothing is known, and nothing is assumed. Only whole cells count.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from gpuledger.cells import CELL_MS
from gpuledger_collector.schedulers.view import Unschedulable


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """GPUs of one node that a job has. `job`, `user` and `account` are digests of names.

    `indices` are the scheduler's own, None where it does not say which; `count` is how many there are.
    """

    node: str
    job: str
    user: str | None = None
    account: str | None = None
    partition: str | None = None
    count: int
    indices: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFact:
    """A node that the scheduler knows. `why` None: it takes new work; `by` is the digest of a name."""

    node: str
    why: Unschedulable | None = None
    reason: str | None = None
    by: str | None = None
    since_ms: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """Jobs that wait for GPUs for one reason: the most at a time, and the GPU time that they wanted meanwhile."""

    partition: str | None
    reason: str
    jobs_max: int
    gpu_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A fact in time: seen from the look at `from_ms` to the one at `to_ms`; None: by the last look, too."""

    cluster: str
    fact: Grant | NodeFact
    from_ms: int
    to_ms: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """A cluster was looked at from `from_ms` to `to_ms`, within one cell, without a break; `queues` waited then."""

    cluster: str
    from_ms: int
    to_ms: int
    queues: tuple[Queue, ...] = ()


class Scheduling:
    """What is known of all clusters in some span of time; asked cell by cell."""

    def __init__(self, watched: Iterable[Watched] = (), seen: Iterable[Seen] = ()) -> None:
        self._watched: dict[str, list[tuple[int, int]]] = {}
        self._queues: dict[int, list[tuple[str, Queue]]] = {}
        for stretch in sorted(watched, key=lambda one: (one.cluster, one.from_ms, one.to_ms)):
            _extend(self._watched.setdefault(stretch.cluster, []), stretch.from_ms, stretch.to_ms)
            if stretch.queues:
                # Whoever looks cuts stretches at the edges of cells.
                cell_ms = stretch.from_ms - stretch.from_ms % CELL_MS
                self._queues.setdefault(cell_ms, []).extend((stretch.cluster, queue) for queue in stretch.queues)
        self._grants: dict[str, list[tuple[Seen, Grant]]] = {}
        self._nodes: dict[str, list[tuple[Seen, NodeFact]]] = {}
        for one in sorted(seen, key=lambda one: (one.cluster, one.fact.node, one.from_ms)):
            if isinstance(one.fact, Grant):
                self._grants.setdefault(one.fact.node, []).append((one, one.fact))
            else:
                self._nodes.setdefault(one.fact.node, []).append((one, one.fact))

    @property
    def is_empty(self) -> bool:
        """Return whether no scheduler was looked at."""
        return not self._watched

    @property
    def clusters(self) -> tuple[str, ...]:
        return tuple(self._watched)

    def is_known(self, cluster: str, cell_ms: int) -> bool:
        """Return whether the cluster was looked at without a break for the whole cell."""
        return any(
            from_ms <= cell_ms and cell_ms + CELL_MS <= to_ms for from_ms, to_ms in self._watched.get(cluster, ())
        )

    def grants(self, node: str, cell_ms: int) -> list[tuple[str, Grant]]:
        """Return which jobs had GPUs of the node for the whole cell, by cluster, in order of cluster and job."""
        found = [(one.cluster, grant) for one, grant in self._grants.get(node, ()) if self._holds(one, cell_ms)]
        return sorted(found, key=lambda item: (item[0], item[1].job)) if len(found) > 1 else found

    def node(self, node: str, cell_ms: int) -> list[tuple[str, NodeFact]]:
        """Return what each cluster that knows the node said of it for the whole cell."""
        return [(one.cluster, fact) for one, fact in self._nodes.get(node, ()) if self._holds(one, cell_ms)]

    def queues(self, cell_ms: int) -> list[tuple[str, Queue]]:
        """Return what waited in the cell, by cluster."""
        return self._queues.get(cell_ms, [])

    def _holds(self, one: Seen, cell_ms: int) -> bool:
        if one.from_ms > cell_ms or (one.to_ms is not None and one.to_ms < cell_ms + CELL_MS):
            return False
        return self.is_known(one.cluster, cell_ms)


NOTHING_SEEN = Scheduling()


def indices_of(grants: Iterable[tuple[str, Grant]]) -> Mapping[int, list[tuple[str, Grant]]]:
    """Return who has which of a node's GPUs, by the scheduler's index; those that are told only as counts are not."""
    found: dict[int, list[tuple[str, Grant]]] = {}
    for cluster, grant in grants:
        for index in grant.indices or ():
            found.setdefault(index, []).append((cluster, grant))
    return found


def _extend(stretches: list[tuple[int, int]], from_ms: int, to_ms: int) -> None:
    """Add a stretch to those before it, in order; stretches that touch are one."""
    if stretches and from_ms <= stretches[-1][1]:
        stretches[-1] = stretches[-1][0], max(stretches[-1][1], to_ms)
    else:
        stretches.append((from_ms, to_ms))
