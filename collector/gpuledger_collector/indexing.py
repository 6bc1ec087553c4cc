# SPDX-License-Identifier: Apache-2.0
"""How entries of the log become rows of the index: the one road, for new batches and for replays alike.

Order-free where the ledger is: claims keep the least of what was ever claimed, readings count once by digest.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from gpuledger import wire
from gpuledger.cells import CELL_MS, ceil_to, floor_to
from gpuledger_collector.closing import ClockEntry
from gpuledger_collector.entries import (
    ClaimsEntry,
    DeclarationEntry,
    EnrolmentEntry,
    FindingsEntry,
    LabelEntry,
    LogEntry,
    OriginEntry,
    Pruned,
    PruningEntry,
    ReadingEntry,
    RevocationEntry,
    RosterEntry,
)
from gpuledger_collector.given_entries import ConfigurationEntry, LeasesEntry, ScheduleEntry
from gpuledger_collector.given_index import take_leases, take_schedule
from gpuledger_collector.indexed import EVER_MS, Database, Span, put_meta
from gpuledger_collector.roster import Claim, Entry
from gpuledger_collector.schema import FROM_HOURS, REINDEX

Claims = dict[tuple[str, str], Claim]


@dataclass(frozen=True, slots=True, kw_only=True)
class Indexed:
    """Where a reading lies in the log, in which cell, and whose it is: its node's name, and a number for its key."""

    digest: str
    index: int
    cell_ms: int
    node: str
    node_key: int


def indexed_of(digest: bytes, index: int, cell_ms: int, node: str, node_key: int) -> Indexed:
    """Return a row of the index as what it says."""
    return Indexed(digest=digest.hex(), index=index, cell_ms=cell_ms, node=node, node_key=node_key)


def index_entries(db: Database, entries: Sequence[tuple[int, LogEntry]], claims: Claims) -> None:
    """Index (index, entry) pairs: whole batches, each with its clock entry last. `claims` is brought up to date."""
    step = _Step(db, claims)
    batch: list[tuple[int, LogEntry]] = []
    for index, entry in entries:
        if isinstance(entry, ClockEntry):
            for position, closed in batch:
                step.take(position, closed, entry.at_ms)
            batch = []
            put_meta(db, "clock_ms", entry.at_ms)
        else:
            batch.append((index, entry))
    if batch:
        raise AssertionError("a batch is indexed without the clock entry that closes it")
    step.finish()


def drop_derived(db: Database, *, cursors: bool) -> None:
    """Empty all that the log can restore; what is made with the ledger's hours only while none of these is final."""
    is_final = any(True for _ in db.execute("SELECT 1 FROM meta WHERE key = 'final_ms'"))
    for statement in REINDEX:
        db.execute(statement)
    for table in (*(() if is_final else FROM_HOURS), *(("cursor",) if cursors else ())):
        db.execute(f"DELETE FROM {table}")  # noqa: S608 - names from our own list


def mark_dirty(db: Database, spans: Iterable[Span]) -> None:
    """Note that the ledger's rows of these spans are out of date."""
    # REPLACE, so that a mark made again gets a new id: whoever clears older marks leaves it standing.
    db.executemany("INSERT OR REPLACE INTO dirty (start_ms, end_ms) VALUES (?, ?)", spans)


