# SPDX-License-Identifier: Apache-2.0
"""How a workload behaves on a GPU, in a few integers that add up: what its classification may look at (features.md).

Pure, and one tick at a time in bounded memory: of each GPU the last tick is kept, and where its power and memory last
turned. Only a tick in which a workload had the GPU to itself says anything of it; what a shared GPU does is nobody's.
What is kept begins anew with another workload, and goes on over the edges of cells: sums over spans are the same
however time was cut.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from gpuledger.cells import share_by_weight
from gpuledger.states import POWER_BANDS_PERCENT, THETA_PPM, State
from gpuledger_agent.snapshot import GpuSnapshot
from gpuledger_agent.tally import Part, WorkloadKey

_BANDS = tuple(f"power_{percent}_ms" for percent in POWER_BANDS_PERCENT)
JUMP_SHARE, TOGETHER_SHARE = 10, 20
"""One part in so many of the power limit: what a jump is, and how far the others must move along, on average."""
SWING_SHARE = 10
"""Power has turned when it has gone back by one part in so many of its limit."""
MEMORY_SWING_SHARE = 20
"""Memory has turned when it has gone back by one part in so many of the board's."""
ALIKE_PPM = 5_000
ALIKE_PPM_MAX = 950_000
"""GPUs that do all they can are alike whatever they do, and so are those that do nothing."""
SPIN_ACTIVITY_PPM, SPIN_SM_PPM, SPIN_POWER_SHARE = 700_000, 10_000, 4

EVENTS = frozenset(
    {
        "bursts",
        "power_jumps",
        "power_jumps_together",
        "power_swings",
        "power_swing_sum_ms",
        "power_swing_square_ms2",
        "memory_swings",
    }
)
"""Features of what happened at the end of a tick: they belong to the cell that holds it, whole."""

Found = dict[str, int]
Place = tuple[str, str | None]
"""A GPU's UUID and its instance's (None: what no instance has, which is all of an undivided GPU)."""


class _Turns:
    """A value that goes up and down: rises and falls by at least a threshold from where it last turned."""

    __slots__ = ("_extreme", "_is_up")

    def __init__(self) -> None:
        self._extreme: int | None = None
        self._is_up = False

    def push(self, value: int, threshold: int) -> int:
        """Take in the next value; return 1 where a rise is complete, -1 where a fall is, else 0."""
        if self._extreme is None:
            self._extreme = value
        elif self._is_up:
            self._extreme = max(self._extreme, value)
            if self._extreme - value >= threshold:
                self._extreme, self._is_up = value, False
                return -1
        else:
            self._extreme = min(self._extreme, value)
            if value - self._extreme >= threshold:
                self._extreme, self._is_up = value, True
                return 1
        return 0


@dataclass(slots=True)
class _Watch:
    """What is kept of a workload that has a GPU to itself."""

    key: WorkloadKey
    time_ms: int = 0
    power_mw: int | None = None
    """In the last tick."""
    risen_ms: int | None = None
    is_idle: bool | None = None
    power_turns: _Turns = field(default_factory=_Turns)
    memory_turns: _Turns = field(default_factory=_Turns)


@dataclass(slots=True)
class _Look:
    """One tick of one GPU: what was found, and what is held against the workload's other GPUs."""

    key: WorkloadKey
    found: Found
    activity_ppm: int | None
    limit_mw: int | None
    move_mw: int | None
    """By how much power has moved since the last tick."""


class Features:
    """Watches the GPUs of one session."""

    def __init__(self) -> None:
        self._watches: dict[Place, _Watch] = {}

    def tick(
        self, parts: Mapping[Place, tuple[Part, int | None]], time_ms: int
    ) -> dict[Place, tuple[WorkloadKey, Found]]:
        """Take in one tick of `time_ms`: by place what it meant, and the energy it took.

        Returns by place the workload that had it to itself, and what to add to its features.
        """
        if time_ms <= 0:
            return {}
        looks: dict[Place, _Look] = {}
        watches: dict[Place, _Watch] = {}
        for place, (part, energy_mj) in parts.items():
            key = _sole(part)
            if key is None:
                continue
            watch = self._watches.get(place)
            if watch is None or watch.key != key:
                watch = _Watch(key)
            watches[place] = watch
            looks[place] = _look(watch, part.seen, energy_mj, time_ms)
        self._watches = watches
        groups: dict[tuple[str, str | None], list[_Look]] = {}
        for look in looks.values():
            workload, user, _ = look.key
            groups.setdefault((workload, user), []).append(look)
        for group in groups.values():
            if len(group) > 1:
                _compare(group, time_ms)
        return {place: (look.key, look.found) for place, look in looks.items()}


def _sole(part: Part) -> WorkloadKey | None:
    holders = part.seen.holders
    if part.result is not State.BUSY and part.result is not State.HELD:
        return None
    if not part.is_single or not part.are_engines_believed or holders is None or len(holders) != 1:
        return None
    return (holders[0].workload, holders[0].user, None if part.instance is None else part.instance.uuid)


