# SPDX-License-Identifier: Apache-2.0
"""The ledger's files: rows come back as they went in, sums are those of the rows, the digest knows no layout."""

import itertools
import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuledger.accounting import Account, add
from gpuledger.cells import DAY_MS, HOUR_MS
from gpuledger.errors import StorageError
from gpuledger.states import ACTIVITY_EDGES_PPM, OBSERVED, State, Uncovered
from gpuledger_collector import columns
from gpuledger_collector.figures import Key
from gpuledger_collector.ledger import Finding, HolderRow, HourRow, Ledger
from gpuledger_collector.ledger_files import LedgerFiles, open_reader
from gpuledger_collector.roster import Entry, Roster
from gpuledger_collector.spare import FreeTags, add_tags
from tests.fakes.readings import MONDAY_MS, FakeNode
from tests.fakes.storage import Storage

WEEK_MS = 7 * DAY_MS


class Annotations:
    """Names and findings as the store would give them."""

    def __init__(self, names: dict[str, str] | None = None, findings: Sequence[Finding] = ()) -> None:
        self._names = names or {}
        self._findings = findings

    def names(self, digests: Iterable[str]) -> dict[str, str]:
        return {digest: self._names[digest] for digest in digests if digest in self._names}

    def findings(self, start_ms: int, end_ms: int) -> list[Finding]:
        return [found for found in self._findings if start_ms <= found.at_ms < end_ms]

    def roster(self) -> Roster:
        return Roster(entries=(Entry(gpu="GPU-1", node="n1", from_ms=MONDAY_MS),))


amounts = st.integers(min_value=0, max_value=2**62)
small = st.sampled_from(["a", "b", "", "Ä 'quoted', with \"signs\"", "z"])
accounts = st.builds(
    Account,
    state_slice_ms=st.dictionaries(st.sampled_from(list(State)), amounts, max_size=4),
    bin_slice_ms=st.tuples(*[amounts] * len(ACTIVITY_EDGES_PPM)),
    active_ns=st.none() | amounts,
    energy_mj=st.dictionaries(
        st.sampled_from([*(str(state) for state in OBSERVED), "mig", "uncovered"]), amounts, max_size=3
    ),
    declared_uncovered_slice_ms=amounts,
)
rows = st.builds(
    HourRow,
    hour_ms=st.integers(0, 60).map(lambda hour: MONDAY_MS + hour * HOUR_MS),
    gpu=st.sampled_from(["GPU-1", "GPU-2", "serial:S"]),
    serial=st.none() | small,
    model=st.none() | small,
    site=small,
    cluster=small,
    pool=small,
    node=small,
    simulated=st.booleans(),
    account=accounts,
    uncovered_slice_ms=st.dictionaries(st.sampled_from(list(Uncovered)), amounts, max_size=3),
    active_known_ms=amounts,
    memory_used_bytes_max=st.none() | amounts,
    hang_suspicion_ms=amounts,
    intervals_ms=st.lists(st.integers(1, 300_000), max_size=3, unique=True).map(sorted).map(tuple),
    activity_sources=st.lists(small, max_size=3, unique=True).map(sorted).map(tuple),
    tags=st.builds(
        FreeTags,
        not_schedulable_slice_ms=amounts,
        stranded_node_slice_ms=amounts,
        stranded_mig_slice_ms=amounts,
    ),
)
tables = st.lists(rows, max_size=8, unique_by=lambda row: (row.hour_ms, row.gpu, row.node)).map(
    lambda found: tuple(sorted(found, key=lambda row: (row.hour_ms, row.gpu, row.node)))
)


def ledger_of(hours: tuple[HourRow, ...]) -> Ledger:
    return Ledger(hours=hours, holders=(), findings=())


def all_hours(hours: Iterable[HourRow]) -> set[int]:
    return {row.hour_ms for row in hours}


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterable[Path]:
    root = tmp_path_factory.mktemp("ledgers")
    return (root / str(number) for number in itertools.count())


@given(hours=tables)
def test_rows_come_back_exactly_as_they_went_in(places: Iterable[Path], hours: tuple[HourRow, ...]) -> None:
    files = LedgerFiles(next(iter(places)), Annotations())
    files.write_hours(ledger_of(hours), all_hours(hours))
    assert files.rows(0, 2**62) == list(hours)


