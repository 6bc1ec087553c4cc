# SPDX-License-Identifier: Apache-2.0
"""One GPU of a script as the real agent sealed it, in a person's units: for tests whose figures are by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.abi.oracle import Run, expect
from tests.abi.readings import account, sealed
from tests.abi.script import Script
from tests.abi.stage import WALL_START_MS, Stage
from tests.abi.truth import CellTruth

END_MS = 30_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Sealed:
    """What the agent sealed of the first GPU, and the calls that it made."""

    states: dict[str, float]
    active_s: Any
    engines_s: dict[str, float]
    known_s: dict[str, float]
    links: dict[str, int]
    links_known_s: dict[str, float]
    hang_s: float
    energy_mj: dict[str, int]
    sources: set[str]
    rejected: int
    calls: dict[str, int]
    log: str


Meter = Callable[..., Sealed]


def run_meter(
    stage: Callable[..., Stage], state_dir: Path, script: Script, end_ms: int = END_MS, *, interval_ms: int = 1_000
) -> Sealed:
    """Run the agent over the script, and return what it sealed of the first GPU once the oracle agrees with all."""
    put = stage(script, duration_ms=end_ms)
    done = put.run(["-m", "tests.abi.run_agent", str(state_dir), "--interval", str(interval_ms / 1_000)])
    found = account(state_dir)
    runs = [Run(start_ms=0, end_ms=end_ms)]
    assert found == expect(script, runs, wall_start_ms=WALL_START_MS, interval_ms=interval_ms)
    uuid = script.gpus[0].uuid
    cell = CellTruth()
    for each in found[uuid].values():
        for name in ("states_ms", "uncovered_ms", "engines_ns", "engines_known_ms", "links", "links_known_ms"):
            getattr(cell, name).update(getattr(each, name))
        cell.energy_mj.update(each.energy_mj)
        cell.active_ns += each.active_ns
        cell.hang_ms += each.hang_ms
    cores = [gpu for core in sealed(state_dir) for gpu in core["gpus"] if gpu["uuid"] == uuid]
    return Sealed(
        states={name: ms / 1_000 for name, ms in (cell.states_ms + cell.uncovered_ms).items()},
        active_s=cell.active_ns / 1e9,
        engines_s={name: ns / 1e9 for name, ns in cell.engines_ns.items()},
        known_s={name: ms / 1e3 for name, ms in cell.engines_known_ms.items()},
        links={name: count for name, count in cell.links.items() if count},
        links_known_s={name: ms / 1e3 for name, ms in cell.links_known_ms.items()},
        hang_s=cell.hang_ms / 1_000,
        energy_mj=dict(cell.energy_mj),
        sources={core["activity_source"] for core in cores if "activity_source" in core},
        rejected=sum(core.get("rejected_values", 0) for core in cores),
        calls=put.calls(),
        log=done.stderr,
    )
