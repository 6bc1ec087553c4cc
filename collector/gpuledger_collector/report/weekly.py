# SPDX-License-Identifier: Apache-2.0
"""Builds the weekly report from a ledger's answers. Pure: the same ledger and week give the same report."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from gpuledger.accounting import COVERAGE_FLOOR, Account, add
from gpuledger.cells import CELL_MS, DAY_MS, floor_to
from gpuledger.errors import StorageError
from gpuledger.states import THETA_PPM, State
from gpuledger_collector.figures import Group
from gpuledger_collector.finance.book import PriceBook
from gpuledger_collector.ledger import Finding
from gpuledger_collector.node_figures import NodeTime, ReportReader, Scope
from gpuledger_collector.report.comparison import build_comparison
from gpuledger_collector.report.given import build_given
from gpuledger_collector.report.idle_list import build_blocks, build_idle_list
from gpuledger_collector.report.idle_model import IdleList
from gpuledger_collector.report.market import build_market
from gpuledger_collector.report.market_model import Market
from gpuledger_collector.report.model import (
    SCHEMA,
    SCHEMA_VERSION,
    Absent,
    Day,
    FindingGroup,
    Method,
    Period,
    Place,
    ScopeItem,
    Site,
    Source,
    Totals,
    TrustLevel,
    Weekly,
)
from gpuledger_collector.report.money import build_money
from gpuledger_collector.report.patterns import build_demand, build_heat_days, build_heat_hours
from gpuledger_collector.report.periods import Span
from gpuledger_collector.report.totals import sensitivity_of, totals_of, withheld_words
from gpuledger_collector.report.use import UseReader, build_use
from gpuledger_collector.report.use_model import Use


class LedgerMovedError(StorageError):
    """The ledger was written to while the report was read from it; reading again helps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Extract:
    """A part of the fleet that a report is about, and how it was asked for."""

    scope: Scope
    items: tuple[ScopeItem, ...]


def build_weekly(
    reader: ReportReader,
    week: Span,
    *,
    readings_trust: TrustLevel = TrustLevel.L1,
    source: Source | None = None,
    is_compared: bool = True,
    other: Span | None = None,
    extract: Extract | None = None,
    book: PriceBook | None = None,
    use: UseReader | None = None,
) -> Weekly:
    """Return the report of a week, a month or another period; of a part of the fleet without what leases say of pools.

    `source` says what its rows are from if not from sealed readings, `other` what it is compared with if not with the
    period before. Raises LedgerMovedError where the ledger's answers do not belong to one state of it.
    """
    whole_reader, reader = reader, reader if extract is None else reader.within(extract.scope)
    version = whole_reader.rows_version(week.start_ms, week.end_ms)
    period = _period(week, reader.extent())
    sums = reader.report_sums(week.start_ms, week.end_ms)
    whole, places = sums.whole, sums.places
    nodes = reader.node_times(week.start_ms, week.end_ms)
    total = add([group.account for group in places])
    untold = frozenset[State]() if source is None else frozenset(source.untold)
    headline = next((totals for _, totals in _with_totals(whole, untold)), None)
    to_ms = week.start_ms if period.figures_to_ms is None else period.figures_to_ms
    holdings = reader.holdings(week.start_ms, week.end_ms)
    market = build_market(reader, week.start_ms, week.end_ms, to_ms, nodes)
    closed = {(row.site, row.node) for row in market.not_schedulable if row.is_at_end}
    idle_list = build_idle_list(nodes, holdings, reader.down_gpus(week.start_ms, week.end_ms), to_ms - week.start_ms)
    comparison, is_previous_simulated = build_comparison(
        reader, week, period, headline, other=other, is_compared=is_compared
    )
    report = Weekly(
        schema=SCHEMA,
        schema_version=SCHEMA_VERSION,
        simulated=any(group.simulated for group in places) or is_previous_simulated,
        period=period,
        scope=() if extract is None else extract.items,
        withheld=withheld_words(total),
        headline=headline,
        places=tuple(
            Place(site=str(group.key[0]), model=str(group.key[1]) or None, totals=totals)
            for group, totals in _with_totals(places, untold)
        ),
        sites=tuple(Site(site=str(group.key[0]), totals=totals) for group, totals in _with_totals(sums.sites, untold)),
        days=tuple(Day(day_ms=int(group.key[0]), totals=totals) for group, totals in _with_totals(sums.days, untold)),
        heat_days=build_heat_days(reader.node_days(week.start_ms, week.end_ms), _days_of(week)),
        heat_hours=build_heat_hours(sums.hours),
        sensitivity=sensitivity_of(total),
        idle_list=idle_list,
        blocks=build_blocks(nodes, to_ms, closed),
        demand=build_demand(holdings, nodes),
        market=market,
        money=None if book is None else build_money(reader, book, sums.place_hours, week, to_ms, nodes),
        absent=_absent(market),
        given=build_given(reader, week.start_ms, week.end_ms, whole) if extract is None else None,
        comparison=comparison,
        findings=_group_findings(reader.findings(week.start_ms, week.end_ms)),
        method=_method(places, whole_reader.report_digest(week.start_ms, week.end_ms), readings_trust),
        source=source,
        use=None if use is None or extract is not None else _use(use, week),
    )
    is_same = version == whole_reader.rows_version(week.start_ms, week.end_ms)
    _check_one_ledger(total, nodes, idle_list, is_same)
    return report


