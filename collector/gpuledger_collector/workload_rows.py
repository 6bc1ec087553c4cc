# SPDX-License-Identifier: Apache-2.0
"""What the store keeps of workloads: signs by hour, a row for each run, remarks, labels. The log restores all."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from gpuledger.cells import HOUR_MS
from gpuledger_collector.classify import life_bytes
from gpuledger_collector.classify.calibration import Confirmed
from gpuledger_collector.classify.declared import FACTS, Facts
from gpuledger_collector.classify.demand import KindHour
from gpuledger_collector.classify.identity import run_id
from gpuledger_collector.classify.kinds import Kind
from gpuledger_collector.classify.life import Life
from gpuledger_collector.classify.signs import HourSigns, from_bytes
from gpuledger_collector.classify.verdict import Verdict
from gpuledger_collector.indexed import Database

_COLUMNS = (
    "id, base, run, site, owner, source, first_ms, end_ms, busy_slice_ms, held_slice_ms, gpus_max, kind, lean,"
    " calibration, tags, pattern, facts, life"
)
_WIDTH = len(_COLUMNS.split(","))
_TO_JSON = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode
_CHUNK = 500
"""Values in one question."""


class Rows(Protocol):
    """Answers questions about the store's tables."""

    def rows(self, sql: str, *values: Any) -> list[tuple[Any, ...]]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadRow:
    """One run of a workload as last judged; `life` is None where it was not asked for. Times are POSIX ms."""

    id: str
    base: str
    run: int
    site: str
    owner: str | None
    source: str | None
    first_ms: int
    end_ms: int
    busy_slice_ms: int
    held_slice_ms: int
    gpus_max: int
    kind: Kind
    lean: Kind | None
    calibration: str
    tags: tuple[str, ...]
    pattern: str
    facts: Facts
    life: Life | None = None


# ---------------------------------------------------------------------------------------------- signs


def known_signs(db: Database, hours: Sequence[int]) -> dict[tuple[int, str, str], tuple[str, bytes]]:
    """Return (base, body) of the signs of these hours by (hour, node, digest)."""
    found: dict[tuple[int, str, str], tuple[str, bytes]] = {}
    for hour_ms in hours:
        for node, digest, base, body in db.execute(
            "SELECT node, digest, base, body FROM sign WHERE hour_ms = ?", (hour_ms,)
        ):
            found[hour_ms, node, digest] = base, body
    return found


def sign_row(signs: HourSigns, base: str, body: bytes) -> tuple[object, ...]:
    """Return the signs as a row, with their sums, so that those can be asked for without reading all of it."""
    busy = sum(cell.busy_slice_ms for cell in signs.cells)
    held = sum(cell.held_slice_ms for cell in signs.cells)
    gpus: dict[int, int] = {}
    for cell in signs.cells:
        gpus[cell.cell_ms] = gpus.get(cell.cell_ms, 0) + cell.gpus
    most = max(gpus.values(), default=0)
    return signs.hour_ms, signs.node, signs.workload, base, signs.site, busy, held, most, body


def put_signs(db: Database, rows: Iterable[tuple[object, ...]]) -> None:
    """Store rows that `sign_row` made."""
    db.executemany(
        "INSERT INTO sign VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (hour_ms, node, digest) DO UPDATE SET"
        " base = excluded.base, site = excluded.site, busy_slice_ms = excluded.busy_slice_ms,"
        " held_slice_ms = excluded.held_slice_ms, gpus = excluded.gpus, body = excluded.body",
        rows,
    )


def drop_signs(db: Database, keys: Iterable[tuple[int, str, str]]) -> None:
    """Forget signs by (hour, node, digest)."""
    db.executemany("DELETE FROM sign WHERE hour_ms = ? AND node = ? AND digest = ?", keys)


def signs_of(db: Database, base: str, hour_ms: int | None = None) -> list[HourSigns]:
    """Return all signs of a workload, or those of one hour, in order."""
    where = "base = ?" if hour_ms is None else "base = ? AND hour_ms = ?"
    values = (base,) if hour_ms is None else (base, hour_ms)
    sql = f"SELECT hour_ms, node, digest, body FROM sign WHERE {where} ORDER BY hour_ms, node, digest"  # noqa: S608 - ours
    return [from_bytes(*row) for row in db.execute(sql, values)]


def member(db: Database, node: str, digest: str) -> str | None:
    """Return which workload a digest at a node was taken for last."""
    for (base,) in db.execute("SELECT base FROM member WHERE node = ? AND digest = ?", (node, digest)):
        return str(base)
    return None


