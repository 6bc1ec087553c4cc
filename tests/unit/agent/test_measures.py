# SPDX-License-Identifier: Apache-2.0
"""What raw values mean: percentages, rates of links, and what cannot be."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuledger_agent.measures import LINK_MIB_PER_S_MAX, MIB, NO_MEANS, Checked, GpmMeans, Measures

SECOND_NS = 10**9


@given(st.floats(0, 2**23, allow_subnormal=False), st.integers(1, 30 * SECOND_NS))
def test_bytes_are_the_exact_product_of_rate_and_window_to_the_nearest(rate: float, window_ns: int) -> None:
    found = Checked().link_bytes(rate, window_ns, 2**23)
    exact = Fraction(rate) * MIB * window_ns / SECOND_NS
    assert found is not None
    assert abs(found - exact) <= Fraction(1, 2)


@pytest.mark.parametrize("rate", [math.inf, -math.inf, -0.001, math.nextafter(2.0**18, math.inf), 1e308])
def test_a_rate_that_cannot_be_is_rejected_and_counted(rate: float) -> None:
    checked = Checked()
    assert checked.link_bytes(rate, SECOND_NS, 2**18) is None
    assert checked.rejected == 1


def test_the_fastest_link_there_may_be_is_no_rejection() -> None:
    checked = Checked()
    assert checked.link_bytes(2.0**18, SECOND_NS, 2**18) == 2**38
    assert checked.rejected == 0


@pytest.mark.parametrize(
    ("percent", "ppm", "rejected"),
    [
        (0.0, 0, 0),
        (100.0, 1_000_000, 0),
        (0.00005, 0, 0),
        (99.99996, 1_000_000, 0),
        (100.0001, None, 1),
        (-0.1, None, 1),
        (math.inf, None, 1),
        (None, None, 0),
    ],
)
def test_percentages_are_rounded_to_parts_per_million_and_kept_in_range(
    percent: float | None, ppm: int | None, rejected: int
) -> None:
    checked = Checked()
    assert (checked.ppm(percent), checked.rejected) == (ppm, rejected)


def test_what_means_do_not_say_is_absent_and_zero_is_said() -> None:
    assert Checked().measure(NO_MEANS, SECOND_NS) == Measures()
    said = Checked().measure(GpmMeans(graphics=0.0, pcie_tx=0.0, nvlink_rx=1.0), 2 * SECOND_NS)
    assert said == Measures(graphics_ppm=0, link_bytes={"pcie_tx": 0, "nvlink_rx": 2 * MIB})


def test_every_link_has_its_own_mean_and_its_own_limit() -> None:
    rates = {link: float(index + 1) for index, link in enumerate(LINK_MIB_PER_S_MAX)}
    said = Checked().measure(GpmMeans(**rates), SECOND_NS)  # type: ignore[arg-type]
    assert said.link_bytes == {link: round(rate) * MIB for link, rate in rates.items()}
    over = {link: float(most + 1) for link, most in LINK_MIB_PER_S_MAX.items()}
    checked = Checked()
    assert checked.measure(GpmMeans(**over), SECOND_NS).link_bytes == {}  # type: ignore[arg-type]
    assert checked.rejected == 4
