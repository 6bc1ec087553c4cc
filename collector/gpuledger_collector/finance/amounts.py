# SPDX-License-Identifier: Apache-2.0
"""What idle time was worth and what it cost in power, hour by hour at the prices of the day. Pure and exact.

An amount that lacks an input is None; `missing` names the inputs, each once.
"""

from __future__ import annotations

import calendar
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from enum import Enum
from fractions import Fraction

from gpuledger.cells import HOUR_MS, SLICES_PER_GPU
from gpuledger.states import State
from gpuledger_collector.finance.book import PriceBook

GPU_HOUR_SLICE_MS = HOUR_MS * SLICES_PER_GPU
MJ_PER_KWH = 3_600_000_000
LOST = (State.FREE, State.STANDBY)
"""States that earn nothing. Held and reserved time may be paid for; what leases say of free time is taken off."""
IDLE_ENERGY = (State.FREE, State.HELD, State.RESERVED)
"""States whose energy a counter tells and that did no work."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class PricedHour:
    """Time (slice-ms) by state and energy (mJ) by key of one model at one site in one hour of UTC."""

    site: str
    model: str
    hour_ms: int
    state_slice_ms: Mapping[State, int]
    energy_mj: Mapping[str, int]
    sold_free_low_slice_ms: int = 0
    """Free time that was under a lease that pays, at least."""
    sold_free_high_slice_ms: int = 0


class Input(str, Enum):
    """What the book may lack."""

    PRICE = "price"
    RATE = "rate"
    PUE = "pue"
    TARIFF = "tariff"
    FIXED_COSTS = "fixed_costs"
    ENERGY = "energy"
    """Not of the book: counters of energy in the ledger."""


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Missing:
    """An input that is missing on some of a site's days; `subject` is a model or a currency, else empty."""

    what: str
    site: str
    subject: str = ""
    first_day: date | None = None
    days: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteMoney:
    """What idle time meant at one site; all in the book's currency.

    `foregone_low` takes as much of free time for leased as may have been, `foregone_high` as little. `energy_kwh` is
    that of the GPUs, before the site's overhead. `hour_price` is the mean price of an installed GPU-hour.
    """

    site: str
    foregone_low: Fraction | None
    foregone_high: Fraction | None
    lost_slice_ms: int
    energy_kwh: Fraction | None
    site_kwh: Fraction | None
    energy_cost: Fraction | None
    full_revenue: Fraction | None
    """What all installed time would have brought at the prices of the days."""
    fixed_costs: Fraction | None
    break_even: Fraction | None
    """The least share of installed time that must be sold for its price to meet fixed costs and power."""
    missing: tuple[Missing, ...] = ()


_Lack = tuple[Input, str, date]
"""What is missing, of which model or currency, on which day."""


@dataclass(slots=True, kw_only=True)
class _Sums:
    """A site's sums while they are added up; a set of what is missing for each figure."""

    lost_slice_ms: int = 0
    low: Fraction = Fraction(0)
    high: Fraction = Fraction(0)
    full: Fraction = Fraction(0)
    kwh: Fraction = Fraction(0)
    site_kwh: Fraction = Fraction(0)
    cost: Fraction = Fraction(0)
    busy_cost: Fraction = Fraction(0)
    installed_slice_ms: int = 0
    busy_slice_ms: int = 0
    idle_slice_ms: int = 0
    has_energy: bool = False
    no_price: set[_Lack] = field(default_factory=set)
    no_pue: set[_Lack] = field(default_factory=set)
    no_tariff: set[_Lack] = field(default_factory=set)


def site_money(book: PriceBook, hours: Iterable[PricedHour], start_ms: int, end_ms: int) -> list[SiteMoney]:
    """Return each site's money over [start_ms, end_ms), in order of name; the hours must be those of the span."""
    sums: dict[str, _Sums] = {}
    for hour in hours:
        _add(book, hour, sums.setdefault(hour.site, _Sums()))
    return [_settle(book, site, found, start_ms, end_ms) for site, found in sorted(sums.items())]


def _add(book: PriceBook, hour: PricedHour, sums: _Sums) -> None:
    local = book.local(hour.site, _EPOCH + timedelta(milliseconds=hour.hour_ms))
    installed = sum(hour.state_slice_ms.values())
    lost = sum(hour.state_slice_ms.get(state, 0) for state in LOST)
    sums.lost_slice_ms += lost
    sums.installed_slice_ms += installed
    sums.busy_slice_ms += hour.state_slice_ms.get(State.BUSY, 0)
    sums.idle_slice_ms += sum(hour.state_slice_ms.get(state, 0) for state in IDLE_ENERGY)
    price = _hour_price(book, hour, local.date(), sums)
    if price is not None:
        sums.low += Fraction(max(lost - hour.sold_free_high_slice_ms, 0), GPU_HOUR_SLICE_MS) * price
        sums.high += Fraction(max(lost - hour.sold_free_low_slice_ms, 0), GPU_HOUR_SLICE_MS) * price
        sums.full += Fraction(installed, GPU_HOUR_SLICE_MS) * price
    if hour.energy_mj:
        sums.has_energy = True
        _add_energy(book, hour, local, sums)


def _hour_price(book: PriceBook, hour: PricedHour, day: date, sums: _Sums) -> Fraction | None:
    price = book.price(hour.model, hour.site, day)
    if price is None:
        sums.no_price.add((Input.PRICE, hour.model, day))
        return None
    rate = book.rate(price.currency, day)
    if rate is None:
        sums.no_price.add((Input.RATE, price.currency, day))
        return None
    return price.of_gpu_hour * rate


