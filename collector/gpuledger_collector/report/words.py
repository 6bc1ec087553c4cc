# SPDX-License-Identifier: Apache-2.0
"""The report in English: title, headline, notices and method. All sentences about a report begin here."""

from __future__ import annotations

from gpuledger.cells import CELL_MS, SLICES_PER_GPU
from gpuledger.states import OUT, State
from gpuledger_collector.palette import LOOKS
from gpuledger_collector.report import source_words
from gpuledger_collector.report.amounts import count, hours, percent, seconds, tenths_text, utc
from gpuledger_collector.report.model import (
    FreeKind,
    NoComparison,
    Period,
    Totals,
    TrustLevel,
    Weekly,
    Withheld,
)
from gpuledger_collector.report.names import shown

SIMULATED = "SIMULATED"
TRUST = {
    TrustLevel.L0: "L0: the operator's word",
    TrustLevel.L1: (
        "L1: signed and chained on the node; this shows later edits, but an operator who holds the keys can still "
        "fabricate at the source"
    ),
}


def may_say(report: Weekly, word: Withheld) -> bool:
    """Return whether enough was observed to say the word of the whole fleet."""
    return word not in report.withheld


def state_label(state: State, report: Weekly) -> str:
    """Return the state's name in this report; where "busy" is withheld, what was seen is all that is said."""
    if state is State.BUSY and not may_say(report, Withheld.BUSY):
        return "work seen"
    return LOOKS[state].label


def state_letter(state: State, report: Weekly) -> str:
    """Return the state's letter, that of its label in this report."""
    if state is State.BUSY and not may_say(report, Withheld.BUSY):
        return "W"
    return LOOKS[state].letter


def busy_label(report: Weekly) -> str:
    """Return the heading of what is not idle."""
    return "Busy" if may_say(report, Withheld.BUSY) else "Work seen"


# ----------------------------------------------------------------------------------------- title, headline, notices


def mark(report: Weekly) -> str:
    """Return what every title and heading of a simulated report begins with."""
    return f"{SIMULATED}: " if report.simulated else ""


def title(report: Weekly) -> str:
    """Return the title, which says what is withheld and that data are simulated."""
    if report.headline is None:
        return f"{mark(report)}GPU idle time, {named(report.period)}"
    subject = "GPU occupancy and idle time" if may_say(report, Withheld.OCCUPANCY) else "GPU idle time"
    beside = "" if not report.withheld else f" ({_withheld_words(report.headline)} withheld)"
    sampled = "" if report.source is None else f", sampled from {shown(report.source.exporter)}"
    return f"{mark(report)}{subject}, {named(report.period)}{sampled}{beside}"


def named(period: Period) -> str:
    """Return "week 2026-W47", or "2026-11-16 to 2026-11-18" where the period is no week."""
    return f"week {period.week}" if period.is_iso_week else period.week.replace("--", " to ")


def named_first(period: Period) -> str:
    """Return the period's name as a sentence begins."""
    name = named(period)
    return name[0].upper() + name[1:]


def noun(period: Period) -> str:
    """Return what the period is: "week" or "period"."""
    return "week" if period.is_iso_week else "period"


def _withheld_words(totals: Totals) -> str:
    listed = [f"“{word.value}”" for word in totals.withheld]
    if len(listed) == 1:
        return f"the word {listed[0]}"
    return f"the words {', '.join(listed[:-1])} and {listed[-1]}"


def _withheld_notice(totals: Totals, floor_tenths: int) -> str:
    parts = []
    if Withheld.OCCUPANCY in totals.withheld:
        parts.append("nothing to observe" if totals.coverage is None else f"coverage {percent(totals.coverage)}")
    if Withheld.BUSY in totals.withheld:
        parts.append(f"measured {percent(totals.measured)}")
    verb = "is" if len(totals.withheld) == 1 else "are"
    return (
        f"Too little was observed ({', '.join(parts)}; the floor is {tenths_text(floor_tenths)} %), "
        f"so {_withheld_words(totals)} {verb} withheld."
    )


