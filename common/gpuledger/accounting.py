# SPDX-License-Identifier: Apache-2.0
"""Figures and their bounds: quotients of sums of slice-milliseconds, never averaged percentages (accounting.md, 3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from gpuledger.states import ACTIVITY_EDGES_PPM, IDLE, OUT, UNKNOWN, State

COVERAGE_FLOOR = 0.95
"""Below this the words occupancy, used and busy are withheld."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """A ratio 0..1 known only to lie between `low` and `high`, with its integer numerators."""

    low_slice_ms: int
    high_slice_ms: int
    installed_slice_ms: int

    @property
    def low(self) -> float:
        return self.low_slice_ms / self.installed_slice_ms

    @property
    def high(self) -> float:
        return self.high_slice_ms / self.installed_slice_ms


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """GPU time of any whole cells: slice-ms by state, and what stands beside the states.

    `bin_slice_ms` holds the time that was busy or held, by activity. `active_ns` is the integral of activity in
    GPU-nanoseconds; None where no activity was ever known. A state that is not in the mapping has no time.
    """

    state_slice_ms: Mapping[State, int]
    bin_slice_ms: tuple[int, ...] = (0,) * len(ACTIVITY_EDGES_PPM)
    active_ns: int | None = None
    energy_mj: Mapping[str, int] = field(default_factory=dict)
    declared_uncovered_slice_ms: int = 0
    """D': uncovered time inside a standby or maintenance declared before it began."""

    def slice_ms(self, *states: State) -> int:
        """Return the sum over the given states."""
        return sum(self.state_slice_ms.get(state, 0) for state in states)

    @property
    def installed_slice_ms(self) -> int:
        return sum(self.state_slice_ms.values())

    @property
    def idle(self) -> Bounds | None:
        """At least / at most this share stood idle; None without installed time."""
        return self._bounds(self.slice_ms(*IDLE))

    @property
    def busy(self) -> Bounds | None:
        """At least / at most this share was busy; None without installed time."""
        return self._bounds(self.slice_ms(State.BUSY))

    @property
    def out_ratio(self) -> float | None:
        """Share that was down, in maintenance or under the operator's own load."""
        installed = self.installed_slice_ms
        return None if installed == 0 else self.slice_ms(*OUT) / installed

    @property
    def coverage(self) -> float | None:
        """1 - dark / (I - D'); None where nothing was to be observed."""
        observable = self.installed_slice_ms - self.declared_uncovered_slice_ms
        return None if observable == 0 else 1 - self.slice_ms(State.DARK) / observable

    @property
    def measured(self) -> float | None:
        """1 - (dark + unmeasured) / I."""
        installed = self.installed_slice_ms
        return None if installed == 0 else 1 - self.slice_ms(*UNKNOWN) / installed

    @property
    def declared_ratio(self) -> float | None:
        """D' / I."""
        installed = self.installed_slice_ms
        return None if installed == 0 else self.declared_uncovered_slice_ms / installed

    @property
    def engine_active_ratio(self) -> float | None:
        """The integral of activity over installed time; None where activity was never known."""
        installed = self.installed_slice_ms
        if installed == 0 or self.active_ns is None:
            return None
        return self.active_ns * 7 / (installed * 1_000_000)

    def busy_slice_ms_above(self, theta_ppm: int) -> int:
        """Return busy time had the threshold been `theta_ppm`, which must be an edge of a bin."""
        first = ACTIVITY_EDGES_PPM.index(theta_ppm) + 1
        return sum(self.bin_slice_ms[first:])

    def _bounds(self, low_slice_ms: int) -> Bounds | None:
        installed = self.installed_slice_ms
        if installed == 0:
            return None
        return Bounds(
            low_slice_ms=low_slice_ms,
            high_slice_ms=low_slice_ms + self.slice_ms(*UNKNOWN),
            installed_slice_ms=installed,
        )


def add(accounts: list[Account]) -> Account:
    """Return the sum of accounts; the sum of none is an account of no time."""
    states: dict[State, int] = {}
    energy: dict[str, int] = {}
    bins = [0] * len(ACTIVITY_EDGES_PPM)
    active_ns: int | None = None
    declared = 0
    for account in accounts:
        for state, amount in account.state_slice_ms.items():
            states[state] = states.get(state, 0) + amount
        for key, amount in account.energy_mj.items():
            energy[key] = energy.get(key, 0) + amount
        for index, amount in enumerate(account.bin_slice_ms):
            bins[index] += amount
        if account.active_ns is not None:
            active_ns = account.active_ns + (0 if active_ns is None else active_ns)
        declared += account.declared_uncovered_slice_ms
    return Account(
        state_slice_ms=states,
        bin_slice_ms=tuple(bins),
        active_ns=active_ns,
        energy_mj=energy,
        declared_uncovered_slice_ms=declared,
    )
