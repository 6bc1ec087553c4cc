# SPDX-License-Identifier: Apache-2.0
"""The traps of GPM and of the buffered samples, one by one, on the real agent; the expected figures are by hand."""

import pytest

from tests.abi.script import (
    FULL,
    GPU_IS_LOST,
    NO_PERMISSION,
    NOT_FOUND,
    NOT_SUPPORTED,
    UNINITIALIZED,
    UNKNOWN,
    Failure,
    Gpu,
    Script,
    Wave,
)
from tests.abi.sealed import Meter

pytestmark = pytest.mark.abi
PID = 4_200_001
SUPPORT, TAKE, METRICS = "nvmlGpmQueryDeviceSupport", "nvmlGpmSampleGet", "nvmlGpmMetricsGet"
ALLOCATE, FREE, SAMPLES = "nvmlGpmSampleAlloc", "nvmlGpmSampleFree", "nvmlDeviceGetSamples"
UTILIZATION, FIELDS = "nvmlDeviceGetUtilizationRates", "nvmlDeviceGetFieldValues"


def working(*, utilization_pct: float = 40, **tracks: int | Failure | Wave) -> tuple[Script, Gpu]:
    """A GPU with a process: what utilisation says, and what GPM does."""
    script = Script()
    gpu = script.add_gpu().act(0, utilization_pct=utilization_pct, power_w=300, memory_gib=40).run(PID)
    for track, signal in tracks.items():
        gpu.set(track, signal)
    return script, gpu


# ------------------------------------------------------------------------------------------------------------ GPM


def test_gpm_is_the_mean_over_our_own_interval_and_not_the_last_sixth_of_it(meter: Meter) -> None:
    script, gpu = working()
    script.utilization_period_ms = 167
    gpu.tracks["utilization"] = [(0, Wave(period_ms=1_000, on_ms=500))]
    found = meter(script)
    assert (found.states, found.active_s, found.sources) == ({"busy": 29}, 14.5, {"gpm"})
    # Where the first tick only seeds, the next sources are asked.
    assert found.calls[UTILIZATION] == 1


def test_polled_utilisation_alone_would_have_called_the_same_work_idle(meter: Meter) -> None:
    script, gpu = working()
    script.utilization_period_ms = 167
    gpu.tracks["utilization"] = [(0, Wave(period_ms=1_000, on_ms=500))]
    found = meter(script.polled())
    assert (found.states, found.active_s, found.sources) == ({"held": 29}, 0, {"polled"})


def test_engines_are_integrated_each_over_the_time_in_which_it_was_known(meter: Meter) -> None:
    script, gpu = working(graphics=FULL, sm=800_000, tensor=0)
    gpu.set("dram", 250_000).set("dram", Failure(), 10_000).set("dram", 500_000, 20_000)
    found = meter(script)
    assert found.known_s == {"sm": 29, "tensor": 29, "dram": 9 + 9}
    assert found.engines_s == {"sm": 23.2, "dram": 9 * 0.25 + 9 * 0.5}


def test_gpm_nan_is_no_value_and_the_next_source_is_asked(meter: Meter) -> None:
    script, gpu = working(utilization_pct=40)
    gpu.set("graphics", 900_000).set("graphics", Failure(), 10_200).set("graphics", 900_000, 10_300)
    found = meter(script)
    # The window from 10 s to 11 s is NaN, and the samples were not seeded: polled.
    assert (found.states, found.sources) == ({"busy": 29}, {"polled"})
    assert found.active_s == pytest.approx(28 * 0.9 + 0.4)


def test_gpm_window_under_100_ms_gives_no_value(meter: Meter) -> None:
    script, _ = working(utilization_pct=40, graphics=900_000)
    # The sample of the tick at 10 s is taken at 10.95 s, the next at 11 s.
    found = meter(script.rule(FIELDS, from_ms=10_000, to_ms=10_001, latency_ms=950))
    assert (found.states, found.sources) == ({"busy": 29}, {"polled"})
    assert found.active_s == pytest.approx(28 * 0.9 + 0.4)
    assert found.calls[TAKE] == 30
    # One more asks once whether there are counters.
    assert found.calls[METRICS] == 28 + 1


def test_gpm_window_over_30_intervals_gives_no_value(meter: Meter) -> None:
    script, _ = working(graphics=900_000)
    script.rule("nvmlDeviceGetMemoryInfo_v2", from_ms=10_000, to_ms=10_001, latency_ms=40_300)
    found = meter(script, 60_000)
    assert found.states == {"busy": 10 + 8}
    assert found.active_s == pytest.approx(18 * 0.9)


