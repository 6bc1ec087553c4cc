# SPDX-License-Identifier: Apache-2.0
"""The lease book in force: logged when its file changes, kept when it turns bad, and found where the past changes."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpuledger.cells import CELL_MS, HOUR_MS
from gpuledger.errors import ConfigurationError
from gpuledger.states import State
from gpuledger_collector.given_entries import LeasesEntry
from gpuledger_collector.leases import Commercial
from tests.fakes.readings import MONDAY_MS, FakeNode
from tests.fakes.storage import Storage

LEASE = """\
[[lease]]
id = "L-1"
tenant = "Acme GmbH"
kind = "paid"
gpus = ["GPU-node-1-0"]
from = 2026-11-01
"""
MORE = """\
[[lease]]
id = "L-2"
tenant = "Research"
kind = "internal"
nodes = ["node-2"]
from = {from}
"""


@pytest.fixture
def book(tmp_path: Path) -> Path:
    path = tmp_path / "leases.toml"
    path.write_text(LEASE, encoding="utf-8")
    return path


def rewritten(storage: Storage) -> list[str]:
    return [found.text for found in storage.store.findings() if found.kind == "lease_rewritten"]


def test_a_lease_in_the_file_is_in_the_log_the_ledger_and_after_a_rebuild(tmp_path: Path, book: Path) -> None:
    with Storage(tmp_path / "state", leases=book) as storage:
        node = FakeNode(gpus=2)
        node.seal_cells(MONDAY_MS, 12, {State.FREE: CELL_MS})
        storage.take(node)
        storage.refresh()
        span = MONDAY_MS, MONDAY_MS + HOUR_MS
        paid, unsold = storage.files.commerce(*span)
        assert (paid.kind, paid.lease, paid.tenant_name) == (Commercial.PAID, "L-1", "Acme GmbH")
        assert paid.low_slice_ms == {State.RESERVED: HOUR_MS * 7}
        assert (unsold.kind, unsold.low_slice_ms) == (Commercial.UNSOLD, {State.FREE: HOUR_MS * 7})
        assert rewritten(storage) == []
        digest = storage.files.digest(*span)
        storage.keeper.rebuild()
        assert storage.files.digest(*span) == digest
        assert b"Acme" not in b"".join(leaf.data for leaf in storage.catalog.log.iterate())


def test_a_book_that_stays_as_it_is_is_logged_once(tmp_path: Path, book: Path) -> None:
    with Storage(tmp_path / "state", leases=book) as storage:
        storage.refresh()
        storage.refresh()
        storage.reopen()
        storage.refresh()
        assert sum(isinstance(entry, LeasesEntry) for entry in storage.logged()) == 1


def test_a_lease_that_begins_later_is_no_finding_and_one_that_began_is(tmp_path: Path, book: Path) -> None:
    with Storage(tmp_path / "state", leases=book) as storage:
        storage.refresh()
        book.write_text(LEASE + MORE.replace("{from}", "2026-12-01"), encoding="utf-8")
        storage.refresh()
        assert rewritten(storage) == []
        book.write_text(LEASE + MORE.replace("{from}", "2026-11-01"), encoding="utf-8")
        storage.refresh()
        assert rewritten(storage) == ["L-2 was changed for time that is over: from"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (LEASE.replace("paid", "voucher"), "L-1 was changed for time that is over: kind"),
        (LEASE + "to = 2026-11-01T12:00:00Z\n", "L-1 was changed for time that is over: to"),
        (LEASE + MORE.replace("{from}", "2026-11-02"), "L-2 was entered after it began, 2026-11-02 00:00 UTC"),
        (
            "[book]\nfrom = 2026-11-01\n" + MORE.replace("{from}", "2026-12-01"),
            "L-1 left the lease book without an end: its past time counts as not leased",
        ),
        ("[book]\nfrom = 2026-10-01\n" + LEASE, "the lease book is complete from 2026-10-01 00:00 UTC on, not"),
    ],
)
def test_a_change_to_the_past_is_a_finding(tmp_path: Path, book: Path, text: str, said: str) -> None:
    with Storage(tmp_path / "state", leases=book) as storage:
        storage.refresh()
        book.write_text(text, encoding="utf-8")
        storage.refresh()
        (found,) = rewritten(storage)
        assert found.startswith(said)


def test_a_lease_that_ends_from_now_on_is_no_finding_and_moves_no_past_time(tmp_path: Path, book: Path) -> None:
    with Storage(tmp_path / "state", leases=book) as storage:
        node = FakeNode(gpus=1)
        node.seal_cells(MONDAY_MS, 12, {State.FREE: CELL_MS})
        storage.take(node)
        storage.refresh()
        before = storage.files.digest(MONDAY_MS, MONDAY_MS + HOUR_MS)
        book.write_text(LEASE + "to = 2026-11-03\n", encoding="utf-8")
        storage.refresh()
        assert rewritten(storage) == []
        assert storage.files.digest(MONDAY_MS, MONDAY_MS + HOUR_MS) == before


def test_a_file_that_turns_bad_changes_nothing_and_says_why(
    tmp_path: Path, book: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Storage(tmp_path / "state", leases=book) as storage:
        storage.refresh()
        book.write_text(LEASE.replace("paid", "gift"), encoding="utf-8")
        storage.refresh()
        storage.refresh()
        assert storage.leases.error is not None
        assert "leases.toml:4: kind: 'gift' is not one of" in storage.leases.error
        assert sum(record.msg == "leases_unusable" for record in caplog.records) == 1
        assert storage.store.leases() is not None
        book.write_text(LEASE, encoding="utf-8")
        storage.refresh()
        assert storage.leases.error is None


def test_a_collector_without_the_file_keeps_what_was_logged(tmp_path: Path, book: Path) -> None:
    with Storage(tmp_path / "state", leases=book) as storage:
        storage.refresh()
    with Storage(tmp_path / "state") as storage:
        storage.refresh()
        known = storage.store.leases()
        assert known is not None
        assert [lease.name for lease in known.leases] == ["L-1"]


def test_a_lease_of_what_a_declared_roster_does_not_have_is_refused_once_it_is_in_force(
    tmp_path: Path, book: Path
) -> None:
    roster = tmp_path / "roster.toml"
    roster.write_text('[[gpu]]\nuuid = "GPU-7"\nnode = "node-7"\nfrom = 2026-11-01\n', encoding="utf-8")
    with Storage(tmp_path / "state", leases=book, roster=roster) as storage:
        storage.refresh()
        assert storage.leases.error is not None
        assert "gpus: GPU-node-1-0 is neither the UUID nor the serial of a GPU in the roster" in storage.leases.error
        assert storage.store.leases() is None


def test_a_bad_book_is_refused_at_the_start(tmp_path: Path, book: Path) -> None:
    book.write_text("[[lease]]\nid = 1\n", encoding="utf-8")
    with pytest.raises(ConfigurationError, match=r"leases\.toml:2: id"):
        Storage(tmp_path / "state", leases=book)


def test_a_lease_of_thousands_of_gpus_comes_back_whole(tmp_path: Path, book: Path) -> None:
    names = [f"GPU-{number:036d}" for number in range(4000)]
    book.write_text(LEASE.replace('["GPU-node-1-0"]', str(names)), encoding="utf-8")
    with Storage(tmp_path / "state", leases=book) as storage:
        storage.refresh()
        known = storage.store.leases()
        assert known is not None
        assert known.leases[0].gpus == tuple(names)
        storage.keeper.rebuild()
        again = storage.store.leases()
        assert again is not None
        assert again.leases == known.leases
        assert sum(isinstance(entry, LeasesEntry) for entry in storage.logged()) > 1
