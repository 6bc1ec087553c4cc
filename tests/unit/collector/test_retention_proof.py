# SPDX-License-Identifier: Apache-2.0
"""What was pruned stays provable, what is missing without a word is a failure, and a crash at any step is made good."""

import contextlib
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuledger.cells import CELL_MS
from gpuledger.errors import StorageError
from gpuledger.merkle import TILE_WIDTH, Tile
from gpuledger_collector.closing import frame
from gpuledger_collector.config import Policy
from gpuledger_collector.entries import encode
from gpuledger_collector.tiles import ENTRIES
from tests.fakes.logs import CountingDisk
from tests.fakes.retention import (
    LATER_MS,
    POLICY,
    WORKLOADS_ONLY,
    check,
    digest,
    node_with,
    prune,
    prunings,
)
from tests.fakes.storage import Storage
from tests.profiles import examples

# ---------------------------------------------------------------------------------------------- proof


def test_a_bundle_that_is_missing_without_an_entry_that_says_so_is_a_failure(old: Storage) -> None:
    log = old.catalog.log
    pruned = log.pruned_file(ENTRIES, 1)
    pruned.parent.mkdir(parents=True)
    pruned.write_bytes(bytes(2 * TILE_WIDTH))
    log.file(ENTRIES, 1).unlink()
    failures = check(old).failures
    assert any("001: was pruned, and no entry of the log says so: restore it from a copy" in text for text in failures)


def test_what_is_left_of_a_bundle_cannot_be_changed(old: Storage) -> None:
    prune(old)
    path = old.catalog.log.pruned_file(ENTRIES, 0)
    records = old.catalog.log.records(ENTRIES, 0, TILE_WIDTH)
    (place,) = [place for place, data in enumerate(records) if b"gpuledger.roster." in data]
    # Taken out as readings are: the tree cannot tell, the entry that says what was pruned can.
    path.write_bytes(b"".join(frame(b"" if at == place else data) for at, data in enumerate(records)))
    assert [text for text in check(old).failures if "what is left of the bundles 0 to " in text]
    path.unlink()
    assert any("000: is missing, and the log has it" in text for text in check(old).failures)


def test_a_pruned_entry_is_not_served_and_its_hash_is(old: Storage) -> None:
    log = old.catalog.log
    readings = [leaf.index for leaf in log.iterate() if leaf.beside is not None]
    prune(old)
    assert log.tile(Tile(level=None, index=0, width=TILE_WIDTH)) is None
    assert log.beside(0, TILE_WIDTH) is None
    assert log.tile(Tile(level=0, index=0, width=TILE_WIDTH)) is not None
    with pytest.raises(StorageError, match=f"entry {readings[0]} was pruned: its hash is all that is left of it"):
        log.read(readings[0])
    assert log.read(0).data


def test_a_copy_from_before_the_pruning_with_the_log_of_after_holds(old: Storage, tmp_path: Path) -> None:
    path = old.catalog.log.file(ENTRIES, 0)
    shutil.copy(path, tmp_path / "kept")
    prune(old)
    shutil.copy(tmp_path / "kept", path)
    checked = check(old)
    assert (checked.failures, len(checked.pruned)) == ([], 1)
    # The next run of the collector removes it again.
    prune(old)
    assert not old.catalog.log.file(ENTRIES, 0).exists()


def test_a_pruning_entry_that_cannot_be_is_a_failure(old: Storage) -> None:
    prune(old)
    (entry,) = prunings(old)
    key = old.catalog.log.identity.key
    old.catalog.log.append([encode(replace(entry, entries=entry.entries - 1), key)], 0)
    assert any(
        f"says that {entry.entries - 1} entries were pruned, after {entry.entries}" in text
        for text in check(old).failures
    )


def test_a_node_that_comes_back_after_its_readings_were_pruned_goes_on(old: Storage) -> None:
    prune(old)
    node = node_with("node-1")
    node.seal(LATER_MS - CELL_MS)
    result = old.take(node, node.sealed[-1:])
    assert (result.accepted, result.refused) == (1, {})
    old.refresh()
    assert check(old).failures == []


# ---------------------------------------------------------------------------------------------- crashes


class Stopped(BaseException):
    """The program ends here."""


def stop_at(step: int) -> CountingDisk:
    def before(number: int, what: str) -> None:
        if number == step:
            raise Stopped

    return CountingDisk(before)


@pytest.mark.slow
@examples(0.2)
@given(steps=st.lists(st.integers(1, 40), min_size=1, max_size=3), first=st.sampled_from([POLICY, WORKLOADS_ONLY]))
def test_wherever_pruning_ends_the_next_run_finishes_it_and_nothing_is_lost(
    small: Path, steps: list[int], first: Policy
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        state = Path(folder) / "state"
        shutil.copytree(small, state)
        with Storage(state) as storage:
            storage.now_ms = LATER_MS
            before = digest(storage)
            for step in steps:
                with contextlib.suppress(Stopped):
                    prune(storage, first, stop_at(step))
                storage.reopen()
                assert digest(storage) == before
            assert check(storage).failures == []
            prune(storage)
            checked = check(storage)
            assert checked.failures == []
            assert len(checked.pruned) >= 1
            storage.keeper.rebuild()
            assert digest(storage) == before
            assert not storage.catalog.log.file(ENTRIES, 0).exists()
