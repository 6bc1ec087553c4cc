# SPDX-License-Identifier: Apache-2.0
"""Agents hold the log to what it showed them: an older copy put back is refused, and a new origin names the old one."""

import shutil
from pathlib import Path

import pytest

from gpuledger.cells import CELL_MS
from gpuledger.checkpoint import Checkpoint, line_of, sign_checkpoint, verify_checkpoint
from gpuledger.errors import ConfigurationError, StorageError
from gpuledger_collector.check import check_log
from gpuledger_collector.config import CollectorConfig
from gpuledger_collector.entries import OriginEntry
from gpuledger_collector.identity import KEY, NEXT_KEY, open_identity
from gpuledger_collector.succession import Succession, begin_new_origin
from gpuledger_collector.tiles import LogReader
from tests.fakes.readings import MONDAY_MS, FakeNode, key_of
from tests.fakes.storage import Storage

AHEAD = "agents were shown 13 entries of gpuledger/[0-9a-f]{16}, and the log has 8, .*: an older copy was put back"


def line(storage: Storage) -> str:
    return str(storage.catalog.log.line)


def put_back(state: Path, copy: Path) -> None:
    shutil.rmtree(state)
    shutil.copytree(copy, state)


@pytest.fixture
def restored(tmp_path: Path) -> tuple[Path, FakeNode, str]:
    """A state directory put back from an older copy, a node that saw more of its log, and what it saw."""
    state, node = tmp_path / "state", FakeNode()
    node.seal_cells(MONDAY_MS, 4)
    with Storage(state) as storage:
        storage.take(node, node.sealed[:2])
        storage.take(node, node.sealed[:3])
    shutil.copytree(state, tmp_path / "copy")
    with Storage(state) as storage:
        storage.take(node)
        storage.take(FakeNode(name="node-2"), [FakeNode(name="node-2").seal(MONDAY_MS)])
        shown = line(storage)
        node.seal(MONDAY_MS + 4 * CELL_MS, checkpoint=shown)
        storage.take(node)
    shutil.copytree(state, tmp_path / "newest")
    put_back(state, tmp_path / "copy")
    return state, node, shown


def new_origin(state: Path, name: str | None = None) -> Succession:
    return begin_new_origin(CollectorConfig(state_dir=state, log_origin=name), MONDAY_MS)


def test_a_log_that_continues_what_agents_were_shown_goes_on(storage: Storage) -> None:
    node = FakeNode()
    node.seal_cells(MONDAY_MS, 3)
    shown = []
    for number, sealed in enumerate(node.sealed):
        storage.take(node, [sealed])
        shown.append(line(storage))
        storage.intake.accept_batch(node.answer(node.sealed[: number + 1], checkpoints=shown), now_ms=storage.now_ms)
    assert storage.kinds() == []


def test_an_older_copy_is_found_out_by_what_an_agent_was_shown(restored: tuple[Path, FakeNode, str]) -> None:
    state, node, shown = restored
    with Storage(state) as storage:
        size = storage.catalog.log.size
        with pytest.raises(StorageError, match=AHEAD):
            storage.intake.examine(node.answer([], checkpoints=[shown]))
        with pytest.raises(StorageError, match=AHEAD):
            storage.take(FakeNode(name="node-3"), [FakeNode(name="node-3").seal(MONDAY_MS)])
        with pytest.raises(StorageError, match=AHEAD):
            storage.refresh()
        assert storage.catalog.log.size == size
    with pytest.raises(StorageError, match=AHEAD):
        Storage(state)


def test_an_older_copy_is_found_out_by_what_is_sealed_in_a_reading_before_anything_is_logged(
    restored: tuple[Path, FakeNode, str],
) -> None:
    state, node, _ = restored
    with Storage(state) as storage:
        size = storage.catalog.log.size
        with pytest.raises(StorageError, match=AHEAD):
            storage.take(node)
        assert storage.catalog.log.size == size


def test_the_right_files_put_back_go_on_by_themselves(restored: tuple[Path, FakeNode, str]) -> None:
    state, node, _ = restored
    with Storage(state) as storage, pytest.raises(StorageError, match=AHEAD):
        storage.take(node)
    ahead = (state / "log" / "ahead").read_bytes()
    put_back(state, state.parent / "newest")
    (state / "log" / "ahead").write_bytes(ahead)
    with Storage(state) as storage:
        assert storage.take(node).duplicates == 5
        assert storage.catalog.log.refusal is None
    assert not (state / "log" / "ahead").exists()


