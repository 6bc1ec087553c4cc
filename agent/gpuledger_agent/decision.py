# SPDX-License-Identifier: Apache-2.0
"""Which state a tick was, from what was read in it: first match wins (accounting.md, 2, the table)."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from gpuledger.states import THETA_PPM, State
from gpuledger_agent.snapshot import GpuSnapshot, Health

HANG_ACTIVITY_PPM = 700_000
HANG_SM_ACTIVE_PPM = 10_000
HANG_POWER_MARGIN = 1.05
LOW_POWER_SHARE = 4
"""Below one part in so many of its power limit, a GPU does no work that would fill it."""
CONTRADICTED_MS_MIN = 10_000
"""Utilisation may still speak of the last second's work: so long it must contradict GPM."""
UNCLAIMED_MS_MIN = 60_000
"""The driver scrubs memory at its start, without a process: so long activity must last to be none of that."""
QUIET_PPM = 10_000
FLOOR_TICKS = 60


@dataclass(frozen=True, slots=True)
class Decision:
    """The state of a tick, whether a hang or a fault is suspected in it, and whether its activity can be believed."""

    state: State
    is_hang_suspected: bool = False
    is_activity_believed: bool = True


_DOWN = Decision(State.DOWN)
_OPERATOR = Decision(State.OPERATOR)
_BUSY = Decision(State.BUSY)
_UNMEASURED = Decision(State.UNMEASURED)
_HUNG = Decision(State.UNMEASURED, is_hang_suspected=True, is_activity_believed=False)
_DISBELIEVED = Decision(State.UNMEASURED, is_activity_believed=False)
_HELD = Decision(State.HELD)
_RESERVED = Decision(State.RESERVED)
_FREE = Decision(State.FREE)
_SUSPECTED = {
    state: Decision(state, is_hang_suspected=True, is_activity_believed=state is not State.UNMEASURED)
    for state in (State.UNMEASURED, State.HELD, State.RESERVED, State.FREE)
}
"""What nobody is seen to work in may be contradicted: the state stays what the best source says, and is reported."""


def decide(seen: GpuSnapshot, power_mw: float | None, floor_mw: float | None) -> Decision:
    """Return the state of a tick.

    `power_mw` is the mean power of the tick and `floor_mw` the GPU's learnt idle floor; None where unknown.
    """
    decision = _state(seen, power_mw, floor_mw)
    if decision.is_hang_suspected or decision.state not in _SUSPECTED:
        return decision
    if power_mw is None or not _is_contradicted(seen):
        return decision
    if _is_low(seen, power_mw, floor_mw):
        return _SUSPECTED[decision.state]
    is_silent = seen.activity_ppm is not None and seen.activity_ppm <= THETA_PPM
    if is_silent and seen.power_limit_mw is not None and power_mw * LOW_POWER_SHARE >= seen.power_limit_mw:
        # Engines draw this power, and GPM does not see them.
        return _DISBELIEVED
    return decision


def _state(seen: GpuSnapshot, power_mw: float | None, floor_mw: float | None) -> Decision:
    holders, activity_ppm = seen.holders, seen.activity_ppm
    is_active = activity_ppm is not None and activity_ppm > THETA_PPM
    # What works although it reported a fatal Xid is not down.
    is_well = seen.health is None or seen.health is Health.CLEAN or (seen.health is Health.FATAL_XID and is_active)
    if not is_well:
        return _DOWN
    if holders is None:
        return _UNMEASURED
    if not holders:
        # Activity without a process is the driver's own work, memory scrubbing above all.
        if is_active or seen.health is None:
            return _UNMEASURED
        return _RESERVED if seen.is_allocated is True else _FREE
    if all(holder.is_operator for holder in holders):
        return _OPERATOR
    if activity_ppm is None:
        return _UNMEASURED
    if not is_active:
        return _HELD
    return _HUNG if _is_hang(seen, power_mw, floor_mw) else _BUSY


def _is_hang(seen: GpuSnapshot, power_mw: float | None, floor_mw: float | None) -> bool:
    if seen.activity_ppm is None or seen.activity_ppm <= HANG_ACTIVITY_PPM or not _is_still(seen):
        return False
    return power_mw is not None and _is_at_floor(power_mw, floor_mw)


