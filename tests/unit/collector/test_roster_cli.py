# SPDX-License-Identifier: Apache-2.0
"""Rosters checked with their lease book, compared, and imported from what a site has."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpuledger_collector.roster import Entry
from gpuledger_collector.roster_change import Bridge, Change, bridge, compare
from gpuledger_collector.roster_files import load_roster
from tests.unit.collector.test_cli import assert_sentence, call

DAY_MS = 86_400_000
NOW_MS = 100 * DAY_MS
HEAD = "uuid,serial,node,site,cluster,pool,model,from,to\n"


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def entry(gpu: str = "GPU-1", node: str = "n1", start: int = 0, end: int | None = None) -> Entry:
    return Entry(gpu=gpu, node=node, from_ms=start * DAY_MS, to_ms=None if end is None else end * DAY_MS)


@pytest.mark.parametrize(
    ("before", "after", "found"),
    [
        ([entry()], [entry()], []),
        ([], [entry(start=101)], [(Change.ADDED, False)]),
        ([], [entry(start=99)], [(Change.ADDED, True)]),
        ([entry()], [entry(end=101)], [(Change.RETIRED, False)]),
        ([entry()], [entry(end=99)], [(Change.RETIRED, True)]),
        ([entry(end=99)], [entry(end=101)], [(Change.RETIRED, True)]),
        ([entry(end=102)], [entry()], [(Change.RETIRED, False)]),
        ([entry()], [], [(Change.REMOVED, True)]),
        ([entry(start=101)], [], [(Change.REMOVED, False)]),
        ([entry()], [entry(node="n2")], [(Change.CHANGED, True)]),
        ([entry()], [entry(end=101), entry(node="n2", start=101)], [(Change.RETIRED, False), (Change.MOVED, False)]),
    ],
)
def test_only_what_lies_ahead_may_change(
    before: list[Entry], after: list[Entry], found: list[tuple[Change, bool]]
) -> None:
    changes = compare(before, after, NOW_MS)
    assert [(change.change, change.rewrites_past) for change in changes] == found


def test_the_bridge_counts_a_gpu_once_wherever_it_moves() -> None:
    entries = [
        entry("A", end=50),
        entry("A", "n2", 50),
        entry("B", end=60),
        entry("C", start=70),
        entry("D", start=200),
    ]
    found = bridge(entries, 10 * DAY_MS, NOW_MS)
    assert found == Bridge(opening=2, added=1, retired=1, closing=2)
    assert found.opening + found.added - found.retired == found.closing


def test_check_names_what_is_wrong_in_the_lease_book(tmp_path: Path) -> None:
    roster = write(tmp_path / "roster.csv", HEAD + "GPU-1,,n1,fra1,,h100,,2026-09-01,\n")
    book = write(tmp_path / "leases.csv", "id,tenant,kind,nodes,from\nA,Acme,paid,n1,2026-09-01\n")
    result = call("roster", "check", roster, "--leases", book)
    assert result.exit_code == 0
    assert "1 leases of 1 tenants, complete from 2026-09-01T00:00:00Z" in result.output
    write(book, "id,tenant,kind,nodes,from\nA,Acme,paid,n9,2026-09-01\n")
    assert_sentence(call("roster", "check", roster, "--leases", book), 2, "leases.csv:2: nodes: n9 has no GPU")


def test_diff_marks_what_changes_the_past_and_ends_with_1(tmp_path: Path) -> None:
    before = write(tmp_path / "before.csv", HEAD + "GPU-1,,n1,,,,,2020-09-01,\nGPU-2,,n1,,,,,2020-09-01,\n")
    same = call("roster", "diff", before, before)
    assert (same.exit_code, same.output) == (0, "0 changes, 0 of them change the past\n")
    after = write(tmp_path / "after.csv", HEAD + "GPU-1,,n1,,,,,2020-09-01,2090-01-01\n")
    result = call("roster", "diff", before, after)
    assert_sentence(result, 1, "1 changes would change the past")
    assert "retired: GPU-1 at n1 ends\n" in result.stdout
    assert "removed: GPU-2 at n1 is no longer in the roster  REWRITES THE PAST\n" in result.stdout


NVIDIA_SMI = """uuid, serial, name
GPU-3b1f7a52-98c4-4d07-a3a1-0c4d6c8f2e11, 1654923012345, NVIDIA H100 80GB HBM3
GPU-6d0d2c77-1b1e-4f3e-8d5c-7a0e52f3c001, [N/A], NVIDIA H100 80GB HBM3
"""


def test_what_nvidia_smi_prints_of_a_node_becomes_a_roster(tmp_path: Path) -> None:
    path = write(tmp_path / "gpus.csv", NVIDIA_SMI)
    result = call("roster", "import", path, "--node", "n1", "--site", "fra1", "--from", "2026-09-01")
    assert result.exit_code == 0, result.output
    first, second = load_roster(write(tmp_path / "roster.csv", result.stdout)).entries
    assert (first.serial, first.model, first.node, first.site) == (
        "1654923012345",
        "NVIDIA H100 80GB HBM3",
        "n1",
        "fra1",
    )
    assert second.serial is None


def test_columns_of_an_inventory_are_named(tmp_path: Path) -> None:
    path = write(tmp_path / "cmdb.csv", "Asset,Host,Commissioned\n165001,n7,2026-01-05\n")
    columns = ("--column", "Asset=serial", "--column", "Host=node", "--column", "Commissioned=from")
    result = call("roster", "import", path, *columns)
    assert result.exit_code == 0, result.output
    (found,) = load_roster(write(tmp_path / "roster.csv", result.stdout)).entries
    assert (found.gpu, found.node) == ("serial:165001", "n7")


@pytest.mark.parametrize(
    ("text", "arguments", "said"),
    [
        ("", (), "gpus.csv: lists no GPU"),
        ("uuid,node\n", (), "gpus.csv: lists no GPU"),
        ("name\nH100\n", (), "gpus.csv:1: no column is the roster's uuid or serial"),
        ("uuid,node\nGPU-1,n1\n", (), "gpus.csv:2: from: is missing; give it with --from"),
        ("uuid,from\nGPU-1,2026-09-01\n", (), "gpus.csv:2: node: is missing; give it with --node"),
        ("uuid,node\n[N/A],n1\n", ("--from", "2026-09-01"), "gpus.csv:2: uuid: neither uuid nor serial"),
        ("uuid,node\nGPU-1\n", (), "gpus.csv:2: 1 cells, and the header has 2"),
        ("uuid,gpu_uuid\na,b\n", (), "gpus.csv:1: two columns are the roster's uuid"),
        ("uuid\na\n", ("--column", "x=node"), "gpus.csv:1: there is no column 'x'"),
        ("uuid\na\n", ("--column", "x"), "--column: 'x' is not HEADING=KEY"),
        ("uuid,node,from\na,n,yesterday\n", (), "imported.csv:2: from: 'yesterday' is not a date"),
        ("uuid,node,from\na,n,2026-09-01\na,m,2026-09-02\n", (), "imported.csv:3: from: a is then still in service"),
    ],
)
def test_what_is_no_inventory_is_said_in_a_sentence(
    tmp_path: Path, text: str, arguments: tuple[str, ...], said: str
) -> None:
    assert_sentence(call("roster", "import", write(tmp_path / "gpus.csv", text), *arguments), 2, said)
