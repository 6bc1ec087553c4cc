# SPDX-License-Identifier: Apache-2.0
"""A fleet of our own agents read from an engine by their counters; real engines are asked in tests/integration."""

from __future__ import annotations

from random import Random

import pytest

from gpuledger.cells import HOUR_MS, SLICES_PER_GPU
from gpuledger.states import State
from tests.fakes.counting import Life, scraped, some_life
from tests.fakes.engines import FakeEngine
from tests.fakes.fleet_readings import SIX, FleetReading
from tests.fakes.gauges import uuid_of

S0, S1 = SIX.start_ms, SIX.end_ms


def engine_of(*lives: Life, gaps: tuple[tuple[int, int], ...] = (), is_simulated: bool = False) -> FakeEngine:
    engine = FakeEngine(now_ms=S1 + HOUR_MS)
    for name, series in scraped(lives, 30_000, 7_000, gaps=gaps, is_simulated=is_simulated).items():
        for labels, samples in series:
            engine.add(name, labels, samples)
    return engine


def life(number: int, node: str, *sessions: tuple[int, int]) -> Life:
    return some_life(
        Random(number), uuid_of(number), node, "fra", S0, S1 + HOUR_MS, sessions=sessions or ((S0, S1 + HOUR_MS),)
    )


def truth(one: Life) -> dict[State, float]:
    found: dict[State, float] = {}
    for from_ms, to_ms in one.sessions:
        for state, ms in one.spent(max(from_ms, S0), min(to_ms, S1)).items():
            found[state] = found.get(state, 0) + ms / HOUR_MS
    return found


async def test_a_fleet_is_read_as_its_agents_counted_it(reading: FleetReading) -> None:
    lives = [life(0, "a"), life(1, "a"), life(8, "b")]
    found = await reading.of(engine_of(*lives), profile="gpuledger")
    hours = reading.hours("node", "gpu")
    assert list(hours) == [("a", uuid_of(0)), ("a", uuid_of(1)), ("b", uuid_of(8))]
    for one in lives:
        spent, expected = hours[one.node, one.uuid], truth(one) | {State.DARK: 7 / 3600}
        for state in State:
            assert spent.get(state, 0.0) == pytest.approx(expected.get(state, 0.0), abs=0.01)
    assert (found.intervals_ms, found.extent) == ({30_000}, (S0, S1))
    assert reading.files.findings(S0, S1) == []


async def test_a_restart_loses_only_what_was_since_the_last_scrape(reading: FleetReading) -> None:
    killed_ms = S0 + 2 * HOUR_MS + 1_234_500
    one = life(0, "a", (S0, killed_ms), (killed_ms + 20_000, S1 + HOUR_MS))
    await reading.of(engine_of(one), profile="gpuledger")
    (spent,) = reading.hours().values()
    assert spent[State.DARK] * 3600 == pytest.approx(7 + 20, abs=31)
    assert sum(spent.values()) == pytest.approx(6, abs=0.001)


async def test_an_agent_that_is_off_makes_its_gpus_dark_and_a_failed_scrape_does_not(reading: FleetReading) -> None:
    one = life(0, "a", (S0, S0 + HOUR_MS), (S0 + 3 * HOUR_MS, S1 + HOUR_MS))
    gap = (S0 + 4 * HOUR_MS + 600_000, S0 + 4 * HOUR_MS + 3_000_000)
    await reading.of(engine_of(one, gaps=(gap,)), profile="gpuledger")
    (spent,) = reading.hours().values()
    assert spent[State.DARK] == pytest.approx(2.0, abs=0.02)


async def test_a_gpu_that_two_agents_count_is_not_added_up(reading: FleetReading) -> None:
    await reading.of(engine_of(life(0, "a"), life(0, "b")), profile="gpuledger")
    (row,) = reading.files.sum_by(["gpu"], S0, S1)
    assert row.account.installed_slice_ms == 6 * HOUR_MS * SLICES_PER_GPU
    assert [finding.kind for finding in reading.files.findings(S0, S1)] == ["several_nodes"]


async def test_simulated_agents_are_marked(reading: FleetReading) -> None:
    await reading.of(engine_of(life(0, "a"), is_simulated=True), profile="gpuledger")
    assert [group.simulated for group in reading.files.sum_by([], S0, S1)] == [True]


async def test_hours_are_asked_for_at_their_edges_and_samples_only_where_that_does_not_do(
    reading: FleetReading,
) -> None:
    engine = engine_of(life(0, "a", (S0, S0 + 2 * HOUR_MS + 5_000), (S0 + 2 * HOUR_MS + 60_000, S1 + HOUR_MS)))
    await reading.of(engine, profile="gpuledger")
    steps = {values["step"] for path, values in engine.asked if path == "query_range"}
    assert steps == {"3600"}
    states = [
        values["time"]
        for path, values in engine.asked
        if path == "query" and values["query"].startswith("gpuledger_gpu_state_seconds_total{")
    ]
    # The first hour begins before the first sample; the third has the restart in it.
    assert sorted(float(time) * 1000 for time in states) == [S0 + HOUR_MS, S0 + 3 * HOUR_MS]
