# SPDX-License-Identifier: Apache-2.0
"""What was pruned of a log, held to what the log says: no more is missing than it names, what is left is genuine."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Protocol

from gpuledger.errors import StorageError
from gpuledger.merkle import TILE_WIDTH
from gpuledger_collector.entries import Pruned, PruningEntry
from gpuledger_collector.pruned_files import digest_pruned
from gpuledger_collector.tiles import ENTRIES, WORKLOADS, LogReader


class Report(Protocol):
    """Where it is said what was found."""

    pruned: list[str]

    def fail(self, text: str) -> None: ...


class PruningCheck:
    """Told of every entry about pruning, in order, and at the end of what is pruned."""

    def __init__(self, log: LogReader, report: Report) -> None:
        self._log, self._report = log, report
        self._entries: list[tuple[str, int, PruningEntry]] = []
        """Where it stands, from which bundle on, and what it says."""
        self._ends = dict.fromkeys(Pruned, 0)

    def take(self, entry: PruningEntry, where: str) -> None:
        before = self._ends[entry.what]
        if entry.entries % TILE_WIDTH != 0 or entry.entries < before or not 0 <= entry.from_ms <= entry.before_ms:
            self._report.fail(f"{where}: says that {entry.entries} entries were pruned, after {before}")
            return
        self._ends[entry.what] = entry.entries
        if entry.what is Pruned.READINGS:
            self._ends[Pruned.WORKLOADS] = max(self._ends[Pruned.WORKLOADS], entry.entries)
        self._entries.append((where, before // TILE_WIDTH, entry))

    def finish(self, entries: set[int], workloads: set[int]) -> None:
        for what, folder, pruned in (
            (Pruned.READINGS, ENTRIES, entries),
            (Pruned.WORKLOADS, WORKLOADS, workloads),
        ):
            for number in sorted(pruned):
                if (number + 1) * TILE_WIDTH > self._ends[what]:
                    path = self._log.file(folder, number)
                    self._report.fail(f"{path}: was pruned, and no entry of the log says so: restore it from a copy")
        for where, first, entry in self._entries:
            self._check(where, first, entry, entries)

    def _check(self, where: str, first: int, entry: PruningEntry, pruned: set[int]) -> None:
        end = entry.entries // TILE_WIDTH
        what = f"{entry.readings} readings" if entry.what is Pruned.READINGS else "what lay beside readings"
        self._report.pruned.append(
            f"entries {first * TILE_WIDTH} to {entry.entries - 1}: {what}, all of before {_day(entry.before_ms)}, on "
            f"{_day(entry.at_ms)}: their hashes are proved, and no more"
            + ("" if entry.ledger is None else f"; digest of the hours since {_day(entry.from_ms)}: {entry.ledger}")
        )
        # A copy from before the pruning has the whole files: the tree proves those.
        if entry.what is Pruned.READINGS and pruned.issuperset(range(first, end)):
            try:
                if digest_pruned(self._log, first, end) != entry.kept:
                    self._report.fail(f"{where}: what is left of the bundles {first} to {end - 1} is not what was kept")
            except StorageError as exc:
                self._report.fail(f"{where}: {exc}")


def _day(time_ms: int) -> str:
    return f"{datetime.fromtimestamp(time_ms / 1000, UTC):%Y-%m-%d}"
