# SPDX-License-Identifier: Apache-2.0
"""Builds what of free time could be sold, and the commercial axis against the states, from a ledger's answers. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from gpuledger.states import State
from gpuledger_collector.figures import CommerceSum, Group, SideReader
from gpuledger_collector.leases import Commercial
from gpuledger_collector.report.given_model import (
    Given,
    KindStates,
    LeaseTime,
    Sellable,
    StateBounds,
)
from gpuledger_collector.spare import add_tags


def build_given(reader: SideReader, start_ms: int, end_ms: int, whole: Sequence[Group]) -> Given:
    """Return what is known; `whole` is the sum of the fleet, if it has any time."""
    span = start_ms, end_ms
    shares = reader.commerce(*span)
    is_declared = any(share.kind is not Commercial.UNDECLARED for share in shares)
    return Given(
        sellable=_sellable(whole) if shares else None,
        kinds=_kinds(shares) if is_declared else (),
        leases=_leases(shares),
    )


def _sellable(whole: Sequence[Group]) -> Sellable | None:
    if not whole:
        return None
    free = sum(group.account.slice_ms(State.FREE) for group in whole)
    tags = add_tags(group.tags for group in whole)
    return Sellable(
        free_slice_ms=free,
        not_schedulable_slice_ms=tags.not_schedulable_slice_ms,
        stranded_node_slice_ms=tags.stranded_node_slice_ms,
        stranded_mig_slice_ms=tags.stranded_mig_slice_ms,
        sellable_slice_ms=tags.sellable_of(free),
    )


def _kinds(shares: Sequence[CommerceSum]) -> tuple[KindStates, ...]:
    found = []
    for kind in Commercial:
        own = [share for share in shares if share.kind is kind]
        bounds = [
            StateBounds(
                state=state,
                low_slice_ms=sum(share.low_slice_ms.get(state, 0) for share in own),
                high_slice_ms=sum(share.high_slice_ms.get(state, 0) for share in own),
            )
            for state in State
        ]
        if own:
            states = tuple(bound for bound in bounds if bound.high_slice_ms > 0)
            found.append(KindStates(kind=kind, slice_ms=sum(share.slice_ms for share in own), states=states))
    return tuple(found)


def _leases(shares: Sequence[CommerceSum]) -> tuple[LeaseTime, ...]:
    by_lease: dict[str, list[CommerceSum]] = {}
    for share in shares:
        if share.lease is not None:
            by_lease.setdefault(share.lease, []).append(share)
    found = [
        LeaseTime(
            lease=lease,
            kind=own[0].kind,
            tenant=own[0].tenant_name,
            pools=tuple(sorted({share.pool for share in own})),
            contracted_slice_ms=sum(share.slice_ms for share in own),
            delivered_low_slice_ms=sum(share.delivered[0] for share in own),
            delivered_high_slice_ms=sum(share.delivered[1] for share in own),
            used_low_slice_ms=sum(share.used[0] for share in own),
            used_high_slice_ms=sum(share.used[1] for share in own),
            idle_low_slice_ms=sum(share.sold_idle[0] for share in own),
            idle_high_slice_ms=sum(share.sold_idle[1] for share in own),
        )
        for lease, own in by_lease.items()
    ]
    return tuple(sorted(found, key=lambda one: (-one.contracted_slice_ms, one.lease)))