@given(hours=tables, keys=st.lists(st.sampled_from(Key.__args__), max_size=3, unique=True))  # type: ignore[attr-defined]
def test_sums_by_any_keys_are_those_of_the_rows(
    places: Iterable[Path], hours: tuple[HourRow, ...], keys: list[Key]
) -> None:
    files = LedgerFiles(next(iter(places)), Annotations())
    files.write_hours(ledger_of(hours), all_hours(hours))
    start_ms, end_ms = MONDAY_MS + 5 * HOUR_MS, MONDAY_MS + 50 * HOUR_MS
    expected: dict[tuple[object, ...], list[HourRow]] = {}
    for row in hours:
        if start_ms <= row.hour_ms < end_ms:
            values = {"day_ms": row.hour_ms - row.hour_ms % DAY_MS, "model": row.model or ""}
            expected.setdefault(tuple(values.get(key, getattr(row, key, None)) for key in keys), []).append(row)
    found = files.sum_by(keys, start_ms, end_ms)
    assert [group.key for group in found] == sorted(expected)
    for group in found:
        some = expected[group.key]
        memory = [row.memory_used_bytes_max for row in some if row.memory_used_bytes_max is not None]
        assert group.account == add([row.account for row in some])
        assert group.gpus == len({row.gpu for row in some})
        assert group.active_known_ms == sum(row.active_known_ms for row in some)
        assert group.hang_suspicion_ms == sum(row.hang_suspicion_ms for row in some)
        assert group.memory_used_bytes_max == (max(memory) if memory else None)
        assert group.intervals_ms == tuple(sorted({one for row in some for one in row.intervals_ms}))
        assert group.activity_sources == tuple(sorted({one for row in some for one in row.activity_sources}))
        assert group.simulated == any(row.simulated for row in some)
        assert group.tags == add_tags([row.tags for row in some])


@given(hours=tables)
def test_each_gpus_states_are_those_of_its_rows(places: Iterable[Path], hours: tuple[HourRow, ...]) -> None:
    files = LedgerFiles(next(iter(places)), Annotations())
    files.write_hours(ledger_of(hours), all_hours(hours))
    start_ms, end_ms = MONDAY_MS + 5 * HOUR_MS, MONDAY_MS + 50 * HOUR_MS
    expected: dict[str, list[Account]] = {}
    for row in hours:
        if start_ms <= row.hour_ms < end_ms:
            expected.setdefault(row.gpu, []).append(row.account)
    found = files.gpu_accounts(start_ms, end_ms).of([*{row.gpu for row in hours}, "GPU-nobody"])
    assert found.keys() == expected.keys()
    for gpu, accounts in expected.items():
        whole = add(accounts)
        assert found[gpu].state_slice_ms == whole.state_slice_ms
        assert found[gpu].declared_uncovered_slice_ms == whole.declared_uncovered_slice_ms


def test_an_empty_ledger_has_no_gpus(tmp_path: Path) -> None:
    assert LedgerFiles(tmp_path, Annotations()).gpu_accounts(0, 2**62).of(["GPU-1"]) == {}


def row(hour: int, gpu: str = "GPU-1", node: str = "n1", busy: int = 7) -> HourRow:
    return HourRow(
        hour_ms=MONDAY_MS + hour * HOUR_MS,
        gpu=gpu,
        serial=None,
        model=None,
        site="fra1",
        cluster="c",
        pool="p",
        node=node,
        simulated=False,
        account=Account(state_slice_ms={State.BUSY: busy}, bin_slice_ms=(0,) * 7 + (busy,)),
    )


def test_only_the_hours_named_are_replaced_whatever_day_they_are_in(tmp_path: Path) -> None:
    files = LedgerFiles(tmp_path, Annotations())
    first = tuple(row(hour) for hour in range(0, 72, 6))
    files.write_hours(ledger_of(first), all_hours(first))
    changed = (row(6, busy=14), row(30, busy=21))
    files.write_hours(ledger_of(changed), {*all_hours(changed), row(48).hour_ms})
    expected = [found for found in first if found.hour_ms not in {row(6).hour_ms, row(30).hour_ms, row(48).hour_ms}]
    assert files.rows(0, 2**62) == sorted([*expected, *changed], key=lambda found: found.hour_ms)
    assert sorted(path.name for path in (tmp_path / "hours").iterdir()) == [
        "2026-11-02.parquet",
        "2026-11-03.parquet",
        "2026-11-04.parquet",
    ]


