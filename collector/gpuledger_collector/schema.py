# SPDX-License-Identifier: Apache-2.0
"""The tables of the store, as ordered named migrations: never edited once released, only added to.

Times are POSIX milliseconds. `node.id` and `reading.node_key` are short stand-ins for the 64 characters of a node id.
"""

from __future__ import annotations

FIRST = (
    """CREATE TABLE meta (key TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID""",
    """CREATE TABLE node (
        id INTEGER PRIMARY KEY, node_id TEXT NOT NULL UNIQUE, public_key BLOB NOT NULL, name TEXT NOT NULL,
        how TEXT NOT NULL, at_ms INTEGER NOT NULL, from_ms INTEGER, to_ms INTEGER, revoked_ms INTEGER)""",
    """CREATE INDEX node_by_name ON node (name)""",
    """CREATE TABLE reading (
        node_key INTEGER NOT NULL REFERENCES node (id), sequence INTEGER NOT NULL, session TEXT NOT NULL,
        digest BLOB NOT NULL UNIQUE, log_index INTEGER NOT NULL, cell_ms INTEGER NOT NULL, start_ms INTEGER NOT NULL,
        end_ms INTEGER NOT NULL, node_name TEXT NOT NULL, simulated INTEGER NOT NULL, accepted_ms INTEGER NOT NULL,
        is_complete INTEGER NOT NULL)""",
    """CREATE INDEX reading_by_cell ON reading (cell_ms)""",
    """CREATE INDEX reading_by_sequence ON reading (node_key, sequence)""",
    # What lies within its key's time; readings of a key that was revoked stay logged and count no more.
    """CREATE VIEW counted AS SELECT reading.* FROM reading JOIN node ON id = node_key
        WHERE start_ms >= COALESCE(from_ms, start_ms) AND end_ms <= COALESCE(to_ms, end_ms)
        AND end_ms <= COALESCE(revoked_ms, end_ms)""",
    """CREATE TABLE claim (
        gpu TEXT NOT NULL, node TEXT NOT NULL, first_ms INTEGER NOT NULL, serial TEXT, model TEXT,
        PRIMARY KEY (gpu, node)) WITHOUT ROWID""",
    """CREATE TABLE seen (node TEXT PRIMARY KEY, end_ms INTEGER NOT NULL) WITHOUT ROWID""",
    """CREATE TABLE roster (
        gpu TEXT NOT NULL, node TEXT NOT NULL, from_ms INTEGER NOT NULL, to_ms INTEGER, serial TEXT, site TEXT NOT NULL,
        cluster TEXT NOT NULL, pool TEXT NOT NULL, model TEXT, PRIMARY KEY (gpu, node, from_ms)) WITHOUT ROWID""",
    """CREATE TABLE declaration (
        id INTEGER PRIMARY KEY, kind TEXT NOT NULL, start_ms INTEGER NOT NULL, end_ms INTEGER NOT NULL,
        declared_ms INTEGER NOT NULL, node TEXT, gpu TEXT, withdrawn_ms INTEGER)""",
    """CREATE TABLE finding (
        at_ms INTEGER NOT NULL, kind TEXT NOT NULL, subject TEXT NOT NULL, text TEXT NOT NULL,
        PRIMARY KEY (kind, subject, text)) WITHOUT ROWID""",
    """CREATE TABLE dirty (
        id INTEGER PRIMARY KEY AUTOINCREMENT, start_ms INTEGER NOT NULL, end_ms INTEGER NOT NULL,
        UNIQUE (start_ms, end_ms))""",
    """CREATE TABLE cursor (
        node_id TEXT NOT NULL, journal TEXT NOT NULL, last_sequence INTEGER NOT NULL,
        PRIMARY KEY (node_id, journal)) WITHOUT ROWID""",
    """CREATE TABLE opening (digest BLOB PRIMARY KEY, name TEXT NOT NULL) WITHOUT ROWID""",
    """CREATE TABLE place (
        node TEXT PRIMARY KEY, site TEXT NOT NULL, cluster TEXT NOT NULL, pool TEXT NOT NULL) WITHOUT ROWID""",
    """CREATE TABLE contact (
        target TEXT PRIMARY KEY, node_id TEXT NOT NULL, journal TEXT NOT NULL, node TEXT NOT NULL,
        at_ms INTEGER NOT NULL) WITHOUT ROWID""",
    """CREATE TABLE counter (
        site TEXT NOT NULL, model TEXT NOT NULL, state TEXT NOT NULL, slice_ms INTEGER NOT NULL,
        PRIMARY KEY (site, model, state)) WITHOUT ROWID""",
)

