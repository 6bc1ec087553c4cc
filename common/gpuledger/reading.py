# SPDX-License-Identifier: Apache-2.0
"""The sealed reading: its schema, its bytes, its laws and its limits (evidence.md, 1).

A reading accounts for one span of one cell on one node: for every GPU the slice-ms per observed state and per
reason of not being covered, which sum to the span exactly. Bytes are JSON with sorted keys and integers only; zeros
are omitted. One reading has one form: other bytes are refused and not encoded. Signatures are over the stored bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gpuledger import wire
from gpuledger.cells import CELL_MS, SLICES_PER_GPU, floor_to
from gpuledger.states import ACTIVITY_EDGES_PPM, ENGINES, OBSERVED, State, Uncovered
from gpuledger.wire import Fields, fail, is_integer, quote

SCHEMA = 1
PAYLOAD_TYPE = "application/vnd.gpuledger.reading.v1+json"
GENESIS = "genesis"
"""What stands for the previous reading's hash where there is none."""

LEAF_BYTES_MAX = 65_535
WORKLOADS_BYTES_MAX = 65_535
TEXT_CHARACTERS_MAX = wire.TEXT_CHARACTERS_MAX
GPUS_MAX = 256
WORKLOADS_MAX = 64
INTEGER_MAX = wire.INTEGER_MAX
UNCOVERED_ENERGY = "uncovered"

_OBSERVED_NAMES = {state.value: state for state in OBSERVED}
_UNCOVERED_NAMES = {reason.value: reason for reason in Uncovered}
_ENGINE_NAMES = {engine: engine for engine in ENGINES}
_ENERGY_NAMES = {key: key for key in (*_OBSERVED_NAMES, UNCOVERED_ENERGY)}
_BIN_NAMES = {str(index): index for index in range(len(ACTIVITY_EDGES_PPM))}


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuTime:
    """One GPU's part of a reading.

    `energy_mj` is millijoules by state name, or "uncovered"; `energy_start_mj` and `energy_end_mj` are the board's
    odometer at the span's ends (None where it is not offered) and `energy_epochs` how often it fell in between.
    `active_ns` is the integral of activity over `active_known_ms`, the time for which activity was known, from
    `activity_source` (the weakest); `engine_ns` that of each of ENGINES over `engine_known_ms`.
    """

    uuid: str
    serial: str | None = None
    index: int | None = None
    pci_bus_id: str | None = None
    model: str | None = None
    memory_total_bytes: int | None = None
    power_limit_mw: int | None = None
    state_slice_ms: Mapping[State, int] = field(default_factory=dict)
    uncovered_slice_ms: Mapping[Uncovered, int] = field(default_factory=dict)
    bin_slice_ms: tuple[int, ...] = (0,) * len(ACTIVITY_EDGES_PPM)
    active_ns: int | None = None
    active_known_ms: int = 0
    activity_source: str | None = None
    engine_ns: Mapping[str, int] = field(default_factory=dict)
    engine_known_ms: Mapping[str, int] = field(default_factory=dict)
    energy_mj: Mapping[str, int] = field(default_factory=dict)
    energy_start_mj: int | None = None
    energy_end_mj: int | None = None
    energy_epochs: int = 0
    memory_used_bytes_max: int | None = None
    hang_suspicion_ms: int = 0
    rejected_values: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """The core of one sealed reading; times are POSIX milliseconds, half-open [start_ms, end_ms) within one cell."""

    node_id: str
    node_name: str
    session: str
    sequence: int
    boot_id: str
    start_ms: int
    end_ms: int
    wall_start_ms: int
    wall_end_ms: int
    interval_ms: int
    agent_version: str
    configuration_digest: str
    previous: str
    checkpoint: str | None = None
    part: tuple[int, int] = (1, 1)
    simulated: bool = False
    workloads_digest: str | None = None
    gpus: tuple[GpuTime, ...] = ()

    @property
    def cell_ms(self) -> int:
        """Return the start of the cell that holds the reading."""
        return floor_to(self.start_ms, CELL_MS)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadTime:
    """Busy and held time of one workload on one GPU within a reading; names are digests (see gpuledger.sealing)."""

    workload: str
    user: str | None
    uuid: str
    state_slice_ms: Mapping[State, int]
    memory_bytes_max: int | None = None


