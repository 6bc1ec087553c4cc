# SPDX-License-Identifier: Apache-2.0
"""The laws of the meter over random streams of ticks, and a second meter that must agree with it."""

from __future__ import annotations

from itertools import combinations, pairwise, product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuledger.cells import CELL_MS, SLICES_PER_GPU, floor_to
from gpuledger.reading import GENESIS, Reading, decode, decode_workloads, digest, encode, encode_workloads
from gpuledger.states import ACTIVITY_EDGES_PPM, THETA_PPM, State, Uncovered
from gpuledger_agent.decision import Floors, decide
from gpuledger_agent.drafts import gpu_time, rank_workloads
from gpuledger_agent.meter import Meter
from gpuledger_agent.snapshot import GpuSnapshot, Health, Holder
from gpuledger_agent.tally import Measured, Span, Tally
from tests.fakes import reference_meter
from tests.fakes.streams import EDGE_MS, HOLDERS, Stream, streams
from tests.profiles import examples


def run(stream: Stream) -> tuple[list[Span], dict[str, Tally]]:
    """Return all spans of a session, finished and closed, and the totals since its start."""
    totals: dict[str, Tally] = {}
    meter = Meter(stream.interval_ms, {}, totals)
    spans: list[Span] = []
    for edge_ms, seen in stream.ticks:
        spans += meter.tick(edge_ms, seen)
    last = meter.close()
    return ([*spans, last] if last is not None else spans), totals


def put(amounts: dict[Any, int], key: Any, amount: int) -> None:
    if amount != 0:
        amounts[key] = amounts.get(key, 0) + amount


# ------------------------------------------------------------------------------------------------------------ laws


@examples(2)
@given(streams())
def test_states_and_uncovered_time_of_each_gpu_sum_to_the_span(stream: Stream) -> None:
    for span in run(stream)[0]:
        for tally in span.tallies.values():
            assert tally.total_slice_ms == (span.end_ms - span.start_ms) * SLICES_PER_GPU
            amounts = [*tally.state_slice_ms.values(), *tally.uncovered_slice_ms.values()]
            assert all(type(amount) is int and amount > 0 for amount in amounts)


@examples(2)
@given(streams())
def test_spans_lie_in_one_cell_each_and_never_go_back(stream: Stream) -> None:
    spans, _ = run(stream)
    taken_to_ms = stream.ticks[0][0]
    for span in spans:
        assert taken_to_ms <= span.start_ms < span.end_ms <= stream.ticks[-1][0]
        assert span.end_ms <= floor_to(span.start_ms, CELL_MS) + CELL_MS
        taken_to_ms = span.end_ms
    covered_ms = sum(span.end_ms - span.start_ms for span in spans)
    gaps_ms = [late - early for (early, _), (late, _) in pairwise(stream.ticks)]
    # Only a gap of more than 30 intervals is in no span.
    assert covered_ms == sum(gap_ms for gap_ms in gaps_ms if gap_ms <= 30 * stream.interval_ms)


@examples(2)
@given(streams())
def test_every_span_can_be_sealed_and_its_workloads_sum_to_it(stream: Stream) -> None:
    for sequence, span in enumerate(run(stream)[0], start=1):
        parts = rank_workloads(span.tallies)
        blob = encode_workloads(parts)
        reading = Reading(
            node_id="node",
            node_name="node",
            session="session",
            sequence=sequence,
            boot_id="boot",
            start_ms=span.start_ms,
            end_ms=span.end_ms,
            wall_start_ms=span.start_ms,
            wall_end_ms=span.end_ms,
            interval_ms=stream.interval_ms,
            agent_version="0",
            configuration_digest="",
            previous=GENESIS,
            workloads_digest=digest(blob),
            gpus=tuple(gpu_time(uuid, tally, None) for uuid, tally in span.tallies.items()),
        )
        decoded = decode(encode(reading))
        assert {gpu.uuid for gpu in decoded.gpus} == set(span.tallies)
        decode_workloads(blob, decoded)


@examples(2)
@given(streams())
def test_bins_divide_busy_and_held_at_theta_and_their_activity_was_known(stream: Stream) -> None:
    above = ACTIVITY_EDGES_PPM.index(THETA_PPM) + 1
    spans, totals = run(stream)
    for tally in [*(tally for span in spans for tally in span.tallies.values()), *totals.values()]:
        assert sum(tally.bin_slice_ms[above:]) == tally.state_slice_ms.get(State.BUSY, 0)
        assert sum(tally.bin_slice_ms[:above]) == tally.state_slice_ms.get(State.HELD, 0)
        assert tally.active_known_slice_ms >= sum(tally.bin_slice_ms)
        assert (tally.active_slice_ns is None) == (tally.active_known_slice_ms == 0)
        assert 0 <= tally.binned_active_slice_ns <= (0 if tally.active_slice_ns is None else tally.active_slice_ns)