@pytest.mark.parametrize("code", [NOT_SUPPORTED, NO_PERMISSION, UNKNOWN])
def test_gpm_metric_return_code_is_looked_at_though_the_call_succeeded(meter: Meter, code: int) -> None:
    script, _ = working(utilization_pct=40, graphics=Failure(code), sm=700_000)
    found = meter(script)
    assert (found.states, found.sources) == ({"busy": 29}, {"samples"})
    assert found.active_s == pytest.approx(29 * 0.4)
    assert found.engines_s == {"sm": pytest.approx(29 * 0.7)}


def test_gpm_metric_that_says_the_gpu_is_lost_makes_it_down(meter: Meter) -> None:
    script, gpu = working()
    gpu.set("graphics", FULL).set("graphics", Failure(GPU_IS_LOST), 10_500).set("graphics", FULL, 11_500)
    found = meter(script)
    assert found.states == {"busy": 28, "down": 1}


def test_gpm_not_supported_by_the_gpu_is_asked_once_and_samples_are_used(meter: Meter) -> None:
    script, gpu = working(utilization_pct=40)
    gpu.gpm = False
    found = meter(script)
    assert (found.states, found.active_s, found.sources) == ({"busy": 29}, pytest.approx(29 * 0.4), {"samples"})
    assert found.calls[SUPPORT] == 1
    assert TAKE not in found.calls


@pytest.mark.parametrize("function", [SUPPORT, TAKE, METRICS, ALLOCATE])
@pytest.mark.parametrize("code", [NO_PERMISSION, UNKNOWN])
def test_gpm_without_permission_costs_gpm_only(meter: Meter, function: str, code: int) -> None:
    script, _ = working(utilization_pct=40, graphics=900_000)
    found = meter(script.rule(function, error=code))
    assert (found.states, found.active_s, found.sources) == ({"busy": 29}, pytest.approx(29 * 0.4), {"samples"})


def test_gpm_that_fails_for_a_while_is_used_again(meter: Meter) -> None:
    script, _ = working(utilization_pct=40, graphics=900_000)
    found = meter(script.rule(TAKE, from_ms=10_000, to_ms=12_500, error=UNKNOWN))
    # Ticks 10, 11 and 12 fail, 13 only seeds.
    assert (found.states, found.sources) == ({"busy": 29}, {"polled"})
    assert found.active_s == pytest.approx(25 * 0.9 + 4 * 0.4)


def test_gpm_values_that_cannot_be_are_rejected_and_counted(meter: Meter) -> None:
    script, gpu = working(utilization_pct=40, sm=3_000_000)
    gpu.set("graphics", 2_500_000).set("graphics", 900_000, 20_000)
    found = meter(script)
    assert (found.states, found.sources) == ({"busy": 29}, {"samples"})
    assert found.active_s == pytest.approx(20 * 0.4 + 9 * 0.9)
    assert found.engines_s == {}
    assert found.rejected == 20 + 29


# ------------------------------------------------------------------------------------------------ ratio or percent


def test_gpm_that_gives_ratios_for_percentages_never_makes_a_busy_gpu_idle(meter: Meter) -> None:
    script, _ = working(utilization_pct=90, graphics=9_000, sm=8_000)
    found = meter(script)
    # Five ticks of doubt; then the samples, which have to be seeded: polled for one tick.
    assert (found.states, found.sources) == ({"unmeasured": 5, "busy": 24}, {"polled"})
    assert found.active_s == pytest.approx(24 * 0.9)
    assert found.engines_s == {}


def test_utilisation_without_any_engine_activity_is_not_known_to_be_either(meter: Meter) -> None:
    script, _ = working(utilization_pct=100, graphics=0)
    assert meter(script).states == {"unmeasured": 29}


def test_gpm_that_once_said_more_than_a_ratio_can_is_believed(meter: Meter) -> None:
    script, gpu = working(utilization_pct=70)
    gpu.set("graphics", 800_000).set("graphics", 9_000, 10_000)
    found = meter(script)
    assert (found.states, found.sources) == ({"busy": 10, "held": 19}, {"gpm"})


