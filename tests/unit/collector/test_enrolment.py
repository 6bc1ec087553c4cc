# SPDX-License-Identifier: Apache-2.0
"""Who may write under which node's name: keys at first sight, declared keys, their time, their end."""

import base64
import os
from pathlib import Path

import pytest

from gpuledger.cells import CELL_MS
from gpuledger.errors import ConfigurationError
from gpuledger.states import State
from gpuledger_collector.check import check_log
from gpuledger_collector.enrolment_files import load_enrolment
from gpuledger_collector.entries import EnrolmentEntry, RevocationEntry
from gpuledger_collector.verification import Refusal
from tests.fakes.readings import MONDAY_MS, FakeNode
from tests.fakes.storage import Storage

BUSY = {State.BUSY: 200_000}


def key_table(node: FakeNode, **times: str) -> str:
    public_key = base64.b64encode(node.key.public_bytes).decode()
    lines = [f'[[key]]\nnode = "{node.name}"\npublic_key = "{public_key}"']
    return "\n".join([*lines, *(f"{name} = {time}" for name, time in times.items())]) + "\n"


class Enrolled(Storage):
    """Storage with a file of keys, whose changes are seen whatever the clock's grain."""

    def __init__(self, directory: Path, text: str) -> None:
        self.file = directory / "keys.toml"
        self.changes = 0
        self.declare(text)
        super().__init__(directory / "state", enrolment=self.file)

    def declare(self, text: str) -> None:
        self.changes += 1
        self.file.write_text(text)
        os.utime(self.file, (self.changes, self.changes))

    def entries(self) -> list[EnrolmentEntry | RevocationEntry]:
        return [entry for entry in self.logged() if isinstance(entry, EnrolmentEntry | RevocationEntry)]


def busy_ms(storage: Storage) -> int:
    rows = storage.files.rows(0, 2**62)
    return sum(row.account.state_slice_ms.get(State.BUSY, 0) for row in rows) // 7


def test_without_a_file_a_key_counts_at_first_sight_and_is_marked_so(storage: Storage) -> None:
    node = FakeNode()
    storage.take(node, [node.seal(MONDAY_MS)])
    (entry,) = [entry for entry in storage.logged() if isinstance(entry, EnrolmentEntry)]
    assert (entry.node, entry.how) == ("node-1", "first sight")


def test_declared_keys_are_in_the_log_before_anything_of_theirs(tmp_path: Path) -> None:
    node = FakeNode()
    with Enrolled(tmp_path, key_table(node)) as storage:
        assert storage.take(node, [node.seal(MONDAY_MS)]).accepted == 1
        (entry,) = storage.entries()
        assert isinstance(entry, EnrolmentEntry)
        assert (entry.node, entry.how, entry.public_key) == ("node-1", "declared", node.key.public_bytes)
        assert storage.kinds() == []
        assert check_log(storage.catalog.log).failures == []


def test_a_key_that_is_not_declared_is_refused_with_a_finding_and_counts_once_it_is(tmp_path: Path) -> None:
    node, stranger = FakeNode(), FakeNode(name="node-2")
    node.seal_cells(MONDAY_MS, 2)
    stranger.seal_cells(MONDAY_MS, 2)
    with Enrolled(tmp_path, key_table(node)) as storage:
        for _ in range(2):
            result = storage.take(stranger, target="http://node-2:9400", place=("a", "b", "c"))
            assert (result.accepted, dict(result.refused), result.cursor) == (0, {Refusal.UNENROLLED: 2}, 0)
        (finding,) = storage.store.findings()
        assert (finding.kind, finding.subject) == ("unenrolled", "node-2")
        assert finding.text == f"node-2 serves readings, and key {stranger.node_id[:16]} is not among the enrolled keys"
        assert storage.store.contacts() == []
        storage.declare(key_table(node) + key_table(stranger))
        storage.refresh()
        assert storage.take(stranger).accepted == 2


def test_a_key_may_not_write_under_another_nodes_name(tmp_path: Path) -> None:
    node = FakeNode()
    with Enrolled(tmp_path, key_table(node)) as storage:
        node.seal(MONDAY_MS, node_name="node-2")
        assert dict(storage.take(node).refused) == {Refusal.UNENROLLED: 1}
        assert f"key {node.node_id[:16]} is enrolled for node-1, and not for node-2" in storage.store.findings()[0].text


def test_keys_met_at_first_sight_end_when_a_file_without_them_is_declared(tmp_path: Path) -> None:
    node, other = FakeNode(), FakeNode(name="node-2")
    node.seal_cells(MONDAY_MS, 4, BUSY)
    with Storage(tmp_path / "state") as storage:
        storage.take(node, node.sealed[:2], place=("fra1", "train", "h100"))
    with Enrolled(tmp_path, key_table(other)) as enrolled:
        (first, declared, revoked) = enrolled.entries()
        assert (first.node, declared.node, revoked.node) == ("node-1", "node-2", "node-1")
        assert isinstance(revoked, RevocationEntry)
        assert revoked.from_ms == enrolled.now_ms
        assert dict(enrolled.take(node).refused) == {Refusal.UNENROLLED: 2}
        enrolled.refresh()
        assert busy_ms(enrolled) == 2 * 8 * 200_000
        enrolled.reopen()
        assert len(enrolled.entries()) == 3


