# SPDX-License-Identifier: Apache-2.0
"""One GPU's part of a reading, with its GPU instances: fields, bytes and laws (evidence.md, 1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gpuledger.cells import SLICES_PER_GPU
from gpuledger.states import ACTIVITY_EDGES_PPM, ECC_KINDS, ENGINES, LINKS, OBSERVED, THROTTLES, State, Uncovered
from gpuledger.wire import Fields, amounts, fail, present

UNCOVERED_ENERGY = "uncovered"
MIG_ENERGY = "mig"
"""Where a board's energy goes while it is divided: it is measured once per board, and instances share it."""
XID_MAX = 999
INSTANCES_MAX = 14
"""Instances of one GPU in one reading; a GPU has at most seven at a time, and they may be made anew."""
INSTANCE_ID_MAX = 255

_OBSERVED_NAMES = {state.value: state for state in OBSERVED}
_UNCOVERED_NAMES = {reason.value: reason for reason in Uncovered}
_ENGINE_NAMES = {engine: engine for engine in ENGINES}
_LINK_NAMES = {link: link for link in LINKS}
_THROTTLE_NAMES = {reason: reason for reason in THROTTLES}
_ECC_NAMES = {kind: kind for kind in ECC_KINDS}
_XID_NAMES = {str(xid): xid for xid in range(1, XID_MAX + 1)}
_ENERGY_NAMES = {key: key for key in (*_OBSERVED_NAMES, UNCOVERED_ENERGY, MIG_ENERGY)}
_BIN_NAMES = {str(index): index for index in range(len(ACTIVITY_EDGES_PPM))}


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceTime:
    """One GPU instance (MIG) within a reading, in slice-ms of its own `slices` while it was there.

    `instance` is the driver's id of the GPU instance, which it uses again; `uuid` is the MIG device's and tells them
    apart. `active_ns` and `engine_ns` are integrals of what is relative to the instance, over `..._known_ms`.
    """

    uuid: str
    instance: int
    profile: str | None = None
    slices: int
    state_slice_ms: Mapping[State, int] = field(default_factory=dict)
    uncovered_slice_ms: Mapping[Uncovered, int] = field(default_factory=dict)
    bin_slice_ms: tuple[int, ...] = (0,) * len(ACTIVITY_EDGES_PPM)
    active_ns: int | None = None
    active_known_ms: int = 0
    engine_ns: Mapping[str, int] = field(default_factory=dict)
    engine_known_ms: Mapping[str, int] = field(default_factory=dict)
    memory_total_bytes: int | None = None
    memory_used_bytes_max: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuTime:
    """One GPU's part of a reading.

    `energy_mj` is millijoules by state name, "mig" or "uncovered"; `energy_start_mj` and `energy_end_mj` are the
    board's odometer at the span's ends (None where it is not offered) and `energy_epochs` how often it fell in between.
    `active_ns` is the integral of activity over `active_known_ms`, the time for which activity was known, from
    `activity_source` (the weakest); `engine_ns` that of each of ENGINES over `engine_known_ms`. `link_bytes` are the
    bytes over each of LINKS in `link_known_ms`. `xids` counts Xid errors by number, `ecc_errors` memory errors by
    kind, `throttle_ms` the time that clocks were held down, by reason. States, bins and integrals are the whole GPU's,
    its `instances` included: an instance counts by its slices, and integrals are rounded down to whole units.
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
    link_bytes: Mapping[str, int] = field(default_factory=dict)
    link_known_ms: Mapping[str, int] = field(default_factory=dict)
    energy_mj: Mapping[str, int] = field(default_factory=dict)
    energy_start_mj: int | None = None
    energy_end_mj: int | None = None
    energy_epochs: int = 0
    memory_used_bytes_max: int | None = None
    hang_suspicion_ms: int = 0
    rejected_values: int = 0
    xids: Mapping[int, int] = field(default_factory=dict)
    ecc_errors: Mapping[str, int] = field(default_factory=dict)
    throttle_ms: Mapping[str, int] = field(default_factory=dict)
    instances: tuple[InstanceTime, ...] = ()


# ---------------------------------------------------------------------------------------------- bytes


def encode(gpu: GpuTime) -> dict[str, object]:
    """Return the JSON object of a GPU's part; zeros and what is unknown are left out."""
    return present(
        {
            "uuid": gpu.uuid,
            "serial": gpu.serial,
            "index": gpu.index,
            "pci": gpu.pci_bus_id,
            "model": gpu.model,
            "memory_total_bytes": gpu.memory_total_bytes,
            "power_limit_mw": gpu.power_limit_mw,
            "states": amounts(gpu.state_slice_ms),
            "uncovered": amounts(gpu.uncovered_slice_ms),
            "bins": amounts(dict(enumerate(gpu.bin_slice_ms))),
            "active_ns": gpu.active_ns,
            "active_known_ms": gpu.active_known_ms or None,
            "activity_source": gpu.activity_source,
            "engine_ns": amounts(gpu.engine_ns),
            "engine_known_ms": amounts(gpu.engine_known_ms),
            "link_bytes": amounts(gpu.link_bytes),
            "link_known_ms": amounts(gpu.link_known_ms),
            "energy_mj": amounts(gpu.energy_mj),
            "energy_start_mj": gpu.energy_start_mj,
            "energy_end_mj": gpu.energy_end_mj,
            "energy_epochs": gpu.energy_epochs or None,
            "memory_used_bytes_max": gpu.memory_used_bytes_max,
            "hang_suspicion_ms": gpu.hang_suspicion_ms or None,
            "rejected_values": gpu.rejected_values or None,
            "xids": amounts(gpu.xids),
            "ecc_errors": amounts(gpu.ecc_errors),
            "throttle_ms": amounts(gpu.throttle_ms),
            "instances": [_encode_instance(instance) for instance in gpu.instances] or None,
        }
    )


