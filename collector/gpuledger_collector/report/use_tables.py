# SPDX-License-Identifier: Apache-2.0
"""What GPU time was used for, as tables: by kind, over weeks, and at which hours of the week."""

from __future__ import annotations

from collections.abc import Iterator

from gpuledger.cells import HOUR_MS, SLICES_PER_GPU
from gpuledger.states import State
from gpuledger_collector.classify.kinds import Kind
from gpuledger_collector.report import words
from gpuledger_collector.report.amounts import ABSENT, hours
from gpuledger_collector.report.languages import Language
from gpuledger_collector.report.layout import Cell, Section, Table, line, numbers
from gpuledger_collector.report.layout import words as texts
from gpuledger_collector.report.model import Weekly
from gpuledger_collector.report.use_model import Use, UseHour, UseWeek

BAND_HOURS = 6
WEEKDAYS = 5
_DAY_HOURS = 24


def use_section(report: Weekly, lang: Language) -> Section:
    """Return the section about kinds of workloads; without verdicts it says what it needs."""
    if report.use is None:
        return Section(heading=lang("use.heading"), lines=(lang("use.absent"),))
    tables = [_kinds(report, report.use, lang)]
    if len(report.use.weeks) > 1:
        tables.append(_weeks(report.use, lang))
    tables.append(_bands(report.use, lang))
    return Section(heading=lang("use.heading"), tables=tuple(tables))


def _kind(kind: Kind, lang: Language) -> str:
    return lang(f"use.kind_{kind.value}")


def _share(amount: int, total: int) -> str:
    return f"{amount / total * 100:.1f} %" if total > 0 else ABSENT


def _kinds(report: Weekly, use: Use, lang: Language) -> Table:
    total = sum(one.busy_slice_ms + one.held_slice_ms for one in use.kinds)
    rows = []
    for one in use.kinds:
        slice_ms = one.busy_slice_ms + one.held_slice_ms
        bursts = ABSENT if one.burstiness_percent is None else f"{one.burstiness_percent} %"
        rows.append(
            (
                *line(_kind(one.kind, lang), hours(one.busy_slice_ms), hours(one.held_slice_ms)),
                Cell(text=_share(slice_ms, total)),
                *line(hours(one.whole_node_slice_ms), hours(slice_ms - one.whole_node_slice_ms), bursts),
            )
        )
    return Table(
        caption=lang("use.kinds_caption"),
        columns=(
            *texts(lang("use.kind")),
            *numbers(
                lang("idle.state_hours", state=words.state_label(State.BUSY, report, lang)),
                lang("idle.held"),
                lang("use.share"),
                lang("use.whole_nodes"),
                lang("use.parts"),
                lang("use.bursts"),
            ),
        ),
        rows=tuple(rows),
        empty=lang("use.empty"),
        note=lang("use.kinds_note"),
    )


def _amount(row: UseWeek | UseHour, kind: Kind) -> int:
    amount: int = getattr(row, f"{kind.value}_slice_ms")
    return amount


def _weeks(use: Use, lang: Language) -> Table:
    rows = []
    for week in use.weeks:
        total = sum(_amount(week, kind) for kind in Kind)
        cells = [Cell(text=hours(_amount(week, kind)), small=_share(_amount(week, kind), total)) for kind in Kind]
        name = lang.day(week.start_ms) + ("" if week.is_whole else " *")
        rows.append((Cell(text=name), *cells))
    return Table(
        caption=lang("use.weeks_caption"),
        columns=(*texts(lang("use.week")), *numbers(*(_kind(kind, lang) for kind in Kind))),
        rows=tuple(rows),
        note=lang("use.weeks_note"),
    )


def _bands(use: Use, lang: Language) -> Table:
    rows = []
    for label, found in _bands_of(use, lang):
        means = [sum(_amount(hour, kind) for hour in found) / len(found) if found else None for kind in Kind]
        cells = [ABSENT if mean is None else f"{mean / (HOUR_MS * SLICES_PER_GPU):.1f}" for mean in means]
        rows.append(line(label, *cells))
    return Table(
        caption=lang("use.bands_caption"),
        columns=(*texts(lang("use.band")), *numbers(*(_kind(kind, lang) for kind in Kind))),
        rows=tuple(rows),
        note=lang("use.bands_note"),
    )


def _bands_of(use: Use, lang: Language) -> Iterator[tuple[str, list[UseHour]]]:
    for is_weekend in (False, True):
        day = lang("use.weekend" if is_weekend else "use.weekday")
        for start in range(0, _DAY_HOURS, BAND_HOURS):
            found = [
                hour
                for hour in use.hours
                if (hour.hour // _DAY_HOURS >= WEEKDAYS) == is_weekend
                and start <= hour.hour % _DAY_HOURS < start + BAND_HOURS
            ]
            yield f"{day} {start:02}:00–{start + BAND_HOURS:02}:00", found