def _use(reader: UseReader, week: Span) -> Use | None:
    try:
        demand = reader(week.start_ms, week.end_ms)
    except ValueError as exc:
        raise LedgerMovedError(f"the ledger changed while the report was read from it ({exc})") from exc
    return None if demand is None else build_use(demand)


def _days_of(span: Span) -> range:
    return range(floor_to(span.start_ms, DAY_MS), span.end_ms, DAY_MS)


def _absent(market: Market) -> tuple[Absent, ...]:
    """Return the sections that no input is there for."""
    absent: list[Absent] = []
    if not market.has_scheduler:
        absent += [Absent(section=name, needs="scheduler") for name in ("not_schedulable", "queues")]
    if not market.has_scheduler and not market.stranded:
        absent.append(Absent(section="stranded", needs="scheduler"))
    if not market.has_leases:
        absent += [Absent(section=name, needs="lease_book") for name in ("sold_but_idle", "tenant_run")]
    return tuple(absent)


def _with_totals(groups: Iterable[Group], untold: frozenset[State]) -> Iterable[tuple[Group, Totals]]:
    for group in groups:
        totals = totals_of(group.account, gpus=group.gpus, active_known_ms=group.active_known_ms, untold=untold)
        if totals is not None:
            yield group, totals


def _check_one_ledger(total: Account, nodes: Sequence[NodeTime], idle: IdleList, is_same: bool) -> None:
    # The tables are asked for one by one, while the collector may be writing: they must be sums of the same rows.
    by_node = {state: sum(node.slice_ms(state) for node in nodes) for state in State}
    is_same = is_same and all(total.slice_ms(state) == amount for state, amount in by_node.items())
    if not is_same or idle.held_without_holder_slice_ms < 0:
        raise LedgerMovedError("the ledger changed while the report was read from it; run the report again")


def _period(week: Span, extent: tuple[int, int] | None) -> Period:
    from_ms = to_ms = None
    if extent is not None and extent[0] < week.end_ms and extent[1] > week.start_ms:
        from_ms, to_ms = max(extent[0], week.start_ms), min(extent[1], week.end_ms)
    return Period(
        name=week.name,
        kind=week.kind,
        start_ms=week.start_ms,
        end_ms=week.end_ms,
        figures_from_ms=from_ms,
        figures_to_ms=to_ms,
        is_complete=extent is not None and extent[1] >= week.end_ms,
        is_from_start=extent is not None and extent[0] <= week.start_ms,
        ledger_from_ms=None if extent is None else extent[0],
        ledger_to_ms=None if extent is None else extent[1],
    )


def _method(places: Sequence[Group], digest: tuple[str, bool], readings_trust: TrustLevel) -> Method:
    intervals = tuple(sorted({interval for group in places for interval in group.intervals_ms}))
    return Method(
        theta_ppm=THETA_PPM,
        cell_ms=CELL_MS,
        coverage_floor_tenths=round(COVERAGE_FLOOR * 1000),
        intervals_ms=intervals,
        are_intervals_mixed=len(intervals) > 1,
        activity_sources=tuple(sorted({source for group in places for source in group.activity_sources})),
        hang_suspicion_ms=sum(group.hang_suspicion_ms for group in places),
        ledger_digest=digest[0],
        is_digest_of_rows=digest[1],
        readings_trust=readings_trust,
        roster_trust=TrustLevel.L0,
    )


# ------------------------------------------------------------------------------------------------------ findings


def _group_findings(findings: Iterable[Finding]) -> tuple[FindingGroup, ...]:
    groups: dict[tuple[str, str], list[Finding]] = {}
    for finding in sorted(findings):
        groups.setdefault((finding.kind, finding.subject), []).append(finding)
    return tuple(
        FindingGroup(
            kind=kind,
            subject=subject,
            count=len(found),
            first_ms=found[0].at_ms,
            last_ms=found[-1].at_ms,
            text=found[0].text,
        )
        for (kind, subject), found in sorted(groups.items())
    )