def _encode_instance(instance: InstanceTime) -> dict[str, object]:
    return present(
        {
            "uuid": instance.uuid,
            "instance": instance.instance,
            "profile": instance.profile,
            "slices": instance.slices,
            "states": amounts(instance.state_slice_ms),
            "uncovered": amounts(instance.uncovered_slice_ms),
            "bins": amounts(dict(enumerate(instance.bin_slice_ms))),
            "active_ns": instance.active_ns,
            "active_known_ms": instance.active_known_ms or None,
            "engine_ns": amounts(instance.engine_ns),
            "engine_known_ms": amounts(instance.engine_known_ms),
            "memory_total_bytes": instance.memory_total_bytes,
            "memory_used_bytes_max": instance.memory_used_bytes_max,
        }
    )


def decode(value: object, where: str) -> GpuTime:
    """Return a GPU's part from its JSON object; raises ReadingError naming `where` and the field at fault."""
    fields = Fields(value, where)
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
        bin_slice_ms=_bins(fields),
        active_ns=fields.integer("active_ns", None),
        active_known_ms=fields.integer("active_known_ms", 0),
        activity_source=fields.text("activity_source", None),
        engine_ns=fields.amounts("engine_ns", _ENGINE_NAMES),
        engine_known_ms=fields.amounts("engine_known_ms", _ENGINE_NAMES),
        link_bytes=fields.amounts("link_bytes", _LINK_NAMES),
        link_known_ms=fields.amounts("link_known_ms", _LINK_NAMES),
        energy_mj=fields.amounts("energy_mj", _ENERGY_NAMES),
        energy_start_mj=fields.integer("energy_start_mj", None),
        energy_end_mj=fields.integer("energy_end_mj", None),
        energy_epochs=fields.integer("energy_epochs", 0),
        memory_used_bytes_max=fields.integer("memory_used_bytes_max", None),
        hang_suspicion_ms=fields.integer("hang_suspicion_ms", 0),
        rejected_values=fields.integer("rejected_values", 0),
        xids=fields.amounts("xids", _XID_NAMES),
        ecc_errors=fields.amounts("ecc_errors", _ECC_NAMES),
        throttle_ms=fields.amounts("throttle_ms", _THROTTLE_NAMES),
        instances=tuple(
            _decode_instance(item, f"{where}.instances[{index}]")
            for index, item in enumerate(fields.items("instances", INSTANCES_MAX))
        ),
    )
    fields.end()
    return gpu


def _decode_instance(value: object, where: str) -> InstanceTime:
    fields = Fields(value, where)
    instance = InstanceTime(
        uuid=fields.name("uuid"),
        instance=fields.integer("instance"),
        profile=fields.text("profile", None),
        slices=fields.integer("slices"),
        state_slice_ms=fields.amounts("states", _OBSERVED_NAMES),
        uncovered_slice_ms=fields.amounts("uncovered", _UNCOVERED_NAMES),
        bin_slice_ms=_bins(fields),
        active_ns=fields.integer("active_ns", None),
        active_known_ms=fields.integer("active_known_ms", 0),
        engine_ns=fields.amounts("engine_ns", _ENGINE_NAMES),
        engine_known_ms=fields.amounts("engine_known_ms", _ENGINE_NAMES),
        memory_total_bytes=fields.integer("memory_total_bytes", None),
        memory_used_bytes_max=fields.integer("memory_used_bytes_max", None),
    )
    fields.end()
    return instance


