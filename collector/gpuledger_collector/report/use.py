# SPDX-License-Identifier: Apache-2.0
"""What GPU time was used for, from a ledger's demand to the report's model. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from gpuledger_collector.classify.demand import Demand
from gpuledger_collector.classify.kinds import Kind
from gpuledger_collector.report.use_model import KindUse, Use, UseHour, UseWeek

UseReader = Callable[[int, int], Demand | None]
"""Tells the demand of [start_ms, end_ms); raises ValueError where the ledger was written to meanwhile."""


def build_use(demand: Demand) -> Use:
    """Return the model of what GPU time was used for."""
    return Use(
        kinds=tuple(
            KindUse(
                kind=one.kind,
                busy_slice_ms=one.busy_slice_ms,
                held_slice_ms=one.held_slice_ms,
                whole_node_slice_ms=one.whole_slice_ms,
                burstiness_percent=None if one.burstiness is None else round(one.burstiness * 100),
            )
            for one in demand.kinds
        ),
        weeks=tuple(
            UseWeek(start_ms=week.start_ms, is_whole=week.is_whole, **_by_name(week.slice_ms)) for week in demand.weeks
        ),
        hours=tuple(
            UseHour(hour=number, **_by_name(hour))
            for number, hour in enumerate(demand.hours_of_week)
            if hour is not None
        ),
    )


def _by_name(amounts: Mapping[Kind, int]) -> dict[str, int]:
    return {f"{kind.value}_slice_ms": amounts.get(kind, 0) for kind in Kind}