class _Step:
    """One transaction's worth of entries; what many readings share is written once, by `finish`."""

    def __init__(self, db: Database, claims: Claims) -> None:
        self._db = db
        self._claims = claims
        self._changed: set[tuple[str, str]] = set()
        self._dirty: set[Span] = set()
        self._seen: dict[str, int] = {}
        self._node_keys: dict[str, int] = {}
        self._simulated = False

    def take(self, index: int, entry: LogEntry, at_ms: int) -> None:
        match entry:
            case ReadingEntry():
                self._take_reading(index, entry, at_ms)
            case EnrolmentEntry():
                self._take_enrolment(entry)
            case RevocationEntry():
                self._take_revocation(entry)
            case RosterEntry():
                self._take_roster(entry)
            case DeclarationEntry():
                self._take_declaration(entry)
            case FindingsEntry():
                self._db.executemany(
                    "INSERT OR IGNORE INTO finding VALUES (?, ?, ?, ?)",
                    [(found.at_ms, found.kind, found.subject, found.text) for found in entry.findings],
                )
            case LabelEntry():
                values = (entry.workload, entry.kind, entry.at_ms)
                self._db.execute("INSERT INTO label (workload, kind, at_ms) VALUES (?, ?, ?)", values)
            case LeasesEntry():
                self._dirty.add(take_leases(self._db, entry))
            case ScheduleEntry():
                self._dirty.add(take_schedule(self._db, entry))
            case ConfigurationEntry():
                put_meta(self._db, "configuration", wire.dump(dict(entry.settings)).decode("ascii"))
            case OriginEntry():
                put_meta(self._db, "origin", entry.origin)
            case ClaimsEntry() | PruningEntry():
                self._take_pruning(entry)
            case ClockEntry():
                raise AssertionError("a clock entry closes a batch and is not in it")

    def _take_enrolment(self, entry: EnrolmentEntry) -> None:
        self._dirty |= self._spans_of_key(entry.node_id, 0)
        self._db.execute(
            "INSERT INTO node (node_id, public_key, name, how, at_ms, from_ms, to_ms) VALUES (?, ?, ?, ?, ?, ?, ?)"
            " ON CONFLICT (node_id) DO UPDATE SET name = excluded.name, how = excluded.how, at_ms = excluded.at_ms,"
            " from_ms = excluded.from_ms, to_ms = excluded.to_ms, revoked_ms = NULL",
            (
                entry.node_id,
                entry.public_key,
                entry.node,
                entry.how,
                entry.at_ms,
                entry.from_ms,
                entry.to_ms,
            ),
        )

    def _take_revocation(self, entry: RevocationEntry) -> None:
        self._dirty |= self._spans_of_key(entry.node_id, floor_to(entry.from_ms, CELL_MS))
        self._db.execute("UPDATE node SET revoked_ms = ? WHERE node_id = ?", (entry.from_ms, entry.node_id))

    def _spans_of_key(self, node_id: str, from_ms: int) -> set[Span]:
        """Return the cells from `from_ms` on in which a key has readings, as one span."""
        sql = "SELECT MIN(cell_ms) FROM reading JOIN node ON id = node_key WHERE node_id = ? AND cell_ms >= ?"
        for (first_ms,) in self._db.execute(sql, (node_id, from_ms)):
            if first_ms is not None:
                return {(int(first_ms), EVER_MS)}
        return set()

    def _take_reading(self, index: int, entry: ReadingEntry, at_ms: int) -> None:
        reading = entry.reading
        node_key = self._node_key(reading.node_id)
        inserted = self._db.execute(
            "INSERT INTO reading VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (digest) DO UPDATE"
            " SET log_index = excluded.log_index, is_complete = 1 WHERE excluded.is_complete > is_complete",
            (
                node_key,
                reading.sequence,
                reading.session,
                bytes.fromhex(entry.digest),
                index,
                reading.cell_ms,
                reading.start_ms,
                reading.end_ms,
                reading.node_name,
                reading.simulated,
                at_ms,
                reading.workloads_digest is None or entry.workloads is not None,
            ),
        )
        if inserted.rowcount == 0:
            return
        # Its own cell, and every other in which its name was used: two readings of one name are both void.
        namesakes = "SELECT cell_ms FROM reading WHERE node_key = ? AND sequence = ? AND session = ?"
        cells = {int(cell) for (cell,) in self._db.execute(namesakes, (node_key, reading.sequence, reading.session))}
        self._dirty |= {(cell_ms, cell_ms + CELL_MS) for cell_ms in cells}
        self._seen[reading.node_name] = max(reading.end_ms, self._seen.get(reading.node_name, 0))
        self._simulated |= reading.simulated
        for gpu in reading.gpus:
            self._claim(
                Claim(
                    gpu=gpu.uuid, node=reading.node_name, first_ms=reading.cell_ms, serial=gpu.serial, model=gpu.model
                )
            )

    def _claim(self, claim: Claim) -> None:
        key = (claim.gpu, claim.node)
        known = self._claims.get(key)
        merged = claim if known is None else _least(known, claim)
        if merged != known:
            self._claims[key] = merged
            self._changed.add(key)

    def _take_claims(self, entry: ClaimsEntry) -> None:
        for claim in entry.claims:
            self._claim(claim)
        self._db.executemany(
            "INSERT OR REPLACE INTO logged_claim VALUES (?, ?, ?, ?, ?)",
            [(claim.gpu, claim.node, claim.first_ms, claim.serial, claim.model) for claim in entry.claims],
        )

    def _take_pruning(self, entry: ClaimsEntry | PruningEntry) -> None:
        if isinstance(entry, ClaimsEntry):
            self._take_claims(entry)
            return
        put_meta(self._db, f"pruned_{entry.what.value}", entry.entries)
        sql = (
            "INSERT INTO meta VALUES ('final_ms', ?) ON CONFLICT (key) DO UPDATE SET value = MAX(value, excluded.value)"
        )
        self._db.execute(sql, (entry.before_ms,))
        if entry.what is Pruned.READINGS:
            self._db.execute("DELETE FROM reading WHERE log_index < ?", (entry.entries,))

    def _node_key(self, node_id: str) -> int:
        if node_id not in self._node_keys:
            for (key,) in self._db.execute("SELECT id FROM node WHERE node_id = ?", (node_id,)):
                self._node_keys[node_id] = key
        return self._node_keys[node_id]

    def _take_roster(self, entry: RosterEntry) -> None:
        put_meta(self._db, "roster_declared", int(entry.is_declared))
        self._db.executemany(
            "DELETE FROM roster WHERE gpu = ? AND node = ? AND from_ms = ?",
            [(old.gpu, old.node, old.from_ms) for old in entry.removed],
        )
        self._db.executemany(
            "INSERT OR REPLACE INTO roster VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [
                (new.gpu, new.node, new.from_ms, new.to_ms, new.serial, new.site, new.cluster, new.pool, new.model)
                for new in entry.added
            ],
        )
        self._dirty |= {self._span_of(changed) for changed in (*entry.removed, *entry.added)}

    def _span_of(self, entry: Entry) -> Span:
        """Return what an entry coming or going may change: its own time, and where it was claimed before."""
        start_ms = floor_to(entry.from_ms, CELL_MS)
        sql = "SELECT MIN(first_ms) FROM claim WHERE gpu = ? OR serial = ?"
        for (first_ms,) in self._db.execute(sql, (entry.gpu, entry.serial)):
            start_ms = start_ms if first_ms is None else min(start_ms, first_ms)
        return start_ms, EVER_MS

    def _take_declaration(self, entry: DeclarationEntry) -> None:
        window = entry.window
        if entry.withdrawn_ms is None:
            self._db.execute(
                "INSERT INTO declaration (kind, start_ms, end_ms, declared_ms, node, gpu) VALUES (?, ?, ?, ?, ?, ?)",
                (window.kind.value, window.start_ms, window.end_ms, window.declared_ms, window.node, window.gpu),
            )
        else:
            self._db.execute(
                "UPDATE declaration SET withdrawn_ms = ? WHERE withdrawn_ms IS NULL AND kind = ? AND start_ms = ?"
                " AND end_ms = ? AND declared_ms = ? AND node IS ? AND gpu IS ?",
                (
                    entry.withdrawn_ms,
                    window.kind.value,
                    window.start_ms,
                    window.end_ms,
                    window.declared_ms,
                    window.node,
                    window.gpu,
                ),
            )
        self._dirty.add((floor_to(window.start_ms, CELL_MS), ceil_to(window.end_ms, CELL_MS)))

    def finish(self) -> None:
        changed = [self._claims[key] for key in sorted(self._changed)]
        self._db.executemany(
            "INSERT OR REPLACE INTO claim VALUES (?, ?, ?, ?, ?)",
            [(claim.gpu, claim.node, claim.first_ms, claim.serial, claim.model) for claim in changed],
        )
        self._db.executemany(
            "INSERT INTO seen VALUES (?, ?) ON CONFLICT (node) DO UPDATE SET end_ms = MAX(end_ms, excluded.end_ms)",
            self._seen.items(),
        )
        mark_dirty(self._db, sorted(self._dirty))
        if self._simulated:
            put_meta(self._db, "simulated", 1)


def _least(one: Claim, other: Claim) -> Claim:
    """Return the claim that both make together, the same whichever came first."""
    return Claim(
        gpu=one.gpu,
        node=one.node,
        first_ms=min(one.first_ms, other.first_ms),
        serial=_least_text(one.serial, other.serial),
        model=_least_text(one.model, other.model),
    )


def _least_text(one: str | None, other: str | None) -> str | None:
    if one is None or other is None:
        return other if one is None else one
    return min(one, other)