def _add_energy(book: PriceBook, hour: PricedHour, local: datetime, sums: _Sums) -> None:
    day = local.date()
    idle = Fraction(sum(hour.energy_mj.get(state.value, 0) for state in IDLE_ENERGY), MJ_PER_KWH)
    busy = Fraction(hour.energy_mj.get(State.BUSY.value, 0), MJ_PER_KWH)
    sums.kwh += idle
    pue = book.pue(hour.site, day)
    if pue is None:
        sums.no_pue.add((Input.PUE, "", day))
        return
    sums.site_kwh += idle * pue
    tariff = book.tariff(hour.site, day)
    if tariff is None:
        sums.no_tariff.add((Input.TARIFF, "", day))
        return
    rate = book.rate(tariff.currency, day)
    if rate is None:
        sums.no_tariff.add((Input.RATE, tariff.currency, day))
        return
    per_kwh = tariff.per_kwh(local.weekday(), local.hour) * rate
    sums.cost += idle * pue * per_kwh
    sums.busy_cost += busy * pue * per_kwh


def _settle(book: PriceBook, site: str, sums: _Sums, start_ms: int, end_ms: int) -> SiteMoney:
    is_priced = not sums.no_price
    has_energy = sums.has_energy
    has_site_kwh = has_energy and not sums.no_pue
    has_cost = has_site_kwh and not sums.no_tariff
    fixed, no_fixed = fixed_costs(book, site, start_ms, end_ms)
    missing = [*_missing(site, sums.no_price | sums.no_pue | sums.no_tariff), *no_fixed]
    if not has_energy:
        missing.append(Missing(what=Input.ENERGY.value, site=site))
    return SiteMoney(
        site=site,
        foregone_low=sums.low if is_priced else None,
        foregone_high=sums.high if is_priced else None,
        lost_slice_ms=sums.lost_slice_ms,
        energy_kwh=sums.kwh if has_energy else None,
        site_kwh=sums.site_kwh if has_site_kwh else None,
        energy_cost=sums.cost if has_cost else None,
        full_revenue=sums.full if is_priced else None,
        fixed_costs=fixed,
        break_even=_break_even(sums, fixed) if is_priced and has_cost and fixed is not None else None,
        missing=tuple(missing),
    )


def _missing(site: str, lacks: Iterable[_Lack]) -> list[Missing]:
    """Return one entry for each input, with the first of its days and their number."""
    days: dict[tuple[Input, str], set[date]] = {}
    for what, subject, day in lacks:
        days.setdefault((what, subject), set()).add(day)
    return [
        Missing(what=what.value, site=site, subject=subject, first_day=min(found), days=len(found))
        for (what, subject), found in sorted(days.items(), key=lambda item: (list(Input).index(item[0][0]), item[0][1]))
    ]


def _break_even(sums: _Sums, fixed: Fraction) -> Fraction | None:
    """Return the share s of installed time with: revenue(s) = fixed + power(s).

    A sold hour draws what a busy one did and an unsold hour what an idle one did, on average of the period.
    """
    hours = Fraction(sums.installed_slice_ms, GPU_HOUR_SLICE_MS)
    busy, idle = Fraction(sums.busy_slice_ms, GPU_HOUR_SLICE_MS), Fraction(sums.idle_slice_ms, GPU_HOUR_SLICE_MS)
    if busy == 0 or idle == 0:
        return None
    idle_power = sums.cost / idle * hours
    busy_power = sums.busy_cost / busy * hours
    margin = sums.full - busy_power + idle_power
    return None if margin <= 0 else (fixed + idle_power) / margin


def fixed_costs(book: PriceBook, site: str, start_ms: int, end_ms: int) -> tuple[Fraction | None, list[Missing]]:
    """Return a site's fixed costs of the days of a span, and what is missing; a day costs its part of its month."""
    costs = book.sites.get(site)
    if costs is None or not costs.fixed:
        return None, [Missing(what=Input.FIXED_COSTS.value, site=site)]
    total, missing = Fraction(0), set[_Lack]()
    first = book.local(site, _EPOCH + timedelta(milliseconds=start_ms))
    last = book.local(site, _EPOCH + timedelta(milliseconds=end_ms))
    day = first.date()
    while day < last.date() or (day == last.date() and last.time() != datetime.min.time()):
        days = calendar.monthrange(day.year, day.month)[1]
        part = _part_of_day(day, first, last)
        for cost in costs.fixed:
            if not cost.days.holds(day):
                continue
            rate = book.rate(cost.currency, day)
            if rate is None:
                missing.add((Input.RATE, cost.currency, day))
            else:
                total += cost.per_month * rate * part / days
        day += timedelta(days=1)
    return (None, _missing(site, missing)) if missing else (total, [])


def _part_of_day(day: date, first: datetime, last: datetime) -> Fraction:
    """Return how much of a calendar day of the site lies between two of its times."""
    start = datetime(day.year, day.month, day.day, tzinfo=first.tzinfo)
    end = start + timedelta(days=1)
    # Differences of aware times of one zone forget changes of the clock: take them in UTC.
    edges = [moment.astimezone(UTC) for moment in (start, end, max(start, first), min(end, last))]
    return Fraction((edges[3] - edges[2]) // timedelta(seconds=1), (edges[1] - edges[0]) // timedelta(seconds=1))
