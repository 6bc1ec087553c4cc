# SPDX-License-Identifier: Apache-2.0
"""The report as sections of tables, once for every form that people read (Markdown, HTML).

Cells hold names as they came from outside, only cleaned; escaping is the form's own. Lists are cut to the ten largest
and "others", which keep the sum.
"""

from __future__ import annotations

from collections.abc import Sequence

from gpuledger.states import State
from gpuledger_collector.report import amounts, source_words, words
from gpuledger_collector.report.amounts import ABSENT, hours, percent
from gpuledger_collector.report.idle_tables import idle_section
from gpuledger_collector.report.layout import Cell, Column, Section, Table, top
from gpuledger_collector.report.model import Totals, Weekly, Withheld
from gpuledger_collector.report.names import SENTENCE_CHARACTERS_MAX, shown
from gpuledger_collector.report.periods import day_text, minute_text
from gpuledger_collector.report.shares import Share


def sections(report: Weekly) -> tuple[Section, ...]:
    """Return all sections but headline and method; a report without figures has only what was found."""
    if report.headline is None:
        return (_findings(report),)
    return (
        Section(heading="Days", figure="days", tables=(_days(report),)),
        _where(report),
        idle_section(report),
        _changes(report),
        _threshold(report, report.headline),
        _findings(report),
    )


def headline_table(report: Weekly) -> Table:
    """Return every figure of the headline with its numerator and denominator."""
    totals = report.headline
    rows: list[tuple[str, str, str]] = []
    if totals is not None:
        rows.append(("Idle, at least", percent(totals.idle.low), amounts.fraction(totals.idle.low)))
        rows.append(("Idle, at most", percent(totals.idle.high), amounts.fraction(totals.idle.high)))
        if totals.busy is not None:
            rows.append(("Busy, at least", percent(totals.busy.low), amounts.fraction(totals.busy.low)))
            rows.append(("Busy, at most", percent(totals.busy.high), amounts.fraction(totals.busy.high)))
        rest: tuple[tuple[str, Share | None], ...] = (
            ("Engine-active", totals.engine_active),
            ("Coverage", totals.coverage),
            ("Measured", totals.measured),
            ("Out of service", totals.out),
            ("Declared instead of observed (D′)", totals.declared_uncovered),
        )
        rows += [(name, percent(share), amounts.fraction(share)) for name, share in rest]
    return Table(
        caption="Headline figures",
        columns=(Column(name="Figure", is_number=False), Column(name="Share"), Column(name="Of")),
        rows=tuple(tuple(Cell(text=text) for text in row) for row in rows),
    )


# --------------------------------------------------------------------------------------------------- days and places


def _states_in(report: Weekly) -> list[State]:
    assert report.headline is not None
    return [time.state for time in report.headline.states if time.slice_ms > 0]


def _without_time(report: Weekly) -> str:
    assert report.headline is not None
    missing = [words.state_label(time.state, report) for time in report.headline.states if time.slice_ms == 0]
    return f"No time at all in: {', '.join(missing)}." if missing else ""


def _figure_columns(report: Weekly) -> tuple[Column, ...]:
    states = tuple(Column(name=words.state_label(state, report), state=state) for state in _states_in(report))
    sampled = () if report.source is None else (Column(name="± points"),)
    return (Column(name="GPUs"), Column(name="installed GPU-h"), Column(name="idle"), *sampled, *states)


def _figure_cells(
    report: Weekly, totals: Totals, *, day_ms: int | None = None, place: tuple[str, str | None] | None = None
) -> tuple[Cell, ...]:
    times = {time.state: time for time in totals.states}
    is_marked = Withheld.BUSY in totals.withheld and words.may_say(report, Withheld.BUSY)
    cells = [
        Cell(text=f"{totals.gpus:,}"),
        Cell(text=hours(totals.installed_slice_ms)),
        Cell(text=amounts.percent_range(totals.idle)),
    ]
    if report.source is not None:
        tenths = source_words.error_tenths(report, totals, day_ms=day_ms, place=place)
        cells.append(Cell(text=ABSENT if tenths is None else amounts.tenths_text(tenths)))
    for state in _states_in(report):
        time = times[state]
        text = hours(time.slice_ms) + ("†" if is_marked and state is State.BUSY else "")
        cells.append(Cell(text=text, small=percent(time.share)))
    return tuple(cells)


def _note(report: Weekly, rows: Sequence[Totals]) -> str:
    note = "GPU-hours, and their share of the row's installed GPU-hours. " + _without_time(report)
    if words.may_say(report, Withheld.BUSY) and any(Withheld.BUSY in totals.withheld for totals in rows):
        floor = amounts.tenths_text(report.method.coverage_floor_tenths)
        note += f" † Measured under {floor} %: work that was seen, not a figure of how much there was."
    if report.source is not None:
        untold = ", ".join(words.state_label(state, report) for state in report.source.untold)
        note += (
            f" {source_words.tag(report.source).capitalize()}; ± points: sampling error of the row's shares in "
            f"percentage points."
        )
        note += f" Not told by gauges: {untold}." if untold else ""
    return note.strip()


