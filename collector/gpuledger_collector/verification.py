# SPDX-License-Identifier: Apache-2.0
"""Whether one served reading is genuine: its seal, its form, its workloads, and a time that can be. Pure."""

from __future__ import annotations

from enum import StrEnum

from gpuledger.cells import DAY_MS
from gpuledger.errors import ReadingError, SealError
from gpuledger.reading import (
    LEAF_BYTES_MAX,
    PAYLOAD_TYPE,
    WORKLOADS_BYTES_MAX,
    Reading,
    decode,
    decode_workloads,
)
from gpuledger.sealing import open_envelope, verify_envelope
from gpuledger.workload_time import WorkloadTime
from gpuledger_collector.ledger import Accepted
from gpuledger_collector.served import Answer, Item

FUTURE_MS_MAX = 300_000
"""A reading may end this much after the collector's own clock."""
ENERGY_MJ_MAX = 10**14
"""No board draws this in a reading's span, whatever outage went before; bounded so that hours add up in 64 bits."""


class Refusal(StrEnum):
    """Why a reading was not logged."""

    OVERSIZE = "oversize"
    MALFORMED = "malformed"
    TAMPERED = "tampered"
    TOO_OLD = "too_old"
    SIMULATED = "simulated"
    FUTURE = "future"
    UNENROLLED = "unenrolled"
    REVOKED = "revoked"

    @property
    def is_final(self) -> bool:
        """Return whether the reading can never become valid."""
        return self not in (Refusal.SIMULATED, Refusal.FUTURE, Refusal.UNENROLLED)


class RefusedError(Exception):
    """A reading is not taken in; the text says why."""

    def __init__(self, reason: Refusal, text: str) -> None:
        super().__init__(text)
        self.reason = reason


def verify_item(
    item: Item, known: str, answer: Answer, *, now_ms: int, age_ms_max: int, accept_simulated: bool
) -> Accepted:
    """Return the item's reading, decoded; raises RefusedError where it is not genuine, not whole or not wanted.

    `known` is the digest of its envelope.
    """
    if len(item.envelope) > LEAF_BYTES_MAX or (item.workloads and len(item.workloads) > WORKLOADS_BYTES_MAX):
        raise RefusedError(
            Refusal.OVERSIZE, f"an envelope of {len(item.envelope)} bytes or its workloads are too large"
        )
    try:
        payload = verify_envelope(item.envelope, answer.public_key, PAYLOAD_TYPE)
    except SealError as exc:
        raise RefusedError(_reason_of(item.envelope), str(exc)) from exc
    try:
        reading = decode(payload)
        _check_addable(reading)
    except ReadingError as exc:
        raise RefusedError(Refusal.MALFORMED, str(exc)) from exc
    if reading.node_id != answer.node_id or reading.sequence != item.sequence:
        raise RefusedError(Refusal.TAMPERED, "the sealed node id or sequence is not the one that it is served under")
    workloads: tuple[WorkloadTime, ...] = ()
    if item.workloads is not None:
        try:
            workloads = decode_workloads(item.workloads, reading)
        except ReadingError as exc:
            raise RefusedError(Refusal.TAMPERED, str(exc)) from exc
    if reading.end_ms > now_ms + FUTURE_MS_MAX:
        raise RefusedError(Refusal.FUTURE, f"it ends {reading.end_ms - now_ms} ms after this machine's clock")
    if reading.end_ms < now_ms - age_ms_max:
        raise RefusedError(Refusal.TOO_OLD, f"it ends {(now_ms - reading.end_ms) // DAY_MS} days ago")
    if reading.simulated and not accept_simulated:
        raise RefusedError(Refusal.SIMULATED, "simulated readings are not accepted (accept_simulated)")
    return Accepted(digest=known, reading=reading, workloads=workloads)


def _reason_of(envelope: bytes) -> Refusal:
    """Return why a seal does not hold: bytes that are no envelope at all, or a signature that is wrong."""
    try:
        open_envelope(envelope)
    except SealError:
        return Refusal.MALFORMED
    return Refusal.TAMPERED


def _check_addable(reading: Reading) -> None:
    """Raise ReadingError for amounts that no hardware gives and that would not add up in 64 bits."""
    for gpu in reading.gpus:
        for key, amount in gpu.energy_mj.items():
            if amount > ENERGY_MJ_MAX:
                raise ReadingError(f"reading: {gpu.uuid}: energy_mj.{key} of {amount} is more than any board draws")
