# SPDX-License-Identifier: Apache-2.0
"""What is kept for how long: the policy, and what it would take out now. Nothing is changed here.

Taken out is only what the ledger has settled: the hours whose readings go are final from then on.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from gpuledger.cells import DAY_MS, floor_to
from gpuledger.merkle import TILE_WIDTH
from gpuledger_collector.config import Policy
from gpuledger_collector.entries import Pruned
from gpuledger_collector.ledger_files import HOUR_TABLES, LedgerFiles
from gpuledger_collector.retained import Retained
from gpuledger_collector.store import Store
from gpuledger_collector.tiles import ENTRIES, WORKLOADS, LogReader


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """What is to be pruned of the log: `what`, from entry `first` on up to `end`, all of before `before_ms`."""

    what: Pruned
    first: int
    end: int
    before_ms: int
    file_bytes: int
    """Of the files that go; what is kept of them is a small part."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What the policy takes out now. Times are POSIX milliseconds, at midnight; None: nothing."""

    cuts: tuple[Cut, ...]
    hours_before_ms: int | None
    hours_bytes: int
    findings_before_ms: int | None
    settled_ms: int | None
    """Up to where the ledger is settled: nothing later is pruned."""


FINDINGS = ("findings",)


def plan(policy: Policy, log: LogReader, store: Store, files: LedgerFiles, now_ms: int) -> Plan:
    """Return what would be taken out at `now_ms`; may be asked beside a running collector."""
    extent = files.extent()
    settled_ms = None if extent is None or files.is_outdated() else _settled(store, extent[1])
    readings_ms, workloads_ms = _before(policy.reading_days, now_ms), _before(policy.workload_days, now_ms)
    cuts = []
    if settled_ms is not None:
        for what, wanted_ms in ((Pruned.WORKLOADS, workloads_ms), (Pruned.READINGS, readings_ms)):
            cut = None if wanted_ms is None else _cut(log, store, what, min(wanted_ms, settled_ms))
            cuts += [] if cut is None else [cut]
    hours_ms, findings_ms = _before(policy.ledger_days, now_ms), _before(policy.finding_days, now_ms)
    gone = [] if hours_ms is None else files.files_before(hours_ms, HOUR_TABLES)
    has_hours = hours_ms is not None and extent is not None and extent[0] < hours_ms
    return Plan(
        cuts=tuple(cuts),
        hours_before_ms=hours_ms if has_hours else None,
        hours_bytes=sum(map(_size, gone)),
        findings_before_ms=findings_ms,
        settled_ms=settled_ms,
    )


def describe_plan(policy: Policy, wanted: Plan, retained: Retained) -> Iterator[str]:
    """Yield what is pruned and what would be, a sentence each."""
    final_ms = retained.final_ms()
    for what in Pruned:
        if (count := retained.pruned(what.value)) > 0:
            yield f"Pruned: the {what.value} of the first {count} entries."
    if final_ms is not None:
        yield f"Final: the hours before {iso_day(final_ms)}."
    for cut in wanted.cuts:
        span = f"entries {cut.first} to {cut.end - 1}, all of before {iso_day(cut.before_ms)}"
        yield f"To go: the {cut.what.value} of {span} ({_mib(cut.file_bytes)})."
    if wanted.hours_before_ms is not None:
        yield f"To go: the ledger's hours before {iso_day(wanted.hours_before_ms)} ({_mib(wanted.hours_bytes)})."
    if wanted.findings_before_ms is not None:
        yield f"To go: findings of before {iso_day(wanted.findings_before_ms)}."
    if policy == Policy():
        yield "Nothing goes: retention.* is not set."
    elif wanted.settled_ms is None:
        yield "Of the log nothing goes while the ledger is empty or of an earlier version."


def iso_day(time_ms: int) -> str:
    """Return the UTC day of a time."""
    return f"{datetime.fromtimestamp(time_ms / 1000, UTC):%Y-%m-%d}"


def _mib(size_bytes: int) -> str:
    return f"{size_bytes / (1 << 20):.1f} MiB"


def _before(days: int | None, now_ms: int) -> int | None:
    return None if days is None else floor_to(now_ms - days * DAY_MS, DAY_MS)


def _settled(store: Store, end_ms: int) -> int:
    """Return the midnight before which no hour is out of date or missing."""
    dirty, _ = store.dirty()
    return floor_to(min([end_ms, *(start_ms for start_ms, _ in dirty)]), DAY_MS)


def _cut(log: LogReader, store: Store, what: Pruned, before_ms: int) -> Cut | None:
    first_kept = store.retained.first_index(before_ms)
    # The last file is still growing.
    bundles = log.size // TILE_WIDTH - 1
    if first_kept is not None:
        bundles = min(bundles, first_kept // TILE_WIDTH)
    done = store.retained.pruned(Pruned.READINGS.value)
    if what is Pruned.WORKLOADS:
        done = max(done, store.retained.pruned(what.value))
    if bundles * TILE_WIDTH <= done:
        return None
    folders = (WORKLOADS,) if what is Pruned.WORKLOADS else (ENTRIES, WORKLOADS)
    numbers = range(done // TILE_WIDTH, bundles)
    file_bytes = sum(_size(log.file(folder, number)) for folder in folders for number in numbers)
    return Cut(what=what, first=done, end=bundles * TILE_WIDTH, before_ms=before_ms, file_bytes=file_bytes)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
