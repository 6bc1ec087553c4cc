# SPDX-License-Identifier: Apache-2.0
"""Intake: what is genuine is logged once, what is not costs only itself, and both are named."""

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gpuledger.cells import CELL_MS, DAY_MS
from gpuledger.errors import StorageError
from gpuledger.reading import LEAF_BYTES_MAX, PAYLOAD_TYPE, WORKLOADS_BYTES_MAX, digest
from gpuledger.sealing import digest_name, open_envelope
from gpuledger.states import State
from gpuledger_collector.beside import Contact
from gpuledger_collector.verification import Refusal
from tests.fakes.logs import FullDisk
from tests.fakes.readings import MONDAY_MS, FakeNode, Sealed, gpu_time, key_of
from tests.fakes.storage import Storage

BUSY = {State.BUSY: 200_000, State.HELD: 50_000}


def dump(value: object) -> str:
    """The one form that envelopes and readings have."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def resealed(node: FakeNode, sealed: Sealed, change: Callable[[dict[str, Any]], None], key_name: str) -> dict[str, Any]:
    """The item with a changed payload, sealed again by a key that says it is the node's."""
    envelope = json.loads(sealed.envelope)
    payload = json.loads(base64.b64decode(envelope["payload"]))
    change(payload)
    again = json.loads(key_of(key_name).seal(PAYLOAD_TYPE, dump(payload).encode()))
    again["signatures"][0]["keyid"] = node.node_id
    return sealed.item() | {"envelope": dump(again)}


def test_a_batch_is_logged_indexed_and_enrols_its_node_on_first_sight(storage: Storage) -> None:
    node = FakeNode()
    node.seal_cells(MONDAY_MS, 3, BUSY)
    result = storage.take(node, target="http://node-1:9400", place=("fra1", "train", "h100"))
    assert (result.accepted, result.duplicates, dict(result.refused), result.cursor) == (3, 0, {}, 3)
    assert not result.has_more
    enrolment = storage.store.enrolment(node.node_id)
    assert enrolment is not None
    assert (enrolment.node, enrolment.how, enrolment.public_key) == ("node-1", "first sight", node.key.public_bytes)
    assert storage.store.count_readings() == 3
    assert storage.store.cursor(node.node_id, "journal-1") == 3
    assert storage.store.last_seen() == {"node-1": MONDAY_MS + 3 * CELL_MS}
    assert storage.store.places() == {"node-1": ("fra1", "train", "h100")}
    assert storage.store.contacts() == [
        Contact(
            target="http://node-1:9400",
            node_id=node.node_id,
            journal="journal-1",
            node="node-1",
            at_ms=storage.now_ms,
        )
    ]
    assert storage.intake.cursor_of("http://node-1:9400") == ("journal-1", 3)
    assert storage.intake.cursor_of("http://other:9400") is None
    assert storage.store.findings() == []


def test_claims_say_which_node_holds_which_gpu_since_when(storage: Storage) -> None:
    node = FakeNode(gpus=2)
    later = node.seal(MONDAY_MS + CELL_MS)
    earlier = node.seal(MONDAY_MS)
    storage.take(node, [later])
    storage.take(node, [earlier])
    claims = storage.store.claims()
    assert [(claim.gpu, claim.node, claim.first_ms) for claim in claims] == [
        ("GPU-node-1-0", "node-1", MONDAY_MS),
        ("GPU-node-1-1", "node-1", MONDAY_MS),
    ]
    assert claims[0].serial == "Snode-1-0"


def test_the_same_answer_twice_changes_nothing(storage: Storage) -> None:
    node = FakeNode()
    node.seal_cells(MONDAY_MS, 3, BUSY)
    storage.take(node)
    end = storage.catalog.log.size
    again = storage.take(node)
    assert (again.accepted, again.duplicates, again.cursor) == (0, 3, 3)
    assert storage.catalog.log.size == end
    assert storage.store.count_readings() == 3


def test_one_reading_twice_in_one_answer_counts_once(storage: Storage) -> None:
    node = FakeNode()
    sealed = node.seal(MONDAY_MS)
    result = storage.take(node, [sealed, sealed])
    assert (result.accepted, result.duplicates) == (1, 1)