REST = "rest"
"""The workload that stands for all beyond the top WORKLOADS_MAX of a reading."""

UNATTRIBUTED = "unattributed"
"""The workload that the ledger gives busy and held time whose workloads did not come with the reading."""


def digest(data: bytes) -> str:
    """Return SHA-256 in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def _present(pairs: Mapping[str, object | None]) -> dict[str, object]:
    return {key: value for key, value in pairs.items() if value is not None}


def _amounts(amounts: Mapping[Any, int]) -> dict[str, int] | None:
    return {str(key): amount for key, amount in amounts.items() if amount != 0} or None


def _encode_gpu(gpu: GpuTime) -> dict[str, object]:
    return _present(
        {
            "uuid": gpu.uuid,
            "serial": gpu.serial,
            "index": gpu.index,
            "pci": gpu.pci_bus_id,
            "model": gpu.model,
            "memory_total_bytes": gpu.memory_total_bytes,
            "power_limit_mw": gpu.power_limit_mw,
            "states": _amounts(gpu.state_slice_ms),
            "uncovered": _amounts(gpu.uncovered_slice_ms),
            "bins": _amounts(dict(enumerate(gpu.bin_slice_ms))),
            "active_ns": gpu.active_ns,
            "active_known_ms": gpu.active_known_ms or None,
            "activity_source": gpu.activity_source,
            "engine_ns": _amounts(gpu.engine_ns),
            "engine_known_ms": _amounts(gpu.engine_known_ms),
            "energy_mj": _amounts(gpu.energy_mj),
            "energy_start_mj": gpu.energy_start_mj,
            "energy_end_mj": gpu.energy_end_mj,
            "energy_epochs": gpu.energy_epochs or None,
            "memory_used_bytes_max": gpu.memory_used_bytes_max,
            "hang_suspicion_ms": gpu.hang_suspicion_ms or None,
            "rejected_values": gpu.rejected_values or None,
        }
    )


def encode(reading: Reading) -> bytes:
    """Return the reading's one form in bytes; raises ReadingError if it breaks a law or a limit."""
    data = sketch(reading)
    decode_known(data)
    return data


def sketch(reading: Reading) -> bytes:
    """Return the bytes that `encode` would, unchecked: for what will be decoded before anybody believes it."""
    return wire.dump(
        _present(
            {
                "schema": SCHEMA,
                "node_id": reading.node_id,
                "node": reading.node_name,
                "session": reading.session,
                "sequence": reading.sequence,
                "boot_id": reading.boot_id,
                "start_ms": reading.start_ms,
                "end_ms": reading.end_ms,
                "wall_start_ms": reading.wall_start_ms,
                "wall_end_ms": reading.wall_end_ms,
                "interval_ms": reading.interval_ms,
                "agent": reading.agent_version,
                "configuration": reading.configuration_digest,
                "previous": reading.previous,
                "checkpoint": reading.checkpoint,
                "part": None if reading.part == (1, 1) else list(reading.part),
                "simulated": True if reading.simulated else None,
                "workloads": reading.workloads_digest,
                "gpus": [_encode_gpu(gpu) for gpu in reading.gpus],
            }
        )
    )


def encode_workloads(workloads: Sequence[WorkloadTime]) -> bytes:
    """Return the workloads blob, whose digest the core carries; raises ReadingError if it breaks a limit."""
    data = sketch_workloads(workloads)
    _decode_workloads(data)
    return data


def sketch_workloads(workloads: Sequence[WorkloadTime]) -> bytes:
    """Return the bytes that `encode_workloads` would, unchecked."""
    return wire.dump(
        [
            _present(
                {
                    "workload": part.workload,
                    "user": part.user,
                    "uuid": part.uuid,
                    "states": _amounts(part.state_slice_ms),
                    "memory_bytes_max": part.memory_bytes_max,
                }
            )
            for part in workloads
        ]
    )


# ---------------------------------------------------------------------------------------------- decoding


