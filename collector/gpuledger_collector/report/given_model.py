# SPDX-License-Identifier: Apache-2.0
"""What of free time could be sold, and the commercial axis against the states, as data of the report."""

from __future__ import annotations

from dataclasses import dataclass

from gpuledger.states import State
from gpuledger_collector.leases import Commercial


@dataclass(frozen=True, slots=True, kw_only=True)
class Sellable:
    """What of free time could have been sold: neither tag (accounting.md)."""

    free_slice_ms: int
    not_schedulable_slice_ms: int
    stranded_node_slice_ms: int
    stranded_mig_slice_ms: int
    sellable_slice_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StateBounds:
    """Time in one state, at least and at most."""

    state: State
    low_slice_ms: int
    high_slice_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class KindStates:
    """Installed time of one commercial kind; the kinds sum to installed time. `states` has those with time in any."""

    kind: Commercial
    slice_ms: int
    states: tuple[StateBounds, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseTime:
    """One lease: contracted, and of it at least and at most delivered, used, and sold but idle.

    `tenant` is None where no opening of its digest is known.
    """

    lease: str
    kind: Commercial
    tenant: str | None
    pools: tuple[str, ...]
    contracted_slice_ms: int
    delivered_low_slice_ms: int
    delivered_high_slice_ms: int
    used_low_slice_ms: int
    used_high_slice_ms: int
    idle_low_slice_ms: int
    idle_high_slice_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """All of it; empty where there is no lease book."""

    sellable: Sellable | None = None
    kinds: tuple[KindStates, ...] = ()
    leases: tuple[LeaseTime, ...] = ()
