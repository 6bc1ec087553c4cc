# SPDX-License-Identifier: Apache-2.0
"""What the load does and when, and what an agent must then see. Pure."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from gpuledger.states import State

SECONDS_MIN = 10
"""A phase shorter than this says nothing about a meter of seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """One thing to do for a while: engines on for `duty` of the time; None means that no process is there.

    `states` are those that are right for it, `weight` its part of the whole time, `memory_mib` what it allocates.
    """

    name: str
    duty: float | None
    states: frozenset[State]
    weight: int
    memory_mib: int = 0


_WORK = frozenset({State.BUSY})
PHASES = (
    Phase(name="load at 5 %", duty=0.05, states=frozenset({State.BUSY, State.HELD}), weight=3),
    Phase(name="load at 25 %", duty=0.25, states=_WORK, weight=3),
    Phase(name="load at 50 %", duty=0.50, states=_WORK, weight=3),
    Phase(name="load at 95 %", duty=0.95, states=_WORK, weight=3),
    Phase(name="idle", duty=None, states=frozenset({State.FREE}), weight=2),
    Phase(name="memory held", duty=0.0, states=frozenset({State.HELD}), weight=2, memory_mib=8192),
)
"""5 % is theta itself, so either side of it is right there."""


def seconds_of(phases: Sequence[Phase], total_s: int) -> list[int]:
    """Return how long each phase lasts; the sum is `total_s`. Raises ValueError where a phase would be too short."""
    weight = sum(phase.weight for phase in phases)
    ends_s = [0]
    passed = 0
    for phase in phases:
        passed += phase.weight
        ends_s.append(total_s * passed // weight)
    lengths_s = [end_s - start_s for start_s, end_s in itertools.pairwise(ends_s)]
    if min(lengths_s) < SECONDS_MIN:
        raise ValueError(f"{total_s} s leave a phase less than {SECONDS_MIN} s")
    return lengths_s


def is_behind(on_ns: int, elapsed_ns: int, duty: float) -> bool:
    """Return whether the engines have been on for less than their share of the time, so that they go on now.

    Asked again after each short kernel, this keeps any duty cycle without a period that could beat with a sampler's.
    """
    return on_ns < duty * elapsed_ns