def headline(report: Weekly) -> str:
    """Return the headline: one sentence with both bounds, coverage, out and D', then what else a reader asks first."""
    totals, period = report.headline, report.period
    if totals is None:
        return f"{mark(report)}{no_figures(period)}"
    idle, coverage = totals.idle, percent(totals.coverage)
    first = (
        f"{mark(report)}{named_first(period)}: at least {percent(idle.low)} and at most {percent(idle.high)} of "
        f"{hours(totals.installed_slice_ms)} installed GPU-hours ({count(totals.gpus, 'GPU')}) stood idle, "
        f"{'with no coverage to speak of' if totals.coverage is None else f'with coverage {coverage}'}"
    )
    if totals.out is None or totals.declared_uncovered is None:
        first += "; what was out of service is not told."
    else:
        first += (
            f", {percent(totals.out)} out of service and {percent(totals.declared_uncovered)} declared instead of "
            "observed."
        )
    sentences = [first]
    if report.source is not None:
        sampled = source_words.tag(report.source)
        kind = "counters" if report.source.is_counters else "gauges"
        sentences.append(f"Sampled {kind} ({sampled}): {source_words.error(report, totals)} percentage points.")
    if totals.busy is not None:
        engines = "" if totals.engine_active is None else f"; engines were active {percent(totals.engine_active)}"
        sentences.append(
            f"At least {percent(totals.busy.low)} and at most {percent(totals.busy.high)} was busy{engines}."
        )
    elif totals.engine_active is not None:
        sentences.append(f"Engines were seen active {percent(totals.engine_active)}.")
    sentences.append(free_nodes(report))
    return " ".join(sentences)


def free_nodes(report: Weekly) -> str:
    """Return how many whole nodes were free all the time; whether that is a whole week depends on the period."""
    whole = sum(1 for node in report.idle_list.free if node.kind is FreeKind.ALL_WEEK)
    more = sum(1 for node in report.idle_list.free if node.kind is FreeKind.WHEN_OBSERVED)
    is_week = report.period.is_complete and report.period.is_from_start and report.period.is_iso_week
    span = "all week" if is_week else "all the time the ledger covers"
    beside = f", and {more:,} more whenever observed" if more > 0 else ""
    if whole == 0:
        return f"No whole node was free {span}{beside}."
    return f"{count(whole, 'whole node')} {'was' if whole == 1 else 'were'} free {span}{beside}."


def no_figures(period: Period) -> str:
    """Return why the week has no figures."""
    if period.ledger_from_ms is None or period.ledger_to_ms is None:
        return f"{named_first(period)}: no figures, because the ledger is empty."
    reach = f"it accounts for {utc(period.ledger_from_ms)} to {utc(period.ledger_to_ms)}"
    if period.figures_from_ms is None:
        return f"{named_first(period)}: no figures, because the ledger holds nothing of this {noun(period)}; {reach}."
    return f"{named_first(period)}: no figures, because no GPU was installed in it; {reach}."


def period_text(period: Period) -> str:
    """Return "Mon 16 Nov 2026 00:00 UTC to Mon 23 Nov 2026 00:00 UTC"."""
    return f"{utc(period.start_ms)} to {utc(period.end_ms)}"


def notices(report: Weekly) -> list[str]:
    """Return what must be known before any figure is read, most important first."""
    period, totals = report.period, report.headline
    lines = []
    if report.simulated:
        lines.append(f"{SIMULATED}: readings in this report come from a simulator. No figure is about real machines.")
    if totals is None:
        return lines
    if not period.is_complete and period.figures_to_ms is not None:
        lines.append(f"{noun(period).capitalize()} not complete: figures to {utc(period.figures_to_ms)}.")
    if not period.is_from_start and period.figures_from_ms is not None:
        lines.append(f"The ledger begins within this {noun(period)}: figures from {utc(period.figures_from_ms)}.")
    if report.source is not None:
        lines += source_words.notices(report, report.source)
    if totals.withheld:
        lines.append(_withheld_notice(totals, report.method.coverage_floor_tenths))
    if report.method.are_intervals_mixed:
        listed = ", ".join(seconds(interval) for interval in report.method.intervals_ms)
        lines.append(
            f"Mixed sampling intervals ({listed}): the threshold of activity was applied to windows of different "
            f"length, so the figures of this {noun(period)} are not all of one kind."
        )
    return lines


