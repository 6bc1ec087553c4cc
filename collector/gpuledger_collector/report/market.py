# SPDX-License-Identifier: Apache-2.0
"""Builds what schedulers and leases say of idle time from a ledger's answers. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from gpuledger.cells import HOUR_MS
from gpuledger.states import State
from gpuledger_collector.figures import CommerceSum
from gpuledger_collector.leases import LEASE_KINDS, Commercial
from gpuledger_collector.node_figures import NodeTime, ReportReader
from gpuledger_collector.report.market_model import (
    IdleWhileWaiting,
    KindTime,
    Market,
    NotSchedulableNode,
    Queue,
    ReservedJob,
    RosterBridge,
    SoldIdle,
    StrandedNode,
)


def build_market(reader: ReportReader, start_ms: int, end_ms: int, to_ms: int, nodes: Sequence[NodeTime]) -> Market:
    """Return it for [start_ms, end_ms), of which the ledger accounts for what is before `to_ms`."""
    commerce = reader.commerce(start_ms, end_ms)
    clusters = reader.clusters(start_ms, end_ms)
    bridge = reader.bridge(start_ms, end_ms)
    return Market(
        has_scheduler=bool(clusters),
        has_leases=any(row.kind is not Commercial.UNDECLARED for row in commerce),
        not_schedulable=_not_schedulable(reader, start_ms, end_ms, to_ms),
        stranded=_stranded(nodes),
        queues=tuple(
            Queue(
                cluster=row.cluster,
                partition=row.partition,
                reason=row.reason,
                jobs_max=row.jobs_max,
                wanted_slice_ms=row.wanted_slice_ms,
            )
            for row in reader.queues(start_ms, end_ms)
        ),
        waiting=tuple(
            IdleWhileWaiting(
                cluster=row.cluster,
                known_ms=row.known_ms,
                free_slice_ms=row.free_slice_ms,
                wanted_slice_ms=row.wanted_slice_ms,
                idle_wanted_slice_ms=row.idle_wanted_slice_ms,
            )
            for row in clusters
        ),
        reserved_jobs=_reserved_jobs(reader, start_ms, end_ms),
        sold_idle=_sold_idle(commerce),
        kinds=_kinds(commerce),
        bridge=None
        if bridge is None
        else RosterBridge(opening=bridge.opening, added=bridge.added, retired=bridge.retired, closing=bridge.closing),
    )


def _not_schedulable(reader: ReportReader, start_ms: int, end_ms: int, to_ms: int) -> tuple[NotSchedulableNode, ...]:
    return tuple(
        NotSchedulableNode(
            cluster=row.cluster,
            site=row.site,
            node=row.node,
            why=row.why.value,
            reason=row.reason,
            by_name=row.by_name,
            by_digest=row.by,
            since_ms=row.since_ms,
            free_slice_ms=row.free_slice_ms,
            all_slice_ms=row.slice_ms,
            is_at_end=row.last_hour_ms + HOUR_MS >= to_ms,
        )
        for row in reader.not_schedulable(start_ms, end_ms)
    )


def _stranded(nodes: Iterable[NodeTime]) -> tuple[StrandedNode, ...]:
    rows = [
        StrandedNode(
            site=node.site,
            pool=node.pool,
            node=node.node,
            gpus=node.gpus,
            beside_used_slice_ms=node.tags.stranded_node_slice_ms,
            mig_slice_ms=node.tags.stranded_mig_slice_ms,
            free_slice_ms=node.slice_ms(State.FREE),
        )
        for node in nodes
        if node.tags.stranded_slice_ms > 0
    ]
    return tuple(sorted(rows, key=lambda row: (-row.beside_used_slice_ms - row.mig_slice_ms, row.site, row.node)))


def _reserved_jobs(reader: ReportReader, start_ms: int, end_ms: int) -> tuple[ReservedJob, ...]:
    return tuple(
        ReservedJob(
            cluster=row.cluster,
            site=row.site,
            node=row.node,
            job_name=row.job_name,
            job_digest=row.job,
            user_name=row.user_name,
            user_digest=row.user,
            account_name=row.account_name,
            account_digest=row.account,
            gpus=row.gpus,
            reserved_slice_ms=row.reserved_slice_ms,
            all_slice_ms=row.slice_ms,
            first_hour_ms=row.first_hour_ms,
            last_hour_ms=row.last_hour_ms,
        )
        for row in reader.allotments(start_ms, end_ms)
        if row.reserved_slice_ms > 0
    )


def _sold_idle(commerce: Iterable[CommerceSum]) -> tuple[SoldIdle, ...]:
    rows = [
        SoldIdle(
            tenant_name=row.tenant_name,
            tenant_digest=row.tenant,
            lease=row.lease,
            kind=row.kind.value,
            site=row.site,
            pool=row.pool,
            leased_slice_ms=row.slice_ms,
            idle_low_slice_ms=row.sold_idle[0],
            idle_high_slice_ms=row.sold_idle[1],
            dark_low_slice_ms=row.low_slice_ms.get(State.DARK, 0),
            dark_high_slice_ms=row.high_slice_ms.get(State.DARK, 0),
        )
        for row in commerce
        if row.kind in LEASE_KINDS and row.lease is not None
    ]
    return tuple(sorted(rows, key=lambda row: (-row.idle_high_slice_ms, row.lease, row.site or "", row.pool)))


def _kinds(commerce: Sequence[CommerceSum]) -> tuple[KindTime, ...]:
    rows = []
    for kind in Commercial:
        found = [row for row in commerce if row.kind is kind]
        if found:
            rows.append(
                KindTime(
                    kind=kind.value,
                    slice_ms=sum(row.slice_ms for row in found),
                    used_low_slice_ms=sum(row.used[0] for row in found),
                    used_high_slice_ms=sum(row.used[1] for row in found),
                )
            )
    return tuple(rows)
