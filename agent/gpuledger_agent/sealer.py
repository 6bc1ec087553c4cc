# SPDX-License-Identifier: Apache-2.0
"""From spans of the meter to sealed readings in the journal, and the crash file that survives kill -9.

Finished spans wait here until they are on disk, so a full disk loses nothing while the agent runs. The open span is
written at every tick, without fsync, as an unsigned reading; the next start seals it as a reading of its own unless
the journal already holds that time, so no second is counted twice.
"""

from __future__ import annotations

import json
import logging
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gpuledger import __version__
from gpuledger.cells import SLICES_PER_GPU
from gpuledger.errors import ReadingError, StorageError
from gpuledger.gpu_time import GpuTime
from gpuledger.reading import (
    PAYLOAD_TYPE,
    WORKLOADS_MAX,
    Reading,
    decode,
    digest,
    encode,
    encode_workloads,
    sketch,
    sketch_workloads,
)
from gpuledger.sealing import SigningKey
from gpuledger.states import State
from gpuledger.workload_time import REST, WorkloadTime
from gpuledger_agent.crash_file import CrashFile
from gpuledger_agent.holders import Holders
from gpuledger_agent.journal import Journal
from gpuledger_agent.nvml import Identity
from gpuledger_agent.tally import Span, Tally, WorkloadKey
from gpuledger_agent.witness import Witness

_log = logging.getLogger(__name__)

PART_GPUS_MAX = 32
"""GPUs in one part of a reading, so that a leaf keeps under its limit whatever its numbers are."""
WORKLOAD_PARTS_MAX = 200
"""Entries of one workloads blob, likewise."""
SEAL_BATCH_MAX = 24
"""Spans that share one fsync after the disk was full."""
PENDING_MAX = 2016
"""Finished spans kept in memory while the disk is full: a week of cells."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What the header of every reading of one session says about where it comes from."""

    node_name: str
    session: str
    boot_id: str
    interval_ms: int
    configuration_digest: str
    is_simulated: bool
    wall_offset_ms: int
    """Wall clock minus timeline, as of the last tick."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A reading that has no sequence number yet, its workloads, and the openings of their names."""

    reading: Reading
    workloads: tuple[WorkloadTime, ...]
    openings: Mapping[str, tuple[str, str]]


