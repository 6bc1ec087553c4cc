# SPDX-License-Identifier: Apache-2.0
"""The report as sections of tables, once for every form that people read (Markdown, HTML).

Cells hold names as they came from outside, only cleaned; escaping is the form's own. Lists are cut to the ten largest
and "others", which keep the sum.
"""

from __future__ import annotations

from collections.abc import Sequence

from gpuledger.states import State
from gpuledger_collector.report import source_words, words
from gpuledger_collector.report.action_tables import action_section
from gpuledger_collector.report.amounts import ABSENT, hours, points, tenths_text
from gpuledger_collector.report.given_tables import given_section
from gpuledger_collector.report.idle_tables import idle_section
from gpuledger_collector.report.languages import ENGLISH, Language
from gpuledger_collector.report.layout import Cell, Column, Section, Table, line, numbers, top
from gpuledger_collector.report.layout import words as texts
from gpuledger_collector.report.model import Change, Totals, Weekly, Withheld
from gpuledger_collector.report.money_tables import money_section
from gpuledger_collector.report.names import SENTENCE_CHARACTERS_MAX
from gpuledger_collector.report.shares import Share
from gpuledger_collector.report.use_tables import use_section


def sections(report: Weekly, lang: Language = ENGLISH) -> tuple[Section, ...]:
    """Return all sections but headline and method; a report without figures has only what was found."""
    if report.headline is None:
        return (_findings(report, lang),)
    return (
        Section(heading=lang("days.heading"), figures=("days",), tables=(_days(report, lang),)),
        _where(report, lang),
        Section(heading=lang("heat.heading"), figures=("heat_days", "heat_hours")),
        action_section(report, lang),
        *(() if report.source is not None else (use_section(report, lang),)),
        money_section(report, lang),
        idle_section(report, lang),
        *given_section(report, lang),
        _changes(report, lang),
        _threshold(report, report.headline, lang),
        _findings(report, lang),
    )


def headline_table(report: Weekly, lang: Language = ENGLISH) -> Table:
    """Return every figure of the headline with its numerator and denominator."""
    totals = report.headline
    shares: list[tuple[str, Share | None]] = []
    if totals is not None:
        shares += [("idle_low", totals.idle.low), ("idle_high", totals.idle.high)]
        if totals.busy is not None:
            shares += [("busy_low", totals.busy.low), ("busy_high", totals.busy.high)]
        shares += [
            ("engine_active", totals.engine_active),
            ("coverage", totals.coverage),
            ("measured", totals.measured),
            ("out", totals.out),
            ("declared_uncovered", totals.declared_uncovered),
        ]
    return Table(
        caption=lang("figure.caption"),
        columns=(
            *texts(lang("figure.column_figure")),
            *numbers(lang("figure.column_share"), lang("figure.column_of")),
        ),
        rows=tuple(line(lang(f"figure.{name}"), lang.percent(share), lang.fraction(share)) for name, share in shares),
    )


# --------------------------------------------------------------------------------------------------- days and places


def _states_in(report: Weekly) -> list[State]:
    assert report.headline is not None
    return [time.state for time in report.headline.states if time.slice_ms > 0]


def _figure_columns(report: Weekly, lang: Language) -> tuple[Column, ...]:
    states = tuple(Column(name=words.state_label(state, report, lang), state=state) for state in _states_in(report))
    sampled = () if report.source is None else numbers(lang("days.points"))
    return (*numbers(lang("days.gpus"), lang("days.installed"), lang("days.idle")), *sampled, *states)


def _figure_cells(
    report: Weekly,
    totals: Totals,
    lang: Language,
    *,
    day_ms: int | None = None,
    place: tuple[str, str | None] | None = None,
) -> tuple[Cell, ...]:
    times = {time.state: time for time in totals.states}
    is_marked = Withheld.BUSY in totals.withheld and words.may_say(report, Withheld.BUSY)
    cells = list(line(f"{totals.gpus:,}", hours(totals.installed_slice_ms), lang.percent_range(totals.idle)))
    if report.source is not None:
        tenths = source_words.error_tenths(report, totals, day_ms=day_ms, place=place)
        cells.append(Cell(text=ABSENT if tenths is None else tenths_text(tenths)))
    for state in _states_in(report):
        time = times[state]
        text = hours(time.slice_ms) + ("†" if is_marked and state is State.BUSY else "")
        cells.append(Cell(text=text, small=lang.percent(time.share)))
    return tuple(cells)


def _note(report: Weekly, rows: Sequence[Totals], lang: Language) -> str:
    assert report.headline is not None
    notes = [lang("days.note")]
    missing = [words.state_label(time.state, report, lang) for time in report.headline.states if time.slice_ms == 0]
    if missing:
        notes.append(lang("days.without_time", states=lang.commas(missing)))
    if words.may_say(report, Withheld.BUSY) and any(Withheld.BUSY in totals.withheld for totals in rows):
        notes.append(lang("days.dagger", floor=lang.tenths(report.method.coverage_floor_tenths)))
    if report.source is not None:
        notes.append(lang("days.sampled_note", tag=source_words.tag_first(report.source, lang)))
        untold = [words.state_label(state, report, lang) for state in report.source.untold]
        if untold:
            notes.append(lang("days.untold_note", states=lang.commas(untold)))
    return lang("headline.between").join(notes)


