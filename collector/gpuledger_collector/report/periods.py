# SPDX-License-Identifier: Apache-2.0
"""Periods of UTC and their names: ISO weeks, months, other spans. Pure: no clock."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from enum import Enum
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from gpuledger.cells import DAY_MS, HOUR_MS
from gpuledger.errors import ConfigurationError

WEEK_MS = 7 * DAY_MS
SPAN_MS_MAX = 62 * DAY_MS
"""The longest span that a report may be about."""
_MILLISECOND = timedelta(milliseconds=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FORM = re.compile(r"([0-9]{4})-W([0-9]{2})")
_YEARS = range(1971, 9999)
UTC_ZONE = "UTC"
_MONTH_FORM = re.compile(r"([0-9]{4})-([0-9]{2})")


class PeriodKind(str, Enum):
    """What a period is; only periods of one kind follow each other."""

    WEEK = "week"
    MONTH = "month"
    SPAN = "span"

    __hash__ = str.__hash__  # as for gpuledger.states.State

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A period of UTC, [start_ms, end_ms), and its name.

    Weeks are ISO weeks like 2026-W47, months are like 2026-11, other spans of whole hours like
    2026-11-16--2026-11-18T08. Weeks and months begin at midnight in `zone`, so a week may have 167 or 169 hours.
    """

    name: str
    start_ms: int
    end_ms: int
    kind: PeriodKind = PeriodKind.WEEK
    zone: str = UTC_ZONE


def check_zone(name: str) -> None:
    """Raise ConfigurationError for a time zone that is not known, or not a whole number of hours from UTC.

    The ledger keeps whole hours of UTC, so a day that begins within one cannot be reported.
    """
    try:
        zone = ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as exc:
        raise ConfigurationError(f"zone {name!r} is not a time zone like Europe/Berlin") from exc
    for month in (1, 7):
        offset = datetime(2026, month, 1, tzinfo=zone).utcoffset()
        if offset is None or offset % timedelta(hours=1):
            raise ConfigurationError(
                f"zone {name!r} is not a whole number of hours from UTC, and the ledger keeps whole hours"
            )


def span_named(name: str, zone: str = UTC_ZONE) -> Span:
    """Return the period that any form of name means; raises ConfigurationError naming it."""
    if "--" in name:
        start, _, end = name.partition("--")
        # A name may end in the hour alone.
        return span_between(*(text + ":00Z" if re.search(r"T[0-9]{2}$", text) else text for text in (start, end)))
    return week_named(name, zone) if "W" in name else month_named(name, zone)


def month_named(name: str, zone: str = UTC_ZONE) -> Span:
    """Return the month called `name`; raises ConfigurationError naming it and the legal form."""
    found = _MONTH_FORM.fullmatch(name)
    if found is None or int(found[1]) not in _YEARS or not 1 <= int(found[2]) <= 12:
        raise ConfigurationError(f"month {name!r} is not a month; write year and month like 2026-11")
    return _month_of(date(int(found[1]), int(found[2]), 1), zone)


def week_named(name: str, zone: str = UTC_ZONE) -> Span:
    """Return the week called `name`; raises ConfigurationError naming it and the legal form."""
    found = _FORM.fullmatch(name)
    if found is None or int(found[1]) not in _YEARS:
        raise ConfigurationError(f"week {name!r} is not an ISO week; write year and week like 2026-W47")
    year, number = int(found[1]), int(found[2])
    try:
        monday = date.fromisocalendar(year, number, 1)
    except ValueError as exc:
        last = date(year, 12, 28).isocalendar().week
        raise ConfigurationError(
            f"week {name!r} does not exist: {year} has weeks {year}-W01 to {year}-W{last}"
        ) from exc
    return _week_of(monday, zone)


def span_between(start: str, end: str) -> Span:
    """Return the span from one time to another, like 2026-11-16 or 2026-11-16T08:00Z; raises ConfigurationError."""
    times_ms = []
    for flag, text in (("--from", start), ("--to", end)):
        try:
            found = datetime.fromisoformat(text)
        except ValueError as exc:
            raise ConfigurationError(f"{flag}: {text!r} is not a time like 2026-11-02 or 2026-11-02T08:00Z") from exc
        time_ms = ((found if found.tzinfo is not None else found.replace(tzinfo=UTC)) - _EPOCH) // _MILLISECOND
        if time_ms % HOUR_MS:
            raise ConfigurationError(f"{flag}: {text!r} is not a whole hour of UTC")
        times_ms.append(time_ms)
    if not 0 < times_ms[1] - times_ms[0] <= SPAN_MS_MAX:
        raise ConfigurationError(
            f"--from {start} --to {end}: give a span that ends after it begins, of {SPAN_MS_MAX // DAY_MS} days at most"
        )
    name = "--".join(iso(time_ms).removesuffix(":00:00Z").removesuffix("T00") for time_ms in times_ms)
    return Span(name=name, start_ms=times_ms[0], end_ms=times_ms[1], kind=PeriodKind.SPAN)


