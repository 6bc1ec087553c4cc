# SPDX-License-Identifier: Apache-2.0
"""Features of workloads: what each counts, by hand; and that they add up however time is cut."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuledger.cells import CELL_MS
from gpuledger.states import FEATURES, POWER_BANDS_PERCENT, State, Uncovered
from gpuledger_agent import features
from gpuledger_agent.meter import Meter
from gpuledger_agent.snapshot import GpuSnapshot, Health, Holder
from gpuledger_agent.tally import Part, Span
from tests.fakes.streams import EDGE_MS
from tests.profiles import examples

LIMIT_W = 700
GIB = 1 << 30
ADA = Holder(workload="train", user="ada", memory_bytes=None)
BOB = Holder(workload="serve", user="bob", memory_bytes=None)
KEY = ("train", "ada", None)
PLACE = ("GPU-0", None)


def look(
    state: State | Uncovered = State.BUSY,
    *,
    is_single: bool = True,
    holders: tuple[Holder, ...] = (ADA,),
    **changes: Any,
) -> Part:
    """What one tick meant for one GPU."""
    values: dict[str, Any] = {"activity_ppm": 900_000, "power_limit_mw": LIMIT_W * 1000}
    seen = GpuSnapshot(holders=holders, **values | {"memory_total_bytes": 80 * GIB} | changes)
    return Part(slices=7, result=state, seen=seen, activity_ppm=seen.activity_ppm, is_single=is_single)


def watched(*ticks: dict[str, Any], watts: list[float] | None = None) -> Counter[str]:
    """The features of one GPU over ticks of a second."""
    watch, sums = features.Features(), Counter[str]()
    for index, tick in enumerate(ticks):
        energy_mj = None if watts is None else round(watts[index] * 1000)
        for key, found in watch.tick({PLACE: (look(**tick), energy_mj)}, 1000).values():
            assert key == KEY
            sums.update(found)
    return sums


def powers(*watts: float) -> Counter[str]:
    return watched(*({} for _ in watts), watts=list(watts))


# ---------------------------------------------------------------------------------------------------- what counts


@pytest.mark.parametrize(
    "tick",
    [
        {"holders": (ADA, BOB)},
        {"holders": ()},
        {"state": State.FREE},
        {"state": State.UNMEASURED},
        {"state": State.OPERATOR},
        {"state": State.DOWN},
        {"state": Uncovered.GAP},
        {"is_single": False},
    ],
)
def test_only_a_covered_tick_of_one_workload_alone_says_anything(tick: dict[str, Any]) -> None:
    assert watched(tick) == {}


def test_held_time_tells_as_busy_time_does() -> None:
    assert watched({"state": State.HELD, "activity_ppm": 0})["sole_ms"] == 1000


def test_a_second_look_at_the_same_millisecond_changes_nothing() -> None:
    watch = features.Features()
    assert watch.tick({PLACE: (look(activity_ppm=0, state=State.HELD), None)}, 1000)
    assert watch.tick({PLACE: (look(), None)}, 0) == {}
    assert watch.tick({PLACE: (look(), None)}, 1000)[PLACE][1]["bursts"] == 1


def test_integrals_are_of_the_tick_and_engines_of_those_in_which_all_were_known() -> None:
    engines = {"sm_active_ppm": 800_000, "tensor_active_ppm": 400_000, "dram_active_ppm": 600_000}
    sums = watched(engines, {**engines, "dram_active_ppm": None}, {"activity_ppm": None})
    assert sums["sole_ms"] == 3000
    assert sums["active_ns"] == 2 * 900_000_000
    assert sums["engines_known_ms"] == 1000
    assert (sums["sm_ns"], sums["tensor_ns"], sums["dram_ns"]) == (800_000_000, 400_000_000, 600_000_000)


def test_bytes_are_of_both_directions_and_known_where_pcie_is() -> None:
    pcie = {"pcie_tx": 1, "pcie_rx": 20}
    sums = watched(
        {"link_bytes": {**pcie, "nvlink_tx": 300, "nvlink_rx": 4000}},
        {"link_bytes": pcie},
        {"link_bytes": {"nvlink_tx": 9}},
    )
    assert (sums["links_known_ms"], sums["pcie_bytes"], sums["nvlink_bytes"]) == (2000, 42, 4300)


@pytest.mark.parametrize(
    ("watts", "band"),
    [
        (0, 0),
        (105, 0),
        (106, 15),
        (175, 15),
        (176, 25),
        (280, 25),
        (281, 40),
        (420, 40),
        (421, 60),
        (560, 60),
        (561, 80),
        (900, 80),
    ],
)
def test_power_falls_into_one_band_of_its_limit_upper_closed(watts: int, band: int) -> None:
    sums = powers(watts)
    assert [percent for percent in POWER_BANDS_PERCENT if sums[f"power_{percent}_ms"]] == [band]
    assert (sums["energy_mj"], sums["power_square_w2ms"]) == (watts * 1000, watts * watts * 1000)


def test_power_without_energy_or_limit_is_unknown() -> None:
    assert watched({}, watts=None).keys() == {"sole_ms", "active_ns"}
    assert watched({"power_limit_mw": None}, watts=[300.0]).keys() == {"sole_ms", "active_ns"}


def test_a_jump_is_a_tenth_of_the_limit_from_one_tick_to_the_next() -> None:
    assert powers(300, 370, 439, 370, 300)["power_jumps"] == 2
    assert powers(300, 369.9, 300)["power_jumps"] == 0


def test_what_is_unknown_in_between_is_no_jump() -> None:
    sums = Counter[str]()
    watch = features.Features()
    for energy_mj in (100_000, None, 600_000):
        sums.update(watch.tick({PLACE: (look(), energy_mj)}, 1000)[PLACE][1])
    assert sums["power_jumps"] == 0


def test_swings_are_periods_from_rise_to_rise_with_their_squares() -> None:
    # Rises at 2, 5 and 9 s: two periods, of 3 and 4 s.
    sums = powers(100, 300, 290, 200, 300, 310, 305, 100, 250, 250)
    assert (sums["power_swings"], sums["power_swing_sum_ms"]) == (2, 7000)
    assert sums["power_swing_square_ms2"] == 3000**2 + 4000**2


def test_wavering_by_less_than_a_tenth_of_the_limit_is_no_swing() -> None:
    assert powers(*[300, 369] * 20)["power_swings"] == 0
    assert powers(*[300, 370.1] * 20)["power_swings"] == 19


def test_memory_swings_when_it_falls_by_a_twentieth_of_the_board_after_a_rise() -> None:
    used = [10, 14, 30, 26.1, 30, 25.9, 60, 56, 60]
    sums = watched(*({"memory_used_bytes": round(gib * GIB)} for gib in used))
    # From 30 to 25.9 and from 60 to 56 GiB; the board has 80.
    assert sums["memory_swings"] == 2


def test_memory_that_only_falls_has_not_swung() -> None:
    assert watched(*({"memory_used_bytes": gib * GIB} for gib in (60, 40, 20)))["memory_swings"] == 0


def test_a_burst_is_a_rise_of_activity_above_theta() -> None:
    levels = [50_000, 50_001, 900_000, 10_000, 50_000, 900_000, None, 900_000]
    sums = watched(*({"activity_ppm": ppm} for ppm in levels))
    assert sums["bursts"] == 2


def test_a_spin_is_utilisation_without_sms_and_without_power() -> None:
    spin = {"activity_ppm": 1_000_000, "sm_active_ppm": 7_600}
    assert watched(spin, spin, watts=[130, 174.9])["spin_ms"] == 2000
    assert watched(spin, watts=[175.0])["spin_ms"] == 0
    assert watched({**spin, "sm_active_ppm": 10_000}, watts=[130])["spin_ms"] == 0
    assert watched({**spin, "sm_active_ppm": None}, watts=[130])["spin_ms"] == 0
    assert watched({**spin, "activity_ppm": 700_000}, watts=[130])["spin_ms"] == 0


def test_another_workload_begins_anew() -> None:
    watch, sums = features.Features(), Counter[str]()
    for watts, holder in ((100, ADA), (600, BOB), (600, ADA)):
        sums.update(watch.tick({PLACE: (look(holders=(holder,)), watts * 1000)}, 1000)[PLACE][1])
    assert sums["power_jumps"] == 0


# ------------------------------------------------------------------------------------------------ several GPUs


def together(*moments: list[tuple[int, int]], holders: tuple[Holder, ...] = (ADA, ADA, ADA)) -> list[Counter[str]]:
    """Three GPUs, (W, activity in ppm) of each by moment: the features of each."""
    watch = features.Features()
    sums = [Counter[str]() for _ in holders]
    for moment in moments:
        parts: dict[features.Place, tuple[Part, int | None]] = {
            (str(index), None): (look(holders=(holder,), activity_ppm=ppm), watts * 1000)
            for index, (holder, (watts, ppm)) in enumerate(zip(holders, moment, strict=True))
        }
        for (gpu, _), (_, found) in watch.tick(parts, 1000).items():
            sums[int(gpu)].update(found)
    return sums


def test_gpus_that_jump_the_same_way_jump_together() -> None:
    sums = together([(300, 0)] * 3, [(600, 0), (580, 0), (590, 0)], [(300, 0)] * 3)
    assert [one["power_jumps_together"] for one in sums] == [2, 2, 2]
    assert [one["peers_ms"] for one in sums] == [3000] * 3


def test_a_gpu_that_jumps_alone_or_against_the_others_does_not() -> None:
    alone = together([(300, 0)] * 3, [(600, 0), (300, 0), (300, 0)])
    against = together([(300, 0)] * 3, [(600, 0), (100, 0), (100, 0)])
    assert [one["power_jumps_together"] for one in alone] == [0, 0, 0]
    assert [one["power_jumps"] for one in against] == [1, 1, 1]
    # For each of the two that fall one falls with it and one rises by more.
    assert [one["power_jumps_together"] for one in against] == [0, 0, 0]


def test_the_others_must_move_by_a_twentieth_of_the_limit_on_average() -> None:
    enough = together([(300, 0)] * 3, [(600, 0), (335, 0), (336, 0)])
    short = together([(300, 0)] * 3, [(600, 0), (334, 0), (334, 0)])
    assert [enough[0]["power_jumps_together"], short[0]["power_jumps_together"]] == [1, 0]


def test_gpus_of_other_workloads_are_no_peers() -> None:
    sums = together([(300, 0)] * 3, [(600, 0)] * 3, holders=(ADA, BOB, ADA))
    assert [one["peers_ms"] for one in sums] == [2000, 0, 2000]
    assert [one["power_jumps_together"] for one in sums] == [1, 0, 1]


@pytest.mark.parametrize(
    ("activities", "alike_ms"),
    [
        ((400_000, 405_000, 402_000), 1000),
        ((400_000, 405_001, 402_000), 0),
        ((950_000, 950_000, 950_000), 1000),
        ((950_001, 950_001, 950_001), 0),
        ((50_000, 50_001, 50_001), 0),
        ((50_001, 50_001, 50_001), 1000),
    ],
)
def test_alike_are_gpus_of_the_same_activity_that_are_neither_idle_nor_full(
    activities: tuple[int, int, int], alike_ms: int
) -> None:
    sums = together([(300, ppm) for ppm in activities])
    assert [one["alike_ms"] for one in sums] == [alike_ms] * 3


# ------------------------------------------------------------------------------------------------------------ laws


def play(seed: int, *, offset_ms: int, is_late: bool) -> list[Span]:
    """Three GPUs for some minutes, on a grid that is `offset_ms` before a cell's edge at the start."""
    rng, meter, spans = Random(seed), Meter(1000, {}, {}), []
    edge_ms = EDGE_MS - EDGE_MS % CELL_MS + CELL_MS - offset_ms
    energy_mj = [0, 0, 0]
    for _ in range(rng.randint(2, 60)):
        views = {}
        for gpu in range(3):
            energy_mj[gpu] += rng.choice((70_000, 115_000, 300_000, 690_000))
            views[f"GPU-{gpu}"] = GpuSnapshot(
                activity_ppm=rng.choice((0, 400_000, 400_000, 1_000_000)),
                sm_active_ppm=rng.choice((None, 0, 800_000)),
                tensor_active_ppm=333_333,
                dram_active_ppm=1,
                link_bytes=rng.choice(({}, {"pcie_tx": 7, "pcie_rx": 10**9 + 1, "nvlink_tx": 3})),
                holders=rng.choice(((ADA,), (ADA,), (ADA,), (BOB,), (ADA, BOB), ())),
                health=Health.CLEAN,
                energy_mj=rng.choice((None, *[energy_mj[gpu]] * 5)),
                power_limit_mw=LIMIT_W * 1000,
                memory_used_bytes=rng.choice((None, 0, 40 * GIB)),
                memory_total_bytes=80 * GIB,
            )
        spans += meter.tick(edge_ms, views)
        edge_ms += 1000 + (rng.choice((0, 0, 1, 333)) if is_late else 0)
    last = meter.close()
    return spans if last is None else [*spans, last]


