# SPDX-License-Identifier: Apache-2.0
"""A ledger that reports any period at once, and a post office that remembers what it was handed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache

from gpuledger_collector.issue.mail import DeliveryError
from gpuledger_collector.issue.plan import Channel, ChannelKind, Issued, Secret
from gpuledger_collector.report.model import Weekly, Withheld
from gpuledger_collector.report.periods import Span, week_named
from gpuledger_collector.report.weekly import build_weekly
from tests.fakes.ledger import FakeLedger
from tests.fakes.ledger_rows import OPENINGS, two_weeks

OPS = Channel(name="ops", kind=ChannelKind.SLACK, url=Secret(variable="OPS_URL"))


@cache
def a_report() -> Weekly:
    """A week of a fleet of 40 GPUs."""
    hours, holders, findings = two_weeks()
    return build_weekly(FakeLedger(hours, holders, findings, openings=OPENINGS), week_named("2026-W47"))


@dataclass
class FakeReading:
    """Fulfils issuing.Reading; `changes` says how often the figures of a period have changed."""

    extent_ms: tuple[int, int] | None
    changes: dict[str, int] = field(default_factory=dict)
    uncovered: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)

    def extent(self) -> tuple[int, int] | None:
        return self.extent_ms

    def report(self, span: Span) -> Weekly:
        self.asked.append(span.name)
        report = a_report()
        period = replace(report.period, name=span.name, kind=span.kind, start_ms=span.start_ms, end_ms=span.end_ms)
        method = replace(
            report.method,
            hang_suspicion_ms=self.changes.get(span.name, 0),
            # It changes with every reading, whether or not a figure does.
            ledger_digest=f"{span.name} {self.extent_ms}",
        )
        withheld = (Withheld.OCCUPANCY,) if span.name in self.uncovered else ()
        return replace(report, period=period, method=method, withheld=withheld)


class PowerCutError(Exception):
    """The machine goes off."""


@dataclass
class PostOffice:
    """Fulfils issuing.Sending: what arrived, by number and channel; `fails` are channels that do not answer."""

    arrived: list[tuple[int, str]] = field(default_factory=list)
    fails: set[str] = field(default_factory=set)
    hangs_up: set[str] = field(default_factory=set)
    """Channels that take the message and do not say so."""
    files: list[Mapping[str, bytes]] = field(default_factory=list)

    def __call__(self, channel: Channel, issued: Issued, report: Weekly, files: Mapping[str, bytes]) -> None:
        if channel.name in self.fails:
            raise DeliveryError(f"{channel.name}: does not answer")
        self.arrived.append((issued.number, channel.name))
        self.files.append(files)
        if channel.name in self.hangs_up:
            raise DeliveryError(f"{channel.name}: hung up", may_have_arrived=True)