def _bins(fields: Fields) -> tuple[int, ...]:
    bins = fields.amounts("bins", _BIN_NAMES)
    return tuple(bins.get(index, 0) for index in range(len(ACTIVITY_EDGES_PPM)))


# ---------------------------------------------------------------------------------------------- laws


def check(gpu: GpuTime, where: str, span_ms: int) -> None:
    """Raise ReadingError unless the part keeps every law that can be seen in it alone over a span of `span_ms`."""
    span_slice_ms = span_ms * SLICES_PER_GPU
    total = sum(gpu.state_slice_ms.values()) + sum(gpu.uncovered_slice_ms.values())
    if total != span_slice_ms:
        fail(where, f"states and uncovered sum to {total} slice-ms, and the span is {span_slice_ms}")
    _check_measured(gpu, where, span_ms)
    for link in gpu.link_bytes:
        if link not in gpu.link_known_ms:
            fail(where, f"link_bytes of {link} from no time at all")
    for name, known_ms in (*gpu.link_known_ms.items(), *gpu.throttle_ms.items()):
        if known_ms > span_ms:
            fail(where, f"{name}: longer than the span")
    if gpu.hang_suspicion_ms * SLICES_PER_GPU > gpu.state_slice_ms.get(State.UNMEASURED, 0):
        fail(where, "hang_suspicion_ms is longer than the unmeasured time it is part of")
    if gpu.instances:
        _check_instances(gpu, where, span_ms)


def _check_measured(part: GpuTime | InstanceTime, where: str, span_ms: int) -> None:
    binned = part.state_slice_ms.get(State.BUSY, 0) + part.state_slice_ms.get(State.HELD, 0)
    if sum(part.bin_slice_ms) != binned:
        fail(where, f"bins sum to {sum(part.bin_slice_ms)} slice-ms, and busy and held to {binned}")
    if (part.active_ns is None) is (part.active_known_ms > 0):
        fail(where, "active_ns and active_known_ms: one without the other would be a figure from nothing")
    integrals = [("active_ns", part.active_ns or 0, part.active_known_ms)]
    integrals += [
        (f"engine_ns of {name}", part.engine_ns.get(name, 0), part.engine_known_ms.get(name, 0)) for name in ENGINES
    ]
    for name, active_ns, known_ms in integrals:
        if active_ns > known_ms * 1_000_000 or known_ms > span_ms:
            fail(where, f"{name}: an integral over more time than was known, or known for longer than the span")


def _check_instances(gpu: GpuTime, where: str, span_ms: int) -> None:
    """What instances say of a state or bin is part of what the GPU says of it: no slice counts twice."""
    uuids = {instance.uuid for instance in gpu.instances}
    if len(uuids) < len(gpu.instances):
        fail(where, "an instance stands twice")
    for index, instance in enumerate(gpu.instances):
        place = f"{where}.instances[{index}]"
        if not 1 <= instance.slices <= SLICES_PER_GPU:
            fail(place, f"slices is not from 1 to {SLICES_PER_GPU}")
        if instance.instance > INSTANCE_ID_MAX:
            fail(place, f"instance is more than {INSTANCE_ID_MAX}")
        total = sum(instance.state_slice_ms.values()) + sum(instance.uncovered_slice_ms.values())
        if total > instance.slices * span_ms or total % instance.slices != 0:
            fail(place, f"{total} slice-ms are not the time of {instance.slices} slices within the span")
        _check_measured(instance, place, span_ms)
    parts: Sequence[InstanceTime] = gpu.instances
    for state in OBSERVED:
        _check_sum(
            where, state.value, [p.state_slice_ms.get(state, 0) for p in parts], gpu.state_slice_ms.get(state, 0)
        )
    for reason in Uncovered:
        of_instances = [p.uncovered_slice_ms.get(reason, 0) for p in parts]
        _check_sum(where, reason.value, of_instances, gpu.uncovered_slice_ms.get(reason, 0))
    for position, whole in enumerate(gpu.bin_slice_ms):
        _check_sum(where, f"bin {position}", [p.bin_slice_ms[position] for p in parts], whole)


def _check_sum(where: str, name: str, of_instances: list[Any], whole: int) -> None:
    if sum(of_instances) > whole:
        fail(where, f"{name}: the instances have {sum(of_instances)} slice-ms, and the GPU {whole}")
