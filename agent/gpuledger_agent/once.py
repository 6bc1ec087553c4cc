# SPDX-License-Identifier: Apache-2.0
"""One look at this node's GPUs, for a person at it: the agent's own sources and rules, over one second.

Nothing is written, kept or served. Two reads are needed, since activity and power are means over the time between them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from gpuledger import workload_names
from gpuledger.clock import Clock
from gpuledger.errors import GpuledgerError
from gpuledger.sealing import NameSealer
from gpuledger.states import THETA_PPM, State, Uncovered
from gpuledger_agent.attribution import attribute
from gpuledger_agent.config import AgentConfig
from gpuledger_agent.decision import Floors
from gpuledger_agent.devices import Inventory
from gpuledger_agent.floors_file import FLOORS_FILE, FloorsFile
from gpuledger_agent.health import action_name
from gpuledger_agent.holders import VIRTUAL_MACHINE, Holders
from gpuledger_agent.meter import Meter
from gpuledger_agent.nvml import DriverUnavailable, Identity, Nvml
from gpuledger_agent.passthrough import PCI_BOOK, PassedThrough, PciBook, PciBus, VirtualMachines
from gpuledger_agent.processes import ProcessTable, read_boot_id
from gpuledger_agent.sampler import Sampler
from gpuledger_agent.snapshot import GpuSnapshot, Health, InstanceIdentity
from gpuledger_agent.tally import Part, overall
from gpuledger_agent.xids import meaning

SAMPLE_MS = 1_000
_MS_NS = 1_000_000
_THETA = f"{THETA_PPM // 10_000} %"
_UNKNOWN = "?"
_HEAD = ("GPU", "MODEL", "STATE", "WHY", "ACTIVITY", "MEMORY", "POWER", "HEALTH", "HELD BY")

_HEALTH_TEXTS = {
    Health.CLEAN: "clean",
    Health.LOST: "lost: it fell off the bus",
    Health.RESET_REQUIRED: "wants a reset",
    Health.RECOVERY_ACTION: "the driver recommends a recovery action",
    Health.ROW_REMAP_FAILURE: "memory rows could not be remapped",
    Health.FATAL_XID: "it reported a fatal error (Xid)",
}
_STATE_TEXTS = {
    State.BUSY: f"a process, and activity above {_THETA}",
    State.HELD: f"a process, and activity of at most {_THETA}",
    State.RESERVED: "allocated, and no process",
    State.FREE: "no process",
    State.OPERATOR: "only the operator's own load",
}
_UNCOVERED_TEXTS = {
    Uncovered.FIRST_TICK: "seen only once",
    Uncovered.GAP: "the two reads lay too far apart",
    Uncovered.PERMISSION: "no permission",
    Uncovered.NOT_ENUMERATED: "the driver no longer lists it",
    Uncovered.CALLS_FAILED: "no call about it answers",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenPart:
    """Some slices of a divided GPU after two reads; `identity` is None for what no instance has."""

    identity: InstanceIdentity | None
    slices: int
    result: State | Uncovered
    seen: GpuSnapshot
    holders: tuple[tuple[str | None, str], ...] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenGpu:
    """One GPU after two reads; `holders`, or whom it is reserved for, are (user, name), None where unknown."""

    identity: Identity
    result: State | Uncovered
    seen: GpuSnapshot
    power_mw: float | None
    floors_mw: Mapping[str, float]
    """What the service has learnt of its idle power, `bare` and `parked`; nothing where its file cannot be read."""
    holders: tuple[tuple[str | None, str], ...] | None
    parts: tuple[SeenPart, ...] = ()
    """Of a divided GPU each instance, and what no instance has."""
    is_passed_through: bool = False
    """A virtual machine has it: the driver does not list it, and the host does not say what it does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """Everything that was seen of the node."""

    gpus: tuple[SeenGpu, ...]
    unidentified: int
    driver_version: str | None
    is_simulated: bool

    @property
    def is_whole(self) -> bool:
        """Return whether every GPU could be observed and none is down."""
        return self.unidentified == 0 and all(
            isinstance(gpu.result, State) and gpu.result is not State.DOWN for gpu in self.gpus
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """Where the host's own words are about GPUs that the driver does not have."""

    sysfs: Path
    libvirt: tuple[Path, ...]


def look(config: AgentConfig, clock: Clock, nvml: Nvml, processes: ProcessTable, host: Host | None = None) -> Look:
    """Read everything twice, one second apart; raises GpuledgerError where there is no usable driver or no GPU.

    Where virtual machines have GPUs, those are all there may be: no driver is needed then.
    """
    # Names are sealed with a secret that nobody keeps, only to be opened again below.
    names = NameSealer(os.urandom(32))
    holders, reservations = attribute(config, processes, names, read_boot_id())
    inventory = Inventory(nvml)
    # Health in both reads, so that what its counters grew by is of this second.
    sampler = Sampler(
        nvml,
        inventory,
        holders,
        clock.boottime_ns,
        SAMPLE_MS,
        reservations=reservations,
        health_poll_ms=0,
    )
    passed = () if host is None else _passed_through(config, host, holders)
    floors = _known_floors(config.state_dir / FLOORS_FILE, clock)
    meter = Meter(SAMPLE_MS, floors, {})
    try:
        nvml.attach()
    except DriverUnavailable:
        if not passed:
            raise
        return Look(gpus=passed, unidentified=0, driver_version=None, is_simulated=nvml.is_simulated)
    try:
        begin_ns = clock.boottime_ns()
        meter.tick(begin_ns // _MS_NS, sampler.sample(begin_ns // _MS_NS))
        clock.wait_until(begin_ns + SAMPLE_MS * _MS_NS)
        end_ms = clock.boottime_ns() // _MS_NS
        seen = sampler.sample(end_ms)
        meter.tick(end_ms, seen)
        driver_version = nvml.driver_version()
    finally:
        sampler.release()
        nvml.detach()
    if not inventory.devices and inventory.unidentified == 0 and not passed:
        raise GpuledgerError("the NVIDIA driver answers and lists no GPU")
    gpus = []
    for device in sorted(inventory.devices, key=lambda device: _order(device.identity)):
        uuid = device.identity.uuid
        parts = meter.parts[uuid]
        gpus.append(
            SeenGpu(
                identity=device.identity,
                result=overall(parts),
                seen=seen[uuid],
                power_mw=meter.power_mw.get(uuid),
                floors_mw=floors[uuid].known_mw() if uuid in floors else {},
                holders=_named(seen[uuid], holders),
                parts=tuple(_seen_part(part, holders) for part in parts) if seen[uuid].instances else (),
            )
        )
    return Look(
        gpus=(*gpus, *passed),
        unidentified=inventory.unidentified,
        driver_version=driver_version,
        is_simulated=nvml.is_simulated,
    )


def _passed_through(config: AgentConfig, host: Host, holders: Holders) -> tuple[SeenGpu, ...]:
    """Return the GPUs that virtual machines have; by whom the driver last knew them, where the service noted it."""
    book = PciBook(config.state_dir / PCI_BOOK)
    passed = PassedThrough(PciBus(host.sysfs), book, VirtualMachines(host.libvirt), holders, node_id="")
    found = []
    # Nothing of the driver's is told to the book, so that nothing is written to it.
    for uuid, seen in passed.look(0, {}).items():
        tenants = None if seen.tenant is None else _named(replace(seen, holders=(seen.tenant,)), holders)
        found.append(
            SeenGpu(
                identity=passed.identities[uuid],
                result=State.UNMEASURED,
                seen=seen,
                power_mw=None,
                floors_mw={},
                holders=None if tenants is None else tuple((None, name) for _, name in tenants),
                is_passed_through=True,
            )
        )
    return tuple(found)


def _known_floors(path: Path, clock: Clock) -> dict[str, Floors]:
    # Who looks may not be who may read the service's directory.
    return FloorsFile(path).read(clock.wall_ns() // _MS_NS) if os.access(path, os.R_OK) else {}


def _seen_part(part: Part, holders: Holders) -> SeenPart:
    return SeenPart(
        identity=part.instance,
        slices=part.slices,
        result=part.result,
        seen=part.seen,
        holders=_named(part.seen, holders),
    )


def _order(identity: Identity) -> tuple[bool, int]:
    return identity.index is None, -1 if identity.index is None else identity.index


def _named(seen: GpuSnapshot, holders: Holders) -> tuple[tuple[str | None, str], ...] | None:
    if seen.holders is None:
        return None
    found = []
    for holder in seen.holders or seen.allocated_to:
        digests = [holder.workload] if holder.user is None else [holder.workload, holder.user]
        names = {digest: name for digest, (_, name) in holders.openings(digests).items()}
        user = None if holder.user is None else names.get(holder.user)
        found.append((user, names.get(holder.workload, _UNKNOWN)))
    return tuple(sorted(found, key=lambda pair: pair[1]))


# ---------------------------------------------------------------------------------------------- for reading


def reason(gpu: SeenGpu | SeenPart) -> str:
    """Return why the GPU, or the part of it, is in its state, in a few words."""
    if isinstance(gpu.result, Uncovered):
        return _UNCOVERED_TEXTS.get(gpu.result, str(gpu.result))
    if gpu.result is State.DOWN:
        return "its health" if gpu.seen.health is None else _HEALTH_TEXTS[gpu.seen.health]
    if isinstance(gpu, SeenGpu) and gpu.is_passed_through:
        return "a virtual machine has it (vfio-pci)"
    if gpu.result is not State.UNMEASURED:
        return _STATE_TEXTS.get(gpu.result, str(gpu.result))
    if gpu.seen.holders is None:
        return "who holds it is not known"
    activity_ppm = gpu.seen.activity_ppm
    if not gpu.seen.holders:
        is_active = activity_ppm is not None and activity_ppm > THETA_PPM
        return "activity without a process" if is_active else "no process, and its health is not known"
    return "its activity is not known" if activity_ppm is None else "activity at idle power: is it hung?"


def render(found: Look) -> str:
    """Return the table, one line a GPU, each part of a divided one below it, and one more for each further holder."""
    rows: list[tuple[str, ...]] = [_HEAD]
    for gpu in found.gpus:
        if gpu.parts:
            rows.append((*_cells(gpu), ""))
            for part in gpu.parts:
                rows += _rows(_part_cells(gpu.identity, part), part.holders)
        else:
            rows += _rows(_cells(gpu), gpu.holders)
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    if found.unidentified > 0:
        lines.append(f"{found.unidentified} more GPU(s) listed by the driver could not be identified")
    version = found.driver_version or "of unknown version"
    title = f"NVIDIA driver {version}, {len(found.gpus)} GPU(s), mean of {SAMPLE_MS / 1000:g} s"
    mark = ["SIMULATED: these GPUs do not exist"] if found.is_simulated else []
    return "\n".join([*mark, title, "", *lines])


def _rows(cells: tuple[str, ...], holders: tuple[tuple[str | None, str], ...] | None) -> list[tuple[str, ...]]:
    held_by = ["?"] if holders is None else [_holder(*holder) for holder in holders] or ["-"]
    return [(*cells, held_by[0]), *(("",) * (len(_HEAD) - 1) + (holder,) for holder in held_by[1:])]


def _cells(gpu: SeenGpu) -> tuple[str, ...]:
    seen, identity = gpu.seen, gpu.identity
    return (
        "-" if identity.index is None else str(identity.index),
        _plain(identity.model or (identity.pci_bus_id if gpu.is_passed_through else None) or _UNKNOWN),
        "divided" if gpu.parts else _state(gpu.result),
        "into GPU instances (MIG)" if gpu.parts else reason(gpu),
        "" if gpu.parts else _activity(seen),
        f"{_gib(seen.memory_used_bytes)} / {_gib(identity.memory_total_bytes)} GiB",
        _power(gpu),
        _health(seen),
    )


def _health(seen: GpuSnapshot) -> str:
    """Return what is wrong with the GPU, a word or two for each thing."""
    facts = seen.health_facts
    words = [_UNKNOWN if seen.health is None else seen.health.value]
    if seen.health is Health.RECOVERY_ACTION and facts is not None and facts.recovery_action is not None:
        words = [action_name(facts.recovery_action)]
    words += [_xid(xid) for xid in sorted({xid for xid, _ in seen.xids})]
    if facts is not None and facts.is_remap_pending is True:
        words.append("rows_to_remap")
    words += [f"{kind}_memory_errors" for kind in seen.ecc_errors]
    words += [f"throttled by {reason}" for reason, growth in seen.throttled.items() if growth.amount > 0]
    return ", ".join(words).replace("_", " ")


def _power(gpu: SeenGpu) -> str:
    power = _UNKNOWN if gpu.power_mw is None else f"{gpu.power_mw / 1000:.0f} W"
    floor_mw = gpu.floors_mw.get("parked" if gpu.holders else "bare")
    return power if floor_mw is None else f"{power} (idle: {floor_mw / 1000:.0f} W)"


def _part_cells(board: Identity, part: SeenPart) -> tuple[str, ...]:
    identity = part.identity
    if identity is None:
        name, memory, activity = f"{part.slices}/7 in no instance", "", ""
    else:
        name = f"{_plain(identity.profile or 'instance')} ({part.slices}/7)"
        memory = f"{_gib(part.seen.memory_used_bytes)} / {_gib(identity.memory_total_bytes)} GiB"
        activity = _activity(part.seen)
    number = "" if identity is None else f"{board.index}/{identity.instance}"
    return number, name, _state(part.result), reason(part), activity, memory, "", ""


def _state(result: State | Uncovered) -> str:
    return result.value if isinstance(result, State) else "not observed"


def _activity(seen: GpuSnapshot) -> str:
    if seen.activity_ppm is None:
        return _UNKNOWN
    return f"{seen.activity_ppm / 10_000:.0f} % ({seen.activity_source or 'unknown source'})"


def _xid(xid: int) -> str:
    text = meaning(xid)
    return f"Xid {xid}" if text is None else f"Xid {xid} ({text})"


def _gib(size_bytes: int | None) -> str:
    return _UNKNOWN if size_bytes is None else f"{size_bytes / 2**30:.1f}"


def _holder(user: str | None, name: str) -> str:
    parsed = workload_names.parse(name)
    if parsed is not None and parsed.source == "process":
        # The start tells processes of one pid apart in readings; a person looks at those that live now.
        program, pid, start = parsed.parts
        name = f"process {pid} (not visible)" if start is None else f"{program} (pid {pid})"
    if name.startswith(VIRTUAL_MACHINE):
        return _plain(name)
    return _plain(f"{_UNKNOWN if user is None else user}: {name}")


def _plain(text: str) -> str:
    # A process may call itself anything; what is not printable could drive the reader's terminal.
    return "".join(character if character.isprintable() else "?" for character in text)
