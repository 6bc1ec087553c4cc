# SPDX-License-Identifier: Apache-2.0
"""The benchmark of scale: its nodes are genuine to a real intake; its page holds figures against bounds."""

import base64
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from gpuledger.cells import CELL_MS, DAY_MS
from gpuledger_collector.answers import Cursor
from gpuledger_collector.batch import BatchResult, Offer
from gpuledger_collector.ledger_files import DIRECTORY, LedgerFiles
from gpuledger_collector.store import Store
from tests.fakes.readings import MONDAY_MS, FakeNode
from tests.fakes.storage import Storage
from tests.perf.page import machine
from tests.perf.scale import read, write
from tests.perf.scale_fleet import Pattern, ScaleNode, make_nodes
from tests.perf.scale_report import HOUR_SLICE_MS, HOURS, SITES, write_ledger
from tests.perf.scale_report import MONDAY_MS as WEEK_MS
from tests.perf.scale_server import address_of, place_of
from tests.perf.scale_table import END, Asked, Measured, Peer, Reported, Steady, faults, render, rows

STEADY = Steady(
    nodes=12_500,
    cells=2.0,
    cpu_s=300.0,
    polls=250_000,
    readings=25_000,
    settled_cells=2,
    quiet_cpu_s=100.0,
    quiet_polls=200_000,
    memory_mib=1_500.0,
    grown_bytes={"log": 2_500_000_000, "index": 0, "ledger": 0},
)
SMALL = replace(STEADY, nodes=125, cpu_s=3.0, polls=2_500, readings=250)
PEER_SIZE = replace(STEADY, nodes=250, cpu_s=1.0, polls=5_000, readings=500)
REPORT = Reported(gpus=100_000, rows=16_800_000, seconds=19.0, cpu_s=30.0, memory_mib=1_900.0, ledger_bytes=10**9)
MEASURED = Measured(
    machine="a machine",
    steady=[SMALL, STEADY, PEER_SIZE],
    peer=Peer(name="Prometheus 2.42.0", nodes=250, cpu_s_per_cell=8.0, memory_mib=300.0),
    reported=[replace(REPORT, gpus=1_000, rows=168_000, seconds=1.0), REPORT],
    asked=[
        Asked(name="gpuledger", series=2_000, samples=336_000, seconds=0.1, cpu_s=0.1),
        Asked(name="Prometheus 2.42.0", series=100, samples=4_032_000, seconds=0.2, cpu_s=0.2),
        Asked(name="VictoriaMetrics 1", series=500, samples=20_160_000, seconds=0.1, cpu_s=0.1),
    ],
)


def pattern_of(agent: FakeNode) -> Pattern:
    """What a real agent would have said: it has GPUs and serial numbers as simulated ones have."""
    pattern = Pattern()
    document = agent.answer() | {"live": None}
    text = json.dumps(document)
    pattern.take(json.loads(text))
    return pattern


def agent(cells: int = 2) -> FakeNode:
    node = FakeNode("pattern", gpus=2, simulated=True)
    node.seal_cells(MONDAY_MS, cells)
    return node


def ask(storage: Storage, node: ScaleNode, cursor: Cursor | None = None) -> dict[str, Any]:
    after = 0 if cursor is None else cursor.sequence
    checkpoint = storage.catalog.log.line
    assert checkpoint is not None
    body: dict[str, Any] = json.loads(node.answer(f"after={after}&limit=192&checkpoint={quoted(checkpoint)}"))
    return body


def quoted(text: str) -> str:
    return text.replace("%", "%25").replace("+", "%2B").replace(" ", "%20").replace("\\n", "%0A")


def test_every_node_is_genuine_and_another_to_a_real_intake(tmp_path: Path) -> None:
    pattern = pattern_of(agent())
    (nodes,) = make_nodes([3], [pattern])
    with Storage(tmp_path, accept_simulated=True) as storage:
        offers = [Offer(document=ask(storage, node), target=node.name) for node in nodes]
        results = storage.intake.accept_all(offers, now_ms=storage.now_ms)
        assert [result.accepted for result in results if isinstance(result, BatchResult)] == [2, 2, 2]
        assert storage.kinds() == []
        assert storage.store.is_simulated()
        again = [ask(storage, node, Cursor(journal="", sequence=2)) for node in nodes]
        assert [page["readings"] for page in again] == [[], [], []]
        assert {page["last_sequence"] for page in again} == {2}


