# SPDX-License-Identifier: Apache-2.0
"""What reports ask of many nodes and GPUs at once, as SQL over the ledger's rows, and its answers as figures.

A hundred thousand GPUs have seventeen million rows a week: what a report needs of them is summed where the rows are.
Each statement reads a view `rows` of the table `hours`.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from gpuledger.accounting import add
from gpuledger.cells import DAY_MS, floor_to
from gpuledger.states import IDLE, UNKNOWN, State
from gpuledger_collector.columns import ENERGY, STATES, TAGS, Record, account_of, merge_lists, tags_of
from gpuledger_collector.figures import Group
from gpuledger_collector.ledger import Finding
from gpuledger_collector.ledger_tables import SUMMED
from gpuledger_collector.node_figures import DownTime, NodeDay, NodeTime, ReportSums, Scope
from gpuledger_collector.side_tables import SIDE_TABLES
from gpuledger_collector.spare import add_tags

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
    SELECT site, pool, node, hour_ms, sum({_INSTALLED}) AS installed, sum(coalesce({_FREE}, 0)) AS free,
        sum(coalesce({_DARK}, 0)) AS dark
    FROM rows GROUP BY ALL
), spans AS (
    SELECT site, pool, node, min(hour_ms) AS first_hour_ms, max(hour_ms) AS last_hour_ms,
        min(hour_ms) FILTER (dark > 0) AS first_dark_hour_ms,
        max(hour_ms) FILTER (dark < installed) AS last_seen_hour_ms,
        max(hour_ms) FILTER (free < installed) AS last_unfree_hour_ms
    FROM hourly GROUP BY ALL
), of_gpu AS (
    SELECT site, pool, node, gpu, {", ".join(f"sum({name}) AS {name}" for name in _ADDED)} FROM rows GROUP BY ALL
), of_node AS (
    SELECT site, pool, node, count(*) AS gpus, {", ".join(f"sum({name}) AS {name}" for name in _ADDED)}
    FROM of_gpu GROUP BY ALL
)
SELECT * FROM of_node JOIN spans USING (site, pool, node) ORDER BY site, pool, node
"""  # noqa: S608 - made of our own columns' names, values are parameters

NODE_DAYS = f"""
SELECT site, node, hour_ms - hour_ms % {DAY_MS} AS day_ms, sum({_IDLE}) AS idle_slice_ms,
    sum({_UNKNOWN}) AS unknown_slice_ms, sum(coalesce({_DARK}, 0)) AS dark_slice_ms,
    sum({_INSTALLED}) AS installed_slice_ms
FROM rows GROUP BY ALL ORDER BY site, node, day_ms
"""  # noqa: S608 - as above

DOWN_GPUS = f"""
SELECT site, node, gpu, sum(coalesce({_DOWN}, 0)) AS slice_ms, sum({_INSTALLED}) AS installed_slice_ms
FROM rows WHERE (site, node, gpu) IN (SELECT DISTINCT site, node, gpu FROM rows WHERE {_DOWN} > 0)
GROUP BY ALL ORDER BY slice_ms DESC, site, node, gpu
"""  # noqa: S608 - as above


PLACE_HOURS = f"""
SELECT site, coalesce(model, '') AS model, hour_ms, count(*) AS gpus,
    {", ".join(f"sum({name}) AS {name}" for name in SUMMED)},
    max(memory_used_bytes_max) AS memory_used_bytes_max, list(DISTINCT intervals_ms) AS intervals_ms,
    list(DISTINCT activity_sources) AS activity_sources, bool_or(simulated) AS simulated
FROM rows GROUP BY ALL ORDER BY site, model, hour_ms
"""  # noqa: S608 - as above

GPU_COUNTS = f"""
, seen AS (
    SELECT DISTINCT site, coalesce(model, '') AS model, hour_ms - hour_ms % {DAY_MS} AS day_ms, gpu FROM rows
)
SELECT site, model, day_ms, count(DISTINCT gpu) AS gpus FROM seen
GROUP BY GROUPING SETS ((), (site), (site, model), (day_ms))
"""  # noqa: S608 - as above

Key = tuple[str | int, ...]


def place_hour(record: Mapping[str, Any]) -> Group:
    """Return a record of PLACE_HOURS."""
    return Group(
        key=(record["site"], record["model"], record["hour_ms"]),
        account=account_of(record),
        gpus=record["gpus"],
        active_known_ms=record["active_known_ms"],
        hang_suspicion_ms=record["hang_suspicion_ms"],
        memory_used_bytes_max=record["memory_used_bytes_max"],
        intervals_ms=tuple(merge_lists(record["intervals_ms"])),
        activity_sources=tuple(merge_lists(record["activity_sources"])),
        simulated=record["simulated"],
        tags=tags_of(record),
    )


def merged(groups: Iterable[Group], key_of: Callable[[Key], Key], gpus: Mapping[Key, int]) -> list[Group]:
    """Return groups added up by another key; GPUs as counted, or where they are not the sum of those of the groups."""
    found: dict[Key, list[Group]] = {}
    for group in groups:
        found.setdefault(key_of(group.key), []).append(group)
    made = []
    for key, some in sorted(found.items()):
        memory = [one.memory_used_bytes_max for one in some if one.memory_used_bytes_max is not None]
        made.append(
            Group(
                key=key,
                account=add([one.account for one in some]),
                gpus=gpus[key] if gpus else sum(one.gpus for one in some),
                active_known_ms=sum(one.active_known_ms for one in some),
                hang_suspicion_ms=sum(one.hang_suspicion_ms for one in some),
                memory_used_bytes_max=max(memory, default=None),
                intervals_ms=tuple(sorted({one for group in some for one in group.intervals_ms})),
                activity_sources=tuple(sorted({one for group in some for one in group.activity_sources})),
                simulated=any(one.simulated for one in some),
                tags=add_tags(one.tags for one in some),
            )
        )
    return made


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

    def report_sums(self, start_ms: int, end_ms: int) -> ReportSums:
        """Return the sums by place and hour, and what they sum to: rows are read once for times, once for GPUs."""
        hours = [place_hour(record) for record in self._query("hours", start_ms, end_ms, PLACE_HOURS)]
        gpus: dict[Key, int] = {}
        for record in self._query("hours", start_ms, end_ms, GPU_COUNTS):
            gpus[tuple(record[name] for name in ("site", "model", "day_ms") if record[name] is not None)] = record[
                "gpus"
            ]
        return ReportSums(
            whole=merged(hours, lambda key: (), gpus),
            places=merged(hours, lambda key: key[:2], gpus),
            sites=merged(hours, lambda key: key[:1], gpus),
            days=merged(hours, lambda key: (floor_to(int(key[2]), DAY_MS),), gpus),
            hours=merged(hours, lambda key: key[2:], {}),
            place_hours=hours,
        )

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