@examples(2)
@given(streams())
def test_an_engine_is_never_active_for_longer_than_it_was_known_nor_known_for_longer_than_covered(
    stream: Stream,
) -> None:
    spans, totals = run(stream)
    for tally in [*(tally for span in spans for tally in span.tallies.values()), *totals.values()]:
        for engine, active_slice_ns in tally.engine_slice_ns.items():
            assert 0 <= active_slice_ns <= tally.engine_known_slice_ms[engine] * 1_000_000
        for known_slice_ms in tally.engine_known_slice_ms.values():
            assert known_slice_ms <= sum(tally.state_slice_ms.values())


def test_the_weakest_source_of_a_span_is_the_one_it_names() -> None:
    totals: dict[str, Tally] = {}
    meter = Meter(1000, {}, totals)
    for tick, source in enumerate(("gpm", "gpm", None, "polled", "samples")):
        activity_ppm = None if source is None else 0
        seen = GpuSnapshot(activity_ppm=activity_ppm, activity_source=source, holders=(), health=Health.CLEAN)
        meter.tick(EDGE_MS + 1000 * tick, {"GPU-0": seen})
        assert totals["GPU-0"].activity_source == (None, "gpm", "gpm", "polled", "polled")[tick]


@examples(2)
@given(streams())
def test_totals_since_the_start_are_the_sums_of_the_spans(stream: Stream) -> None:
    spans, totals = run(stream)
    edges_ms = [edge_ms for edge_ms, _ in stream.ticks]
    is_gapless = len(spans) > 0 and all(0 < late - early <= stream.interval_ms for early, late in pairwise(edges_ms))
    for uuid, total in totals.items():
        states: dict[State, int] = {}
        energy: dict[str, int] = {}
        bins = [0] * len(ACTIVITY_EDGES_PPM)
        active_slice_ns = known_slice_ms = hang_ms = 0
        for span in spans:
            tally = span.tallies.get(uuid, Tally())
            for state, amount in tally.state_slice_ms.items():
                put(states, state, amount)
            for key, amount in tally.energy_mj.items():
                put(energy, key, amount)
            bins = [one + other for one, other in zip(bins, tally.bin_slice_ms, strict=True)]
            active_slice_ns += 0 if tally.active_slice_ns is None else tally.active_slice_ns
            known_slice_ms += tally.active_known_slice_ms
            hang_ms += tally.hang_suspicion_ms
        assert total.state_slice_ms == states
        assert total.bin_slice_ms == bins
        # Workloads come and go for ever; what lasts as long as the agent must not remember them.
        assert (total.workload_slice_ms, total.workload_memory_bytes_max) == ({}, {})
        assert (0 if total.active_slice_ns is None else total.active_slice_ns) == active_slice_ns
        assert (total.active_known_slice_ms, total.hang_suspicion_ms) == (known_slice_ms, hang_ms)
        # What ticks around a long gap or at the very end add to a span of no length is in no reading.
        assert {key for key, amount in total.energy_mj.items() if amount < energy.get(key, 0)} == set()
        if is_gapless and spans[-1].end_ms % CELL_MS != 0:
            assert total.energy_mj == energy


@examples(3)
@given(streams(has_absences=False))
def test_energy_by_state_sums_to_what_the_counter_moved_within_each_epoch(stream: Stream) -> None:
    _, totals = run(stream)
    for uuid, total in totals.items():
        moved = falls = 0
        last: int | None = None
        for _, seen in stream.ticks:
            now = seen[uuid].energy_mj
            if now is not None:
                if last is not None and now < last:
                    falls += 1
                elif last is not None:
                    moved += now - last
                last = now
        assert sum(total.energy_mj.values()) == moved
        assert total.energy_epochs == falls


@examples(3)
@given(streams(has_absences=False))
def test_the_odometer_at_the_ends_of_a_span_differs_by_the_energy_in_it(stream: Stream) -> None:
    spans, _ = run(stream)
    last: dict[str, int] = {}
    for span in spans:
        for uuid, tally in span.tallies.items():
            if tally.energy_start_mj is None:
                assert tally.energy_end_mj is None
                assert tally.energy_mj == {}
                continue
            assert tally.energy_end_mj is not None
            if tally.energy_epochs == 0:
                assert sum(tally.energy_mj.values()) == tally.energy_end_mj - tally.energy_start_mj
            last[uuid] = tally.energy_end_mj


