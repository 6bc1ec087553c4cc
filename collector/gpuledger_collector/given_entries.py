# SPDX-License-Identifier: Apache-2.0
"""Entries of the log about leases, schedulers and settings: what they say, and how they are cut to fit. Pure.

Only changes are logged, and once a cell for how long a scheduler was looked at. Names of tenants, users, accounts and
jobs are digests (decision 28).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gpuledger_collector.leases import Commercial, Lease
from gpuledger_collector.parts import cut
from gpuledger_collector.schedulers.view import Unschedulable
from gpuledger_collector.scheduling import Grant, NodeFact, Queue

NAMES_CHARACTERS_MAX = 20_000
"""Of the GPUs and nodes of a lease in one entry; more come in further ones, which are added to the first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeasesEntry:
    """A change of the lease book: leases that left it, then such that came; replayed in order they give the book.

    From `from_ms` on the book is complete. A lease that is added under a name that is there has more GPUs or nodes.
    """

    from_ms: int
    removed: tuple[str, ...] = ()
    added: tuple[Lease, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A fact that was seen for the first time at `from_ms`; one of the two."""

    from_ms: int
    grant: Grant | None = None
    node: NodeFact | None = None

    @property
    def fact(self) -> Grant | NodeFact:
        found = self.node if self.grant is None else self.grant
        if found is None:
            raise ValueError("opens nothing")
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Closed:
    """A fact that was seen for the last time at `to_ms`: a job's at a node, or with `job` None the node's own."""

    to_ms: int
    node: str
    job: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleEntry:
    """One cluster's scheduler was looked at from `from_ms` to `to_ms` without a break; what changed, closed first.

    `queues` is what waited meanwhile. What is open and not closed stays so for as long as it is looked at.
    """

    cluster: str
    from_ms: int
    to_ms: int
    queues: tuple[Queue, ...] = ()
    closed: tuple[Closed, ...] = ()
    opened: tuple[Opened, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigurationEntry:
    """From here on the collector runs with these settings, of those that bear on figures; no secrets, no paths."""

    at_ms: int
    settings: Mapping[str, str]


def pack_leases(from_ms: int, removed: Sequence[str], added: Sequence[Lease]) -> Iterator[LeasesEntry]:
    """Yield entries that change the lease book, each with as much as fits; one at least."""
    pieces = [piece for lease in added for piece in _pieces(lease)]
    parts = list(cut(pieces)) or [()]
    for number, part in enumerate(parts):
        yield LeasesEntry(from_ms=from_ms, removed=tuple(removed) if number == 0 else (), added=part)


def _pieces(lease: Lease) -> Iterator[Lease]:
    """Yield the lease, divided where it has more names than an entry may hold."""
    gpus, nodes = list(_shorter(lease.gpus)), list(_shorter(lease.nodes))
    for number in range(max(len(gpus), len(nodes), 1)):
        yield replace(
            lease,
            gpus=gpus[number] if number < len(gpus) else (),
            nodes=nodes[number] if number < len(nodes) else (),
        )


def _shorter(names: Sequence[str]) -> Iterator[tuple[str, ...]]:
    part: list[str] = []
    room = NAMES_CHARACTERS_MAX
    for name in names:
        # Whatever is not ASCII takes up to six characters each, and a pair of quotes and a comma come with it.
        length = 6 * len(name) if not name.isascii() else len(name) + 3
        if part and length > room:
            yield tuple(part)
            part, room = [], NAMES_CHARACTERS_MAX
        part.append(name)
        room -= length
    if part:
        yield tuple(part)


def pack_schedule(
    cluster: str,
    span: tuple[int, int],
    queues: Sequence[Queue],
    closed: Sequence[Closed],
    opened: Sequence[Opened],
) -> Iterator[ScheduleEntry]:
    """Yield entries about one stretch of looks, each with as much as fits; the last says for how long it was."""
    from_ms, to_ms = span
    for closed_part in cut(closed):
        yield ScheduleEntry(cluster=cluster, from_ms=from_ms, to_ms=from_ms, closed=closed_part)
    for opened_part in cut(opened):
        yield ScheduleEntry(cluster=cluster, from_ms=from_ms, to_ms=from_ms, opened=opened_part)
    yield ScheduleEntry(cluster=cluster, from_ms=from_ms, to_ms=to_ms, queues=tuple(queues))


# ---------------------------------------------------------------------------------------------- decoding


def decode_leases(value: Mapping[str, Any]) -> LeasesEntry:
    """Return the entry of a JSON object; raises KeyError, TypeError and ValueError where it is none."""
    return LeasesEntry(
        from_ms=value["from_ms"],
        removed=tuple(value["removed"]),
        added=tuple(decode_lease(lease) for lease in value["added"]),
    )


def decode_lease(value: Mapping[str, Any]) -> Lease:
    """Return the lease of a JSON object."""
    known = dict(value)
    return Lease(
        **known | {"kind": Commercial(known["kind"]), "gpus": tuple(known["gpus"]), "nodes": tuple(known["nodes"])}
    )


def decode_schedule(value: Mapping[str, Any]) -> ScheduleEntry:
    """Return the entry of a JSON object; raises as decode_leases does."""
    return ScheduleEntry(
        cluster=value["cluster"],
        from_ms=value["from_ms"],
        to_ms=value["to_ms"],
        queues=tuple(Queue(**queue) for queue in value["queues"]),
        closed=tuple(Closed(**one) for one in value["closed"]),
        opened=tuple(_opened(one) for one in value["opened"]),
    )


def _opened(value: Mapping[str, Any]) -> Opened:
    grant, node = value["grant"], value["node"]
    return Opened(
        from_ms=value["from_ms"],
        grant=None if grant is None else decode_grant(grant),
        node=None if node is None else decode_node(node),
    )


def decode_grant(value: Mapping[str, Any]) -> Grant:
    """Return the grant of a JSON object."""
    known = dict(value)
    indices = known["indices"]
    return Grant(**known | {"indices": None if indices is None else tuple(indices)})


def decode_node(value: Mapping[str, Any]) -> NodeFact:
    """Return the node's fact of a JSON object."""
    known = dict(value)
    return NodeFact(**known | {"why": None if known["why"] is None else Unschedulable(known["why"])})


def decode_configuration(value: Mapping[str, Any]) -> ConfigurationEntry:
    """Return the entry of a JSON object; raises as decode_leases does."""
    return ConfigurationEntry(at_ms=value["at_ms"], settings=dict(value["settings"]))
