# SPDX-License-Identifier: Apache-2.0
"""What reports ask of many nodes and GPUs at once, as SQL over the ledger's rows, and its answers as figures.

A hundred thousand GPUs have seventeen million rows a week: what a report needs of them is summed where the rows are.
Each statement reads a view `rows` of the table `hours`.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from gpuledger.cells import DAY_MS
from gpuledger.states import IDLE, UNKNOWN, State
from gpuledger_collector.columns import ENERGY, STATES, TAGS, Record, tags_of
from gpuledger_collector.ledger import Finding
from gpuledger_collector.node_figures import DownTime, NodeDay, NodeTime, Scope
from gpuledger_collector.side_tables import SIDE_TABLES

_DARK, _FREE, _DOWN = f"state_{State.DARK}", f"state_{State.FREE}", f"state_{State.DOWN}"


def _sum(names: list[str]) -> str:
    return " + ".join(f"coalesce({name}, 0)" for name in names)


_INSTALLED = _sum(list(STATES))
_IDLE = _sum([f"state_{state}" for state in State if state in IDLE])
_UNKNOWN = _sum([f"state_{state}" for state in State if state in UNKNOWN])
_ADDED = (*STATES, *ENERGY, *TAGS)
DIGEST_ROWS_MAX = 200_000
"""A week of twelve hundred GPUs; a row takes a digest some 20 microseconds."""
_OF_NODES = {"holders", "allotments", "unschedulable"}
_OF_FLEETS = {"queues", "clusters"}

NODE_TIMES = f"""
, hourly AS (
    SELECT site, pool, node, hour_ms, {", ".join(f"sum({name}) AS {name}" for name in _ADDED)},
        sum({_INSTALLED}) AS installed, sum(coalesce({_FREE}, 0)) AS free, sum(coalesce({_DARK}, 0)) AS dark
    FROM rows GROUP BY ALL
), counted AS (SELECT site, pool, node, count(DISTINCT gpu) AS gpus FROM rows GROUP BY ALL)
SELECT site, pool, node, any_value(gpus) AS gpus, min(hour_ms) AS first_hour_ms, max(hour_ms) AS last_hour_ms,
    min(hour_ms) FILTER (dark > 0) AS first_dark_hour_ms, max(hour_ms) FILTER (dark < installed) AS last_seen_hour_ms,
    max(hour_ms) FILTER (free < installed) AS last_unfree_hour_ms,
    {", ".join(f"sum({name}) AS {name}" for name in _ADDED)}
FROM hourly JOIN counted USING (site, pool, node) GROUP BY site, pool, node ORDER BY site, pool, node
"""  # noqa: S608 - made of our own columns' names, values are parameters

NODE_DAYS = f"""
SELECT site, node, hour_ms - hour_ms % {DAY_MS} AS day_ms, sum({_IDLE}) AS idle_slice_ms,
    sum({_UNKNOWN}) AS unknown_slice_ms, sum(coalesce({_DARK}, 0)) AS dark_slice_ms,
    sum({_INSTALLED}) AS installed_slice_ms
