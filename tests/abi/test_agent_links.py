# SPDX-License-Identifier: Apache-2.0
"""Bytes over links, and counters that bridge what no mean covers, on the real agent; the figures are by hand."""

from __future__ import annotations

import pytest

from tests.abi.script import (
    COUNTERS_ABSENT,
    COUNTERS_BETWEEN_SAMPLES,
    COUNTERS_OFFERED,
    COUNTERS_REFUSED,
    FULL,
    GPU_IS_LOST,
    NOT_SUPPORTED,
    UNKNOWN,
    Failure,
    Gpu,
    Script,
    Signal,
    Wave,
)
from tests.abi.sealed import Meter

pytestmark = pytest.mark.abi
PID = 4_200_001
TAKE, METRICS, MEMORY = "nvmlGpmSampleGet", "nvmlGpmMetricsGet", "nvmlDeviceGetMemoryInfo_v2"
LISTS = "nvmlDeviceGetComputeRunningProcesses_v3"
GB = 10**9


def working(**tracks: int | Signal) -> tuple[Script, Gpu]:
    """A GPU with a process at 300 W, and what GPM sees of it."""
    script = Script()
    gpu = script.add_gpu().act(0, utilization_pct=90, power_w=300, memory_gib=40).run(PID)
    for track, signal in ({"graphics": FULL} | tracks).items():
        gpu.set(track, signal)
    return script, gpu


# ---------------------------------------------------------------------------------------------------------- links


def test_bytes_over_links_are_counted_by_direction_and_to_the_byte(meter: Meter) -> None:
    script, _ = working(
        pcie_tx_bytes=123_456_789,
        pcie_rx_bytes=Wave(period_ms=700, on_ms=300, high=50 * GB),
        nvlink_tx_bytes=450 * GB,
        nvlink_rx_bytes=0,
    )
    found = meter(script)
    assert found.links["pcie_tx"] == 29 * 123_456_789
    assert found.links["nvlink_tx"] == 29 * 450 * GB
    assert found.links["pcie_rx"] == pytest.approx(29 * 50 * GB * 3 / 7, rel=0.02)
    # What carried nothing is known, and what is known has its time.
    assert found.links.get("nvlink_rx", 0) == 0
    assert found.links_known_s == dict.fromkeys(("pcie_tx", "pcie_rx", "nvlink_tx", "nvlink_rx"), 29)


def test_a_board_without_nvlink_has_no_bytes_and_no_time_of_it(meter: Meter) -> None:
    script, _ = working(pcie_tx_bytes=GB, pcie_rx_bytes=2 * GB)
    found = meter(script)
    assert set(found.links_known_s) == {"pcie_tx", "pcie_rx"}


def test_nvlink_that_is_invalid_argument_on_this_board_is_no_failure(meter: Meter) -> None:
    script, _ = working(pcie_tx_bytes=GB, nvlink_tx_bytes=Failure(2))
    found = meter(script)
    assert set(found.links_known_s) == {"pcie_tx"}


def test_bytes_of_a_tick_over_a_cells_edge_are_divided_by_time_and_none_is_lost(meter: Meter) -> None:
    script, _ = working(pcie_tx_bytes=1_000_003)
    found = meter(script, 20_000, interval_ms=3_000)
    assert found.links == {"pcie_tx": 18 * 1_000_003}


def test_pcie_throughput_that_blocks_for_20_ms_is_never_asked(meter: Meter) -> None:
    script, _ = working(pcie_tx_bytes=GB)
    assert "nvmlDeviceGetPcieThroughput" not in meter(script).calls


@pytest.mark.parametrize(("link", "most"), [("pcie_tx", 2**38), ("nvlink_rx", 2**43)])
def test_more_than_any_link_carries_is_rejected_and_counted(meter: Meter, link: str, most: int) -> None:
    script, gpu = working()
    gpu.set(f"{link}_bytes", most + 10**6).set(f"{link}_bytes", most, 10_000)
    found = meter(script)
    assert (found.links, found.rejected) == ({link: 19 * most}, 10)


def test_bytes_of_a_window_that_is_nan_are_unknown(meter: Meter) -> None:
    script, gpu = working()
    gpu.set("pcie_tx_bytes", GB).set("pcie_tx_bytes", Failure(), 10_200).set("pcie_tx_bytes", GB, 10_300)
    found = meter(script)
    assert (found.links, found.links_known_s) == ({"pcie_tx": 28 * GB}, {"pcie_tx": 28})


# ------------------------------------------------------------------------------------------------------- counters


def counting(kind: int = COUNTERS_OFFERED) -> tuple[Script, Gpu]:
    script, gpu = working(sm=800_000, tensor=400_000, dram=500_000, pcie_tx_bytes=GB, pcie_rx_bytes=2 * GB)
    gpu.counters = kind
    return script, gpu


def test_counters_bridge_a_sample_that_was_missed(meter: Meter) -> None:
    script, _ = counting()
    found = meter(script.rule(TAKE, from_ms=15_500, to_ms=16_500, error=UNKNOWN))
    # Means lose the tick that failed and the next, which only seeds; counters lose nothing.
    assert found.known_s == {"sm": 29, "tensor": 29, "dram": 27}
    assert found.engines_s["sm"] == pytest.approx(29 * 0.8, abs=1e-6)
    assert found.engines_s["tensor"] == pytest.approx(29 * 0.4, abs=1e-6)
    assert found.links == {"pcie_tx": 29 * GB, "pcie_rx": 29 * 2 * GB}
    assert found.links_known_s == {"pcie_tx": 29, "pcie_rx": 29}


