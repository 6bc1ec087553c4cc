# SPDX-License-Identifier: Apache-2.0
"""Whose GPU time it was and what could be sold: bridge, sellable time, kinds by state, leases, as tables."""

from __future__ import annotations

from collections.abc import Iterator

from gpuledger.states import State
from gpuledger_collector.report import words
from gpuledger_collector.report.amounts import ABSENT, hours
from gpuledger_collector.report.given_model import Given, KindStates, LeaseTime, Sellable
from gpuledger_collector.report.languages import Language
from gpuledger_collector.report.layout import Cell, Column, Section, Table, line, numbers, top
from gpuledger_collector.report.layout import words as texts
from gpuledger_collector.report.market_model import RosterBridge
from gpuledger_collector.report.model import Weekly


def given_section(report: Weekly, lang: Language) -> tuple[Section, ...]:
    """Return the section; none where nothing is known of any of it."""
    given = report.given
    if given is None:
        return ()
    tables = tuple(_tables(report, given, lang))
    notes = (lang("given.bounds_note"),) if given.kinds else ()
    return (Section(heading=lang("given.heading"), tables=tables, notes=notes),) if tables else ()


def _tables(report: Weekly, given: Given, lang: Language) -> Iterator[Table]:
    bridge = report.market.bridge
    if bridge is not None:
        yield _bridge(bridge, lang)
    if given.sellable is not None:
        yield _sellable(given.sellable, lang)
    if given.kinds:
        yield _kinds(report, given, lang)
    if given.leases:
        yield _leases(report, given, lang)


def _bridge(bridge: RosterBridge, lang: Language) -> Table:
    rows = (
        ("opening", bridge.opening),
        ("added", bridge.added),
        ("retired", -bridge.retired),
        ("closing", bridge.closing),
    )
    return Table(
        caption=lang("given.bridge_caption"),
        columns=(*texts(lang("given.bridge")), *numbers(lang("idle.gpus"))),
        rows=tuple(
            line(lang(f"given.bridge_{name}"), f"{number:,}" if number >= 0 else f"−{-number:,}")
            for name, number in rows
        ),
    )


def _sellable(found: Sellable, lang: Language) -> Table:
    rows = (
        ("free", found.free_slice_ms),
        ("not_schedulable", found.not_schedulable_slice_ms),
        ("stranded_node", found.stranded_node_slice_ms),
        ("stranded_mig", found.stranded_mig_slice_ms),
        ("sellable", found.sellable_slice_ms),
    )
    return Table(
        caption=lang("given.sellable_caption"),
        columns=(*texts(lang("given.part")), *numbers(lang("given.gpu_hours"))),
        rows=tuple(line(lang(f"given.part_{name}"), hours(amount)) for name, amount in rows),
        note=lang("given.sellable_note"),
    )


def _range(low: int, high: int) -> str:
    return hours(low) if low == high else f"{hours(low)} – {hours(high)}"


def _kinds(report: Weekly, given: Given, lang: Language) -> Table:
    shown = [state for state in State if any(one.state is state for kind in given.kinds for one in kind.states)]

    def cells(kind: KindStates) -> tuple[Cell, ...]:
        bounds = {one.state: one for one in kind.states}
        found = [Cell(text=lang(f"market.kind_{kind.kind.value}")), Cell(text=hours(kind.slice_ms))]
        for state in shown:
            own = bounds.get(state)
            found.append(Cell(text=ABSENT if own is None else _range(own.low_slice_ms, own.high_slice_ms), state=state))
        return tuple(found)

    return Table(
        caption=lang("given.kinds_caption"),
        columns=(
            *texts(lang("market.kind")),
            *numbers(lang("given.gpu_hours")),
            *(Column(name=words.state_label(state, report, lang), state=state) for state in shown),
        ),
        rows=tuple(cells(kind) for kind in given.kinds),
    )


def _leases(report: Weekly, given: Given, lang: Language) -> Table:
    may_say_used = not report.withheld

    def cells(one: LeaseTime) -> tuple[Cell, ...]:
        used = _range(one.used_low_slice_ms, one.used_high_slice_ms) if may_say_used else ABSENT
        return line(
            lang.name(one.lease),
            ABSENT if one.tenant is None else lang.name(one.tenant),
            lang(f"market.kind_{one.kind.value}"),
            hours(one.contracted_slice_ms),
            _range(one.delivered_low_slice_ms, one.delivered_high_slice_ms),
            used,
            _range(one.idle_low_slice_ms, one.idle_high_slice_ms),
        )

    rows, others, others_ms = top(given.leases, lambda one: one.contracted_slice_ms)
    found = [cells(one) for one in rows]
    if others:
        found.append(line(lang("name.others"), "", "", hours(others_ms), "", "", ""))
    return Table(
        caption=lang("given.leases_caption"),
        columns=(
            *texts(lang("market.lease"), lang("market.tenant"), lang("market.kind")),
            *numbers(
                lang("given.contracted"),
                lang("given.delivered"),
                lang("given.in_work"),
                lang("given.sold_idle"),
            ),
        ),
        rows=tuple(found),
        note="" if may_say_used else lang("given.work_withheld"),
    )
