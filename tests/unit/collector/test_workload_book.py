# SPDX-License-Identifier: Apache-2.0
"""Workloads tracked from readings: one job over its nodes, carried on, folded again where the past changed."""

import random
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from gpuledger.cells import CELL_MS, CELL_SLICE_MS, HOUR_MS
from gpuledger.hints import Hints
from gpuledger.states import State
from gpuledger_collector.classify.kinds import Kind
from gpuledger_collector.entries import LabelEntry
from gpuledger_collector.workload_book import WorkloadBook
from gpuledger_collector.workload_demand import LedgerDemand
from gpuledger_collector.workload_rows import WorkloadRow, runs
from tests.fakes.readings import MONDAY_MS, FakeNode, gpu_time
from tests.fakes.signs import ENGINE, LAUNCHER, NOBODY_KNOWS, RULES
from tests.fakes.storage import Storage

BUSY = {State.BUSY: CELL_MS}


class HintingNode(FakeNode):
    """A node whose workloads have hints."""

    hints: Hints | None = None

    def _workloads(self, gpus, user, workload):  # type: ignore[no-untyped-def]
        return [replace(part, hints=self.hints) for part in super()._workloads(gpus, user, workload)]


def open_storage(directory: Path) -> Storage:
    """A collector that knows the rules of the fakes."""
    storage = Storage(directory)
    use_fake_rules(storage)
    return storage


def use_fake_rules(storage: Storage, lives_max: int = 100) -> None:
    storage.keeper._workloads = WorkloadBook(storage.store, RULES, lives_max=lives_max)


def run(node: HintingNode, told: Iterable[Hints | None], workload: str, *, start_ms: int = MONDAY_MS) -> None:
    """The node's GPUs are busy with a workload, cell by cell."""
    for index, hints in enumerate(told):
        node.hints = hints
        node.seal(start_ms + index * CELL_MS, states_ms=BUSY, workload=workload)


def rows(storage: Storage) -> list[WorkloadRow]:
    return runs(storage.store, "ORDER BY id", with_life=True)


def without_hour(found: list[WorkloadRow]) -> list[WorkloadRow]:
    return [replace(row, life=None) for row in found]


def kinds(storage: Storage) -> dict[str, Kind]:
    return {row.id: row.kind for row in rows(storage)}


def test_a_job_is_one_workload_over_its_nodes(tmp_path: Path) -> None:
    with open_storage(tmp_path) as storage:
        for name in ("node-1", "node-2"):
            node = HintingNode(name=name, gpus=4)
            run(node, [LAUNCHER] * 4, "slurm:c1/77")
            storage.take(node, place=("fra1", "train", "h100"))
        storage.refresh()
        (row,) = rows(storage)
        assert (row.id, row.kind, row.site, row.gpus_max) == ("slurm:c1/77", Kind.TRAINING, "fra1", 8)
        assert row.busy_slice_ms == 8 * 4 * CELL_SLICE_MS


def test_names_that_are_not_open_are_a_workload_at_each_node(tmp_path: Path) -> None:
    with open_storage(tmp_path) as storage:
        for name in ("node-1", "node-2"):
            node = HintingNode(name=name, gpus=1)
            run(node, [LAUNCHER] * 2, "slurm:c1/77")
            closed = [replace(sealed, openings={}) for sealed in node.sealed]
            storage.take(node, closed)
        storage.refresh()
        assert all(len(row.id) == 64 for row in rows(storage))
        assert len(rows(storage)) == 2


def test_a_name_that_is_opened_later_takes_its_past_with_it(tmp_path: Path) -> None:
    with open_storage(tmp_path) as storage:
        node = HintingNode(gpus=1)
        run(node, [LAUNCHER] * 14, "slurm:c1/77")
        storage.take(node, [replace(sealed, openings={}) for sealed in node.sealed[:12]])
        storage.refresh()
        storage.now_ms += HOUR_MS
        storage.take(node, node.sealed[12:])
        storage.refresh()
        (row,) = rows(storage)
        assert (row.id, row.busy_slice_ms) == ("slurm:c1/77", 14 * CELL_SLICE_MS)


def test_whatever_comes_when_the_lives_are_those_of_everything_at_once(tmp_path: Path) -> None:
    nodes = []
    for number, told in enumerate(([LAUNCHER] * 20, [NOBODY_KNOWS] * 5 + [LAUNCHER] * 15, [ENGINE] * 30)):
        node = HintingNode(name=f"node-{number}", gpus=2)
        run(node, told, "slurm:c1/77" if number < 2 else "slurm:c1/78")
        nodes.append(node)
    with open_storage(tmp_path / "at-once") as storage:
        storage.now_ms = MONDAY_MS + 3 * HOUR_MS
        for node in nodes:
            storage.take(node)
        storage.refresh()
        expected = without_hour(rows(storage))
    for seed in range(2):
        rng = random.Random(seed)
        with open_storage(tmp_path / str(seed)) as storage:
            left = {node.name: list(node.sealed) for node in nodes}
            while any(left.values()):
                node = rng.choice([node for node in nodes if left[node.name]])
                some, left[node.name] = left[node.name][: (cut := rng.randint(1, 9))], left[node.name][cut:]
                storage.take(node, some, now_ms=MONDAY_MS + 3 * HOUR_MS)
                storage.now_ms = min(storage.now_ms + rng.randint(0, 20) * 60_000, MONDAY_MS + 3 * HOUR_MS)
                storage.refresh()
                if rng.random() < 0.3:
                    use_fake_rules(storage, lives_max=rng.choice([0, 100]))
            storage.now_ms = MONDAY_MS + 3 * HOUR_MS
            storage.refresh()
            assert without_hour(rows(storage)) == expected
            storage.keeper.rebuild()
            assert without_hour(rows(storage)) == expected


