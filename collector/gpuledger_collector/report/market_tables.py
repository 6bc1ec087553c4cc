# SPDX-License-Identifier: Apache-2.0
"""What schedulers and leases say of idle time, as tables: each names whom to call where the inputs know one."""

from __future__ import annotations

from collections.abc import Iterable

from gpuledger.cells import HOUR_MS
from gpuledger.states import State
from gpuledger_collector.report.amounts import ABSENT, hours
from gpuledger_collector.report.idle_tables import others_row
from gpuledger_collector.report.languages import Language
from gpuledger_collector.report.layout import Cell, Table, line, numbers, top
from gpuledger_collector.report.layout import words as texts
from gpuledger_collector.report.market_model import Market
from gpuledger_collector.report.model import Weekly


def market_tables(report: Weekly, lang: Language) -> tuple[Table, ...]:
    """Return the tables for which there is an input."""
    market = report.market
    tables: list[Table] = []
    if market.has_scheduler:
        tables += [_not_schedulable(market, lang), _waiting(market, lang), _queues(market, lang)]
    if market.has_scheduler or market.stranded:
        tables.append(_stranded(market, lang))
    if market.has_leases:
        tables += [_sold_idle(market, lang), _kinds(report, lang)]
    if market.reserved_jobs:
        tables.append(_reserved_jobs(market, lang))
    return tuple(tables)


def _not_schedulable(market: Market, lang: Language) -> Table:
    rows, others, others_free = top(market.not_schedulable, lambda row: row.free_slice_ms)
    cells: list[tuple[Cell, ...]] = [
        (
            Cell(text=lang.name(row.site), small=lang.name(row.cluster)),
            Cell(text=lang.name(row.node)),
            Cell(text=lang(f"market.why_{row.why}"), small="" if row.reason is None else lang.name(row.reason)),
            Cell(text=hours(row.free_slice_ms), state=State.FREE),
            Cell(text=ABSENT if row.since_ms is None else lang.hour(row.since_ms)),
            Cell(text=lang.opened(row.by_name, row.by_digest)),
        )
        for row in rows
    ]
    if others:
        cells.append(others_row(lang, others, "node", hours(others_free), 6))
    return Table(
        caption=lang("market.not_schedulable_caption"),
        columns=(
            *texts(lang("idle.site"), lang("idle.node"), lang("market.why")),
            *numbers(lang("idle.free")),
            *texts(lang("market.since"), lang("market.by")),
        ),
        rows=tuple(cells),
        empty=lang("market.not_schedulable_empty"),
        note=lang("market.not_schedulable_note"),
    )


def _waiting(market: Market, lang: Language) -> Table:
    return Table(
        caption=lang("market.waiting_caption"),
        columns=(
            *texts(lang("market.cluster")),
            *numbers(lang("market.known"), lang("market.open_free"), lang("market.wanted"), lang("market.idle_wanted")),
        ),
        rows=tuple(
            line(
                lang.name(row.cluster),
                f"{row.known_ms // HOUR_MS:,}",
                hours(row.free_slice_ms),
                hours(row.wanted_slice_ms),
                hours(row.idle_wanted_slice_ms),
            )
            for row in market.waiting
        ),
        note=lang("market.waiting_note"),
    )


def _queues(market: Market, lang: Language) -> Table:
    rows, others, others_wanted = top(market.queues, lambda row: row.wanted_slice_ms)
    cells = [
        line(
            lang.name(row.cluster),
            ABSENT if row.partition is None else lang.name(row.partition),
            lang.name(row.reason),
            hours(row.wanted_slice_ms),
            f"{row.jobs_max:,}",
        )
        for row in rows
    ]
    if others:
        cells.append(others_row(lang, others, "group", hours(others_wanted), 5))
    return Table(
        caption=lang("market.queues_caption"),
        columns=(
            *texts(lang("market.cluster"), lang("market.partition"), lang("market.reason")),
            *numbers(lang("market.wanted"), lang("market.jobs")),
        ),
        rows=tuple(cells),
        empty=lang("market.queues_empty"),
    )


