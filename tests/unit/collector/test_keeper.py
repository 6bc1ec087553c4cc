# SPDX-License-Identifier: Apache-2.0
"""The ledger kept up to date equals the ledger made at once, whatever came when; and no more is redone than must be."""

import random
from dataclasses import replace
from pathlib import Path

import pytest

from gpuledger.cells import CELL_MS, DAY_MS, HOUR_MS
from gpuledger.errors import StorageError
from gpuledger.states import State
from gpuledger_collector.catalog import Recent, read_accepted
from gpuledger_collector.ledger import Ledger, build
from tests.fakes.readings import MONDAY_MS, FakeNode
from tests.fakes.storage import Storage

BUSY = {State.BUSY: 200_000, State.HELD: 50_000}


def built_at_once(storage: Storage) -> Ledger:
    indexed = storage.store.readings(0, 2**62)
    extent = storage.files.extent()
    assert extent is not None
    return build(
        read_accepted(storage.catalog.log, indexed, Recent()),
        storage.store.roster(),
        *extent,
        leases=storage.store.leases(),
        scheduling=storage.store.scheduling(*extent),
    )


def assert_up_to_date(storage: Storage) -> None:
    """The files say what the pure function says of everything at once."""
    extent = storage.files.extent()
    assert extent is not None
    whole = built_at_once(storage)
    assert storage.files.rows(0, extent[1]) == list(whole.hours)
    assert storage.files.holder_rows(0, extent[1]) == list(whole.holders)
    assert set(storage.files.findings(0, extent[1])) >= set(whole.findings)
    installed = (extent[1] - extent[0]) * 7 * len(storage.store.roster().entries)
    if all(entry.from_ms == extent[0] and entry.to_ms is None for entry in storage.store.roster().entries):
        assert sum(row.account.installed_slice_ms for row in whole.hours) == installed


def states(storage: Storage, start_ms: int = 0, end_ms: int = 2**62) -> dict[State, int]:
    total: dict[State, int] = {}
    for row in storage.files.rows(start_ms, end_ms):
        for state, amount in row.account.state_slice_ms.items():
            total[state] = total.get(state, 0) + amount // 7
    return total


def test_an_empty_log_makes_an_empty_ledger(storage: Storage) -> None:
    done = storage.refresh()
    assert (done.horizon_ms, done.hours, done.readings) == (None, 0, 0)
    assert storage.files.extent() is None


def test_the_ledger_accounts_for_every_installed_cell_up_to_the_horizon_dark_ones_too(storage: Storage) -> None:
    node = FakeNode(gpus=2)
    node.seal(MONDAY_MS, states_ms=BUSY)
    storage.take(node, place=("fra1", "train", "h100"))
    done = storage.refresh()
    assert done.horizon_ms == storage.now_ms == MONDAY_MS + HOUR_MS
    assert storage.files.extent() == (MONDAY_MS, MONDAY_MS + HOUR_MS)
    assert states(storage) == {
        State.BUSY: 400_000,
        State.HELD: 100_000,
        State.FREE: 100_000,
        State.DARK: 2 * 11 * CELL_MS,
    }
    assert_up_to_date(storage)
    assert {row.site for row in storage.files.rows(0, 2**62)} == {"fra1"}


def test_a_cell_is_settled_when_the_grace_is_over(tmp_path: Path) -> None:
    with Storage(tmp_path) as storage:
        keeper = storage.keeper
        keeper._grace_ms = 90_000
        assert keeper.horizon_ms(MONDAY_MS + CELL_MS + 89_999) == MONDAY_MS
        assert keeper.horizon_ms(MONDAY_MS + CELL_MS + 90_000) == MONDAY_MS + CELL_MS


def test_a_refresh_without_news_redoes_nothing(storage: Storage) -> None:
    storage.take(node := FakeNode(), node.seal_cells(MONDAY_MS, 12, BUSY))
    assert storage.refresh().hours == 1
    assert storage.refresh().hours == 0


def test_what_came_of_a_cell_that_is_not_settled_redoes_nothing(storage: Storage) -> None:
    node = FakeNode(gpus=1)
    node.seal_cells(MONDAY_MS, 4, BUSY)
    storage.now_ms = MONDAY_MS + 3 * CELL_MS
    storage.take(node, node.sealed[:3])
    assert storage.refresh().hours == 1
    storage.take(node, node.sealed[3:])
    assert storage.refresh().hours == 0
    storage.now_ms = MONDAY_MS + 4 * CELL_MS
    assert storage.refresh().hours == 1
    assert State.DARK not in states(storage)
    assert_up_to_date(storage)


