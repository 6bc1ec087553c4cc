# SPDX-License-Identifier: Apache-2.0
"""A SIMULATED ledger of any size, written by DuckDB: a fleet whose nodes train, serve, stand free, fail and go dark.

Everything follows from numbers of nodes, GPUs and hours, so the same size gives the same rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from gpuledger.cells import DAY_MS
from gpuledger_collector.ledger import Finding
from gpuledger_collector.ledger_files import _SCHEMAS, LedgerFiles
from gpuledger_collector.roster import Roster

GPUS_OF_NODE = 8
MINUTE = 420_000
USERS = ("alice", "bob", "chen", "dmitri", "emre", "fatima", "王伟", "李娜")
JOBS = ("train-70b", "finetune", "vllm-chat", "notebook", "eval", "rl-rollout")
TENANTS = ("Acme GmbH", "星河智能", "Nordic Bio")

_KIND = """
SELECT node, CASE WHEN node % 20 < 8 THEN 'train' WHEN node % 20 < 13 THEN 'serve' WHEN node % 20 < 17 THEN 'free'
    WHEN node % 20 = 17 THEN 'held' WHEN node % 20 = 18 THEN 'reserved' ELSE 'mixed' END AS kind,
    ['bj1', 'fra1', 'osl1'][1 + node % 3] AS site, CASE WHEN node % 20 < 8 THEN 'train' ELSE 'serve' END AS pool,
    CASE WHEN node % 7 = 0 THEN 'SIMULATED NVIDIA H200' ELSE 'SIMULATED NVIDIA H100 80GB HBM3' END AS model
FROM (SELECT unnest(range($nodes)) AS node)
"""
_MINUTES = """
SELECT *, hour_ms // 3600000 % 24 AS clock, (hash(node * 1000 + day) % 100)::BIGINT AS dice,
    (hash(node) % 100)::BIGINT AS luck FROM kinds,
    (SELECT unnest(range($start, $end, 3600000)) AS hour_ms, $day AS day),
    (SELECT unnest(range(8)) AS gpu)
"""
_STATES = """
SELECT *, CASE
    WHEN dark THEN 0 WHEN down THEN 0 WHEN maintenance THEN 0
    WHEN kind = 'train' THEN CASE WHEN dice < 88 THEN 56 ELSE 20 END
    WHEN kind = 'serve' THEN CASE WHEN clock BETWEEN 7 AND 19 THEN 40 + luck % 12 ELSE 8 + luck % 10 END
    WHEN kind = 'mixed' THEN CASE WHEN gpu < 5 THEN 45 ELSE 0 END ELSE 0 END AS busy
FROM (SELECT *, luck BETWEEN 90 AND 92 AND day % 7 >= 4 OR luck = 50 AND clock < 3 AS dark,
    luck = 70 AND gpu = 3 AND day % 7 >= 2 AS down, luck = 33 AND day % 7 = 2 AS maintenance FROM minutes)
"""
_ROWS = f"""
SELECT hour_ms, printf('GPU-%06d-%d', node, gpu) AS gpu, NULL AS serial, model, site, site AS cluster, pool,
    printf('%s-n%05d', site, node) AS node, true AS simulated,
    busy * {MINUTE} AS state_busy,
    CASE WHEN out THEN 0 WHEN kind = 'train' THEN 60 - busy WHEN kind = 'held' THEN 60 ELSE 0 END * {MINUTE}
        AS state_held,
    CASE WHEN NOT out AND kind = 'reserved' THEN 60 * {MINUTE} ELSE 0 END AS state_reserved,
    CASE WHEN NOT out AND kind IN ('serve', 'free', 'mixed') THEN 60 - busy ELSE 0 END * {MINUTE} AS state_free,
    CASE WHEN down THEN 60 * {MINUTE} ELSE 0 END AS state_down,
    CASE WHEN maintenance THEN 60 * {MINUTE} ELSE 0 END AS state_maintenance,
    CASE WHEN dark THEN 60 * {MINUTE} ELSE 0 END AS state_dark,
    0 AS bin_0, CASE WHEN out THEN 0 WHEN kind = 'train' THEN 60 - busy WHEN kind = 'held' THEN 60 ELSE 0 END * {MINUTE}
        AS bin_1, 0 AS bin_2, 0 AS bin_3, 0 AS bin_4, 0 AS bin_5, busy * {MINUTE} AS bin_6, 0 AS bin_7,
    CASE WHEN dark THEN NULL ELSE busy * 36000000000 END AS active_ns,
    busy * 60 * 520000 AS energy_busy,
    CASE WHEN out THEN 0 WHEN kind = 'train' THEN 60 - busy WHEN kind = 'held' THEN 60 ELSE 0 END * 60 * 115000
        AS energy_held,
    CASE WHEN NOT out AND kind = 'reserved' THEN 60 ELSE 0 END * 60 * 75000 AS energy_reserved,
    CASE WHEN NOT out AND kind IN ('serve', 'free', 'mixed') THEN 60 - busy ELSE 0 END * 60 * 72000 AS energy_free,
    0 AS declared_uncovered_slice_ms, CASE WHEN dark THEN 0 ELSE 3600000 END AS active_known_ms,
    0 AS hang_suspicion_ms, '[1000]' AS intervals_ms, CASE WHEN dark THEN '[]' ELSE '["gpm"]' END AS activity_sources,
    CASE WHEN kind = 'free' AND luck = 12 AND NOT out THEN 60 * {MINUTE} ELSE 0 END AS not_schedulable_slice_ms,
    CASE WHEN kind = 'mixed' AND gpu >= 5 AND NOT out THEN 60 * {MINUTE} ELSE 0 END AS stranded_node_slice_ms,
    0 AS stranded_mig_slice_ms
