# SPDX-License-Identifier: Apache-2.0
"""Random lease books and scheduler views around a random fleet; the same seed gives the same ones."""

from __future__ import annotations

from random import Random
from typing import Any

from gpuledger.cells import CELL_MS
from gpuledger_collector.leases import LEASE_KINDS, Lease, LeaseBook
from gpuledger_collector.schedulers.view import Unschedulable
from gpuledger_collector.scheduling import Grant, NodeFact, Queue, Scheduling, Seen, Watched
from tests.fakes.fleets import Fleet
from tests.fakes.nodes import some_time

CLUSTERS = ("alpha", "beta")


def lease_book(fleet: Fleet, seed: int) -> LeaseBook:
    """Return leases of GPUs, of nodes and of numbers of a pool, which may contradict each other."""
    rng = Random(seed)
    start_ms, end_ms = fleet.start_ms - CELL_MS, fleet.end_ms + CELL_MS
    gpus = sorted({entry.gpu for entry in fleet.roster.entries}) or ["GPU-0"]
    nodes = sorted({entry.node for entry in fleet.roster.entries}) or ["node-0"]
    pools = sorted({(entry.pool, entry.site) for entry in fleet.roster.entries}) or [("unknown", "unknown")]
    is_whole = rng.random() < 0.5
    leases = []
    for number in range(rng.randint(0, 4)):
        from_ms = some_time(rng, start_ms, end_ms)
        facts: dict[str, Any] = {
            "name": f"L{number}",
            "tenant": rng.choice(("acme", "other")),
            "kind": rng.choice(LEASE_KINDS),
            "from_ms": from_ms,
            "to_ms": None if rng.random() < 0.5 else some_time(rng, from_ms + 1, end_ms + 1),
            "signed_ms": None if rng.random() < 0.5 else some_time(rng, start_ms, from_ms),
        }
        what = rng.choice(("gpus", "nodes", "pool"))
        if what == "gpus":
            facts["gpus"] = tuple(sorted(rng.sample(gpus, rng.randint(1, len(gpus)))))
        elif what == "nodes":
            facts["nodes"] = tuple(sorted(rng.sample(nodes, rng.randint(1, len(nodes)))))
        else:
            pool, site = rng.choice(pools)
            facts |= {"pool": pool, "site": None if is_whole else site, "count": rng.randint(1, len(gpus) + 1)}
        leases.append(Lease(**facts))
    return LeaseBook(leases, some_time(rng, start_ms, start_ms + 3 * CELL_MS))


def views(fleet: Fleet, seed: int) -> tuple[list[Watched], list[Seen]]:
    """Return what schedulers were seen to say, with breaks, of some of the nodes."""
    rng = Random(seed)
    start_ms, end_ms = fleet.start_ms - CELL_MS, fleet.end_ms + CELL_MS
    nodes = sorted({entry.node for entry in fleet.roster.entries}) or ["node-0"]
    watched: list[Watched] = []
    seen: list[Seen] = []
    for cluster in CLUSTERS[: rng.randint(0, 2)]:
        for cell_ms in range(start_ms, end_ms, CELL_MS):
            if rng.random() < 0.2:
                continue
            until_ms = cell_ms + (CELL_MS if rng.random() < 0.9 else rng.randint(1, CELL_MS))
            queues = tuple(
                Queue(
                    partition=rng.choice((None, "gpu", "long")),
                    reason=reason,
                    jobs_max=rng.randint(1, 9),
                    gpu_ms=rng.randint(0, 4 * CELL_MS),
                )
                for reason in rng.sample(("Resources", "Priority", "Dependency"), rng.randint(0, 2))
            )
            watched.append(Watched(cluster=cluster, from_ms=cell_ms, to_ms=until_ms, queues=queues))
        for number in range(rng.randint(0, 8)):
            from_ms = some_time(rng, start_ms, end_ms)
            to_ms = None if rng.random() < 0.5 else some_time(rng, from_ms, end_ms)
            fact = _grant(rng, nodes, number) if rng.random() < 0.6 else _node(rng, nodes)
            seen.append(Seen(cluster=cluster, fact=fact, from_ms=from_ms, to_ms=to_ms))
    return watched, seen


def scheduling(fleet: Fleet, seed: int) -> Scheduling:
    """Return them as the ledger takes them."""
    return Scheduling(*views(fleet, seed))


def _grant(rng: Random, nodes: list[str], number: int) -> Grant:
    indices = rng.choice((None, (0,), (3,), (0, 3), (1,)))
    return Grant(
        node=rng.choice(nodes),
        job=f"job-{number}",
        user=rng.choice((None, "someone")),
        account=rng.choice((None, "lab")),
        partition=rng.choice((None, "gpu")),
        count=rng.randint(1, 3) if indices is None else len(indices),
        indices=indices,
    )


def _node(rng: Random, nodes: list[str]) -> NodeFact:
    why = rng.choice((None, *Unschedulable))
    return NodeFact(
        node=rng.choice(nodes),
        why=why,
        reason=None if why is None else rng.choice((None, "bad fan")),
        since_ms=None if why is None else rng.choice((None, 5)),
    )
