# SPDX-License-Identifier: Apache-2.0
"""Keeps the ledger up to date: every installed hour up to the horizon has its rows, and those that changed are redone.

The horizon is the end of the last cell that is settled: over for long enough (`settle_grace_ms`) that its readings
should be here. A reading that comes later is not lost: its hour is redone.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from gpuledger.cells import CELL_MS, DAY_MS, HOUR_MS, ceil_to, floor_to
from gpuledger.errors import StorageError
from gpuledger_collector.catalog import Catalog, read_accepted
from gpuledger_collector.enrolment_book import EnrolmentBook
from gpuledger_collector.label_book import LabelBook
from gpuledger_collector.lease_book import LeaseRecord
from gpuledger_collector.leases import LeaseBook
from gpuledger_collector.ledger import CellRow, build_parts, cell_rows
from gpuledger_collector.ledger_files import LedgerFiles
from gpuledger_collector.roster import Roster
from gpuledger_collector.roster_book import RosterBook
from gpuledger_collector.shards import cut
from gpuledger_collector.workload_book import WorkloadBook

logger = logging.getLogger(__name__)

READINGS_MAX = 2_000
"""Readings held in memory at once, unless those of one hour that cannot be parted are more."""

Span = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Refreshed:
    """What a refresh did. `horizon_ms` is up to where the ledger accounts; None while nothing is installed."""

    horizon_ms: int | None
    hours: int
    readings: int


class Keeper:
    """Brings the ledger's files up to date from the log, through the index; one refresh at a time."""

    def __init__(
        self,
        catalog: Catalog,
        files: LedgerFiles,
        book: RosterBook,
        enrolment: EnrolmentBook,
        workloads: WorkloadBook,
        *,
        settle_grace_ms: int,
        labels: LabelBook | None = None,
        leases: LeaseRecord | None = None,
    ) -> None:
        self._catalog = catalog
        self._store = catalog.store
        self._files = files
        self._book = book
        self._enrolment = enrolment
        self._workloads = workloads
        self._labels = labels
        self._leases = leases
        self._grace_ms = settle_grace_ms
        self._mutex = threading.Lock()

    def horizon_ms(self, now_ms: int) -> int:
        """Return the end of the last cell that is settled at `now_ms`."""
        return floor_to(now_ms - self._grace_ms, CELL_MS)

    def refresh(self, now_ms: int) -> Refreshed:
        """Bring what is declared, and the ledger, up to date; raises StorageError where it cannot be stored for now."""
        with self._mutex:
            self._enrolment.sync(now_ms)
            self._book.sync(now_ms)
            if self._leases is not None:
                self._leases.sync(now_ms)
            if self._labels is not None:
                self._labels.sync(now_ms)
            self._renew()
            return self._bring_up_to(self.horizon_ms(now_ms))

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Refresh nothing meanwhile."""
        with self._mutex:
            yield

    def rebuild(self) -> Refreshed:
        """Forget index and ledger and make them again from the log alone, up to the same horizon.

        Hours whose readings were pruned are final: they stay as they are.
        """
        with self._mutex:
            final_ms = self._store.retained.final_ms()
            extent = self._files.extent() if final_ms is not None else self._files.extent_if_legible()
            self._catalog.reindex()
            self._workloads.clear()
            self._files.clear(self._store.retained.final_ms() or 0)
            self._store.clear_dirty(self._store.dirty()[1])  # All that may be made anew is.
            clock_ms = self._store.clock_ms()
            if extent is not None:
                return self._bring_up_to(extent[1])
            if clock_ms is not None:
                return self._bring_up_to(self.horizon_ms(clock_ms))
            return Refreshed(horizon_ms=None, hours=0, readings=0)

    def cell_rows(self, cell_ms: int) -> list[CellRow]:
        """Return one row per GPU installed in the cell, from what is logged by now."""
        indexed = self._store.readings(cell_ms, cell_ms + CELL_MS)
        return cell_rows(
            read_accepted(self._catalog.log, indexed, self._catalog.recent),
            self._store.roster(),
            cell_ms,
            leases=self._store.leases(),
            scheduling=self._store.scheduling(cell_ms, cell_ms + CELL_MS),
        )

    def _renew(self) -> None:
        """Begin the ledger of an earlier version anew: what has its columns is made from the log."""
        if self._files.is_outdated():
            logger.warning("ledger_outdated", extra={"text": "an earlier version wrote it: it is made anew"})
            self._files.clear(self._store.retained.final_ms() or 0)

    def _bring_up_to(self, wanted_ms: int) -> Refreshed:
        roster = self._store.roster()
        extent = self._files.extent()
        final_ms = self._store.retained.final_ms()
        if not roster.entries:
            if extent is not None:
                self._files.clear(final_ms or 0)
            return Refreshed(horizon_ms=None, hours=0, readings=0)
        # A clock that was set back takes nothing out of the ledger.
        horizon_ms = wanted_ms if extent is None else max(wanted_ms, extent[1])
        start_ms = floor_to(min(entry.from_ms for entry in roster.entries), CELL_MS)
        lowest_ms = max(final_ms or 0, self._files.floor_ms() or 0)
        if final_ms is not None:
            start_ms = self._start_beside_final(start_ms, extent, final_ms)
        start_ms = max(start_ms, self._files.floor_ms() or 0)
        if horizon_ms <= start_ms:
            return Refreshed(horizon_ms=None, hours=0, readings=0)
        dirty, mark = self._store.dirty()
        leases = self._store.leases()
        built_to_ms = start_ms if extent is None else extent[1]
        if built_to_ms < horizon_ms:
            dirty.append((floor_to(built_to_ms, HOUR_MS), horizon_ms))
        hours = readings = 0
        for first_ms, last_ms in _runs(_from(lowest_ms, dirty), horizon_ms):
            hours += (ceil_to(last_ms, HOUR_MS) - first_ms) // HOUR_MS
            readings += self._rebuild_span(roster, leases, first_ms, last_ms)
        if extent != (start_ms, horizon_ms):
            self._files.write_extent(start_ms, horizon_ms)
        self._store.clear_dirty(mark)
        if hours > 0:
            logger.debug("ledger_refreshed", extra={"hours": hours, "readings": readings, "horizon_ms": horizon_ms})
        return Refreshed(horizon_ms=horizon_ms, hours=hours, readings=readings)

    @staticmethod
    def _start_beside_final(start_ms: int, extent: Span | None, final_ms: int) -> int:
        """Return where the ledger begins if hours before `final_ms` are kept as they are, or are not there."""
        if extent is None or extent[0] >= final_ms:
            return max(start_ms, final_ms)
        if extent[1] < final_ms:
            raise StorageError(
                f"the ledger ends at {_iso(extent[1])}, and the readings of the hours until {_iso(final_ms)} were "
                "pruned: put a copy of the ledger back that has them, or remove it, and it begins after them"
            )
        return extent[0]

    def _rebuild_span(self, roster: Roster, leases: LeaseBook | None, start_ms: int, end_ms: int) -> int:
        """Redo the hours of [start_ms, end_ms), which begins at an hour; return how many readings they have."""
        indexed = self._store.readings(start_ms, end_ms)
        middle_ms = floor_to((start_ms + end_ms) // 2, HOUR_MS)
        if len(indexed) > READINGS_MAX and middle_ms > start_ms:
            first = self._rebuild_span(roster, leases, start_ms, middle_ms)
            return first + self._rebuild_span(roster, leases, middle_ms, end_ms)
        shards = cut(indexed, _with_windows_of(roster, start_ms, end_ms), self._store.claims(), READINGS_MAX)
        log, recent = self._catalog.log, self._catalog.recent
        parts = ((read_accepted(log, shard.readings, recent), shard.roster) for shard in shards)
        scheduling = self._store.scheduling(start_ms, end_ms)
        ledger = build_parts(parts, start_ms, end_ms, leases=leases, scheduling=scheduling)
        hours = range(start_ms, end_ms, HOUR_MS)
        self._files.write_hours(ledger, hours)
        self._workloads.take(hours, ledger.signs, ledger.allotted.allotments)
        return len(indexed)


def _with_windows_of(roster: Roster, start_ms: int, end_ms: int) -> Roster:
    """Return the roster with the windows that reach into the span only: those of years ago would slow every cell."""
    windows = tuple(window for window in roster.windows if window.start_ms < end_ms and window.end_ms > start_ms)
    return replace(roster, windows=windows)


def _iso(time_ms: int) -> str:
    return f"{datetime.fromtimestamp(time_ms / 1000, UTC):%Y-%m-%dT%H:%MZ}"


def _from(lowest_ms: int, spans: Sequence[Span]) -> list[Span]:
    """Return what of the spans may be redone; what is before is final, or is not kept."""
    if any(start_ms < lowest_ms for start_ms, _ in spans):
        text = "something changes hours whose readings were pruned: they stay as they are"
        logger.warning("final_hours_kept", extra={"before": _iso(lowest_ms), "text": text})
    return [(max(start_ms, lowest_ms), end_ms) for start_ms, end_ms in spans if end_ms > lowest_ms]


def _runs(spans: list[Span], horizon_ms: int) -> Iterator[Span]:
    """Yield the whole hours that the spans touch before the horizon as runs within one UTC day, each hour once."""
    run_start_ms = run_end_ms = -1
    for first_ms, last_ms in _merge(spans, horizon_ms):
        for hour_ms in range(first_ms, last_ms, HOUR_MS):
            if hour_ms != run_end_ms or hour_ms % DAY_MS == 0:
                if run_start_ms >= 0:
                    yield run_start_ms, min(run_end_ms, horizon_ms)
                run_start_ms = hour_ms
            run_end_ms = hour_ms + HOUR_MS
    if run_start_ms >= 0:
        yield run_start_ms, min(run_end_ms, horizon_ms)


def _merge(spans: list[Span], horizon_ms: int) -> list[Span]:
    """Return the spans widened to whole hours, cut at the horizon's hour, and joined where they touch."""
    merged: list[Span] = []
    for start_ms, end_ms in sorted(spans):
        if start_ms >= horizon_ms:
            continue  # Nothing in the ledger speaks of it yet; the horizon will pass it with all that has come by then.
        first_ms, last_ms = floor_to(start_ms, HOUR_MS), ceil_to(min(end_ms, horizon_ms), HOUR_MS)
        if merged and first_ms <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(merged[-1][1], last_ms)
        else:
            merged.append((first_ms, last_ms))
    return merged