def test_a_tampered_reading_costs_only_itself_and_is_named(storage: Storage) -> None:
    node = FakeNode()
    node.seal_cells(MONDAY_MS, 3, BUSY)
    answer = node.answer()
    answer["readings"][1]["envelope"] = resealed(
        node, node.sealed[1], lambda payload: payload.update(interval_ms=999), "somebody else"
    )["envelope"]
    result = storage.intake.accept_batch(answer, now_ms=storage.now_ms)
    assert (result.accepted, dict(result.refused), result.cursor) == (2, {Refusal.TAMPERED: 1}, 3)
    assert storage.intake.refused == {Refusal.TAMPERED: 1}
    (finding,) = storage.store.findings()
    assert finding.kind == "tampered"
    assert finding.subject == "node-1"
    assert finding.text.startswith(f"node-1 (key {node.node_id[:16]}) served readings refused as tampered: 2;")


def flip_signature(item: dict[str, Any]) -> None:
    envelope = json.loads(item["envelope"])
    signature = bytearray(base64.b64decode(envelope["signatures"][0]["sig"]))
    signature[0] ^= 1
    envelope["signatures"][0]["sig"] = base64.b64encode(signature).decode()
    item["envelope"] = dump(envelope)


def change_payload(item: dict[str, Any]) -> None:
    envelope = json.loads(item["envelope"])
    payload = base64.b64decode(envelope["payload"]).replace(b'"busy":1400000', b'"busy":1400007')
    envelope["payload"] = base64.b64encode(payload).decode()
    item["envelope"] = dump(envelope)


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (flip_signature, Refusal.TAMPERED),
        (change_payload, Refusal.TAMPERED),
        (lambda item: item.update(workloads="[]"), Refusal.TAMPERED),
        (lambda item: item.update(sequence=7), Refusal.TAMPERED),
        (lambda item: item.update(envelope="not an envelope"), Refusal.MALFORMED),
        (lambda item: item.update(envelope="x" * (LEAF_BYTES_MAX + 1)), Refusal.OVERSIZE),
        (lambda item: item.update(workloads="x" * (WORKLOADS_BYTES_MAX + 1)), Refusal.OVERSIZE),
    ],
    ids=["signature", "payload", "workloads", "sequence", "no envelope", "large envelope", "large workloads"],
)
def test_what_can_never_become_valid_is_refused_counted_and_passed_over(
    storage: Storage, harm: Callable[[dict[str, Any]], None], reason: Refusal
) -> None:
    node = FakeNode()
    node.seal_cells(MONDAY_MS, 2, BUSY)
    answer = node.answer()
    harm(answer["readings"][1])
    result = storage.intake.accept_batch(answer, now_ms=storage.now_ms)
    assert (result.accepted, dict(result.refused)) == (1, {reason: 1})
    assert result.cursor == answer["readings"][1]["sequence"]
    assert reason.value in storage.kinds()
    assert storage.store.count_readings() == 1


def test_a_reading_that_breaks_a_law_is_malformed_although_its_seal_holds(storage: Storage) -> None:
    node = FakeNode()
    sealed = node.seal(MONDAY_MS)
    item = resealed(node, sealed, lambda payload: payload["gpus"][0]["states"].update(free=1), "node-1")
    result = storage.intake.accept_batch(node.answer() | {"readings": [item]}, now_ms=storage.now_ms)
    assert dict(result.refused) == {Refusal.MALFORMED: 1}
    assert "states and uncovered sum to 1 slice-ms" in storage.store.findings()[0].text


def test_energy_that_no_board_draws_is_malformed(storage: Storage) -> None:
    node = FakeNode(gpus=1)
    node.seal(MONDAY_MS, gpus=[gpu_time(node.uuids[0], CELL_MS, energy_mj={"free": 10**15})])
    assert dict(storage.take(node).refused) == {Refusal.MALFORMED: 1}


def test_a_reading_of_another_node_is_not_taken_in_under_this_nodes_key(storage: Storage) -> None:
    node, other = FakeNode(), FakeNode(name="node-2")
    foreign = other.seal(MONDAY_MS)
    result = storage.take(node, [foreign])
    assert dict(result.refused) == {Refusal.TAMPERED: 1}
    assert storage.store.enrolments() == []


def test_a_key_of_which_nothing_holds_is_not_enrolled(storage: Storage) -> None:
    node = FakeNode()
    node.seal(MONDAY_MS)
    answer = node.answer()
    flip_signature(answer["readings"][0])
    storage.intake.accept_batch(answer, now_ms=storage.now_ms, target="http://x:1", place=("a", "b", "c"))
    assert storage.store.enrolments() == []
    assert storage.store.contacts() == []
    assert storage.store.places() == {}


def test_simulated_readings_are_refused_and_kept_for_later_unless_they_are_wanted(
    storage: Storage, tmp_path: Path
) -> None:
    node = FakeNode(simulated=True)
    node.seal_cells(MONDAY_MS, 2)
    result = storage.take(node)
    assert (dict(result.refused), result.cursor, result.has_more) == ({Refusal.SIMULATED: 2}, 0, False)
    assert storage.store.findings() == []
    assert not storage.store.is_simulated()
    with Storage(tmp_path / "other", accept_simulated=True) as wanted:
        assert wanted.take(node).accepted == 2
        assert wanted.store.is_simulated()


