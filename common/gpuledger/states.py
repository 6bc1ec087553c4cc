# SPDX-License-Identifier: Apache-2.0
"""The states a GPU-second can be in, and which of them are idle, unknown or out (accounting.md, 2 and 3)."""

from __future__ import annotations

from enum import Enum


class State(str, Enum):
    """One state of GPU time; the value is the name used in readings, metrics and reports."""

    BUSY = "busy"
    HELD = "held"
    RESERVED = "reserved"
    FREE = "free"
    STANDBY = "standby"
    OPERATOR = "operator"
    MAINTENANCE = "maintenance"
    DOWN = "down"
    UNMEASURED = "unmeasured"
    DARK = "dark"

    # A state equals its text, so it must hash as its text; Enum would hash its name, in Python and ten times slower.
    __hash__ = str.__hash__

    def __str__(self) -> str:
        return self.value


OBSERVED: tuple[State, ...] = (
    State.BUSY,
    State.HELD,
    State.RESERVED,
    State.FREE,
    State.OPERATOR,
    State.DOWN,
    State.UNMEASURED,
)
"""What an agent may seal. The other states are made by the collector from absence and declarations."""

IDLE = frozenset({State.FREE, State.RESERVED, State.HELD, State.STANDBY})
UNKNOWN = frozenset({State.DARK, State.UNMEASURED})
OUT = frozenset({State.DOWN, State.MAINTENANCE, State.OPERATOR})

if IDLE | UNKNOWN | OUT | {State.BUSY} != frozenset(State):  # pragma: no cover - a bug, caught at import
    raise AssertionError("every state is busy, idle, unknown or out")


class Uncovered(str, Enum):
    """Why an agent's session covers no state for some of a GPU's time; never a state itself."""

    FIRST_TICK = "first_tick"
    """Between the first observation (of a session, or after a hole) and whatever was before it."""
    GAP = "gap"
    """Two ticks too far apart to say what happened between them."""
    LIBRARY = "library"
    """NVML could not be used at all: not installed, mismatched, uninitialised, timed out."""
    PERMISSION = "permission"
    RELEASED = "released"
    """The operator told the agent to let go of the driver."""
    NOT_ENUMERATED = "not_enumerated"
    """The driver no longer lists the GPU."""
    CALLS_FAILED = "calls_failed"
    """No call about this GPU answered, and none said that it is lost: nobody saw it healthy."""

    __hash__ = str.__hash__  # as for State

    def __str__(self) -> str:
        return self.value


ACTIVITY_EDGES_PPM: tuple[int, ...] = (
    0,
    10_000,
    50_000,
    100_000,
    250_000,
    500_000,
    750_000,
    1_000_000,
)
"""Upper edges of the activity bins, in parts per million; upper-closed, so bin 0 holds exactly 0 %."""

THETA_PPM = 50_000
"""Activity above this is work: 5 %."""

THETAS_PPM: tuple[int, ...] = (0, 10_000, 50_000, 100_000)
"""The thresholds every report prints beside each other; each is an edge of a bin."""

ENGINES = ("sm", "sm_occupancy", "tensor", "dram")
"""What is integrated beside activity, each over the time for which it was known itself (occupancy: share of warps)."""

LINKS = ("pcie_tx", "pcie_rx", "nvlink_tx", "nvlink_rx")
"""Links whose bytes are counted, seen from the GPU."""

THROTTLES = ("sw_power_cap", "sw_thermal", "hw_thermal", "hw_power_brake")
"""Why clocks were held down; each has a counter of time of its own, and they may overlap."""

ECC_KINDS = ("corrected", "uncorrected")
"""Memory errors by what the hardware could do about them."""

WORKLOAD_SOURCES = ("slurm_job", "pod", "container", "unit", "process", "lease", "virtual_machine")
"""What told a workload from others."""

FEATURES: tuple[str, ...] = ()
"""What is kept of a workload's behaviour for its classification, by name; integers, units come last."""


def activity_bin(activity_ppm: int) -> int:
    """Return the index of the bin that holds `activity_ppm` (0..1,000,000); raises ValueError outside that range."""
    if activity_ppm < 0:
        raise ValueError(f"activity of {activity_ppm} ppm is below 0 %")
    for index, edge_ppm in enumerate(ACTIVITY_EDGES_PPM):
        if activity_ppm <= edge_ppm:
            return index
    raise ValueError(f"activity of {activity_ppm} ppm is above 100 %")
