# SPDX-License-Identifier: Apache-2.0
"""A day of a table as a Parquet file, written anew with other rows for some of its hours.

Hours follow each other in a file, and are read and written one by one, so that the day of a large fleet, which has
millions of rows, takes the memory of an hour.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from gpuledger.cells import DAY_MS, floor_to

GROUP_ROWS_MIN = 50_000
"""Hours with fewer rows share a row group: each costs some kilobytes of its own."""
RECORDS_AT_ONCE = 10_000
"""As records, the rows of a large fleet take ten times what they take as columns."""


def tables_by_day(
    records: Iterable[Mapping[str, Any]], hours: Collection[int], schema: Any
) -> Iterator[tuple[int, Any]]:
    """Yield (start of a UTC day, Table) for records of the given hours; a day may come more than once."""
    waiting = iter(records)
    while some := list(itertools.islice(waiting, RECORDS_AT_ONCE)):
        by_day: dict[int, list[Mapping[str, Any]]] = {}
        for record in some:
            if record["hour_ms"] not in hours:
                raise AssertionError(f"a row of hour {record['hour_ms']}, which is not being replaced")
            by_day.setdefault(floor_to(record["hour_ms"], DAY_MS), []).append(record)
        for day_ms, found in by_day.items():
            columns = {name: [record.get(name) for record in found] for name in schema.names}
            yield day_ms, pa.Table.from_pydict(columns, schema)


def write_day(path: Path, before: Any | None, rows: Any, hours: Collection[int]) -> None:
    """Write to `path` the day `before` (a ParquetFile, None without one) with `rows` in the place of those of `hours`.

    `rows` (a Table, with the schema that the file gets) are in canonical order, as those in the file are.
    """
    with pq.ParquetWriter(path, rows.schema, compression="zstd") as writer:
        for group in _grouped(_by_hour(before, rows, hours), rows.schema):
            writer.write_table(group)


def _by_hour(before: Any | None, rows: Any, hours: Collection[int]) -> Iterator[Any]:
    """Yield the rows of each hour, in order of time."""
    fresh = pc.unique(rows["hour_ms"]).to_pylist()
    old = {} if before is None else {hour: at for hour, at in _places(before).items() if hour not in hours}
    known: tuple[int, Any] | None = None
    for hour_ms in sorted({*fresh, *old}):
        if hour_ms not in old:
            yield _of_hour(rows, hour_ms)
            continue
        for number in old[hour_ms]:
            if known is None or known[0] != number:
                known = number, before.read_row_group(number) if before is not None else None
            yield _of_hour(known[1], hour_ms).cast(rows.schema)


def _of_hour(table: Any, hour_ms: int) -> Any:
    return table.filter(pc.equal(table["hour_ms"], hour_ms))


def _places(file: Any) -> dict[int, list[int]]:
    """Return which row groups have the rows of an hour."""
    found: dict[int, list[int]] = {}
    for number in range(file.num_row_groups):
        for hour_ms in pc.unique(file.read_row_group(number, columns=["hour_ms"])["hour_ms"]).to_pylist():
            found.setdefault(hour_ms, []).append(number)
    return found


def _grouped(hours: Iterator[Any], schema: Any) -> Iterator[Any]:
    """Yield what is to be a row group each; one without rows where there are none at all."""
    waiting: Sequence[Any] = [schema.empty_table()]
    is_any = False
    for rows in hours:
        waiting = [*waiting, rows]
        if sum(map(len, waiting)) >= GROUP_ROWS_MIN:
            yield pa.concat_tables(waiting)
            waiting, is_any = [schema.empty_table()], True
    if len(waiting) > 1 or not is_any:
        yield pa.concat_tables(waiting)