def _days(report: Weekly) -> Table:
    assert report.headline is not None
    return Table(
        caption="States by day (UTC)",
        columns=(Column(name="day", is_number=False), *_figure_columns(report)),
        rows=tuple(
            (Cell(text=day_text(day.day_ms)), *_figure_cells(report, day.totals, day_ms=day.day_ms))
            for day in report.days
        ),
        total=(Cell(text=words.noun(report.period)), *_figure_cells(report, report.headline)),
        note=_note(report, [day.totals for day in report.days]),
    )


def _where(report: Weekly) -> Section:
    assert report.headline is not None
    table = Table(
        caption="States by site and model",
        columns=(
            Column(name="site, model", is_number=False),
            *_figure_columns(report),
        ),
        rows=tuple(
            (
                Cell(text=shown(place.site), small="model unknown" if place.model is None else shown(place.model)),
                *_figure_cells(report, place.totals, place=(place.site, place.model)),
            )
            for place in report.places
        ),
        total=(Cell(text="all"), *_figure_cells(report, report.headline)),
        note=_note(report, [place.totals for place in report.places]),
    )
    return Section(heading="Where", figure="sites", tables=(table,))


# --------------------------------------------------------------------------------------- change, threshold, findings

_FIGURE_NAMES = {
    "idle_low": "Idle, at least",
    "idle_high": "Idle, at most",
    "busy_low": "Busy, at least",
    "busy_high": "Busy, at most",
    "engine_active": "Engine-active",
    "coverage": "Coverage",
    "out": "Out of service",
    "declared_uncovered": "Declared instead of observed (D′)",
}


def _changes(report: Weekly) -> Section:
    heading = "Change"
    if report.period.is_iso_week:
        heading = f"Change to week {report.comparison.previous_week}"
    reason = words.no_comparison(report)
    if reason is not None:
        return Section(heading=heading, lines=(reason,))
    cells = []
    for change in report.comparison.changes:
        is_busy = change.figure.startswith("busy")
        if is_busy and change.difference_tenths is None:
            continue
        cells.append(
            (
                Cell(text=_FIGURE_NAMES[change.figure]),
                Cell(text=percent(change.before), small=amounts.fraction(change.before)),
                Cell(text=percent(change.now), small=amounts.fraction(change.now)),
                Cell(text=amounts.points(change.difference_tenths)),
            )
        )
    table = Table(
        caption="Change in percentage points",
        columns=(
            Column(name="figure", is_number=False),
            Column(name=report.comparison.previous_week),
            Column(name=report.period.week),
            Column(name="change"),
        ),
        rows=tuple(cells),
        note="Differences of the printed figures.",
    )
    return Section(heading=heading, tables=(table,))


def _threshold(report: Weekly, totals: Totals) -> Section:
    is_said = totals.busy is not None
    columns = [Column(name="activity over", is_number=False), Column(name="idle")]
    if is_said:
        columns.append(Column(name="busy"))
    cells = []
    for row in report.sensitivity:
        name = f"{amounts.tenths_text(row.theta_ppm // 1000).removesuffix('.0')} %"
        line = [Cell(text=name + (" (in force)" if row.is_in_force else ""))]
        line.append(Cell(text=amounts.percent_range(row.idle), small=amounts.hours_range(row.idle)))
        if is_said:
            line.append(Cell(text=amounts.percent_range(row.busy), small=amounts.hours_range(row.busy)))
        cells.append(tuple(line))
    active = f"Engine-active time needs no threshold; it was not known in this {words.noun(report.period)}."
    if totals.engine_active is not None:
        active = (
            f"Engine-active time needs no threshold: {percent(totals.engine_active)} "
            f"({amounts.fraction(totals.engine_active)})."
        )
    table = Table(caption="Figures at other thresholds", columns=tuple(columns), rows=tuple(cells), note=active)
    return Section(heading="Sensitivity to the threshold", tables=(table,))


def _findings(report: Weekly) -> Section:
    rows, others, others_count = top(report.findings, lambda row: row.count)
    cells = [
        (
            Cell(text=shown(row.kind)),
            Cell(text=shown(row.text, SENTENCE_CHARACTERS_MAX)),
            Cell(text=f"{row.count:,}"),
            Cell(text=minute_text(row.first_ms)),
            Cell(text=minute_text(row.last_ms) if row.count > 1 else ABSENT),
        )
        for row in rows
    ]
    if others:
        blank = Cell(text="")
        others_cell = Cell(text=amounts.count(others, "subject"))
        cells.append((Cell(text="others"), others_cell, Cell(text=f"{others_count:,}"), blank, blank))
    table = Table(
        caption="By kind and subject",
        columns=(
            Column(name="kind", is_number=False),
            Column(name="what", is_number=False),
            Column(name="times"),
            Column(name="first (UTC)", is_number=False),
            Column(name="last (UTC)", is_number=False),
        ),
        rows=tuple(cells),
        empty="Nothing was found.",
    )
    return Section(heading="Findings", tables=(table,))
