# SPDX-License-Identifier: Apache-2.0
"""Issues what is due: builds, writes, records, and sends; every step is on disk before the next begins.

A run that is killed anywhere is taken up by the next: a report without a record is written again with the same number,
a record without a delivery is sent, and what was being sent is left alone, for it may have arrived.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

from gpuledger_collector.issue.issued_files import IssuedFiles
from gpuledger_collector.issue.mail import DeliveryError
from gpuledger_collector.issue.plan import Channel, Delivery, Issued, Plan, due_spans, next_due_ms, stuck, unsent
from gpuledger_collector.issue.plan import to_look_at_again as again
from gpuledger_collector.report.files import forms, write_files
from gpuledger_collector.report.languages import language
from gpuledger_collector.report.model import Issue, Weekly, Withheld
from gpuledger_collector.report.periods import Span, span_named
from gpuledger_collector.report.to_json import weekly_to_json

logger = logging.getLogger(__name__)


class Reading(Protocol):
    """Where reports come from."""

    def extent(self) -> tuple[int, int] | None:
        """Return what the ledger accounts for, None while it is empty."""
        ...

    def report(self, span: Span) -> Weekly: ...


Sending = Callable[[Channel, Issued, Weekly, Mapping[str, bytes]], None]
"""Sends one report to one channel; raises DeliveryError, or ConfigurationError for what cannot be sent at all."""


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What one run did."""

    issued: list[Issued] = field(default_factory=list)
    sent: list[tuple[int, str]] = field(default_factory=list)
    """Number and channel."""
    failed: list[tuple[int, str, str]] = field(default_factory=list)
    """Number, channel and a sentence."""
    stuck: list[tuple[int, str]] = field(default_factory=list)
    next_due_ms: int | None = None

    @property
    def is_quiet(self) -> bool:
        return not (self.issued or self.sent or self.failed)

    @property
    def exit_code(self) -> int:
        """Return 4 where a delivery failed, 1 where coverage was too low, else 0."""
        if self.failed:
            return 4
        return 0 if all(one.is_covered for one in self.issued) else 1


def issue_due(plan: Plan, reading: Reading, files: IssuedFiles, sending: Sending, now_ms: int) -> Outcome:
    """Issue every period that is due, oldest first, restate what has changed, then send what is not sent yet.

    Must be called under the lock of `files`. Raises StorageError where the ledger or the reports cannot be used.
    """
    outcome = Outcome()
    issued = files.read()
    extent = reading.extent()
    for span in due_spans(plan, issued, extent, now_ms):
        issued.append(_issue(plan, reading.report(span), files, len(issued) + 1, None, now_ms))
        outcome.issued.append(issued[-1])
    fresh = {one.number for one in outcome.issued}
    for before in again(plan, issued):
        if before.number in fresh:
            continue
        report = reading.report(span_named(before.period, plan.zone))
        if digest_of(report) != before.digest:
            issued.append(_issue(plan, report, files, len(issued) + 1, before.number, now_ms))
            outcome.issued.append(issued[-1])
    _send(plan, reading, files, issued, sending, outcome)
    outcome.next_due_ms = next_due_ms(plan, issued, extent, now_ms)
    return outcome


def digest_of(report: Weekly) -> str:
    """Return the digest of what a report says: not of its number, nor of readings that changed no figure of it."""
    said = replace(report, issue=None, method=replace(report.method, ledger_digest=""))
    return hashlib.sha256(weekly_to_json(said).encode()).hexdigest()


def numbered(report: Weekly, number: int, restates: int | None) -> Weekly:
    """Return the report as it is issued."""
    return replace(report, issue=Issue(number=number, restates=restates))


def _issue(plan: Plan, report: Weekly, files: IssuedFiles, number: int, restates: int | None, now_ms: int) -> Issued:
    made: dict[str, bytes] = {}
    for tag in plan.langs:
        made |= forms(numbered(report, number, restates), plan.formats, language(tag))
    if restates is not None:
        made = {_restated_name(name, number): data for name, data in made.items()}
    write_files(files.reports, made)
    record = Issued(
        number=number,
        kind=report.period.kind,
        period=report.period.name,
        issued_ms=now_ms,
        digest=digest_of(report),
        files=tuple(made),
        restates=restates,
        is_covered=report.headline is not None and Withheld.OCCUPANCY not in report.withheld,
    )
    files.write(record)
    facts = {"number": number, "period": report.period.name, "restates": restates}
    logger.info("report_issued", extra=facts)
    return record


def _restated_name(name: str, number: int) -> str:
    """Return the name beside which the first issue stays: a report that was handed out is not overwritten."""
    stem, dot, ending = name.partition(".")
    return f"{stem}-r{number}{dot}{ending}"


def _send(
    plan: Plan, reading: Reading, files: IssuedFiles, issued: list[Issued], sending: Sending, outcome: Outcome
) -> None:
    outcome.stuck = [(one.number, channel.name) for one, channel in stuck(plan, issued)]
    records = {one.number: one for one in issued}
    for one, channel in unsent(plan, issued):
        report = numbered(reading.report(span_named(one.period, plan.zone)), one.number, one.restates)
        attached = {name: data for name in one.files if (data := files.attachment(one, name)) is not None}
        # On disk before it is begun: whoever is killed while sending must not send it twice.
        _note(files, records, one.number, channel, Delivery.SENDING)
        try:
            sending(channel, one, report, attached)
        except DeliveryError as exc:
            state = Delivery.SENDING if exc.may_have_arrived else Delivery.FAILED
            _note(files, records, one.number, channel, state)
            outcome.failed.append((one.number, channel.name, str(exc)))
            continue
        except Exception:
            _note(files, records, one.number, channel, Delivery.FAILED)
            raise
        _note(files, records, one.number, channel, Delivery.SENT)
        outcome.sent.append((one.number, channel.name))


def _note(files: IssuedFiles, records: dict[int, Issued], number: int, channel: Channel, state: Delivery) -> None:
    record = records[number]
    records[number] = replace(record, delivered={**record.delivered, channel.name: state})
    files.write(records[number])
