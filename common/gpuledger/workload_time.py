# SPDX-License-Identifier: Apache-2.0
"""One workload's part of a reading: fields, bytes and laws of the blob that lies beside the core (evidence.md, 1)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from gpuledger import hints as process_hints
from gpuledger.gpu_time import GpuTime
from gpuledger.hints import Hints
from gpuledger.states import FEATURES, OBSERVED, WORKLOAD_SOURCES, State
from gpuledger.wire import Fields, amounts, fail, present, quote

_OBSERVED_NAMES = {state.value: state for state in OBSERVED}
_FEATURE_NAMES = {feature: feature for feature in FEATURES}
WHOLE_STATES = (State.BUSY, State.HELD)
"""States whose time always belongs to somebody, so the workloads of a GPU sum to it."""
PARTLY_STATES = (State.RESERVED, State.UNMEASURED, State.OPERATOR)
"""States whose time may belong to somebody who is known: an allocation's, a virtual machine's, the operator's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadTime:
    """Time of one workload on one GPU, or one instance of it, within a reading.

    `workload` and `user` are digests (see gpuledger.sealing); `source` says what told the workload, one of
    WORKLOAD_SOURCES; `instance_uuid` names the GPU instance (None: the whole GPU); `features` are integers by the
    names of FEATURES, absent where they are unknown or zero; `hints` are what the workload's processes on the node told
    of its kind (None: nobody looked).
    """

    workload: str
    user: str | None
    uuid: str
    state_slice_ms: Mapping[State, int]
    memory_bytes_max: int | None = None
    source: str | None = None
    instance_uuid: str | None = None
    features: Mapping[str, int] = field(default_factory=dict)
    hints: Hints | None = None


REST = "rest"
"""The workload that stands for all beyond the top WORKLOADS_MAX of a reading."""

UNATTRIBUTED = "unattributed"
"""The workload that the ledger gives busy and held time whose workloads did not come with the reading."""


def encode(part: WorkloadTime) -> dict[str, object]:
    """Return the JSON object of a workload's part."""
    return present(
        {
            "workload": part.workload,
            "user": part.user,
            "uuid": part.uuid,
            "states": amounts(part.state_slice_ms),
            "memory_bytes_max": part.memory_bytes_max,
            "source": part.source,
            "instance_uuid": part.instance_uuid,
            "features": amounts(part.features),
            "hints": None if part.hints is None else process_hints.encode(part.hints),
        }
    )


def decode(value: object, where: str) -> WorkloadTime:
    """Return a workload's part from its JSON object; raises ReadingError naming `where` and the field at fault."""
    fields = Fields(value, where)
    part = WorkloadTime(
        workload=fields.name("workload"),
        user=fields.text("user", None),
        uuid=fields.name("uuid"),
        state_slice_ms=fields.amounts("states", _OBSERVED_NAMES),
        memory_bytes_max=fields.integer("memory_bytes_max", None),
        source=fields.text("source", None),
        instance_uuid=fields.text("instance_uuid", None),
        features=fields.amounts("features", _FEATURE_NAMES),
        hints=_hints(fields, where),
    )
    if part.source is not None and part.source not in WORKLOAD_SOURCES:
        fail(where, f"source {quote(part.source)} is none of {', '.join(WORKLOAD_SOURCES)}")
    fields.end()
    return part


def _hints(fields: Fields, where: str) -> Hints | None:
    value = fields.take("hints", None)
    return None if value is None else process_hints.decode(value, f"{where}.hints")


def check(parts: Sequence[WorkloadTime], gpus: Iterable[GpuTime]) -> None:
    """Raise ReadingError unless the parts are of these GPUs and sum to their time, where it must be somebody's."""
    by_uuid = {gpu.uuid: gpu for gpu in gpus}
    sums: dict[tuple[str, State], int] = {}
    for index, part in enumerate(parts):
        if part.uuid not in by_uuid:
            fail(f"workloads[{index}]", f"{part.uuid} is not a GPU of this reading")
        for state, amount in part.state_slice_ms.items():
            if state not in WHOLE_STATES and state not in PARTLY_STATES:
                fail(f"workloads[{index}]", f"{state} time is no workload's")
            sums[part.uuid, state] = sums.get((part.uuid, state), 0) + amount
    for uuid, gpu in by_uuid.items():
        for state in WHOLE_STATES:
            total = sums.get((uuid, state), 0)
            if total != gpu.state_slice_ms.get(state, 0):
                fail("workloads", f"{state} time of {uuid} sums to {total} slice-ms, not to the reading's")
        for state in PARTLY_STATES:
            total = sums.get((uuid, state), 0)
            if total > gpu.state_slice_ms.get(state, 0):
                fail("workloads", f"{state} time of {uuid} sums to {total} slice-ms, more than the reading's")
