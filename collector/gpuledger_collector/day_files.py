# SPDX-License-Identifier: Apache-2.0
"""A day of a table as a Parquet file, written anew with other rows for some of its hours.

Hours follow each other in a file, and are read and written one by one, so that the day of a large fleet, which has
millions of rows, takes the memory of an hour.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from gpuledger.cells import DAY_MS, floor_to

GROUP_ROWS_MIN = 50_000
"""Hours with fewer rows share a row group: each costs some kilobytes of its own."""
DIGESTS = "gpuledger_digests"
"""Where a file's metadata have the digests of its hours, as a JSON object."""
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
    digests: dict[int, str] = {}
    with pq.ParquetWriter(path, rows.schema, compression="zstd") as writer:
        for group in _grouped(_by_hour(before, rows, hours, digests), rows.schema):
            writer.write_table(group)
        writer.add_key_value_metadata({DIGESTS: json.dumps(digests)})


def hour_digests(file: Any, *, from_rows: bool = False, without: Collection[str] = ()) -> dict[int, str]:
    """Return the digest of each hour's rows in a ParquetFile: as noted when they were written, or worked out anew.

    Worked out anew, it may be `without` some columns.
    """
    noted = (file.metadata.metadata or {}).get(DIGESTS.encode("ascii"))
    if noted is not None and not from_rows:
        return {int(hour_ms): str(digest) for hour_ms, digest in json.loads(noted).items()}
    places = _places(file)
    names = [name for name in file.schema_arrow.names if name not in without]
    return {hour_ms: digest_of(_rows_at(file, places[hour_ms], hour_ms).select(names)) for hour_ms in sorted(places)}


def digest_of(rows: Any) -> str:
    """Return SHA-256 of the rows of one hour, in hexadecimal.

    Column by column in order of name, those without any value left out: the name and a zero byte; a byte for each row,
    1 where there is a value; the values, 0 or the empty text where there is none, integers in 8 bytes, little endian,
    texts as their lengths in bytes, such integers, and all their UTF-8 one after the other.
    """
    hashed = hashlib.sha256()
    for name in sorted(rows.schema.names):
        column = pa.concat_arrays([pa.nulls(0, rows.schema.field(name).type), *rows[name].chunks])
        if column.null_count == len(column):
            continue
        hashed.update(name.encode("ascii") + b"\0" + _bytes_of(column.is_valid(), pa.uint8(), 1))
        if pa.types.is_string(column.type):
            texts = column.fill_null("").cast(pa.binary())
            hashed.update(_bytes_of(pc.binary_length(texts), pa.int64(), 8))
            hashed.update(b"".join(texts.to_pylist()))
        else:
            numbers = column.cast(pa.int64()) if pa.types.is_boolean(column.type) else column
            hashed.update(_bytes_of(numbers.fill_null(0), pa.int64(), 8))
    return hashed.hexdigest()


def _bytes_of(column: Any, kind: Any, width: int) -> bytes:
    """Return the values of a column without nulls, one after the other; as little endian, which all we run on is."""
    numbers = column.cast(kind)
    start = numbers.offset * width
    return bytes(numbers.buffers()[1])[start : start + len(numbers) * width]


def _by_hour(before: Any | None, rows: Any, hours: Collection[int], digests: dict[int, str]) -> Iterator[Any]:
    """Yield the rows of each hour, in order of time, and note their digests."""
    fresh = _slices(rows)
    old = {} if before is None else {hour: at for hour, at in _places(before).items() if hour not in hours}
    noted = {} if before is None or not old else hour_digests(before)
    for hour_ms in sorted({*fresh, *old}):
        if hour_ms in old:
            found = _rows_at(before, old[hour_ms], hour_ms).cast(rows.schema)
            digests[hour_ms] = noted[hour_ms]
        else:
            found = fresh[hour_ms]
            digests[hour_ms] = digest_of(found)
        yield found


def _slices(rows: Any) -> dict[int, Any]:
    """Return the rows of each hour, of a Table that has them in order of time."""
    found, start = dict[int, Any](), 0
    for counted in rows["hour_ms"].value_counts().to_pylist():
        found[counted["values"]] = rows.slice(start, counted["counts"])
        start += counted["counts"]
    return found


def _rows_at(file: Any, groups: Sequence[int], hour_ms: int) -> Any:
    return pa.concat_tables([_of_hour(file.read_row_group(number), hour_ms) for number in groups])


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
