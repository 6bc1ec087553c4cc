# SPDX-License-Identifier: Apache-2.0
"""How a GPU fares: faults, and the counters of memory errors and of clocks held down, read more slowly than the tick.

A fault stands until the read that found it says otherwise; a fatal Xid until a later read is clean. Counters count from
the last read before; one that fell counts from there. The first tick in a cell reads, so that what a counter grew by
belongs to one cell, but for one tick.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace

from gpuledger.cells import CELL_MS
from gpuledger_agent.nvml import Handle, Nvml
from gpuledger_agent.nvml_fields import FieldAnswers
from gpuledger_agent.nvml_health import (
    FI_ECC,
    FI_REMAP_FAILURE,
    FI_THROTTLED,
    FIELDS,
    RECOVERY_ACTIONS,
    NvmlHealth,
    XidEvent,
    facts_of,
)
from gpuledger_agent.snapshot import Growth, Health, HealthFacts, InstanceIdentity
from gpuledger_agent.sources import GpuReads
from gpuledger_agent.xids import FATAL, meaning

_log = logging.getLogger(__name__)

HEALTH_POLL_MS = 10_000
HEALTH_AGE_MAX_MS = 30_000
GROWTH_WINDOWS_MAX = 2
"""A counter of time that grew by more than this many times the time between two reads is wrong."""
_NS = 1_000_000
_BEFORE_MS = -1
"""Before every tick of a session."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthReport:
    """What is known of one GPU in one tick; `throttled` and `ecc_errors` are what counters grew by, if read in it.

    `health` is the board's; `fatal_instances` are the GPU instances that reported a fatal Xid of their own.
    """

    health: Health | None = None
    fatal_instances: frozenset[int] = frozenset()
    facts: HealthFacts = field(default_factory=HealthFacts)
    throttled: Mapping[str, Growth] = field(default_factory=dict)
    ecc_errors: Mapping[str, int] = field(default_factory=dict)
    rejected_values: int = 0

    @property
    def of_undivided(self) -> Health | None:
        """Return the health of the GPU where nobody can tell which part of it an instance is."""
        return Health.FATAL_XID if self.fatal_instances and self._is_well else self.health

    def of_instance(self, instance: int) -> Health | None:
        """Return the health of a GPU instance: its board's, or its own where the board is well."""
        return Health.FATAL_XID if instance in self.fatal_instances and self._is_well else self.health

    @property
    def _is_well(self) -> bool:
        return self.health is None or self.health is Health.CLEAN


@dataclass(slots=True)
class _Gpu:
    """What is kept of one GPU between reads: facts, and counters with the tick of their read."""

    facts: HealthFacts = field(default_factory=HealthFacts)
    read_ms: int | None = None
    known_ms: int | None = None
    throttled: dict[str, tuple[int, int]] = field(default_factory=dict)
    ecc_errors: dict[str, int] = field(default_factory=dict)


