# SPDX-License-Identifier: Apache-2.0
"""Words of the tests of divided GPUs (MIG): an instance that works, and what the agent sealed of it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.abi.oracle import Run, expect
from tests.abi.readings import account, sealed
from tests.abi.script import Gpu, Instance, Script
from tests.abi.stage import WALL_START_MS, Stage
from tests.abi.truth import CellTruth, InstanceTruth, Truth

PID = 4_200_001
END_MS = 30_000


@dataclass(slots=True, kw_only=True)
class Metered:
    """What the agent sealed of the first GPU, once the oracle agrees: seconds of a slice, and its instances."""

    states: dict[str, Any]
    instances: dict[str, dict[str, Any]]
    cell: CellTruth
    truths: dict[str, InstanceTruth]
    calls: dict[str, int]
    cores: list[dict[str, Any]]


Meter = Callable[..., Metered]
"""`meter(script, end_ms)`: what the agent sealed of the first GPU, in one cell."""


def run_both(
    stage: Callable[..., Stage], state_dir: Path, script: Script, end_ms: int, start_ms: int, interval_ms: int
) -> tuple[Truth, Truth, Stage]:
    """What the agent sealed of a script, what the oracle says it should have, and the stage."""
    put = stage(script, duration_ms=end_ms, wall_start_ms=start_ms)
    put.run(["-m", "tests.abi.run_agent", str(state_dir), "--interval", str(interval_ms / 1_000)])
    runs = [Run(start_ms=0, end_ms=end_ms)]
    return account(state_dir), expect(script, runs, wall_start_ms=start_ms, interval_ms=interval_ms), put


def meter_first(stage: Callable[..., Stage], state_dir: Path, script: Script, end_ms: int) -> Metered:
    """What the agent sealed of the first GPU, once the oracle agrees."""
    found, truth, put = run_both(stage, state_dir, script, end_ms, WALL_START_MS, 1_000)
    assert found == truth
    uuid = script.gpus[0].uuid
    (cell,) = found[uuid].values()
    names = {device.uuid: one.profile for one in script.gpus[0].instances for device in one.devices}
    return Metered(
        states={name: 7 * ms / 1_000 for name, ms in (cell.states_ms + cell.uncovered_ms).items()},
        instances={
            names[name]: {state: ms / 1_000 for state, ms in (one.states_slice_ms + one.uncovered_slice_ms).items()}
            for name, one in cell.instances.items()
        },
        cell=cell,
        truths={names[name]: one for name, one in cell.instances.items()},
        calls=put.calls(),
        cores=[gpu for core in sealed(state_dir) for gpu in core["gpus"] if gpu["uuid"] == uuid],
    )


def divided() -> tuple[Script, Gpu]:
    script = Script()
    return script, script.add_gpu().act(0, power_w=200, memory_gib=0).divide()


def working(gpu: Gpu, profile: str, *, pct: float = 60, pid: int = PID, **where: Any) -> Instance:
    """Append an instance with a process and what GPM says of it."""
    one = gpu.add_instance(profile, **where).act(0, memory_gib=3)
    return one.set("graphics", round(pct * 10_000)).run(pid)
