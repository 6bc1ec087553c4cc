# SPDX-License-Identifier: Apache-2.0
"""Builds the weekly report from a ledger's answers. Pure: the same ledger and week give the same report."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from gpuledger.accounting import COVERAGE_FLOOR, Account, add
from gpuledger.cells import CELL_MS
from gpuledger.errors import StorageError
from gpuledger.states import THETA_PPM, State
from gpuledger_collector.figures import Group, Key, LedgerReader
from gpuledger_collector.ledger import Finding
from gpuledger_collector.report.idle_list import build_idle_list
from gpuledger_collector.report.model import (
    SCHEMA,
    SCHEMA_VERSION,
    Change,
    Comparison,
    Day,
    FindingGroup,
    IdleList,
    Method,
    NoComparison,
    Period,
    Place,
    Site,
    Source,
    Totals,
    TrustLevel,
    Weekly,
)
from gpuledger_collector.report.periods import Week, week_before
from gpuledger_collector.report.shares import Share
from gpuledger_collector.report.totals import sensitivity_of, totals_of, withheld_words


class LedgerMovedError(StorageError):
    """The ledger was written to while the report was read from it; reading again helps."""


def build_weekly(
    reader: LedgerReader,
    week: Week,
    *,
    readings_trust: TrustLevel = TrustLevel.L1,
    source: Source | None = None,
    is_compared: bool = True,
) -> Weekly:
    """Return the report of one week; `source` says what its rows are from if not from sealed readings.

    Raises LedgerMovedError where the ledger's answers do not belong to one state of it.
    """
    digest = reader.digest(week.start_ms, week.end_ms)
    period = _period(week, reader.extent())
    by_gpu = _ask(reader, ["site", "node", "gpu"], week)
    places = _ask(reader, ["site", "model"], week)
    sites = _ask(reader, ["site"], week)
    days = _ask(reader, ["day_ms"], week)
    whole = _ask(reader, [], week)
    total = add([group.account for group in whole])
    untold = frozenset[State]() if source is None else frozenset(source.untold)
    headline = next((totals for _, totals in _with_totals(whole, untold)), None)
    to_ms = week.start_ms if period.figures_to_ms is None else period.figures_to_ms
    idle_list = build_idle_list(reader, week.start_ms, week.end_ms, to_ms, by_gpu)
    comparison, is_previous_simulated = _comparison(reader, week, period, headline, is_compared=is_compared)
    findings = _group_findings(reader.findings(week.start_ms, week.end_ms))
    report = Weekly(
        schema=SCHEMA,
        schema_version=SCHEMA_VERSION,
        simulated=any(group.simulated for group in places) or is_previous_simulated,
        period=period,
        withheld=withheld_words(total),
        headline=headline,
        places=tuple(
            Place(site=str(group.key[0]), model=str(group.key[1]) or None, totals=totals)
            for group, totals in _with_totals(places, untold)
        ),
        sites=tuple(Site(site=str(group.key[0]), totals=totals) for group, totals in _with_totals(sites, untold)),
        days=tuple(Day(day_ms=int(group.key[0]), totals=totals) for group, totals in _with_totals(days, untold)),
        sensitivity=sensitivity_of(total),
        idle_list=idle_list,
        comparison=comparison,
        findings=findings,
        method=_method(places, digest, readings_trust),
        source=source,
    )
    _check_one_ledger(
        total, (by_gpu, places, sites, days), idle_list, digest == reader.digest(week.start_ms, week.end_ms)
    )
    return report


def _ask(reader: LedgerReader, keys: Sequence[Key], week: Week) -> list[Group]:
    return sorted(reader.sum_by(keys, week.start_ms, week.end_ms), key=lambda group: group.key)


def _with_totals(groups: Iterable[Group], untold: frozenset[State]) -> Iterable[tuple[Group, Totals]]:
    for group in groups:
        totals = totals_of(group.account, gpus=group.gpus, active_known_ms=group.active_known_ms, untold=untold)
        if totals is not None:
            yield group, totals


def _check_one_ledger(total: Account, others: Iterable[Sequence[Group]], idle: IdleList, is_same: bool) -> None:
    # The tables are asked for one by one, while the collector may be writing: they must be sums of the same rows.
    sums = [add([group.account for group in groups]) for groups in others]
    if not is_same or any(account != total for account in sums) or idle.held_without_holder_slice_ms < 0:
        raise LedgerMovedError("the ledger changed while the report was read from it; run the report again")


def _period(week: Week, extent: tuple[int, int] | None) -> Period:
    from_ms = to_ms = None
    if extent is not None and extent[0] < week.end_ms and extent[1] > week.start_ms:
        from_ms, to_ms = max(extent[0], week.start_ms), min(extent[1], week.end_ms)
    return Period(
        week=week.name,
        start_ms=week.start_ms,
        end_ms=week.end_ms,
        figures_from_ms=from_ms,
        figures_to_ms=to_ms,
        is_complete=extent is not None and extent[1] >= week.end_ms,
        is_from_start=extent is not None and extent[0] <= week.start_ms,
        ledger_from_ms=None if extent is None else extent[0],
        ledger_to_ms=None if extent is None else extent[1],
        is_iso_week=week.is_iso,
    )


def _method(places: Sequence[Group], digest: str, readings_trust: TrustLevel) -> Method:
    intervals = tuple(sorted({interval for group in places for interval in group.intervals_ms}))
    return Method(
        theta_ppm=THETA_PPM,
        cell_ms=CELL_MS,
        coverage_floor_tenths=round(COVERAGE_FLOOR * 1000),
        intervals_ms=intervals,
        are_intervals_mixed=len(intervals) > 1,
        activity_sources=tuple(sorted({source for group in places for source in group.activity_sources})),
        hang_suspicion_ms=sum(group.hang_suspicion_ms for group in places),
        ledger_digest=digest,
        readings_trust=readings_trust,
        roster_trust=TrustLevel.L0,
    )


# ------------------------------------------------------------------------------------------- change to last week


def _comparison(
    reader: LedgerReader, week: Week, period: Period, now: Totals | None, *, is_compared: bool
) -> tuple[Comparison, bool]:
    """Return the comparison, and whether anything in the week before was simulated.

    Parts of weeks are not compared: a Monday is not a week, and a weekend is not one either.
    """
    previous = week_before(week)
    absent = _why_not(previous, period, now) if is_compared else NoComparison.NOT_ASKED_FOR
    if absent is not None or now is None:
        return Comparison(previous_week=previous.name, absent=absent, changes=()), False
    groups = _ask(reader, ["site", "model"], previous)
    account = add([group.account for group in groups])
    before = totals_of(account, gpus=0, active_known_ms=0)
    if before is None:
        absent = NoComparison.PREVIOUS_NOT_IN_LEDGER
        return Comparison(previous_week=previous.name, absent=absent, changes=()), False
    figures = (_figures(before), _figures(now))
    changes = tuple(_change(name, figures[0][name], figures[1][name]) for name in figures[1])
    simulated = any(group.simulated for group in groups)
    return Comparison(previous_week=previous.name, absent=None, changes=changes), simulated


def _why_not(previous: Week, period: Period, now: Totals | None) -> NoComparison | None:
    if now is None:
        return NoComparison.NO_FIGURES
    if not period.is_iso_week:
        return NoComparison.NOT_A_WEEK
    if not (period.is_complete and period.is_from_start):
        return NoComparison.WEEK_NOT_WHOLE
    if period.ledger_from_ms is None or period.ledger_from_ms >= previous.end_ms:
        return NoComparison.PREVIOUS_NOT_IN_LEDGER
    if period.ledger_from_ms > previous.start_ms:
        return NoComparison.PREVIOUS_NOT_WHOLE
    return None


def _figures(totals: Totals) -> dict[str, Share | None]:
    return {
        "idle_low": totals.idle.low,
        "idle_high": totals.idle.high,
        "busy_low": None if totals.busy is None else totals.busy.low,
        "busy_high": None if totals.busy is None else totals.busy.high,
        "engine_active": totals.engine_active,
        "coverage": totals.coverage,
        "out": totals.out,
        "declared_uncovered": totals.declared_uncovered,
    }


def _change(figure: str, before: Share | None, now: Share | None) -> Change:
    difference = None if before is None or now is None else now.tenths - before.tenths
    return Change(figure=figure, before=before, now=now, difference_tenths=difference)


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
