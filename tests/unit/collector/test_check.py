# SPDX-License-Identifier: Apache-2.0
"""`gpuledger log check` proves the log again and says where it does not hold."""

import base64
import json
from pathlib import Path

from gpuledger.cells import CELL_MS
from gpuledger.reading import digest
from gpuledger.states import State
from gpuledger_collector.check import Checked, check_log
from gpuledger_collector.entries import ClockEntry, EnrolmentEntry, LogEntry, ReadingEntry, encode
from gpuledger_collector.log import Kind, LogReader, LogWriter
from tests.fakes.readings import MONDAY_MS, FakeNode, Sealed
from tests.fakes.storage import Storage

BUSY = {State.BUSY: 200_000}


def entry_of(sealed: Sealed) -> ReadingEntry:
    return ReadingEntry(
        envelope=sealed.envelope, workloads=sealed.workloads, digest=sealed.digest, reading=sealed.reading
    )


def enrolment_of(node: FakeNode) -> EnrolmentEntry:
    return EnrolmentEntry(
        node_id=node.node_id, public_key=node.key.public_bytes, node=node.name, how="first sight", at_ms=0
    )


def check(directory: Path, *entries: LogEntry | tuple[Kind, bytes]) -> Checked:
    with LogWriter(directory) as log:
        log.append([entry if isinstance(entry, tuple) else encode(entry) for entry in entries])
        return check_log(log)


def test_a_log_that_intake_wrote_holds(storage: Storage) -> None:
    node, other = FakeNode(gpus=2), FakeNode(name="node-2")
    node.seal_cells(MONDAY_MS, 5, BUSY)
    other.seal_cells(MONDAY_MS, 3)
    storage.take(node)
    storage.take(other)
    storage.refresh()
    with LogReader(storage.directory / "log") as log:
        checked = check_log(log)
    assert checked.entries == {"reading": 8, "enrolment": 2, "clock": 3, "roster": 1}
    assert (checked.signatures, checked.repeated, checked.failures, checked.findings) == (8, 0, [], [])


def test_what_intake_found_is_said_again_and_is_no_failure(storage: Storage) -> None:
    node = FakeNode()
    node.seal_cells(MONDAY_MS, 3)
    storage.take(node, [node.sealed[0], node.sealed[2]])
    checked = check_log(storage.catalog.log)
    assert checked.failures == []
    assert any("sequence_gap: reading 2 of node-1" in text for text in checked.findings)
    assert any("reading 3 of node-1: the reading before it is not in the log" in text for text in checked.findings)


def test_damage_in_the_file_is_a_failure(storage: Storage) -> None:
    node = FakeNode()
    node.seal_cells(MONDAY_MS, 3)
    storage.take(node)
    path = storage.directory / "log" / "entries.log"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    (failure,) = check_log(storage.catalog.log).failures
    assert "entries.log: damaged at offset" in failure


def test_a_changed_reading_in_a_frame_that_is_whole_is_a_failure(tmp_path: Path) -> None:
    node = FakeNode()
    sealed = node.seal(MONDAY_MS, states_ms=BUSY)
    envelope = json.loads(sealed.envelope)
    payload = base64.b64decode(envelope["payload"]).replace(b'"interval_ms":1000', b'"interval_ms":2000')
    envelope["payload"] = base64.b64encode(payload).decode()
    forged = ReadingEntry(
        envelope=json.dumps(envelope, sort_keys=True, separators=(",", ":")).encode(),
        workloads=sealed.workloads,
        digest=digest(b""),
        reading=sealed.reading,
    )
    checked = check(tmp_path, enrolment_of(node), forged, ClockEntry(at_ms=0))
    assert len(checked.failures) == 1
    assert "reading 1 of node-1: envelope: the signature of key" in checked.failures[0]


def test_workloads_that_are_not_the_readings_own_are_a_failure(tmp_path: Path) -> None:
    node = FakeNode()
    sealed = node.seal(MONDAY_MS, states_ms=BUSY)
    forged = ReadingEntry(envelope=sealed.envelope, workloads=b"[]", digest=sealed.digest, reading=sealed.reading)
    (failure,) = check(tmp_path, enrolment_of(node), forged, ClockEntry(at_ms=0)).failures
    assert "the blob does not match the digest in the reading" in failure


def test_a_reading_under_a_key_that_was_not_enrolled_before_is_a_failure(tmp_path: Path) -> None:
    node = FakeNode()
    sealed = node.seal(MONDAY_MS)
    (failure,) = check(tmp_path, entry_of(sealed), enrolment_of(node), ClockEntry(at_ms=0)).failures
    assert "reading 1 of node-1: its key was not enrolled before" in failure


def test_a_chain_that_does_not_continue_is_a_failure_whatever_the_order_in_the_log(tmp_path: Path) -> None:
    node = FakeNode()
    first, second = node.seal_cells(MONDAY_MS, 2)
    node.previous = digest(b"something else")
    third = node.seal(MONDAY_MS + 2 * CELL_MS)
    backwards = [entry_of(sealed) for sealed in (third, second, first)]
    (failure,) = check(tmp_path, enrolment_of(node), *backwards, ClockEntry(at_ms=0)).failures
    assert "reading 3 of node-1: does not continue the reading 2 in the log" in failure


def test_two_readings_of_one_name_and_a_journal_that_starts_anew_are_findings(tmp_path: Path) -> None:
    node = FakeNode()
    first = node.seal(MONDAY_MS)
    node.restart_journal("journal-2")
    again = node.seal(MONDAY_MS + CELL_MS)
    checked = check(tmp_path, enrolment_of(node), entry_of(first), entry_of(again), ClockEntry(at_ms=0))
    assert checked.failures == []
    assert any("its journal starts anew" in text for text in checked.findings)
    assert any("2 readings 1 of node-1 under one key" in text for text in checked.findings)


def test_an_entry_that_is_not_legible_and_a_key_that_is_not_the_nodes_are_failures(tmp_path: Path) -> None:
    node = FakeNode()
    wrong = EnrolmentEntry(node_id="0" * 64, public_key=node.key.public_bytes, node="n", how="first sight", at_ms=0)
    checked = check(tmp_path, (Kind.ROSTER, b"{"), (Kind.READING, b"\0"), wrong, ClockEntry(at_ms=0))
    assert len(checked.failures) == 3
    assert "the roster entry at 16 is not legible" in checked.failures[0]


def test_a_batch_that_is_not_closed_is_a_finding(tmp_path: Path) -> None:
    checked = check(tmp_path, enrolment_of(FakeNode()))
    assert checked.failures == []
    assert "the last batch" in checked.findings[0]
    with (tmp_path / "entries.log").open("ab") as file:
        file.write(b"\xffGL")
    with LogReader(tmp_path) as log:
        assert check_log(log).failures == []


def test_more_failures_than_anyone_reads_are_counted(tmp_path: Path) -> None:
    checked = check(tmp_path, *[(Kind.ROSTER, b"{")] * 150)
    assert (checked.failure_count, len(checked.failures)) == (150, 100)
