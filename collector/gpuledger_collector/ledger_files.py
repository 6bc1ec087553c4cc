# SPDX-License-Identifier: Apache-2.0
"""The ledger on disk: the only door to Parquet and DuckDB.

`hours/`, `holders/`, `findings/` and the directories of `side_tables` hold one Parquet file per UTC day, `extent.json`
the span of cells accounted for and the version of the columns; files of an older version are made anew from the log.
Files are replaced whole by rename, so a reader sees an old or a new day, never half of one, and never waits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol, TypeVar

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from gpuledger.cells import DAY_MS, HOUR_MS, floor_to
from gpuledger.errors import StorageError
from gpuledger_collector import columns, questions
from gpuledger_collector.columns import ColumnKind, Record
from gpuledger_collector.day_files import hour_digests, tables_by_day, write_day
from gpuledger_collector.extent import EXTENT, Extent, legible_extent, read_extent
from gpuledger_collector.figures import (
    Allotted,
    ClusterSum,
    CommerceSum,
    GpuAccounts,
    Group,
    Holding,
    Key,
    NotSchedulable,
    QueueSum,
)
from gpuledger_collector.gpu_columns import NAMES, GpuColumns
from gpuledger_collector.ledger import Finding, HolderRow, HourRow, Ledger
from gpuledger_collector.ledger_tables import ORDER, SUMMED, TABLES
from gpuledger_collector.node_figures import Scope
from gpuledger_collector.roster import Roster
from gpuledger_collector.roster_change import Bridge, bridge
from gpuledger_collector.side_tables import (
    NAMED,
    SIDE_TABLES,
    Names,
    allotted,
    cluster_sum,
    commerce_sum,
    not_schedulable,
    queue_sum,
    side_records,
)
from gpuledger_collector.store import Store
from gpuledger_collector.table_files import (
    open_table,
    read_table,
    renew_columns,
    replace_file,
    replace_text,
    version_of,
)

_TYPES: dict[ColumnKind, Any] = {"integer": pa.int64(), "text": pa.string(), "flag": pa.bool_()}
_SCHEMAS = {
    table: pa.schema(
        [(name, _TYPES[kind]) for name, kind in kinds.items()],
        metadata={"gpuledger_table": table, "gpuledger_schema": str(columns.SCHEMA)},
    )
    for table, kinds in TABLES.items()
}
_KEY_SQL: dict[Key, str] = {
    "model": "coalesce(model, '')",
    "day_ms": f"hour_ms - hour_ms % {DAY_MS}",
}
HOUR_TABLES = tuple(table for table in TABLES if table != "findings")
DIRECTORY = "ledger"
"""Where the ledger lies below the state directory."""
_OUTDATED = "the collector makes them anew when it starts (gpuledger ledger rebuild does, too)"
_Taken = TypeVar("_Taken")
_ROWS_AT_ONCE = 10_000
_ATTEMPTS = 3
"""A day may be replaced between a query's plan and its reading: it is asked again."""


class Annotations(Protocol):
    """What stands beside the rows and is kept elsewhere."""

    def names(self, digests: Iterable[str]) -> Mapping[str, str]: ...

    def findings(self, start_ms: int, end_ms: int) -> list[Finding]: ...

    def roster(self) -> Roster | None: ...


def open_reader(state_dir: Path) -> LedgerFiles:
    """Return the ledger of a collector's state directory, read beside it; raises StorageError if there is none."""
    return LedgerFiles(state_dir / DIRECTORY, Store(state_dir, read_only=True))