def label(storage: Storage, workload: str, kind: Kind | None) -> None:
    text = None if kind is None else kind.value
    storage.catalog.commit([LabelEntry(workload=workload, kind=text, at_ms=storage.now_ms)], now_ms=storage.now_ms)
    storage.keeper._workloads.weigh()


def test_relabelling_one_workload_changes_that_one_and_no_other(tmp_path: Path) -> None:
    with open_storage(tmp_path) as storage:
        for number in range(3):
            node = HintingNode(name=f"node-{number}", gpus=1)
            run(node, [NOBODY_KNOWS] * 4, f"slurm:c1/{number}")
            storage.take(node)
        storage.refresh()
        before = without_hour(rows(storage))
        hours = storage.files.digest(0, 2**62)
        label(storage, "slurm:c1/1", Kind.INFERENCE)
        after = without_hour(rows(storage))
        assert [one for one, other in zip(after, before, strict=True) if one != other] == [after[1]]
        assert after[1] == replace(before[1], kind=Kind.INFERENCE)
        label(storage, "slurm:c1/1", Kind.TRAINING)
        assert kinds(storage)["slurm:c1/1"] is Kind.TRAINING
        label(storage, "slurm:c1/1", None)
        assert without_hour(rows(storage)) == before
        assert storage.files.digest(0, 2**62) == hours


def test_labels_calibrate_others_with_the_same_evidence_and_a_rebuild_gives_the_same(tmp_path: Path) -> None:
    with open_storage(tmp_path) as storage:
        for number in range(8):
            node = HintingNode(name=f"node-{number}", gpus=1)
            told = LAUNCHER if number < 7 else ENGINE
            for index in range(4):
                node.hints = told
                node.seal(MONDAY_MS + index * CELL_MS, states_ms=BUSY, workload=f"slurm:c1/{number}", user=f"u{number}")
            storage.take(node, place=("fra1", "train", "h100"))
        storage.refresh()
        assert kinds(storage)["slurm:c1/6"] is Kind.TRAINING
        for number in range(6):
            label(storage, f"slurm:c1/{number}", Kind.OTHER)
        found = {row.id: row for row in rows(storage)}
        moved, untouched = found["slurm:c1/6"], found["slurm:c1/7"]
        assert (moved.kind, moved.calibration) == (Kind.UNCLASSIFIED, "site")
        assert (untouched.kind, untouched.calibration) == (Kind.INFERENCE, "default")
        before = without_hour(rows(storage))
        storage.keeper.rebuild()
        assert without_hour(rows(storage)) == before


def test_a_conflict_is_a_finding_for_as_long_as_it_stands(tmp_path: Path) -> None:
    with open_storage(tmp_path) as storage:
        node = HintingNode(gpus=1)
        run(node, [ENGINE] * 4, "slurm:c1/1")
        storage.take(node)
        storage.refresh()
        label(storage, "slurm:c1/1", Kind.TRAINING)
        assert "label_conflict" in storage.kinds()
        label(storage, "slurm:c1/1", None)
        assert "label_conflict" not in storage.kinds()


def test_runs_of_a_job_that_was_queued_again_share_no_hour_of_a_digest(tmp_path: Path) -> None:
    with open_storage(tmp_path) as storage:
        one, other = HintingNode(name="node-1", gpus=1), HintingNode(name="node-2", gpus=1)
        run(one, [LAUNCHER] * 2, "slurm:c1/1")
        run(other, [ENGINE] * 2, "slurm:c1/1", start_ms=MONDAY_MS + 4 * CELL_MS)
        run(one, [ENGINE] * 2, "slurm:c1/1", start_ms=MONDAY_MS + 8 * CELL_MS)
        for node in (one, other):
            storage.take(node)
        storage.refresh()
        assert kinds(storage) == {
            "slurm:c1/1": Kind.TRAINING,
            "slurm:c1/1#2": Kind.INFERENCE,
            "slurm:c1/1#3": Kind.INFERENCE,
        }
        hours = LedgerDemand(storage.files, storage.store).hours(MONDAY_MS, MONDAY_MS + HOUR_MS)
        assert sum(one.busy_slice_ms for one in hours) == 6 * CELL_SLICE_MS


def test_a_gpu_part_with_no_busy_or_held_time_is_no_evidence(tmp_path: Path) -> None:
    with open_storage(tmp_path) as storage:
        node = HintingNode(gpus=1)
        gpu = gpu_time(node.uuids[0], CELL_MS, rest=State.RESERVED)
        node.seal(MONDAY_MS, gpus=[gpu])
        storage.take(node)
        storage.refresh()
        assert rows(storage) == []
