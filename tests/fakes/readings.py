# SPDX-License-Identifier: Apache-2.0
"""Sealed readings of nodes that do not exist: real keys, real seals, real chains, made-up time."""

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gpuledger.cells import CELL_MS, SLICES_PER_GPU
from gpuledger.gpu_time import GpuTime
from gpuledger.reading import GENESIS, PAYLOAD_TYPE, Reading, digest, encode, encode_workloads
from gpuledger.sealing import NameSealer, SigningKey
from gpuledger.states import ACTIVITY_EDGES_PPM, State
from gpuledger.workload_time import WorkloadTime

MONDAY_MS = 1_793_577_600_000
"""2026-11-02T00:00:00Z, a Monday."""
MODEL = "NVIDIA H100 80GB HBM3"


def key_of(name: str) -> SigningKey:
    """The same key for the same name, every time."""
    return SigningKey(Ed25519PrivateKey.from_private_bytes(hashlib.sha256(name.encode()).digest()))


def gpu_time(
    uuid: str, span_ms: int, states_ms: Mapping[State, int] | None = None, *, rest: State = State.FREE, **fields: Any
) -> GpuTime:
    """A GPU's part of a reading: the states given in GPU-ms, and `rest` for what is left of the span."""
    amounts = {state: amount * SLICES_PER_GPU for state, amount in (states_ms or {}).items() if amount > 0}
    left = span_ms * SLICES_PER_GPU - sum(amounts.values())
    if left > 0:
        amounts[rest] = amounts.get(rest, 0) + left
    bins = [0] * len(ACTIVITY_EDGES_PPM)
    bins[0] = amounts.get(State.HELD, 0)
    bins[-1] = amounts.get(State.BUSY, 0)
    busy_ms = amounts.get(State.BUSY, 0) // SLICES_PER_GPU
    values: dict[str, Any] = {
        "serial": "S" + uuid.removeprefix("GPU-"),
        "model": MODEL,
        "bin_slice_ms": tuple(bins),
        "active_ns": busy_ms * 1_000_000,
        "active_known_ms": span_ms,
        "activity_source": "gpm",
        "memory_used_bytes_max": 1 << 30,
        "energy_mj": {str(state): amount // 70 for state, amount in amounts.items() if amount >= 70},
    }
    return GpuTime(uuid=uuid, state_slice_ms=amounts, **(values | fields))


@dataclass(frozen=True, kw_only=True)
class Sealed:
    """A reading as a journal keeps it."""

    reading: Reading
    envelope: bytes
    workloads: bytes | None
    openings: Mapping[str, tuple[bytes, str]]

    @property
    def digest(self) -> str:
        return digest(self.envelope)

    def item(self) -> dict[str, Any]:
        return {
            "sequence": self.reading.sequence,
            "envelope": self.envelope.decode(),
            "workloads": None if self.workloads is None else self.workloads.decode(),
            "openings": {key: [salt.hex(), name] for key, (salt, name) in self.openings.items()},
        }


@dataclass
class FakeNode:
    """A node with a key and a journal. `gpus` GPUs named after it; every `seal` is one more reading in its chain."""

    name: str = "node-1"
    gpus: int = 8
    journal: str = "journal-1"
    session: str = "session-1"
    simulated: bool = False
    key_name: str | None = None
    sealed: list[Sealed] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.key = key_of(self.name if self.key_name is None else self.key_name)
        self.names = NameSealer(hashlib.sha256(self.name.encode()).digest())
        self.previous = GENESIS
        self.sequence = 0

    @property
    def node_id(self) -> str:
        return self.key.node_id

    @property
    def uuids(self) -> list[str]:
        return [f"GPU-{self.name}-{index}" for index in range(self.gpus)]

    def restart_journal(self, journal: str) -> None:
        self.journal, self.session = journal, f"session of {journal}"
        self.previous, self.sequence, self.sealed = GENESIS, 0, []

    def seal(
        self,
        start_ms: int,
        span_ms: int = CELL_MS,
        states_ms: Mapping[State, int] | Sequence[Mapping[State, int]] | None = None,
        *,
        gpus: Sequence[GpuTime] | None = None,
        user: str = "alice",
        workload: str = "training run",
        **header: Any,
    ) -> Sealed:
        """Seal one reading; `states_ms` for every GPU, or one mapping for each."""
        if gpus is None:
            each = states_ms if isinstance(states_ms, Sequence) else [states_ms or {}] * self.gpus
            gpus = [gpu_time(uuid, span_ms, some) for uuid, some in zip(self.uuids, each, strict=True)]
        parts = self._workloads(gpus, user, workload)
        blob = encode_workloads(parts) if parts else None
        values: dict[str, Any] = {
            "node_id": self.node_id,
            "node_name": self.name,
            "session": self.session,
            "sequence": self.sequence + 1,
            "boot_id": "boot-1",
            "start_ms": start_ms,
            "end_ms": start_ms + span_ms,
            "wall_start_ms": start_ms,
            "wall_end_ms": start_ms + span_ms,
            "interval_ms": 1000,
            "agent_version": "0.1.0",
            "configuration_digest": "0" * 64,
            "previous": self.previous,
            "simulated": self.simulated,
            "workloads_digest": None if blob is None else digest(blob),
            "gpus": tuple(gpus),
        }
        reading = Reading(**(values | header))
        envelope = self.key.seal(PAYLOAD_TYPE, encode(reading))
        names = (user, workload) if parts else ()
        openings = {self.names.digest_of(name): (self.names.salt_of(name), name) for name in names}
        sealed = Sealed(reading=reading, envelope=envelope, workloads=blob, openings=openings)
        self.previous, self.sequence = sealed.digest, reading.sequence
        self.sealed.append(sealed)
        return sealed

    def seal_cells(self, start_ms: int, cells: int, states_ms: Mapping[State, int] | None = None) -> list[Sealed]:
        return [self.seal(start_ms + index * CELL_MS, states_ms=states_ms) for index in range(cells)]

    def _workloads(self, gpus: Sequence[GpuTime], user: str, workload: str) -> list[WorkloadTime]:
        parts = []
        for gpu in gpus:
            states: dict[State, int] = {
                state: amount for state, amount in gpu.state_slice_ms.items() if state in (State.BUSY, State.HELD)
            }
            if states:
                digests = self.names.digest_of(workload), self.names.digest_of(user)
                part = WorkloadTime(workload=digests[0], user=digests[1], uuid=gpu.uuid, state_slice_ms=states)
                parts.append(replace(part, memory_bytes_max=1 << 30))
        return parts

    def answer(self, sealed: Iterable[Sealed] | None = None, **fields: Any) -> dict[str, Any]:
        """What /v1/readings would answer with these readings (all by default)."""
        return {
            "node_id": self.node_id,
            "node": self.name,
            "public_key": base64.b64encode(self.key.public_bytes).decode(),
            "journal": self.journal,
            "first_sequence": self.sealed[0].reading.sequence if self.sealed else None,
            "last_sequence": self.sequence,
            "simulated": self.simulated,
            "readings": [one.item() for one in (self.sealed if sealed is None else sealed)],
            "live": None,
        } | fields
