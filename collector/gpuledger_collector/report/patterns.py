# SPDX-License-Identifier: Apache-2.0
"""Where and when time was idle, and how much of a node was asked for: heat maps and the shape of demand. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from gpuledger.cells import DAY_MS, HOUR_MS
from gpuledger.states import IDLE, UNKNOWN, State
from gpuledger_collector.figures import Group, Holding
from gpuledger_collector.node_figures import NodeDay, NodeTime
from gpuledger_collector.report.model import Demand, DemandRow, HeatCell, HeatRow, HourOfWeek

HOURS_OF_WEEK = 168
_THURSDAY = 3
"""The day of the week at the beginning of POSIX time."""


def build_heat_days(node_days: Iterable[NodeDay], days_ms: Sequence[int]) -> tuple[HeatRow, ...]:
    """Return one row a node, the most idle first, with a cell for each of the days."""
    by_node: dict[tuple[str, str], dict[int, NodeDay]] = {}
    for row in node_days:
        by_node.setdefault((row.site, row.node), {})[row.day_ms] = row
    rows = [
        (
            sum(day.idle_slice_ms for day in days.values()),
            HeatRow(site=site, node=node, cells=tuple(_cell(days.get(day_ms)) for day_ms in days_ms)),
        )
        for (site, node), days in by_node.items()
    ]
    return tuple(row for _, row in sorted(rows, key=lambda pair: (-pair[0], pair[1].site, pair[1].node)))


def _cell(day: NodeDay | None) -> HeatCell | None:
    if day is None or day.installed_slice_ms == 0:
        return None
    return HeatCell(
        idle_slice_ms=day.idle_slice_ms,
        unknown_slice_ms=day.unknown_slice_ms,
        dark_slice_ms=day.dark_slice_ms,
        installed_slice_ms=day.installed_slice_ms,
    )


def build_heat_hours(hours: Iterable[Group]) -> tuple[HourOfWeek, ...]:
    """Return the sums by hour of the week of groups whose key is (hour_ms,)."""
    sums: dict[int, list[int]] = {}
    for group in hours:
        account = group.account
        amounts = (
            account.slice_ms(State.BUSY),
            account.slice_ms(*IDLE),
            account.slice_ms(*UNKNOWN),
            account.slice_ms(State.DARK),
            account.installed_slice_ms,
        )
        found = sums.setdefault(hour_of_week(int(group.key[0])), [0] * len(amounts))
        for index, amount in enumerate(amounts):
            found[index] += amount
    return tuple(
        HourOfWeek(
            hour=hour,
            busy_slice_ms=busy,
            idle_slice_ms=idle,
            unknown_slice_ms=unknown,
            dark_slice_ms=dark,
            installed_slice_ms=installed,
        )
        for hour, (busy, idle, unknown, dark, installed) in sorted(sums.items())
        if installed > 0
    )


def hour_of_week(time_ms: int) -> int:
    """Return the hour from Monday 00:00 UTC on."""
    return (time_ms // HOUR_MS + _THURSDAY * (DAY_MS // HOUR_MS)) % HOURS_OF_WEEK


def build_demand(holdings: Iterable[Holding], nodes: Iterable[NodeTime]) -> tuple[DemandRow, ...]:
    """Return how workloads shared nodes: those that had whole nodes, several GPUs, or one (of a node of more)."""
    gpus: dict[tuple[str, str], int] = {}
    for node in nodes:
        gpus[node.site, node.node] = max(node.gpus, gpus.get((node.site, node.node), 0))
    sums: dict[Demand, list[int]] = {demand: [0, 0, 0] for demand in Demand}
    for holding in holdings:
        found = sums[_demand(holding, gpus)]
        found[0] += 1
        found[1] += holding.busy_slice_ms
        found[2] += holding.held_slice_ms
    return tuple(
        DemandRow(demand=demand, workloads=count, busy_slice_ms=busy, held_slice_ms=held)
        for demand, (count, busy, held) in sums.items()
        if count > 0
    )


def _demand(holding: Holding, gpus: Mapping[tuple[str, str], int]) -> Demand:
    if holding.gpus >= gpus.get((holding.site, holding.node), holding.gpus):
        return Demand.WHOLE_NODE
    return Demand.SEVERAL if holding.gpus > 1 else Demand.ONE