def test_a_late_reading_redoes_its_hour_alone(storage: Storage) -> None:
    node = FakeNode(gpus=1)
    node.seal_cells(MONDAY_MS, 36, BUSY)
    storage.now_ms = MONDAY_MS + 3 * HOUR_MS
    storage.take(node, [sealed for sealed in node.sealed if sealed.reading.sequence != 14])
    assert storage.refresh().hours == 3
    assert State.DARK in states(storage)
    storage.take(node, [node.sealed[13]])
    done = storage.refresh()
    assert (done.hours, done.readings) == (1, 12)
    assert State.DARK not in states(storage)
    assert_up_to_date(storage)


def test_the_current_hour_grows_cell_by_cell(storage: Storage) -> None:
    node = FakeNode(gpus=1)
    storage.now_ms = MONDAY_MS
    for cell in range(20):
        node.seal(MONDAY_MS + cell * CELL_MS, states_ms=BUSY)
        storage.now_ms = MONDAY_MS + (cell + 1) * CELL_MS
        storage.take(node, node.sealed[-1:])
        assert storage.refresh().hours == 1
        assert_up_to_date(storage)
    assert State.DARK not in states(storage)


def test_readings_beyond_the_horizon_wait_for_it(storage: Storage) -> None:
    node = FakeNode(gpus=1)
    node.seal_cells(MONDAY_MS, 13, BUSY)
    storage.take(node)
    storage.refresh()
    assert storage.files.extent() == (MONDAY_MS, MONDAY_MS + HOUR_MS)
    assert storage.refresh().hours == 0
    storage.now_ms += CELL_MS
    storage.refresh()
    assert State.DARK not in states(storage)


def test_a_clock_that_is_set_back_takes_nothing_out_of_the_ledger(storage: Storage) -> None:
    storage.take(node := FakeNode(), node.seal_cells(MONDAY_MS, 12, BUSY))
    storage.refresh()
    before = storage.files.digest(0, 2**62)
    storage.now_ms -= HOUR_MS // 2
    assert storage.refresh().horizon_ms == MONDAY_MS + HOUR_MS
    assert storage.files.digest(0, 2**62) == before


@pytest.mark.parametrize("seed", range(4))
def test_whatever_the_order_and_the_refreshes_between_the_ledger_is_that_of_everything_at_once(
    tmp_path: Path, seed: int
) -> None:
    rng = random.Random(seed)
    nodes = [FakeNode(name=f"node-{number}", gpus=2) for number in range(3)]
    pieces = [
        (node, node.seal(MONDAY_MS + cell * CELL_MS, states_ms={State.BUSY: rng.randrange(1, CELL_MS)}))
        for node in nodes
        for cell in range(60)
        if rng.random() < 0.8
    ]
    # One node also claims another's GPUs, and one seals two readings of one name.
    pieces.append((nodes[0], nodes[0].seal(MONDAY_MS + 61 * CELL_MS, gpus=nodes[1].sealed[0].reading.gpus)))
    twin = nodes[2].sealed[3].reading
    pieces.append((nodes[2], nodes[2].seal(MONDAY_MS + 5 * HOUR_MS, sequence=twin.sequence)))
    rng.shuffle(pieces)
    with Storage(tmp_path) as storage:
        storage.now_ms = MONDAY_MS + 6 * HOUR_MS
        for number, (node, sealed) in enumerate(pieces):
            storage.take(node, [sealed], place=("fra1", "train", "h100"))
            if rng.random() < 0.15:
                storage.refresh()
            if number == 50:
                storage.reopen()
        storage.refresh()
        assert_up_to_date(storage)
        digest = storage.files.digest(0, 2**62)
        storage.keeper.rebuild()
        assert storage.files.digest(0, 2**62) == digest
        assert {found.kind for found in storage.files.findings(0, 2**62)} >= {"foreign_claim", "equivocation"}


def test_a_rebuild_from_the_log_alone_gives_the_same_ledger(tmp_path: Path) -> None:
    with Storage(tmp_path) as storage:
        node = FakeNode(gpus=2)
        node.seal_cells(MONDAY_MS, 300, BUSY)
        storage.now_ms = MONDAY_MS + DAY_MS + 2 * HOUR_MS
        storage.take(node, place=("fra1", "train", "h100"))
        storage.refresh()
        digest = storage.files.digest(0, 2**62)
        extent = storage.files.extent()
    for path in tmp_path.glob("collector.sqlite*"):
        path.unlink()
    for path in (tmp_path / "ledger").rglob("*.*"):
        path.unlink()
    with Storage(tmp_path) as storage:
        assert storage.files.extent() is None
        done = storage.keeper.rebuild()
        assert storage.files.extent() == extent
        assert storage.files.digest(0, 2**62) == digest
        assert (done.hours, done.readings) == (26, 300)