def _look(watch: _Watch, seen: GpuSnapshot, energy_mj: int | None, time_ms: int) -> _Look:
    watch.time_ms += time_ms
    found = {"sole_ms": time_ms}
    activity_ppm = seen.activity_ppm
    if activity_ppm is not None:
        found["active_ns"] = activity_ppm * time_ms
        is_idle = activity_ppm <= THETA_PPM
        if watch.is_idle is True and not is_idle:
            found["bursts"] = 1
        watch.is_idle = is_idle
    if seen.sm_active_ppm is not None and seen.tensor_active_ppm is not None and seen.dram_active_ppm is not None:
        found["engines_known_ms"] = time_ms
        found["sm_ns"] = seen.sm_active_ppm * time_ms
        found["tensor_ns"] = seen.tensor_active_ppm * time_ms
        found["dram_ns"] = seen.dram_active_ppm * time_ms
    links = seen.link_bytes
    if "pcie_tx" in links and "pcie_rx" in links:
        found["links_known_ms"] = time_ms
        found["pcie_bytes"] = links["pcie_tx"] + links["pcie_rx"]
        found["nvlink_bytes"] = links.get("nvlink_tx", 0) + links.get("nvlink_rx", 0)
    if seen.memory_used_bytes is not None and seen.memory_total_bytes is not None:
        turn = watch.memory_turns.push(seen.memory_used_bytes, seen.memory_total_bytes // MEMORY_SWING_SHARE)
        if turn < 0:
            found["memory_swings"] = 1
    move_mw = _look_at_power(watch, seen, energy_mj, time_ms, found)
    return _Look(watch.key, found, activity_ppm, seen.power_limit_mw, move_mw)


def _look_at_power(watch: _Watch, seen: GpuSnapshot, energy_mj: int | None, time_ms: int, found: Found) -> int | None:
    """Find what the tick's power says; return by how much it moved since the last tick, None where that is unknown."""
    before_mw, watch.power_mw = watch.power_mw, None
    limit_mw = seen.power_limit_mw
    if energy_mj is None or limit_mw is None or limit_mw <= 0:
        return None
    power_mw = watch.power_mw = 1000 * energy_mj // time_ms
    power_w = (power_mw + 500) // 1000
    found["energy_mj"] = energy_mj
    band = sum(100 * power_mw > percent * limit_mw for percent in POWER_BANDS_PERCENT[1:])
    found[_BANDS[band]] = time_ms
    found["power_square_w2ms"] = power_w * power_w * time_ms
    if watch.power_turns.push(power_mw, limit_mw // SWING_SHARE) > 0:
        if watch.risen_ms is not None:
            period_ms = watch.time_ms - watch.risen_ms
            found["power_swings"] = 1
            found["power_swing_sum_ms"] = period_ms
            found["power_swing_square_ms2"] = period_ms * period_ms
        watch.risen_ms = watch.time_ms
    activity_ppm, sm_ppm = seen.activity_ppm, seen.sm_active_ppm
    is_loud = activity_ppm is not None and activity_ppm > SPIN_ACTIVITY_PPM
    if is_loud and sm_ppm is not None and sm_ppm < SPIN_SM_PPM and power_mw * SPIN_POWER_SHARE < limit_mw:
        found["spin_ms"] = time_ms
    if before_mw is None:
        return None
    if abs(power_mw - before_mw) * JUMP_SHARE >= limit_mw:
        found["power_jumps"] = 1
    return power_mw - before_mw


def _compare(group: Sequence[_Look], time_ms: int) -> None:
    """Hold a workload's GPUs against each other."""
    activities = [look.activity_ppm for look in group if look.activity_ppm is not None]
    is_alike = len(activities) == len(group) and max(activities) - min(activities) <= ALIKE_PPM
    is_alike = is_alike and min(activities) > THETA_PPM and max(activities) <= ALIKE_PPM_MAX
    moves_mw = [look.move_mw for look in group if look.move_mw is not None]
    moved_mw = sum(moves_mw)
    for look in group:
        look.found["peers_ms"] = time_ms
        if is_alike:
            look.found["alike_ms"] = time_ms
        if look.move_mw is None or look.limit_mw is None or "power_jumps" not in look.found or len(moves_mw) < 2:
            continue
        others_mw = moved_mw - look.move_mw
        along_mw = others_mw if look.move_mw > 0 else -others_mw
        if along_mw * TOGETHER_SHARE >= look.limit_mw * (len(moves_mw) - 1):
            look.found["power_jumps_together"] = 1


def cut(found: Found, pieces: Sequence[tuple[int, int]]) -> list[Found]:
    """Divide what a tick found along the cells that it touches: amounts by time, events to where the tick ends."""
    if len(pieces) == 1:
        return [found]
    weights = [end_ms - start_ms for start_ms, end_ms in pieces]
    parts: list[Found] = [{} for _ in pieces]
    for name, amount in found.items():
        if name in EVENTS:
            parts[-1][name] = amount
            continue
        for part, share in zip(parts, share_by_weight(amount, weights), strict=True):
            part[name] = share
    return parts
