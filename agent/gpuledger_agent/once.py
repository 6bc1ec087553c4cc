# SPDX-License-Identifier: Apache-2.0
"""One look at this node's GPUs, for a person at it: the agent's own sources and rules, over one second.

Nothing is written, kept or served. Two reads are needed, since activity and power are means over the time between them.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from gpuledger.clock import Clock
from gpuledger.errors import GpuledgerError
from gpuledger.sealing import NameSealer
from gpuledger.states import THETA_PPM, State, Uncovered
from gpuledger_agent.config import AgentConfig
from gpuledger_agent.devices import Inventory
from gpuledger_agent.health import action_name
from gpuledger_agent.holders import Holders
from gpuledger_agent.meter import Meter
from gpuledger_agent.nvml import Identity, Nvml
from gpuledger_agent.processes import ProcessTable
from gpuledger_agent.sampler import Sampler
from gpuledger_agent.snapshot import GpuSnapshot, Health
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
class SeenGpu:
    """One GPU after two reads; `holders` are (user, name), None where unknown."""

    identity: Identity
    result: State | Uncovered
    seen: GpuSnapshot
    power_mw: float | None
    holders: tuple[tuple[str | None, str], ...] | None


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


def look(config: AgentConfig, clock: Clock, nvml: Nvml, processes: ProcessTable) -> Look:
    """Read everything twice, one second apart; raises GpuledgerError where there is no usable driver or no GPU."""
    # Names are sealed with a secret that nobody keeps, only to be opened again below.
    names = NameSealer(os.urandom(32))
    holders = Holders(processes, names, os.getpid(), config.operator_users, config.operator_executables)
    inventory = Inventory(nvml)
    # Health in both reads, so that what its counters grew by is of this second.
    sampler = Sampler(nvml, inventory, holders, clock.boottime_ns, SAMPLE_MS, health_poll_ms=0)
    meter = Meter(SAMPLE_MS, {}, {})
    nvml.attach()
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
    if not inventory.devices and inventory.unidentified == 0:
        raise GpuledgerError("the NVIDIA driver answers and lists no GPU")
    gpus = []
    for device in sorted(inventory.devices, key=lambda device: _order(device.identity)):
        uuid = device.identity.uuid
        gpus.append(
            SeenGpu(
                identity=device.identity,
                result=meter.states[uuid],
                seen=seen[uuid],
                power_mw=meter.power_mw.get(uuid),
                holders=_named(seen[uuid], holders),
            )
        )
    return Look(
        gpus=tuple(gpus),
        unidentified=inventory.unidentified,
        driver_version=driver_version,
        is_simulated=nvml.is_simulated,
    )


def _order(identity: Identity) -> tuple[bool, int]:
    return identity.index is None, -1 if identity.index is None else identity.index


def _named(seen: GpuSnapshot, holders: Holders) -> tuple[tuple[str | None, str], ...] | None:
    if seen.holders is None:
        return None
    found = []
    for holder in seen.holders:
        digests = [holder.workload] if holder.user is None else [holder.workload, holder.user]
        names = {digest: name for digest, (_, name) in holders.openings(digests).items()}
        user = None if holder.user is None else names.get(holder.user)
        found.append((user, names.get(holder.workload, _UNKNOWN)))
    return tuple(sorted(found, key=lambda pair: pair[1]))


# ---------------------------------------------------------------------------------------------- for reading


def reason(gpu: SeenGpu) -> str:
    """Return why the GPU is in its state, in a few words."""
    if isinstance(gpu.result, Uncovered):
        return _UNCOVERED_TEXTS.get(gpu.result, str(gpu.result))
    if gpu.result is State.DOWN:
        return "its health" if gpu.seen.health is None else _HEALTH_TEXTS[gpu.seen.health]
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
    """Return the table, one line a GPU and one more for each further holder."""
    rows: list[tuple[str, ...]] = [_HEAD]
    for gpu in found.gpus:
        held_by = ["?"] if gpu.holders is None else [_holder(*holder) for holder in gpu.holders] or ["-"]
        rows.append((*_cells(gpu), held_by[0]))
        rows += [("",) * (len(_HEAD) - 1) + (holder,) for holder in held_by[1:]]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    if found.unidentified > 0:
        lines.append(f"{found.unidentified} more GPU(s) listed by the driver could not be identified")
    version = found.driver_version or "of unknown version"
    title = f"NVIDIA driver {version}, {len(found.gpus)} GPU(s), mean of {SAMPLE_MS / 1000:g} s"
    mark = ["SIMULATED: these GPUs do not exist"] if found.is_simulated else []
    return "\n".join([*mark, title, "", *lines])


def _cells(gpu: SeenGpu) -> tuple[str, ...]:
    seen, identity = gpu.seen, gpu.identity
    activity = _UNKNOWN
    if seen.activity_ppm is not None:
        activity = f"{seen.activity_ppm / 10_000:.0f} % ({seen.activity_source or 'unknown source'})"
    return (
        str(identity.index),
        _plain(identity.model or _UNKNOWN),
        gpu.result.value if isinstance(gpu.result, State) else "not observed",
        reason(gpu),
        activity,
        f"{_gib(seen.memory_used_bytes)} / {_gib(identity.memory_total_bytes)} GiB",
        _UNKNOWN if gpu.power_mw is None else f"{gpu.power_mw / 1000:.0f} W",
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


def _xid(xid: int) -> str:
    text = meaning(xid)
    return f"Xid {xid}" if text is None else f"Xid {xid} ({text})"


def _gib(size_bytes: int | None) -> str:
    return _UNKNOWN if size_bytes is None else f"{size_bytes / 2**30:.1f}"


def _holder(user: str | None, name: str) -> str:
    # The start time tells processes of one pid apart in readings; a person looks at those that live now.
    name = re.sub(r", started \d+\)$", ")", name)
    return _plain(f"{_UNKNOWN if user is None else user}: {name}")


def _plain(text: str) -> str:
    # A process may call itself anything; what is not printable could drive the reader's terminal.
    return "".join(character if character.isprintable() else "?" for character in text)