def test_a_rebuild_removes_rows_that_nothing_supports(storage: Storage) -> None:
    storage.take(node := FakeNode(gpus=1), node.seal_cells(MONDAY_MS, 12, BUSY))
    storage.refresh()
    digest = storage.files.digest(0, 2**62)
    row = storage.files.rows(0, 2**62)[0]
    stray = Ledger(hours=(replace(row, gpu="GPU-that-never-was"),), holders=(), findings=())
    storage.files.write_hours(stray, [MONDAY_MS])
    assert storage.files.digest(0, 2**62) != digest
    storage.keeper.rebuild()
    assert storage.files.digest(0, 2**62) == digest


def test_a_declared_roster_that_grows_and_ends_is_accounted_from_its_own_times(tmp_path: Path) -> None:
    roster = tmp_path / "roster.toml"
    roster.write_text('[[gpu]]\nuuid = "GPU-node-1-0"\nnode = "node-1"\nsite = "fra1"\nfrom = 2026-11-02T00:00:00Z\n')
    with Storage(tmp_path / "state", roster=roster) as storage:
        node = FakeNode(gpus=2)
        node.seal_cells(MONDAY_MS, 24, BUSY)
        storage.now_ms = MONDAY_MS + 2 * HOUR_MS
        storage.take(node)
        storage.refresh()
        assert states(storage)[State.BUSY] == 24 * 200_000
        assert [found.kind for found in storage.files.findings(0, 2**62)] == ["unrostered", "unrostered"]
        roster.write_text(
            roster.read_text()
            + '[[gpu]]\nuuid = "GPU-node-1-1"\nnode = "node-1"\nfrom = 2026-11-02T01:00:00Z\n'
            + '[[gpu]]\nuuid = "GPU-node-1-9"\nnode = "node-1"\nfrom = 2026-11-01T23:00:00Z\nto = 2026-11-02\n'
        )
        storage.refresh()
        assert storage.files.extent() == (MONDAY_MS - HOUR_MS, storage.now_ms)
        assert states(storage)[State.BUSY] == 36 * 200_000
        assert states(storage)[State.DARK] == HOUR_MS
        assert [found.kind for found in storage.files.findings(0, 2**62)] == ["out_of_service"]
        assert_up_to_date(storage)
        storage.keeper.rebuild()
        assert_up_to_date(storage)


def test_a_refresh_that_fails_half_way_is_made_good_by_the_next(storage: Storage) -> None:
    storage.take(node := FakeNode(gpus=1), node.seal_cells(MONDAY_MS, 12, BUSY))
    (storage.directory / "ledger").mkdir()
    (storage.directory / "ledger" / "holders").write_text("a file where a directory should be")
    with pytest.raises(StorageError, match=r"ledger/holders/2026-11-02\.parquet: cannot be written: "):
        storage.refresh()
    assert storage.files.extent() is None
    (storage.directory / "ledger" / "holders").unlink()
    assert storage.refresh().hours == 1
    assert_up_to_date(storage)


def test_the_rows_of_one_cell_are_at_hand_for_live_figures(storage: Storage) -> None:
    node = FakeNode(gpus=2)
    node.seal(MONDAY_MS, states_ms=BUSY)
    storage.take(node)
    storage.refresh()
    rows = storage.keeper.cell_rows(MONDAY_MS)
    assert [row.entry.gpu for row in rows] == node.uuids
    assert rows[0].account.state_slice_ms[State.BUSY] == 200_000 * 7
    assert storage.keeper.cell_rows(MONDAY_MS + CELL_MS)[0].account.state_slice_ms == {State.DARK: CELL_MS * 7}


def test_spans_larger_than_memory_allows_are_built_in_parts(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpuledger_collector.keeper.READINGS_MAX", 10)
    storage.take(node := FakeNode(gpus=1), node.seal_cells(MONDAY_MS, 60, BUSY), now_ms=MONDAY_MS + 5 * HOUR_MS)
    storage.now_ms = MONDAY_MS + 5 * HOUR_MS + CELL_MS
    done = storage.refresh()
    assert (done.hours, done.readings) == (6, 60)
    assert_up_to_date(storage)


def test_the_readings_accepted_last_are_kept_decoded_and_equal_those_of_the_log(
    storage: Storage,
) -> None:
    node = FakeNode(gpus=2)
    node.seal_cells(MONDAY_MS, 6, BUSY)
    storage.take(node)
    recent = Recent(gpus_max=5)
    from_log = list(read_accepted(storage.catalog.log, storage.store.readings(0, 2**62), Recent()))
    assert [storage.catalog.recent.get(sealed.digest) for sealed in node.sealed] == from_log
    for accepted in (*from_log, from_log[-1]):
        recent.add(accepted)
    assert [recent.get(accepted.digest) is not None for accepted in from_log] == [False] * 4 + [True] * 2
