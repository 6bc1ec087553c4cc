# SPDX-License-Identifier: Apache-2.0
"""What intake finds in readings that are genuine: repetitions, time that jumps, counters that fall."""

from typing import Any

import pytest

from gpuledger.cells import CELL_MS
from gpuledger_collector.check import check_log
from gpuledger_collector.entries import FindingsEntry
from gpuledger_collector.ledger import Finding
from tests.fakes.readings import MONDAY_MS, FakeNode, gpu_time
from tests.fakes.storage import Storage


def test_a_reading_served_twice_in_one_answer_is_a_finding(storage: Storage) -> None:
    node = FakeNode()
    sealed = node.seal(MONDAY_MS)
    storage.take(node, [sealed, sealed])
    (finding,) = storage.store.findings()
    assert finding.kind == "duplicate"
    assert finding.text == f"node-1 (key {node.node_id[:16]}) served readings twice in one answer: 1"


def test_a_reading_served_again_though_only_later_ones_were_asked_for_is_a_replay(storage: Storage) -> None:
    node = FakeNode()
    node.seal_cells(MONDAY_MS, 4)
    storage.take(node, node.sealed[:3])
    results = [storage.take(node, node.sealed[1:], asked=("journal-1", 3)) for _ in range(2)]
    assert [(result.accepted, result.duplicates) for result in results] == [(1, 2), (0, 3)]
    (finding,) = storage.store.findings()
    assert finding.kind == "replay"
    assert finding.text.endswith("served readings again, though only later ones were asked for: 2, 3")
    assert storage.take(node).duplicates == 4
    assert storage.kinds() == ["replay"]


def test_one_key_at_two_addresses_is_a_finding_and_one_that_moved_is_not(storage: Storage) -> None:
    node, moved = FakeNode(), FakeNode(name="node-2")
    first, second = "http://a:9400", "http://b:9400"
    node.seal(MONDAY_MS)
    moved.seal(MONDAY_MS)
    for target in (first, first, second, second, second):
        storage.take(moved, target=target)
    assert storage.kinds() == []
    for target in (first, second, first, second):
        storage.take(node, target=target)
    (finding,) = storage.store.findings()
    assert (finding.kind, finding.subject) == ("two_addresses", "node-1")
    assert finding.text == f"key {node.node_id[:16]} of node-1 answers at http://a:9400 and at http://b:9400"


def test_time_that_runs_backwards_or_away_from_its_wall_clock_is_a_finding(storage: Storage) -> None:
    node = FakeNode()
    node.seal(MONDAY_MS)
    node.seal(MONDAY_MS + CELL_MS, wall_end_ms=MONDAY_MS + 2 * CELL_MS + 1_500)
    node.seal(MONDAY_MS + CELL_MS + 299_000, 1_000)
    node.seal(MONDAY_MS + 3 * CELL_MS, wall_end_ms=MONDAY_MS + 4 * CELL_MS - 1_501)
    storage.take(node)
    assert [finding.text for finding in storage.store.findings()] == [
        "reading 3 of node-1 begins 1000 ms before the one before it ended",
        "reading 4 of node-1 ends -1501 ms away from its wall clock",
    ]
    assert storage.kinds() == ["clock_step", "clock_step"]


def test_the_parts_of_one_span_do_not_run_backwards(storage: Storage) -> None:
    node = FakeNode()
    for cell in range(2):
        for part in (1, 2):
            node.seal(MONDAY_MS + cell * CELL_MS, part=(part, 2))
    for sealed in node.sealed:
        storage.take(node, [sealed])
    assert storage.kinds() == []


def odometers(node: FakeNode, *spans: tuple[int, int], **fields: Any) -> list[Any]:
    return [
        gpu_time(uuid, CELL_MS, energy_start_mj=start, energy_end_mj=end, **fields)
        for uuid, (start, end) in zip(node.uuids, spans, strict=True)
    ]


@pytest.mark.parametrize("is_one_answer", [True, False])
def test_an_energy_counter_that_fell_is_a_finding_unless_the_node_was_booted(
    storage: Storage, is_one_answer: bool
) -> None:
    node = FakeNode(gpus=2)
    node.seal(MONDAY_MS, gpus=odometers(node, (100, 200), (50, 60)))
    node.seal(MONDAY_MS + CELL_MS, gpus=odometers(node, (200, 300), (59, 70)))
    node.seal(MONDAY_MS + 2 * CELL_MS, gpus=odometers(node, (0, 5), (0, 9)), boot_id="boot-2")
    node.seal(MONDAY_MS + 3 * CELL_MS, gpus=odometers(node, (5, 6), (9, 2), energy_epochs=1), boot_id="boot-2")
    for sealed in [node.sealed] if is_one_answer else [[one] for one in node.sealed]:
        storage.take(node, sealed)
    assert [finding.text for finding in storage.store.findings()] == [
        "the energy counter of GPU-node-1-1 at node-1 fell from 60 to 59 mJ before reading 2",
        "the energy counter of GPU-node-1-0 at node-1 fell 1 times within reading 4",
        "the energy counter of GPU-node-1-1 at node-1 fell 1 times within reading 4",
    ]
    assert set(storage.kinds()) == {"odometer_fell"}


def test_counters_of_a_part_are_compared_with_the_same_part_of_the_span_before(storage: Storage) -> None:
    node = FakeNode(gpus=2)
    for cell, end in ((0, 100), (1, 90)):
        for part in (1, 2):
            gpu = gpu_time(node.uuids[part - 1], CELL_MS, energy_start_mj=end - 5, energy_end_mj=end)
            node.seal(MONDAY_MS + cell * CELL_MS, gpus=[gpu], part=(part, 2))
    storage.take(node)
    assert [finding.text for finding in storage.store.findings()] == [
        f"the energy counter of GPU-node-1-{gpu} at node-1 fell from 100 to 85 mJ before reading {3 + gpu}"
        for gpu in (0, 1)
    ]


def test_more_findings_than_fit_an_entry_are_logged_in_several(storage: Storage) -> None:
    findings = [Finding(at_ms=number, kind="k", subject="s", text=f"{number} " + "x" * 900) for number in range(100)]
    storage.catalog.commit([], now_ms=0, findings=findings)
    parts = [entry.findings for entry in storage.logged() if isinstance(entry, FindingsEntry)]
    assert len(parts) == 3
    assert [finding for part in parts for finding in part] == findings == storage.store.findings()
    assert check_log(storage.catalog.log).failures == []


def test_a_finding_is_no_longer_than_a_person_reads(storage: Storage) -> None:
    node = FakeNode()
    node.seal(MONDAY_MS)
    for target in ("http://" + letter * 900 for letter in "abab"):
        storage.take(node, target=target)
    assert [len(finding.text) for finding in storage.store.findings()] == [1_000]
