# SPDX-License-Identifier: Apache-2.0
"""The store: the only door to SQLite. The index over the log, and the little that is not in the log.

Derived from the log: enrolments, reading index, claims, roster, declarations, leases, what schedulers said, findings of
intake. Its own: cursors (how far each journal was read), openings of names, places of nodes, last contacts, settled
counters. One transaction per batch; `log_known` says up to where the log is indexed, and its root there, in the same
transaction.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from gpuledger.errors import StorageError
from gpuledger_collector.beside import Around, Beside, Contact, Place, contact_of, put_beside
from gpuledger_collector.enrolments import Enrolled
from gpuledger_collector.entries import DeclarationEntry, LogEntry, ReadingEntry
from gpuledger_collector.given_index import read_leases, read_open, read_scheduling, read_watched_to
from gpuledger_collector.indexed import EVER_MS, put_meta
from gpuledger_collector.indexing import Claims, Indexed, drop_derived, index_entries, indexed_of
from gpuledger_collector.leases import LeaseBook
from gpuledger_collector.ledger import Finding
from gpuledger_collector.log import Known
from gpuledger_collector.retained import Retained
from gpuledger_collector.roster import Claim, Roster
from gpuledger_collector.roster_index import read_declarations, read_roster
from gpuledger_collector.scheduling import Scheduling, Seen
from gpuledger_collector.schema import MIGRATIONS

FILE_NAME = "collector.sqlite"


class Store:
    """One SQLite file in WAL mode; safe to use from several threads, and to read beside a writing process."""

    def __init__(self, directory: Path, *, read_only: bool = False) -> None:
        self.path = directory / FILE_NAME
        self._mutex = threading.RLock()
        self._claims: dict[tuple[str, str], Claim] | None = None
        self._around = Around()
        self.retained = Retained(self._rows, self._writing)
        self.claims_revision = 0
        """Grows whenever a claim was added or changed."""
        mode = "ro" if read_only else "rwc"
        try:
            if not read_only:
                directory.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(
                f"{self.path.absolute().as_uri()}?mode={mode}", uri=True, isolation_level=None, check_same_thread=False
            )
            if read_only:
                self._db.execute("SELECT 1 FROM meta LIMIT 1")
            else:
                self._db.execute("PRAGMA journal_mode = WAL")
                self._db.execute("PRAGMA synchronous = NORMAL")
        except OSError as exc:
            raise StorageError(f"{directory}: cannot be used: {exc.strerror}") from exc
        except sqlite3.Error as exc:
            raise StorageError(f"{self.path}: cannot open the store: {exc}") from exc
        if read_only:
            self._check_version([name for (name,) in self._rows("SELECT name FROM migration ORDER BY position")])
        else:
            self._migrate()

    def close(self) -> None:
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ------------------------------------------------------------------------------------------ doors

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """Hold one transaction; any error takes all of it back."""
        with self._mutex:
            try:
                self._db.execute("BEGIN IMMEDIATE")
                yield self._db
                self._db.execute("COMMIT")
            except BaseException as exc:
                self._claims, self._around = None, Around()
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                if isinstance(exc, sqlite3.Error):
                    raise StorageError(f"{self.path}: cannot write the store: {exc}") from exc
                raise

    def _rows(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        """Return all rows; values go to the question marks, or a single mapping to the names."""
        by_name = len(values) == 1 and isinstance(values[0], dict)
        with self._mutex:
            try:
                return self._db.execute(sql, values[0] if by_name else values).fetchall()
            except sqlite3.Error as exc:
                raise StorageError(f"{self.path}: cannot read the store: {exc}") from exc

    writing, rows = _writing, _rows  # for modules that keep tables of their own here

    def _migrate(self) -> None:
        with self._writing() as db:
            db.execute("CREATE TABLE IF NOT EXISTS migration (position INTEGER PRIMARY KEY, name TEXT NOT NULL)")
            done = [str(name) for (name,) in db.execute("SELECT name FROM migration ORDER BY position")]
        self._check_version(done)
        for position, (name, statements) in list(enumerate(MIGRATIONS))[len(done) :]:
            with self._writing() as db:
                for statement in statements:
                    db.execute(statement)
                db.execute("INSERT INTO migration VALUES (?, ?)", (position, name))

    def _check_version(self, done: Sequence[str]) -> None:
        known = [name for name, _ in MIGRATIONS]
        if list(done) != known[: len(done)]:
            raise StorageError(
                f"{self.path}: a newer version of gpuledger wrote this index ({done[-1]}; this one knows {known[-1]}): "
                "run that version"
            )

    # ------------------------------------------------------------------------------------------ index

    def index(self, entries: Sequence[tuple[int, LogEntry]], known: Known, besides: Sequence[Beside] = ()) -> None:
        """Take logged batches, (index, entry) each with its clock entry last, into the index: all or nothing."""
        with self._writing() as db:
            index_entries(db, entries, self._known_claims(db))
            put_meta(db, "log_size", known.size)
            put_meta(db, "log_root", known.root)
            for beside in besides:
                self._put_beside(db, beside)
        if any(isinstance(entry, ReadingEntry) for _, entry in entries):
            self.claims_revision += 1

    def put_besides(self, besides: Sequence[Beside]) -> None:
        """Store what came with batches of which nothing had to be logged; where all of it is known, nothing is done."""
        with self._mutex:
            if all(self._around.is_known(beside) for beside in besides):
                return
            with self._writing() as db:
                for beside in besides:
                    self._put_beside(db, beside)

    def _put_beside(self, db: sqlite3.Connection, beside: Beside) -> None:
        if not self._around.is_known(beside):
            put_beside(db, beside)
            self._around.note(beside)

    def drop_derived(self, *, cursors: bool = False) -> None:
        """Empty all that the log can restore; with `cursors` agents are asked for everything again, too."""
        with self._writing() as db:
            self._claims = None
            drop_derived(db, cursors=cursors)
        self.claims_revision += 1

    def log_known(self) -> Known | None:
        """Return up to where the log is indexed; None before anything was."""
        values: dict[str, Any] = dict(self._rows("SELECT key, value FROM meta WHERE key IN ('log_size', 'log_root')"))
        return Known(size=values["log_size"], root=values["log_root"]) if values else None

    def origin(self) -> str | None:
        """Return the origin that the log names last; None before it names one."""
        rows = self._rows("SELECT value FROM meta WHERE key = 'origin'")
        return str(rows[0][0]) if rows else None

    def clock_ms(self) -> int | None:
        """Return when the last indexed batch was accepted; None before any was."""
        return self._meta("clock_ms")

    def _known_claims(self, db: sqlite3.Connection) -> Claims:
        if self._claims is None:
            self._claims = {
                (gpu, node): Claim(gpu=gpu, node=node, first_ms=first_ms, serial=serial, model=model)
                for gpu, node, first_ms, serial, model in db.execute("SELECT * FROM claim")
            }
        return self._claims

    def _meta(self, key: str) -> int | None:
        rows = self._rows("SELECT value FROM meta WHERE key = ?", key)
        return int(rows[0][0]) if rows else None

    # ------------------------------------------------------------------------------------------ nodes

    def enrolment(self, node_id: str) -> Enrolled | None:
        """Return how a node's key came to count, and how long it does; None if it never did."""
        return next(iter(self._enrolments("WHERE node_id = ?", node_id)), None)

    def enrolments(self) -> list[Enrolled]:
        """Return all of them, in the order in which they were logged."""
        return self._enrolments("ORDER BY id")

    def enrolments_of(self, node: str) -> list[Enrolled]:
        """Return the keys that ever counted under a node's name."""
        return self._enrolments("WHERE name = ? ORDER BY id", node)

    def _enrolments(self, clause: str, *values: object) -> list[Enrolled]:
        sql = f"SELECT node_id, public_key, name, how, at_ms, from_ms, to_ms, revoked_ms FROM node {clause}"  # noqa: S608 - clauses are ours
        return [
            Enrolled(
                node_id=node_id,
                public_key=public_key,
                node=name,
                how=how,
                at_ms=at_ms,
                from_ms=from_ms,
                to_ms=to_ms,
                revoked_ms=revoked_ms,
            )
            for node_id, public_key, name, how, at_ms, from_ms, to_ms, revoked_ms in self._rows(sql, *values)
        ]

    def cursor(self, node_id: str, journal: str) -> int:
        """Return the last sequence read from a journal; 0 before any."""
        sql = "SELECT last_sequence FROM cursor WHERE node_id = ? AND journal = ?"
        rows = self._rows(sql, node_id, journal)
        return int(rows[0][0]) if rows else 0

    def contact(self, target: str) -> Contact | None:
        """Return who answered at a target when it was last reached."""
        rows = self._rows("SELECT * FROM contact WHERE target = ?", target)
        return contact_of(*rows[0]) if rows else None

    def contacts(self) -> list[Contact]:
        """Return the last contact of every target that ever answered."""
        return [contact_of(*row) for row in self._rows("SELECT * FROM contact ORDER BY target")]

    def last_seen(self) -> dict[str, int]:
        """Return the end of the newest accepted reading by node name, POSIX ms."""
        return dict(self._rows("SELECT node, end_ms FROM seen ORDER BY node"))

    def is_sound(self) -> bool:
        """Return whether the file is a database that holds together."""
        return self._rows("PRAGMA quick_check(1)") == [("ok",)]

    def is_simulated(self) -> bool:
        """Return whether a simulated reading was ever accepted."""
        return self._meta("simulated") is not None

    # ------------------------------------------------------------------------------------------ readings

    def is_known(self, digest: str, *, with_workloads: bool = False) -> bool:
        """Return whether the reading with this digest is logged, and with the workloads that belong to it if asked."""
        return bool(
            self._rows(
                "SELECT 1 FROM reading WHERE digest = ? AND is_complete >= ?", bytes.fromhex(digest), with_workloads
            )
        )

    def readings_at(self, node_id: str, sequence: int) -> list[Indexed]:
        """Return where the logged readings of a key with this sequence number lie."""
        sql = (
            "SELECT digest, log_index, cell_ms, node_name, node_key FROM reading JOIN node ON id = node_key"
            " WHERE node_id = ? AND sequence = ? ORDER BY log_index"
        )
        return [indexed_of(*row) for row in self._rows(sql, node_id, sequence)]

    def has_readings(self, node_id: str, before_ms: int) -> bool:
        """Return whether any reading of a key is logged that ended by `before_ms`."""
        sql = "SELECT 1 FROM reading JOIN node ON id = node_key WHERE node_id = ? AND end_ms <= ? LIMIT 1"
        return bool(self._rows(sql, node_id, before_ms))

    def readings(self, start_ms: int, end_ms: int) -> list[Indexed]:
        """Return where the readings that count of the cells in [start_ms, end_ms) lie, in order of the log.

        With them come those of other cells that bear the name (node, session, sequence) of one in the span.
        """
        sql = (
            "SELECT digest, log_index, cell_ms, node_name, node_key FROM counted"
            " WHERE cell_ms >= :start AND cell_ms < :end"
            " UNION SELECT other.digest, other.log_index, other.cell_ms, other.node_name, other.node_key"
            " FROM counted AS own JOIN counted AS other USING (node_key, sequence, session)"
            " WHERE own.cell_ms >= :start AND own.cell_ms < :end"
            " AND NOT (other.cell_ms >= :start AND other.cell_ms < :end) ORDER BY log_index"
        )
        return [indexed_of(*row) for row in self._rows(sql, {"start": start_ms, "end": end_ms})]

    def count_readings(self, start_ms: int = 0, end_ms: int = EVER_MS) -> int:
        """Return how many readings the cells in [start_ms, end_ms) have."""
        rows = self._rows("SELECT COUNT(*) FROM reading WHERE cell_ms >= ? AND cell_ms < ?", start_ms, end_ms)
        return int(rows[0][0])

    # ------------------------------------------------------------------------------------------ roster

    def claims(self) -> list[Claim]:
        """Return which node claims which GPU, since when."""
        with self._mutex:
            known = self._known_claims(self._db)
            return [known[key] for key in sorted(known)]

    def roster(self) -> Roster:
        """Return the roster as last logged, with its windows."""
        return read_roster(self._rows)

    def declarations(self) -> list[DeclarationEntry]:
        """Return every window ever declared, withdrawn or not, in the order in which they were logged."""
        return read_declarations(self._rows)

    def leases(self) -> LeaseBook | None:
        """Return the lease book as last logged; None where there never was one."""
        return read_leases(self._rows)

    def scheduling(self, start_ms: int, end_ms: int) -> Scheduling:
        """Return what is known of schedulers in [start_ms, end_ms)."""
        return read_scheduling(self._rows, start_ms, end_ms)

    def open_facts(self, cluster: str) -> list[Seen]:
        """Return the facts about a cluster that were seen by the last look, too."""
        return read_open(self._rows, cluster)

    def watched_to_ms(self, cluster: str) -> int | None:
        """Return up to when a cluster was looked at; None: never."""
        return read_watched_to(self._rows, cluster)

    def configuration(self) -> dict[str, str] | None:
        """Return the settings that were last logged; None before any were."""
        rows = self._rows("SELECT value FROM meta WHERE key = 'configuration'")
        return dict(json.loads(rows[0][0])) if rows else None

    def places(self) -> dict[str, Place]:
        """Return (site, cluster, pool) by node, as the targets' groups last said."""
        rows = self._rows("SELECT node, site, cluster, pool FROM place")
        return {node: (site, cluster, pool) for node, site, cluster, pool in rows}

    # ------------------------------------------------------------------------------------------ ledger

    def dirty(self) -> tuple[list[tuple[int, int]], int]:
        """Return the spans whose rows are out of date, and the mark up to which `clear_dirty` may clear them."""
        rows = self._rows("SELECT start_ms, end_ms, id FROM dirty ORDER BY start_ms")
        return [(start_ms, end_ms) for start_ms, end_ms, _ in rows], max((mark for _, _, mark in rows), default=0)

    def clear_dirty(self, up_to_mark: int) -> None:
        """Forget the marks that were there when `dirty` answered; later ones stay."""
        with self._writing() as db:
            db.execute("DELETE FROM dirty WHERE id <= ?", (up_to_mark,))

    def findings(self, start_ms: int = 0, end_ms: int = EVER_MS) -> list[Finding]:
        """Return what was found at intake in [start_ms, end_ms), oldest first."""
        sql = "SELECT at_ms, kind, subject, text FROM found WHERE at_ms >= ? AND at_ms < ? ORDER BY 1, 2, 3, 4"
        return [
            Finding(at_ms=at_ms, kind=kind, subject=subject, text=text)
            for at_ms, kind, subject, text in self._rows(sql, start_ms, end_ms)
        ]

    def has_finding(self, finding: Finding) -> bool:
        """Return whether the same was found before, whenever."""
        sql = "SELECT 1 FROM finding WHERE kind = ? AND subject = ? AND text = ?"
        return bool(self._rows(sql, finding.kind, finding.subject, finding.text))

    def names(self, digests: Iterable[str]) -> dict[str, str]:
        """Return the names that are open, by digest."""
        found: dict[str, str] = {}
        wanted = [digest for digest in set(digests) if len(digest) == 64]
        for first in range(0, len(wanted), 500):
            some = [bytes.fromhex(digest) for digest in wanted[first : first + 500] if _is_hex(digest)]
            marks = ", ".join("?" * len(some))
            sql = f"SELECT digest, name FROM opening WHERE digest IN ({marks})"  # noqa: S608 - question marks only
            found |= {digest.hex(): name for digest, name in self._rows(sql, *some)}
        return found

    # ------------------------------------------------------------------------------------------ counters

    def settled(self) -> tuple[int | None, dict[tuple[str, str, str], int]]:
        """Return up to where cells were added to the counters, and slice-ms by (site, model, state)."""
        rows = self._rows("SELECT site, model, state, slice_ms FROM counter ORDER BY site, model, state")
        return self._meta("settled_ms"), {(site, model, state): amount for site, model, state, amount in rows}

    def add_settled(self, to_ms: int, amounts: Mapping[tuple[str, str, str], int]) -> None:
        """Add slice-ms to the counters and move their end to `to_ms`, both or neither."""
        sql = (
            "INSERT INTO counter VALUES (?, ?, ?, ?) ON CONFLICT (site, model, state)"
            " DO UPDATE SET slice_ms = slice_ms + excluded.slice_ms"
        )
        with self._writing() as db:
            db.executemany(sql, [(*key, amount) for key, amount in amounts.items()])
            put_meta(db, "settled_ms", to_ms)


def _is_hex(text: str) -> bool:
    try:
        bytes.fromhex(text)
    except ValueError:
        return False
    return True