def _decode_gpu(value: object, where: str) -> GpuTime:
    fields = Fields(value, where)
    bins = fields.amounts("bins", _BIN_NAMES)
    gpu = GpuTime(
        uuid=fields.name("uuid"),
        serial=fields.text("serial", None),
        index=fields.integer("index", None),
        pci_bus_id=fields.text("pci", None),
        model=fields.text("model", None),
        memory_total_bytes=fields.integer("memory_total_bytes", None),
        power_limit_mw=fields.integer("power_limit_mw", None),
        state_slice_ms=fields.amounts("states", _OBSERVED_NAMES),
        uncovered_slice_ms=fields.amounts("uncovered", _UNCOVERED_NAMES),
        bin_slice_ms=tuple(bins.get(index, 0) for index in range(len(ACTIVITY_EDGES_PPM))),
        active_ns=fields.integer("active_ns", None),
        active_known_ms=fields.integer("active_known_ms", 0),
        activity_source=fields.text("activity_source", None),
        engine_ns=fields.amounts("engine_ns", _ENGINE_NAMES),
        engine_known_ms=fields.amounts("engine_known_ms", _ENGINE_NAMES),
        energy_mj=fields.amounts("energy_mj", _ENERGY_NAMES),
        energy_start_mj=fields.integer("energy_start_mj", None),
        energy_end_mj=fields.integer("energy_end_mj", None),
        energy_epochs=fields.integer("energy_epochs", 0),
        memory_used_bytes_max=fields.integer("memory_used_bytes_max", None),
        hang_suspicion_ms=fields.integer("hang_suspicion_ms", 0),
        rejected_values=fields.integer("rejected_values", 0),
    )
    fields.end()
    return gpu


_NOT_THE_ONE_FORM = "not in its one form: sorted keys, no spaces, no zeros or nulls, nothing escaped without need"


def decode(data: bytes) -> Reading:
    """Return the reading in `data`; raises ReadingError naming the first field at fault."""
    reading = decode_known(data)
    if sketch(reading) != data:
        fail("core", _NOT_THE_ONE_FORM)
    return reading


def decode_known(data: bytes) -> Reading:
    """Return the reading in bytes that were in their one form when they were taken in; the laws are checked again."""
    fields = Fields(wire.parse(data, "core", LEAF_BYTES_MAX), "core")
    schema = fields.take("schema")
    if not is_integer(schema) or schema != SCHEMA:
        fail("core", f"schema {quote(schema)} is not known to this version (it knows {SCHEMA})")
    part = fields.take("part", [1, 1])
    if not (isinstance(part, list) and len(part) == 2 and all(map(is_integer, part)) and 1 <= part[0] <= part[1]):
        fail("core", "part is not [k, n] with 1 <= k <= n")
    gpus = fields.take("gpus")
    if not isinstance(gpus, list) or len(gpus) > GPUS_MAX:
        fail("core", f"gpus is not a list of at most {GPUS_MAX}")
    simulated = fields.take("simulated", False)
    if not isinstance(simulated, bool):
        fail("core", "simulated is not true or false")
    reading = Reading(
        node_id=fields.name("node_id"),
        node_name=fields.name("node"),
        session=fields.name("session"),
        sequence=fields.integer("sequence"),
        boot_id=fields.text("boot_id"),
        start_ms=fields.integer("start_ms"),
        end_ms=fields.integer("end_ms"),
        wall_start_ms=fields.integer("wall_start_ms"),
        wall_end_ms=fields.integer("wall_end_ms"),
        interval_ms=fields.integer("interval_ms"),
        agent_version=fields.text("agent"),
        configuration_digest=fields.text("configuration"),
        previous=fields.text("previous"),
        checkpoint=fields.text("checkpoint", None),
        part=(part[0], part[1]),
        simulated=simulated,
        workloads_digest=fields.text("workloads", None),
        gpus=tuple(_decode_gpu(gpu, f"gpus[{index}]") for index, gpu in enumerate(gpus)),
    )
    fields.end()
    check(reading)
    return reading


def decode_workloads(data: bytes, reading: Reading) -> tuple[WorkloadTime, ...]:
    """Return the workloads blob that belongs to `reading`; raises ReadingError where it does not."""
    parts = decode_known_workloads(data, reading)
    if sketch_workloads(parts) != data:
        fail("workloads", _NOT_THE_ONE_FORM)
    return parts


def decode_known_workloads(data: bytes, reading: Reading) -> tuple[WorkloadTime, ...]:
    """Return the blob that was in its one form when it was taken in; that it is the reading's own is checked again."""
    if digest(data) != reading.workloads_digest:
        fail("workloads", "the blob does not match the digest in the reading")
    parts = _decode_workloads(data)
    _check_workloads(parts, reading)
    return tuple(parts)