WORKLOADS = (
    # What the readings of an hour tell of a workload at a node; `base` is the workload that its digest belongs to.
    """CREATE TABLE sign (
        hour_ms INTEGER NOT NULL, node TEXT NOT NULL, digest TEXT NOT NULL, base TEXT NOT NULL, site TEXT NOT NULL,
        busy_slice_ms INTEGER NOT NULL, held_slice_ms INTEGER NOT NULL, gpus INTEGER NOT NULL, body BLOB NOT NULL,
        PRIMARY KEY (hour_ms, node, digest)) WITHOUT ROWID""",
    """CREATE INDEX sign_by_base ON sign (base, hour_ms)""",
    """CREATE TABLE member (
        node TEXT NOT NULL, digest TEXT NOT NULL, base TEXT NOT NULL, PRIMARY KEY (node, digest)) WITHOUT ROWID""",
    """CREATE INDEX member_by_base ON member (base)""",
    """CREATE TABLE workload (
        id TEXT PRIMARY KEY, base TEXT NOT NULL, run INTEGER NOT NULL, site TEXT NOT NULL, owner TEXT, source TEXT,
        first_ms INTEGER NOT NULL, end_ms INTEGER NOT NULL, busy_slice_ms INTEGER NOT NULL,
        held_slice_ms INTEGER NOT NULL, gpus_max INTEGER NOT NULL, kind TEXT NOT NULL, lean TEXT,
        calibration TEXT NOT NULL, tags TEXT NOT NULL, pattern TEXT NOT NULL, facts TEXT NOT NULL,
        life BLOB NOT NULL) WITHOUT ROWID""",
    """CREATE INDEX workload_by_base ON workload (base, run)""",
    """CREATE INDEX workload_by_pattern ON workload (site, pattern)""",
    """CREATE INDEX workload_by_end ON workload (end_ms)""",
    """CREATE TABLE remark (
        workload TEXT NOT NULL, kind TEXT NOT NULL, at_ms INTEGER NOT NULL, text TEXT NOT NULL,
        PRIMARY KEY (workload, kind, text)) WITHOUT ROWID""",
    # What was found at intake, and what verdicts as they stand now find.
    """CREATE VIEW found AS SELECT at_ms, kind, subject, text FROM finding
        UNION ALL SELECT at_ms, kind, workload, text FROM remark""",
    # A row without a kind takes the label away; the last row of a workload counts.
    """CREATE TABLE label (id INTEGER PRIMARY KEY, workload TEXT NOT NULL, kind TEXT, at_ms INTEGER NOT NULL)""",
    """CREATE INDEX label_by_workload ON label (workload, id)""",
    """CREATE TABLE kind_counter (
        site TEXT NOT NULL, model TEXT NOT NULL, kind TEXT NOT NULL, state TEXT NOT NULL, slice_ms INTEGER NOT NULL,
        PRIMARY KEY (site, model, kind, state)) WITHOUT ROWID""",
    # Signs are made with the ledger's hours: all of those are made anew.
    """INSERT INTO dirty (start_ms, end_ms)
        SELECT cell_ms, 4611686018427387904 FROM reading ORDER BY cell_ms LIMIT 1""",
)

LOOKUPS = (
    # Whatever changes a roster looks for claims by serial, once for each GPU.
    """CREATE INDEX claim_by_serial ON claim (serial)""",
)

GIVEN = (
    """CREATE TABLE lease (name TEXT PRIMARY KEY, body TEXT NOT NULL) WITHOUT ROWID""",
    """CREATE TABLE watched (
        cluster TEXT NOT NULL, from_ms INTEGER NOT NULL, to_ms INTEGER NOT NULL, queues TEXT NOT NULL,
        PRIMARY KEY (cluster, from_ms)) WITHOUT ROWID""",
    """CREATE INDEX watched_by_time ON watched (to_ms)""",
    """CREATE TABLE seen_fact (
        id INTEGER PRIMARY KEY, cluster TEXT NOT NULL, node TEXT NOT NULL, job TEXT, body TEXT NOT NULL,
        from_ms INTEGER NOT NULL, to_ms INTEGER)""",
    """CREATE INDEX seen_fact_by_end ON seen_fact (to_ms)""",
)

RETENTION = (
    # Claims that stand in the log by themselves: the readings that made them may be pruned.
    """CREATE TABLE logged_claim (
        gpu TEXT NOT NULL, node TEXT NOT NULL, first_ms INTEGER NOT NULL, serial TEXT, model TEXT,
        PRIMARY KEY (gpu, node)) WITHOUT ROWID""",
)

MIGRATIONS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("first Merkle log", FIRST),
    ("workloads", WORKLOADS),
    ("claims by serial", LOOKUPS),
    ("leases and schedulers", GIVEN),
    ("retention", RETENTION),
)
"""(name, statements) in order; each is applied in one transaction."""

DERIVED = (
    "reading",
    "node",
    "claim",
    "logged_claim",
    "seen",
    "roster",
    "declaration",
    "finding",
    "dirty",
    "label",
    "lease",
    "watched",
    "seen_fact",
)
"""What the log can restore, in an order in which it may be emptied."""

FROM_HOURS = ("sign", "member", "workload", "remark")
"""What is made with the ledger's hours, and so again only while none of these is final."""

_META = (
    "log_size",
    "log_root",
    "origin",
    "clock_ms",
    "roster_declared",
    "simulated",
    "leases_from_ms",
    "configuration",
    "final_ms",
    "pruned_readings",
    "pruned_workloads",
)
REINDEX = (
    *(f"DELETE FROM {table}" for table in DERIVED),  # noqa: S608 - names from our own list
    *(f"DELETE FROM meta WHERE key = '{key}'" for key in _META),  # noqa: S608 - as above
)
"""Empties the index, so that it is read again from the log. What a migration ends with if only the log can fill it."""
