# SPDX-License-Identifier: Apache-2.0
"""`gpuledger log check` proves the log again and says, one sentence for each fault, where it does not hold."""

import base64
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from gpuledger.cells import CELL_MS
from gpuledger.checkpoint import Checkpoint, line_of, note_of, sign_checkpoint
from gpuledger.reading import digest
from gpuledger.states import State
from gpuledger_collector.catalog import origin_entry
from gpuledger_collector.check import Checked, check_log
from gpuledger_collector.closing import ClockEntry, seal_clock
from gpuledger_collector.entries import (
    EnrolmentEntry,
    OriginEntry,
    OwnEntry,
    ReadingEntry,
    RevocationEntry,
    RosterEntry,
    encode,
)
from gpuledger_collector.log import Identity
from gpuledger_collector.tiles import LogReader
from tests.fakes.logs import IDENTITY, open_log
from tests.fakes.readings import MONDAY_MS, FakeNode, Sealed, key_of
from tests.fakes.storage import Storage

BUSY = {State.BUSY: 200_000}
ORIGIN = origin_entry(IDENTITY, 0)

Loggable = ReadingEntry | OwnEntry | bytes


def entry_of(sealed: Sealed) -> ReadingEntry:
    return ReadingEntry(
        envelope=sealed.envelope, workloads=sealed.workloads, digest=sealed.digest, reading=sealed.reading
    )


def enrolment_of(node: FakeNode) -> EnrolmentEntry:
    return EnrolmentEntry(
        node_id=node.node_id, public_key=node.key.public_bytes, node=node.name, how="first sight", at_ms=0
    )


def records(entries: Sequence[Loggable]) -> list[tuple[bytes, bytes | None]]:
    return [(entry, None) if isinstance(entry, bytes) else encode(entry, IDENTITY.key) for entry in entries]


def check(directory: Path, *entries: Loggable, origin: Loggable | None = ORIGIN) -> Checked:
    with open_log(directory) as log:
        log.append(records(entries if origin is None else (origin, *entries)), 0)
    return check_log(LogReader(directory))


def test_a_log_that_intake_wrote_holds(storage: Storage) -> None:
    node, other = FakeNode(gpus=2), FakeNode(name="node-2")
    node.seal_cells(MONDAY_MS, 5, BUSY)
    other.seal_cells(MONDAY_MS, 3)
    storage.take(node)
    storage.take(other)
    storage.refresh()
    checked = check_log(LogReader(storage.directory / "log"))
    assert checked.entries == {"origin": 1, "reading": 8, "enrolment": 2, "clock": 4, "roster": 1}
    assert (checked.signatures, checked.repeated, checked.failures, checked.findings) == (16, 0, [], [])
    log = storage.catalog.log
    assert (checked.size, checked.root) == (log.size, log.root)
    assert checked.keys == {log.identity.origin: log.identity.key.public_bytes}


def test_what_intake_found_is_said_again_and_is_no_failure(storage: Storage) -> None:
    node = FakeNode()
    node.seal_cells(MONDAY_MS, 3)
    storage.take(node, [node.sealed[0], node.sealed[2]])
    checked = check_log(storage.catalog.log)
    assert checked.failures == []
    assert any("sequence_gap: reading 2 of node-1" in text for text in checked.findings)
    assert any("reading 3 of node-1: the reading before it is not in the log" in text for text in checked.findings)


# ---------------------------------------------------------------------------------------------- files