class LedgerFiles(questions.NodeAnswers):
    """Reads (as figures.LedgerReader) and writes the ledger's files; one process writes, any number read."""

    def __init__(self, directory: Path, annotations: Annotations, scope: Scope | None = None) -> None:
        self._directory = directory
        self._annotations = annotations
        self._scope = scope

    # ------------------------------------------------------------------------------------------ writing

    def write_hours(self, ledger: Ledger, hours: Collection[int]) -> None:
        """Replace all rows and findings of the given hours (POSIX ms of their starts) with those of `ledger`.

        Raises StorageError where the disk refuses; days not yet written then stand as before.
        """
        sites = {(row.hour_ms, row.gpu, row.node): row.site for row in ledger.hours}
        records: dict[str, Iterator[Record]] = {
            "hours": (columns.hour_record(row) for row in ledger.hours),
            "holders": (columns.holder_record(row, sites[row.hour_ms, row.gpu, row.node]) for row in ledger.holders),
            "findings": (columns.finding_record(found, floor_to(found.at_ms, HOUR_MS)) for found in ledger.findings),
            **{name: iter(rows) for name, rows in side_records(ledger).items()},
        }
        replaced = set(hours)
        for table, found in records.items():
            by_day: dict[int, list[Any]] = {floor_to(hour_ms, DAY_MS): [] for hour_ms in sorted(replaced)}
            for day_ms, part in tables_by_day(found, replaced, _SCHEMAS[table]):
                by_day[day_ms].append(part)
            for day_ms, parts in by_day.items():
                self._replace_rows(table, day_ms, replaced, parts)

    def write_extent(self, start_ms: int, end_ms: int, *, floor_ms: int | None = None) -> None:
        """Note which span of cells the rows account for, and before when none is kept (None: as noted before)."""
        found = self._extent()
        floor_ms = max((one for one in (floor_ms, None if found is None else found.floor_ms) if one), default=None)
        extent = Extent(schema=columns.SCHEMA, start_ms=start_ms, end_ms=end_ms, floor_ms=floor_ms)
        replace_text(self._directory / EXTENT, extent.text())

    def clear(self, from_ms: int = 0) -> None:
        """Remove every row of the days from `from_ms` (midnight) on, and shorten the extent first.

        Rows of before are brought to the columns of this version: nothing else makes them anew.
        """
        found = legible_extent(self._directory / EXTENT, columns.SCHEMA)
        is_kept = found is not None and found.start_ms < from_ms
        if found is not None and is_kept:
            for table in TABLES:
                for path in self.files_before(from_ms, [table]):
                    renew_columns(path, _SCHEMAS[table], columns.added_since)
            self.write_extent(found.start_ms, min(found.end_ms, from_ms))
        else:
            self._remove([self._directory / EXTENT])
        self._remove([path for table in TABLES for path in self._paths(table, from_ms if is_kept else 0, 2**62)])

    def drop(self, before_ms: int, tables: Collection[str]) -> None:
        """Remove the days before `before_ms` (midnight) from tables; the extent first, where these are the hours."""
        found = self._extent()
        if "hours" in tables and found is not None:
            end_ms = max(found.end_ms, before_ms)
            self.write_extent(max(found.start_ms, before_ms), end_ms, floor_ms=before_ms)
        self._remove(self.files_before(before_ms, tables))

    def _remove(self, paths: Iterable[Path]) -> None:
        try:
            for path in paths:
                path.unlink(missing_ok=True)
        except OSError as exc:
            raise StorageError(f"{self._directory}: cannot be cleared: {exc.strerror}") from exc

    def files_before(self, before_ms: int, tables: Collection[str]) -> list[Path]:
        """Return the files of the days before `before_ms` (midnight)."""
        return [path for table in tables for path in self._paths(table, 0, before_ms) if _day_of(path) < before_ms]

    def _replace_rows(self, table: str, day_ms: int, hours: Collection[int], parts: Sequence[Any]) -> None:
        path = self._path(table, day_ms)
        if not path.exists() and not parts:
            return
        before = self._checked(path, open_table) if path.exists() else None
        rows = pa.concat_tables([_SCHEMAS[table].empty_table(), *parts])
        rows = rows.sort_by([(name, "ascending") for name in ORDER[table]])
        replace_file(path, lambda beside: write_day(beside, before, rows, hours))

    # ------------------------------------------------------------------------------------------ reading

    def extent(self) -> tuple[int, int] | None:
        """Return the span of whole cells that the ledger accounts for, or None while it is empty."""
        found = self._extent()
        return None if found is None else (found.start_ms, found.end_ms)

    def extent_if_legible(self) -> tuple[int, int] | None:
        """Return the extent; None where it is damaged, too."""
        found = legible_extent(self._directory / EXTENT, columns.SCHEMA)
        return None if found is None else (found.start_ms, found.end_ms)

    def floor_ms(self) -> int | None:
        """Return before when no hours are kept, by the policy of retention; None where all are."""
        found = self._extent()
        return None if found is None else found.floor_ms

    def is_outdated(self) -> bool:
        """Return whether an earlier version wrote the ledger, in columns that are to be made anew."""
        found = self._extent()
        return found is not None and found.schema < columns.SCHEMA

    def _extent(self) -> Extent | None:
        return read_extent(self._directory / EXTENT, columns.SCHEMA)

    def sum_by(self, keys: Sequence[Key], start_ms: int, end_ms: int) -> list[Group]:
        """Return the sums by `keys` over [start_ms, end_ms), sorted by key; none where there are no rows."""
        positions = range(len(keys))
        selected = [f"{_KEY_SQL.get(key, key)} AS key_{position}" for position, key in enumerate(keys)]
        selected += [f"sum({name}) AS {name}" for name in SUMMED]
        selected += [
            "count(DISTINCT gpu) AS gpus",
            "max(memory_used_bytes_max) AS memory_used_bytes_max",
            "list(DISTINCT intervals_ms) AS intervals_ms",
            "list(DISTINCT activity_sources) AS activity_sources",
            "bool_or(simulated) AS simulated",
        ]
        grouped = ", ".join(str(position + 1) for position in positions)
        clauses = [
            "SELECT",
            ", ".join(selected),
            "FROM rows",
            f"GROUP BY {grouped}" if keys else "",
            "HAVING count(*) > 0",
        ]
        clauses.append(f"ORDER BY {grouped}" if keys else "")
        records = self._query("hours", start_ms, end_ms, " ".join(clauses))
        return [
            Group(
                key=tuple(record[f"key_{position}"] for position in positions),
                account=columns.account_of(record),
                gpus=record["gpus"],
                active_known_ms=record["active_known_ms"],
                hang_suspicion_ms=record["hang_suspicion_ms"],
                memory_used_bytes_max=record["memory_used_bytes_max"],
                intervals_ms=tuple(columns.merge_lists(record["intervals_ms"])),
                activity_sources=tuple(columns.merge_lists(record["activity_sources"])),
                simulated=record["simulated"],
                tags=columns.tags_of(record),
            )
            for record in records
        ]

    def gpu_accounts(self, start_ms: int, end_ms: int) -> GpuAccounts:
        """Return each GPU's time over [start_ms, end_ms)."""
        clauses = ["SELECT gpu", *(f"sum({name})::BIGINT" for name in NAMES)]
        sql = f"{', '.join(clauses)} FROM rows GROUP BY gpu"
        return self._ask("hours", start_ms, end_ms, sql, lambda answer: GpuColumns(_rows_of(answer))) or GpuColumns()

    def within(self, scope: Scope) -> LedgerFiles:
        return LedgerFiles(self._directory, self._annotations, scope)

    def holdings(self, start_ms: int, end_ms: int) -> list[Holding]:
        """Return every workload's time over [start_ms, end_ms), largest held time first."""
        records = self._query(
            "holders",
            start_ms,
            end_ms,
            'SELECT node, site, workload, "user", count(DISTINCT gpu) AS gpus, sum(busy_slice_ms) AS busy_slice_ms,'
            " sum(held_slice_ms) AS held_slice_ms, max(memory_bytes_max) AS memory_bytes_max,"
            " min(hour_ms) AS first_hour_ms, max(hour_ms) AS last_hour_ms FROM rows"
            ' GROUP BY node, site, workload, "user"'
            ' ORDER BY held_slice_ms DESC, busy_slice_ms DESC, node, site, workload, "user" NULLS FIRST',
        )
        digests = {record[name] for record in records for name in ("workload", "user")} - {None}
        names = self._annotations.names(digests)
        return [
            Holding(**record, workload_name=names.get(record["workload"]), user_name=names.get(record["user"]))
            for record in records
        ]

    def findings(self, start_ms: int, end_ms: int) -> list[Finding]:
        """Return what was found at intake and in the rows of [start_ms, end_ms), oldest first."""
        records = self._query("findings", start_ms, end_ms, "SELECT * FROM rows")
        found = {columns.finding_of(record) for record in records}
        found |= set(self._annotations.findings(start_ms, end_ms))
        return sorted(found if self._scope is None else self.about(found, start_ms, end_ms))

    def commerce(self, start_ms: int, end_ms: int) -> list[CommerceSum]:
        """Return installed time by kind, lease, pool and site."""
        records, names = self._summed("commerce", start_ms, end_ms)
        return [commerce_sum(record, names) for record in records]

    def allotments(self, start_ms: int, end_ms: int) -> list[Allotted]:
        """Return who was given GPUs, most time without a process first."""
        records, names = self._summed("allotments", start_ms, end_ms)
        return [allotted(record, names) for record in records]

    def not_schedulable(self, start_ms: int, end_ms: int) -> list[NotSchedulable]:
        """Return which nodes took no new work, most free time first."""
        records, names = self._summed("unschedulable", start_ms, end_ms)
        return [not_schedulable(record, names) for record in records]

    def queues(self, start_ms: int, end_ms: int) -> list[QueueSum]:
        """Return what waited, most wanted GPU time first."""
        return [queue_sum(record) for record in self._summed("queues", start_ms, end_ms)[0]]

    def clusters(self, start_ms: int, end_ms: int) -> list[ClusterSum]:
        """Return every scheduler that was looked at."""
        return [cluster_sum(record) for record in self._summed("clusters", start_ms, end_ms)[0]]

    def bridge(self, start_ms: int, end_ms: int) -> Bridge | None:
        """Return what the roster says of GPUs added and retired in between."""
        roster = self._annotations.roster()
        return None if roster is None else bridge(roster.entries, start_ms, end_ms)

    def _summed(self, table: str, start_ms: int, end_ms: int) -> tuple[list[Record], Names]:
        """Return the sums of a side table, and the names that are open of those in it."""
        records = self._query(table, start_ms, end_ms, SIDE_TABLES[table].sql)
        digests = {record[column] for record in records for column in NAMED[table]} - {None}
        return records, self._annotations.names(digests)

    def rows(self, start_ms: int, end_ms: int) -> list[HourRow]:
        """Return the hourly rows of [start_ms, end_ms), in canonical order (hour, GPU, node)."""
        return [columns.hour_row(record) for record in self._records("hours", start_ms, end_ms)]

    def holder_rows(self, start_ms: int, end_ms: int) -> list[HolderRow]:
        """Return the workloads' rows of [start_ms, end_ms), in canonical order (hour, GPU, workload, user)."""
        return [columns.holder_row(record) for record in self._records("holders", start_ms, end_ms)]

    def digest(self, start_ms: int, end_ms: int, version: int | None = None, *, from_rows: bool = False) -> str:
        """Return SHA-256 over lines "TABLE HOUR DIGEST", as noted or from the rows; a `version` has its own columns."""
        hashed = hashlib.sha256()
        later = frozenset() if version is None else columns.added_since(version).keys()
        for table in ("hours", "holders", *SIDE_TABLES):
            for path in self._paths(table, start_ms, end_ms):
                file = self._checked(path, open_table)
                digests = hour_digests(file, from_rows=from_rows or version is not None, without=frozenset(later))
                inside = sorted(pair for pair in digests.items() if start_ms <= pair[0] < end_ms)
                hashed.update("".join(f"{table} {hour} {digest}\n" for hour, digest in inside).encode("ascii"))
        return hashed.hexdigest()

    def _records(self, table: str, start_ms: int, end_ms: int) -> Iterator[Record]:
        schema = _SCHEMAS[table]
        for path in self._paths(table, start_ms, end_ms):
            day = self._read(path, schema)
            is_inside = pc.and_(pc.greater_equal(day["hour_ms"], start_ms), pc.less(day["hour_ms"], end_ms))
            for batch in day.filter(is_inside).to_batches(max_chunksize=_ROWS_AT_ONCE):
                yield from batch.to_pylist()

    def _query(self, table: str, start_ms: int, end_ms: int, sql: str) -> list[Record]:
        """Run `sql` over the view `rows`: the table's rows of [start_ms, end_ms)."""
        return self._ask(table, start_ms, end_ms, sql, _records_of) or []

    def _ask(self, table: str, start_ms: int, end_ms: int, sql: str, take: Callable[[Any], _Taken]) -> _Taken | None:
        """Run `sql` and return what `take` makes of the answer; None where there are no files."""
        for attempt in range(1, _ATTEMPTS + 1):
            paths, hours = ([str(p) for p in self._paths(t, start_ms, end_ms)] for t in (table, "hours"))
            if not paths:
                return None
            try:
                with duckdb.connect(":memory:") as connection:
                    connection.execute("SET enable_progress_bar = false")
                    rows, values = questions.view(table, hours, self._scope)
                    values |= {"paths": paths, "start": start_ms, "end": end_ms}
                    return take(connection.execute(rows + sql, values))
            except duckdb.Error as exc:
                if self.is_outdated():
                    raise StorageError(f"{self._directory}: has columns of an earlier version: {_OUTDATED}") from exc
                if attempt == _ATTEMPTS or not isinstance(exc, duckdb.IOException):
                    raise StorageError(f"{self._directory / table}: cannot be read: {exc}") from exc
        raise AssertionError("unreachable")

    def _read(self, path: Path, schema: Any) -> Any:
        return self._checked(path, read_table).cast(schema)

    def _checked(self, path: Path, read: Callable[[Path], Any]) -> Any:
        """Return what `read` makes of a file, which must have this version's columns."""
        found = read(path)
        if (written := version_of(found)) != columns.SCHEMA:
            raise StorageError(
                f"{path}: has columns of version {written}, and this version writes {columns.SCHEMA}: {_OUTDATED}"
            )
        return found

    def _path(self, table: str, day_ms: int) -> Path:
        return self._directory / table / f"{datetime.fromtimestamp(day_ms / 1000, UTC):%Y-%m-%d}.parquet"

    def _paths(self, table: str, start_ms: int, end_ms: int) -> list[Path]:
        """Return the files of the days that [start_ms, end_ms) touches, oldest first."""
        found = sorted((self._directory / table).glob("????-??-??.parquet"))
        return [path for path in found if start_ms - DAY_MS < _day_of(path) < end_ms]


def _records_of(answer: Any) -> list[Record]:
    names = [column[0] for column in answer.description or ()]
    return [dict(zip(names, found, strict=True)) for found in answer.fetchall()]


def _rows_of(answer: Any) -> Iterator[Any]:
    while found := answer.fetchmany(_ROWS_AT_ONCE):
        yield from found


def _day_of(path: Path) -> int:
    return round(datetime.fromisoformat(path.stem).replace(tzinfo=UTC).timestamp()) * 1000