@examples(2)
@given(streams(has_absences=False))
def test_clocks_are_held_down_for_no_longer_than_the_span_and_errors_are_counted_once(stream: Stream) -> None:
    spans, totals = run(stream)
    for uuid, total in totals.items():
        tallies = [(span, span.tallies[uuid]) for span in spans if uuid in span.tallies]
        for span, tally in tallies:
            for held_ns in tally.health.throttled_ns.values():
                assert 0 < held_ns <= (span.end_ms - span.start_ms) * 1_000_000
        seen = [snapshots[uuid] for _, snapshots in stream.ticks]
        held_ns = sum(growth.amount for one in seen for growth in one.throttled.values())
        assert sum(total.health.throttled_ns.values()) == held_ns
        assert sum(tally.health.throttled_ns.get("sw_power_cap", 0) for _, tally in tallies) <= held_ns
        errors = sum(len(one.xids) for one in seen), sum(sum(one.ecc_errors.values()) for one in seen)
        assert (sum(total.health.xids.values()), sum(total.health.ecc_errors.values())) == errors
        sealed = sum(sum(tally.health.xids.values()) for _, tally in tallies)
        assert sealed <= errors[0]


@examples(1)
@given(streams(), st.integers(1, 5))
def test_a_tick_that_goes_back_in_time_is_a_bug_that_crashes(stream: Stream, back_ms: int) -> None:
    meter = Meter(stream.interval_ms, {}, {})
    for edge_ms, seen in stream.ticks:
        meter.tick(edge_ms, seen)
    with pytest.raises(ValueError, match="before the last one"):
        meter.tick(stream.ticks[-1][0] - back_ms, {})


# ---------------------------------------------------------------------------------------------- the second meter


def collect(row: dict[str, Any], measured: Measured) -> None:
    """Add what a span has to a row of the reference's."""
    for state, amount in measured.state_slice_ms.items():
        put(row["states"], state.value, amount)
    for index, amount in enumerate(measured.bin_slice_ms):
        put(row["bins"], index, amount)
    if measured.active_slice_ns is not None:
        row["active"] = measured.active_slice_ns + (0 if row["active"] is None else row["active"])
    row["known"] += measured.active_known_slice_ms
    for engine, active_slice_ns in measured.engine_slice_ns.items():
        put(row["engines"], engine, active_slice_ns)
    for engine, known_slice_ms in measured.engine_known_slice_ms.items():
        put(row["engines_known"], engine, known_slice_ms)


@examples(5)
@given(streams())
def test_the_meter_agrees_with_the_plain_reference_in_every_cell(stream: Stream) -> None:
    found: dict[Any, dict[str, Any]] = {}
    for span in run(stream)[0]:
        for uuid, tally in span.tallies.items():
            if not tally.state_slice_ms:
                continue
            row = found.setdefault((floor_to(span.start_ms, CELL_MS), uuid), reference_meter.empty())
            collect(row, tally)
            for identity, measured in tally.instances.items():
                if measured.state_slice_ms:
                    collect(row["instances"].setdefault(identity, reference_meter.empty()), measured)
            for holder, times in tally.workload_slice_ms.items():
                for state, amount in times.items():
                    put(row["holders"], (*holder, state.value), amount)
    assert found == reference_meter.meter(stream.ticks, stream.interval_ms)


@examples(3)
@given(streams(has_absences=False))
def test_energy_by_state_agrees_with_the_plain_reference(stream: Stream) -> None:
    _, totals = run(stream)
    found = {uuid: total.energy_mj for uuid, total in totals.items() if total.energy_mj}
    assert found == reference_meter.energy(stream.ticks, stream.interval_ms)


# ------------------------------------------------------------------------------------------------- the state table


ACTIVITIES_PPM = (None, 0, 1, 49_999, 50_000, 50_001, 700_000, 700_001, 1_000_000)
SM_ACTIVITIES_PPM = (None, 0, 9_999, 10_000, 1_000_000)
HOLDER_SETS = (None, *(some for count in range(4) for some in combinations(HOLDERS, count)))
POWERS_MW = (None, 0.0, 100.0, 104.9, 105.0, 105.1)
FLOORS_MW = (None, 0.0, 100.0)


def test_the_state_of_a_tick_is_the_first_row_of_the_table_that_matches() -> None:
    whats = product(ACTIVITIES_PPM, HOLDER_SETS, (None, False, True), (None, *Health))
    for activity_ppm, holders, is_allocated, health in whats:
        seen = GpuSnapshot(activity_ppm=activity_ppm, holders=holders, is_allocated=is_allocated, health=health)
        assert decide(seen, None, None).state.value == reference_meter.state_of(seen), seen


