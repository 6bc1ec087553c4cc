# SPDX-License-Identifier: Apache-2.0
"""ISO weeks of UTC and their names; times as people read them. Pure: no clock."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from gpuledger.cells import DAY_MS, HOUR_MS
from gpuledger.errors import ConfigurationError

WEEK_MS = 7 * DAY_MS
SPAN_MS_MAX = 62 * DAY_MS
"""The longest span that a report may be about."""
_MILLISECOND = timedelta(milliseconds=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FORM = re.compile(r"([0-9]{4})-W([0-9]{2})")
_YEARS = range(1971, 9999)
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


@dataclass(frozen=True, slots=True, kw_only=True)
class Week:
    """One ISO week of UTC, [start_ms, end_ms); `name` is its ISO form, like 2026-W47.

    Where `is_iso` is False it is another span of whole hours, and the name is like 2026-11-16--2026-11-18T08.
    """

    name: str
    start_ms: int
    end_ms: int
    is_iso: bool = True


def week_named(name: str) -> Week:
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
    return _week_of(monday)


def span_between(start: str, end: str) -> Week:
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
    return Week(name=name, start_ms=times_ms[0], end_ms=times_ms[1], is_iso=False)


def week_at(time_ms: int) -> Week:
    """Return the week that holds `time_ms`."""
    day = at(time_ms).date()
    return _week_of(day - timedelta(days=day.weekday()))


def week_before(week: Week) -> Week:
    """Return the week that ends where `week` starts."""
    return week_at(week.start_ms - 1)


def default_week(extent: tuple[int, int]) -> Week:
    """Return the last week whose end the extent covers, else the one that the extent ends in.

    A week counts as soon as the ledger holds any of it and reaches its end; whether the ledger also reaches back to
    its start is said in the report.
    """
    start_ms, end_ms = extent
    current = week_at(end_ms)
    last = week_before(current)
    return last if last.end_ms > start_ms else week_at(max(start_ms, end_ms - 1))


def at(time_ms: int) -> datetime:
    """Return POSIX milliseconds as an aware time in UTC."""
    return _EPOCH + timedelta(milliseconds=time_ms)


def iso(time_ms: int) -> str:
    """Return 2026-11-16T00:00:00Z; milliseconds only where there are any."""
    text = at(time_ms).replace(tzinfo=None).isoformat(timespec="milliseconds" if time_ms % 1000 else "seconds")
    return text + "Z"


def minute_text(time_ms: int) -> str:
    """Return "Mon 16 Nov 2026 00:00", the same in every locale; who prints it names UTC."""
    time = at(time_ms)
    return f"{day_text(time_ms)} {time.year} {time.hour:02d}:{time.minute:02d}"


def day_text(time_ms: int) -> str:
    """Return "Mon 16 Nov"."""
    time = at(time_ms)
    return f"{_DAYS[time.weekday()]} {time.day} {_MONTHS[time.month - 1]}"


def hour_text(time_ms: int) -> str:
    """Return "Mon 16 Nov 00:00"."""
    return f"{day_text(time_ms)} {at(time_ms).hour:02d}:00"


def _week_of(monday: date) -> Week:
    year, number, _ = monday.isocalendar()
    start_ms = (monday - _EPOCH.date()).days * DAY_MS
    return Week(name=f"{year}-W{number:02d}", start_ms=start_ms, end_ms=start_ms + WEEK_MS)