def test_a_revoked_key_loses_what_it_sealed_after_that_logged_before_or_not(tmp_path: Path) -> None:
    node = FakeNode(gpus=1)
    node.seal_cells(MONDAY_MS, 6, BUSY)
    with Enrolled(tmp_path, key_table(node)) as storage:
        storage.take(node, node.sealed[:4], place=("fra1", "train", "h100"))
        storage.refresh()
        assert busy_ms(storage) == 4 * 200_000
        storage.declare(key_table(node, revoked="2026-11-02T00:10:00Z"))
        storage.refresh()
        assert busy_ms(storage) == 2 * 200_000
        result = storage.take(node)
        assert (result.accepted, dict(result.refused), result.cursor) == (0, {Refusal.REVOKED: 2}, 6)
        assert "revoked" in storage.kinds()
        digest = storage.files.digest(0, 2**62)
        storage.keeper.rebuild()
        assert storage.files.digest(0, 2**62) == digest
        storage.declare(key_table(node))
        storage.refresh()
        assert busy_ms(storage) == 4 * 200_000
        assert check_log(storage.catalog.log).failures == []


def test_a_rotation_takes_both_keys_while_their_times_overlap(tmp_path: Path) -> None:
    old, new = FakeNode(gpus=1), FakeNode(gpus=1, key_name="new key", session="session-2", journal="journal-2")
    old.seal_cells(MONDAY_MS, 5, BUSY)
    new.seal(MONDAY_MS, states_ms=BUSY)
    new.seal_cells(MONDAY_MS + 3 * CELL_MS, 4, BUSY)
    text = key_table(old, to="2026-11-02T00:20:00Z") + key_table(new, **{"from": "2026-11-02T00:10:00Z"})
    with Enrolled(tmp_path, text) as storage:
        assert storage.take(old, old.sealed[:3]).accepted == 3
        assert dict(storage.take(old, old.sealed[3:]).refused) == {Refusal.REVOKED: 1}
        assert dict(storage.take(new).refused) == {Refusal.REVOKED: 1}
        texts = [finding.text for finding in storage.store.findings()]
        assert any("counted until 1793578800000 only" in text for text in texts)
        assert any("counts from 1793578200000 on only" in text for text in texts)
        assert [known.node for known in storage.store.enrolments()] == ["node-1", "node-1"]
        assert "node_key_changed" not in storage.kinds()


def test_a_file_that_turns_bad_changes_nothing_and_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    node = FakeNode()
    with Enrolled(tmp_path, key_table(node)) as storage:
        storage.declare("[[key]]\n")
        for _ in range(2):
            storage.refresh()
        assert storage.enrolment.error is not None
        assert [record.msg for record in caplog.records].count("enrolment_unusable") == 1
        assert len(storage.entries()) == 1
        storage.declare(key_table(node))
        storage.refresh()
        assert storage.enrolment.error is None


def test_the_index_knows_the_same_keys_when_it_is_read_again_from_the_log(tmp_path: Path) -> None:
    node, other = FakeNode(), FakeNode(name="node-2")
    with Enrolled(tmp_path, key_table(node, to="2027-01-01") + key_table(other)) as storage:
        storage.take(node, [node.seal(MONDAY_MS)])
        storage.declare(key_table(node, to="2026-12-01", revoked="2026-11-05"))
        storage.refresh()
        before = storage.store.enrolments()
        assert [known.revoked_ms is not None for known in before] == [True, True]
        storage.catalog.reindex()
        assert storage.store.enrolments() == before


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "keys.toml: lists no key: nothing would count"),
        ("[keys]\n", "keys.toml:1: keys: unknown key; legal keys: key"),
        ("[key]\n", r"keys.toml:1: key: write each as a table \[\[key\]\]"),
        ('[[key]]\nnode = "a"\n', "keys.toml:1: public_key: is missing"),
        ('[[key]]\npublic_key = "AAAA"\n', "keys.toml:2: public_key: has 3 bytes, not 32"),
        ('[[key]]\npublic_key = "?"\n', r"keys.toml:2: public_key: '\?' is not base64"),
        (f'[[key]]\npublic_key = "{"A" * 43}="\n', "keys.toml:1: node: is missing"),
        (key_table(FakeNode()) * 2, "keys.toml:6: public_key: stands here twice; before, for node-1"),
        (key_table(FakeNode(), to="2026-11-01", **{"from": "2026-11-02"}), "keys.toml:4: to: 2026-11-01 is not after"),
        (key_table(FakeNode(), until="2026-11-01"), "keys.toml:4: until: unknown key; legal keys: node, public_key"),
    ],
    ids=range(10),
)
def test_a_file_that_is_wrong_is_refused_by_line_and_field(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "keys.toml").write_text(text)
    with pytest.raises(ConfigurationError, match=said):
        load_enrolment(tmp_path / "keys.toml")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        load_enrolment(tmp_path / "none.toml")