@pytest.mark.parametrize(("sm", "state"), [(0, "unmeasured"), (9_999, "unmeasured"), (10_000, "busy")])
def test_a_hang_is_suspected_at_the_floor_only_where_gpm_sees_no_sm_active(meter: Meter, sm: int, state: str) -> None:
    script, gpu = working(utilization_pct=0)
    gpu.act(70_000, utilization_pct=100).set("sm", 0).set("sm", sm, 70_000)
    gpu.tracks["power_mw"] = []
    gpu.act(0, power_w=115)
    found = meter(script, 81_000)
    assert found.states == {"held": 70, state: 10}
    # What a hung GPU says of itself is in no integral.
    assert found.known_s == {"sm": 80 if state == "busy" else 70}


# ---------------------------------------------------------------------------------------------- buffered samples


def test_samples_are_the_mean_since_the_last_one_seen(meter: Meter) -> None:
    script, gpu = working()
    gpu.gpm = False
    gpu.tracks["utilization"] = [(0, Wave(period_ms=1_000, on_ms=500))]
    script.utilization_period_ms = 167
    found = meter(script)
    assert (found.states, found.sources) == ({"busy": 29}, {"samples"})
    assert found.active_s == pytest.approx(29 * 0.5)


def test_samples_not_found_is_not_zero(meter: Meter) -> None:
    script, gpu = working(utilization_pct=40)
    gpu.gpm = False
    found = meter(script.rule(SAMPLES, error=NOT_FOUND))
    assert (found.states, found.active_s, found.sources) == ({"busy": 29}, pytest.approx(29 * 0.4), {"polled"})


def test_samples_not_found_without_any_other_source_is_unknown(meter: Meter) -> None:
    script, gpu = working(utilization_pct=40)
    gpu.gpm = False
    found = meter(script.rule(SAMPLES, error=NOT_FOUND).rule(UTILIZATION, error=NOT_SUPPORTED))
    assert (found.states, found.active_s, found.sources) == ({"unmeasured": 29}, 0, set())


def test_samples_not_supported_are_asked_for_once(meter: Meter) -> None:
    script, _ = working(utilization_pct=40)
    found = meter(script.polled())
    assert (found.sources, found.calls[SAMPLES]) == ({"polled"}, 1)


def test_samples_that_cannot_be_are_rejected_and_counted(meter: Meter) -> None:
    script, gpu = working(utilization_pct=250)
    gpu.gpm = False
    found = meter(script)
    assert (found.states, found.active_s) == ({"unmeasured": 29}, 0)
    assert found.rejected > 29 * 6


# --------------------------------------------------------------------------------------------------- coming and going


def test_gpm_samples_are_two_a_gpu_and_freed_when_the_driver_is_let_go_of(meter: Meter) -> None:
    script, _ = working()
    script.add_gpu().act(0, utilization_pct=0, power_w=70, memory_gib=0).lose(10_500, 13_500)
    script.add_gpu().act(0, utilization_pct=0).lose(15_500)
    found = meter(script)
    assert (found.calls[ALLOCATE], found.calls[FREE]) == (6, 6)


def test_a_gpu_that_was_lost_begins_with_a_new_pair_of_samples(meter: Meter) -> None:
    script, gpu = working(utilization_pct=40)
    gpu.set("graphics", 900_000).lose(10_500, 12_500)
    found = meter(script)
    assert found.states == {"busy": 27, "down": 2}


def test_a_library_that_was_gone_gives_new_samples(meter: Meter) -> None:
    script, _ = working(graphics=900_000)
    found = meter(script.rule("*", from_ms=10_500, to_ms=12_500, error=UNINITIALIZED))
    # Tried again after 1 and 2 s.
    assert found.states == {"busy": 25, "library": 3, "first_tick": 1}
    assert (found.active_s, found.sources) == (pytest.approx(25 * 0.9), {"gpm"})
    assert found.calls[ALLOCATE] == 4


@pytest.mark.parametrize("interval_ms", [100, 250, 5_000])
def test_gpm_and_samples_keep_to_the_interval_whatever_it_is(meter: Meter, interval_ms: int) -> None:
    script, _ = working(graphics=Wave(period_ms=777, on_ms=300))
    script.add_gpu(gpm=False).act(0, utilization_pct=37, power_w=300, memory_gib=1).run(PID + 1)
    found = meter(script, interval_ms=interval_ms)
    assert found.sources == {"gpm"}
    assert found.active_s == pytest.approx(sum(found.states.values()) * 300 / 777, rel=0.05)
