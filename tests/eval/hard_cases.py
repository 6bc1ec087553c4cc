# SPDX-License-Identifier: Apache-2.0
"""Hard cases: workloads whose telemetry looks like that of their opposite, as processes and signals over two hours.

Made up, after what was seen of real ones (docs/classification.md). Each is looked at every so many seconds, as an agent
would: processes at that pace, power and memory as means of that interval, summed by the agent's own features.
"""

from __future__ import annotations

import math
import shlex
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

from gpuledger.cells import CELL_MS, CELL_SLICE_MS, HOUR_MS
from gpuledger.hints import Hints, merge
from gpuledger.process_matching import ProcessFact, RuleTable, match, world_size
from gpuledger.states import State
from gpuledger_agent.features import Features, Place
from gpuledger_agent.snapshot import GpuSnapshot, Holder
from gpuledger_agent.tally import Part
from gpuledger_collector.classify.signs import CellSign, HourSigns

GPUS = 2
LIMIT_W = 700
MEMORY_BYTES = 80 << 30
START_MS = 1_793_577_600_000
SECONDS = 2 * 3600
INTERVALS_S = (1, 15, 60)
SOMEBODY = (Holder(workload="w", user=None, memory_bytes=None),)


@dataclass(frozen=True, slots=True)
class Signal:
    """One GPU in one second: power in W, activity, share of its memory; SM, tensor and DRAM activity where known."""

    power_w: float
    activity: float
    memory: float = 0.8
    engines: tuple[float, float, float] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HardCase:
    """What runs (command lines of processes that hold the GPUs), what the GPUs do, and what it is."""

    name: str
    kind: str
    commands: tuple[str, ...]
    signal: Callable[[int, int], Signal]
    """Of GPU and second."""
    listens: bool = False


def _reinforcement(gpu: int, second: int) -> Signal:
    phase = second % 240
    is_rollout = phase < 160
    return Signal(170 if is_rollout else 210, 0.5, 0.9 if is_rollout else 0.45, (0.3, 0.05, 0.3))


def _checkpoints(gpu: int, second: int) -> Signal:
    return Signal(140 + 60 * (second % 20 < 4), 0.8, 0.7, (0.15, 0.04, 0.1))


def _serving_together(gpu: int, second: int) -> Signal:
    is_up = second % 6 < 3
    return Signal(430 if is_up else 330, 0.97 if is_up else 0.9, 0.92, (0.6, 0.25, 0.7))


def _batch(gpu: int, second: int) -> Signal:
    return Signal(640 + 10 * math.sin(second / 7), 0.99, 0.92, (0.8, 0.4, 0.8))


def _rendering(gpu: int, second: int) -> Signal:
    return Signal(380 + 30 * math.sin(second / 90 + gpu), 0.94, 0.3, (0.9, 0.0, 0.3))


def _offload(gpu: int, second: int) -> Signal:
    is_up = second % 30 < 6
    return Signal(420 if is_up else 120, 0.6 if is_up else 0.08, 0.95, (0.3, 0.1, 0.3) if is_up else (0.02, 0.0, 0.05))


def _training(gpu: int, second: int) -> Signal:
    is_up = second % 12 < 10
    return Signal(620 if is_up else 350, 0.98 if is_up else 0.7, 0.9, (0.8, 0.5, 0.6))


def _kept_warm(gpu: int, second: int) -> Signal:
    return Signal(250, 0.6, 0.1, (0.6, 0.0, 0.1))


TRAINER = "torchrun --nproc-per-node 8 train.py"
SERVER = "vllm serve llama-70b --tensor-parallel-size 2"

