# SPDX-License-Identifier: Apache-2.0
"""What GPU time is used for, by kind: sums, how they move over weeks, and what shape demand has. Pure.

Kinds sum exactly to the busy and held time that they divide: what no verdict tells is unclassified.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from gpuledger.cells import DAY_MS, HOUR_MS
from gpuledger_collector.classify.kinds import Kind

WEEK_MS = 7 * DAY_MS
HOURS_OF_WEEK = 168
_MONDAY_MS = 4 * DAY_MS
"""1970-01-05, the first Monday of POSIX time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KindHour:
    """Busy and held time of one kind at one site in one hour; `whole_slice_ms` is the part that had whole nodes."""

    hour_ms: int
    site: str
    kind: Kind
    busy_slice_ms: int
    held_slice_ms: int
    whole_slice_ms: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class KindSum:
    """All time of one kind. `whole_slice_ms`: of workloads that had whole nodes; the rest had a part of one.

    `burstiness` is the deviation of its hourly busy time over the mean, 0 for what never changes; None without any.
    """

    kind: Kind
    busy_slice_ms: int
    held_slice_ms: int
    whole_slice_ms: int
    burstiness: float | None

    @property
    def slice_ms(self) -> int:
        return self.busy_slice_ms + self.held_slice_ms


@dataclass(frozen=True, slots=True, kw_only=True)
class KindWeek:
    """One week's busy and held time by kind; `is_whole` tells whether the ledger has all of it."""

    start_ms: int
    is_whole: bool
    slice_ms: Mapping[Kind, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What GPU time was used for over some hours.

    `weeks` are the weeks up to the last one, oldest first. `hours_of_week` has, for each hour of the week from Monday
    00:00 UTC on, the mean busy slice-ms of an hour by kind (None: no such hour).
    """

    start_ms: int
    end_ms: int
    kinds: tuple[KindSum, ...]
    weeks: tuple[KindWeek, ...] = ()
    hours_of_week: tuple[Mapping[Kind, int] | None, ...] = ()


def complete(known: Iterable[KindHour], totals: Mapping[tuple[int, str], tuple[int, int]]) -> list[KindHour]:
    """Return the hours with what no verdict tells added as unclassified, so that they sum to `totals`.

    `totals` are busy and held slice-ms by (hour, site). Raises ValueError where more is known than there is: the two
    were not read from one state of the ledger.
    """
    found = [one for one in known if one.kind is not Kind.UNCLASSIFIED]
    left = {key: list(amounts) for key, amounts in totals.items()}
    whole: dict[tuple[int, str], int] = {}
    for one in known:
        if one.kind is Kind.UNCLASSIFIED:
            whole[one.hour_ms, one.site] = whole.get((one.hour_ms, one.site), 0) + one.whole_slice_ms
            continue
        rest = left.get((one.hour_ms, one.site), [0, 0])
        rest[0] -= one.busy_slice_ms
        rest[1] -= one.held_slice_ms
        if min(rest) < 0:
            raise ValueError(f"more {one.kind} time is known of hour {one.hour_ms} at {one.site} than there is")
    for (hour_ms, site), (busy, held) in left.items():
        if busy + held > 0:
            found.append(
                KindHour(
                    hour_ms=hour_ms,
                    site=site,
                    kind=Kind.UNCLASSIFIED,
                    busy_slice_ms=busy,
                    held_slice_ms=held,
                    whole_slice_ms=whole.get((hour_ms, site), 0),
                )
            )
    return sorted(found, key=lambda one: (one.hour_ms, one.site, one.kind))


def summarise(
    hours: Sequence[KindHour], start_ms: int, end_ms: int, extent: tuple[int, int], earlier: Sequence[KindHour] = ()
) -> Demand:
    """Return the demand of [start_ms, end_ms); `earlier` are hours before it, for the weeks, `extent` the ledger's."""
    inside = [one for one in hours if start_ms <= one.hour_ms < end_ms]
    return Demand(
        start_ms=start_ms,
        end_ms=end_ms,
        kinds=tuple(_sum(kind, inside, max(start_ms, extent[0]), min(end_ms, extent[1])) for kind in Kind),
        weeks=_weeks([*earlier, *inside], extent, end_ms),
        hours_of_week=_hours_of_week(inside, max(start_ms, extent[0]), min(end_ms, extent[1])),
    )


def _sum(kind: Kind, hours: Iterable[KindHour], from_ms: int, to_ms: int) -> KindSum:
    mine = [one for one in hours if one.kind is kind]
    by_hour: dict[int, int] = {}
    for one in mine:
        by_hour[one.hour_ms] = by_hour.get(one.hour_ms, 0) + one.busy_slice_ms
    return KindSum(
        kind=kind,
        busy_slice_ms=sum(one.busy_slice_ms for one in mine),
        held_slice_ms=sum(one.held_slice_ms for one in mine),
        whole_slice_ms=sum(one.whole_slice_ms for one in mine),
        burstiness=_burstiness(by_hour, (to_ms - from_ms) // HOUR_MS),
    )


def _burstiness(by_hour: Mapping[int, int], count: int) -> float | None:
    total = sum(by_hour.values())
    if total == 0 or count < len(by_hour) or count < 2:
        return None
    mean = total / count
    square = sum(amount * amount for amount in by_hour.values()) / count
    return math.sqrt(max(0.0, square - mean * mean)) / mean


def week_start(time_ms: int) -> int:
    """Return the Monday 00:00 UTC at or before a time."""
    return (time_ms - _MONDAY_MS) // WEEK_MS * WEEK_MS + _MONDAY_MS


def _weeks(hours: Iterable[KindHour], extent: tuple[int, int], end_ms: int) -> tuple[KindWeek, ...]:
    sums: dict[int, dict[Kind, int]] = {}
    for one in hours:
        week = sums.setdefault(week_start(one.hour_ms), dict.fromkeys(Kind, 0))
        week[one.kind] += one.busy_slice_ms + one.held_slice_ms
    return tuple(
        KindWeek(
            start_ms=start_ms,
            is_whole=extent[0] <= start_ms and start_ms + WEEK_MS <= min(extent[1], end_ms),
            slice_ms=sums[start_ms],
        )
        for start_ms in sorted(sums)
    )


def _hours_of_week(hours: Iterable[KindHour], from_ms: int, to_ms: int) -> tuple[Mapping[Kind, int] | None, ...]:
    counts = [0] * HOURS_OF_WEEK
    for hour_ms in range(from_ms - from_ms % HOUR_MS, to_ms, HOUR_MS):
        counts[(hour_ms - week_start(hour_ms)) // HOUR_MS] += 1
    sums: list[dict[Kind, int]] = [dict.fromkeys(Kind, 0) for _ in range(HOURS_OF_WEEK)]
    for one in hours:
        sums[(one.hour_ms - week_start(one.hour_ms)) // HOUR_MS][one.kind] += one.busy_slice_ms
    return tuple(
        None if count == 0 else {kind: amount // count for kind, amount in found.items()}
        for count, found in zip(counts, sums, strict=True)
    )