class Sealer:
    """Signs and stores; keeps the crash file."""

    def __init__(
        self, key: SigningKey, journal: Journal, crash_file: CrashFile, witness: Witness | None = None
    ) -> None:
        self._key = key
        self._witness = Witness() if witness is None else witness
        self._journal = journal
        self._crash_file = crash_file
        self._pending: deque[tuple[Draft, ...]] = deque()
        self._is_failing = False
        self._is_crash_file_failing = False
        self.sealed = 0
        self.failures = 0
        self.dropped = 0
        self.crash_file_failures = 0

    @property
    def pending(self) -> int:
        return len(self._pending)

    @property
    def last_end_ms(self) -> int | None:
        """Return the end of the newest time accounted for, on disk or waiting for it; None where there is none."""
        if self._pending:
            return self._pending[-1][0].reading.end_ms
        return self._journal.last.end_ms

    def draft(
        self, span: Span, origin: Origin, identities: Mapping[str, Identity], holders: Holders
    ) -> tuple[Draft, ...]:
        """Return the unsigned reading of a span, in as many parts as its number of GPUs asks for."""
        uuids = sorted(span.tallies)
        chunks = [uuids[i : i + PART_GPUS_MAX] for i in range(0, len(uuids), PART_GPUS_MAX)] or [[]]
        drafts = []
        for number, chunk in enumerate(chunks, 1):
            tallies = {uuid: span.tallies[uuid] for uuid in chunk}
            workloads = rank_workloads(tallies)
            names = {part.workload for part in workloads} | {part.user for part in workloads if part.user is not None}
            reading = Reading(
                node_id=self._key.node_id,
                node_name=origin.node_name,
                session=origin.session,
                sequence=1,
                boot_id=origin.boot_id,
                start_ms=span.start_ms,
                end_ms=span.end_ms,
                wall_start_ms=span.start_ms + origin.wall_offset_ms,
                wall_end_ms=span.end_ms + origin.wall_offset_ms,
                interval_ms=origin.interval_ms,
                agent_version=__version__,
                configuration_digest=origin.configuration_digest,
                previous="",
                part=(number, len(chunks)),
                simulated=origin.is_simulated,
                gpus=tuple(_gpu_time(uuid, tally, identities.get(uuid)) for uuid, tally in tallies.items()),
            )
            drafts.append(Draft(reading=reading, workloads=workloads, openings=holders.openings(sorted(names))))
        return tuple(drafts)

    def add(self, drafts: tuple[Draft, ...]) -> None:
        """Queue a finished span for sealing."""
        if len(self._pending) >= PENDING_MAX:
            dropped = self._pending.popleft()
            self.dropped += len(dropped)
            _log.error(
                "reading_dropped", extra={"start_ms": dropped[0].reading.start_ms, "why": "disk full for too long"}
            )
        self._pending.append(drafts)

    def seal_pending(self) -> None:
        """Seal and store what is queued, in order.

        A failure is counted, and said once until it works again; what is left waits for the next tick.
        """
        while self._pending:
            batch = [self._pending[i] for i in range(min(len(self._pending), SEAL_BATCH_MAX))]
            try:
                self._seal([draft for drafts in batch for draft in drafts])
            except StorageError as exc:
                self.failures += 1
                if not self._is_failing:
                    self._is_failing = True
                    _log.error("seal_failed", extra={"why": str(exc), "pending": len(self._pending)})
                return
            for _ in batch:
                self._pending.popleft()
        if self._is_failing:
            self._is_failing = False
            _log.info("seal_recovered")

    def _seal(self, drafts: Sequence[Draft]) -> None:
        """Sign spans, all parts of each, and store them with one fsync."""
        last = self._journal.last
        sequence, previous, checkpoint = last.sequence, last.hash, self._witness.newest
        records: list[dict[str, object]] = []
        for draft in drafts:
            sequence += 1
            blob = encode_workloads(draft.workloads) if draft.workloads else None
            reading = replace(
                draft.reading,
                sequence=sequence,
                previous=previous,
                checkpoint=checkpoint,
                workloads_digest=None if blob is None else digest(blob),
            )
            envelope = self._key.seal(PAYLOAD_TYPE, encode(reading))
            previous = digest(envelope)
            records.append(
                {
                    "sequence": sequence,
                    "end_ms": reading.end_ms,
                    "envelope": envelope.decode("ascii"),
                    "workloads": None if blob is None else blob.decode("ascii"),
                    "openings": {name: list(opening) for name, opening in draft.openings.items()},
                }
            )
        self._journal.append(records)
        self.sealed += len(records)

    # ------------------------------------------------------------------------------------------ crash file

    def save_open(self, drafts: tuple[Draft, ...]) -> None:
        """Keep the open span (or nothing) for the next start to find; a failure is counted, and said once."""
        parts = [
            {
                "core": sketch(draft.reading).decode("ascii"),
                "workloads": sketch_workloads(draft.workloads).decode("ascii"),
                "openings": {name: list(opening) for name, opening in draft.openings.items()},
            }
            for draft in drafts
        ]
        try:
            self._crash_file.write(json.dumps(parts).encode("ascii") if parts else None)
        except StorageError as exc:
            self.crash_file_failures += 1
            if not self._is_crash_file_failing:
                self._is_crash_file_failing = True
                _log.error("crash_file_failed", extra={"why": str(exc)})
            return
        self._is_crash_file_failing = False

    def recover(self) -> None:
        """Seal what a killed agent left open, unless the journal already holds that time."""
        data = self._crash_file.read()
        if data is None:
            return
        try:
            drafts = tuple(_decode_draft(part) for part in json.loads(data))
            reading = drafts[0].reading
        except (ReadingError, ValueError, KeyError, IndexError, TypeError, AttributeError) as exc:
            _log.warning("open_span_lost", extra={"why": f"not readable: {exc}"})
            return
        last_ms = self._journal.last.end_ms
        if reading.node_id != self._key.node_id:
            _log.warning("open_span_lost", extra={"why": "it was written under another signing key"})
        elif last_ms is None or reading.start_ms >= last_ms:
            _log.info("open_span_recovered", extra={"start_ms": reading.start_ms, "end_ms": reading.end_ms})
            self.add(drafts)
            self.seal_pending()