def _stranded(market: Market, lang: Language) -> Table:
    rows, others, others_amount = top(market.stranded, lambda row: row.beside_used_slice_ms + row.mig_slice_ms)
    cells = [
        line(
            lang.name(row.site),
            lang.name(row.node),
            f"{row.gpus:,}",
            hours(row.beside_used_slice_ms + row.mig_slice_ms),
            hours(row.mig_slice_ms),
            hours(row.free_slice_ms),
        )
        for row in rows
    ]
    if others:
        cells.append(others_row(lang, others, "node", hours(others_amount), 6))
    return Table(
        caption=lang("market.stranded_caption"),
        columns=(
            *texts(lang("idle.site"), lang("idle.node")),
            *numbers(lang("idle.gpus"), lang("market.stranded"), lang("market.of_mig"), lang("idle.free")),
        ),
        rows=tuple(cells),
        empty=lang("market.stranded_empty"),
        note=lang("market.stranded_note"),
    )


def _range(low: int, high: int, lang: Language) -> str:
    return hours(low) if low == high else lang("free.range", low=hours(low), high=hours(high))


def _sold_idle(market: Market, lang: Language) -> Table:
    idle = [row for row in market.sold_idle if row.idle_high_slice_ms > 0 or row.dark_high_slice_ms > 0]
    rows, others, others_idle = top(idle, lambda row: row.idle_high_slice_ms)
    cells: list[tuple[Cell, ...]] = [
        (
            Cell(text=lang.opened(row.tenant_name, row.tenant_digest), small=lang(f"market.kind_{row.kind}")),
            Cell(text=lang.name(row.lease)),
            Cell(text=lang.name(row.pool), small="" if row.site is None else lang.name(row.site)),
            Cell(text=_range(row.idle_low_slice_ms, row.idle_high_slice_ms, lang), state=State.HELD),
            Cell(text=_range(row.dark_low_slice_ms, row.dark_high_slice_ms, lang)),
            Cell(text=hours(row.leased_slice_ms)),
        )
        for row in rows
    ]
    if others:
        cells.append(others_row(lang, others, "tenant", hours(others_idle), 6))
    low, high = (sum(amounts) for amounts in zip(*_dark_bounds(market), strict=True))
    return Table(
        caption=lang("market.sold_caption"),
        columns=(
            *texts(lang("market.tenant"), lang("market.lease"), lang("idle.pool")),
            *numbers(lang("market.sold_idle"), lang("market.dark"), lang("market.leased")),
        ),
        rows=tuple(cells),
        empty=lang("market.sold_empty"),
        note=lang("market.sold_note", dark=_range(low, high, lang)),
    )


def _dark_bounds(market: Market) -> Iterable[tuple[int, int]]:
    yield 0, 0
    yield from ((row.dark_low_slice_ms, row.dark_high_slice_ms) for row in market.sold_idle)


def _kinds(report: Weekly, lang: Language) -> Table:
    total = sum(row.slice_ms for row in report.market.kinds)
    return Table(
        caption=lang("market.kinds_caption"),
        columns=(
            *texts(lang("market.kind")),
            *numbers(lang("market.installed"), lang("market.share"), lang("market.used")),
        ),
        rows=tuple(
            line(
                lang(f"market.kind_{row.kind}"),
                hours(row.slice_ms),
                lang.tenths(row.slice_ms * 1000 // total),
                _range(row.used_low_slice_ms, row.used_high_slice_ms, lang),
            )
            for row in report.market.kinds
        ),
        total=line(lang("name.all"), hours(total), "", ""),
        note=lang("market.kinds_note"),
    )


def _reserved_jobs(market: Market, lang: Language) -> Table:
    rows, others, others_reserved = top(market.reserved_jobs, lambda row: row.reserved_slice_ms)
    cells = []
    for row in rows:
        account = lang.opened(row.account_name, row.account_digest)
        span = lang("idle.from_to", **{"from": lang.hour(row.first_hour_ms), "to": lang.hour(row.last_hour_ms)})
        cells.append(
            (
                Cell(
                    text=lang.opened(row.user_name, row.user_digest),
                    small="" if row.account_digest is None else account,
                ),
                Cell(
                    text=lang.opened(row.job_name, row.job_digest),
                    small=lang("idle.on_node", node=lang.name(row.node)),
                ),
                Cell(text=f"{row.gpus:,}"),
                Cell(text=hours(row.reserved_slice_ms), state=State.RESERVED),
                *line(hours(row.all_slice_ms), span),
            )
        )
    if others:
        cells.append(others_row(lang, others, "job", hours(others_reserved), 6))
    return Table(
        caption=lang("market.reserved_caption"),
        columns=(
            *texts(lang("market.user_account"), lang("market.job")),
            *numbers(lang("idle.gpus"), lang("idle.reserved"), lang("market.given")),
            *texts(lang("idle.first_last")),
        ),
        rows=tuple(cells),
    )
