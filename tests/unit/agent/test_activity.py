# SPDX-License-Identifier: Apache-2.0
"""Sources of activity on a fake driver: what a value must not be mistaken for, and what is given back."""

from __future__ import annotations

import logging
import math
from pathlib import Path

import pytest

from gpuledger.states import State
from gpuledger_agent.snapshot import GpuSnapshot
from tests.fakes.agents import Rig
from tests.fakes.nvml import LOST, NO_PERMISSION, NOT_LOADED, UNKNOWN, gpus


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    """Two GPUs; the first has GPM at 60 %, and 40 % utilisation."""
    rig = Rig(tmp_path, gpus(2))
    rig.gpu.work(40, 4100)
    rig.gpu.gpm = {1: (0, 60.0), 2: (0, 50.0), 3: (0, 25.0), 5: (0, 0.0), 10: (0, 10.0)}
    rig.tick(2)
    return rig


def seen(rig: Rig) -> GpuSnapshot:
    return rig.agent.view.gpus[0].seen


def test_gpm_is_used_where_there_is_gpm_and_all_its_metrics_are_kept(rig: Rig) -> None:
    engines = (seen(rig).sm_active_ppm, seen(rig).sm_occupancy_ppm, seen(rig).tensor_active_ppm)
    assert (seen(rig).activity_ppm, seen(rig).activity_source) == (600_000, "gpm")
    assert (*engines, seen(rig).dram_active_ppm) == (500_000, 250_000, 0, 100_000)


def test_a_metric_that_is_not_written_is_not_what_was_written_before(rig: Rig) -> None:
    rig.gpu.gpm = {1: (UNKNOWN, 0.0)}
    rig.tick()
    assert (seen(rig).activity_ppm, seen(rig).activity_source) == (400_000, "polled")
    assert seen(rig).sm_active_ppm is None
    assert rig.agent.view.sources["gpm"].failures == {"unknown": 1}


@pytest.mark.parametrize("value", [math.inf, -math.inf, -0.1, 100.1, 1e300])
def test_an_impossible_value_of_gpm_is_rejected_and_counted(rig: Rig, value: float) -> None:
    rig.gpu.gpm = {1: (0, value), 2: (0, value)}
    rig.tick()
    assert (seen(rig).activity_ppm, seen(rig).activity_source, seen(rig).sm_active_ppm) == (400_000, "polled", None)
    assert rig.agent.view.gpus[0].total.rejected_values == 2


def test_nan_is_no_value_and_no_rejection(rig: Rig) -> None:
    rig.gpu.gpm = {1: (0, math.nan), 2: (0, 50.0)}
    rig.tick()
    assert (seen(rig).activity_source, seen(rig).sm_active_ppm) == ("polled", 500_000)
    assert rig.agent.view.gpus[0].total.rejected_values == 0


def test_gpm_without_permission_is_counted_and_the_next_source_used(rig: Rig) -> None:
    rig.gpu.fails["nvmlGpmSampleGet"] = NO_PERMISSION
    rig.tick(3)
    assert rig.agent.view.sources["gpm"].failures == {"no_permission": 3}
    assert (seen(rig).activity_source, rig.agent.view.gpus[0].result) == ("polled", State.BUSY)


def test_a_mean_over_more_than_the_last_tick_is_not_used(rig: Rig) -> None:
    rig.gpu.fails["nvmlGpmSampleGet"] = UNKNOWN
    rig.tick()
    rig.gpu.fails.clear()
    rig.tick()
    assert seen(rig).activity_source == "polled"
    rig.tick()
    assert seen(rig).activity_source == "gpm"


def test_two_samples_of_less_than_100_ms_are_not_compared(rig: Rig) -> None:
    before = rig.nvml.calls["nvmlGpmMetricsGet"]
    rig.tick(interval_ms=99)
    assert (seen(rig).activity_source, rig.nvml.calls["nvmlGpmMetricsGet"]) == ("polled", before)
    rig.tick(interval_ms=100)
    assert (seen(rig).activity_source, rig.nvml.calls["nvmlGpmMetricsGet"]) == ("gpm", before + 1)


def test_two_samples_of_more_than_30_intervals_are_not_compared(rig: Rig) -> None:
    before = rig.nvml.calls["nvmlGpmMetricsGet"]
    rig.tick(interval_ms=30_001)
    assert rig.nvml.calls["nvmlGpmMetricsGet"] == before


