# SPDX-License-Identifier: Apache-2.0
"""The sealer: parts, workloads, limits, and what a killed agent left open."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from gpuledger.cells import CELL_MS
from gpuledger.checkpoint import Checkpoint, line_of, sign_checkpoint
from gpuledger.errors import StorageError
from gpuledger.reading import (
    INTEGER_MAX,
    LEAF_BYTES_MAX,
    WORKLOADS_BYTES_MAX,
    WORKLOADS_MAX,
    decode,
    decode_workloads,
    encode_workloads,
)
from gpuledger.sealing import NameSealer, SigningKey, digest_name, open_envelope
from gpuledger.states import ACTIVITY_EDGES_PPM, ENGINES, OBSERVED, State, Uncovered
from gpuledger.workload_time import REST
from gpuledger_agent.crash_file import CrashFile
from gpuledger_agent.holders import Holders
from gpuledger_agent.journal import Journal
from gpuledger_agent.nvml import GpuProcess, Identity
from gpuledger_agent.sealer import PENDING_MAX, Draft, Origin, Sealer, rank_workloads
from gpuledger_agent.tally import Span, Tally
from gpuledger_agent.witness import Witness
from tests.fakes.agents import records, sealed, spans
from tests.fakes.processes import FakeProcessTable

START_MS = 6_000 * CELL_MS
BIG = 1 << 40
ORIGIN = Origin(
    node_name="node-1",
    session="5e55",
    boot_id="boot",
    interval_ms=1_000,
    configuration_digest="c" * 64,
    is_simulated=False,
    wall_offset_ms=0,
)
SLICES = 7 * CELL_MS


class Desk:
    """A sealer with its key, journal and crash file in a directory."""

    def __init__(self, directory: Path, key: SigningKey | None = None) -> None:
        self.directory = directory
        self.key = SigningKey.generate() if key is None else key
        self.journal = Journal(directory / "journal", BIG, BIG)
        self.sealer = Sealer(self.key, self.journal, CrashFile(directory / "open"))
        self.table = FakeProcessTable()
        self.holders = Holders(self.table, NameSealer(bytes(32)), own_pid=1)

    def again(self) -> Desk:
        """The next agent on the same directory, after a kill."""
        return Desk(self.directory, self.key)

    def draft(self, span: Span) -> tuple[Draft, ...]:
        return self.sealer.draft(span, ORIGIN, {}, self.holders)

    def seal(self, span: Span) -> None:
        self.sealer.add(self.draft(span))
        self.sealer.seal_pending()

    def spans(self) -> list[tuple[int, int]]:
        return spans(sealed(self.directory, self.key.public_bytes))


def free_span(start_ms: int, end_ms: int, gpus: int = 1) -> Span:
    tallies = {
        f"GPU-{number:03d}": Tally(state_slice_ms={State.FREE: 7 * (end_ms - start_ms)}) for number in range(gpus)
    }
    return Span(start_ms=start_ms, end_ms=end_ms, tallies=tallies)


def busy_tally(workloads: int, time_each: int) -> Tally:
    tally = Tally(state_slice_ms={State.BUSY: workloads * time_each})
    tally.state_slice_ms[State.FREE] = SLICES - workloads * time_each
    tally.bin_slice_ms[-1] = workloads * time_each
    for number in range(workloads):
        key = (f"{number:064x}", "b" * 64)
        tally.workload_slice_ms[key] = {State.BUSY: time_each}
        tally.workload_memory_bytes_max[key] = 85_520_809_984
    return tally


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


# ---------------------------------------------------------------------------------------------- sealing


def test_a_span_becomes_one_signed_reading_that_follows_the_last(desk: Desk) -> None:
    desk.seal(free_span(START_MS, START_MS + CELL_MS))
    desk.seal(free_span(START_MS + CELL_MS, START_MS + 2 * CELL_MS))
    first, second = sealed(desk.directory, desk.key.public_bytes)
    assert (first.previous, first.sequence, first.part) == ("genesis", 1, (1, 1))
    assert second.sequence == 2
    assert (second.start_ms, second.end_ms) == (START_MS + CELL_MS, START_MS + 2 * CELL_MS)
    assert second.node_id == desk.key.node_id
    assert desk.sealer.sealed == 2
    assert desk.sealer.last_end_ms == START_MS + 2 * CELL_MS


def test_seventy_gpus_are_three_parts_with_sequence_numbers_of_their_own(desk: Desk) -> None:
    desk.seal(free_span(START_MS, START_MS + CELL_MS, gpus=70))
    readings = sealed(desk.directory, desk.key.public_bytes)
    assert [reading.part for reading in readings] == [(1, 3), (2, 3), (3, 3)]
    uuids = [gpu.uuid for reading in readings for gpu in reading.gpus]
    assert uuids == sorted(uuids)
    assert len(set(uuids)) == 70
    assert ["more" in record for record in records(desk.directory)] == [True, True, False]


def test_a_node_without_gpus_seals_that_it_was_there(desk: Desk) -> None:
    desk.seal(Span(start_ms=START_MS, end_ms=START_MS + CELL_MS))
    (reading,) = sealed(desk.directory, desk.key.public_bytes)
    assert reading.gpus == ()


def test_a_leaf_keeps_under_its_limit_with_the_largest_numbers_and_names_there_are(desk: Desk) -> None:
    tallies, identities = {}, {}
    for number in range(64):
        uuid = f"GPU-{number:08x}-0000-4000-8000-000000000000"
        tally = Tally(
            state_slice_ms=dict.fromkeys(OBSERVED, 1),
            uncovered_slice_ms=dict.fromkeys(Uncovered, 1),
            active_slice_ns=SLICES * 1_000_000,
            active_known_slice_ms=SLICES,
            activity_source="gpm" * 4,
            engine_slice_ns=dict.fromkeys(ENGINES, SLICES * 1_000_000),
            engine_known_slice_ms=dict.fromkeys(ENGINES, SLICES),
            energy_mj=dict.fromkeys([*map(str, OBSERVED), "uncovered"], 10**12),
            energy_start_mj=INTEGER_MAX,
            energy_end_mj=INTEGER_MAX,
            energy_epochs=300,
            memory_used_bytes_max=10**13,
            hang_suspicion_ms=100_000,
            rejected_values=300,
        )
        tally.state_slice_ms[State.UNMEASURED] = 7 * 100_000
        tally.state_slice_ms[State.BUSY] += SLICES - tally.total_slice_ms
        binned = tally.state_slice_ms[State.BUSY] + 1
        tally.bin_slice_ms = [binned // 8] * (len(ACTIVITY_EDGES_PPM) - 1)
        tally.bin_slice_ms.append(binned - sum(tally.bin_slice_ms))
        tallies[uuid] = tally
        # As long as NVML's own buffers for them.
        identities[uuid] = Identity(
            uuid=uuid,
            serial="9" * 29,
            index=999,
            pci_bus_id="F" * 31,
            model="N" * 95,
            memory_total_bytes=10**13,
            power_limit_mw=10**7,
        )
    long = Origin(
        node_name="ü" * 256,
        session="f" * 16,
        boot_id="f" * 36,
        interval_ms=CELL_MS,
        configuration_digest="f" * 64,
        is_simulated=True,
        wall_offset_ms=1_000,
    )
    # The longest checkpoint that there can be.
    checkpoint = sign_checkpoint(Checkpoint(origin="o" * 64, size=10**18, root=bytes(32)), desk.key)
    desk.sealer = Sealer(desk.key, desk.journal, CrashFile(desk.directory / "open"), Witness(line_of(checkpoint)))
    span = Span(start_ms=START_MS, end_ms=START_MS + CELL_MS, tallies=tallies)
    desk.sealer.add(desk.sealer.draft(span, long, identities, desk.holders))
    desk.sealer.seal_pending()
    sizes = [len(record["envelope"]) for record in records(desk.directory)]
    assert len(sizes) >= 2
    assert max(sizes) <= LEAF_BYTES_MAX
    for record in records(desk.directory):
        open_envelope(record["envelope"].encode("ascii"))
    readings = sealed(desk.directory, desk.key.public_bytes)
    assert [reading.checkpoint for reading in readings] == [line_of(checkpoint)] * len(sizes)


# ---------------------------------------------------------------------------------------------- workloads


def test_workloads_beyond_the_limit_are_pooled_as_rest_and_still_sum(desk: Desk) -> None:
    span = Span(
        start_ms=START_MS,
        end_ms=START_MS + CELL_MS,
        tallies={"GPU-a": busy_tally(300, 1_000), "GPU-b": busy_tally(5, 20_000)},
    )
    desk.seal(span)
    (record,) = records(desk.directory)
    reading = decode(open_envelope(record["envelope"].encode("ascii")).payload)
    parts = decode_workloads(record["workloads"].encode("ascii"), reading)  # checks the sums per GPU and state
    named = {part.workload for part in parts if part.workload != REST}
    assert len(named) == WORKLOADS_MAX
    rest = {part.uuid: part.state_slice_ms for part in parts if part.workload == REST}
    assert rest == {"GPU-a": {State.BUSY: (300 - WORKLOADS_MAX) * 1_000}}
    # Those with the most time keep their names: the five that are on both GPUs.
    assert {f"{number:064x}" for number in range(5)} <= named


def test_a_workloads_blob_keeps_under_its_limit_however_many_share_however_many_gpus() -> None:
    tallies = {f"GPU-{number:08x}-0000-4000-8000-000000000000": busy_tally(100, 1_000) for number in range(32)}
    for tally in tallies.values():
        for times in tally.workload_slice_ms.values():
            times[State.HELD] = INTEGER_MAX // 10**9
    parts = rank_workloads(tallies)
    assert len(encode_workloads(parts)) <= WORKLOADS_BYTES_MAX
    for uuid, tally in tallies.items():
        for state in (State.BUSY, State.HELD):
            whole = sum(times[state] for times in tally.workload_slice_ms.values())
            assert sum(part.state_slice_ms.get(state, 0) for part in parts if part.uuid == uuid) == whole


def test_names_are_sealed_as_digests_and_opened_beside_the_reading(desk: Desk) -> None:
    desk.table.add(4100, "python3", user="mei")
    (holder,) = desk.holders.resolve([GpuProcess(4100, 1 << 30)])
    tally = Tally(state_slice_ms={State.HELD: SLICES}, bin_slice_ms=[SLICES, 0, 0, 0, 0, 0, 0, 0])
    tally.workload_slice_ms = {(holder.workload, holder.user): {State.HELD: SLICES}}
    desk.seal(Span(start_ms=START_MS, end_ms=START_MS + CELL_MS, tallies={"GPU-a": tally}))
    (record,) = records(desk.directory)
    names = {name for _, name in record["openings"].values()}
    assert names == {"python3 (pid 4100, started 7)", "mei"}
    for digest, (salt, name) in record["openings"].items():
        assert digest_name(bytes.fromhex(salt), name) == digest
        assert digest in record["workloads"]
    core = open_envelope(record["envelope"].encode("ascii")).payload
    assert not any(name.encode() in core + record["workloads"].encode() for name in ("python3", "mei"))


# ---------------------------------------------------------------------------------------------- the crash file


def test_what_was_open_is_sealed_as_a_reading_of_its_own(desk: Desk) -> None:
    desk.seal(free_span(START_MS, START_MS + CELL_MS))
    desk.sealer.save_open(desk.draft(free_span(START_MS + CELL_MS, START_MS + CELL_MS + 47_000)))
    after = desk.again()
    after.sealer.recover()
    assert after.spans() == [(START_MS, START_MS + CELL_MS), (START_MS + CELL_MS, START_MS + CELL_MS + 47_000)]


def test_what_was_open_is_sealed_once_however_often_the_agent_dies_afterwards(desk: Desk) -> None:
    desk.sealer.save_open(desk.draft(free_span(START_MS, START_MS + 47_000)))
    for _ in range(3):
        after = desk.again()
        after.sealer.recover()
        assert after.spans() == [(START_MS, START_MS + 47_000)]


def test_death_between_the_seal_and_the_next_crash_file_counts_nothing_twice(desk: Desk) -> None:
    desk.sealer.save_open(desk.draft(free_span(START_MS, START_MS + 299_000)))
    desk.seal(free_span(START_MS, START_MS + CELL_MS))
    after = desk.again()
    after.sealer.recover()
    assert after.spans() == [(START_MS, START_MS + CELL_MS)]


def test_death_while_the_parts_of_a_reading_were_written_loses_no_part(desk: Desk) -> None:
    desk.sealer.save_open(desk.draft(free_span(START_MS, START_MS + 299_000, gpus=70)))
    desk.seal(free_span(START_MS, START_MS + CELL_MS, gpus=70))
    (path,) = sorted((desk.directory / "journal").glob("*.jsonl"))
    whole = path.read_bytes()
    edges = [index + 1 for index, byte in enumerate(whole) if byte == ord("\n")]
    for length in (0, 1, edges[0] - 1, edges[0], edges[0] + 1, edges[1], edges[1] + 9, edges[2] - 1):
        path.write_bytes(whole[:length])
        after = desk.again()
        after.sealer.recover()
        assert after.spans() == [(START_MS, START_MS + 299_000)]
        assert sum(len(reading.gpus) for reading in sealed(desk.directory, desk.key.public_bytes)) == 70
    path.write_bytes(whole)
    after = desk.again()
    after.sealer.recover()
    assert after.spans() == [(START_MS, START_MS + CELL_MS)]


def test_nothing_open_leaves_nothing_to_recover(desk: Desk) -> None:
    desk.sealer.save_open(desk.draft(free_span(START_MS, START_MS + 1_000)))
    desk.sealer.save_open(())
    after = desk.again()
    after.sealer.recover()
    assert records(desk.directory) == []


@pytest.mark.parametrize(
    "document", [b"[]", b"{}", b"7", b"not json", b'[{"core": "x"}]', b'[{"core": "{}", "workloads": "[]"}]', b"[[]]"]
)
def test_a_crash_file_that_says_nothing_sensible_is_said_and_left(
    desk: Desk, caplog: pytest.LogCaptureFixture, document: bytes
) -> None:
    CrashFile(desk.directory / "open").write(document)
    after = desk.again()
    with caplog.at_level(logging.WARNING):
        after.sealer.recover()
    assert caplog.messages == ["open_span_lost"]
    assert records(desk.directory) == []


def test_a_crash_file_of_another_key_is_said_and_left(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    desk.sealer.save_open(desk.draft(free_span(START_MS, START_MS + 1_000)))
    after = Desk(desk.directory)
    with caplog.at_level(logging.WARNING):
        after.sealer.recover()
    assert caplog.messages == ["open_span_lost"]
    assert records(desk.directory) == []


# ---------------------------------------------------------------------------------------------- failing disks


class FullJournal(Journal):
    """A journal on a disk that is full while `is_full`."""

    is_full = False

    def append(self, records: object) -> None:
        if self.is_full:
            raise StorageError("journal: cannot write a sealed reading: No space left on device")
        super().append(records)  # type: ignore[arg-type]


class FullCrashFile(CrashFile):
    """A crash file on a disk that is full while `is_full`."""

    is_full = False

    def write(self, document: bytes | None) -> None:
        if self.is_full:
            raise StorageError("open: cannot be written: No space left on device")
        super().write(document)


@pytest.fixture
def full(tmp_path: Path) -> tuple[Desk, FullJournal, FullCrashFile]:
    desk = Desk(tmp_path)
    journal, crash_file = FullJournal(tmp_path / "journal", BIG, BIG), FullCrashFile(tmp_path / "open")
    desk.sealer = Sealer(desk.key, journal, crash_file)
    return desk, journal, crash_file


def test_a_full_disk_is_counted_and_said_once_and_nothing_is_lost(
    full: tuple[Desk, FullJournal, FullCrashFile], caplog: pytest.LogCaptureFixture
) -> None:
    desk, journal, _ = full
    journal.is_full = True
    with caplog.at_level(logging.INFO):
        for number in range(5):
            desk.seal(free_span(START_MS + number * CELL_MS, START_MS + (number + 1) * CELL_MS))
        assert (desk.sealer.pending, desk.sealer.failures, desk.sealer.sealed) == (5, 5, 0)
        assert desk.sealer.last_end_ms == START_MS + 5 * CELL_MS
        journal.is_full = False
        desk.sealer.seal_pending()
    assert caplog.messages == ["seal_failed", "seal_recovered"]
    assert (desk.sealer.pending, desk.sealer.sealed) == (0, 5)
    assert len(desk.spans()) == 5


def test_after_a_week_of_a_full_disk_the_oldest_are_given_up_and_counted(
    full: tuple[Desk, FullJournal, FullCrashFile],
) -> None:
    desk, journal, _ = full
    journal.is_full = True
    drafts = desk.draft(free_span(START_MS, START_MS + CELL_MS))
    for _ in range(PENDING_MAX + 3):
        desk.sealer.add(drafts)
    assert desk.sealer.pending == PENDING_MAX
    assert desk.sealer.dropped == 3


def test_a_crash_file_that_fails_is_said_once_though_seals_go_on(
    full: tuple[Desk, FullJournal, FullCrashFile], caplog: pytest.LogCaptureFixture
) -> None:
    desk, _, crash_file = full
    crash_file.is_full = True
    with caplog.at_level(logging.INFO):
        for number in range(4):
            desk.sealer.seal_pending()
            desk.sealer.save_open(desk.draft(free_span(START_MS, START_MS + 1_000 * (number + 1))))
    assert caplog.messages == ["crash_file_failed"]
    assert (desk.sealer.crash_file_failures, desk.sealer.failures) == (4, 0)
    crash_file.is_full = False
    desk.sealer.save_open(desk.draft(free_span(START_MS, START_MS + 9_000)))
    assert json.loads(CrashFile(desk.directory / "open").read() or b"null") is not None
