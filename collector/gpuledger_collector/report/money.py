# SPDX-License-Identifier: Apache-2.0
"""Builds money and energy of idle time from a ledger's answers and a price book. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from fractions import Fraction

from gpuledger.cells import DAY_MS, floor_to
from gpuledger.states import State
from gpuledger_collector.figures import Group
from gpuledger_collector.finance.amounts import GPU_HOUR_SLICE_MS, MJ_PER_KWH, PricedHour, SiteMoney, site_money
from gpuledger_collector.finance.book import PriceBook
from gpuledger_collector.leases import LEASE_KINDS
from gpuledger_collector.node_figures import NodeTime, ReportReader
from gpuledger_collector.report.money_model import Money, MoneyOf, SwitchOff
from gpuledger_collector.report.periods import Span, at

Bounds = tuple[int, int]


def build_money(
    reader: ReportReader,
    book: PriceBook,
    groups: Sequence[Group],
    span: Span,
    to_ms: int,
    nodes: Sequence[NodeTime],
) -> Money:
    """Return it for a span, of which the ledger accounts for what is before `to_ms`.

    `groups` are sums by site, model and hour.
    """
    start_ms, end_ms = span.start_ms, span.end_ms
    hours = _priced_hours(reader, groups, start_ms, end_ms)
    found = site_money(book, hours, start_ms, to_ms)
    return Money(
        currency=book.currency,
        book_digest=book.digest,
        total=_total(found),
        sites=tuple(_money_of(money) for money in found),
        switch_off=_switch_off(found, nodes, groups, to_ms - start_ms),
        sources=_sources(book, groups),
        missing=tuple(one for money in found for one in money.missing),
    )


def _priced_hours(reader: ReportReader, groups: Sequence[Group], start_ms: int, end_ms: int) -> Iterable[PricedHour]:
    """Yield the hours with what of their free time was leased.

    Leases are of pools, prices of models: leased free time of a site's day is spread over its free time evenly.
    """
    sold = {
        day_ms: _sold_free(reader, max(day_ms, start_ms), min(day_ms + DAY_MS, end_ms))
        for day_ms in range(floor_to(start_ms, DAY_MS), end_ms, DAY_MS)
    }
    free: dict[tuple[int, str], int] = {}
    for group in groups:
        key = floor_to(int(group.key[2]), DAY_MS), str(group.key[0])
        free[key] = free.get(key, 0) + group.account.slice_ms(State.FREE)
    of_day: dict[int, int] = {}
    for (day_ms, _), amount in free.items():
        of_day[day_ms] = of_day.get(day_ms, 0) + amount
    for group in groups:
        site, model, hour_ms = str(group.key[0]), str(group.key[1]), int(group.key[2])
        day_ms, own = floor_to(hour_ms, DAY_MS), group.account.slice_ms(State.FREE)
        bounds = [0, 0]
        for where, whole in ((site, free[day_ms, site]), (None, of_day[day_ms])):
            for index, amount in enumerate(sold[day_ms].get(where, (0, 0))):
                bounds[index] += amount * own // whole if whole > 0 else 0
        yield PricedHour(
            site=site,
            model=model,
            hour_ms=hour_ms,
            state_slice_ms=group.account.state_slice_ms,
            energy_mj=group.account.energy_mj,
            sold_free_low_slice_ms=min(bounds[0], own),
            sold_free_high_slice_ms=min(bounds[1], own),
        )


def _sold_free(reader: ReportReader, start_ms: int, end_ms: int) -> Mapping[str | None, Bounds]:
    """Return free time under leases by site (None: pools leased as a whole), at least and at most."""
    found: dict[str | None, Bounds] = {}
    for row in reader.commerce(start_ms, end_ms):
        if row.kind in LEASE_KINDS:
            low, high = found.get(row.site, (0, 0))
            low += row.low_slice_ms.get(State.FREE, 0)
            found[row.site] = low, high + row.high_slice_ms.get(State.FREE, 0)
    return found


def _total(found: Sequence[SiteMoney]) -> MoneyOf:
    def add(amounts: Iterable[Fraction | None]) -> Fraction | None:
        each = list(amounts)
        known = [one for one in each if one is not None]
        return sum(known, Fraction(0)) if known and len(known) == len(each) else None

    return MoneyOf(
        site=None,
        lost_slice_ms=sum(one.lost_slice_ms for one in found),
        foregone_low=cents(add(one.foregone_low for one in found)),
        foregone_high=cents(add(one.foregone_high for one in found)),
        idle_kwh=thousandths(add(one.energy_kwh for one in found)),
        idle_site_kwh=thousandths(add(one.site_kwh for one in found)),
        idle_energy_cost=cents(add(one.energy_cost for one in found)),
        full_revenue=cents(add(one.full_revenue for one in found)),
        fixed_costs=cents(add(one.fixed_costs for one in found)),
        break_even_tenths=None,
    )


def _money_of(one: SiteMoney) -> MoneyOf:
    return MoneyOf(
        site=one.site,
        lost_slice_ms=one.lost_slice_ms,
        foregone_low=cents(one.foregone_low),
        foregone_high=cents(one.foregone_high),
        idle_kwh=thousandths(one.energy_kwh),
        idle_site_kwh=thousandths(one.site_kwh),
        idle_energy_cost=cents(one.energy_cost),
        full_revenue=cents(one.full_revenue),
        fixed_costs=cents(one.fixed_costs),
        break_even_tenths=None if one.break_even is None else -(-(one.break_even * 1000) // 1),
    )


def _switch_off(
    found: Sequence[SiteMoney], nodes: Iterable[NodeTime], groups: Iterable[Group], length_ms: int
) -> tuple[SwitchOff, ...]:
    """Return what switching off each site's wholly free nodes would have saved, where everything for that is known."""
    installed: dict[str, int] = {}
    for group in groups:
        site = str(group.key[0])
        installed[site] = installed.get(site, 0) + group.account.installed_slice_ms
    idle: dict[str, list[NodeTime]] = {}
    for node in nodes:
        is_free = node.last_unfree_hour_ms is None and node.slice_ms(State.FREE) == node.installed_slice_ms
        if is_free and State.FREE.value in node.energy_mj and node.installed_slice_ms > 0 and length_ms > 0:
            idle.setdefault(node.site, []).append(node)
    rows = []
    for money in found:
        free = idle.get(money.site, [])
        if not free or not money.energy_kwh or money.energy_cost is None or not money.full_revenue:
            continue
        kwh = Fraction(sum(node.energy_mj[State.FREE.value] for node in free), MJ_PER_KWH)
        site_kwh = kwh * (money.site_kwh or Fraction(0)) / money.energy_kwh
        saved = kwh * money.energy_cost / money.energy_kwh
        price = money.full_revenue / Fraction(installed[money.site], GPU_HOUR_SLICE_MS)
        rows.append(
            SwitchOff(
                site=money.site,
                nodes=len(free),
                gpus=sum(node.gpus for node in free),
                free_slice_ms=sum(node.slice_ms(State.FREE) for node in free),
                site_kwh=_rounded(site_kwh, 3),
                saved=_rounded(saved, 2),
                price_of_gpu_hour=_rounded(price, 4),
                as_much_slice_ms=-(-(saved / price * GPU_HOUR_SLICE_MS) // 1),
            )
        )
    return tuple(rows)


def _sources(book: PriceBook, groups: Iterable[Group]) -> tuple[str, ...]:
    sources = set()
    for group in groups:
        site, model, hour_ms = str(group.key[0]), str(group.key[1]), int(group.key[2])
        price = book.price(model, site, book.local(site, at(hour_ms)).date())
        if price is not None:
            sources.add(price.source)
    return tuple(sorted(sources))


def cents(amount: Fraction | None) -> Decimal | None:
    """Return the amount to the cent, half up; None stays None."""
    return None if amount is None else _rounded(amount, 2)


def thousandths(amount: Fraction | None) -> Decimal | None:
    """Return the amount to the thousandth, half up; None stays None."""
    return None if amount is None else _rounded(amount, 3)


def _rounded(amount: Fraction, places: int) -> Decimal:
    """Return a fraction >= 0 rounded half up, exactly: no step in between rounds."""
    scaled = (amount * 10**places * 2 + 1) // 2
    return Decimal(scaled).scaleb(-places)
