# SPDX-License-Identifier: Apache-2.0
"""Tables beside the hours: their sums are those of the rows, names are opened, and older columns are made anew."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuledger.cells import DAY_MS, HOUR_MS, floor_to
from gpuledger.errors import StorageError
from gpuledger_collector.ledger import Ledger, build
from gpuledger_collector.ledger_files import LedgerFiles, open_reader
from gpuledger_collector.roster_change import Bridge
from tests.fakes.fleets import Fleet, fleets
from tests.fakes.readings import MONDAY_MS
from tests.fakes.side_rows import SideRows
from tests.fakes.stores import restore
from tests.fakes.surroundings import lease_book, scheduling
from tests.profiles import examples
from tests.unit.collector.test_ledger_files import Annotations

SEEDS = st.integers(0, 2**32 - 1)
NAMES = {"acme": "Acme GmbH", "job-0": "train.py", "someone": "alice", "lab": "physics"}


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterable[Path]:
    root = tmp_path_factory.mktemp("sides")
    return (root / str(number) for number in itertools.count())


def write(directory: Path, ledger: Ledger, start_ms: int, end_ms: int) -> LedgerFiles:
    files = LedgerFiles(directory, Annotations(NAMES))
    files.write_hours(ledger, range(floor_to(start_ms, HOUR_MS), end_ms, HOUR_MS))
    files.write_extent(start_ms, end_ms)
    return files


def unordered(found: Iterable[Any]) -> list[str]:
    return sorted(map(repr, found))


@examples(0.3)
@given(fleet=fleets(), seed=SEEDS)
def test_sums_over_any_hours_are_those_of_the_rows(places: Iterable[Path], fleet: Fleet, seed: int) -> None:
    ledger = build(
        fleet.readings,
        fleet.roster,
        fleet.start_ms,
        fleet.end_ms,
        leases=lease_book(fleet, seed),
        scheduling=scheduling(fleet, seed + 1),
    )
    files = write(next(iter(places)), ledger, fleet.start_ms, fleet.end_ms)
    expected = SideRows(ledger.commerce, ledger.allotted, openings=NAMES)
    for start_ms in (0, floor_to(fleet.end_ms - 1, HOUR_MS)):
        span = start_ms, fleet.end_ms
        assert files.commerce(*span) == expected.commerce(*span)
        assert unordered(files.allotments(*span)) == unordered(expected.allotments(*span))
        assert unordered(files.not_schedulable(*span)) == unordered(expected.not_schedulable(*span))
        assert unordered(files.queues(*span)) == unordered(expected.queues(*span))
        assert unordered(files.clusters(*span)) == unordered(expected.clusters(*span))
        installed = sum(row.account.installed_slice_ms for row in ledger.hours if row.hour_ms >= start_ms)
        assert sum(share.slice_ms for share in files.commerce(*span)) == installed


def test_the_bridge_is_that_of_the_roster_in_force(tmp_path: Path) -> None:
    files = LedgerFiles(tmp_path, Annotations())
    assert files.bridge(MONDAY_MS - DAY_MS, MONDAY_MS) == Bridge(opening=0, added=1, retired=0, closing=1)


def test_a_report_from_a_ledger_with_older_columns_says_what_to_do(tmp_path: Path) -> None:
    restore("columns-2", tmp_path / "state")
    reader = open_reader(tmp_path / "state")
    extent = reader.extent()
    assert extent is not None
    with pytest.raises(StorageError, match=r"ledger: has columns of an earlier version: .* ledger rebuild"):
        reader.sum_by((), *extent)
