# SPDX-License-Identifier: Apache-2.0
"""What reports ask of a ledger about each node, and of a part of the fleet: sums made where the rows are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from gpuledger.states import State
from gpuledger_collector.figures import Group, Reader
from gpuledger_collector.spare import NO_TAGS, FreeTags


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeTime:
    """All time of one node in one pool, and the hours (named by their start) that tell since when it is how.

    `last_seen_hour_ms` is the last hour in which anything was observed or declared, `last_unfree_hour_ms` the last in
    which any of it was anything but free; None where there was none.
    """

    site: str
    pool: str
    node: str
    gpus: int
    first_hour_ms: int
    last_hour_ms: int
    first_dark_hour_ms: int | None
    last_seen_hour_ms: int | None
    last_unfree_hour_ms: int | None
    state_slice_ms: Mapping[State, int]
    energy_mj: Mapping[str, int]
    tags: FreeTags = NO_TAGS

    @property
    def installed_slice_ms(self) -> int:
        return sum(self.state_slice_ms.values())

    def slice_ms(self, *states: State) -> int:
        """Return the sum over the given states."""
        return sum(self.state_slice_ms.get(state, 0) for state in states)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeDay:
    """How idle one node was on one UTC day: at least idle, at most that and what is unknown (of it: dark)."""

    site: str
    node: str
    day_ms: int
    idle_slice_ms: int
    unknown_slice_ms: int
    dark_slice_ms: int
    installed_slice_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DownTime:
    """One GPU's time in which it was down."""

    site: str
    node: str
    gpu: str
    slice_ms: int
    installed_slice_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """A part of the fleet: rows of any of the sites, and of the pools, and so on; empty means all.

    `gpus` and `nodes` belong together: rows of one of the GPUs or at one of the nodes. None means all; with both empty
    no row is meant.
    """

    sites: tuple[str, ...] = ()
    pools: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    gpus: tuple[str, ...] | None = None
    nodes: tuple[str, ...] | None = None

    def holds(self, *, site: str, pool: str, model: str | None, node: str, gpu: str) -> bool:
        """Return whether a row is of this part of the fleet."""
        is_named = gpu in (self.gpus or ()) or node in (self.nodes or ())
        if not is_named and (self.gpus is not None or self.nodes is not None):
            return False
        wanted = ((self.sites, site), (self.pools, pool), (self.models, model or ""))
        return all(not names or name in names for names, name in wanted)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportSums:
    """All of a period's time, grouped in the ways that a report needs, each sorted by key.

    Keys: none; (site, model); (site,); (day_ms,); (hour_ms,); (site, model, hour_ms). In the last two `gpus` counts a
    GPU that moved within an hour at both of its nodes.
    """

    whole: list[Group]
    places: list[Group]
    sites: list[Group]
    days: list[Group]
    hours: list[Group]
    place_hours: list[Group]


class ReportReader(Reader, Protocol):
    """What a report asks beside that: sums for each node and GPU, made where the rows are."""

    def report_sums(self, start_ms: int, end_ms: int) -> ReportSums: ...

    def node_times(self, start_ms: int, end_ms: int) -> list[NodeTime]: ...

    def node_days(self, start_ms: int, end_ms: int) -> list[NodeDay]: ...

    def down_gpus(self, start_ms: int, end_ms: int) -> list[DownTime]:
        """Return every GPU with down time, the most first."""
        ...

    def rows_version(self, start_ms: int, end_ms: int) -> str:
        """Return a text that changes when any row of the span does."""
        ...

    def report_digest(self, start_ms: int, end_ms: int) -> tuple[str, bool]:
        """Return a digest of what is reported, and whether it is that of the rows (else of the files)."""
        ...

    def within(self, scope: Scope) -> ReportReader:
        """Return the same ledger with only the rows of a scope, and what was found about them; digests stay."""
        ...