class HealthSource:
    """Reads the health of whole GPUs; times are edges of ticks in milliseconds."""

    def __init__(self, nvml: Nvml, poll_ms: int = HEALTH_POLL_MS) -> None:
        self._door = NvmlHealth(nvml)
        self._poll_ms = poll_ms
        self._gpus: dict[str, _Gpu] = {}
        self._fatal_ms: dict[str, dict[int | None, int]] = {}
        """The last fatal Xid of each GPU, and of each of its instances, that no clean read has followed."""
        self._instances: dict[str, frozenset[InstanceIdentity]] = {}
        """What each GPU was divided into when this was last known."""
        self._said: set[tuple[str, int]] = set()

    def forget(self) -> None:
        """Trust nothing that was read before; a fatal Xid stands."""
        self._gpus.clear()
        self._fatal_ms = {uuid: dict.fromkeys(parts, _BEFORE_MS) for uuid, parts in self._fatal_ms.items()}

    def interrupt(self, uuid: str) -> None:
        """Trust nothing that was read of one GPU before."""
        self._gpus.pop(uuid, None)

    def note(self, uuid: str, xids: Iterable[XidEvent], edge_ms: int) -> None:
        """Take in the Xid errors of a tick; a number is said once for each GPU, a fatal one each time it opens down."""
        for event in xids:
            is_opening = event.xid in FATAL and event.instance not in self._fatal_ms.get(uuid, {})
            if is_opening or (uuid, event.xid) not in self._said:
                self._said.add((uuid, event.xid))
                facts = {"uuid": uuid, "xid": event.xid, "instance": event.instance, "meaning": meaning(event.xid)}
                _log.log(logging.ERROR if event.xid in FATAL else logging.WARNING, "gpu_xid", extra=facts)
            if event.xid in FATAL:
                self._fatal_ms.setdefault(uuid, {})[event.instance] = edge_ms

    def keep_instances(self, uuid: str, found: Collection[InstanceIdentity] | None, edge_ms: int) -> None:
        """Drop the fatal Xids of instances that are gone, though another has the id now; None: there can be none."""
        parts = self._fatal_ms.get(uuid, {})
        if parts:
            gone = {identity.instance for identity in self._instances.get(uuid, frozenset()).difference(found or ())}
            if found is not None:
                gone |= {part for part in parts if part is not None} - {identity.instance for identity in found}
            for part in gone & parts.keys():
                if parts[part] < edge_ms or found is None or all(part != identity.instance for identity in found):
                    del parts[part]
        self._instances[uuid] = frozenset(found or ())

    def fields(self, uuid: str, edge_ms: int) -> tuple[int, ...]:
        """Return which fields of the GPU this tick wants."""
        gpu = self._gpus.get(uuid)
        if gpu is None:
            gpu = self._gpus[uuid] = _Gpu()
        return FIELDS if self._is_due(gpu, edge_ms) else ()

    def read(self, uuid: str, handle: Handle, edge_ms: int, answers: FieldAnswers, reads: GpuReads) -> HealthReport:
        """Return how the GPU fares; raises GpuLost, ResetRequired and DriverUnavailable."""
        gpu = self._gpus[uuid]
        throttled: dict[str, Growth] = {}
        ecc_errors: dict[str, int] = {}
        rejected = 0
        if self._is_due(gpu, edge_ms):
            gpu.read_ms = edge_ms
            self._read(uuid, gpu, handle, edge_ms, answers, reads)
            throttled, rejected = _throttled(gpu, answers, edge_ms)
            ecc_errors = self._ecc_errors(gpu, handle, answers, reads)
        return HealthReport(
            health=self._health(uuid, gpu, edge_ms),
            fatal_instances=frozenset(part for part in self._fatal_ms.get(uuid, {}) if part is not None),
            facts=gpu.facts,
            throttled=throttled,
            ecc_errors=ecc_errors,
            rejected_values=rejected,
        )

    def _is_due(self, gpu: _Gpu, edge_ms: int) -> bool:
        before_ms = gpu.read_ms
        if before_ms is None or edge_ms - before_ms >= self._poll_ms:
            return True
        return edge_ms // CELL_MS != before_ms // CELL_MS

    def _health(self, uuid: str, gpu: _Gpu, edge_ms: int) -> Health | None:
        is_known = gpu.known_ms is not None and edge_ms - gpu.known_ms <= HEALTH_AGE_MAX_MS
        fault = _fault(gpu.facts)
        if is_known and fault is not None:
            return fault
        if None in self._fatal_ms.get(uuid, {}):
            return Health.FATAL_XID
        return Health.CLEAN if is_known else None

    # ------------------------------------------------------------------------------------------ one read

    def _read(self, uuid: str, gpu: _Gpu, handle: Handle, edge_ms: int, answers: FieldAnswers, reads: GpuReads) -> None:
        """Take in what the fields say of faults; rows come from a call of their own where no field tells of them."""
        facts = facts_of(answers)
        if answers.is_silent(FI_REMAP_FAILURE):
            rows = reads.ask("health", self._door.remapped_rows, handle)
            facts = facts if rows is None else _merged(rows, facts)
        else:
            reads.note("health")
        gpu.facts = _merged(gpu.facts, facts)
        if facts.recovery_action is None and facts.is_remap_failed is None:
            return
        gpu.known_ms = edge_ms
        if _fault(gpu.facts) is None:
            parts = self._fatal_ms.get(uuid, {})
            for part in [part for part, fatal_ms in parts.items() if fatal_ms < edge_ms]:
                del parts[part]

    def _ecc_errors(self, gpu: _Gpu, handle: Handle, answers: FieldAnswers, reads: GpuReads) -> dict[str, int]:
        """Return what the counters of memory errors grew by."""
        grown: dict[str, int] = {}
        for kind, field_id in FI_ECC.items():
            count = answers.values.get(field_id)
            if count is not None:
                reads.note("ecc")
            elif answers.is_silent(field_id):
                count = reads.ask("ecc", self._door.ecc_errors, handle, kind)
            if count is not None:
                before = gpu.ecc_errors.get(kind)
                gpu.ecc_errors[kind] = count
                if before is not None and count > before:
                    grown[kind] = count - before
        return grown


def action_name(action: int) -> str:
    """Return what a recovery action is called; an unknown one by its number."""
    return RECOVERY_ACTIONS[action] if 0 <= action < len(RECOVERY_ACTIONS) else str(action)


def _fault(facts: HealthFacts) -> Health | None:
    if facts.recovery_action is not None and facts.recovery_action != 0:
        return Health.RECOVERY_ACTION
    return Health.ROW_REMAP_FAILURE if facts.is_remap_failed is True else None


def _merged(old: HealthFacts, new: HealthFacts) -> HealthFacts:
    """Return what is known after a read: what it did not say stands as it was."""
    said = {part.name: getattr(new, part.name) for part in fields(new)}
    return replace(old, **{name: value for name, value in said.items() if value is not None})


def _throttled(gpu: _Gpu, answers: FieldAnswers, edge_ms: int) -> tuple[dict[str, Growth], int]:
    """Return what the counters of time grew by, and how many grew by what cannot be."""
    grown: dict[str, Growth] = {}
    rejected = 0
    for reason, field_id in FI_THROTTLED.items():
        total_ns = answers.values.get(field_id)
        if total_ns is None:
            continue
        before = gpu.throttled.get(reason)
        gpu.throttled[reason] = (total_ns, edge_ms)
        if before is None or total_ns < before[0] or edge_ms == before[1]:
            continue
        grown_ns, window_ns = total_ns - before[0], (edge_ms - before[1]) * _NS
        if grown_ns > GROWTH_WINDOWS_MAX * window_ns:
            rejected += 1
        else:
            # The counter is read a little later than the tick begins.
            grown[reason] = Growth(since_ms=before[1], amount=min(grown_ns, window_ns))
    return grown, rejected