def week_at(time_ms: int, zone: str = UTC_ZONE) -> Span:
    """Return the week that holds `time_ms`."""
    day = at(time_ms, zone).date()
    return _week_of(day - timedelta(days=day.weekday()), zone)


def month_at(time_ms: int, zone: str = UTC_ZONE) -> Span:
    """Return the month that holds `time_ms`."""
    return _month_of(at(time_ms, zone).date().replace(day=1), zone)


def holding(kind: PeriodKind | None, what: int | str, zone: str) -> Span:
    """Return the week or month that holds a time, or that has a name; with a name the kind may be left out."""
    if isinstance(what, str):
        return span_named(what, zone)
    if kind is None or kind not in _AT:
        raise ValueError(f"{kind} has no periods that follow each other")
    return _AT[kind](what, zone)


def week_before(week: Span) -> Span:
    """Return the week that ends where `week` starts."""
    return week_at(week.start_ms - 1, week.zone)


def span_before(span: Span) -> Span | None:
    """Return the week or month before; None for other spans, of which none is next."""
    following = _AT.get(span.kind)
    return None if following is None else following(span.start_ms - 1, span.zone)


def span_after(span: Span) -> Span | None:
    """Return the week or month after; None for other spans."""
    following = _AT.get(span.kind)
    return None if following is None else following(span.end_ms, span.zone)


def default_week(extent: tuple[int, int]) -> Span:
    """Return the last week that the extent covers the end of, as `default_span`."""
    return default_span(extent, PeriodKind.WEEK)


def default_span(extent: tuple[int, int], kind: PeriodKind, zone: str = UTC_ZONE) -> Span:
    """Return the last week or month whose end the extent covers, else the one that the extent ends in.

    It counts as soon as the ledger holds any of it and reaches its end; whether the ledger also reaches back to its
    start is said in the report.
    """
    start_ms, end_ms = extent
    following = _AT[kind]
    last = following(following(end_ms, zone).start_ms - 1, zone)
    return last if last.end_ms > start_ms else following(max(start_ms, end_ms - 1), zone)


def at(time_ms: int, zone: str = UTC_ZONE) -> datetime:
    """Return POSIX milliseconds as an aware time, in UTC unless told otherwise."""
    time = _EPOCH + timedelta(milliseconds=time_ms)
    return time if zone == UTC_ZONE else time.astimezone(ZoneInfo(zone))


def iso(time_ms: int) -> str:
    """Return 2026-11-16T00:00:00Z; milliseconds only where there are any."""
    text = at(time_ms).replace(tzinfo=None).isoformat(timespec="milliseconds" if time_ms % 1000 else "seconds")
    return text + "Z"


def _week_of(monday: date, zone: str) -> Span:
    year, number, _ = monday.isocalendar()
    start_ms, end_ms = _midnight_ms(monday, zone), _midnight_ms(monday + timedelta(days=7), zone)
    return Span(name=f"{year}-W{number:02d}", start_ms=start_ms, end_ms=end_ms, zone=zone)


def _month_of(first: date, zone: str) -> Span:
    following = (first + timedelta(days=31)).replace(day=1)
    name, kind = f"{first.year}-{first.month:02d}", PeriodKind.MONTH
    start_ms, end_ms = _midnight_ms(first, zone), _midnight_ms(following, zone)
    return Span(name=name, start_ms=start_ms, end_ms=end_ms, kind=kind, zone=zone)


def _midnight_ms(day: date, zone: str) -> int:
    """Return when a day begins; where its midnight was skipped, when its first hour begins."""
    if zone == UTC_ZONE:
        return (day - _EPOCH.date()).days * DAY_MS
    return (datetime(day.year, day.month, day.day, tzinfo=ZoneInfo(zone)) - _EPOCH) // _MILLISECOND


_AT: dict[PeriodKind, Callable[[int, str], Span]] = {PeriodKind.WEEK: week_at, PeriodKind.MONTH: month_at}
