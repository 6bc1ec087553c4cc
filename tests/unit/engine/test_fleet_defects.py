# SPDX-License-Identifier: Apache-2.0
"""Known defects of exporters and scrapes, from the engine to the ledger."""

from __future__ import annotations

import pytest

from gpuledger.cells import DAY_MS, HOUR_MS
from gpuledger.states import State
from tests.fakes.engines import FakeEngine
from tests.fakes.fleet_readings import SIX, FleetReading, in_hours
from tests.fakes.gauges import MONDAY_MS, a_morning, add_dcgm, busy, dcgm_labels, free, held, uuid_of


async def test_one_gpu_under_two_spellings_host_names_and_exporter_pods_is_one(reading: FleetReading) -> None:
    engine = FakeEngine()
    first = dcgm_labels(0, "dcgm-exporter-aaaaa", instance="10.0.0.1:9400")
    second = dcgm_labels(0, "dcgm-exporter-bbbbb", instance="10.0.0.1:9400", UUID=uuid_of(0).upper())
    busy(engine, first, MONDAY_MS, MONDAY_MS + 3 * HOUR_MS)
    busy(engine, second, MONDAY_MS + 3 * HOUR_MS, MONDAY_MS + 6 * HOUR_MS)
    await reading.of(engine)
    assert reading.hours("node", "gpu") == {("10.0.0.1", uuid_of(0)): {State.BUSY: 6.0}}


async def test_two_replicas_of_prometheus_count_once(reading: FleetReading) -> None:
    engine = FakeEngine()
    for replica, offset_ms in (("a", 7_000), ("b", 19_000)):
        labels = dcgm_labels(0, "n1", prometheus_replica=replica)
        add_dcgm(
            engine, labels, SIX.start_ms, SIX.end_ms, active=0.9, utilisation=90, memory_mib=70_000, offset_ms=offset_ms
        )
    found = await reading.of(engine)
    assert reading.hours() == {(): {State.BUSY: 6.0}}
    assert found.notes.points == 6 * 120


async def test_two_jobs_about_one_gpu_are_not_added_up_and_the_fuller_one_counts(reading: FleetReading) -> None:
    engine = FakeEngine()
    busy(engine, dcgm_labels(0, "n1", job="old"), MONDAY_MS, MONDAY_MS + 2 * HOUR_MS + 100_000)
    held(engine, dcgm_labels(0, "n1", job="new"), MONDAY_MS + 2 * HOUR_MS, MONDAY_MS + 6 * HOUR_MS)
    await reading.of(engine)
    assert reading.hours() == {(): {State.BUSY: 2.0, State.HELD: 4.0}}


async def test_an_exporter_that_restarts_leaves_a_dark_gap_and_loses_no_energy_but_that(reading: FleetReading) -> None:
    engine = FakeEngine()
    labels = dcgm_labels(0, "n1")
    held(engine, labels, MONDAY_MS, MONDAY_MS + 2 * HOUR_MS)
    held(engine, labels, MONDAY_MS + 2 * HOUR_MS + 1_200_000, MONDAY_MS + 6 * HOUR_MS)
    times = list(range(MONDAY_MS + 7_000, MONDAY_MS + 6 * HOUR_MS, 30_000))
    # 100 W, and the counter starts again after the restart.
    engine.add(
        "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION",
        labels,
        [
            (at, (at - MONDAY_MS) * 100.0 if at < MONDAY_MS + 3 * HOUR_MS else (at - MONDAY_MS - 3 * HOUR_MS) * 100.0)
            for at in times
        ],
    )
    await reading.of(engine)
    (hours,) = reading.hours().values()
    assert hours[State.DARK] == pytest.approx(1 / 3, abs=0.01)
    (group,) = reading.files.sum_by([], SIX.start_ms, SIX.end_ms)
    assert set(group.account.energy_mj) <= {"held", "uncovered"}
    # The cell of the reset has none, nor has the first, whose left edge has no sample; dark cells have no reading.
    whole_mj = 100_000 * 6 * 3600
    lost_mj = 100_000 * (300 + 300 + 1200)
    assert sum(group.account.energy_mj.values()) == pytest.approx(whole_mj - lost_mj, abs=100_000 * 330)


