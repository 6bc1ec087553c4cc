# SPDX-License-Identifier: Apache-2.0
"""The report in English: numbers, times, title, headline and notices. All sentences about a report begin here."""

from __future__ import annotations

from gpuledger.cells import CELL_MS, HOUR_MS, SLICES_PER_GPU
from gpuledger.states import State
from gpuledger_collector.palette import LOOKS
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
from gpuledger_collector.report.periods import minute_text
from gpuledger_collector.report.shares import Range, Share

GPU_HOUR_SLICE_MS = HOUR_MS * SLICES_PER_GPU
SIMULATED = "SIMULATED"
ABSENT = "–"
"""What stands where there is no figure; a zero is written as 0.0."""

TRUST = {
    TrustLevel.L0: "L0: the operator's word",
    TrustLevel.L1: (
        "L1: signed and chained on the node; this shows later edits, but an operator who holds the keys can still "
        "fabricate at the source"
    ),
}


def hours(slice_ms: int) -> str:
    """Return GPU-hours to a tenth, half up; what is less than that but not nothing is "<0.1"."""
    if 0 < slice_ms < GPU_HOUR_SLICE_MS // 20:
        return "<0.1"
    tenths = (slice_ms * 20 + GPU_HOUR_SLICE_MS) // (2 * GPU_HOUR_SLICE_MS)
    return f"{tenths // 10:,}.{tenths % 10}"


def percent(share: Share | None) -> str:
    """Return "61.2 %"."""
    return ABSENT if share is None else f"{tenths_text(share.tenths)} %"


def tenths_text(tenths: int) -> str:
    """Return a number of tenths >= 0 as "61.2"."""
    return f"{tenths // 10}.{tenths % 10}"


def percent_range(found: Range | None) -> str:
    """Return "61.2 – 63.0 %", or one number where nothing is unknown and rounding keeps it one."""
    if found is None:
        return ABSENT
    if found.low.tenths == found.high.tenths:
        return percent(found.low)
    return f"{tenths_text(found.low.tenths)} – {percent(found.high)}"


def fraction(share: Share | None) -> str:
    """Return "3,290.1 of 5,376.0 GPU-hours"."""
    return ABSENT if share is None else f"{hours(share.part_slice_ms)} of {hours(share.whole_slice_ms)} GPU-hours"


def hours_range(found: Range | None) -> str:
    """Return "3,290.1 – 3,386.9 of 5,376.0 GPU-hours"."""
    if found is None:
        return ABSENT
    if found.low.part_slice_ms == found.high.part_slice_ms:
        return fraction(found.low)
    return f"{hours(found.low.part_slice_ms)} – {fraction(found.high)}"


def points(tenths: int | None) -> str:
    """Return a difference as "+1.8" or "−0.3" percentage points."""
    if tenths is None:
        return ABSENT
    sign = "+" if tenths > 0 else "−" if tenths < 0 else "±"
    return sign + tenths_text(abs(tenths))


def memory(amount_bytes: int | None) -> str:
    """Return gibibytes to a tenth."""
    if amount_bytes is None:
        return ABSENT
    tenths = (amount_bytes * 20 + (1 << 30)) // (2 << 30)
    return f"{tenths // 10:,}.{tenths % 10} GiB"


def seconds(amount_ms: int) -> str:
    """Return "1 s", or "250 ms" where seconds are not whole."""
    return f"{amount_ms // 1000} s" if amount_ms % 1000 == 0 else f"{amount_ms} ms"


