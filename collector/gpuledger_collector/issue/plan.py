# SPDX-License-Identifier: Apache-2.0
"""What is to be issued when, what was, and so what is due. Pure: no clock, no file.

A period is due once it is over, its data had time to arrive, and the ledger reaches its end. Issued reports are
numbered from 1 without a gap; a restatement has a number of its own and names the one it replaces.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from gpuledger.cells import HOUR_MS
from gpuledger_collector.report.periods import PeriodKind, Span, holding, span_after

RESTATED_BACK_MAX = 8
"""So many issued reports of a kind are looked at again; what changes in older ones is for who asks."""
DUE_MAX = 60
"""Reports that one run issues at most; the next goes on."""


class ChannelKind(str, Enum):
    """Where a report can be sent."""

    EMAIL = "email"
    SLACK = "slack"
    TEAMS = "teams"
    FEISHU = "feishu"
    DINGTALK = "dingtalk"
    WECOM = "wecom"

    __hash__ = str.__hash__  # as for gpuledger.states.State

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True, kw_only=True)
class Secret:
    """Where a secret is: a file, or a variable of the environment. Never its text."""

    path: Path | None = None
    variable: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Channel:
    """One place that reports are sent to. Chat has `url`, e-mail the rest; `has_names` lets tenants' names through."""

    name: str
    kind: ChannelKind
    lang: str = "en"
    has_names: bool = False
    url: Secret | None = None
    host: str | None = None
    port: int = 587
    security: str = "starttls"
    """"starttls", "tls" or "none"."""
    user: str | None = None
    password: Secret | None = None
    sender: str | None = None
    recipients: tuple[str, ...] = ()
    formats: tuple[str, ...] = ("pdf", "html")
    """What is attached."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to be issued: kinds of periods in a time zone, in which forms and languages, and where to."""

    kinds: tuple[PeriodKind, ...] = (PeriodKind.WEEK,)
    zone: str = "UTC"
    grace_ms: int = 6 * HOUR_MS
    """How long after its end a period waits for late readings."""
    first: str | None = None
    """The first period to issue; without it the first run issues the last one that is over, and none before."""
    formats: tuple[str, ...] = ("md", "html", "csv", "json")
    langs: tuple[str, ...] = ("en",)
    is_restated: bool = True
    is_scheduled: bool = False
    """Whether the collector issues by itself; else `gpuledger report due` does, from cron or a timer."""
    channels: tuple[Channel, ...] = ()


class Delivery(str, Enum):
    """How far a report got on one channel."""

    SENDING = "sending"
    """It was begun and never finished: it may have arrived, so it is not sent again by itself."""
    SENT = "sent"
    FAILED = "failed"
    """It did not arrive, and is tried again."""

    __hash__ = str.__hash__  # as for gpuledger.states.State

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True, kw_only=True)
class Issued:
    """One issued report; `digest` is that of what it says without its number, `restates` the number it replaces."""

    number: int
    kind: PeriodKind
    period: str
    issued_ms: int
    digest: str
    files: tuple[str, ...] = ()
    restates: int | None = None
    is_covered: bool = True
    """Whether coverage reached the floor."""
    delivered: Mapping[str, Delivery] = field(default_factory=dict)


def due_spans(plan: Plan, issued: Sequence[Issued], extent: tuple[int, int] | None, now_ms: int) -> list[Span]:
    """Return the periods that are to be issued now, oldest first and weeks before months that end with them."""
    found: list[Span] = []
    if extent is None:
        return found
    for kind in plan.kinds:
        span = _first_span(plan, kind, issued, extent, now_ms)
        while span is not None and is_over(plan, span, extent, now_ms) and len(found) < DUE_MAX:
            if span.end_ms > extent[0]:  # before the ledger began there is nothing to report
                found.append(span)
            span = span_after(span)
    return sorted(found, key=lambda span: (span.end_ms, span.kind is PeriodKind.MONTH))[:DUE_MAX]


def is_over(plan: Plan, span: Span, extent: tuple[int, int], now_ms: int) -> bool:
    """Return whether a period is over, its data had time to arrive, and the ledger reaches its end."""
    return span.end_ms + plan.grace_ms <= now_ms and span.end_ms <= extent[1]


def next_due_ms(plan: Plan, issued: Sequence[Issued], extent: tuple[int, int] | None, now_ms: int) -> int | None:
    """Return when the next period that was not issued is due; None while the ledger is empty."""
    if extent is None:
        return None
    spans = [_first_span(plan, kind, issued, extent, now_ms) for kind in plan.kinds]
    return min((span.end_ms + plan.grace_ms for span in spans if span is not None), default=None)


def to_look_at_again(plan: Plan, issued: Sequence[Issued]) -> list[Issued]:
    """Return the newest word on each of the last periods of each kind, oldest first: the past may have changed."""
    if not plan.is_restated:
        return []
    found: list[Issued] = []
    for kind in plan.kinds:
        newest = {one.period: one for one in sorted(issued, key=lambda one: one.number) if one.kind is kind}
        found += sorted(newest.values(), key=lambda one: one.period)[-RESTATED_BACK_MAX:]
    return sorted(found, key=lambda one: one.number)


def unsent(plan: Plan, issued: Iterable[Issued]) -> list[tuple[Issued, Channel]]:
    """Return what is still to be sent where, oldest first: what failed, and what was never tried.

    A channel gets no report that was issued before it was first used: whoever adds one does not want the past.
    """
    ordered = sorted(issued, key=lambda one: one.number)
    made = []
    for channel in plan.channels:
        used = [one.number for one in ordered if channel.name in one.delivered]
        since = min(used) if used else (ordered[-1].number if ordered else 0)
        made += [
            (one, channel)
            for one in ordered
            if one.number >= since and one.delivered.get(channel.name) in {None, Delivery.FAILED}
        ]
    return sorted(made, key=lambda pair: (pair[0].number, pair[1].name))


def stuck(plan: Plan, issued: Iterable[Issued]) -> list[tuple[Issued, Channel]]:
    """Return what was begun to be sent and never finished: a person must look whether it arrived."""
    return [
        (one, channel)
        for one in issued
        for channel in plan.channels
        if one.delivered.get(channel.name) is Delivery.SENDING
    ]


def _first_span(
    plan: Plan, kind: PeriodKind, issued: Sequence[Issued], extent: tuple[int, int], now_ms: int
) -> Span | None:
    """Return the first period of a kind that was not issued."""
    ends = [one for one in issued if one.kind is kind]
    if ends:
        last = max(holding(kind, one.period, plan.zone).end_ms for one in ends)
        return holding(kind, last, plan.zone)
    if plan.first is not None:
        return holding(kind, holding(None, plan.first, plan.zone).start_ms, plan.zone)
    # The last one that is over; where none is yet, the one that the ledger begins in.
    span = holding(kind, max(extent[0], min(extent[1], now_ms - plan.grace_ms)), plan.zone)
    before = holding(kind, span.start_ms - 1, plan.zone)
    return before if before.end_ms > extent[0] else span