def test_a_new_origin_continues_the_entries_names_the_old_one_and_gets_everything_again(
    restored: tuple[Path, FakeNode, str],
) -> None:
    state, node, shown = restored
    with Storage(state) as storage:
        old = storage.catalog.log.identity.origin
        with pytest.raises(StorageError, match=AHEAD):
            storage.take(node)
    done = new_origin(state)
    assert (done.previous, done.size) == (old, 8)
    assert done.verifier_key.startswith(f"{done.origin}+")
    with Storage(state) as storage:
        assert storage.catalog.log.identity.origin == done.origin != old
        entry = storage.logged()[8]
        assert isinstance(entry, OriginEntry)
        assert (entry.origin, entry.previous, entry.seen) == (done.origin, old, shown)
        result = storage.intake.accept_batch(node.answer(checkpoints=[shown]), now_ms=storage.now_ms)
        assert (result.accepted, result.duplicates, result.cursor) == (2, 3, 5)
        checked = check_log(storage.catalog.log)
        assert checked.failures == []
        assert list(checked.keys) == [old, done.origin]
        said = f"{done.origin} continues {old}, of which agents had been shown {shown}"
        assert any(said in text for text in checked.findings)


def test_a_checkpoint_of_other_entries_is_found_out_as_a_fork(storage: Storage) -> None:
    node = FakeNode()
    storage.take(node, [node.seal(MONDAY_MS)])
    identity = storage.catalog.log.identity
    fork = Checkpoint(origin=identity.origin, size=2, root=bytes(32))
    forked = line_of(sign_checkpoint(fork, identity.key))
    with pytest.raises(StorageError, match=r"agents were shown other entries of .* than the first 2 of the log"):
        storage.intake.examine(node.answer([], checkpoints=[forked]))


def test_what_the_log_never_signed_moves_nobody_and_is_a_finding_where_it_is_sealed(storage: Storage) -> None:
    node = FakeNode()
    origin = storage.catalog.log.identity.origin
    forged = line_of(sign_checkpoint(Checkpoint(origin=origin, size=99, root=bytes(32)), key_of("somebody")))
    other = line_of(sign_checkpoint(Checkpoint(origin="other/log", size=99, root=bytes(32)), key_of("somebody")))
    node.seal(MONDAY_MS, checkpoint=forged)
    node.seal(MONDAY_MS + CELL_MS, checkpoint=other)
    node.seal(MONDAY_MS + 2 * CELL_MS, checkpoint="whatever")
    answer = node.answer(checkpoints=[forged, other, "whatever"])
    assert storage.intake.accept_batch(answer, now_ms=storage.now_ms).accepted == 3
    (finding,) = storage.store.findings()
    assert (finding.kind, finding.subject) == ("checkpoint_unknown", "node-1")
    assert finding.text == f"node-1 sealed a checkpoint of this log that it never signed: {forged}"


def test_a_newer_index_beside_an_older_log_asks_agents_for_all_again_under_a_new_origin(tmp_path: Path) -> None:
    state, node = tmp_path / "state", FakeNode()
    node.seal_cells(MONDAY_MS, 4)
    with Storage(state) as storage:
        storage.take(node, node.sealed[:2])
    shutil.copytree(state / "log", tmp_path / "log")
    with Storage(state) as storage:
        storage.take(node)
    put_back(state / "log", tmp_path / "log")
    with pytest.raises(StorageError, match="the log ends at 6 entries, and the index knows 9"):
        Storage(state)
    new_origin(state, "log.example/fra1-2")
    with Storage(state) as storage:
        assert storage.catalog.log.identity.origin == "log.example/fra1-2"
        assert storage.intake.cursor_of("nobody") is None
        result = storage.take(node)
        assert (result.accepted, result.duplicates) == (2, 2)
        assert storage.store.count_readings() == 4