def _is_at_floor(power_mw: float, floor_mw: float | None) -> bool:
    return floor_mw is not None and power_mw <= floor_mw * HANG_POWER_MARGIN


def _is_still(seen: GpuSnapshot) -> bool:
    return seen.sm_active_ppm is None or seen.sm_active_ppm < HANG_SM_ACTIVE_PPM


def _is_contradicted(seen: GpuSnapshot) -> bool:
    """Return whether a source insists on high activity where nobody is seen to work, or where GPM sees none."""
    if seen.high_activity_ms is None or seen.holders is None or not _is_still(seen):
        return False
    return seen.high_activity_ms >= (CONTRADICTED_MS_MIN if seen.holders else UNCLAIMED_MS_MIN)


def _is_low(seen: GpuSnapshot, power_mw: float, floor_mw: float | None) -> bool:
    """Return whether power is what a GPU draws that does nothing."""
    if _is_at_floor(power_mw, floor_mw):
        return True
    return seen.power_limit_mw is not None and power_mw * LOW_POWER_SHARE < seen.power_limit_mw


class _Lowest:
    """The lowest mean power seen over FLOOR_TICKS consecutive ticks."""

    __slots__ = ("_energy_mj", "_ticks", "_time_ms", "power_mw")

    def __init__(self, power_mw: float | None = None) -> None:
        self._ticks: deque[tuple[int, int]] = deque()
        self._energy_mj = 0
        self._time_ms = 0
        self.power_mw = power_mw

    def push(self, energy_mj: int, time_ms: int) -> None:
        self._ticks.append((energy_mj, time_ms))
        self._energy_mj += energy_mj
        self._time_ms += time_ms
        if len(self._ticks) > FLOOR_TICKS:
            old_energy_mj, old_time_ms = self._ticks.popleft()
            self._energy_mj -= old_energy_mj
            self._time_ms -= old_time_ms
        if len(self._ticks) == FLOOR_TICKS:
            power_mw = 1000 * self._energy_mj / self._time_ms
            if self.power_mw is None or power_mw < self.power_mw:
                self.power_mw = power_mw

    def interrupt(self) -> None:
        if self._ticks:
            self._ticks.clear()
            self._energy_mj = 0
            self._time_ms = 0


class Floors:
    """One GPU's idle power, learnt while it runs: parked (a process, no activity) and bare (no process).

    A floor is the lowest mean power over 60 consecutive quiet ticks; hard-coded ones would be wrong for the next board.
    """

    __slots__ = ("_bare", "_parked")

    def __init__(self, bare_mw: float | None = None, parked_mw: float | None = None) -> None:
        """Begin with what was learnt before, if anything was."""
        self._parked = _Lowest(parked_mw)
        self._bare = _Lowest(bare_mw)

    def known_mw(self) -> dict[str, float]:
        """Return the floors that are known, by "bare" and "parked"."""
        floors = {"bare": self._bare.power_mw, "parked": self._parked.power_mw}
        return {kind: power_mw for kind, power_mw in floors.items() if power_mw is not None}

    @property
    def idle_mw(self) -> float | None:
        """Return the parked floor, else the bare one (which is lower, so it suspects less), else None."""
        return self._bare.power_mw if self._parked.power_mw is None else self._parked.power_mw

    def interrupt(self) -> None:
        """Start the counts anew: the last tick was not covered."""
        self._parked.interrupt()
        self._bare.interrupt()

    def learn(self, state: State, activity_ppm: int | None, energy_mj: int | None, time_ms: int) -> None:
        """Take in one covered tick; anything but a quiet tick with a known energy starts the count anew."""
        is_quiet = energy_mj is not None and activity_ppm is not None and activity_ppm <= QUIET_PPM
        for floor, floor_state in ((self._parked, State.HELD), (self._bare, State.FREE)):
            if is_quiet and state is floor_state and energy_mj is not None:
                floor.push(energy_mj, time_ms)
            else:
                floor.interrupt()
