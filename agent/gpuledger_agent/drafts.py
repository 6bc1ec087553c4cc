# SPDX-License-Identifier: Apache-2.0
"""From spans of the meter to readings that nobody has signed yet, in parts that keep under every limit."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gpuledger import __version__, workload_time
from gpuledger.cells import SLICES_PER_GPU
from gpuledger.gpu_time import INSTANCES_MAX, GpuTime, InstanceTime
from gpuledger.reading import WORKLOADS_BYTES_MAX, WORKLOADS_MAX, Reading, decode, sketch_workloads
from gpuledger.states import State
from gpuledger.workload_time import REST, WorkloadTime
from gpuledger_agent.holders import Holders
from gpuledger_agent.nvml import Identity
from gpuledger_agent.privacy import Privacy
from gpuledger_agent.snapshot import InstanceIdentity
from gpuledger_agent.tally import Measured, Span, Tally, WorkloadKey
from gpuledger_agent.xids import FATAL

XID_NUMBERS_MAX = 16
"""Different Xid errors told of a GPU, so that a reading keeps under its limit: the fatal, then the most frequent."""

PART_ENTRIES_MAX = 24
"""GPUs and their instances in one part of a reading, so that a leaf keeps under its limit whatever its numbers are."""
WORKLOAD_PARTS_MAX = 128
"""Entries of one workloads blob, likewise."""
WORKLOAD_PART_BYTES_MAX = 2_600
"""No entry takes more, with all its features and hints."""


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


def make_drafts(
    span: Span,
    node_id: str,
    origin: Origin,
    identities: Mapping[str, Identity],
    holders: Holders,
    privacy: Privacy | None = None,
) -> tuple[Draft, ...]:
    """Return the unsigned reading of a span, in as many parts as its number of GPUs and instances asks for.

    Openings are those that may leave the node; without `privacy` all.
    """
    privacy = Privacy() if privacy is None else privacy
    gpus = [gpu_time(uuid, span.tallies[uuid], identities.get(uuid)) for uuid in sorted(span.tallies)]
    chunks = _chunks(gpus)
    drafts = []
    for number, chunk in enumerate(chunks, 1):
        workloads = fit_features(rank_workloads({gpu.uuid: span.tallies[gpu.uuid] for gpu in chunk}))
        users = (part.user for part in workloads if part.user is not None)
        names = privacy.may_leave((part.workload for part in workloads), users)
        reading = Reading(
            node_id=node_id,
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
            gpus=tuple(chunk),
        )
        drafts.append(Draft(reading=reading, workloads=workloads, openings=holders.openings(sorted(names))))
    return tuple(drafts)


def _chunks(gpus: Sequence[GpuTime]) -> list[list[GpuTime]]:
    chunks: list[list[GpuTime]] = [[]]
    entries = 0
    for gpu in gpus:
        entries += 1 + len(gpu.instances)
        if entries > PART_ENTRIES_MAX:
            chunks.append([])
            entries = 1 + len(gpu.instances)
        chunks[-1].append(gpu)
    return chunks


def _xids(found: Mapping[int, int]) -> dict[int, int]:
    ranked = sorted(found, key=lambda xid: (xid not in FATAL, -found[xid], xid))
    return {xid: found[xid] for xid in ranked[:XID_NUMBERS_MAX]}


def gpu_time(uuid: str, tally: Tally, identity: Identity | None) -> GpuTime:
    """Return a GPU's part of a reading: units of a slice become whole ones, rounded down."""
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
        link_bytes=tally.link_bytes,
        link_known_ms=tally.link_known_ms,
        energy_mj=tally.energy_mj,
        energy_start_mj=tally.energy_start_mj,
        energy_end_mj=tally.energy_end_mj,
        energy_epochs=tally.energy_epochs,
        memory_used_bytes_max=tally.memory_used_bytes_max,
        hang_suspicion_ms=tally.hang_suspicion_ms,
        rejected_values=tally.rejected_values,
        xids=_xids(tally.health.xids),
        ecc_errors=tally.health.ecc_errors,
        throttle_ms={reason: time_ns // 1_000_000 for reason, time_ns in tally.health.throttled_ns.items()},
        instances=_instance_times(tally),
    )


def _instance_times(tally: Tally) -> tuple[InstanceTime, ...]:
    """Return the instances of a span in order of id, each name once.

    Where there is no room for all, those with the most time: the others' time is in the GPU's own all the same.
    """
    if not tally.instances:
        return ()
    found: dict[str, InstanceTime] = {}
    ranked = sorted(tally.instances.items(), key=lambda item: (-item[1].total_slice_ms, item[0].uuid, item[0].slices))
    for identity, measured in ranked:
        if measured.total_slice_ms > 0 and identity.uuid not in found and len(found) < INSTANCES_MAX:
            found[identity.uuid] = _instance_time(identity, measured)
    return tuple(sorted(found.values(), key=lambda instance: (instance.instance, instance.uuid)))


