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
QUIET_PPM = 10_000
FLOOR_TICKS = 60


@dataclass(frozen=True, slots=True)
class Decision:
    """The state of a tick, and whether a hang is suspected in it."""

    state: State
    is_hang_suspected: bool = False


_DOWN = Decision(State.DOWN)
_OPERATOR = Decision(State.OPERATOR)
_BUSY = Decision(State.BUSY)
_UNMEASURED = Decision(State.UNMEASURED)
_HUNG = Decision(State.UNMEASURED, is_hang_suspected=True)
_HELD = Decision(State.HELD)
_RESERVED = Decision(State.RESERVED)
_FREE = Decision(State.FREE)


def decide(seen: GpuSnapshot, power_mw: float | None, floor_mw: float | None) -> Decision:
    """Return the state of a tick.

    `power_mw` is the mean power of the tick and `floor_mw` the GPU's learnt idle floor; None where unknown.
    """
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
    if seen.activity_ppm is None or seen.activity_ppm <= HANG_ACTIVITY_PPM:
        return False
    if seen.sm_active_ppm is not None and seen.sm_active_ppm >= HANG_SM_ACTIVE_PPM:
        return False
    return power_mw is not None and floor_mw is not None and power_mw <= floor_mw * HANG_POWER_MARGIN


class _Lowest:
    """The lowest mean power seen over FLOOR_TICKS consecutive ticks."""

    __slots__ = ("_energy_mj", "_ticks", "_time_ms", "power_mw")

    def __init__(self) -> None:
        self._ticks: deque[tuple[int, int]] = deque()
        self._energy_mj = 0
        self._time_ms = 0
        self.power_mw: float | None = None

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

    def __init__(self) -> None:
        self._parked = _Lowest()
        self._bare = _Lowest()

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
