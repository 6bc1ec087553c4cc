# SPDX-License-Identifier: Apache-2.0
"""What only an undivided GPU has (links, counters, suspicion, floors) when it is divided and put together again."""

from __future__ import annotations

import pytest

from tests.abi.script import COUNTERS_OFFERED, FULL, UNKNOWN, Gpu, Script, Wave
from tests.abi.sealed import Meter
from tests.abi.sealed_instances import working

pytestmark = pytest.mark.abi
PID = 4_200_001
GB = 10**9
WHOLE, INSTANCE = "nvmlGpmSampleGet", "nvmlGpmMigSampleGet"


def counting() -> tuple[Script, Gpu]:
    """A GPU with a process, links and counters, whose driver would answer GPM for the board while it is divided."""
    script = Script(mig_parent_gpm=True)
    gpu = script.add_gpu().act(0, utilization_pct=90, power_w=300, memory_gib=40)
    for track, value in {"graphics": FULL, "sm": 800_000, "tensor": 400_000, "dram": 500_000}.items():
        gpu.set(track, value)
    gpu.set("pcie_tx_bytes", GB).set("nvlink_rx_bytes", 9 * GB)
    gpu.counters = COUNTERS_OFFERED
    return script, gpu


def test_a_gpu_divided_and_put_together_again_keeps_its_integrals_exact(meter: Meter) -> None:
    script, gpu = counting()
    gpu.run(PID, 0, 20_200).run(PID + 1, 40_600).divide(0, on=False).divide(20_400).divide(40_500, on=False)
    gpu.act(20_200, memory_gib=0).act(40_600, memory_gib=40)
    one = gpu.add_instance("3g.40gb", 20_500, 40_400).act(0, memory_gib=3).run(PID + 2)
    one.set("graphics", Wave(period_ms=1_000, on_ms=400)).set("sm", 300_000).set("tensor", 200_000).set("dram", 100_000)
    found = meter(script, 60_000)
    # Whole to 20 s; divided from 21 s, by its process, and looked at as such from 22 s; whole again at 41 s.
    slices = {name: 7 * amount for name, amount in found.states.items()}
    assert slices == {"busy": 7 * 20 + 3 * 18 + 7 * 19, "unmeasured": 7 + 3, "free": 4 * 19}
    # At 41 s utilisation and samples are asked anew: the first sample of GPM says nothing yet.
    assert found.active_s == pytest.approx(20 + 18 * 0.4 * 3 / 7 + 1 * 0.9 + 18, abs=2e-9)
    for name, (whole, part) in {"sm": (0.8, 0.3), "tensor": (0.4, 0.2), "dram": (0.5, 0.1)}.items():
        assert found.engines_s[name] == pytest.approx(whole * (20 + 18) + part * 18 * 3 / 7, abs=2e-9)
        assert found.known_s[name] == pytest.approx(20 + 18 + 18 * 3 / 7, abs=1e-3)
    assert found.links_known_s == {"pcie_tx": 20 + 18, "nvlink_rx": 20 + 18}
    assert sum(found.energy_mj.values()) == 59 * 300_000
    assert found.energy_mj["mig"] == 19 * 300_000


def test_a_divided_gpu_has_no_bytes_over_links_and_no_counter_bridges_the_time(meter: Meter) -> None:
    script, gpu = counting()
    gpu.run(PID, 0, 20_200).run(PID + 1, 30_600).divide(0, on=False).divide(20_400).divide(30_500, on=False)
    working(gpu, "7g.80gb", from_ms=20_500, to_ms=30_400, pid=PID + 2).set("pcie_tx_bytes", GB).set("sm", 100_000)
    found = meter(script.rule(INSTANCE, gpu=0, error=UNKNOWN), 50_000)
    whole_s = found.links_known_s["pcie_tx"]
    assert found.links == {"pcie_tx": whole_s * GB, "nvlink_rx": 9 * whole_s * GB}
    # Neither the time while it was divided, nor that in which it was made so, nor the first tick afterwards.
    assert whole_s < 20 + 19
    assert found.known_s["sm"] == whole_s


def test_power_that_instances_shared_is_no_floor_that_a_hang_could_be_told_by(meter: Meter) -> None:
    script = Script()
    gpu = script.add_gpu().act(0, utilization_pct=0, power_w=200, memory_gib=0).divide().divide(80_500, on=False)
    idle = gpu.add_instance("7g.80gb", 0, 80_400).act(0, memory_gib=3).run(PID, 0, 80_400)
    idle.set("graphics", 0).set("sm", 0)
    gpu.act(80_600, utilization_pct=100, memory_gib=40).set("graphics", FULL).set("sm", 0).run(PID + 1, 80_600)
    found = meter(script, 120_000)
    assert found.states["held"] == 80
    assert found.hang_s == 0
    assert found.states["busy"] > 30


def test_a_floor_that_was_learnt_before_a_gpu_was_divided_holds_after_it(meter: Meter) -> None:
    script = Script()
    gpu = script.add_gpu().act(0, utilization_pct=0, power_w=115, memory_gib=20).run(PID, 0, 70_200)
    gpu.set("graphics", 0).set("sm", 0)
    gpu.divide(0, on=False).divide(70_400).divide(90_500, on=False).act(70_200, memory_gib=0)
    one = gpu.add_instance("3g.40gb", 70_500, 90_400).act(0, memory_gib=4).run(PID + 1, 70_500, 90_400)
    one.set("graphics", FULL).set("sm", 0)
    gpu.act(90_600, utilization_pct=100, memory_gib=40).set("graphics", FULL, 90_600).run(PID + 2, 90_600)
    found = meter(script, 120_000)
    # Not while it is divided: at 115 W, an instance works.
    assert found.states["busy"] > 0
    assert found.hang_s == pytest.approx(120 - 93, abs=2)
