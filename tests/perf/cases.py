# SPDX-License-Identifier: Apache-2.0
"""What the GPUs of the accuracy benchmark do, and the exact truth of it. Pure.

A case is one GPU. Its truth is the time its engines were on, an integral of the script in integers: no sampling.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

from tests.abi.answers import MS_NS, Track
from tests.abi.script import FULL, Gpu, Script, Wave

LOST_FROM_MS, LOST_TO_MS = 200_000, 350_000
"""The minutes that are lost, in script time: an agent is stopped or killed, or a GPU falls off the bus."""
SEED = 20_261_124
BURSTS = 60
DECAY_STEP_MS = 10_000
DECAY_PERIOD_MS = 2_000
SPIN_PERIOD_MS, SPIN_ON_MS = 4_100, 820


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A GPU's life; `play` writes it into the script of a GPU, for so many milliseconds."""

    name: str
    play: Callable[[Gpu, int], None]


def square(period_ms: int, duty_pct: int) -> Case:
    """Engines on for `duty_pct` of every period, from a moment that no sampler knows."""

    def play(gpu: Gpu, length_ms: int) -> None:
        phase_ms = random.Random(SEED + period_ms + duty_pct).randrange(period_ms)
        gpu.set("utilization", Wave(period_ms=period_ms, on_ms=period_ms * duty_pct // 100, phase_ms=phase_ms))

    return Case(name=f"square wave, {period_ms / 1_000:g} s, {duty_pct} % on", play=play)


def _bursts(gpu: Gpu, length_ms: int) -> None:
    """So many times 50 ms to 3 s of work, at moments by chance; a burst that meets the next one is cut short."""
    chance = random.Random(SEED)
    starts_ms = sorted(chance.sample(range(1_000, length_ms, 100), BURSTS))
    gpu.set("utilization", 0)
    for start_ms, next_ms in zip(starts_ms, [*starts_ms[1:], length_ms + 10_000], strict=True):
        end_ms = min(start_ms + chance.randrange(50, 3_000), next_ms - 1)
        gpu.set("utilization", FULL, start_ms).set("utilization", 0, end_ms)


def _decay(gpu: Gpu, length_ms: int) -> None:
    """A load that fades from 95 % to nothing over the whole time, in steps."""
    steps = max(1, length_ms // DECAY_STEP_MS)
    for step in range(steps + 1):
        on_ms = DECAY_PERIOD_MS * 95 * (steps - step) // (100 * steps)
        gpu.set("utilization", Wave(period_ms=DECAY_PERIOD_MS, on_ms=on_ms, phase_ms=731), step * DECAY_STEP_MS)


def _spin(gpu: Gpu, length_ms: int) -> None:
    """A process that waits in a busy loop: utilisation says 100 %, and the engines work a fifth of the time."""
    gpu.set("utilization", FULL)
    gpu.set("graphics", Wave(period_ms=SPIN_PERIOD_MS, on_ms=SPIN_ON_MS, phase_ms=1_357))


def _on(gpu: Gpu, length_ms: int) -> None:
    gpu.set("utilization", FULL)


def _held(gpu: Gpu, length_ms: int) -> None:
    gpu.set("utilization", 0)


def _pause(gpu: Gpu, length_ms: int) -> None:
    gpu.set("utilization", FULL).set("utilization", 0, LOST_FROM_MS).set("utilization", FULL, LOST_TO_MS)


SPIN = Case(name="spin-wait, engines on 20 %", play=_spin)
ON = Case(name="always on", play=_on)
HELD = Case(name="held, never on", play=_held)
PAUSE = Case(name="on, but for two and a half minutes", play=_pause)
WAVE = square(2_000, 25)
CASES = (
    square(300, 5),
    square(300, 50),
    square(300, 95),
    square(1_000, 50),
    WAVE,
    square(5_000, 95),
    square(7_000, 5),
    square(10_000, 50),
    square(15_000, 50),
    square(30_000, 50),
    square(30_000, 5),
    Case(name=f"{BURSTS} bursts, 0.05 to 3 s", play=_bursts),
    Case(name="load that decays, 95 % to 0", play=_decay),
    SPIN,
    ON,
    HELD,
    PAUSE,
)
"""15 s is how often Prometheus scrapes, 10 and 30 s how often peers sample."""
UNSEEN = (ON, HELD, WAVE, PAUSE)
"""Those that are looked at where minutes are lost."""


def script_of(length_ms: int, pids: list[int]) -> Script:
    """One GPU for each case, each held by one of the processes."""
    script = Script(gpm_step_ms=100)
    for case, pid in zip(CASES, pids, strict=True):
        gpu = script.add_gpu().act(0, power_w=350, memory_gib=40).run(pid)
        case.play(gpu, length_ms)
        _engines(gpu)
    return script


def lost_script(length_ms: int, pids: list[int]) -> Script:
    """Two GPUs that fall off the bus for minutes and do nothing meanwhile; one refuses its handle as well."""
    script = Script(gpm_step_ms=100)
    for number, pid in enumerate(pids):
        gpu = script.add_gpu().act(0, power_w=350, memory_gib=40).run(pid)
        WAVE.play(gpu, length_ms)
        wave = gpu.tracks["utilization"][0][1]
        gpu.set("utilization", 0, LOST_FROM_MS).set("utilization", wave, LOST_TO_MS)
        gpu.lose(LOST_FROM_MS, LOST_TO_MS, handle_fails=number % 2 == 1)
        _engines(gpu)
    return script


def _engines(gpu: Gpu) -> None:
    """Streaming multiprocessors are on as the engines are: what works is no hang."""
    gpu.tracks["sm"] = list(gpu.tracks.get("graphics", gpu.tracks["utilization"]))


def active_s(gpu: Gpu, from_ms: Fraction, to_ms: Fraction) -> Fraction:
    """Return how long the GPU's engines were on during [from_ms, to_ms) of script time, exactly (to the ns)."""
    track = Track(gpu.tracks.get("graphics", gpu.tracks["utilization"]))
    area = track.integral(round(to_ms * MS_NS)) - track.integral(round(from_ms * MS_NS))
    return Fraction(area, FULL * 1_000 * MS_NS)


def idle_s(gpu: Gpu, from_ms: Fraction, to_ms: Fraction) -> Fraction:
    """Return how long its engines were not on."""
    return (to_ms - from_ms) / 1_000 - active_s(gpu, from_ms, to_ms)
