# SPDX-License-Identifier: Apache-2.0
"""kill -9 at any moment: what was acknowledged is there, and every reading counts once."""

import resource
import tempfile
from pathlib import Path

import pytest

from gpuledger.errors import StorageError
from gpuledger.reading import PAYLOAD_TYPE, digest
from gpuledger.sealing import open_envelope
from gpuledger_collector.check import check_log
from gpuledger_collector.tiles import LogReader
from tests.fakes.programs import run_python
from tests.fakes.readings import MONDAY_MS, FakeNode
from tests.fakes.storage import Storage
from tests.integration import crashing_collector

ROUNDS = 100


def logged_digests(directory: Path) -> list[str]:
    leaves = LogReader(directory / "log").iterate()
    return [digest(leaf.data) for leaf in leaves if open_envelope(leaf.data).payload_type == PAYLOAD_TYPE]


def test_a_log_killed_at_every_step_of_every_append_keeps_what_it_said_and_goes_on_as_if_nothing_had_happened() -> None:
    # What kill -9 leaves does not depend on the disk, and memory needs no waiting for it.
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as directory:
        done = run_python("-m", "tests.integration.crashing_log", directory)
    assert done.returncode == 0, done.stderr
    steps = [line.split() for line in done.stdout.splitlines()]
    assert len({number for number, *_ in steps}) > 80, "too few steps to prove anything"
    kinds = {what for _, what, *_ in steps}
    assert kinds == {"create_directory", "open", "write", "truncate", "sync", "sync_directory", "rename"}


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1])
def test_a_collector_killed_a_hundred_times_loses_nothing_acknowledged_and_counts_nothing_twice(
    tmp_path: Path, seed: int
) -> None:
    state = tmp_path / "state"
    done = run_python("-m", "tests.integration.crashing_collector", str(state), str(ROUNDS), str(seed))
    assert done.returncode == 0, done.stderr
    acknowledged = done.stdout.split()
    assert len(acknowledged) > ROUNDS, "the lives were too short to prove anything"
    assert set(acknowledged) <= set(logged_digests(state))
    nodes = crashing_collector.fleet()
    with Storage(state) as storage, Storage(tmp_path / "undisturbed") as other:
        logged = logged_digests(state)
        assert all(storage.store.is_known(known) for known in acknowledged)
        assert storage.store.count_readings() == len(set(logged))
        for some in (storage, other):
            some.now_ms = crashing_collector.now_ms()
            for node in nodes:
                some.take(node, place=("fra1", "train", "h100"))
            some.refresh()
        assert check_log(storage.catalog.log).failures == []
        assert storage.store.findings() == []
        assert storage.files.digest(0, 2**62) == other.files.digest(0, 2**62)
        storage.keeper.rebuild()
        assert storage.files.digest(0, 2**62) == other.files.digest(0, 2**62)


OPEN_AS_NOBODY = """
import os, sys
from pathlib import Path
from gpuledger_collector.config import CollectorConfig
from gpuledger_collector.state import open_state
if os.getuid() == 0:
    os.setuid(65534)
with open_state(CollectorConfig(state_dir=Path(sys.argv[1])), 0):
    pass
"""


def test_a_state_directory_that_may_not_be_written_is_named() -> None:
    with tempfile.TemporaryDirectory() as parent:
        Path(parent).chmod(0o755)
        state = Path(parent) / "state"
        state.mkdir(mode=0o555)
        done = run_python("-c", OPEN_AS_NOBODY, str(state))
        assert f"StorageError: {state}/collector.sqlite: cannot open the store" in done.stderr
        done = run_python("-c", OPEN_AS_NOBODY, str(state / "deeper"))
        assert f"StorageError: {state}/deeper: cannot be used: Permission denied" in done.stderr


def test_a_disk_that_fills_up_while_readings_come_in_loses_nothing_and_is_taken_up_again(tmp_path: Path) -> None:
    node = FakeNode()
    node.seal_cells(MONDAY_MS, 12)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Storage(tmp_path) as storage:
        storage.take(node, node.sealed[:3])
        # No file may grow beyond what the log has now: to the collector the disk is full.
        entries_bytes = (tmp_path / "log" / "tile" / "entries" / "000").stat().st_size
        resource.setrlimit(resource.RLIMIT_FSIZE, (entries_bytes + 1000, before[1]))
        try:
            with pytest.raises(StorageError, match="log: cannot append to the log: File too large"):
                storage.take(node)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert len(logged_digests(tmp_path)) == 3
        assert storage.take(node).accepted == 9
        storage.reopen()
        storage.refresh()
        assert check_log(storage.catalog.log).failures == []
        assert storage.store.count_readings() == 12