def _gpu_time(uuid: str, tally: Tally, identity: Identity | None) -> GpuTime:
    return GpuTime(
        uuid=uuid,
        serial=None if identity is None else identity.serial,
        index=None if identity is None else identity.index,
        pci_bus_id=None if identity is None else identity.pci_bus_id,
        model=None if identity is None else identity.model,
        memory_total_bytes=None if identity is None else identity.memory_total_bytes,
        power_limit_mw=None if identity is None else identity.power_limit_mw,
        state_slice_ms=tally.state_slice_ms,
        uncovered_slice_ms=tally.uncovered_slice_ms,
        bin_slice_ms=tuple(tally.bin_slice_ms),
        active_ns=None if tally.active_slice_ns is None else tally.active_slice_ns // SLICES_PER_GPU,
        active_known_ms=_whole_up(tally.active_known_slice_ms),
        activity_source=tally.activity_source,
        engine_ns={engine: amount // SLICES_PER_GPU for engine, amount in tally.engine_slice_ns.items()},
        engine_known_ms={engine: _whole_up(amount) for engine, amount in tally.engine_known_slice_ms.items()},
        energy_mj=tally.energy_mj,
        energy_start_mj=tally.energy_start_mj,
        energy_end_mj=tally.energy_end_mj,
        energy_epochs=tally.energy_epochs,
        memory_used_bytes_max=tally.memory_used_bytes_max,
        hang_suspicion_ms=tally.hang_suspicion_ms,
        rejected_values=tally.rejected_values,
    )


def _whole_up(slice_ms: int) -> int:
    """Return slice-ms in ms of the whole GPU, rounded up: integrals are rounded down, and stay within what is known."""
    return -(-slice_ms // SLICES_PER_GPU)


def rank_workloads(tallies: Mapping[str, Tally]) -> tuple[WorkloadTime, ...]:
    """Return the workloads of some GPUs by GPU, those with the most time by name and the others pooled as `rest`."""
    totals: dict[WorkloadKey, int] = {}
    counts: dict[WorkloadKey, int] = {}
    for tally in tallies.values():
        for key, times in tally.workload_slice_ms.items():
            totals[key] = totals.get(key, 0) + sum(times.values())
            counts[key] = counts.get(key, 0) + 1
    room = WORKLOAD_PARTS_MAX - len(tallies)
    top: set[WorkloadKey] = set()
    for key in sorted(totals, key=lambda key: (-totals[key], key[0], key[1] or ""))[:WORKLOADS_MAX]:
        room -= counts[key]
        if room < 0:
            break
        top.add(key)
    parts: list[WorkloadTime] = []
    for uuid, tally in tallies.items():
        rest: dict[State, int] = {}
        for key in sorted(tally.workload_slice_ms, key=lambda key: (key[0], key[1] or "")):
            times = tally.workload_slice_ms[key]
            if key in top:
                memory = tally.workload_memory_bytes_max.get(key)
                parts.append(
                    WorkloadTime(workload=key[0], user=key[1], uuid=uuid, state_slice_ms=times, memory_bytes_max=memory)
                )
            else:
                for state, amount in times.items():
                    rest[state] = rest.get(state, 0) + amount
        if rest:
            parts.append(WorkloadTime(workload=REST, user=None, uuid=uuid, state_slice_ms=rest))
    return tuple(parts)


def _decode_draft(part: Mapping[str, Any]) -> Draft:
    return Draft(
        reading=decode(part["core"].encode("ascii")),
        workloads=_decode_workloads(part["workloads"]),
        openings={name: (salt, text) for name, (salt, text) in part["openings"].items()},
    )


def _decode_workloads(text: str) -> tuple[WorkloadTime, ...]:
    return tuple(
        WorkloadTime(
            workload=item["workload"],
            user=item.get("user"),
            uuid=item["uuid"],
            state_slice_ms={State(name): amount for name, amount in item.get("states", {}).items()},
            memory_bytes_max=item.get("memory_bytes_max"),
        )
        for item in json.loads(text)
    )
