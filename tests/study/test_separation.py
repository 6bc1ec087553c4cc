# SPDX-License-Identifier: Apache-2.0
"""The study of features on recordings: its arithmetic by hand, and a few real recordings."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest

from tests.abi.recordings import Recording, Sample, folder, load
from tests.study.separation import (
    FAST_STEP_S,
    QUANTITIES,
    Window,
    above,
    document,
    irregularity,
    manifest,
    memory_swings,
    seconds,
    synchrony,
    transferred,
    unevenness,
    values_of,
    windows,
)

ROW = {"n_gpus": "8", "scope": "gpu", "tdp_w": "700", "interval_s": "0.5"}


def sample(at_ms: int, power_w: float | None, use_pct: float | None = None, gib: int | None = None) -> Sample:
    return Sample(
        at_ms,
        None if power_w is None else round(power_w * 1000),
        None if use_pct is None else round(use_pct * 10_000),
        None if gib is None else gib << 30,
    )


def recording(*samples: Sample) -> Recording:
    return Recording(
        name="made-up",
        source="here",
        hardware="H100",
        label="training",
        has_utilization=True,
        series={0: list(samples)},
    )


def test_a_second_is_the_mean_of_the_samples_that_hold_in_it() -> None:
    found = list(seconds([sample(0, 100, 0, 1), sample(1_500, 300, 40, 2), sample(3_000, None), sample(4_000, 1)], 4))
    assert found == [
        (100_000, 0, 1 << 30),
        (200_000, 200_000, 2 << 30),
        (300_000, 400_000, 2 << 30),
        (None, None, None),
    ]


def test_windows_are_cells_of_at_least_a_minute_and_a_nodes_limit_is_of_all_its_gpus() -> None:
    samples = [sample(0, 2_800, 90), sample(359_000, 2_800, 90), sample(361_000, 2_800, 90)]
    (gpu, tail) = windows(recording(*samples), ROW)
    assert (gpu.sums["sole_ms"], gpu.sums["power_80_ms"], tail.sums["sole_ms"]) == (300_000, 300_000, 61_000)
    (node, _) = windows(recording(*samples), {**ROW, "scope": "node"})
    assert (node.sums["power_80_ms"], node.sums["power_40_ms"]) == (0, 300_000)
    assert gpu.is_fast
    slow = {**ROW, "interval_s": str(FAST_STEP_S + 0.1)}
    assert not next(windows(recording(*samples), slow)).is_fast


def test_quotients_are_of_sums() -> None:
    sums = Counter(power_60_ms=1000, power_80_ms=1000, energy_mj=800_000, power_square_w2ms=(300**2 + 500**2) * 1000)
    assert unevenness(sums) == pytest.approx(0.25)
    assert irregularity(Counter(power_swings=3)) is None
    regular = Counter(power_swings=4, power_swing_sum_ms=40_000, power_swing_square_ms2=4 * 10_000**2)
    assert irregularity(regular) == 0
    assert synchrony(Counter(peers_ms=1, power_jumps=8, power_jumps_together=6)) == 0.75
    assert synchrony(Counter(power_jumps=8)) is None
    assert memory_swings(Counter(memory_swings=1, sole_ms=1_800_000)) == 2


def test_above_counts_pairs_and_ties_half() -> None:
    assert above([1, 2], [0, 1]) == 0.875
    assert above([0], [0]) == 0.5


def test_a_quantity_that_tells_apart_transfers_and_one_that_tells_sources_apart_does_not() -> None:
    good = {"a": [50.0, 60.0], "b": [70.0]}, {"c": [1.0], "d": [2.0, 3.0]}
    assert transferred(*good) == (1, 1)
    bad = {"a": [1.0], "b": [9.0]}, {"c": [2.0], "d": [8.0]}
    found = transferred(*bad)
    assert found is not None
    assert found[1] <= 0.5
    assert transferred({"a": [1.0]}, {"c": [2.0], "d": [8.0]}) is None


def test_the_document_has_a_line_for_each_quantity_and_needs_no_value_for_it() -> None:
    window = Window(source="here", label="training", is_fast=False, sums=Counter(sole_ms=300_000))
    lines = document([window], 1).splitlines()
    table = [line for line in lines if line.startswith("| ")]
    assert len(table) == 1 + len(QUANTITIES)
    assert all(line.count("|") == table[0].count("|") for line in table)


@pytest.fixture(scope="module")
def real() -> dict[str, list[Window]]:
    """Three recordings: post-training by reinforcement, a served model of four GPUs, and a training beside a filler."""
    place = folder()
    if place is None:
        pytest.skip("there are no recordings: set GPULEDGER_TRACES")
    described = manifest(place)
    rl = next(name for name, row in described.items() if row["source"] == "wb-ikcest-rl-h100")
    names = (rl, "eve_llama_70b_tp4_L40S_bf16_11165398", "smi_nanogpt_corun")
    return {
        described[name]["source"]: [window for found in load(place, name) for window in windows(found, described[name])]
        for name in names
    }


def test_reinforcement_learning_shows_in_memory_and_nothing_else_here_does(real: dict[str, list[Window]]) -> None:
    swings = {source: sum(window.sums["memory_swings"] for window in found) for source, found in real.items()}
    assert swings.pop("wb-ikcest-rl-h100") > 0
    assert set(swings.values()) == {0}


def test_tensor_parallel_serving_jumps_together_as_training_does(real: dict[str, list[Window]]) -> None:
    found = real["eve-vllm-l40s"]
    (values,) = values_of(found, synchrony, True, "inference").values()
    assert min(values) > 0.9


def test_real_windows_keep_to_their_time(real: dict[str, list[Window]]) -> None:
    for found in real.values():
        assert found
        for window in found:
            assert window.sums["sole_ms"] <= 300_000
            assert window.sums["energy_mj"] > 0
    assert all(one is not other for one, other in pairwise(real))