def test_the_digest_is_that_of_the_rows_not_of_the_files(tmp_path: Path) -> None:
    hours = tuple(row(hour, gpu) for hour in range(4) for gpu in ("GPU-1", "GPU-2"))
    at_once, bit_by_bit = LedgerFiles(tmp_path / "a", Annotations()), LedgerFiles(tmp_path / "b", Annotations())
    at_once.write_hours(ledger_of(hours), all_hours(hours))
    for hour_ms in sorted(all_hours(hours), reverse=True):
        bit_by_bit.write_hours(ledger_of(tuple(one for one in hours if one.hour_ms == hour_ms)), {hour_ms})
    digest = at_once.digest(0, 2**62)
    assert digest == bit_by_bit.digest(0, 2**62)
    assert at_once.digest(0, MONDAY_MS + HOUR_MS) != digest
    one_more = replace(hours[0], account=Account(state_slice_ms={State.BUSY: 8}, bin_slice_ms=(0,) * 7 + (8,)))
    at_once.write_hours(ledger_of((one_more, hours[1])), {MONDAY_MS})
    assert at_once.digest(0, 2**62) != digest


def test_none_is_not_zero_in_a_digest(tmp_path: Path) -> None:
    digests = set()
    for number, memory in enumerate((None, 0)):
        files = LedgerFiles(tmp_path / str(number), Annotations())
        files.write_hours(ledger_of((replace(row(0), memory_used_bytes_max=memory),)), {MONDAY_MS})
        digests.add(files.digest(0, 2**62))
    assert len(digests) == 2


def test_holdings_are_summed_over_a_node_and_named_where_names_are_open(tmp_path: Path) -> None:
    def holder(hour: int, gpu: str, workload: str, user: str | None, held: int, memory: int | None) -> HolderRow:
        return HolderRow(
            hour_ms=MONDAY_MS + hour * HOUR_MS,
            gpu=gpu,
            node="n1",
            workload=workload,
            user=user,
            busy_slice_ms=1,
            held_slice_ms=held,
            memory_bytes_max=memory,
        )

    hours = tuple(row(hour, gpu) for hour in range(3) for gpu in ("GPU-1", "GPU-2"))
    holders = (
        holder(0, "GPU-1", "w1", "u1", 5, 10),
        holder(0, "GPU-2", "w1", "u1", 6, None),
        holder(1, "GPU-1", "w1", "u1", 7, 30),
        holder(1, "GPU-1", "rest", None, 90, None),
    )
    files = LedgerFiles(tmp_path, Annotations(names={"w1": "training", "u1": "alice"}))
    files.write_hours(Ledger(hours=hours, holders=holders, findings=()), all_hours(hours))
    rest, training = files.holdings(0, 2**62)
    assert (rest.workload, rest.workload_name, rest.user, rest.user_name, rest.memory_bytes_max) == (
        "rest",
        None,
        None,
        None,
        None,
    )
    assert (training.workload_name, training.user_name, training.site, training.gpus) == (
        "training",
        "alice",
        "fra1",
        2,
    )
    assert (training.held_slice_ms, training.busy_slice_ms, training.memory_bytes_max) == (18, 3, 30)
    assert (training.first_hour_ms, training.last_hour_ms) == (MONDAY_MS, MONDAY_MS + HOUR_MS)
    assert files.holder_rows(0, 2**62) == sorted(holders, key=lambda one: (one.hour_ms, one.gpu, one.workload))
    assert files.holdings(MONDAY_MS + 2 * HOUR_MS, 2**62) == []


