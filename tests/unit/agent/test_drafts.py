# SPDX-License-Identifier: Apache-2.0
"""Drafts of readings: parts that keep under every limit, GPU instances and workloads on them, the crash file's form."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from gpuledger.cells import CELL_MS
from gpuledger.checkpoint import Checkpoint, line_of, sign_checkpoint
from gpuledger.gpu_time import INSTANCES_MAX, XID_MAX
from gpuledger.reading import (
    INTEGER_MAX,
    LEAF_BYTES_MAX,
    PAYLOAD_TYPE,
    WORKLOADS_BYTES_MAX,
    decode_workloads,
    digest,
    encode,
    encode_workloads,
    sketch,
    sketch_workloads,
)
from gpuledger.sealing import NameSealer, SigningKey
from gpuledger.states import ACTIVITY_EDGES_PPM, ECC_KINDS, ENGINES, LINKS, OBSERVED, THROTTLES, State, Uncovered
from gpuledger_agent.crash_file import SLOT_BYTES
from gpuledger_agent.drafts import Draft, Origin, decode_draft, gpu_time, make_drafts, rank_workloads
from gpuledger_agent.health_tally import HealthTally
from gpuledger_agent.holders import Holders
from gpuledger_agent.nvml import Identity
from gpuledger_agent.snapshot import InstanceIdentity
from gpuledger_agent.tally import Measured, Span, Tally
from tests.fakes.processes import FakeProcessTable

START_MS = 6_000 * CELL_MS
SLICES = 7 * CELL_MS
LONG = Origin(
    node_name="\u00fc" * 256,
    session="f" * 16,
    boot_id="f" * 36,
    interval_ms=CELL_MS,
    configuration_digest="f" * 64,
    is_simulated=True,
    wall_offset_ms=1_000,
)


def drafts_of(tallies: dict[str, Tally], identities: dict[str, Identity] | None = None) -> tuple[Draft, ...]:
    span = Span(start_ms=START_MS, end_ms=START_MS + CELL_MS, tallies=tallies)
    holders = Holders(FakeProcessTable(), NameSealer(bytes(32)), own_pid=1)
    return make_drafts(span, "f" * 64, LONG, identities or {}, holders)


def uuid_of(number: int) -> str:
    return f"GPU-{number:08x}-0000-4000-8000-000000000000"


def instance(number: int, slices: int = 1, uuid: str | None = None) -> InstanceIdentity:
    return InstanceIdentity(
        uuid=f"MIG-{number:08x}-0000-5000-8000-000000000000" if uuid is None else uuid,
        instance=number,
        profile=f"{slices}g.{10 * slices}gb+me.all",
        slices=slices,
        memory_total_bytes=10**11,
    )


def largest_identity(uuid: str) -> Identity:
    """As long as NVML's own buffers for it."""
    return Identity(
        uuid=uuid,
        serial="9" * 29,
        index=999,
        pci_bus_id="F" * 31,
        model="N" * 95,
        memory_total_bytes=10**13,
        power_limit_mw=10**7,
    )


