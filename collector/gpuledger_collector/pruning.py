# SPDX-License-Identifier: Apache-2.0
"""Takes out of log and ledger what the policy does not keep, and says so in the log before it does.

Of a file of entries everything stays that is no reading: enrolments, rosters, findings, and the clock entries that
close batches with any of them. Tiles and checkpoints stay for ever, so every hash is still provable. First what is left
is written and flushed, then the log's entry, then the file goes: a crash in between is made good by the next run.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

from gpuledger.errors import StorageError
from gpuledger.merkle import TILE_WIDTH
from gpuledger_collector import columns
from gpuledger_collector.catalog import Catalog
from gpuledger_collector.closing import frame
from gpuledger_collector.config import Policy
from gpuledger_collector.disk import Disk
from gpuledger_collector.entries import Pruned, PruningEntry, decode_entry, pack_claims
from gpuledger_collector.keeper import Keeper
from gpuledger_collector.ledger_files import HOUR_TABLES, LedgerFiles
from gpuledger_collector.pruned_files import digest_pruned, remainder
from gpuledger_collector.retention import FINDINGS, Cut, Plan, iso_day, plan
from gpuledger_collector.tiles import ENTRIES, WORKLOADS, LogReader

logger = logging.getLogger(__name__)

BUNDLES_AT_ONCE = 1_024
"""Pruned under one entry of the log, so that no transaction of the index takes long."""


def check_final(log: LogReader, files: LedgerFiles) -> list[str]:
    """Return a sentence for each span of final hours: whether the ledger has the rows that the log has a digest of."""
    said, extent = [], files.extent()
    for leaf in log.iterate():
        if b"gpuledger.pruning." not in leaf.data:
            continue
        entry = decode_entry(leaf)
        if not isinstance(entry, PruningEntry) or entry.ledger is None:
            continue
        span = f"{iso_day(entry.from_ms)} to {iso_day(entry.before_ms)}"
        if extent is None or extent[0] > entry.from_ms:
            said.append(f"Final hours of {span}: not in the ledger.")
        elif files.digest(entry.from_ms, entry.before_ms, entry.columns) == entry.ledger:
            said.append(f"Final hours of {span}: as the log says.")
        else:
            said.append(f"Final hours of {span}: NOT as the log says: restore them from a copy.")
    return said


class Pruner:
    """Does what the policy says, one run at a time; between runs it only knows how far earlier ones came."""

    def __init__(
        self, catalog: Catalog, files: LedgerFiles, keeper: Keeper, policy: Policy, disk: Disk | None = None
    ) -> None:
        self._catalog, self._log, self._store = catalog, catalog.log, catalog.store
        self._files, self._keeper, self._policy = files, keeper, policy
        self._disk = Disk() if disk is None else disk
        self._removed = dict.fromkeys(Pruned, 0)

    def run(self, now_ms: int) -> Plan:
        """Take out what is to go; returns what that was. Raises StorageError; what was not done is done next time."""
        with self._keeper.paused():
            self._finish()
            wanted = plan(self._policy, self._log, self._store, self._files, now_ms)
            for cut in wanted.cuts:
                self._prune(cut, now_ms)
            if wanted.hours_before_ms is not None:
                self._files.drop(wanted.hours_before_ms, HOUR_TABLES)
                logger.info("ledger_pruned", extra={"before_ms": wanted.hours_before_ms, "bytes": wanted.hours_bytes})
            if wanted.findings_before_ms is not None:
                self._files.drop(wanted.findings_before_ms, FINDINGS)
                self._store.retained.drop_findings(wanted.findings_before_ms)
            return wanted

    def _finish(self) -> None:
        """Remove the files that the log says are pruned, should a run have ended before it did."""
        for what in Pruned:
            end = self._store.retained.pruned(what.value)
            self._remove(what, self._removed[what] // TILE_WIDTH, end // TILE_WIDTH)
            self._removed[what] = end

    def _prune(self, cut: Cut, now_ms: int) -> None:
        first, last = cut.first // TILE_WIDTH, cut.end // TILE_WIDTH
        while first < last:
            end, readings = self._write_remainders(cut.what, first, min(last, first + BUNDLES_AT_ONCE))
            if end == first:
                return
            entry = self._entry(cut, first, end, readings, now_ms)
            claims = self._store.retained.unlogged_claims(cut.before_ms) if cut.what is Pruned.READINGS else []
            self._catalog.commit([*pack_claims(claims), entry], now_ms=now_ms)
            facts = {"what": cut.what.value, "entries": entry.entries, "readings": readings, "before_ms": cut.before_ms}
            logger.info("log_pruned", extra=facts)
            self._finish()
            first = end

    def _entry(self, cut: Cut, first: int, end: int, readings: int, now_ms: int) -> PruningEntry:
        extent, final_ms = self._files.extent(), self._store.retained.final_ms() or 0
        from_ms = cut.before_ms if extent is None else max(extent[0], final_ms)
        is_final = from_ms < cut.before_ms
        return PruningEntry(
            what=cut.what,
            entries=end * TILE_WIDTH,
            readings=readings,
            kept=digest_pruned(self._log, first, end) if cut.what is Pruned.READINGS else "",
            from_ms=min(from_ms, cut.before_ms),
            before_ms=cut.before_ms,
            ledger=self._files.digest(from_ms, cut.before_ms) if is_final else None,
            columns=columns.SCHEMA,
            at_ms=now_ms,
        )

    def _write_remainders(self, what: Pruned, first: int, end: int) -> tuple[int, int]:
        """Write what is left of bundles; return where the last whole batch among them ends, and how many readings go.

        A batch of which something stays is not cut in two, so that its clock entry stays with it.
        """
        nothing = frame(b"") * TILE_WIDTH
        directories: set[Path] = set()
        done, readings, total, is_open = first, 0, 0, False
        for number in range(first, end):
            self._write(self._log.pruned_file(WORKLOADS, number), nothing, directories)
            if what is Pruned.READINGS:
                found = remainder(self._log.records(ENTRIES, number, TILE_WIDTH), is_open=is_open)
                self._write(self._log.pruned_file(ENTRIES, number), b"".join(map(frame, found.records)), directories)
                is_open, total = found.is_open, total + found.readings
            if not is_open:
                done, readings = number + 1, total
        for path in sorted(directories):
            self._disk.sync_directory(path)
        return done, readings

    def _write(self, path: Path, data: bytes, directories: set[Path]) -> None:
        beside = path.with_name(f"{path.name}.new")
        try:
            self._create(path.parent, directories)
            file = self._disk.open(beside)
            try:
                self._disk.truncate(file, 0)
                if self._disk.write(file, data, 0) != len(data):
                    raise OSError(0, "the file system takes no more")
                self._disk.sync(file)
            finally:
                os.close(file)
            self._disk.rename(beside, path)
        except OSError as exc:
            raise StorageError(f"{path}: cannot be written: {exc.strerror}") from exc

    def _create(self, path: Path, directories: set[Path]) -> None:
        directories.add(path)
        # Up to the log's own directory: a run that was killed may have made them, and not flushed their names.
        while path != self._log.path:
            path = path.parent
            directories.add(path)
        for missing in sorted(directories):
            if not missing.exists():
                self._disk.create_directory(missing)

    def _remove(self, what: Pruned, first: int, end: int) -> None:
        """Remove the files of bundles of which the log says that they are pruned."""
        folders = (WORKLOADS,) if what is Pruned.WORKLOADS else (ENTRIES, WORKLOADS)
        try:
            for number in range(first, end):
                for folder in folders:
                    if self._log.pruned_file(folder, number).exists():
                        self._disk.remove(self._log.file(folder, number))
        except OSError as exc:
            raise StorageError(f"{self._log.path}: cannot remove what is pruned: {exc.strerror}") from exc
