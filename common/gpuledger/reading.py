# SPDX-License-Identifier: Apache-2.0
"""The sealed reading: its schema, its bytes, its laws and its limits (evidence.md, 1).

A reading accounts for one span of one cell on one node: for every GPU the slice-ms per observed state and per
reason of not being covered, which sum to the span exactly. Bytes are JSON with sorted keys and integers only; zeros
are omitted. One reading has one form: other bytes are refused and not encoded. Signatures are over the stored bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from gpuledger import gpu_time, wire, workload_time
from gpuledger.cells import CELL_MS, floor_to
from gpuledger.gpu_time import GpuTime
from gpuledger.wire import Fields, fail, is_integer, quote
from gpuledger.workload_time import WorkloadTime

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


def digest(data: bytes) -> str:
    """Return SHA-256 in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def encode(reading: Reading) -> bytes:
    """Return the reading's one form in bytes; raises ReadingError if it breaks a law or a limit."""
    data = sketch(reading)
    decode_known(data)
    return data


def sketch(reading: Reading) -> bytes:
    """Return the bytes that `encode` would, unchecked: for what will be decoded before anybody believes it."""
    return wire.dump(
        wire.present(
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
                "gpus": [gpu_time.encode(gpu) for gpu in reading.gpus],
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
    return wire.dump([workload_time.encode(part) for part in workloads])


# ---------------------------------------------------------------------------------------------- decoding


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
        gpus=tuple(gpu_time.decode(gpu, f"gpus[{index}]") for index, gpu in enumerate(gpus)),
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
    workload_time.check(parts, reading.gpus)
    return tuple(parts)


def _decode_workloads(data: bytes) -> list[WorkloadTime]:
    value = wire.parse(data, "workloads", WORKLOADS_BYTES_MAX)
    if not isinstance(value, list) or len(value) > (WORKLOADS_MAX + 1) * GPUS_MAX:
        fail("workloads", "not a list within its limit")
    return [workload_time.decode(item, f"workloads[{index}]") for index, item in enumerate(value)]


# ---------------------------------------------------------------------------------------------- laws


def check(reading: Reading) -> None:
    """Raise ReadingError unless the reading keeps every law that can be seen in it alone."""
    if not reading.start_ms < reading.end_ms <= reading.cell_ms + CELL_MS:
        fail("core", f"[{reading.start_ms}, {reading.end_ms}) is not a span within one cell of {CELL_MS} ms")
    if not 1 <= reading.interval_ms <= CELL_MS:
        fail("core", f"interval_ms {reading.interval_ms} is not from 1 to {CELL_MS}")
    if reading.sequence < 1:
        fail("core", "sequence starts at 1")
    seen: set[str] = set()
    for index, gpu in enumerate(reading.gpus):
        where = f"gpus[{index}]"
        if gpu.uuid in seen:
            fail(where, f"{gpu.uuid} stands twice in one reading")
        seen.add(gpu.uuid)
        gpu_time.check(gpu, where, reading.end_ms - reading.start_ms)