def test_findings_of_rows_and_of_intake_stand_together_each_once(tmp_path: Path) -> None:
    def finding(hour: int, kind: str) -> Finding:
        return Finding(at_ms=MONDAY_MS + hour * HOUR_MS, kind=kind, subject="GPU-1", text="text")

    files = LedgerFiles(tmp_path, Annotations(findings=[finding(1, "gap"), finding(1, "overlap"), finding(9, "gap")]))
    ledger = Ledger(hours=(), holders=(), findings=(finding(1, "overlap"), finding(0, "overlap")))
    files.write_hours(ledger, [MONDAY_MS, MONDAY_MS + HOUR_MS])
    found = files.findings(MONDAY_MS, MONDAY_MS + 2 * HOUR_MS)
    assert found == [finding(0, "overlap"), finding(1, "gap"), finding(1, "overlap")]
    files.write_hours(ledger_of(()), [MONDAY_MS])
    assert len(files.findings(MONDAY_MS, MONDAY_MS + 2 * HOUR_MS)) == 2


def test_an_empty_ledger_answers_with_nothing(tmp_path: Path) -> None:
    files = LedgerFiles(tmp_path, Annotations())
    assert files.extent() is None
    assert files.sum_by([], 0, 2**62) == []
    assert files.sum_by(["site"], 0, 2**62) == []
    assert files.holdings(0, 2**62) == []
    assert files.findings(0, 2**62) == []
    assert files.rows(0, 2**62) == []


def test_the_extent_is_kept_until_the_ledger_is_cleared(tmp_path: Path) -> None:
    files = LedgerFiles(tmp_path, Annotations())
    files.write_hours(ledger_of((row(0),)), [MONDAY_MS])
    files.write_extent(MONDAY_MS, MONDAY_MS + HOUR_MS)
    assert files.extent() == (MONDAY_MS, MONDAY_MS + HOUR_MS)
    files.clear()
    assert files.extent() is None
    assert files.rows(0, 2**62) == []


def test_a_row_of_an_hour_that_is_not_being_replaced_is_a_bug(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="which is not being replaced"):
        LedgerFiles(tmp_path, Annotations()).write_hours(ledger_of((row(1),)), [MONDAY_MS])


def test_damaged_files_are_named_with_what_to_do(tmp_path: Path) -> None:
    files = LedgerFiles(tmp_path, Annotations())
    files.write_hours(ledger_of((row(0),)), [MONDAY_MS])
    (tmp_path / "hours" / "2026-11-02.parquet").write_bytes(b"not Parquet")
    with pytest.raises(StorageError, match=r"2026-11-02\.parquet: cannot be read .* ledger rebuild"):
        files.rows(0, 2**62)
    with pytest.raises(StorageError, match=r"hours: cannot be read: .*2026-11-02\.parquet"):
        files.sum_by([], 0, 2**62)
    (tmp_path / "extent.json").write_text("{}")
    with pytest.raises(StorageError, match=r"extent\.json: not an extent; run: gpuledger ledger rebuild"):
        files.extent()


def test_columns_of_another_version_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = LedgerFiles(tmp_path, Annotations())
    files.write_hours(ledger_of((row(0),)), [MONDAY_MS])
    written = columns.SCHEMA
    monkeypatch.setattr(columns, "SCHEMA", written + 1)
    with pytest.raises(StorageError, match=rf"parquet: has columns of version {written}, and this version writes"):
        files.rows(0, 2**62)


def test_a_disk_that_refuses_leaves_the_day_as_it_was_and_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = LedgerFiles(tmp_path, Annotations())
    files.write_hours(ledger_of((row(0),)), [MONDAY_MS])

    def refuse(file: int) -> None:
        del file
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(StorageError, match=r"2026-11-02\.parquet: cannot be written: No space left on device"):
        files.write_hours(ledger_of((row(0, busy=70),)), [MONDAY_MS])
    assert files.rows(0, 2**62) == [row(0)]
    assert [path.name for path in (tmp_path / "hours").iterdir()] == ["2026-11-02.parquet"]


def test_a_reader_in_another_process_would_see_what_the_collector_wrote(storage: Storage) -> None:
    node = FakeNode(gpus=1)
    node.seal_cells(MONDAY_MS, 12, {State.HELD: 100_000})
    storage.take(node)
    storage.refresh()
    reader = open_reader(storage.directory)
    assert reader.extent() == storage.files.extent()
    (holding,) = reader.holdings(0, 2**62)
    assert (holding.user_name, holding.workload_name) == ("alice", "training run")
    assert reader.digest(0, 2**62) == storage.files.digest(0, 2**62)


def test_a_state_directory_without_a_ledger_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"collector\.sqlite: cannot open the store"):
        open_reader(tmp_path)