FROM (SELECT *, dark OR down OR maintenance AS out FROM states)
"""
_WITH = f"WITH kinds AS ({_KIND}), minutes AS ({_MINUTES}), states AS ({_STATES}), hours AS ({_ROWS}) "
_HOLDERS = """
SELECT hour_ms, gpu, node, site, 'w' || (hash(node) % 6) AS workload, 'u' || (hash(node || 'x') % 8) AS "user",
    state_busy AS busy_slice_ms, state_held AS held_slice_ms, 68719476736 AS memory_bytes_max
FROM hours WHERE state_busy + state_held > 0
"""
_COMMERCE = """
SELECT hour_ms, site, pool, CASE WHEN site = 'osl1' THEN 'unsold' ELSE 'paid' END AS kind,
    CASE WHEN site = 'osl1' THEN NULL ELSE 'L-' || site || '-' || pool END AS lease,
    CASE WHEN site = 'osl1' THEN NULL WHEN site = 'bj1' THEN 't1' ELSE 't0' END AS tenant,
    sum(state_busy + state_held + state_reserved + state_free + state_down + state_maintenance + state_dark)::BIGINT
        AS slice_ms, sum(state_busy)::BIGINT AS low_busy, sum(state_busy)::BIGINT AS high_busy,
    sum(state_dark)::BIGINT AS low_dark, sum(state_dark)::BIGINT AS high_dark,
    sum(state_held + state_reserved)::BIGINT AS low_of_sold_idle,
    sum(state_held + state_reserved)::BIGINT AS high_of_sold_idle,
    sum(state_busy)::BIGINT AS low_of_delivered, sum(state_busy + state_dark)::BIGINT AS high_of_delivered_or_dark,
    sum(state_busy + state_dark)::BIGINT AS high_of_used_or_unknown
FROM hours GROUP BY hour_ms, site, pool
"""
_CLOSED = """
SELECT hour_ms, site AS cluster, site, node, 'drained' AS why, 'ECC errors, RMA 4711' AS reason, 'u3' AS by,
    hour_ms - hour_ms % 604800000 AS since_ms, sum(not_schedulable_slice_ms)::BIGINT AS slice_ms,
    sum(not_schedulable_slice_ms)::BIGINT AS free_slice_ms
FROM hours WHERE not_schedulable_slice_ms > 0 GROUP BY hour_ms, site, node
"""
_QUEUES = """
SELECT hour_ms, site AS cluster, 'train' AS partition, 'Resources' AS reason, 3 AS jobs_max,
    48 * 25200000 AS wanted_slice_ms FROM hours WHERE site <> 'osl1' GROUP BY hour_ms, site
"""
_CLUSTERS = """
SELECT hour_ms, site AS cluster, 3600000 AS known_ms, sum(state_free)::BIGINT AS free_slice_ms,
    48 * 25200000 AS wanted_slice_ms, least(sum(state_free), 48 * 25200000)::BIGINT AS idle_wanted_slice_ms
FROM hours WHERE site <> 'osl1' GROUP BY hour_ms, site
"""
_TABLES = {
    "hours": "SELECT * FROM hours",
    "holders": _HOLDERS,
    "commerce": _COMMERCE,
    "unschedulable": _CLOSED,
    "queues": _QUEUES,
    "clusters": _CLUSTERS,
}


class GeneratedNames:
    """Opens the names of the generated rows."""

    def names(self, digests: Iterable[str]) -> Mapping[str, str]:
        known = {f"u{index}": name for index, name in enumerate(USERS)}
        known |= {f"w{index}": name for index, name in enumerate(JOBS)}
        known |= {f"t{index}": name for index, name in enumerate(TENANTS)}
        return {digest: known[digest] for digest in digests if digest in known}

    def findings(self, start_ms: int, end_ms: int) -> list[Finding]:
        return []

    def roster(self) -> Roster | None:
        return None


def generate_ledger(directory: Path, nodes: int, start_ms: int, end_ms: int) -> LedgerFiles:
    """Write the days of [start_ms, end_ms) and return their reader."""
    for day_ms in range(start_ms, end_ms, DAY_MS):
        name = f"{datetime.fromtimestamp(day_ms / 1000, UTC):%Y-%m-%d}.parquet"
        # Days are counted from Mondays, so that weeks are alike.
        day = (day_ms // DAY_MS + 3) % 700
        with duckdb.connect(":memory:") as connection:
            values = {"nodes": nodes, "start": day_ms, "end": day_ms + DAY_MS, "day": day}
            connection.execute(f"CREATE TEMP TABLE hours AS {_WITH} SELECT * FROM hours ORDER BY hour_ms, gpu", values)
            for table, sql in _TABLES.items():
                found = connection.sql(sql).to_arrow_table()
                schema = _SCHEMAS[table]
                columns = {field.name: found[field.name] for field in schema if field.name in found.column_names}
                arrays = [
                    columns[field.name].cast(field.type) if field.name in columns else pa.nulls(len(found), field.type)
                    for field in schema
                ]
                path = directory / table / name
                path.parent.mkdir(parents=True, exist_ok=True)
                pq.write_table(pa.Table.from_arrays(arrays, schema=schema), path, compression="zstd")
    files = LedgerFiles(directory, GeneratedNames())
    files.write_extent(start_ms, end_ms)
    return files
