# SPDX-License-Identifier: Apache-2.0
"""The scripted library through the real pynvml: rates of links, GPM's counters, and the energy counter's steps."""

import pytest

from tests.abi.asking import GPU, Ask, error, one_gpu
from tests.abi.script import (
    COUNTERS_ABSENT,
    COUNTERS_BETWEEN_SAMPLES,
    COUNTERS_OFFERED,
    COUNTERS_REFUSED,
    INVALID_ARGUMENT,
    NOT_SUPPORTED,
    Wave,
)

pytestmark = pytest.mark.abi


def test_rates_of_links_are_mebibytes_a_second_and_what_is_not_there_is_not_supported(ask: Ask) -> None:
    script, gpu = one_gpu()
    gpu.set("pcie_tx_bytes", 1 << 20).set("pcie_rx_bytes", Wave(period_ms=100, on_ms=50, high=8 << 20))
    gpu.set("nvlink_rx_bytes", 450 * 10**9)
    taken = [[0, "gpm_sample", GPU], [1_000, "gpm_sample", GPU]]
    *_, found = ask(script, *taken, [None, "gpm_metrics", 0, 1, [20, 21, 60, 61]])
    assert found == [[0, 1.0], [0, 4.0], [0, 450 * 10**9 / 2**20], [NOT_SUPPORTED, 0.0]]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (COUNTERS_ABSENT, [[NOT_SUPPORTED, 0.0]] * 3),
        # Ten days idle, then 2 s of 25 % at 1.98 GHz; bytes of 2 s.
        (COUNTERS_OFFERED, [[0, (864_000 + 2) * 1.98e9], [0, 2 * 0.25 * 1.98e9], [0, 2e9]]),
        (COUNTERS_BETWEEN_SAMPLES, [[0, 1.98e9], [0, 0.25 * 1.98e9], [0, 1e9]]),
    ],
)
def test_counters_of_gpm_are_since_boot_as_of_the_second_sample(ask: Ask, kind: int, expected: object) -> None:
    script, gpu = one_gpu()
    gpu.set("sm", 250_000).set("pcie_tx_bytes", 10**9)
    gpu.counters = kind
    taken = [[1_000, "gpm_sample", GPU], [2_000, "gpm_sample", GPU]]
    *_, found = ask(script, *taken, [None, "gpm_metrics", 0, 1, [248, 249, 255]])
    assert found == expected


def test_a_driver_that_refuses_unknown_metrics_refuses_the_whole_call(ask: Ask) -> None:
    script, gpu = one_gpu()
    gpu.set("graphics", 0)
    gpu.counters = COUNTERS_REFUSED
    taken = [[0, "gpm_sample", GPU], [1_000, "gpm_sample", GPU]]
    *_, known, unknown = ask(script, *taken, [None, "gpm_metrics", 0, 1, [1]], [None, "gpm_metrics", 0, 1, [1, 248]])
    assert (known, unknown) == ([[0, 0.0]], error(INVALID_ARGUMENT))


def test_an_energy_counter_moves_in_steps_and_at_a_rate_of_its_own_where_the_script_says_so(ask: Ask) -> None:
    script, gpu = one_gpu()
    gpu.act(0, power_w=100)
    gpu.energy_refresh_ms, gpu.energy_rate_ppm = 250, 572_000
    found = ask(script, *([at_ms, "nvmlDeviceGetTotalEnergyConsumption", GPU] for at_ms in (249, 250, 499, 1_000)))
    assert found == [0, 14_300, 14_300, 57_200]