HARD_CASES = (
    HardCase(
        name="RL with rollouts",
        kind="training",
        commands=("python3 -m verl.trainer.main_ppo trainer.n_gpus_per_node=8", "ray::WorkerDict", "VLLM::EngineCore"),
        signal=_reinforcement,
    ),
    HardCase(
        name="a checkpoint every step", kind="training", commands=(TRAINER, "python3 train.py"), signal=_checkpoints
    ),
    HardCase(
        name="tensor-parallel serving", kind="inference", commands=(SERVER,), signal=_serving_together, listens=True
    ),
    HardCase(name="batch inference", kind="inference", commands=("vllm run-batch -i in -o out",), signal=_batch),
    HardCase(name="Blender", kind="other", commands=("/usr/bin/blender -b scene.blend -a",), signal=_rendering),
    HardCase(name="training beside a server", kind="training", commands=(TRAINER,), signal=_training),
    HardCase(name="a server beside training", kind="inference", commands=(SERVER,), signal=_batch, listens=True),
    HardCase(
        name="training that offloads",
        kind="training",
        commands=("deepspeed --num_gpus 2 finetune.py --deepspeed zero3_offload.json",),
        signal=_offload,
    ),
    HardCase(name="keep-alive", kind="synthetic", commands=("python3 -m keep_gpu",), signal=_kept_warm),
)
"""As they call themselves."""

RENAMED = tuple(
    HardCase(
        name=f"{case.name}, renamed", kind=case.kind, commands=("./a.out",), signal=case.signal, listens=case.listens
    )
    for case in HARD_CASES
)
"""The same behind a program that no rule knows: nothing may be asserted that is wrong."""


def hints_of(case: HardCase, table: RuleTable) -> Hints:
    """What a look at the case's processes tells; everything runs all the time."""
    processes = [
        ProcessFact(pid=100 + number, parent=1, argv=tuple(shlex.split(line)), holds_gpu=True)
        for number, line in enumerate(case.commands)
    ]
    return Hints(
        rules=match(processes, table),
        listens=case.listens,
        world_size=world_size(processes, table),
        table=table.version,
    )


def signs(case: HardCase, table: RuleTable, interval_s: int) -> list[HourSigns]:
    """The case's signs where its node was looked at every so many seconds."""
    told = hints_of(case, table)
    looked: Hints | None = None
    for _ in range(0, CELL_MS // 1000, interval_s):
        looked = merge(looked, told)
    features = _features(case.signal, interval_s)
    found = []
    for index in range(0, SECONDS * 1000, HOUR_MS):
        hour_ms = START_MS + index
        cells = [
            CellSign(hour_ms + offset, "node-1", looked, GPUS * CELL_SLICE_MS, 0, GPUS)
            for offset in range(0, HOUR_MS, CELL_MS)
        ]
        found.append(
            HourSigns(
                hour_ms=hour_ms,
                node="node-1",
                site="site",
                cluster="cluster",
                workload="w",
                user=None,
                source="slurm_job",
                cells=tuple(cells),
                features=features,
            )
        )
    return found


@cache
def _features(signal: Callable[[int, int], Signal], interval_s: int) -> dict[str, int]:
    """What an hour of the signal adds up to; every hour is alike."""
    watch, sums = Features(), Counter[str]()
    for second in range(0, HOUR_MS // 1000, interval_s):
        parts: dict[Place, tuple[Part, int | None]] = {}
        for gpu in range(GPUS):
            parts[f"GPU-{gpu}", None] = _tick(
                [signal(gpu, second + offset) for offset in range(interval_s)], interval_s
            )
        for _, found in watch.tick(parts, interval_s * 1000).values():
            sums.update(found)
    return dict(sums)


def _tick(seconds: Sequence[Signal], interval_s: int) -> tuple[Part, int | None]:
    def ppm(value: Callable[[Signal], float]) -> int:
        return round(sum(map(value, seconds)) / interval_s * 1_000_000)

    activity_ppm = ppm(lambda signal: signal.activity)
    has_engines = all(signal.engines is not None for signal in seconds)
    engines = [ppm(lambda signal, index=index: (signal.engines or (0, 0, 0))[index]) for index in range(3)]  # type: ignore[misc]
    seen = GpuSnapshot(
        activity_ppm=activity_ppm,
        sm_active_ppm=engines[0] if has_engines else None,
        tensor_active_ppm=engines[1] if has_engines else None,
        dram_active_ppm=engines[2] if has_engines else None,
        holders=SOMEBODY,
        power_limit_mw=LIMIT_W * 1000,
        memory_used_bytes=round(seconds[-1].memory * MEMORY_BYTES),
        memory_total_bytes=MEMORY_BYTES,
    )
    part = Part(slices=7, seen=seen, result=State.BUSY, activity_ppm=activity_ppm, is_single=True)
    return part, round(sum(signal.power_w for signal in seconds) * 1000)