def put_member(db: Database, node: str, digest: str, base: str, old_base: str | None) -> None:
    """Note which workload a digest at a node belongs to, and move what was known of it there."""
    db.execute("INSERT OR REPLACE INTO member VALUES (?, ?, ?)", (node, digest, base))
    if old_base is not None:
        sql = "UPDATE sign SET base = ? WHERE base = ? AND node = ? AND digest = ?"
        db.execute(sql, (base, old_base, node, digest))


# ---------------------------------------------------------------------------------------------- runs


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """One run with its verdict, to be stored."""

    base: str
    run: int
    life: Life
    verdict: Verdict
    facts: Facts


def put_runs(db: Database, judged: Sequence[Judged]) -> None:
    """Store runs with their verdicts, and what verdicts remark as findings of the time when the run began."""
    # Not REPLACE: that would write every index anew.
    sets = ", ".join(f"{name} = excluded.{name}" for name in _COLUMNS.split(", ")[1:])
    marks = ", ".join("?" * _WIDTH)
    sql = f"INSERT INTO workload ({_COLUMNS}) VALUES ({marks}) ON CONFLICT (id) DO UPDATE SET {sets}"  # noqa: S608 - ours
    db.executemany(sql, map(_run_row, judged))
    remarked = {name for (name,) in db.execute("SELECT DISTINCT workload FROM remark")}
    names = [run_id(one.base, one.run) for one in judged]
    db.executemany("DELETE FROM remark WHERE workload = ?", [(name,) for name in names if name in remarked])
    db.executemany(
        "INSERT OR REPLACE INTO remark VALUES (?, ?, ?, ?)",
        [
            (name, kind, one.life.first_ms, text)
            for name, one in zip(names, judged, strict=True)
            for kind, text in one.verdict.remarks
        ],
    )


def _run_row(one: Judged) -> tuple[object, ...]:
    life, verdict = one.life, one.verdict
    return (
        run_id(one.base, one.run),
        one.base,
        one.run,
        life.site,
        life.user,
        life.source,
        life.first_ms,
        life.end_ms,
        life.sums.busy,
        life.sums.held,
        life.gpus_max,
        verdict.kind.value,
        None if verdict.lean is None else verdict.lean.value,
        verdict.calibration,
        " ".join(verdict.tags),
        verdict.pattern,
        _facts_text(one.facts),
        life_bytes.to_bytes(life),
    )


def _facts_text(facts: Facts) -> str:
    return _TO_JSON({name: text for name in FACTS if (text := getattr(facts, name)) is not None})


def drop_runs(db: Database, base: str) -> None:
    """Forget all runs of a workload."""
    db.execute("DELETE FROM remark WHERE workload IN (SELECT id FROM workload WHERE base = ?)", (base,))
    db.execute("DELETE FROM workload WHERE base = ?", (base,))


def last_run(db: Database, base: str) -> tuple[int, Life, Facts] | None:
    """Return the number, the life and the facts of a workload's last run, ready to go on."""
    sql = "SELECT run, life, facts FROM workload WHERE base = ? ORDER BY run DESC LIMIT 1"
    for run, data, facts in db.execute(sql, (base,)):
        life = life_bytes.from_bytes(data, lambda hour_ms: signs_of(db, base, hour_ms))
        return int(run), life, Facts(**json.loads(facts))
    return None


def known_facts(db: Database, base: str) -> Facts | None:
    """Return what is known of a workload already."""
    for (facts,) in db.execute("SELECT facts FROM workload WHERE base = ? ORDER BY run DESC LIMIT 1", (base,)):
        return Facts(**json.loads(facts))
    return None


def _no_signs(hour_ms: int) -> list[HourSigns]:
    """Return nothing: who only judges a life needs no cells of it."""
    del hour_ms
    return []


def runs(store: Rows, clause: str, *values: Any, with_life: bool = False) -> list[WorkloadRow]:
    """Return the runs that a clause (ours) chooses."""
    columns = _COLUMNS if with_life else _COLUMNS.removesuffix(", life")
    found = []
    for row in store.rows(f"SELECT {columns} FROM workload {clause}", *values):  # noqa: S608 - columns and clauses are ours
        fields = dict(zip(columns.split(", "), row, strict=True))
        life = fields.pop("life", None)
        fields["kind"] = Kind(fields["kind"])
        fields["lean"] = None if fields["lean"] is None else Kind(fields["lean"])
        fields["tags"] = tuple(fields["tags"].split())
        fields["facts"] = Facts(**json.loads(fields["facts"]))
        found.append(WorkloadRow(**fields, life=None if life is None else life_bytes.from_bytes(life, _no_signs)))
    return found


