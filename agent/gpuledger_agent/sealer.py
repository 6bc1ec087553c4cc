# SPDX-License-Identifier: Apache-2.0
"""From spans of the meter to sealed readings in the journal, and the crash file that survives kill -9.

Finished spans wait here until they are on disk, so a full disk loses nothing while the agent runs. The open span is
written at every tick, without fsync, as an unsigned reading; the next start seals it as a reading of its own unless
the journal already holds that time, so no second is counted twice.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from gpuledger import __version__
from gpuledger.errors import ReadingError, StorageError
from gpuledger.reading import (
    LEAF_BYTES_MAX,
    PAYLOAD_TYPE,
    REST,
    WORKLOADS_MAX,
    GpuTime,
    Reading,
    WorkloadTime,
    decode,
    digest,
    encode,
    encode_workloads,
)
from gpuledger.sealing import SigningKey
from gpuledger.states import State

from gpuledger_agent.holders import Holders
from gpuledger_agent.journal import Journal
from gpuledger_agent.meter import Span, Tally
from gpuledger_agent.nvml import Identity

_log = logging.getLogger(__name__)

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

    def __init__(self, key: SigningKey, journal: Journal, crash_file: Path) -> None:
        self._key = key
        self._journal = journal
        self._crash_file = crash_file
        self._pending: deque[Draft] = deque()
        self.sealed = 0
        self.failures = 0
        self._is_failing = False

    @property
    def pending(self) -> int:
        return len(self._pending)

    def draft(self, span: Span, origin: Origin, identities: Mapping[str, Identity], holders: Holders) -> Draft:
        """Return the unsigned reading of a span."""
        workloads = _workloads(span)
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
            simulated=origin.is_simulated,
            gpus=tuple(_gpu_time(uuid, tally, identities.get(uuid)) for uuid, tally in sorted(span.tallies.items())),
        )
        return Draft(reading=reading, workloads=workloads, openings=holders.openings(sorted(names)))

    def add(self, draft: Draft) -> None:
        """Queue a finished span for sealing."""
        if len(self._pending) >= PENDING_MAX:
            dropped = self._pending.popleft()
            _log.error("reading_dropped", extra={"start_ms": dropped.reading.start_ms, "why": "disk full for too long"})
        self._pending.append(draft)

    def seal_pending(self) -> None:
        """Seal and store what is queued, in order; a failure is counted and the rest waits for the next tick."""
        while self._pending:
            try:
                self._seal(self._pending[0])
            except StorageError as exc:
                self.failures += 1
                if not self._is_failing:
                    self._is_failing = True
                    _log.error("seal_failed", extra={"why": str(exc)})
                return
            self._pending.popleft()
        if self._is_failing:
            self._is_failing = False
            _log.info("seal_recovered")

    def _seal(self, draft: Draft) -> None:
        """Sign the draft, in as many parts as its size asks for, and store all parts with one fsync."""
        parts = self._split(draft)
        last = self._journal.last
        sequence, previous = last.sequence, last.hash
        records: list[dict[str, object]] = []
        for number, part in enumerate(parts, 1):
            sequence += 1
            reading = replace(part.reading, sequence=sequence, previous=previous, part=(number, len(parts)))
            envelope, workloads = self._envelope(reading, part.workloads)
            previous = digest(envelope)
            records.append(
                {
                    "sequence": sequence,
                    "end_ms": reading.end_ms,
                    "envelope": envelope.decode("ascii"),
                    "workloads": None if workloads is None else workloads.decode("ascii"),
                    "openings": {name: list(opening) for name, opening in part.openings.items()},
                }
            )
        self._journal.append(records)
        self.sealed += len(records)

    def _envelope(self, reading: Reading, workloads: tuple[WorkloadTime, ...]) -> tuple[bytes, bytes | None]:
        blob = encode_workloads(workloads) if workloads else None
        if blob is not None:
            reading = replace(reading, workloads_digest=digest(blob))
        return self._key.seal(PAYLOAD_TYPE, encode(reading)), blob

    def _split(self, draft: Draft) -> list[Draft]:
        """Return the draft in as many parts as its size asks for, each with some of the GPUs."""
        envelope, _ = self._envelope(replace(draft.reading, previous="0" * 64), draft.workloads)
        if len(envelope) <= LEAF_BYTES_MAX - 64 or len(draft.reading.gpus) < 2:
            return [draft]
        middle = len(draft.reading.gpus) // 2
        halves = (draft.reading.gpus[:middle], draft.reading.gpus[middle:])
        return [part for gpus in halves for part in self._split(_with_gpus(draft, gpus))]

    # ------------------------------------------------------------------------------------------ crash file

    def save_open(self, draft: Draft | None) -> None:
        """Write the open span for the next start to find; without fsync, since only kill -9 has to be survived."""
        try:
            if draft is None:
                self._crash_file.unlink(missing_ok=True)
                return
            document = {
                "core": encode(draft.reading).decode("ascii"),
                "workloads": encode_workloads(draft.workloads).decode("ascii"),
                "openings": {name: list(opening) for name, opening in draft.openings.items()},
            }
            beside = self._crash_file.with_suffix(".new")
            beside.write_text(json.dumps(document), encoding="ascii")
            beside.rename(self._crash_file)
        except OSError as exc:
            self.failures += 1
            if not self._is_failing:
                self._is_failing = True
                _log.error("crash_file_failed", extra={"why": f"{self._crash_file}: {exc.strerror}"})

    def recover(self) -> None:
        """Seal what a killed agent left open, unless the journal already holds that time."""
        try:
            data = self._crash_file.read_bytes()
        except FileNotFoundError:
            return
        except OSError as exc:
            raise StorageError(f"{self._crash_file}: cannot be read: {exc.strerror}") from exc
        try:
            document = json.loads(data)
            reading = decode(document["core"].encode("ascii"))
            workloads = _decode_workloads(document["workloads"])
            openings = {name: (salt, text) for name, (salt, text) in document["openings"].items()}
        except (ReadingError, ValueError, KeyError, TypeError, AttributeError) as exc:
            _log.warning("open_span_lost", extra={"file": self._crash_file, "why": f"not readable: {exc}"})
        else:
            last_ms = self._journal.last.end_ms
            is_ours = reading.node_id == self._key.node_id
            if is_ours and (last_ms is None or reading.start_ms >= last_ms):
                _log.info("open_span_recovered", extra={"start_ms": reading.start_ms, "end_ms": reading.end_ms})
                self.add(Draft(reading=reading, workloads=workloads, openings=openings))
                self.seal_pending()
        if not self._pending:
            with contextlib.suppress(OSError):
                self._crash_file.unlink(missing_ok=True)


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
        active_ns=tally.active_ns,
        active_known_ms=tally.active_known_ms,
        activity_source=tally.activity_source,
        energy_mj=tally.energy_mj,
        energy_start_mj=tally.energy_start_mj,
        energy_end_mj=tally.energy_end_mj,
        energy_epochs=tally.energy_epochs,
        memory_used_bytes_max=tally.memory_used_bytes_max,
        hang_suspicion_ms=tally.hang_suspicion_ms,
        rejected_values=tally.rejected_values,
    )


def _workloads(span: Span) -> tuple[WorkloadTime, ...]:
    """Return the top WORKLOADS_MAX workloads of a span by time, each with all its GPUs, and `rest` for the others."""
    totals: dict[tuple[str, str | None], int] = {}
    for tally in span.tallies.values():
        for key, times in tally.workload_slice_ms.items():
            totals[key] = totals.get(key, 0) + sum(times.values())
    ranked = sorted(totals, key=lambda key: (-totals[key], key[0], key[1] or ""))
    top = set(ranked[:WORKLOADS_MAX])
    parts: list[WorkloadTime] = []
    for uuid, tally in sorted(span.tallies.items()):
        rest: dict[State, int] = {}
        for key, times in sorted(tally.workload_slice_ms.items(), key=lambda item: (item[0][0], item[0][1] or "")):
            if key in top:
                memory = tally.workload_memory_bytes_max.get(key)
                parts.append(
                    WorkloadTime(
                        workload=key[0], user=key[1], uuid=uuid, state_slice_ms=times, memory_bytes_max=memory
                    )
                )
            else:
                for state, amount in times.items():
                    rest[state] = rest.get(state, 0) + amount
        if rest:
            parts.append(WorkloadTime(workload=REST, user=None, uuid=uuid, state_slice_ms=rest))
    return tuple(parts)


def _with_gpus(draft: Draft, gpus: tuple[GpuTime, ...]) -> Draft:
    uuids = {gpu.uuid for gpu in gpus}
    workloads = tuple(part for part in draft.workloads if part.uuid in uuids)
    names = {part.workload for part in workloads} | {part.user for part in workloads}
    return Draft(
        reading=replace(draft.reading, gpus=gpus),
        workloads=workloads,
        openings={name: opening for name, opening in draft.openings.items() if name in names},
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