def test_a_ratio_for_a_percentage_is_found_out_once_and_costs_five_ticks(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rig = Rig(tmp_path, gpus(1))
    rig.gpu.work(90, 4100)
    rig.gpu.gpm = {1: (0, 0.9), 2: (0, 0.0)}
    rig.tick()
    with caplog.at_level(logging.ERROR):
        for _ in range(5):
            rig.tick()
            assert (seen(rig).activity_ppm, seen(rig).sm_active_ppm) == (None, None)
            assert rig.agent.view.gpus[0].result is State.UNMEASURED
        rig.tick(20)
    assert (seen(rig).activity_source, rig.agent.view.gpus[0].result) == ("polled", State.BUSY)
    assert [record.msg for record in caplog.records if record.levelno >= logging.ERROR] == ["gpm_disagrees"]
    assert rig.agent.view.sources["gpm"].failures == {"disagreement": 1}


def test_a_gpu_that_is_idle_by_all_accounts_is_idle(tmp_path: Path) -> None:
    rig = Rig(tmp_path, gpus(1))
    rig.gpu.work(5, 4100)
    rig.gpu.gpm = {1: (0, 0.01)}
    rig.tick(20)
    assert (seen(rig).activity_ppm, seen(rig).activity_source) == (100, "gpm")
    assert rig.agent.view.gpus[0].result is State.HELD


def test_samples_since_the_last_tick_are_averaged_and_none_is_no_value(tmp_path: Path) -> None:
    rig = Rig(tmp_path, gpus(1))
    rig.gpu.work(40, 4100)
    rig.gpu.samples = [(1, 100), (2, 100)]
    rig.tick()
    assert seen(rig).activity_source == "polled"
    rig.gpu.samples += [(3, 10), (4, 11), (5, 11)]
    rig.tick()
    assert (seen(rig).activity_ppm, seen(rig).activity_source) == (106_667, "samples")
    rig.tick()
    assert (seen(rig).activity_ppm, seen(rig).activity_source) == (400_000, "polled")
    rig.gpu.samples += [(6, 20), (7, 101)]
    rig.tick()
    assert seen(rig).activity_source == "polled"
    assert rig.agent.view.gpus[0].total.rejected_values == 1


def test_samples_are_freed_when_a_gpu_departs_and_when_the_driver_is_let_go_of(rig: Rig) -> None:
    rig.nvml.gpus[1].gpm = rig.gpu.gpm
    rig.nvml.fails["nvmlDeviceGetCount"] = NOT_LOADED
    rig.tick(11)
    assert rig.nvml.gpm_samples == []
    rig.nvml.fails.clear()
    rig.tick(70)
    assert len(rig.nvml.gpm_samples) == 4
    del rig.nvml.gpus[1]
    rig.tick(11)
    assert len(rig.nvml.gpm_samples) == 2
    rig.gpu.fails["*"] = LOST
    rig.tick(5)
    rig.gpu.fails.clear()
    rig.tick(5)
    assert (len(rig.nvml.gpm_samples), seen(rig).activity_source) == (2, "gpm")
    rig.agent.close()
    assert rig.nvml.gpm_samples == []


# ------------------------------------------------------------------------------------------ links and counters


def test_links_are_bytes_of_the_window_and_what_fails_is_absent_and_counted(rig: Rig) -> None:
    rig.gpu.gpm = {1: (0, 60.0), 20: (0, 1.0), 21: (0, 0.0), 60: (UNKNOWN, 0.0), 61: (0, math.nan)}
    rig.tick()
    assert seen(rig).link_bytes == {"pcie_tx": 1 << 20, "pcie_rx": 0}
    assert rig.agent.view.sources["gpm"].failures == {"unknown": 1}
    assert rig.agent.view.gpus[0].total.rejected_values == 0


def test_a_driver_without_counters_is_asked_for_them_once(rig: Rig) -> None:
    rig.tick()
    before = rig.nvml.calls["nvmlGpmMetricsGet"]
    rig.tick(10)
    assert rig.nvml.calls["nvmlGpmMetricsGet"] == before + 10
    assert "gpm_counters" not in rig.agent.view.sources


def test_counters_are_believed_once_they_agree_with_the_means_and_said_to_disagree_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rig = Rig(tmp_path, gpus(2))
    for tick in range(9):
        for gpu, active in zip(rig.nvml.gpus, (500, 700), strict=True):
            gpu.gpm = {1: (0, 60.0), 2: (0, 50.0), 248: (0, 1000.0 * tick), 249: (0, 1.0 * active * tick)}
        rig.tick()
    assert [sorted(gpu.seen.counts) for gpu in rig.agent.view.gpus] == [["sm"], []]
    said = [(record.msg, record.uuid, record.counter) for record in caplog.records]  # type: ignore[attr-defined]
    assert said == [("gpm_counter_disagrees", rig.nvml.gpus[1].uuid, "sm")]
    assert rig.agent.view.sources["gpm_counters"].failures == {"disagreement": 1}


# ------------------------------------------------------------------------------------------ held against utilisation


def test_a_gpm_that_sees_next_to_nothing_has_utilisation_asked_every_ten_seconds(rig: Rig) -> None:
    rig.gpu.gpm = {1: (0, 5.0)}
    rig.gpu.percent = 100
    rig.nvml.calls.clear()
    heard = []
    for _ in range(22):
        rig.tick()
        heard.append(seen(rig).high_activity_ms)
    # The second GPU has no GPM and is polled at every tick.
    assert rig.nvml.calls["nvmlDeviceGetUtilizationRates"] == 22 + 2
    assert heard == [None] * 9 + [tick * 1000 for tick in range(13)], "right after work it would tell of that work"


def test_utilisation_that_fails_is_not_known_to_be_high(rig: Rig) -> None:
    rig.gpu.gpm = {1: (0, 5.0)}
    rig.gpu.percent = 100
    rig.tick(19)
    assert seen(rig).high_activity_ms == 9_000
    rig.gpu.fails["nvmlDeviceGetUtilizationRates"] = UNKNOWN
    rig.tick()
    assert seen(rig).high_activity_ms is None


def test_high_activity_and_high_utilisation_are_not_one_run(rig: Rig) -> None:
    rig.gpu.gpm = {1: (0, 99.0)}
    rig.gpu.percent = 100
    rig.tick(30)
    assert seen(rig).high_activity_ms == 29_000
    rig.gpu.gpm = {1: (0, 0.0)}
    rig.tick()
    assert seen(rig).high_activity_ms is None
    rig.tick(9)
    assert seen(rig).high_activity_ms == 0


def test_what_utilisation_said_in_an_earlier_quiet_time_is_not_what_it_says_now(rig: Rig) -> None:
    rig.gpu.gpm = {1: (0, 0.0)}
    rig.gpu.percent = 100
    rig.tick(12)
    assert seen(rig).high_activity_ms is not None
    rig.gpu.gpm = {1: (0, 50.0)}
    rig.tick()
    rig.gpu.gpm = {1: (0, 0.0)}
    rig.tick()
    assert seen(rig).high_activity_ms is None
