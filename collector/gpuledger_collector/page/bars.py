# SPDX-License-Identifier: Apache-2.0
"""Time by state as bars: one whole account, or one after another by the hour. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gpuledger.accounting import Account
from gpuledger.cells import HOUR_MS
from gpuledger.states import State
from gpuledger_collector import wording
from gpuledger_collector.overview import Sums
from gpuledger_collector.palette import Look
from gpuledger_collector.report.shares import share_down

WIDE_TENTHS_MIN, LABEL_TENTHS_MIN, LETTER_TENTHS_MIN = 180, 90, 25
"""How wide a segment of a bar must be to bear its percentage on a phone, elsewhere, or at least its letter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """One state of one bar: position and width in percent of the bar, and what is written in it and beside it."""

    look: Look
    x: str
    width: str
    middle: str
    inside: str
    is_wide: bool
    percent: str
    hours: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """An account's time by state; `description` says all of it in words."""

    description: str
    segments: tuple[Segment, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One hour of a strip: `x` and `width` in percent of it, and each state's part from the top down."""

    x: str
    width: str
    title: str
    parts: tuple[tuple[Look, str, str], ...]
    """Look, top and height in percent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Strip:
    """The hours of a period; `labels` are (position in percent, text)."""

    columns: tuple[Column, ...]
    labels: tuple[tuple[str, str], ...]
    rows: tuple[tuple[str, Sums], ...]
    """The same as numbers, newest first."""


def bar(name: str, sums: Sums, looks: Mapping[State, Look]) -> Bar:
    """Return a bar; the segments' widths are exact, the percentages beside them rounded as figures are."""
    whole = sums.account.installed_slice_ms
    segments = []
    before = 0
    for state in State:
        amount = sums.account.slice_ms(state)
        if amount == 0:
            continue
        look = looks[state]
        tenths = share_down(amount, whole).tenths
        percent = wording.state_text(sums, state)
        inside = percent if tenths >= LABEL_TENTHS_MIN else look.letter if tenths >= LETTER_TENTHS_MIN else ""
        segments.append(
            Segment(
                look=look,
                x=_percent(before, whole),
                width=_percent(amount, whole),
                middle=_percent(2 * before + amount, 2 * whole),
                inside=inside,
                is_wide=tenths >= WIDE_TENTHS_MIN or tenths < LABEL_TENTHS_MIN,
                percent=percent,
                hours=wording.gpu_hours(amount),
            )
        )
        before += amount
    parts = ", ".join(f"{part.look.label} {part.percent}" for part in segments)
    return Bar(description=f"{name}: {parts}", segments=tuple(segments))


def strip(hours: Mapping[int, Sums], start_ms: int, end_ms: int, looks: Mapping[State, Look]) -> Strip:
    """Return the hours of [start_ms, end_ms), both on hour edges; an hour without an account stays empty."""
    count = max(1, (end_ms - start_ms) // HOUR_MS)
    columns = []
    for hour_ms, sums in sorted(hours.items()):
        position = (hour_ms - start_ms) // HOUR_MS
        idle = wording.range_text(sums.account.idle)
        columns.append(
            Column(
                x=_percent(position, count),
                width=_percent(1, count),
                title=f"{wording.moment(hour_ms, end_ms)}: idle {idle}",
                parts=_parts(sums.account, looks),
            )
        )
    every = max(1, count // 8)
    labels = [
        (_percent(2 * position + 1, 2 * count), wording.clock(start_ms + position * HOUR_MS))
        for position in range(0, count, every)
    ]
    rows = [(wording.moment(hour_ms, end_ms), sums) for hour_ms, sums in sorted(hours.items(), reverse=True)]
    return Strip(columns=tuple(columns), labels=tuple(labels), rows=tuple(rows))


def _parts(account: Account, looks: Mapping[State, Look]) -> tuple[tuple[Look, str, str], ...]:
    whole = account.installed_slice_ms
    found = []
    before = 0
    for state in State:
        amount = account.slice_ms(state)
        if amount > 0:
            found.append((looks[state], _percent(before, whole), _percent(amount, whole)))
            before += amount
    return tuple(found)


def _percent(part: int, whole: int) -> str:
    return f"{part * 100 / whole:.4f}%"
