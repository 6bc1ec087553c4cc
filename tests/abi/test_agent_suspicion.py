# SPDX-License-Identifier: Apache-2.0
"""Hangs, faults and a GPM that has gone silent on the real agent: never busy, and never overheard."""

from __future__ import annotations

import pytest

from tests.abi.script import FULL, NOT_SUPPORTED, Failure, Gpu, Script
from tests.abi.sealed import Meter
from tests.abi.test_agent_activity import SAMPLES, UTILIZATION

pytestmark = pytest.mark.abi
PID = 4_200_001


def proven(*, process: bool = True) -> tuple[Script, Gpu]:
    """A GPU whose GPM has said what no ratio can in the first ten seconds, at 500 W of 700."""
    script = Script()
    gpu = script.add_gpu().act(0, utilization_pct=100, power_w=500, memory_gib=40)
    gpu.set("graphics", FULL).set("sm", 800_000)
    if process:
        gpu.run(PID)
    return script, gpu


def falls_silent(gpu: Gpu, *, power_w: float, utilization_pct: float = 100, from_ms: int = 10_000) -> None:
    gpu.set("graphics", 0, from_ms).set("sm", 0, from_ms)
    gpu.act(from_ms, power_w=power_w, utilization_pct=utilization_pct)


# ------------------------------------------------------------------------------------------------- a process is there


def test_gpm_0_beside_utilisation_of_100_percent_at_idle_power_is_held_and_reported(meter: Meter) -> None:
    script, gpu = proven()
    falls_silent(gpu, power_w=115)
    found = meter(script, 60_000)
    # The first contradiction is heard at 11 s; only the second, ten seconds later, is one.
    assert found.states == {"busy": 10, "held": 49}
    assert found.hang_s == 59 - 29
    assert found.active_s == 10
    assert found.known_s["sm"] == 59
    assert found.log.count("event=hang_suspected") == 1


def test_utilisation_that_lags_behind_finished_work_is_no_suspicion(meter: Meter) -> None:
    script, gpu = proven()
    falls_silent(gpu, power_w=115)
    gpu.act(11_500, utilization_pct=0)
    found = meter(script, 60_000)
    assert (found.states, found.hang_s) == ({"busy": 10, "held": 49}, 0)


def test_a_low_gpm_asks_utilisation_once_in_ten_seconds_and_not_while_gpm_sees_work(meter: Meter) -> None:
    script, gpu = proven()
    falls_silent(gpu, power_w=115, utilization_pct=0, from_ms=30_000)
    found = meter(script, 61_000)
    # Of 31, 41 and 51 s, and the first tick, which only seeds GPM.
    assert found.calls[UTILIZATION] == 3 + 1


def test_a_silent_gpm_at_working_power_is_not_believed(meter: Meter) -> None:
    script, gpu = proven()
    falls_silent(gpu, power_w=500)
    found = meter(script, 60_000)
    # Held until the contradiction is one, then unknown: neither idle nor busy.
    assert found.states == {"busy": 10, "held": 19, "unmeasured": 30}
    assert (found.hang_s, found.active_s, found.known_s["sm"]) == (0, 10, 29)


def test_some_activity_of_sms_is_no_suspicion(meter: Meter) -> None:
    script, gpu = proven()
    falls_silent(gpu, power_w=115)
    gpu.set("sm", 10_000, 10_001)
    assert meter(script, 60_000).hang_s == 0


def test_a_gpu_that_recovers_is_no_longer_suspected(meter: Meter) -> None:
    script, gpu = proven()
    falls_silent(gpu, power_w=115)
    gpu.set("graphics", FULL, 40_000).set("sm", 800_000, 40_000).act(40_000, power_w=500)
    found = meter(script, 110_000)
    assert (found.states, found.hang_s) == ({"busy": 10 + 69, "held": 30}, 11)
    assert found.log.count("event=hang_suspicion_over") == 1


def test_a_gpm_that_never_proved_itself_beside_100_percent_at_idle_power_is_a_suspicion_too(meter: Meter) -> None:
    script = Script()
    gpu = script.add_gpu().act(0, utilization_pct=100, power_w=72, memory_gib=40).run(PID)
    gpu.set("graphics", 0).set("sm", 0)
    found = meter(script, 60_000)
    assert (found.states, found.hang_s, found.active_s) == ({"unmeasured": 59}, 49, 0)


def test_100_percent_at_a_quarter_of_the_limit_is_busy_where_utilisation_is_the_best_source(meter: Meter) -> None:
    # Reinforcement learning runs at 24 % of the limit: without a learnt floor that is no hang.
    script = Script()
    gpu = script.add_gpu(gpm=False).act(0, utilization_pct=100, power_w=168, memory_gib=40).run(PID)
    assert gpu.power_limit_mw == 700_000
    found = meter(script, 120_000)
    assert (found.states, found.hang_s) == ({"busy": 119}, 0)


# --------------------------------------------------------------------------------------------------- nobody is there


def faulted(*, power_w: float = 145, gpm: bool = False, utilization_pct: float = 100) -> Script:
    """As one H100 was seen: 100 %, 145 W, 1 MiB, and nobody there."""
    script = Script()
    gpu = script.add_gpu(gpm=gpm).act(0, utilization_pct=utilization_pct, power_w=power_w, memory_gib=1 / 1024)
    if gpm:
        gpu.set("graphics", 0).set("sm", 0)
    return script


@pytest.mark.parametrize("is_polled", [False, True])
def test_a_faulted_gpu_of_100_percent_without_a_process_is_reported_after_a_minute(
    meter: Meter, is_polled: bool
) -> None:
    script = faulted()
    found = meter(script.rule(SAMPLES, error=NOT_SUPPORTED) if is_polled else script, 120_000)
    # Heard from the first tick on, or the second, where samples have to be seeded: polled stands in for them.
    assert (found.states, found.hang_s) == ({"unmeasured": 119}, 60)


def test_a_faulted_gpu_of_which_gpm_says_nothing_is_free_and_reported(meter: Meter) -> None:
    found = meter(faulted(gpm=True), 120_000)
    assert (found.states, found.hang_s) == ({"free": 119}, 59)


def test_memory_that_is_scrubbed_for_half_a_minute_is_no_fault(meter: Meter) -> None:
    script = faulted()
    script.gpus[0].act(45_000, utilization_pct=0)
    assert meter(script, 120_000).hang_s == 0


def test_activity_without_a_process_at_working_power_is_unmeasured_and_no_fault(meter: Meter) -> None:
    found = meter(faulted(power_w=400), 120_000)
    assert (found.states, found.hang_s) == ({"unmeasured": 119}, 0)


def test_nothing_is_suspected_without_the_energy_counter(meter: Meter) -> None:
    script = faulted()
    script.gpus[0].tracks["power_mw"] = [(0, Failure())]
    assert meter(script, 120_000).hang_s == 0


def test_nothing_is_suspected_without_a_power_limit_or_a_floor(meter: Meter) -> None:
    script = faulted().rule("nvmlDeviceGetEnforcedPowerLimit", error=NOT_SUPPORTED)
    script.gpus[0].power_limit_mw = 0
    assert meter(script, 100_000).hang_s == 0
