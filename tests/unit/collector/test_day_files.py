# SPDX-License-Identifier: Apache-2.0
"""A day's file after any replacements of hours holds what was written last of each, whatever its row groups."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpuledger_collector import day_files
from gpuledger_collector.day_files import write_day

SCHEMA = pa.schema([("hour_ms", pa.int64()), ("value", pa.int64())])
Hours = dict[int, int]
"""Rows by hour."""
steps = st.lists(st.dictionaries(st.integers(0, 5), st.integers(0, 4), min_size=1), min_size=1, max_size=5)


def replace(folder: Path, step: int, rows: Hours) -> None:
    before = pq.ParquetFile(folder / str(step - 1)) if step > 0 else None
    values = [(hour, 100 * step + number) for hour, count in sorted(rows.items()) for number in range(count)]
    table = pa.Table.from_pylist([{"hour_ms": hour, "value": value} for hour, value in values], SCHEMA)
    write_day(folder / str(step), before, table, rows.keys())


@pytest.mark.parametrize("group_rows_min", [1, 3, 1000])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(replacements=steps)
def test_each_hour_has_the_rows_that_were_written_last_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group_rows_min: int, replacements: list[Hours]
) -> None:
    monkeypatch.setattr(day_files, "GROUP_ROWS_MIN", group_rows_min)
    expected: dict[int, list[int]] = {}
    for step, rows in enumerate(replacements):
        replace(tmp_path, step, rows)
        expected |= {hour: [100 * step + number for number in range(count)] for hour, count in rows.items()}
    found = pq.ParquetFile(tmp_path / str(len(replacements) - 1))
    assert found.schema_arrow == SCHEMA
    records = found.read().to_pylist()
    assert [(record["hour_ms"], record["value"]) for record in records] == [
        (hour, value) for hour in sorted(expected) for value in expected[hour]
    ]


def test_large_hours_have_row_groups_of_their_own_and_small_ones_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(day_files, "GROUP_ROWS_MIN", 4)
    replace(tmp_path, 0, {0: 2, 1: 2, 2: 9, 3: 1})
    found = pq.ParquetFile(tmp_path / "0")
    assert [found.metadata.row_group(number).num_rows for number in range(found.num_row_groups)] == [4, 9, 1]
