# SPDX-License-Identifier: Apache-2.0
"""The price book's file, TOML: what GPUs bring, what power and sites cost, rates of exchange (docs/prices.md).

Every error is a ConfigurationError that names file, line and field. Numbers are taken as they are written.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import date, datetime
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from gpuledger.errors import ConfigurationError
from gpuledger.settings import read_toml
from gpuledger_collector.declared_files import Record, line_of, tables
from gpuledger_collector.finance.book import Band, Days, FixedCost, Price, PriceBook, Pue, Rate, SiteCosts, Tariff, Unit

_DAYS = ("from", "to")
_KEYS = {
    "price": ("class", "site", "unit", "gpus", "amount", "currency", "source", *_DAYS),
    "exchange": ("currency", "rate", "source", *_DAYS),
    "site": ("name", "time_zone"),
    "pue": ("site", "value", "source", *_DAYS),
    "tariff": ("site", "currency", "bands", "source", *_DAYS),
    "fixed_cost": ("site", "name", "per_month", "currency", "source", *_DAYS),
}
_BAND_KEYS = ("name", "hours", "weekdays", "per_kwh")
_WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_CURRENCY = re.compile(r"[A-Z]{3}")
_DIGITS_MAX = 30
TABLES_MAX = 100_000
"""Tables of one kind."""
GPUS_MAX = 1024
"""Of one server."""


def load_prices(path: Path) -> PriceBook:
    """Return the price book in a file; raises ConfigurationError naming file, line and field."""
    document = read_toml(path, Decimal)
    data = path.read_bytes()
    lines = data.decode("utf-8").splitlines()
    records: dict[str, list[Record]] = {name: [] for name in _KEYS}
    currency = ""
    for key, value in document.items():
        if key in _KEYS:
            records[key] = tables(path, lines, key, value)
            if len(records[key]) > TABLES_MAX:
                raise ConfigurationError(f"{path}: {key}: more than {TABLES_MAX} tables")
            for record in records[key]:
                record.check_keys(_KEYS[key])
        elif key == "currency":
            currency = value if isinstance(value, str) else ""
        else:
            legal = ", ".join(["currency", *_KEYS])
            raise ConfigurationError(f"{path}:{line_of(lines, key)}: {key}: unknown key; legal keys: {legal}")
    if _CURRENCY.fullmatch(currency) is None:
        where = line_of(lines, "currency") if "currency" in document else 1
        raise ConfigurationError(f"{path}:{where}: currency: give the book's currency like CNY, at the top of the file")
    return PriceBook(
        currency=currency,
        digest=hashlib.sha256(data).hexdigest(),
        prices=_each(records["price"], _price, lambda one: (one.of.casefold(), one.site), "class"),
        rates=_each(records["exchange"], lambda one: _rate(one, currency), lambda one: one.currency, "currency"),
        sites=_sites(records),
    )


def _each(
    records: Iterable[Record], make: Callable[[Record], Any], key: Callable[[Any], object], field: str
) -> tuple[Any, ...]:
    """Return what records say; two of one key must not hold on the same day."""
    found: dict[object, list[tuple[Any, Record]]] = {}
    made = []
    for record in records:
        one = make(record)
        for other, elsewhere in found.setdefault(key(one), []):
            if one.days.meets(other.days):
                raise record.fail(field, f"holds on days on which that of line {elsewhere.line} does; end one first")
        found[key(one)].append((one, record))
        made.append(one)
    return tuple(made)


# ------------------------------------------------------------------------------------------------------- fields


def _day(record: Record, field: str) -> date | None:
    value = record.values.get(field)
    if isinstance(value, str):
        try:
            value = date.fromisoformat(value)
        except ValueError as exc:
            raise record.fail(field, f"{value!r} is not a day like 2026-11-02") from exc
    if value is not None and (not isinstance(value, date) or isinstance(value, datetime)):
        raise record.fail(field, f"{value} is not a day like 2026-11-02")
    return value


def _days(record: Record) -> Days:
    days = Days(first=_day(record, "from"), end=_day(record, "to"))
    if days.first is not None and days.end is not None and days.end <= days.first:
        raise record.fail("to", f"{days.end} is not after from, {days.first}")
    return days


def _number(record: Record, field: str, value: object, *, is_positive: bool = False) -> Fraction:
    try:
        number = Decimal(value) if isinstance(value, str | int | Decimal) and not isinstance(value, bool) else None
    except InvalidOperation:
        number = None
    if number is None or not number.is_finite() or number < 0 or len(number.as_tuple().digits) > _DIGITS_MAX:
        raise record.fail(field, "is missing" if value is None else f"{value} is not a number from 0 on")
    if abs(number.adjusted()) > _DIGITS_MAX or (is_positive and number == 0):
        raise record.fail(field, f"{value} is not a number above 0")
    return Fraction(number)


def _currency(record: Record) -> str:
    text = record.required("currency")
    if _CURRENCY.fullmatch(text) is None:
        raise record.fail("currency", f"{text!r} is not a currency like CNY")
    return text


def _price(record: Record) -> Price:
    units = [unit.value for unit in Unit]
    if record.required("unit") not in units:
        raise record.fail("unit", f"{record.values['unit']!r} is not one of {', '.join(units)}")
    unit, gpus = Unit(record.required("unit")), record.values.get("gpus")
    if gpus is not None and (type(gpus) is not int or not 1 <= gpus <= GPUS_MAX):
        raise record.fail("gpus", f"{gpus!r} is not a number from 1 to {GPUS_MAX}")
    if unit.is_of_server is (gpus is None):
        what = "says of how many GPUs a server is" if gpus is None else "is only for prices of servers"
        raise record.fail("gpus", what if gpus is not None else f"is missing: it {what}")
    return Price(
        of=record.required("class"),
        site=record.text("site"),
        unit=unit,
        amount=_number(record, "amount", record.values.get("amount")),
        currency=_currency(record),
        gpus_of_server=gpus,
        days=_days(record),
        source=record.required("source"),
    )


def _rate(record: Record, book_currency: str) -> Rate:
    currency = _currency(record)
    if currency == book_currency:
        raise record.fail("currency", f"{currency} is the book's own currency")
    return Rate(
        currency=currency,
        rate=_number(record, "rate", record.values.get("rate"), is_positive=True),
        days=_days(record),
        source=record.required("source"),
    )


def _pue(record: Record) -> Pue:
    value = _number(record, "value", record.values.get("value"))
    if not 1 <= value <= 10:
        raise record.fail("value", f"{record.values['value']} is not from 1 to 10, which a PUE is")
    return Pue(value=value, days=_days(record), source=record.required("source"))


def _fixed_cost(record: Record) -> FixedCost:
    return FixedCost(
        name=record.required("name"),
        per_month=_number(record, "per_month", record.values.get("per_month")),
        currency=_currency(record),
        days=_days(record),
        source=record.required("source"),
    )


# ------------------------------------------------------------------------------------------------ sites, tariffs


def _sites(records: Mapping[str, Sequence[Record]]) -> dict[str, SiteCosts]:
    sites: dict[str, SiteCosts] = {}
    for record in records["site"]:
        name = record.required("name")
        if name in sites:
            raise record.fail("name", f"{name} stands twice")
        sites[name] = SiteCosts(site=name, zone=_zone(record))
    for table in ("pue", "tariff", "fixed_cost"):
        for record in records[table]:
            if record.required("site") not in sites:
                raise record.fail("site", f"{record.values['site']} has no table [[site]], so no time zone")
    for name, costs in sites.items():
        own = {table: [one for one in found if one.values.get("site") == name] for table, found in records.items()}
        sites[name] = replace(
            costs,
            pues=_each(own["pue"], _pue, lambda _: None, "site"),
            tariffs=_each(own["tariff"], _tariff, lambda _: None, "site"),
            fixed=_each(own["fixed_cost"], _fixed_cost, lambda one: one.name, "name"),
        )
    return sites


def _zone(record: Record) -> ZoneInfo:
    name = record.required("time_zone")
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as exc:
        raise record.fail("time_zone", f"{name!r} is not a time zone like Asia/Shanghai") from exc


def _tariff(record: Record) -> Tariff:
    bands = record.values.get("bands")
    if not isinstance(bands, list) or not bands or not all(isinstance(band, dict) for band in bands):
        raise record.fail("bands", 'write at least one band like { name = "flat", hours = "0-24", per_kwh = 0.62 }')
    made = tuple(_band(record, band) for band in bands)
    for weekday in range(7):
        for hour in range(24):
            count = sum(hour in band.hours and weekday in band.weekdays for band in made)
            if count != 1:
                when = f"{_WEEKDAYS[weekday]} {hour}:00"
                raise record.fail("bands", f"{when} is in {count} bands; every hour of the week must be in one")
    return Tariff(currency=_currency(record), bands=made, days=_days(record), source=record.required("source"))


def _band(record: Record, band: Mapping[str, Any]) -> Band:
    for key in band:
        if key not in _BAND_KEYS:
            raise record.fail("bands", f"{key}: unknown key of a band; legal keys: {', '.join(_BAND_KEYS)}")
    name = band.get("name")
    if not isinstance(name, str) or not name.strip():
        raise record.fail("bands", "a band has no name")
    weekdays = _weekdays(record, band.get("weekdays", "mon-sun"))
    hours = _hours(record, band.get("hours"))
    return Band(name=name, hours=hours, weekdays=weekdays, per_kwh=_number(record, "bands", band.get("per_kwh")))


def _hours(record: Record, text: object) -> frozenset[int]:
    """Return the hours of "8-12, 14-18": from one clock hour up to another; 22-6 goes over midnight."""
    found: set[int] = set()
    for part in text.split(",") if isinstance(text, str) else ["?"]:
        match = re.fullmatch(r"\s*(\d{1,2})\s*-\s*(\d{1,2})\s*", part)
        first, end = (int(match[1]), int(match[2])) if match is not None else (99, 99)
        if first > 23 or end > 24 or first == end:
            raise record.fail("bands", f'hours: {text!r} is not like "8-12, 14-18", within 0 to 24')
        found |= set(range(first, end)) if first < end else {*range(first, 24), *range(end)}
    return frozenset(found)


def _weekdays(record: Record, text: object) -> frozenset[int]:
    """Return the days of "mon-fri" or "sat, sun"."""
    found: set[int] = set()
    for part in text.split(",") if isinstance(text, str) else ["?"]:
        names = [name.strip() for name in part.split("-")]
        if len(names) > 2 or any(name not in _WEEKDAYS for name in names):
            raise record.fail("bands", f'weekdays: {text!r} is not like "mon-fri" or "sat, sun"')
        first, last = _WEEKDAYS.index(names[0]), _WEEKDAYS.index(names[-1])
        if last < first:
            raise record.fail("bands", f"weekdays: {text!r} runs backwards")
        found |= set(range(first, last + 1))
    return frozenset(found)
