# SPDX-License-Identifier: Apache-2.0
"""Lease books: what they mean, and where they are wrong."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

import pytest

from gpuledger.errors import ConfigurationError
from gpuledger_collector.lease_files import load_leases
from gpuledger_collector.leases import Commercial, Lease
from gpuledger_collector.roster import Entry

DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "leases.md"
LEASE = '[[lease]]\nid = "A"\ntenant = "Acme"\nkind = "paid"\nfrom = 2026-09-01\n'
POOL_LINES = 'pool = "h100"\ncount = 1\n'
ROSTER = (Entry(gpu="GPU-1", serial="165", node="n1", site="fra1", pool="h100", from_ms=0),)


def ms(text: str) -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 1000


def example(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    return found[1]


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


NODES = Lease(
    name="L-2026-014",
    tenant="Acme GmbH",
    kind=Commercial.PAID,
    nodes=("node-001", "node-002"),
    signed_ms=ms("2026-08-12"),
    from_ms=ms("2026-09-01"),
    to_ms=ms("2027-09-01"),
    price="h100-reserved",
)
POOL = Lease(
    name="L-2026-020",
    tenant="Research",
    kind=Commercial.INTERNAL,
    pool="h100",
    site="fra1",
    count=64,
    from_ms=ms("2026-10-01T08:00"),
)


def test_the_documents_toml_example_means_what_it_says(tmp_path: Path) -> None:
    declared = load_leases(write(tmp_path / "leases.toml", example("toml")))
    assert declared.book.leases == (NODES, POOL)
    assert declared.book.from_ms == ms("2026-01-01")


def test_the_documents_csv_example_means_what_it_says(tmp_path: Path) -> None:
    declared = load_leases(write(tmp_path / "leases.csv", example("csv")))
    assert declared.book.leases == (NODES, POOL)
    assert declared.book.from_ms == NODES.signed_ms


def test_a_toml_book_may_keep_its_leases_in_a_csv_file(tmp_path: Path) -> None:
    write(tmp_path / "leases.csv", example("csv"))
    declared = load_leases(write(tmp_path / "leases.toml", 'leases_csv = "leases.csv"\n'))
    assert declared.book.leases == (NODES, POOL)
    assert [path.name for path in declared.files] == ["leases.toml", "leases.csv"]


def test_a_book_without_leases_says_from_when_on_nothing_is_leased(tmp_path: Path) -> None:
    declared = load_leases(write(tmp_path / "leases.toml", "[book]\nfrom = 2026-09-01\n"))
    assert (declared.book.leases, declared.book.from_ms) == ((), ms("2026-09-01"))


def test_a_serial_names_the_gpu_of_the_roster(tmp_path: Path) -> None:
    declared = load_leases(write(tmp_path / "leases.toml", LEASE + 'gpus = ["165", "GPU-1"]\n'), ROSTER)
    assert declared.book.leases[0].gpus == ("GPU-1",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "leases.toml: lists no lease"),
        ("[book]\n", "leases.toml: lists no lease"),
        ("[book]\nto = 2026-09-01\n", r"leases.toml:1: to: unknown key; legal keys: from"),
        ('[[gpu]]\nuuid = "x"\n', "leases.toml:1: gpu: unknown key; legal keys: book, lease, leases_csv"),
        (LEASE, "leases.toml:1: gpus: give gpus, nodes, or pool and count"),
        (LEASE + 'gpus = ["GPU-2"]\n', "leases.toml:6: gpus: GPU-2 is neither"),
        (LEASE + 'nodes = ["n2"]\n', "leases.toml:6: nodes: n2 has no GPU"),
        (LEASE + "nodes = 7\n", "leases.toml:6: nodes: is not a list"),
        (LEASE + 'nodes = [""]\n', "leases.toml:6: nodes: has an empty name"),
        (LEASE + 'pool = "b200"\ncount = 1\n', "leases.toml:6: pool: no GPU of the roster is in pool b200"),
        (LEASE + 'pool = "h100"\nsite = "ams2"\ncount = 1\n', "leases.toml:6: pool: .* h100 at ams2"),
        (LEASE + 'pool = "h100"\n', "leases.toml:1: count: pool and count belong together"),
        (LEASE + "count = 3\n", "leases.toml:1: gpus: give gpus"),
        (LEASE + 'nodes = ["n1"]\ncount = 3\n', "leases.toml:1: pool: pool and count belong together"),
        (LEASE + 'nodes = ["n1"]\nsite = "fra1"\n', "leases.toml:7: site: only says where a pool is"),
        (LEASE + 'nodes = ["n1"]\npool = "h100"\ncount = 1\n', "leases.toml:7: pool: a lease is of named"),
        (LEASE + 'pool = "h100"\ncount = 0\n', "leases.toml:7: count: 0 is not a number from 1"),
        (LEASE + 'pool = "h100"\ncount = true\n', "leases.toml:7: count: True is not a number from 1"),
        (LEASE + 'nodes = ["n1"]\nto = 2026-09-01\n', "leases.toml:7: to: 2026-09-01 is not after from"),
        (LEASE + 'nodes = ["n1"]\nsigned = 2026-09-02\n', "leases.toml:7: signed: 2026-09-02 is after from"),
        (
            LEASE.replace("paid", "free") + 'nodes = ["n1"]\n',
            "leases.toml:4: kind: 'free' is not one of internal, paid",
        ),
        (LEASE + 'nodes = ["n1"]\nowner = "me"\n', "leases.toml:7: owner: unknown key; legal keys: id, tenant"),
        (2 * (LEASE + 'nodes = ["n1"]\n'), r"leases.toml:8: id: A stands twice \(leases.toml:1\)"),
        (
            LEASE
            + 'pool = "h100"\ncount = 1\n'
            + LEASE.replace('"A"', '"B"')
            + 'pool = "h100"\nsite = "fra1"\ncount = 1\n',
            r"leases.toml:13: pool: h100 is leased by site and as a whole \(leases.toml:1\)",
        ),
    ],
)
def test_what_is_wrong_is_named_with_file_line_and_field(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        load_leases(write(tmp_path / "leases.toml", text), ROSTER)


def test_a_wrong_cell_of_a_csv_file_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "leases.csv", "id,tenant,kind,pool,count,from\nA,Acme,paid,h100,many,2026-09-01\n")
    with pytest.raises(ConfigurationError, match=r"leases.csv:2: count: 'many' is not a number"):
        load_leases(path)
