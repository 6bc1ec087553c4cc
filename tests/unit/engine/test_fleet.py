# SPDX-License-Identifier: Apache-2.0
"""A fleet read from an engine over HTTP into a ledger: what is asked, what comes of it, and what must not."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import pytest
from aiohttp import web

from gpuledger.cells import CELL_MS, DAY_MS, HOUR_MS, SLICES_PER_GPU
from gpuledger.errors import EngineError
from gpuledger.states import State
from tests.fakes.engines import FakeEngine
from tests.fakes.fleet_readings import SIX, FleetReading, about
from tests.fakes.gauges import MONDAY_MS, a_morning, add_dcgm, busy, dcgm_labels, free, uuid_of


async def test_a_fleet_becomes_rows_of_the_ledger(reading: FleetReading) -> None:
    found = await reading.of(a_morning())
    assert found.extent == (MONDAY_MS, MONDAY_MS + 6 * HOUR_MS)
    assert found.intervals_ms == {30_000}
    hours = reading.hours("node", "gpu")
    # A sample 7 s after the edge; the last one before a change stands for one interval.
    assert hours["n1", uuid_of(0)] == {State.BUSY: 3.0, State.HELD: 3.0}
    assert hours["n1", uuid_of(1)] == {State.FREE: 6.0}
    assert hours["n2", uuid_of(8)] == {
        State.BUSY: pytest.approx(2.0, abs=0.01),
        State.DARK: pytest.approx(4.0, abs=0.01),
    }
    (holding,) = reading.files.holdings(SIX.start_ms, SIX.end_ms)[:1]
    assert (holding.workload_name, holding.user_name, holding.node) == ("a-0", "team-a", "n1")
    assert holding.held_slice_ms == 3 * HOUR_MS * SLICES_PER_GPU
    assert found.notes.changes == 1
    assert reading.files.findings(SIX.start_ms, SIX.end_ms) == []


async def test_every_installed_cell_has_its_whole_time(reading: FleetReading) -> None:
    await reading.of(a_morning())
    for row in reading.files.rows(SIX.start_ms, SIX.end_ms):
        assert row.account.installed_slice_ms == HOUR_MS * SLICES_PER_GPU


@pytest.mark.parametrize("points", [1000, 300, 7])
async def test_the_size_of_queries_changes_no_figure(tmp_path: Path, points: int) -> None:
    whole, parts = FleetReading(tmp_path / "a"), FleetReading(tmp_path / "b", query_points=points, concurrent_queries=1)
    await whole.of(a_morning())
    await parts.of(a_morning())
    assert parts.files.digest(SIX.start_ms, SIX.end_ms) == whole.files.digest(SIX.start_ms, SIX.end_ms)


async def test_a_query_that_loads_too_much_is_asked_in_halves_down_to_an_hour_of_one_gpu(tmp_path: Path) -> None:
    whole, halved = FleetReading(tmp_path / "a"), FleetReading(tmp_path / "b", concurrent_queries=1)
    await whole.of(a_morning())
    engine = a_morning()

    def refuse(path: str, values: Mapping[str, str]) -> web.Response | None:
        if path != "query_range" or values["step"] != "30":
            return None
        is_small = float(values["end"]) - float(values["start"]) <= 3600 and "|" not in values["query"]
        return None if is_small else web.Response(status=422, text="too many samples")

    engine.refuse = refuse
    await halved.of(engine)
    assert halved.files.digest(SIX.start_ms, SIX.end_ms) == whole.files.digest(SIX.start_ms, SIX.end_ms)


async def test_what_is_too_much_even_in_the_smallest_piece_is_an_error_and_no_ledger_with_a_hole(
    reading: FleetReading,
) -> None:
    engine = a_morning()
    engine.refuse = lambda path, values: web.Response(status=422, text="no") if path == "query_range" else None
    with pytest.raises(EngineError, match=r"\(HTTP 422\): no; that was for one GPU and one hour"):
        await reading.of(engine)
    assert reading.files.extent() is None


async def test_one_failed_query_among_many_fails_the_whole(reading: FleetReading) -> None:
    engine = a_morning()
    reading.settings = {"query_points": 100}
    left = [9]

    def refuse(path: str, values: Mapping[str, str]) -> web.Response | None:
        left[0] -= 1
        return web.Response(status=500, text="disk") if left[0] == 0 else None

    engine.refuse = refuse
    with pytest.raises(EngineError, match=r"\(HTTP 500\): disk"):
        await reading.of(engine)
    assert reading.files.extent() is None


# ---------------------------------------------------------------------------------------------- what is not there


async def test_an_engine_without_the_exporter_says_what_is_missing(reading: FleetReading) -> None:
    with pytest.raises(EngineError) as caught:
        await reading.of(FakeEngine())
    assert "has no samples of DCGM_FI_PROF_GR_ENGINE_ACTIVE or DCGM_FI_DEV_GPU_UTIL or DCGM_FI_DEV_FB_USED" in str(
        caught.value
    )
    assert "from 2026-11-09 00:00 UTC to 2026-11-16 06:00 UTC: is it scraped from dcgm-exporter" in str(caught.value)


async def test_series_that_have_no_sample_in_the_period_make_no_report_of_darkness(reading: FleetReading) -> None:
    engine = FakeEngine()
    busy(engine, dcgm_labels(0, "n1"), MONDAY_MS - DAY_MS, MONDAY_MS - HOUR_MS)
    with pytest.raises(EngineError, match=r"has no samples of .* from 2026-11-16 00:00 UTC"):
        await reading.of(engine)


async def test_labels_that_match_nothing_are_named(reading: FleetReading) -> None:
    reading.settings = {"match": (("cluster", "eu"),)}
    with pytest.raises(EngineError, match="cluster='eu' from"):
        await reading.of(a_morning())


async def test_labels_choose_a_part_of_the_fleet(reading: FleetReading) -> None:
    reading.settings = {"match": (("hostname", "n2"),)}
    await reading.of(a_morning())
    assert list(reading.hours("node")) == [("n2",)]


async def test_more_gpus_than_the_limit_are_an_error(reading: FleetReading) -> None:
    reading.settings = {"gpus": 2}
    with pytest.raises(EngineError, match=r"has 3 GPUs, more than limits\.gpus allows \(2\)"):
        await reading.of(a_morning())


async def test_a_job_that_is_scraped_too_rarely_is_an_error_and_not_dark(reading: FleetReading) -> None:
    engine = FakeEngine()
    add_dcgm(engine, dcgm_labels(0, "n1"), SIX.start_ms, SIX.end_ms, active=0.0, memory_mib=4, interval_ms=600_000)
    with pytest.raises(EngineError, match="job 'dcgm' is scraped every 600 s"):
        await reading.of(engine)


# --------------------------------------------------------------------------------------------- who is installed


async def test_a_gpu_is_installed_from_its_first_sample_on_and_never_drops_out(reading: FleetReading) -> None:
    engine = FakeEngine()
    free(engine, dcgm_labels(0, "n1"), MONDAY_MS, MONDAY_MS + 6 * HOUR_MS)
    free(engine, dcgm_labels(1, "n1"), MONDAY_MS + 2 * HOUR_MS, MONDAY_MS + 3 * HOUR_MS)
    await reading.of(engine)
    assert reading.hours("gpu")[uuid_of(1),] == about({State.FREE: 1.0, State.DARK: 3.0})


async def test_a_gpu_that_reported_in_the_week_before_and_no_more_is_dark_all_the_time(reading: FleetReading) -> None:
    engine = a_morning()
    busy(engine, dcgm_labels(2, "n1"), MONDAY_MS - 3 * DAY_MS, MONDAY_MS - 3 * DAY_MS + HOUR_MS)
    found = await reading.of(engine)
    assert reading.hours("gpu")[uuid_of(2),] == {State.DARK: 6.0}
    assert found.extent == (MONDAY_MS, MONDAY_MS + 6 * HOUR_MS)


async def test_a_gpu_that_reports_only_while_it_has_a_pod_is_dark_when_it_has_none(reading: FleetReading) -> None:
    """A relabelling that drops series without a pod makes idle GPUs vanish; here they are dark, never idle or gone."""
    engine = FakeEngine()
    busy(engine, dcgm_labels(0, "n1", pod="a"), MONDAY_MS, MONDAY_MS + HOUR_MS)
    busy(engine, dcgm_labels(0, "n1", pod="b"), MONDAY_MS + 4 * HOUR_MS, MONDAY_MS + 6 * HOUR_MS)
    await reading.of(engine)
    assert reading.hours() == {(): {State.BUSY: pytest.approx(3.0, abs=0.02), State.DARK: pytest.approx(3.0, abs=0.02)}}


async def test_cells_after_the_horizon_are_not_accounted_for_and_the_week_is_not_whole(reading: FleetReading) -> None:
    found = await reading.of(a_morning(), horizon_ms=MONDAY_MS + HOUR_MS + CELL_MS + 1)
    assert found.extent == (MONDAY_MS, MONDAY_MS + HOUR_MS + CELL_MS)
    assert sum(sum(hours.values()) for hours in reading.hours("gpu").values()) == pytest.approx(
        3 * (1 + 1 / 12), abs=0.01
    )


# ---------------------------------------------------------------------------------------------------- pace


async def test_every_pace_is_found_and_a_sample_stands_two_intervals(reading: FleetReading) -> None:
    engine = FakeEngine()
    labels = dcgm_labels(0, "n1")
    add_dcgm(engine, labels, SIX.start_ms, SIX.end_ms, active=0.0, memory_mib=4, interval_ms=15_000)
    # One scrape is missing: bridged. Three are: the time after two intervals is dark.
    for series in engine.series:
        hour = [pair for pair in series.samples if pair[0] < MONDAY_MS + HOUR_MS]
        missing = {hour[20][0], hour[60][0], hour[61][0], hour[62][0]}
        series.samples = [pair for pair in series.samples if pair[0] not in missing]
    found = await reading.of(engine)
    assert found.intervals_ms == {15_000}
    (hours,) = reading.hours().values()
    assert hours[State.DARK] == pytest.approx(2 * 15 / 3600, abs=0.0001)


async def test_a_pace_that_is_given_is_taken(reading: FleetReading) -> None:
    reading.settings = {"scrape_interval_seconds": 60.0}
    found = await reading.of(a_morning())
    assert found.intervals_ms == {60_000}


async def test_jobs_of_different_pace_each_have_their_own(reading: FleetReading) -> None:
    engine = FakeEngine()
    add_dcgm(
        engine, dcgm_labels(0, "n1", job="slow"), SIX.start_ms, SIX.end_ms, active=0.0, memory_mib=4, interval_ms=60_000
    )
    add_dcgm(
        engine, dcgm_labels(1, "n1", job="fast"), SIX.start_ms, SIX.end_ms, active=0.0, memory_mib=4, interval_ms=10_000
    )
    found = await reading.of(engine)
    assert found.intervals_ms == {10_000, 60_000}
    assert reading.hours() == {(): {State.FREE: 12.0}}


# ---------------------------------------------------------------------------------------------------- nvitop


async def test_another_profile_reads_another_exporter_and_names_owners_of_processes(reading: FleetReading) -> None:
    engine = FakeEngine()
    labels = {"hostname": "10.0.0.1", "index": "0", "devicename": "NVIDIA H100", "uuid": uuid_of(0), "job": "nvitop"}
    times = range(SIX.start_ms + 7_000, SIX.end_ms, 30_000)
    engine.add("gpu_utilization_Percentage", labels, [(at, 0.0) for at in times])
    engine.add("gpu_memory_used_MiB", labels, [(at, 9000.0) for at in times])
    for pid, name in (("1", "alice"), ("2", "alice"), ("3", "bob")):
        process = labels | {"pid": pid, "username": name}
        engine.add("process_gpu_memory_MiB", process, [(at, 3000.0) for at in times])
    await reading.of(engine, profile="nvitop")
    assert reading.hours("node") == {("10.0.0.1",): {State.HELD: 6.0}}
    holdings = reading.files.holdings(SIX.start_ms, SIX.end_ms)
    named = sorted((one.user_name or "", one.workload_name) for one in holdings)
    assert named == [("alice", "processes"), ("bob", "processes")]
    assert [one.held_slice_ms for one in holdings] == [3 * HOUR_MS * SLICES_PER_GPU] * 2


async def test_every_query_is_bounded_in_points_and_span(reading: FleetReading) -> None:
    engine = a_morning()
    await reading.of(engine)
    ranges = [values for path, values in engine.asked if path == "query_range"]
    assert ranges
    for values in ranges:
        assert (float(values["end"]) - float(values["start"])) / float(values["step"]) < 11_000
        assert re.search(r'UUID=~?"', values["query"])