def test_a_reading_from_the_future_is_refused_until_its_time_has_come(storage: Storage) -> None:
    node = FakeNode()
    node.seal(storage.now_ms - CELL_MS)
    node.seal(storage.now_ms + CELL_MS)
    node.seal(storage.now_ms + 2 * CELL_MS)
    early = storage.take(node)
    assert (early.accepted, dict(early.refused), early.cursor) == (1, {Refusal.FUTURE: 2}, 1)
    storage.now_ms += 3 * CELL_MS
    late = storage.take(node, node.sealed[1:])
    assert (late.accepted, late.cursor) == (2, 3)
    assert storage.store.findings() == []


def test_a_reading_that_ends_five_minutes_ahead_is_still_taken_in(storage: Storage) -> None:
    node = FakeNode()
    node.seal(storage.now_ms)
    assert storage.take(node).accepted == 1


def test_what_follows_a_reading_that_may_become_valid_is_taken_in_and_not_passed_over(storage: Storage) -> None:
    node = FakeNode()
    node.seal(MONDAY_MS, simulated=True)
    node.seal(MONDAY_MS + CELL_MS)
    result = storage.take(node)
    assert (result.accepted, result.cursor) == (1, 0)
    assert storage.kinds() == []


def test_a_reading_older_than_the_limit_is_refused_for_good(storage: Storage) -> None:
    node = FakeNode()
    node.seal(MONDAY_MS - 90 * DAY_MS)
    result = storage.take(node)
    assert (dict(result.refused), result.cursor) == ({Refusal.TOO_OLD: 1}, 1)
    assert storage.kinds() == ["too_old"]


def test_a_gap_in_the_sequence_is_a_finding(storage: Storage) -> None:
    node = FakeNode()
    node.seal_cells(MONDAY_MS, 6)
    storage.take(node, node.sealed[:2])
    result = storage.take(node, node.sealed[4:])
    assert (result.accepted, result.cursor) == (2, 6)
    (finding,) = storage.store.findings()
    assert finding.kind == "sequence_gap"
    assert finding.at_ms == MONDAY_MS + 4 * CELL_MS
    assert finding.text == "readings 3 to 4 of node-1 (journal journal-1) never arrived: pruned or lost"


def test_an_answer_to_a_question_further_on_moves_no_cursor_and_finds_no_gap(storage: Storage) -> None:
    node = FakeNode()
    node.seal_cells(MONDAY_MS, 4)
    result = storage.take(node, node.sealed[2:], asked=("journal-1", 2))
    assert (result.accepted, result.cursor, result.has_more) == (2, 0, True)
    assert storage.take(node, asked=("journal-1", 0)).cursor == 4
    assert storage.kinds() == []


def test_an_answer_of_another_journal_than_the_one_asked_for_starts_from_its_beginning(storage: Storage) -> None:
    node = FakeNode()
    node.seal_cells(MONDAY_MS, 2)
    assert storage.take(node, asked=("lost journal", 99)).cursor == 2


def test_a_journal_that_starts_anew_is_a_finding_and_is_read_from_its_start(storage: Storage) -> None:
    node = FakeNode()
    node.seal_cells(MONDAY_MS, 2)
    storage.take(node)
    node.restart_journal("journal-2")
    node.seal_cells(MONDAY_MS + 2 * CELL_MS, 2)
    result = storage.take(node)
    assert (result.accepted, result.cursor) == (2, 2)
    assert storage.kinds() == ["journal_restarted"]
    assert storage.store.cursor(node.node_id, "journal-1") == 2


def test_a_reading_that_does_not_continue_the_one_before_is_a_finding(storage: Storage) -> None:
    node = FakeNode()
    node.seal(MONDAY_MS)
    node.previous = digest(b"another reading")
    node.seal(MONDAY_MS + CELL_MS)
    result = storage.take(node)
    assert result.accepted == 2
    assert storage.kinds() == ["chain_broken"]
    assert "reading 2 of node-1 does not continue the reading 1 that is held" in storage.store.findings()[0].text


def test_a_chain_is_followed_across_answers(storage: Storage) -> None:
    node = FakeNode()
    node.seal_cells(MONDAY_MS, 4)
    for sealed in node.sealed:
        storage.take(node, [sealed])
    assert storage.kinds() == []


