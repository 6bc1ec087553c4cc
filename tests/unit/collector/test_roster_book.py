# SPDX-License-Identifier: Apache-2.0
"""The roster in force: logged when it changes, kept when the file turns bad, windows only if seen in time."""

import os
from pathlib import Path

import pytest

from gpuledger.cells import CELL_MS, HOUR_MS
from gpuledger.errors import ConfigurationError
from gpuledger.states import State
from gpuledger_collector.entries import RosterEntry
from tests.fakes.readings import MODEL, MONDAY_MS, FakeNode
from tests.fakes.storage import Storage

GPUS = "".join(
    f'[[gpu]]\nuuid = "GPU-node-1-{index}"\nnode = "node-1"\nsite = "fra1"\nfrom = 2026-11-02\n' for index in range(2)
)


def window(start: str, end: str, kind: str = "standby") -> str:
    return f'[[window]]\nkind = "{kind}"\nnode = "node-1"\nfrom = 2026-11-02T{start}:00Z\nto = 2026-11-02T{end}:00Z\n'


class Declared(Storage):
    """Storage with a roster file, whose changes are seen whatever the clock's grain."""

    def __init__(self, directory: Path, text: str) -> None:
        self.file = directory / "roster.toml"
        self.changes = 0
        self.declare(text)
        super().__init__(directory / "state", roster=self.file)

    def declare(self, text: str) -> None:
        self.changes += 1
        self.file.write_text(text)
        os.utime(self.file, (self.changes, self.changes))


def roster_entries(storage: Storage) -> list[RosterEntry]:
    return [entry for entry in storage.logged() if isinstance(entry, RosterEntry)]


def total(storage: Storage, state: State) -> int:
    rows = storage.files.rows(0, 2**62)
    return sum(row.account.state_slice_ms.get(state, 0) for row in rows) // 7


def test_discovery_is_logged_once_for_each_gpu(storage: Storage) -> None:
    node = FakeNode(gpus=2)
    node.seal_cells(MONDAY_MS, 2)
    for sealed in node.sealed:
        storage.take(node, [sealed], place=("fra1", "train", "h100"))
        storage.refresh()
    storage.reopen()
    storage.refresh()
    (logged,) = roster_entries(storage)
    assert not logged.is_declared
    assert [(entry.gpu, entry.site, entry.model, entry.from_ms) for entry in logged.added] == [
        (uuid, "fra1", MODEL, MONDAY_MS) for uuid in node.uuids
    ]


def test_a_group_that_moves_to_another_site_takes_its_discovered_gpus_along(storage: Storage) -> None:
    node = FakeNode(gpus=1)
    node.seal_cells(MONDAY_MS, 2)
    storage.take(node, place=("fra1", "train", "h100"))
    storage.refresh()
    storage.take(node, place=("ams2", "train", "h100"))
    storage.refresh()
    assert {row.site for row in storage.files.rows(0, 2**62)} == {"ams2"}
    assert [len(entry.removed) + len(entry.added) for entry in roster_entries(storage)] == [1, 1, 1]


def test_a_large_roster_is_logged_in_parts(tmp_path: Path) -> None:
    lines = ["uuid,node,from", *(f"GPU-{number},n,2026-11-02" for number in range(4_500))]
    (tmp_path / "roster.csv").write_text("\n".join(lines))
    with Storage(tmp_path / "state", roster=tmp_path / "roster.csv") as storage:
        storage.book.sync(storage.now_ms)
        parts = [len(entry.added) for entry in roster_entries(storage)]
        assert (sum(parts), len(parts)) == (4_500, 17)
        assert len(storage.store.roster().entries) == 4_500
        assert len(storage.store.roster().entries) == 4_500
        assert storage.store.roster().is_declared


def test_what_the_file_leaves_out_comes_from_the_gpus_themselves_so_dark_hours_keep_their_model(
    tmp_path: Path,
) -> None:
    with Declared(tmp_path, GPUS) as storage:
        node = FakeNode(gpus=1)
        storage.take(node, [node.seal(MONDAY_MS)])
        storage.now_ms = MONDAY_MS + 3 * HOUR_MS
        storage.refresh()
        rows = storage.files.rows(0, 2**62)
        assert [(row.model, row.serial) for row in rows if row.gpu == "GPU-node-1-0"] == [(MODEL, "Snode-1-0")] * 3
        assert {row.model for row in rows if row.gpu == "GPU-node-1-1"} == {None}