def _days(report: Weekly, lang: Language) -> Table:
    assert report.headline is not None
    return Table(
        caption=lang("days.caption"),
        columns=(*texts(lang("days.day")), *_figure_columns(report, lang)),
        rows=tuple(
            (Cell(text=lang.day(day.day_ms)), *_figure_cells(report, day.totals, lang, day_ms=day.day_ms))
            for day in report.days
        ),
        total=(Cell(text=words.noun(report.period, lang)), *_figure_cells(report, report.headline, lang)),
        note=_note(report, [day.totals for day in report.days], lang),
    )


PLACES_MAX = 100
"""Sites and models are few; who has more of them finds all in the CSV."""


def _where(report: Weekly, lang: Language) -> Section:
    assert report.headline is not None
    rows: list[tuple[Cell, ...]] = []
    for place in report.places[:PLACES_MAX]:
        model = lang("name.model_unknown") if place.model is None else lang.name(place.model)
        cells = _figure_cells(report, place.totals, lang, place=(place.site, place.model))
        rows.append((Cell(text=lang.name(place.site), small=model), *cells))
    others = len(report.places) - PLACES_MAX
    table = Table(
        caption=lang("where.caption"),
        columns=(*texts(lang("where.place")), *_figure_columns(report, lang)),
        rows=tuple(rows),
        total=(Cell(text=lang("name.all")), *_figure_cells(report, report.headline, lang)),
        note=_note(report, [place.totals for place in report.places], lang)
        + (lang("where.others", places=lang.count(others, "place")) if others > 0 else ""),
    )
    return Section(heading=lang("where.heading"), figures=("sites",), tables=(table,))


# --------------------------------------------------------------------------------------- change, threshold, findings


def _changes(report: Weekly, lang: Language) -> Section:
    comparison = report.comparison
    heading = lang("change.heading")
    if comparison.previous is not None:
        previous = words.span_text(comparison.previous, comparison.previous_kind, lang)
        heading = lang("change.heading_to", previous=previous)
    reason = words.no_comparison(report, lang)
    if reason is not None:
        return Section(heading=heading, lines=(reason,))
    has_mean = bool(comparison.mean_of)
    names = [comparison.previous or "", report.period.name, lang("change.change")]
    if has_mean:
        mean = lang("change.mean", n=len(comparison.mean_of))
        names += [mean, lang("change.to_mean")]
    note = lang("change.note")
    if has_mean:
        note = lang("change.mean_note", first=comparison.mean_of[0], last=comparison.mean_of[-1])
    elif report.period.kind.value == "week":
        note = lang("change.mean_absent")
    table = Table(
        caption=lang("change.caption"),
        columns=(*texts(lang("change.figure")), *numbers(*names)),
        rows=tuple(
            _change_cells(change, lang, has_mean=has_mean)
            for change in comparison.changes
            if not (change.figure.startswith("busy") and change.difference_tenths is None)
        ),
        note=note,
    )
    return Section(heading=heading, tables=(table,))


def _change_cells(change: Change, lang: Language, *, has_mean: bool) -> tuple[Cell, ...]:
    cells = [
        Cell(text=lang(f"figure.{change.figure}")),
        Cell(text=lang.percent(change.before), small=lang.fraction(change.before)),
        Cell(text=lang.percent(change.now), small=lang.fraction(change.now)),
        Cell(text=points(change.difference_tenths)),
    ]
    if has_mean:
        cells.append(Cell(text=lang.percent(change.mean), small=lang.fraction(change.mean)))
        cells.append(Cell(text=points(change.mean_difference_tenths)))
    return tuple(cells)


def _threshold(report: Weekly, totals: Totals, lang: Language) -> Section:
    is_said = totals.busy is not None
    rows = []
    for row in report.sensitivity:
        name = lang("sensitivity.over_share", share=tenths_text(row.theta_ppm // 1000).removesuffix(".0"))
        if row.is_in_force:
            name = lang("sensitivity.in_force", share=name)
        cells = [Cell(text=name), Cell(text=lang.percent_range(row.idle), small=lang.hours_range(row.idle))]
        if is_said:
            cells.append(Cell(text=lang.percent_range(row.busy), small=lang.hours_range(row.busy)))
        rows.append(tuple(cells))
    active = lang("sensitivity.active_unknown", noun=words.noun(report.period, lang))
    if totals.engine_active is not None:
        share, fraction = lang.percent(totals.engine_active), lang.fraction(totals.engine_active)
        active = lang("sensitivity.active", share=share, fraction=fraction)
    said = numbers(lang("sensitivity.busy")) if is_said else ()
    table = Table(
        caption=lang("sensitivity.caption"),
        columns=(*texts(lang("sensitivity.over")), *numbers(lang("sensitivity.idle")), *said),
        rows=tuple(rows),
        note=active,
    )
    return Section(heading=lang("sensitivity.heading"), tables=(table,))


def _findings(report: Weekly, lang: Language) -> Section:
    rows, others, others_count = top(report.findings, lambda row: row.count)
    cells = [
        line(
            lang.name(row.kind),
            lang.name(row.text, SENTENCE_CHARACTERS_MAX),
            f"{row.count:,}",
            lang.minute(row.first_ms),
            lang.minute(row.last_ms) if row.count > 1 else ABSENT,
        )
        for row in rows
    ]
    if others:
        cells.append(line(lang("name.others"), lang.count(others, "subject"), f"{others_count:,}", "", ""))
    table = Table(
        caption=lang("findings.caption"),
        columns=(
            *texts(lang("findings.kind"), lang("findings.what")),
            *numbers(lang("findings.times")),
            *texts(lang("findings.first"), lang("findings.last")),
        ),
        rows=tuple(cells),
        empty=lang("findings.empty"),
    )
    return Section(heading=lang("findings.heading"), tables=(table,))