def _instance_time(identity: InstanceIdentity, measured: Measured) -> InstanceTime:
    slices = identity.slices
    return InstanceTime(
        uuid=identity.uuid,
        instance=identity.instance,
        profile=identity.profile,
        slices=slices,
        state_slice_ms=measured.state_slice_ms,
        uncovered_slice_ms=measured.uncovered_slice_ms,
        bin_slice_ms=tuple(measured.bin_slice_ms),
        # All of it was added times the instance's slices, so nothing is lost.
        active_ns=None if measured.active_slice_ns is None else measured.active_slice_ns // slices,
        active_known_ms=measured.active_known_slice_ms // slices,
        engine_ns={engine: amount // slices for engine, amount in measured.engine_slice_ns.items()},
        engine_known_ms={engine: amount // slices for engine, amount in measured.engine_known_slice_ms.items()},
        memory_total_bytes=identity.memory_total_bytes,
        memory_used_bytes_max=measured.memory_used_bytes_max,
    )


def _whole_up(slice_ms: int) -> int:
    """Return slice-ms in ms of the whole GPU, rounded up: integrals are rounded down, and stay within what is known."""
    return -(-slice_ms // SLICES_PER_GPU)


def rank_workloads(tallies: Mapping[str, Tally]) -> tuple[WorkloadTime, ...]:
    """Return the workloads of some GPUs by GPU and instance, those with the most time by name.

    The others of a GPU are pooled as `rest`, whatever instance they were on.
    """
    totals: dict[tuple[str, str | None], int] = {}
    counts: dict[tuple[str, str | None], int] = {}
    for tally in tallies.values():
        for (workload, user, _), times in tally.workload_slice_ms.items():
            totals[workload, user] = totals.get((workload, user), 0) + sum(times.values())
            counts[workload, user] = counts.get((workload, user), 0) + 1
    room = WORKLOAD_PARTS_MAX - len(tallies)
    top: set[tuple[str, str | None]] = set()
    for name in sorted(totals, key=lambda name: (-totals[name], name[0], name[1] or ""))[:WORKLOADS_MAX]:
        room -= counts[name]
        if room < 0:
            break
        top.add(name)
    parts: list[WorkloadTime] = []
    for uuid, tally in tallies.items():
        rest: dict[State, int] = {}
        for key in sorted(tally.workload_slice_ms, key=_workload_order):
            times = tally.workload_slice_ms[key]
            workload, user, instance_uuid = key
            if (workload, user) in top:
                parts.append(
                    WorkloadTime(
                        workload=workload,
                        user=user,
                        uuid=uuid,
                        state_slice_ms=times,
                        memory_bytes_max=tally.workload_memory_bytes_max.get(key),
                        source=tally.workload_source.get(key),
                        instance_uuid=instance_uuid,
                        features=_known_features(tally, key),
                        hints=tally.workload_hints.get(key),
                    )
                )
            else:
                for state, amount in times.items():
                    rest[state] = rest.get(state, 0) + amount
        if rest:
            parts.append(WorkloadTime(workload=REST, user=None, uuid=uuid, state_slice_ms=rest))
    return tuple(parts)


def _known_features(tally: Tally, key: WorkloadKey) -> dict[str, int]:
    return {name: amount for name, amount in tally.workload_features.get(key, {}).items() if amount != 0}


def fit_features(parts: tuple[WorkloadTime, ...]) -> tuple[WorkloadTime, ...]:
    """Return the parts; where the blob would be too large, those with the least time lose features, and then hints."""
    if len(parts) * WORKLOAD_PART_BYTES_MAX <= WORKLOADS_BYTES_MAX:
        return parts
    excess = len(sketch_workloads(parts)) - WORKLOADS_BYTES_MAX
    kept = list(parts)
    least_first = sorted(range(len(parts)), key=lambda index: (sum(parts[index].state_slice_ms.values()), index))
    for index, without_hints in ((index, is_last) for is_last in (False, True) for index in least_first):
        if excess <= 0:
            break
        part = kept[index]
        bare = replace(part, features={}, hints=None if without_hints else part.hints)
        excess -= len(sketch_workloads([part])) - len(sketch_workloads([bare]))
        kept[index] = bare
    return tuple(kept)


def _workload_order(key: WorkloadKey) -> tuple[str, str, str]:
    workload, user, instance_uuid = key
    return workload, user or "", instance_uuid or ""


def decode_draft(part: Mapping[str, Any]) -> Draft:
    """Return a part from what the crash file has of it; what is not right there raises as its kind does."""
    workloads = json.loads(part["workloads"])
    return Draft(
        reading=decode(part["core"].encode("ascii")),
        workloads=tuple(workload_time.decode(item, f"workloads[{index}]") for index, item in enumerate(workloads)),
        openings={name: (salt, text) for name, (salt, text) in part["openings"].items()},
    )