def spoil(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def truncate(path: Path, size: int) -> None:
    os.truncate(path, size)


@pytest.mark.parametrize(
    ("name", "harm", "said"),
    [
        ("tile/entries/000", lambda path: spoil(path, 5), ["tile/entries/000: entry 0 does not have the hash that"]),
        ("tile/entries/000", lambda path: path.unlink(), ["tile/entries/000: is missing, and the log has it"]),
        ("tile/entries/001", lambda path: truncate(path, 99), ["tile/entries/001: ends within entry"]),
        ("tile/0/000", lambda path: spoil(path, 70), ["000: entry 2 does not have", "tile/1/000: hash 0 is not"]),
        ("tile/0/000", lambda path: path.unlink(), ["tile/0/000: is missing"]),
        ("tile/0/002", lambda path: truncate(path, 3), ["tile/0/002: ends at 3, and the log has more"]),
        ("tile/1/000", lambda path: spoil(path, 40), ["tile/1/000: hash 1 is not that of tile 1 of level 0"]),
        ("tile/1/000", lambda path: path.unlink(), ["tile/1/000: is missing"]),
        ("workloads/001", lambda path: path.unlink(), ["workloads/001: is missing", "what lies beside its batch of"]),
        ("workloads/002", lambda path: spoil(path, 3), ["what lies beside its batch of 90 entries was changed"]),
        ("checkpoint", lambda path: spoil(path, 30), ["log/checkpoint: note: the signature of"]),
        ("checkpoint", lambda path: path.write_bytes(b""), ["log/checkpoint: note: no text"]),
    ],
    ids=range(12),
)
def test_every_kind_of_damage_is_named_by_file_and_entry(
    tmp_path: Path, name: str, harm: Callable[[Path], None], said: list[str]
) -> None:
    entry = encode(RosterEntry(is_declared=True), IDENTITY.key)[0]
    with open_log(tmp_path / "log") as log:
        log.append(records([ORIGIN]), 0)
        for _ in range(6):
            log.append([(entry, b"what came with it")] * 90, 0)
    clean = check_log(LogReader(tmp_path / "log"))
    assert (clean.size, clean.failures) == (548, [])
    harm(tmp_path / "log" / name)
    failures = check_log(LogReader(tmp_path / "log")).failures
    for text in said:
        assert any(text in failure for failure in failures), failures


def test_one_damaged_entry_hides_no_other(storage: Storage) -> None:
    node = FakeNode()
    node.seal_cells(MONDAY_MS, 3)
    storage.take(node)
    path = storage.directory / "log" / "tile" / "entries" / "000"
    log = storage.catalog.log
    place = sum(2 + len(leaf.data) for leaf in list(log.iterate())[:4])
    spoil(path, place + 200)
    spoil(path, place + 2 + len(log.read(5).data) + 3000)
    failures = check_log(LogReader(log.path)).failures
    assert {number for number in range(9) for text in failures if f"entry {number} does not have" in text} == {4, 5}


def test_a_tree_that_is_whole_and_not_the_one_that_was_signed_is_a_failure(tmp_path: Path) -> None:
    for name in ("one", "other"):
        with open_log(tmp_path / name) as log:
            log.append(records([ORIGIN, replace(ORIGIN, origin=name)]), 0)
    (tmp_path / "one" / "checkpoint").write_bytes((tmp_path / "other" / "checkpoint").read_bytes())
    failures = check_log(LogReader(tmp_path / "one")).failures
    assert any("checkpoint: its origin is log.example/fra1, and the log names one" in text for text in failures)
    check(tmp_path / "a", enrolment_of(FakeNode()))
    check(tmp_path / "b", enrolment_of(FakeNode(name="b")))
    (tmp_path / "a" / "checkpoint").write_bytes((tmp_path / "b" / "checkpoint").read_bytes())
    (failure,) = check_log(LogReader(tmp_path / "a")).failures
    assert failure.endswith("checkpoint: the tree of its 3 entries does not have the root that it says")


def test_an_empty_log_holds(tmp_path: Path) -> None:
    checked = check_log(LogReader(tmp_path))
    assert (checked.failures, checked.findings) == ([], ["the log is empty"])


# ---------------------------------------------------------------------------------------------- the log's own entries


def test_a_log_that_does_not_begin_with_its_origin_is_a_failure(tmp_path: Path) -> None:
    checked = check(tmp_path, enrolment_of(FakeNode()), origin=None)
    assert "entry 0: the public key to verify with is none" in checked.failures[0]


def test_an_entry_of_ours_under_another_key_is_a_failure(tmp_path: Path) -> None:
    forged = encode(enrolment_of(FakeNode()), key_of("somebody else"))[0]
    (failure,) = check(tmp_path, forged).failures
    assert "tile/entries/000: entry 1: envelope: no signature of key" in failure


def test_an_origin_that_continues_nothing_and_one_that_was_before_are_failures(tmp_path: Path) -> None:
    checked = check(tmp_path, replace(ORIGIN, previous="log.example/lost"))
    assert any("entry 1: names log.example/fra1 as a new origin, and the log was" in one for one in checked.failures)
    assert any("entry 1: says that it continues log.example/lost" in one for one in checked.failures)


def test_a_new_origin_is_a_finding_and_signs_from_there_on(tmp_path: Path) -> None:
    successor = Identity(origin="log.example/fra1-2", key=key_of("new"))
    entry = origin_entry(successor, 0, previous=IDENTITY.origin, seen="a later checkpoint")
    with open_log(tmp_path) as log:
        log.append(records([ORIGIN]), 0)
        log.append([encode(entry, successor.key)], 0, successor=successor)
        log.append([encode(enrolment_of(FakeNode()), successor.key)], 0)
    checked = check_log(LogReader(tmp_path))
    assert checked.failures == []
    assert list(checked.keys) == ["log.example/fra1", "log.example/fra1-2"]
    (finding,) = checked.findings
    assert "continues log.example/fra1, of which agents had been shown a later checkpoint" in finding


def test_a_clock_entry_that_closes_another_batch_is_a_failure(tmp_path: Path) -> None:
    clock = seal_clock(ClockEntry(at_ms=0, size=7, root="00", beside="00"), IDENTITY.key)
    checked = check(tmp_path, clock)
    assert any("entry 1: does not close the 1 entries before it" in text for text in checked.failures)
    assert any("entry 1: what lies beside its batch of 1 entries was changed" in text for text in checked.failures)


def test_an_entry_that_is_not_legible_or_unknown_and_a_key_that_is_not_the_nodes_are_failures(tmp_path: Path) -> None:
    node = FakeNode()
    wrong = replace(enrolment_of(node), node_id="0" * 64)
    unknown = IDENTITY.key.seal("application/vnd.gpuledger.surprise.v1+json", b"{}")
    loose = IDENTITY.key.seal("application/vnd.gpuledger.roster.v1+json", b'{ "is_declared":true}')
    checked = check(tmp_path, b"{", unknown, loose, wrong, RevocationEntry(node_id="1", node="n", from_ms=0, at_ms=0))
    said = ["not a DSSE envelope", "is not known to this version", "not in its one form", "does not have the node id"]
    assert len(checked.failures) == 5
    for text, failure in zip([*said, "revokes a key of n that was not enrolled before"], checked.failures, strict=True):
        assert text in failure


def test_more_failures_than_anyone_reads_are_counted(tmp_path: Path) -> None:
    checked = check(tmp_path, *[b"{%d" % number for number in range(150)])
    assert (checked.failure_count, len(checked.failures)) == (150, 100)


# ---------------------------------------------------------------------------------------------- readings


def test_a_changed_reading_in_an_envelope_that_is_whole_is_a_failure(tmp_path: Path) -> None:
    node = FakeNode()
    sealed = node.seal(MONDAY_MS, states_ms=BUSY)
    envelope = json.loads(sealed.envelope)
    payload = base64.b64decode(envelope["payload"]).replace(b'"interval_ms":1000', b'"interval_ms":2000')
    envelope["payload"] = base64.b64encode(payload).decode()
    forged = json.dumps(envelope, sort_keys=True, separators=(",", ":")).encode()
    (failure,) = check(tmp_path, enrolment_of(node), forged).failures
    assert "entry 2, reading 1 of node-1: envelope: the signature of key" in failure


def test_workloads_that_are_not_the_readings_own_are_a_failure(tmp_path: Path) -> None:
    node = FakeNode()
    forged = replace(entry_of(node.seal(MONDAY_MS, states_ms=BUSY)), workloads=b"[]")
    (failure,) = check(tmp_path, enrolment_of(node), forged).failures
    assert "the blob does not match the digest in the reading" in failure


def test_a_reading_under_a_key_that_was_not_enrolled_before_is_a_failure(tmp_path: Path) -> None:
    node = FakeNode()
    sealed = node.seal(MONDAY_MS)
    (failure,) = check(tmp_path, entry_of(sealed), enrolment_of(node)).failures
    assert "entry 1, reading 1 of node-1: its key was not enrolled before" in failure


def test_a_reading_beyond_its_keys_time_is_a_finding(tmp_path: Path) -> None:
    node = FakeNode()
    first, second = node.seal_cells(MONDAY_MS, 2)
    revoked = RevocationEntry(node_id=node.node_id, node=node.name, from_ms=MONDAY_MS + CELL_MS, at_ms=0)
    checked = check(tmp_path, enrolment_of(node), revoked, entry_of(first), entry_of(second))
    assert checked.failures == []
    (finding,) = checked.findings
    assert "entry 4, reading 2 of node-1: does not count: key" in finding


def test_a_chain_that_does_not_continue_is_a_failure_whatever_the_order_in_the_log(tmp_path: Path) -> None:
    node = FakeNode()
    first, second = node.seal_cells(MONDAY_MS, 2)
    node.previous = digest(b"something else")
    third = node.seal(MONDAY_MS + 2 * CELL_MS)
    backwards = [entry_of(sealed) for sealed in (third, second, first)]
    (failure,) = check(tmp_path, enrolment_of(node), *backwards).failures
    assert "entry 2, reading 3 of node-1: does not continue the reading 2 in the log" in failure


def test_two_readings_of_one_name_and_a_journal_that_starts_anew_are_findings(tmp_path: Path) -> None:
    node = FakeNode()
    first = node.seal(MONDAY_MS)
    node.restart_journal("journal-2")
    again = node.seal(MONDAY_MS + CELL_MS)
    checked = check(tmp_path, enrolment_of(node), entry_of(first), entry_of(again), entry_of(first))
    assert (checked.failures, checked.repeated) == ([], 1)
    assert any("its journal starts anew" in text for text in checked.findings)
    assert any("2 readings 1 of node-1 under one key" in text for text in checked.findings)


# ---------------------------------------------------------------------------------------------- checkpoints


def checkpoint_line(size: int, root: bytes, identity: Identity = IDENTITY) -> str:
    return line_of(sign_checkpoint(Checkpoint(origin=identity.origin, size=size, root=root), identity.key))


def check_carrying(directory: Path, line: Callable[[bytes], str]) -> Checked:
    """Check a log of three entries and a reading that carries a checkpoint, made with the root of the three."""
    node = FakeNode()
    with open_log(directory) as log:
        log.append(records([ORIGIN, enrolment_of(node)]), 0)
        sealed = node.seal(MONDAY_MS, checkpoint=line(log.root))
        log.append(records([entry_of(sealed)]), 0)
    return check_log(LogReader(directory))


def test_a_reading_that_carries_a_checkpoint_stands_after_the_entries_of_it(tmp_path: Path) -> None:
    assert check_carrying(tmp_path / "a", lambda root: checkpoint_line(3, root)).failures == []
    other = Identity(origin="log.example/fra2", key=key_of("2"))
    assert check_carrying(tmp_path / "b", lambda root: checkpoint_line(99, root, other)).failures == []
    assert check_carrying(tmp_path / "c", lambda root: "anything").failures == []
    (failure,) = check_carrying(tmp_path / "d", lambda root: checkpoint_line(4, root)).failures
    assert "entry 3, reading 1 of node-1: was sealed when the log had 4 entries, and stands before them" in failure


def test_a_reading_that_carries_a_checkpoint_of_other_entries_shows_that_the_log_was_rewritten(tmp_path: Path) -> None:
    (failure,) = check_carrying(tmp_path, lambda root: checkpoint_line(3, bytes(32))).failures
    assert "tile/entries/000: entry 3: carries a checkpoint that the first 3 entries do not fit" in failure


def test_a_checkpoint_that_the_log_never_signed_is_a_finding(tmp_path: Path) -> None:
    forger = Identity(origin=IDENTITY.origin, key=key_of("forger"))
    checked = check_carrying(tmp_path, lambda root: checkpoint_line(3, bytes(32), forger))
    assert checked.failures == []
    assert "carries a checkpoint of this log that it never signed" in checked.findings[0]


def test_a_kept_checkpoint_must_be_a_beginning_of_the_log(tmp_path: Path) -> None:
    with open_log(tmp_path) as writer:
        writer.append(records([ORIGIN]), 0)
        kept = writer.note()
        writer.append(records([enrolment_of(FakeNode())]), 0)
        newest = writer.note()
    log = LogReader(tmp_path)
    assert check_log(log, kept).failures == check_log(log, newest).failures == []

    def failure(line: str) -> str:
        (found,) = check_log(log, note_of(line)).failures
        return found

    assert failure(checkpoint_line(2, bytes(32))) == "the first 2 entries are not those of the kept checkpoint"
    assert failure(checkpoint_line(9, bytes(32))) == "the kept checkpoint has 9 entries, and the log has 4"
    other = Identity(origin="log.example/fra2", key=key_of("2"))
    assert "is of log.example/fra2, which this log never was" in failure(checkpoint_line(2, bytes(32), other))
    forger = Identity(origin=IDENTITY.origin, key=key_of("forger"))
    assert "the kept checkpoint: note: not signed by key" in failure(checkpoint_line(2, bytes(32), forger))


def test_an_origin_entry_says_whose_log_it_is() -> None:
    assert isinstance(ORIGIN, OriginEntry)
    assert (ORIGIN.origin, ORIGIN.public_key) == (IDENTITY.origin, IDENTITY.key.public_bytes)