@pytest.mark.parametrize("kind", [COUNTERS_ABSENT, COUNTERS_REFUSED])
def test_a_driver_without_counters_is_asked_once_and_means_do(meter: Meter, kind: int) -> None:
    script, _ = counting(kind)
    found = meter(script.rule(TAKE, from_ms=15_500, to_ms=16_500, error=UNKNOWN))
    assert found.known_s == {"sm": 27, "tensor": 27, "dram": 27}
    assert found.links == {"pcie_tx": 27 * GB, "pcie_rx": 27 * 2 * GB}
    assert found.calls[METRICS] == 27 + 1
    assert "gpm" not in found.log


def test_counters_bridge_a_gap_that_was_covered(meter: Meter) -> None:
    script, _ = counting()
    found = meter(script.rule(MEMORY, from_ms=15_000, to_ms=15_001, latency_ms=6_300))
    assert found.states == {"busy": 15 + 7, "unmeasured": 7}
    assert (found.known_s["sm"], found.known_s["dram"]) == (29, 22)
    assert found.links == {"pcie_tx": 29 * GB, "pcie_rx": 29 * 2 * GB}


def test_counters_say_nothing_of_time_that_is_not_covered(meter: Meter) -> None:
    script, gpu = counting()
    gpu.lose(15_500, 18_500)
    found = meter(script)
    assert found.states == {"busy": 26, "down": 3}
    # The tick after the loss only seeds.
    assert (found.known_s["sm"], found.links_known_s["pcie_tx"]) == (25, 25)


def test_counters_that_fall_begin_anew_and_what_was_between_is_unknown(meter: Meter) -> None:
    script, gpu = counting()
    gpu.counters_reset_ms = 16_200
    found = meter(script.rule(TAKE, from_ms=15_500, to_ms=16_500, error=UNKNOWN))
    assert found.known_s["sm"] == 27
    assert found.links == {"pcie_tx": 27 * GB, "pcie_rx": 27 * 2 * GB}


def test_counters_that_mean_something_else_are_found_out_and_never_used(meter: Meter) -> None:
    script, gpu = counting(COUNTERS_BETWEEN_SAMPLES)
    gpu.tracks["sm"] = [(0, Wave(period_ms=1_300, on_ms=700))]
    found = meter(script.rule(TAKE, from_ms=15_500, to_ms=16_500, error=UNKNOWN))
    assert found.known_s["sm"] == 27
    assert found.links == {"pcie_tx": 27 * GB, "pcie_rx": 27 * 2 * GB}
    assert found.log.count("event=gpm_counter_disagrees") == 4


def test_counters_have_to_prove_themselves_before_they_bridge(meter: Meter) -> None:
    script, _ = counting()
    found = meter(script.rule(TAKE, from_ms=3_500, to_ms=4_500, error=UNKNOWN))
    assert found.known_s["sm"] == 27


def test_a_counter_that_says_the_gpu_is_lost_makes_it_down(meter: Meter) -> None:
    script, gpu = counting()
    gpu.tracks["pcie_rx_bytes"] = []
    gpu.set("pcie_rx_bytes", GB).set("pcie_rx_bytes", Failure(GPU_IS_LOST), 10_500).set("pcie_rx_bytes", GB, 11_500)
    assert meter(script).states == {"busy": 28, "down": 1}


def test_counters_bridge_no_more_than_30_intervals(meter: Meter) -> None:
    script, _ = counting()
    found = meter(script.rule(TAKE, from_ms=15_500, to_ms=45_500, error=UNKNOWN), 60_000)
    # Thirty ticks fail and one only seeds: that is 31 intervals.
    assert found.known_s["sm"] == 59 - 31


def test_counters_bridge_30_intervals(meter: Meter) -> None:
    script, _ = counting()
    found = meter(script.rule(TAKE, from_ms=15_500, to_ms=44_500, error=UNKNOWN), 60_000)
    assert (found.known_s["sm"], found.known_s["dram"]) == (59, 29)


def test_what_counters_bridge_of_a_sealed_cell_is_lost_and_the_rest_is_not(meter: Meter) -> None:
    script, _ = counting()
    found = meter(script.rule(TAKE, from_ms=295_500, to_ms=304_500, error=UNKNOWN), 320_000)
    # Ticks 296 to 304 fail: what was from 295 s to the edge at 300 s is in a reading already.
    assert found.known_s["sm"] == 319 - 5
    assert found.links["pcie_tx"] == (319 - 5) * GB


def test_counters_go_on_while_nobody_knows_who_works(meter: Meter) -> None:
    script, _ = counting()
    script.rule(LISTS, error=NOT_SUPPORTED).rule(TAKE, from_ms=15_500, to_ms=16_500, error=UNKNOWN)
    found = meter(script)
    assert (found.states, found.known_s["sm"]) == ({"unmeasured": 29}, 29)
