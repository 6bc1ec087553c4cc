# SPDX-License-Identifier: Apache-2.0
"""The price book as data: prices, rates of exchange, sites' power and costs. Pure and exact.

Days are calendar days of the site. Amounts are fractions: nothing is rounded before it is printed. What is not in the
book is None, and whoever asks says which input is missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from enum import Enum
from fractions import Fraction
from zoneinfo import ZoneInfo

HOURS_OF_MONTH = 730
"""A month of a price: 8,760 / 12 hours, whatever the calendar says, so that a GPU-hour costs the same all year."""


class Unit(str, Enum):
    """What a price is for."""

    GPU_HOUR = "gpu_hour"
    GPU_DAY = "gpu_day"
    GPU_MONTH = "gpu_month"
    SERVER_HOUR = "server_hour"
    SERVER_DAY = "server_day"
    SERVER_MONTH = "server_month"

    @property
    def hours(self) -> int:
        """Return how many hours it is."""
        return {"hour": 1, "day": 24, "month": HOURS_OF_MONTH}[self.value.rpartition("_")[2]]

    @property
    def is_of_server(self) -> bool:
        return self.value.startswith("server")


@dataclass(frozen=True, slots=True, kw_only=True)
class Days:
    """Calendar days from one up to but not including another; None is open."""

    first: date | None = None
    end: date | None = None

    def holds(self, day: date) -> bool:
        return (self.first is None or self.first <= day) and (self.end is None or day < self.end)

    def meets(self, other: Days) -> bool:
        """Return whether the two have a day in common."""
        is_before = self.end is not None and other.first is not None and self.end <= other.first
        is_after = other.end is not None and self.first is not None and other.end <= self.first
        return not is_before and not is_after


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """What models with `of` in their name bring; `site` None: at every site without a price of its own."""

    of: str
    site: str | None
    unit: Unit
    amount: Fraction
    currency: str
    gpus_of_server: int | None
    days: Days
    source: str

    @property
    def of_gpu_hour(self) -> Fraction:
        """Return the price of one GPU-hour."""
        gpus = self.gpus_of_server if self.unit.is_of_server and self.gpus_of_server is not None else 1
        return self.amount / (self.unit.hours * gpus)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """How much of the book's currency one unit of another was."""

    currency: str
    rate: Fraction
    days: Days
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """Hours of a site's day (0 to 23) with their price of a kilowatt-hour; `weekdays` 0 is Monday."""

    name: str
    hours: frozenset[int]
    weekdays: frozenset[int]
    per_kwh: Fraction


@dataclass(frozen=True, slots=True, kw_only=True)
class Tariff:
    """What a site pays for power, band by band; every hour of the week is in exactly one."""

    currency: str
    bands: tuple[Band, ...]
    days: Days
    source: str

    def per_kwh(self, weekday: int, hour: int) -> Fraction:
        """Return the price of a kilowatt-hour in an hour of a day of the week."""
        return next(band.per_kwh for band in self.bands if hour in band.hours and weekday in band.weekdays)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pue:
    """Power of the whole site by that of its machines."""

    value: Fraction
    days: Days
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedCost:
    """What a site costs in a calendar month, whatever runs."""

    name: str
    per_month: Fraction
    currency: str
    days: Days
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteCosts:
    """One site: its time zone, power and fixed costs."""

    site: str
    zone: ZoneInfo
    pues: tuple[Pue, ...] = ()
    tariffs: tuple[Tariff, ...] = ()
    fixed: tuple[FixedCost, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceBook:
    """All of it, in one currency that everything is converted to; `digest` is that of the file's bytes."""

    currency: str
    digest: str
    prices: tuple[Price, ...] = ()
    rates: tuple[Rate, ...] = ()
    sites: Mapping[str, SiteCosts] = field(default_factory=dict)

    def price(self, model: str, site: str, day: date) -> Price | None:
        """Return the price of that day: of the longest class in the model's name, of the site before all sites."""
        found = [price for price in self.prices if price.days.holds(day) and _is_of(price, model, site)]
        return min(found, key=lambda price: (-len(price.of), price.site is None), default=None)

    def rate(self, currency: str, day: date) -> Fraction | None:
        """Return how much of the book's currency one unit was on that day; None where the book does not say."""
        if currency == self.currency:
            return Fraction(1)
        return next((rate.rate for rate in self.rates if rate.currency == currency and rate.days.holds(day)), None)

    def pue(self, site: str, day: date) -> Fraction | None:
        """Return the site's power usage effectiveness on that day."""
        costs = self.sites.get(site)
        return None if costs is None else next((pue.value for pue in costs.pues if pue.days.holds(day)), None)

    def tariff(self, site: str, day: date) -> Tariff | None:
        """Return the site's tariff of that day."""
        costs = self.sites.get(site)
        return None if costs is None else next((found for found in costs.tariffs if found.days.holds(day)), None)

    def local(self, site: str, time: datetime) -> datetime:
        """Return a time as the site's clocks show it; UTC for a site of which the book says nothing."""
        costs = self.sites.get(site)
        return time if costs is None else time.astimezone(costs.zone)


def _is_of(price: Price, model: str, site: str) -> bool:
    return price.of.casefold() in model.casefold() and price.site in {None, site}