FROM rows GROUP BY ALL ORDER BY site, node, day_ms
"""  # noqa: S608 - as above

DOWN_GPUS = f"""
SELECT site, node, gpu, sum(coalesce({_DOWN}, 0)) AS slice_ms, sum({_INSTALLED}) AS installed_slice_ms
FROM rows GROUP BY ALL HAVING slice_ms > 0 ORDER BY slice_ms DESC, site, node, gpu
"""  # noqa: S608 - as above


def node_time(record: Mapping[str, Any]) -> NodeTime:
    """Return a record of NODE_TIMES; states without a value had no time."""
    names = ("site", "pool", "node", "gpus", "first_hour_ms", "last_hour_ms", "first_dark_hour_ms")
    return NodeTime(
        **{name: record[name] for name in (*names, "last_seen_hour_ms", "last_unfree_hour_ms")},
        state_slice_ms={state: record[name] for name, state in STATES.items() if record[name] is not None},
        energy_mj={key: record[name] for name, key in ENERGY.items() if record[name] is not None},
        tags=tags_of(record),
    )


class NodeAnswers(ABC):
    """Answers what is asked of nodes, for whoever can run a statement over the rows."""

    @abstractmethod
    def _query(self, table: str, start_ms: int, end_ms: int, sql: str) -> list[Record]: ...

    @abstractmethod
    def _paths(self, table: str, start_ms: int, end_ms: int) -> list[Path]: ...

    @abstractmethod
    def digest(self, start_ms: int, end_ms: int) -> str: ...

    def rows_version(self, start_ms: int, end_ms: int) -> str:
        """Return a text that changes when any file of [start_ms, end_ms) does, without reading one."""
        stats = [(path.name, path.parent.name, path.stat()) for path in self._files(start_ms, end_ms)]
        return repr([(name, table, stat.st_ino, stat.st_size, stat.st_mtime_ns) for name, table, stat in stats])

    def report_digest(self, start_ms: int, end_ms: int) -> tuple[str, bool]:
        """Return a digest of what is reported, and whether it is that of the rows.

        Of more rows than can be written out in a moment it is that of the files: each one's SHA-256 and its name below
        the ledger's directory, a line each as sha256sum writes them.
        """
        counted = self._query("hours", start_ms, end_ms, "SELECT count(*) AS rows FROM rows")
        if not counted or counted[0]["rows"] <= DIGEST_ROWS_MAX:
            return self.digest(start_ms, end_ms), True
        hashed = hashlib.sha256()
        for path in self._files(start_ms, end_ms):
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            hashed.update(f"{found}  {path.parent.name}/{path.name}\n".encode())
        return hashed.hexdigest(), False

    def _files(self, start_ms: int, end_ms: int) -> list[Path]:
        tables = ("hours", "holders", *SIDE_TABLES)
        return [path for table in sorted(tables) for path in self._paths(table, start_ms, end_ms)]

    def node_times(self, start_ms: int, end_ms: int) -> list[NodeTime]:
        """Return the time of every node over [start_ms, end_ms), sorted by site, pool and node."""
        return [node_time(record) for record in self._query("hours", start_ms, end_ms, NODE_TIMES)]

    def node_days(self, start_ms: int, end_ms: int) -> list[NodeDay]:
        """Return how idle every node was on every UTC day, sorted by site, node and day."""
        return [NodeDay(**record) for record in self._query("hours", start_ms, end_ms, NODE_DAYS)]

    def down_gpus(self, start_ms: int, end_ms: int) -> list[DownTime]:
        """Return every GPU with down time over [start_ms, end_ms), the most first."""
        return [DownTime(**record) for record in self._query("hours", start_ms, end_ms, DOWN_GPUS)]

    def about(self, findings: Iterable[Finding], start_ms: int, end_ms: int) -> list[Finding]:
        """Return those findings whose subject is a node or GPU with rows."""
        records = self._query("hours", start_ms, end_ms, "SELECT DISTINCT node, gpu FROM rows")
        subjects = {record[key] for record in records for key in ("node", "gpu")}
        return [finding for finding in findings if finding.subject in subjects]


def view(table: str, hours: list[str], scope: Scope | None) -> tuple[str, dict[str, Any]]:
    """Return the common table expression `rows`, and the scope's parameters.

    Which GPUs and nodes the rows of other tables are of is told from the table `hours`, whose files are `hours`. What
    cannot be told of a part of the fleet has no rows of it: what waits for a scheduler, leases where models are asked.
    """
    inside = ["hour_ms >= $start AND hour_ms < $end"]
    condition, values = restriction(Scope() if scope is None else scope)
    parameters: dict[str, Any] = {}
    if condition and table in _OF_NODES:
        keys = "gpu, node" if table == "holders" else "node"
        found = ["SELECT DISTINCT", keys, "FROM read_parquet($hours) WHERE", *inside, "AND", condition]
        inside += ["AND (", keys, ") IN (", *found, ")"]
        parameters = {**values, "hours": hours}
    elif condition and (table in _OF_FLEETS or (table == "commerce" and not _is_of_pools(scope))):
        inside.append("AND false")
    elif condition and table != "findings":
        inside += ["AND", condition]
        parameters = {**values}
    return " ".join(["WITH rows AS (SELECT * FROM read_parquet($paths) WHERE", *inside, ") "]), parameters


def _is_of_pools(scope: Scope | None) -> bool:
    return scope is not None and not scope.models and scope.gpus is None and scope.nodes is None


def restriction(scope: Scope) -> tuple[str, dict[str, list[str]]]:
    """Return the condition that rows of `hours` of a scope fulfil, and its parameters; the empty text for all."""
    conditions: list[str] = []
    values: dict[str, list[str]] = {}
    for column, wanted in (("site", scope.sites), ("pool", scope.pools), ("coalesce(model, '')", scope.models)):
        if wanted:
            name = f"scope_{len(values)}"
            conditions.append(f"{column} IN (SELECT unnest(${name}))")
            values[name] = list(wanted)
    if scope.gpus is not None or scope.nodes is not None:
        values["scope_gpus"], values["scope_nodes"] = list(scope.gpus or ()), list(scope.nodes or ())
        conditions.append("(gpu IN (SELECT unnest($scope_gpus)) OR node IN (SELECT unnest($scope_nodes)))")
    return " AND ".join(conditions), values