def no_comparison(report: Weekly) -> str | None:
    """Return why there is no change to the week before, None where there is one."""
    previous = report.comparison.previous_week
    match report.comparison.absent:
        case None:
            return None
        case NoComparison.NO_FIGURES:
            return f"No change is given: this {noun(report.period)} has no figures."
        case NoComparison.WEEK_NOT_WHOLE:
            return "No change is given: the ledger holds only a part of this week, and parts of weeks are not compared."
        case NoComparison.PREVIOUS_NOT_IN_LEDGER:
            return f"No change is given: week {previous} is not in the ledger."
        case NoComparison.PREVIOUS_NOT_WHOLE:
            return f"No change is given: the ledger holds only a part of week {previous}."
        case NoComparison.NOT_A_WEEK:
            return "No change is given: only whole weeks are compared."
        case NoComparison.NOT_ASKED_FOR:
            return "No change is given: it was not asked for."


# ------------------------------------------------------------------------------------------------------------ method


def method_lines(report: Weekly) -> list[tuple[str, str]]:
    """Return the method box as (term, text)."""
    method, totals = report.method, report.headline
    busy = state_label(State.BUSY, report)
    lines = [
        ("Installed", _installed(report)),
        ("Idle", "free + reserved + held + standby; at most: with everything that is not known (dark + unmeasured)."),
        (busy.capitalize(), f"at least: {busy}; at most: with everything that is not known."),
        *([("Out of service", "down + maintenance + operator.")] if _tells_out(report) else []),
        ("Coverage", "1 − dark / (installed − D′). Measured: 1 − (dark + unmeasured) / installed."),
        ("D′", _declared(report)),
        (
            "Threshold",
            f"activity over {tenths_text(method.theta_ppm // 1000)} % is work; cells of {CELL_MS // 1000} s of UTC.",
        ),
        (
            "Rounding",
            (
                "to 0.1 %, never to flatter: lower bounds, coverage and work down, everything else up, so the states "
                "of a row may sum to a little over 100 %. Changes are differences of printed figures. GPU-hours are "
                "exact sums, printed to 0.1."
            ),
        ),
        ("Sampling", _sampling(report)),
    ]
    if report.source is not None:
        lines += source_words.method_lines(report, report.source)
    if totals is not None and (report.source is None or not report.source.is_counters):
        known = f"{hours(totals.active_known_slice_ms)} of {hours(totals.installed_slice_ms)} installed GPU-hours"
        lines.append(("Engine-active", f"integral of engine activity; activity was known for {known}."))
    if method.hang_suspicion_ms > 0:
        amount = hours(method.hang_suspicion_ms * SLICES_PER_GPU)
        lines.append(("Suspected hangs", f"{amount} GPU-hours of claimed activity at idle power, none counted busy."))
    lines += [
        ("Trust", _trust(report)),
        (
            "Not shown",
            (
                f"that the {'fleet' if report.source is not None else 'roster'} is complete, that boards are genuine, "
                f"that the host below the {'exporter' if report.source is not None else 'agent'} was honest, that the "
                "work was useful."
            ),
        ),
        ("Ledger", f"digest of this {noun(report.period)}'s rows, SHA-256: {method.ledger_digest}"),
    ]
    return lines


def _tells_out(report: Weekly) -> bool:
    return report.source is None or not OUT & set(report.source.untold)


def _installed(report: Weekly) -> str:
    if report.source is not None:
        return "every GPU that reported, from its first sample on, whether it went on reporting or not."
    return "every GPU of the roster, from the day it entered service, whether it reported or not."


def _declared(report: Weekly) -> str:
    if report.source is not None:
        return "nothing was declared: what is in an engine comes without declarations."
    return "time that nobody observed, inside a standby or maintenance declared before it began."


def _trust(report: Weekly) -> str:
    method = report.method
    if report.source is not None:
        return f"{TRUST[method.readings_trust]}: whoever writes into the engine writes these figures."
    return f"readings {TRUST[method.readings_trust]}. Roster and declarations {TRUST[method.roster_trust]}."


def _sampling(report: Weekly) -> str:
    method = report.method
    if not method.intervals_ms:
        return f"no reading was made in this {noun(report.period)}."
    intervals = ", ".join(seconds(interval) for interval in method.intervals_ms)
    sources = ", ".join(shown(source) for source in method.activity_sources) or "none"
    flag = " (mixed)" if method.are_intervals_mixed else ""
    return f"every {intervals}{flag}; sources of activity: {sources}."


def whole_nodes(report: Weekly) -> str:
    """Return "3", or "3 – 5" where more may have been free."""
    kinds = [node.kind for node in report.idle_list.free]
    low = kinds.count(FreeKind.ALL_WEEK)
    high = low + kinds.count(FreeKind.WHEN_OBSERVED)
    return f"{low:,}" if low == high else f"{low:,} – {high:,}"