async def test_blanks_of_the_energy_counter_are_no_energy(reading: FleetReading) -> None:
    engine = a_morning()
    engine.add(
        "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION",
        dcgm_labels(0, "n1"),
        [(at, 9223372036854775794.0) for at in range(MONDAY_MS, MONDAY_MS + 6 * HOUR_MS, 30_000)],
    )
    await reading.of(engine)
    (group,) = reading.files.sum_by([], SIX.start_ms, SIX.end_ms)
    assert group.account.energy_mj == {}


async def test_a_board_that_repeats_its_energy_on_every_instance_has_it_once(reading: FleetReading) -> None:
    """NVIDIA/gpu-operator issue 520: power and energy of the board stand on each MIG instance."""
    engine = FakeEngine()
    for instance, profile in (("1", "3g.40gb"), ("2", "4g.40gb")):
        labels = dcgm_labels(0, "n1", GPU_I_ID=instance, GPU_I_PROFILE=profile)
        busy(engine, labels, SIX.start_ms, SIX.end_ms)
        engine.add(
            "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION",
            labels,
            [(at, (at - MONDAY_MS) * 300.0) for at in range(MONDAY_MS, MONDAY_MS + 6 * HOUR_MS + 1, 30_000)],
        )
    await reading.of(engine)
    (group,) = reading.files.sum_by([], SIX.start_ms, SIX.end_ms)
    assert in_hours(group.account) == {State.BUSY: 6.0}
    assert sum(group.account.energy_mj.values()) == 300 * 6 * HOUR_MS


async def test_mig_instances_that_are_made_anew_count_where_they_fit_and_are_a_finding_where_not(
    reading: FleetReading,
) -> None:
    engine = FakeEngine()
    one = dcgm_labels(0, "n1", GPU_I_ID="1", GPU_I_PROFILE="7g.80gb")
    two = dcgm_labels(0, "n1", GPU_I_ID="2", GPU_I_PROFILE="4g.40gb")
    change_ms = MONDAY_MS + 3 * HOUR_MS + 150_000
    busy(engine, one, SIX.start_ms, change_ms)
    free(engine, two, change_ms, SIX.end_ms)
    await reading.of(engine)
    (hours,) = reading.hours().values()
    assert hours[State.BUSY] == pytest.approx(3.0, abs=0.001)
    assert hours[State.DARK] == pytest.approx(1 / 12, abs=0.001)
    rest = 3 - 1 / 12
    assert hours[State.FREE] == pytest.approx(rest * 4 / 7, abs=0.001)
    assert hours[State.UNMEASURED] == pytest.approx(rest * 3 / 7, abs=0.001)
    (finding,) = reading.files.findings(SIX.start_ms, SIX.end_ms)
    assert (finding.kind, finding.subject) == ("instances_overlap", uuid_of(0))


async def test_findings_about_the_fleet_stand_in_the_period(reading: FleetReading) -> None:
    engine = a_morning()
    free(engine, dcgm_labels(11, "n2"), SIX.start_ms, SIX.end_ms)
    await reading.of(engine)
    kinds = {finding.kind: finding.text for finding in reading.files.findings(SIX.start_ms, SIX.end_ms)}
    assert list(kinds) == ["missing_index"]
    assert kinds["missing_index"].startswith("n2 has no GPU 1, 2 below its highest")


async def test_findings_from_the_days_before_stand_at_the_beginning_of_the_period(reading: FleetReading) -> None:
    engine = a_morning()
    free(engine, dcgm_labels(11, "n2"), MONDAY_MS - DAY_MS, SIX.end_ms)
    await reading.of(engine)
    (finding,) = reading.files.findings(SIX.start_ms, SIX.end_ms)
    assert finding.at_ms == SIX.start_ms