def count(number: int, noun: str) -> str:
    """Return "1 node" or "2 nodes"."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def utc(time_ms: int) -> str:
    """Return "Mon 16 Nov 2026 00:00 UTC"."""
    return f"{minute_text(time_ms)} UTC"


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
        return f"{mark(report)}GPU idle time, week {report.period.week}"
    subject = "GPU occupancy and idle time" if may_say(report, Withheld.OCCUPANCY) else "GPU idle time"
    beside = "" if not report.withheld else f" ({_withheld_words(report.headline)} withheld)"
    return f"{mark(report)}{subject}, week {report.period.week}{beside}"


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
        f"{mark(report)}Week {period.week}: at least {percent(idle.low)} and at most {percent(idle.high)} of "
        f"{hours(totals.installed_slice_ms)} installed GPU-hours ({count(totals.gpus, 'GPU')}) stood idle, "
        f"{'with no coverage to speak of' if totals.coverage is None else f'with coverage {coverage}'}, "
        f"{percent(totals.out)} out of service and {percent(totals.declared_uncovered)} declared instead of observed."
    )
    sentences = [first]
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
    is_week = report.period.is_complete and report.period.is_from_start
    span = "all week" if is_week else "all the time the ledger covers"
    beside = f", and {more:,} more whenever observed" if more > 0 else ""
    if whole == 0:
        return f"No whole node was free {span}{beside}."
    return f"{count(whole, 'whole node')} {'was' if whole == 1 else 'were'} free {span}{beside}."


def no_figures(period: Period) -> str:
    """Return why the week has no figures."""
    if period.ledger_from_ms is None or period.ledger_to_ms is None:
        return f"Week {period.week}: no figures, because the ledger is empty."
    reach = f"it accounts for {utc(period.ledger_from_ms)} to {utc(period.ledger_to_ms)}"
    if period.figures_from_ms is None:
        return f"Week {period.week}: no figures, because the ledger holds nothing of this week; {reach}."
    return f"Week {period.week}: no figures, because no GPU was installed in it; {reach}."


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
        lines.append(f"Week not complete: figures to {utc(period.figures_to_ms)}.")
    if not period.is_from_start and period.figures_from_ms is not None:
        lines.append(f"The ledger begins within this week: figures from {utc(period.figures_from_ms)}.")
    if totals.withheld:
        lines.append(_withheld_notice(totals, report.method.coverage_floor_tenths))
    if report.method.are_intervals_mixed:
        listed = ", ".join(seconds(interval) for interval in report.method.intervals_ms)
        lines.append(
            f"Mixed sampling intervals ({listed}): the threshold of activity was applied to windows of different "
            "length, so the figures of this week are not all of one kind."
        )
    return lines


def no_comparison(report: Weekly) -> str | None:
    """Return why there is no change to the week before, None where there is one."""
    previous = report.comparison.previous_week
    match report.comparison.absent:
        case None:
            return None
        case NoComparison.NO_FIGURES:
            return "No change is given: this week has no figures."
        case NoComparison.WEEK_NOT_WHOLE:
            return "No change is given: the ledger holds only a part of this week, and parts of weeks are not compared."
        case NoComparison.PREVIOUS_NOT_IN_LEDGER:
            return f"No change is given: week {previous} is not in the ledger."
        case NoComparison.PREVIOUS_NOT_WHOLE:
            return f"No change is given: the ledger holds only a part of week {previous}."


# ------------------------------------------------------------------------------------------------------------ method


def method_lines(report: Weekly) -> list[tuple[str, str]]:
    """Return the method box as (term, text)."""
    method, totals = report.method, report.headline
    busy = state_label(State.BUSY, report)
    lines = [
        ("Installed", "every GPU of the roster, from the day it entered service, whether it reported or not."),
        ("Idle", "free + reserved + held + standby; at most: with everything that is not known (dark + unmeasured)."),
        (busy.capitalize(), f"at least: {busy}; at most: with everything that is not known."),
        ("Out of service", "down + maintenance + operator."),
        ("Coverage", "1 − dark / (installed − D′). Measured: 1 − (dark + unmeasured) / installed."),
        ("D′", "time that nobody observed, inside a standby or maintenance declared before it began."),
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
    if totals is not None:
        known = f"{hours(totals.active_known_slice_ms)} of {hours(totals.installed_slice_ms)} installed GPU-hours"
        lines.append(("Engine-active", f"integral of engine activity; activity was known for {known}."))
    if method.hang_suspicion_ms > 0:
        amount = hours(method.hang_suspicion_ms * SLICES_PER_GPU)
        lines.append(("Suspected hangs", f"{amount} GPU-hours of claimed activity at idle power, none counted busy."))
    lines += [
        ("Trust", f"readings {TRUST[method.readings_trust]}. Roster and declarations {TRUST[method.roster_trust]}."),
        (
            "Not shown",
            (
                "that the roster is complete, that boards are genuine, that the host below the agent was honest, that "
                "the work was useful."
            ),
        ),
        ("Ledger", f"digest of this week's rows, SHA-256: {method.ledger_digest}"),
    ]
    return lines


def _sampling(report: Weekly) -> str:
    method = report.method
    if not method.intervals_ms:
        return "no reading was made in this week."
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