# ---------------------------------------------------------------------------------------------- labels


def labels(store: Rows) -> dict[str, Kind]:
    """Return the labels that stand, by workload."""
    sql = "SELECT workload, kind FROM label WHERE id IN (SELECT MAX(id) FROM label GROUP BY workload)"
    return {workload: Kind(kind) for workload, kind in store.rows(sql) if kind is not None}


def label_history(store: Rows, workload: str) -> list[tuple[int, Kind | None]]:
    """Return when a workload was labelled as what (None: the label was taken away), oldest first."""
    rows = store.rows("SELECT at_ms, kind FROM label WHERE workload = ? ORDER BY id", workload)
    return [(at_ms, None if kind is None else Kind(kind)) for at_ms, kind in rows]


def confirmed(store: Rows, standing: Mapping[str, Kind], names: Mapping[str, str]) -> list[Confirmed]:
    """Return the labelled workloads with their evidence; owners go by their names where these are open."""
    found = []
    ids = sorted(standing)
    for first in range(0, len(ids), _CHUNK):
        some = ids[first : first + _CHUNK]
        marks = ", ".join("?" * len(some))
        sql = f"SELECT id, site, pattern, owner FROM workload WHERE id IN ({marks})"  # noqa: S608 - question marks only
        for workload, site, pattern, owner in store.rows(sql, *some):
            name = None if owner is None else names.get(owner, owner)
            found.append(Confirmed(site=site, pattern=pattern, owner=name, kind=standing[workload]))
    return found


def owners(store: Rows, ids: Iterable[str]) -> set[str]:
    """Return the digests of the owners of these runs."""
    found: set[str] = set()
    wanted = sorted(ids)
    for first in range(0, len(wanted), _CHUNK):
        some = wanted[first : first + _CHUNK]
        marks = ", ".join("?" * len(some))
        sql = f"SELECT DISTINCT owner FROM workload WHERE owner IS NOT NULL AND id IN ({marks})"  # noqa: S608 - as above
        found |= {owner for (owner,) in store.rows(sql, *some)}
    return found


# ---------------------------------------------------------------------------------------------- kinds


def kind_hours(store: Rows, sizes: Mapping[str, int], start_ms: int, end_ms: int) -> list[KindHour]:
    """Return busy and held time by hour, site and kind as verdicts stand now; `sizes` are GPUs by node.

    An hour in which two runs of a job were at one node belongs to the later one.
    """
    sql = (
        "SELECT hour_ms, site, node, kind, busy_slice_ms, held_slice_ms, gpus FROM ("
        " SELECT sign.hour_ms, sign.node, sign.site, sign.busy_slice_ms, sign.held_slice_ms, sign.gpus,"
        " workload.kind, MAX(workload.run) FROM sign JOIN workload USING (base)"
        " WHERE hour_ms >= ? AND hour_ms < ? AND first_ms < hour_ms + ? AND end_ms > hour_ms"
        " GROUP BY sign.hour_ms, sign.node, sign.digest)"
    )
    sums: dict[tuple[int, str, Kind], list[int]] = {}
    for hour_ms, site, node, kind, busy, held, gpus in store.rows(sql, start_ms, end_ms, HOUR_MS):
        found = sums.setdefault((hour_ms, site, Kind(kind)), [0, 0, 0])
        found[0] += busy
        found[1] += held
        if gpus >= sizes.get(node, gpus + 1):
            found[2] += busy + held
    return [
        KindHour(hour_ms=hour_ms, site=site, kind=kind, busy_slice_ms=busy, held_slice_ms=held, whole_slice_ms=whole)
        for (hour_ms, site, kind), (busy, held, whole) in sorted(sums.items())
    ]


def live_kinds(store: Rows, since_ms: int) -> dict[tuple[str, str], Kind]:
    """Return the kind of each digest, by node, of workloads that ran since; of a job's runs the last one counts."""
    sql = "SELECT node, digest, kind FROM workload JOIN member USING (base) WHERE end_ms > ? ORDER BY run"
    return {(node, digest): Kind(kind) for node, digest, kind in store.rows(sql, since_ms)}