def test_a_hang_is_suspected_above_70_percent_without_sm_activity_at_parked_power_only() -> None:
    for activity_ppm, sm_active_ppm, power_mw, floor_mw in product(
        ACTIVITIES_PPM, SM_ACTIVITIES_PPM, POWERS_MW, FLOORS_MW
    ):
        is_loud = activity_ppm is not None and activity_ppm > 700_000
        is_still = sm_active_ppm is None or sm_active_ppm < 10_000
        is_parked = power_mw is not None and floor_mw is not None and power_mw <= floor_mw * 1.05
        is_hang = is_loud and is_still and is_parked
        for holders in HOLDER_SETS:
            seen = GpuSnapshot(
                activity_ppm=activity_ppm, sm_active_ppm=sm_active_ppm, holders=holders, health=Health.CLEAN
            )
            decision = decide(seen, power_mw, floor_mw)
            assert decision.state.value == reference_meter.state_of(seen, is_hang=is_hang), (seen, power_mw, floor_mw)
            assert not decision.is_hang_suspected or (is_hang and decision.state is State.UNMEASURED)


def quiet(odometer_mj: int, **changes: Any) -> GpuSnapshot:
    values: dict[str, Any] = {"activity_ppm": 0, "holders": HOLDERS[:1], "health": Health.CLEAN} | changes
    return GpuSnapshot(energy_mj=odometer_mj, **values)


@pytest.mark.parametrize(
    ("learn", "power_mj", "sm_active_ppm", "expected"),
    [
        (60, 100_000, None, State.UNMEASURED),
        (60, 105_000, None, State.UNMEASURED),
        (60, 106_000, None, State.BUSY),
        (60, 100_000, 0, State.UNMEASURED),
        (60, 100_000, 10_000, State.BUSY),
        (59, 100_000, None, State.BUSY),
    ],
)
def test_a_hang_is_suspected_only_at_the_learnt_parked_floor(
    learn: int, power_mj: int, sm_active_ppm: int | None, expected: State
) -> None:
    totals: dict[str, Tally] = {}
    meter = Meter(1000, {}, totals)
    edge_ms, odometer_mj = EDGE_MS, 0
    meter.tick(edge_ms, {"GPU-0": quiet(0)})
    for _ in range(learn):
        edge_ms, odometer_mj = edge_ms + 1000, odometer_mj + 100_000
        meter.tick(edge_ms, {"GPU-0": quiet(odometer_mj)})
    loud = quiet(odometer_mj + power_mj, activity_ppm=1_000_000, sm_active_ppm=sm_active_ppm)
    meter.tick(edge_ms + 1000, {"GPU-0": loud})
    total = totals["GPU-0"]
    assert total.state_slice_ms.get(expected) == 7000
    assert total.state_slice_ms[State.HELD] == learn * 7000
    is_hung = expected is State.UNMEASURED
    assert total.hang_suspicion_ms == (1000 if is_hung else 0)
    # What a hung GPU calls activity is none: it reaches no integral.
    assert total.active_slice_ns == (0 if is_hung else 7_000_000_000)


def test_a_floor_is_learnt_from_60_consecutive_quiet_ticks_only() -> None:
    floors = Floors()
    for _ in range(59):
        floors.learn(State.HELD, 0, 100_000, 1000)
    floors.learn(State.HELD, 10_001, 100_000, 1000)
    floors.learn(State.HELD, 0, 100_000, 1000)
    assert [floors.idle_mw] == [None]
    for _ in range(60):
        floors.learn(State.FREE, 0, 70_000, 1000)
    assert floors.idle_mw == 70_000
    for _ in range(60):
        floors.learn(State.HELD, 10_000, 100_000, 1000)
    assert floors.idle_mw == 100_000


def test_an_outage_starts_the_learning_of_a_floor_anew() -> None:
    floors: dict[str, Floors] = {}
    meter = Meter(1000, floors, {})
    edge_ms, odometer_mj = EDGE_MS, 0
    for tick in range(80):
        edge_ms, odometer_mj = edge_ms + 1000, odometer_mj + 100_000
        seen = quiet(odometer_mj) if tick != 40 else GpuSnapshot(uncovered=Uncovered.LIBRARY, energy_mj=odometer_mj)
        meter.tick(edge_ms, {"GPU-0": seen})
    assert floors["GPU-0"].idle_mw is None


def test_three_workloads_share_a_tick_to_the_last_slice_millisecond() -> None:
    holders = tuple(Holder(workload=name, user=None, memory_bytes=None) for name in ("a", "b", "c"))
    meter = Meter(1000, {}, {})
    seen = {"GPU-0": GpuSnapshot(activity_ppm=0, holders=holders, health=Health.CLEAN)}
    meter.tick(EDGE_MS, seen)
    meter.tick(EDGE_MS + 1000, seen)
    span = meter.close()
    assert span is not None
    shares = [times[State.HELD] for times in span.tallies["GPU-0"].workload_slice_ms.values()]
    assert shares == [2334, 2333, 2333]
