# SPDX-License-Identifier: Apache-2.0
"""Change to the period before, to a named one, and to the mean of four weeks. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from gpuledger.accounting import add
from gpuledger_collector.figures import LedgerReader
from gpuledger_collector.report.model import Change, Comparison, NoComparison, Period, Totals
from gpuledger_collector.report.periods import PeriodKind, Span, span_before, week_before
from gpuledger_collector.report.shares import Share
from gpuledger_collector.report.totals import totals_of

MEAN_OF_WEEKS = 4


def build_comparison(
    reader: LedgerReader, span: Span, period: Period, now: Totals | None, *, other: Span | None, is_compared: bool
) -> tuple[Comparison, bool]:
    """Return the comparison with `other`, by default the period before, and whether anything there was simulated.

    Parts of periods are not compared: a Monday is not a week, and a weekend is not one either.
    """
    previous = span_before(span) if other is None else other
    absent = _why_not(previous, period, now) if is_compared else NoComparison.NOT_ASKED_FOR
    name, kind = (None, span.kind) if previous is None else (previous.name, previous.kind)
    if absent is None and now is not None and previous is not None:
        before, is_simulated = _totals(reader, [previous])
        if before is not None:
            weeks = _weeks_before(span, period) if other is None else ()
            mean, is_mean_simulated = _totals(reader, weeks)
            changes = _changes(before, now, mean)
            mean_of = tuple(week.name for week in weeks) if mean is not None else ()
            comparison = Comparison(previous=name, previous_kind=kind, absent=None, changes=changes, mean_of=mean_of)
            return comparison, is_simulated or is_mean_simulated
        absent = NoComparison.PREVIOUS_NOT_IN_LEDGER
    return Comparison(previous=name, previous_kind=kind, absent=absent, changes=()), False


def _why_not(previous: Span | None, period: Period, now: Totals | None) -> NoComparison | None:
    if now is None:
        return NoComparison.NO_FIGURES
    if previous is None:
        return NoComparison.NONE_BEFORE
    if not (period.is_complete and period.is_from_start):
        return NoComparison.NOT_WHOLE
    from_ms, to_ms = period.ledger_from_ms, period.ledger_to_ms
    if from_ms is None or to_ms is None or from_ms >= previous.end_ms or to_ms <= previous.start_ms:
        return NoComparison.PREVIOUS_NOT_IN_LEDGER
    if from_ms > previous.start_ms or to_ms < previous.end_ms:
        return NoComparison.PREVIOUS_NOT_WHOLE
    return None


def _weeks_before(span: Span, period: Period) -> tuple[Span, ...]:
    """Return the four weeks before a week, oldest first; none where the ledger does not hold them whole."""
    if span.kind is not PeriodKind.WEEK:
        return ()
    weeks = [week_before(span)]
    while len(weeks) < MEAN_OF_WEEKS:
        weeks.insert(0, week_before(weeks[0]))
    is_whole = period.ledger_from_ms is not None and period.ledger_from_ms <= weeks[0].start_ms
    return tuple(weeks) if is_whole else ()


def _totals(reader: LedgerReader, spans: Sequence[Span]) -> tuple[Totals | None, bool]:
    """Return the figures of some periods as one, and whether anything in them was simulated."""
    groups = [group for span in spans for group in reader.sum_by(["site", "model"], span.start_ms, span.end_ms)]
    account = add([group.account for group in groups])
    return totals_of(account, gpus=0, active_known_ms=0), any(group.simulated for group in groups)


def _changes(before: Totals, now: Totals, mean: Totals | None) -> tuple[Change, ...]:
    figures = [{} if totals is None else _figures(totals) for totals in (before, now, mean)]
    changes = []
    for name in figures[1]:
        first, last, middle = (found.get(name) for found in figures)
        changes.append(
            Change(
                figure=name,
                before=first,
                now=last,
                difference_tenths=_difference(first, last),
                mean=middle,
                mean_difference_tenths=_difference(middle, last),
            )
        )
    return tuple(changes)


def _difference(before: Share | None, now: Share | None) -> int | None:
    return None if before is None or now is None else now.tenths - before.tenths


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