def test_a_file_that_turns_bad_leaves_the_last_good_roster_in_force(tmp_path: Path) -> None:
    with Declared(tmp_path, GPUS) as storage:
        storage.refresh()
        before = storage.store.roster()
        storage.declare(GPUS + "[[gpu]]\nuuid = 5\n")
        storage.refresh()
        assert storage.store.roster() == before
        assert storage.book.error is not None
        assert "roster.toml:12: uuid: 5 is not a text" in storage.book.error
        storage.file.unlink()
        storage.refresh()
        assert storage.store.roster() == before
        assert "cannot be read" in storage.book.error
        storage.declare(GPUS)
        storage.refresh()
        assert storage.book.error is None


def test_a_collector_does_not_start_with_a_bad_roster(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"roster\.toml: lists no GPU"):
        Declared(tmp_path, "")


def test_a_gpu_taken_out_of_the_file_is_a_finding(tmp_path: Path) -> None:
    with Declared(tmp_path, GPUS) as storage:
        storage.refresh()
        assert total(storage, State.DARK) == 2 * HOUR_MS
        storage.declare(GPUS[: GPUS.index("[[gpu]]", 5)])
        storage.refresh()
        assert total(storage, State.DARK) == HOUR_MS
        assert [(found.kind, found.subject) for found in storage.store.findings()] == [
            ("roster_shrunk", "GPU-node-1-1")
        ]


def test_a_gpu_that_is_retired_keeps_its_past(tmp_path: Path) -> None:
    with Declared(tmp_path, GPUS) as storage:
        storage.now_ms = MONDAY_MS + 4 * HOUR_MS
        storage.refresh()
        storage.declare(GPUS + "to = 2026-11-02T01:00:00Z\n")
        storage.refresh()
        assert total(storage, State.DARK) == 5 * HOUR_MS
        assert storage.store.findings() == []


def test_a_window_declared_in_time_turns_dark_into_standby(tmp_path: Path) -> None:
    with Declared(tmp_path, GPUS) as storage:
        storage.refresh()
        storage.declare(GPUS + window("02:00", "03:00"))
        storage.refresh()
        storage.now_ms = MONDAY_MS + 4 * HOUR_MS
        storage.refresh()
        assert total(storage, State.STANDBY) == 2 * HOUR_MS
        assert total(storage, State.DARK) == 6 * HOUR_MS
        assert storage.store.roster().windows[0].declared_ms == MONDAY_MS + HOUR_MS
        digest = storage.files.digest(0, 2**62)
        storage.keeper.rebuild()
        assert storage.files.digest(0, 2**62) == digest


def test_a_window_declared_after_it_began_counts_for_nothing_and_is_a_finding(tmp_path: Path) -> None:
    with Declared(tmp_path, GPUS) as storage:
        storage.refresh()
        storage.declare(GPUS + window("00:30", "03:00"))
        storage.refresh()
        storage.now_ms = MONDAY_MS + 4 * HOUR_MS
        storage.refresh()
        assert total(storage, State.STANDBY) == 0
        (finding,) = storage.store.findings()
        assert (finding.kind, finding.text) == (
            "late_declaration",
            "standby of node-1 was declared 1800 s after it began; it does not count",
        )


def test_a_window_taken_out_while_it_runs_ends_there_and_one_that_is_over_stays(tmp_path: Path) -> None:
    with Declared(tmp_path, GPUS + window("02:00", "04:00") + window("06:00", "07:00")) as storage:
        storage.refresh()
        storage.now_ms = MONDAY_MS + 3 * HOUR_MS
        storage.declare(GPUS + window("06:00", "07:00"))
        storage.refresh()
        storage.now_ms = MONDAY_MS + 8 * HOUR_MS
        storage.refresh()
        storage.declare(GPUS)
        storage.refresh()
        storage.refresh()
        assert total(storage, State.STANDBY) == 2 * 2 * HOUR_MS
        digest = storage.files.digest(0, 2**62)
        storage.keeper.rebuild()
        assert storage.files.digest(0, 2**62) == digest


def test_a_window_withdrawn_before_it_began_never_was(tmp_path: Path) -> None:
    with Declared(tmp_path, GPUS + window("02:00", "04:00")) as storage:
        storage.refresh()
        storage.declare(GPUS)
        storage.refresh()
        assert storage.store.roster().windows == ()
        storage.declare(GPUS + window("02:00", "04:00"))
        storage.now_ms += CELL_MS
        storage.refresh()
        assert [found.declared_ms for found in storage.store.roster().windows] == [storage.now_ms]


def test_a_change_of_the_gpus_file_beside_is_seen(tmp_path: Path) -> None:
    gpus = tmp_path / "gpus.csv"
    gpus.write_text("uuid,node,from\nGPU-1,n,2026-11-02\n")
    with Declared(tmp_path, 'gpus_csv = "gpus.csv"\n') as storage:
        storage.refresh()
        gpus.write_text("uuid,node,from\nGPU-1,n,2026-11-02\nGPU-2,n,2026-11-02\n")
        storage.refresh()
        assert len(storage.store.roster().entries) == 2