def fill(measured: Measured, slices: int) -> None:
    """Give it as many and as long numbers as a cell of so many slices can have."""
    whole = slices * CELL_MS
    measured.state_slice_ms = dict.fromkeys(OBSERVED, slices)
    measured.uncovered_slice_ms = dict.fromkeys(Uncovered, slices)
    measured.state_slice_ms[State.UNMEASURED] = slices * 100_000
    measured.state_slice_ms[State.BUSY] += whole - measured.total_slice_ms
    binned = (measured.state_slice_ms[State.BUSY] + measured.state_slice_ms[State.HELD]) // slices
    bins = [binned // 8] * (len(ACTIVITY_EDGES_PPM) - 1)
    measured.bin_slice_ms = [slices * amount for amount in (*bins, binned - sum(bins))]
    measured.active_slice_ns = whole * 1_000_000
    measured.active_known_slice_ms = whole
    measured.engine_slice_ns = dict.fromkeys(ENGINES, whole * 1_000_000)
    measured.engine_known_slice_ms = dict.fromkeys(ENGINES, whole)
    measured.memory_used_bytes_max = 10**13


def largest_tally(instances: int) -> Tally:
    tally = Tally(
        activity_source="gpm" * 4,
        energy_mj=dict.fromkeys([*map(str, OBSERVED), "uncovered", "mig"], 10**12),
        energy_start_mj=INTEGER_MAX,
        energy_end_mj=INTEGER_MAX,
        energy_epochs=300,
        link_bytes=dict.fromkeys(LINKS, 300 << 43),
        link_known_ms=dict.fromkeys(LINKS, CELL_MS),
        hang_suspicion_ms=100_000,
        rejected_values=300,
        health=HealthTally(
            xids=dict.fromkeys(range(XID_MAX - 40, XID_MAX), 10**5),
            ecc_errors=dict.fromkeys(ECC_KINDS, 10**9),
            throttled_ns=dict.fromkeys(THROTTLES, CELL_MS * 1_000_000),
        ),
    )
    fill(tally, 7)
    for number in range(instances):
        measured = tally.instances[instance(number)] = Measured()
        fill(measured, 1)
    return tally


# ---------------------------------------------------------------------------------------------- limits


@pytest.mark.parametrize(("gpus", "instances"), [(64, 0), (8, 7), (9, 3), (1, 7)])
def test_a_leaf_keeps_under_its_limit_with_the_largest_numbers_and_names_there_are(gpus: int, instances: int) -> None:
    key = SigningKey.generate()
    longest = line_of(sign_checkpoint(Checkpoint(origin="o" * 64, size=10**18, root=bytes(32)), key))
    uuids = [uuid_of(number) for number in range(gpus)]
    drafts = drafts_of({uuid: largest_tally(instances) for uuid in uuids}, {u: largest_identity(u) for u in uuids})
    for draft in drafts:
        reading = replace(
            draft.reading, sequence=INTEGER_MAX, previous="f" * 64, workloads_digest="f" * 64, checkpoint=longest
        )
        assert len(key.seal(PAYLOAD_TYPE, encode(reading))) <= LEAF_BYTES_MAX
    assert [gpu.uuid for draft in drafts for gpu in draft.reading.gpus] == uuids
    assert [draft.reading.part for draft in drafts] == [(k, len(drafts)) for k in range(1, len(drafts) + 1)]
    assert len(drafts) == {64: 3, 8: 3, 9: 2, 1: 1}[gpus]


def test_of_very_many_different_xid_errors_the_fatal_and_the_frequent_are_told() -> None:
    tally = largest_tally(0)
    tally.health.xids = {79: 1, 13: 2} | dict.fromkeys(range(200, 240), 3)
    assert gpu_time(uuid_of(0), tally, largest_identity(uuid_of(0))).xids == {79: 1} | dict.fromkeys(range(200, 215), 3)


def test_a_node_of_eight_divided_gpus_fits_into_a_slot_of_the_crash_file() -> None:
    drafts = drafts_of({uuid_of(number): largest_tally(INSTANCES_MAX) for number in range(8)})
    assert 2 * sum(len(sketch(draft.reading)) for draft in drafts) < SLOT_BYTES


def crowd(gpus: int, instances: int, holders: int) -> dict[str, Tally]:
    """GPUs with so many instances, each shared by so many workloads of their own."""
    tallies = {}
    for number in range(gpus):
        tally = tallies[uuid_of(number)] = Tally()
        for place in range(instances):
            for holder in range(holders):
                key = (f"{place * holders + holder:064x}", "b" * 64, instance(place).uuid)
                tally.workload_slice_ms[key] = dict.fromkeys((State.BUSY, State.HELD), INTEGER_MAX // 10**9)
                tally.workload_memory_bytes_max[key] = 85_520_809_984
    return tallies


@pytest.mark.parametrize(("gpus", "instances", "holders"), [(32, 1, 100), (4, 7, 1), (4, 7, 100), (2, 14, 3)])
def test_a_workloads_blob_keeps_under_its_limit_however_many_share_however_many_instances(
    gpus: int, instances: int, holders: int
) -> None:
    tallies = crowd(gpus, instances, holders)
    parts = rank_workloads(tallies)
    assert len(encode_workloads(parts)) <= WORKLOADS_BYTES_MAX
    for uuid, tally in tallies.items():
        for state in (State.BUSY, State.HELD):
            whole = sum(times[state] for times in tally.workload_slice_ms.values())
            assert sum(part.state_slice_ms.get(state, 0) for part in parts if part.uuid == uuid) == whole


# ---------------------------------------------------------------------------------------------- instances


def divided(*times: tuple[InstanceIdentity, int]) -> Tally:
    """A GPU that was free for a cell, with instances that were there for so many ms."""
    tally = Tally(state_slice_ms={State.FREE: SLICES})
    for identity, time_ms in times:
        tally.instances[identity] = Measured(state_slice_ms={State.FREE: time_ms * identity.slices})
    return tally


def test_instances_are_sealed_in_order_of_id_with_what_is_relative_to_them() -> None:
    tally = divided((instance(9, 1), 1_000), (instance(2, 3), CELL_MS))
    measured = tally.instances[instance(2, 3)]
    measured.active_slice_ns, measured.active_known_slice_ms = 3 * 123_456_789, 3 * 1_000
    measured.engine_slice_ns, measured.engine_known_slice_ms = {"sm": 3 * 5}, {"sm": 3 * 1_000}
    (first, second) = gpu_time(uuid_of(0), tally, None).instances
    assert (first.instance, first.slices, first.profile) == (2, 3, "3g.30gb+me.all")
    assert (first.active_ns, first.active_known_ms) == (123_456_789, 1_000)
    assert (first.engine_ns, first.engine_known_ms) == ({"sm": 5}, {"sm": 1_000})
    assert second.state_slice_ms == {State.FREE: 1_000}


def test_what_no_room_is_left_for_is_the_shortest_and_stays_in_the_gpus_own_time() -> None:
    tally = divided(*((instance(number), 1_000 + number) for number in range(INSTANCES_MAX + 3)))
    gpu = gpu_time(uuid_of(0), tally, None)
    assert [part.instance for part in gpu.instances] == list(range(3, INSTANCES_MAX + 3))
    assert gpu.state_slice_ms == {State.FREE: SLICES}


def test_of_two_instances_that_had_one_name_the_longer_is_told() -> None:
    # The driver makes an instance's UUID of its ids, so it comes again with the next one there, whatever its size.
    small, large = instance(7, 1, uuid="MIG-x"), instance(7, 2, uuid="MIG-x")
    (part,) = gpu_time(uuid_of(0), divided((small, 5_000), (large, 9_000)), None).instances
    assert (part.slices, part.state_slice_ms) == (2, {State.FREE: 18_000})


def test_an_instance_that_was_only_seen_at_the_edge_of_a_cell_is_left_out() -> None:
    assert gpu_time(uuid_of(0), divided((instance(1), 0)), None).instances == ()


def test_integrals_of_a_divided_gpu_are_rounded_down_and_what_is_known_up() -> None:
    tally = Tally(state_slice_ms={State.BUSY: 1, State.FREE: SLICES - 1})
    tally.active_slice_ns, tally.active_known_slice_ms = 999_999, 1
    tally.engine_slice_ns, tally.engine_known_slice_ms = {"sm": 13}, {"sm": 8}
    gpu = gpu_time(uuid_of(0), tally, None)
    assert (gpu.active_ns, gpu.active_known_ms) == (142_857, 1)
    assert (gpu.engine_ns, gpu.engine_known_ms) == ({"sm": 1}, {"sm": 2})


def test_workloads_on_instances_come_back_from_the_crash_file_as_they_were() -> None:
    tallies = crowd(1, 2, 1)
    (tally,) = tallies.values()
    for times in tally.workload_slice_ms.values():
        times |= {State.BUSY: 1_000, State.HELD: 2_000}
    tally.state_slice_ms = {State.BUSY: 2_000, State.HELD: 4_000, State.FREE: SLICES - 6_000}
    tally.bin_slice_ms[0] = 6_000
    (draft,) = drafts_of(tallies)
    kept = {
        "core": sketch(draft.reading).decode("ascii"),
        "workloads": sketch_workloads(draft.workloads).decode("ascii"),
        "openings": {},
    }
    again = decode_draft(json.loads(json.dumps(kept)))
    assert again.workloads == draft.workloads
    assert {part.instance_uuid for part in again.workloads} == {instance(0).uuid, instance(1).uuid}
    blob = encode_workloads(again.workloads)
    assert decode_workloads(blob, replace(again.reading, workloads_digest=digest(blob))) == draft.workloads