def summed(spans: list[Span]) -> dict[tuple[str, Any], Counter[str]]:
    sums: dict[tuple[str, Any], Counter[str]] = {}
    for span in spans:
        for uuid, tally in span.tallies.items():
            for key, found in tally.workload_features.items():
                sums.setdefault((uuid, key), Counter()).update(found)
    return sums


@examples(4)
@given(st.integers(0, 2**32 - 1), st.integers(1, 59_000), st.booleans())
def test_features_sum_to_the_same_wherever_cells_are_cut(seed: int, offset_ms: int, is_late: bool) -> None:
    whole = summed(play(seed, offset_ms=CELL_MS, is_late=is_late))
    parts = summed(play(seed, offset_ms=offset_ms, is_late=is_late))
    assert whole == parts


@examples(4)
@given(st.integers(0, 2**32 - 1), st.integers(1, 59_000))
def test_features_keep_within_the_time_they_are_of(seed: int, offset_ms: int) -> None:
    for span in play(seed, offset_ms=offset_ms, is_late=True):
        for tally in span.tallies.values():
            times = tally.workload_slice_ms
            for key, found in tally.workload_features.items():
                assert set(found) <= set(FEATURES)
                assert all(type(amount) is int and amount >= 0 for amount in found.values())
                sole_ms = found["sole_ms"]
                assert 7 * sole_ms <= sum(times[key].values())
                for name in ("engines_known_ms", "links_known_ms", "spin_ms", "peers_ms"):
                    assert found.get(name, 0) <= sole_ms
                assert sum(found.get(f"power_{percent}_ms", 0) for percent in POWER_BANDS_PERCENT) <= sole_ms
                assert found.get("alike_ms", 0) <= found.get("peers_ms", 0)
                assert found.get("power_jumps_together", 0) <= found.get("power_jumps", 0)
                for name in ("sm_ns", "tensor_ns", "dram_ns"):
                    assert found.get(name, 0) <= found.get("engines_known_ms", 0) * 1_000_000


def test_a_tick_over_a_cells_edge_divides_its_amounts_by_time_and_gives_its_events_to_the_later_cell() -> None:
    found = {"sole_ms": 1000, "energy_mj": 101} | dict.fromkeys(features.EVENTS, 3)
    early, late = features.cut(found, [(0, 250), (250, 1000)])
    assert early == {"sole_ms": 250, "energy_mj": 25}
    assert late == {"sole_ms": 750, "energy_mj": 76} | dict.fromkeys(features.EVENTS, 3)


def test_every_feature_can_be_found() -> None:
    found = set()
    for seed in range(20):
        for sums in summed(play(seed, offset_ms=30_000, is_late=True)).values():
            found |= set(sums)
    assert set(FEATURES) - found <= {"spin_ms"}