def _decode_workloads(data: bytes) -> list[WorkloadTime]:
    value = wire.parse(data, "workloads", WORKLOADS_BYTES_MAX)
    if not isinstance(value, list) or len(value) > (WORKLOADS_MAX + 1) * GPUS_MAX:
        fail("workloads", "not a list within its limit")
    parts = []
    for index, item in enumerate(value):
        fields = Fields(item, f"workloads[{index}]")
        parts.append(
            WorkloadTime(
                workload=fields.name("workload"),
                user=fields.text("user", None),
                uuid=fields.name("uuid"),
                state_slice_ms=fields.amounts("states", _OBSERVED_NAMES),
                memory_bytes_max=fields.integer("memory_bytes_max", None),
            )
        )
        fields.end()
    return parts


# ---------------------------------------------------------------------------------------------- laws


def check(reading: Reading) -> None:
    """Raise ReadingError unless the reading keeps every law that can be seen in it alone."""
    if not reading.start_ms < reading.end_ms <= reading.cell_ms + CELL_MS:
        fail("core", f"[{reading.start_ms}, {reading.end_ms}) is not a span within one cell of {CELL_MS} ms")
    if not 1 <= reading.interval_ms <= CELL_MS:
        fail("core", f"interval_ms {reading.interval_ms} is not from 1 to {CELL_MS}")
    if reading.sequence < 1:
        fail("core", "sequence starts at 1")
    span_slice_ms = (reading.end_ms - reading.start_ms) * SLICES_PER_GPU
    seen: set[str] = set()
    for index, gpu in enumerate(reading.gpus):
        where = f"gpus[{index}]"
        if gpu.uuid in seen:
            fail(where, f"{gpu.uuid} stands twice in one reading")
        seen.add(gpu.uuid)
        covered = sum(gpu.state_slice_ms.values())
        total = covered + sum(gpu.uncovered_slice_ms.values())
        if total != span_slice_ms:
            fail(where, f"states and uncovered sum to {total} slice-ms, and the span is {span_slice_ms}")
        binned = gpu.state_slice_ms.get(State.BUSY, 0) + gpu.state_slice_ms.get(State.HELD, 0)
        if sum(gpu.bin_slice_ms) != binned:
            fail(where, f"bins sum to {sum(gpu.bin_slice_ms)} slice-ms, and busy and held to {binned}")
        if (gpu.active_ns is None) is (gpu.active_known_ms > 0):
            fail(where, "active_ns and active_known_ms: one without the other would be a figure from nothing")
        integrals = [("active_ns", gpu.active_ns or 0, gpu.active_known_ms)]
        integrals += [
            (f"engine_ns of {name}", gpu.engine_ns.get(name, 0), gpu.engine_known_ms.get(name, 0)) for name in ENGINES
        ]
        for name, active_ns, known_ms in integrals:
            if active_ns > known_ms * 1_000_000 or known_ms > reading.end_ms - reading.start_ms:
                fail(where, f"{name}: an integral over more time than was known, or known for longer than the span")
        if gpu.hang_suspicion_ms * SLICES_PER_GPU > gpu.state_slice_ms.get(State.UNMEASURED, 0):
            fail(where, "hang_suspicion_ms is longer than the unmeasured time it is part of")


def _check_workloads(parts: Sequence[WorkloadTime], reading: Reading) -> None:
    gpus = {gpu.uuid: gpu for gpu in reading.gpus}
    sums: dict[tuple[str, State], int] = {}
    for index, part in enumerate(parts):
        if part.uuid not in gpus:
            fail(f"workloads[{index}]", f"{part.uuid} is not a GPU of this reading")
        for state, amount in part.state_slice_ms.items():
            if state not in (State.BUSY, State.HELD):
                fail(f"workloads[{index}]", f"{state} time is no workload's")
            sums[part.uuid, state] = sums.get((part.uuid, state), 0) + amount
    for uuid, gpu in gpus.items():
        for state in (State.BUSY, State.HELD):
            total = sums.get((uuid, state), 0)
            if total != gpu.state_slice_ms.get(state, 0):
                fail("workloads", f"{state} time of {uuid} sums to {total} slice-ms, not to the reading's")