def test_a_node_goes_on_with_its_pattern_and_shows_the_checkpoint_it_was_shown(tmp_path: Path) -> None:
    played = agent()
    pattern = pattern_of(played)
    (node,) = make_nodes([1], [pattern])[0]
    with Storage(tmp_path, accept_simulated=True) as storage:
        storage.intake.accept_batch(ask(storage, node), now_ms=storage.now_ms)
        played.seal(MONDAY_MS + 2 * CELL_MS)
        pattern.take(played.answer())
        page = ask(storage, node, Cursor(journal="", sequence=2))
        assert page["checkpoints"] == [storage.catalog.log.line]
        (item,) = page["readings"]
        payload = json.loads(base64.b64decode(json.loads(item["envelope"])["payload"]))
        assert (payload["sequence"], payload["checkpoint"]) == (3, storage.catalog.log.line)
        assert storage.intake.accept_batch(page, now_ms=storage.now_ms).accepted == 1
        assert storage.kinds() == []


def test_an_address_says_which_node_is_meant() -> None:
    for fleet, node in ((0, 0), (3, 255), (2, 256), (0, 12_499)):
        assert place_of(address_of(fleet, node)) == (fleet, node)


def test_the_week_of_rows_accounts_for_every_gpu_and_hour_and_says_that_it_is_simulated(tmp_path: Path) -> None:
    write_ledger(tmp_path, 80)
    with Store(tmp_path, read_only=True) as store:
        files = LedgerFiles(tmp_path / DIRECTORY, store)
        groups = files.sum_by(["site"], WEEK_MS, WEEK_MS + 7 * DAY_MS)
    assert len(groups) == SITES
    assert sum(group.account.installed_slice_ms for group in groups) == 80 * HOURS * HOUR_SLICE_MS
    assert all(group.simulated for group in groups)


def test_polls_that_did_not_happen_are_counted_at_the_cost_of_those_that_did() -> None:
    assert STEADY.cpu_s_per_cell == 150.0
    half = replace(STEADY, polls=125_000)
    assert half.poll_ms == 0.5
    assert half.cpu_s_per_cell == (300.0 + 125_000 * 0.0005) / 2


def broken(measured: Measured) -> set[str]:
    return {row.name for row in rows(measured) if row.is_broken}


def test_what_keeps_its_bounds_has_no_fault() -> None:
    assert faults(MEASURED) == []
    assert "| polling 12,500 nodes × 8 GPUs, cores | 0.50 | ≤ 1.00 | - | - | yes |" in render(MEASURED)


def test_each_bound_breaks_by_itself() -> None:
    heavy = [SMALL, replace(STEADY, cpu_s=601.0, memory_mib=2_049.0), PEER_SIZE]
    names = broken(replace(MEASURED, steady=heavy))
    assert {name.partition(",")[0] for name in names} == {"polling 12", "CPU time a node"}
    assert len(names) == 3
    assert broken(replace(MEASURED, peer=Peer(name="Prometheus", nodes=250, cpu_s_per_cell=4.9, memory_mib=1.0)))
    slow = [REPORT, replace(REPORT, gpus=1_000, seconds=0.1)]
    assert len(broken(replace(MEASURED, reported=slow))) == 1
    ours, *others = MEASURED.asked
    assert len(broken(replace(MEASURED, asked=[replace(ours, seconds=0.5), *others]))) == 2


def test_what_did_not_come_to_its_end_is_said() -> None:
    behind = replace(STEADY, readings=20_000, settled_cells=1)
    late = replace(REPORT, why_not="ended after 400 s")
    found = faults(replace(MEASURED, steady=[SMALL, behind, PEER_SIZE], reported=[late]))
    assert any("20,000 readings came in and 1 cells were settled" in fault for fault in found)
    assert "not yet: the collector did not keep up" in render(replace(MEASURED, steady=[SMALL, behind]))
    assert replace(STEADY, quiet_polls=12_499).poll_ms is None
    assert any("ended after 400 s" in fault for fault in found)


def test_what_a_person_wrote_below_the_tables_stays(tmp_path: Path) -> None:
    page = tmp_path / "scale.md"
    write(page, render(MEASURED))
    page.write_text(page.read_text(encoding="utf-8") + "\n## Method\n\nBy hand.\n", encoding="utf-8")
    write(page, render(replace(MEASURED, machine="another machine")))
    text = page.read_text(encoding="utf-8")
    assert "another machine" in text
    assert text.endswith(END + "\n## Method\n\nBy hand.\n")


def test_without_any_figure_there_is_a_page_without_figures(tmp_path: Path) -> None:
    measured = read(tmp_path)
    assert rows(measured) == []
    assert measured.machine == machine()
    assert END in render(measured)