def test_a_second_key_under_a_known_name_is_enrolled_with_a_finding(storage: Storage) -> None:
    first, second = FakeNode(), FakeNode(key_name="a new disk")
    first.seal(MONDAY_MS)
    second.seal(MONDAY_MS + CELL_MS)
    storage.take(first)
    assert storage.take(second).accepted == 1
    assert [entry.node_id for entry in storage.store.enrolments_of("node-1")] == [first.node_id, second.node_id]
    assert storage.kinds() == ["node_key_changed"]


def test_a_key_that_changes_its_nodes_name_is_a_finding(storage: Storage) -> None:
    node = FakeNode()
    storage.take(node, [node.seal(MONDAY_MS)])
    storage.take(node, [node.seal(MONDAY_MS + CELL_MS, node_name="renamed")])
    assert storage.kinds() == ["node_renamed"]


def test_openings_that_hash_to_their_digest_are_kept_and_others_are_counted(storage: Storage) -> None:
    node = FakeNode(gpus=1)
    node.seal(MONDAY_MS, states_ms=BUSY)
    answer = node.answer()
    digests = list(answer["readings"][0]["openings"])
    answer["readings"][0]["openings"][digests[1]][1] = "a made-up name"
    answer["readings"][0]["openings"]["0" * 64] = "no pair"
    result = storage.intake.accept_batch(answer, now_ms=storage.now_ms)
    assert (result.accepted, result.refused_openings) == (1, 2)
    assert storage.store.names(digests) == {digests[0]: "alice"}


def test_an_opening_that_could_not_be_stored_or_shown_is_counted_and_costs_no_reading(storage: Storage) -> None:
    node = FakeNode(gpus=1)
    node.seal(MONDAY_MS, states_ms=BUSY)
    answer = node.answer()
    for hostile in ("lone \ud800 surrogate", "two\nlines"):
        salt = b"0123456789abcdef"
        answer["readings"][0]["openings"][digest_name(salt, hostile)] = [salt.hex(), hostile]
    result = storage.intake.accept_batch(answer, now_ms=storage.now_ms)
    assert (result.accepted, result.refused_openings) == (1, 2)


def test_openings_of_readings_that_are_known_already_are_kept_too(storage: Storage) -> None:
    node = FakeNode(gpus=1)
    node.seal(MONDAY_MS, states_ms=BUSY)
    answer = node.answer()
    openings = answer["readings"][0].pop("openings")
    storage.intake.accept_batch(answer, now_ms=storage.now_ms)
    assert storage.store.names(openings) == {}
    storage.take(node)
    assert set(storage.store.names(openings).values()) == {"alice", "training run"}


def test_names_in_the_clear_never_reach_the_log(storage: Storage) -> None:
    node = FakeNode(gpus=1)
    node.seal(MONDAY_MS, states_ms=BUSY, user="alice.unmistakable", workload="secret-project")
    storage.take(node)
    written = b"".join(path.read_bytes() for path in (storage.directory / "log").rglob("*") if path.is_file())
    written += b"".join(open_envelope(leaf.data).payload for leaf in storage.catalog.log.iterate())
    assert b"unmistakable" not in written
    assert b"secret-project" not in written


def test_workloads_that_come_later_complete_a_reading_once(storage: Storage) -> None:
    node = FakeNode(gpus=1)
    node.seal(MONDAY_MS, states_ms=BUSY)
    bare = node.answer()
    bare["readings"][0]["workloads"] = None
    assert storage.intake.accept_batch(bare, now_ms=storage.now_ms).accepted == 1
    assert storage.take(node).accepted == 1
    assert storage.take(node).duplicates == 1
    assert storage.intake.accept_batch(bare, now_ms=storage.now_ms).duplicates == 1
    assert storage.store.count_readings() == 1
    storage.refresh()
    assert [row.workload for row in storage.files.holder_rows(MONDAY_MS, storage.now_ms)] == [
        node.names.digest_of("training run")
    ]


def test_a_full_disk_loses_nothing_and_the_same_answer_is_taken_in_once_there_is_room(storage: Storage) -> None:
    node = FakeNode()
    node.seal_cells(MONDAY_MS, 2)
    storage.take(node, node.sealed[:1])
    full = FullDisk(room=0)
    disk, storage.catalog.log._entries._disk = storage.catalog.log._entries._disk, full
    with pytest.raises(StorageError, match="log: cannot append to the log: No space left"):
        storage.take(node)
    assert storage.store.cursor(node.node_id, "journal-1") == 1
    storage.catalog.log._entries._disk = disk
    assert storage.take(node).accepted == 1
    assert storage.store.count_readings() == 2
