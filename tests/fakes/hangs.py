# SPDX-License-Identifier: Apache-2.0
"""Calls that hang, in rigs: how to let one hang, and how to let it come back."""

from __future__ import annotations

import threading
from collections.abc import Callable

from gpuledger.states import State, Uncovered
from tests.fakes.agents import Rig


def results(rig: Rig) -> dict[str, State | Uncovered]:
    """Return what the last tick was, by the GPU's number."""
    return {gpu.identity.uuid[11]: gpu.result for gpu in rig.agent.view.gpus}


def hang(rig: Rig, index: int, function: str) -> threading.Event:
    """Let the next call of `function` about a GPU hang; returns what lets it come back."""
    let_go = rig.nvml.gpus[index].hangs[function] = threading.Event()
    return let_go


def until(is_so: Callable[[], bool]) -> None:
    """Wait for what another thread is about to do."""
    turn = threading.Event()
    for _ in range(6_000):
        if is_so():
            return
        turn.wait(0.01)
    raise AssertionError("waited in vain")


def come_back(rig: Rig, index: int, function: str) -> None:
    """Let the call that hangs, and all after it, come back."""
    rig.nvml.gpus[index].hangs.pop(function).set()
    until(lambda: rig.agent.stuck_calls == 0)


def let_all_go(rig: Rig) -> None:
    """Let every call come back, so that no thread outlives its test."""
    for hangs in (rig.nvml.hangs, *(gpu.hangs for gpu in rig.nvml.gpus)):
        for let_go in hangs.values():
            let_go.set()
