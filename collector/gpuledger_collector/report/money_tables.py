# SPDX-License-Identifier: Apache-2.0
"""Money and energy of idle time as tables, with the arithmetic of switching off."""

from __future__ import annotations

from decimal import Decimal

from gpuledger_collector.finance.amounts import Missing
from gpuledger_collector.report.amounts import ABSENT, hours
from gpuledger_collector.report.languages import Language
from gpuledger_collector.report.layout import Cell, Section, Table, line, numbers, top
from gpuledger_collector.report.layout import words as texts
from gpuledger_collector.report.model import Weekly
from gpuledger_collector.report.money_model import Money, MoneyOf

SITES_MAX = 20
MISSING_MAX = 20


def money_section(report: Weekly, lang: Language) -> Section:
    """Return the section of money and energy; one line where there is no price book."""
    money = report.money
    if money is None:
        return Section(heading=lang("money.heading"), lines=(lang("money.absent"),))
    notes = [_missing(one, lang) for one in money.missing[:MISSING_MAX]]
    if len(money.missing) > MISSING_MAX:
        notes.append(lang("money.missing_more", n=len(money.missing) - MISSING_MAX))
    return Section(
        heading=lang("money.heading"),
        tables=(_sites(money, lang), *([_switch_off(money, lang)] if money.switch_off else [])),
        notes=tuple(notes),
    )


def _missing(one: Missing, lang: Language) -> str:
    subject, site = lang.name(one.subject), lang.name(one.site)
    what = lang(f"money.input_{one.what}", subject=subject, site=site)
    if one.first_day is None:
        return lang("money.missing", what=what)
    return lang("money.missing_days", what=what, n=one.days, day=one.first_day.isoformat())


def amount_range(low: Decimal | None, high: Decimal | None, lang: Language) -> str:
    """Return "1,234.56", or "1,000.00 – 1,234.56" where leases of pools leave it open."""
    if low is None or high is None:
        return ABSENT
    return _amount(low) if low == high else lang("free.range", low=_amount(low), high=_amount(high))


def _amount(amount: Decimal | None) -> str:
    return ABSENT if amount is None else f"{amount:,.2f}"


def _energy(amount: Decimal | None) -> str:
    return ABSENT if amount is None else f"{amount:,.0f}"


def _cells(row: MoneyOf, name: str, lang: Language) -> tuple[Cell, ...]:
    share = None if row.break_even_tenths is None else lang.tenths(row.break_even_tenths)
    return line(
        name,
        hours(row.lost_slice_ms),
        amount_range(row.foregone_low, row.foregone_high, lang),
        _energy(row.idle_kwh),
        _energy(row.idle_site_kwh),
        _amount(row.idle_energy_cost),
        _amount(row.fixed_costs),
        ABSENT if share is None else share,
    )


def _sites(money: Money, lang: Language) -> Table:
    rows = sorted(money.sites, key=lambda row: (-row.lost_slice_ms, row.site or ""))
    shown, others, others_lost = top(rows, lambda row: row.lost_slice_ms, SITES_MAX)
    cells = [_cells(row, lang.name(row.site), lang) for row in shown]
    if others:
        cells.append(line(lang("name.others"), hours(others_lost), *[""] * 6))
    return Table(
        caption=lang("money.caption", currency=money.currency),
        columns=(
            *texts(lang("idle.site")),
            *numbers(
                lang("money.lost"),
                lang("money.foregone"),
                lang("money.kwh"),
                lang("money.site_kwh"),
                lang("money.energy_cost"),
                lang("money.fixed"),
                lang("money.break_even"),
            ),
        ),
        rows=tuple(cells),
        total=_cells(money.total, lang("name.all"), lang) if len(money.sites) > 1 else None,
        note=lang(
            "money.note",
            sources=lang.commas(lang.name(source) for source in money.sources) or ABSENT,
            digest=money.book_digest,
        ),
    )


def _switch_off(money: Money, lang: Language) -> Table:
    return Table(
        caption=lang("money.off_caption"),
        columns=(
            *texts(lang("idle.site")),
            *numbers(
                lang("money.off_nodes"),
                lang("money.off_kwh"),
                lang("money.off_saved", currency=money.currency),
                lang("money.off_price", currency=money.currency),
                lang("money.off_hours"),
                lang("money.off_share"),
            ),
        ),
        rows=tuple(
            line(
                lang.name(row.site),
                f"{row.nodes:,}",
                _energy(row.site_kwh),
                _amount(row.saved),
                f"{row.price_of_gpu_hour:,.4f}",
                hours(row.as_much_slice_ms),
                lang.tenths(-(-row.as_much_slice_ms * 1000 // row.free_slice_ms)),
            )
            for row in money.switch_off
        ),
        note=lang("money.off_note"),
    )