def test_a_log_whose_key_is_lost_is_not_written_and_goes_on_under_a_new_origin(tmp_path: Path) -> None:
    state, node = tmp_path / "state", FakeNode()
    with Storage(state) as storage:
        storage.take(node, [node.seal(MONDAY_MS)])
    (state / KEY).unlink()
    with pytest.raises(StorageError, match=r"log\.key: the log's key is missing, .* \(gpuledger log new-origin\)"):
        Storage(state)
    assert not (state / KEY).exists()
    new_origin(state)
    with Storage(state) as storage:
        assert storage.take(node, [node.seal(MONDAY_MS + CELL_MS)]).accepted == 1
        assert check_log(storage.catalog.log).failures == []


def test_a_new_origin_of_nothing_or_of_a_name_that_was_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(StorageError, match="there is no log to continue"):
        new_origin(tmp_path / "empty")
    state = tmp_path / "state"
    with Storage(state) as storage:
        origin = storage.catalog.log.identity.origin
    with pytest.raises(ConfigurationError, match=r"log_origin: .* is what the log was; give another name or none"):
        new_origin(state, origin)
    with Storage(state), pytest.raises(StorageError, match="another collector is writing this log"):
        new_origin(state)


@pytest.mark.parametrize("is_published", [False, True])
def test_a_change_of_keys_that_broke_off_is_finished_or_undone_by_the_next_start(
    tmp_path: Path, is_published: bool
) -> None:
    state = tmp_path / "state"
    with Storage(state) as storage:
        old = storage.catalog.log.identity
    key = (state / KEY).read_bytes()
    done = new_origin(state)
    new_key = (state / KEY).read_bytes()
    # As it was before the last step, or before the new checkpoint was there.
    (state / KEY).write_bytes(key)
    (state / NEXT_KEY).write_bytes(new_key)
    (state / NEXT_KEY).chmod(0o600)
    if not is_published:
        fresh = sign_checkpoint(Checkpoint(origin=old.origin, size=2, root=root_at(state, 2)), old.key)
        (state / "log" / "checkpoint").write_text(fresh, encoding="utf-8")
    with Storage(state) as storage:
        assert storage.catalog.log.identity.origin == (done.origin if is_published else old.origin)
        assert storage.catalog.log.size == (4 if is_published else 2)
        note = storage.catalog.log.note()
        assert note is not None
        verify_checkpoint(note, storage.catalog.log.identity.key.public_bytes)
    assert not (state / NEXT_KEY).exists()


def root_at(state: Path, size: int) -> bytes:
    return LogReader(state / "log").root_at(size)


def test_a_log_keeps_its_name(tmp_path: Path) -> None:
    state = tmp_path / "state"
    assert open_identity(state, "log.example/a", is_simulated=False).origin == "log.example/a"
    with Storage(state):
        pass
    with pytest.raises(ConfigurationError, match=r"the log in .* is gpuledger/.*, and a log keeps its name"):
        open_identity(state, "log.example/b", is_simulated=False)
    simulated = open_identity(tmp_path / "simulated", None, is_simulated=True)
    assert simulated.origin.startswith("gpuledger-SIMULATED/")


def test_a_file_of_what_is_ahead_that_is_none_is_named(tmp_path: Path) -> None:
    with Storage(tmp_path):
        pass
    (tmp_path / "log" / "ahead").write_text("nothing")
    with pytest.raises(StorageError, match="log/ahead: not a checkpoint in one line"):
        Storage(tmp_path)


def test_two_collectors_of_the_same_readings_have_two_origins_and_one_ledger(tmp_path: Path) -> None:
    nodes = [FakeNode(name=f"node-{number}", gpus=2) for number in range(3)]
    for node in nodes:
        node.seal_cells(MONDAY_MS, 12)
    with Storage(tmp_path / "one") as one, Storage(tmp_path / "other") as other:
        for node in nodes:
            one.take(node, place=("fra1", "train", "h100"))
        for node in reversed(nodes):
            for first in range(0, 12, 5):
                some = node.sealed[first : first + 5]
                other.take(node, some, place=("fra1", "train", "h100"))
        for storage in (one, other):
            storage.refresh()
            assert check_log(storage.catalog.log).failures == []
        assert one.catalog.log.identity.origin != other.catalog.log.identity.origin
        assert one.catalog.log.root != other.catalog.log.root
        assert one.files.digest(0, 2**62) == other.files.digest(0, 2**62)
