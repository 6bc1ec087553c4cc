# SPDX-License-Identifier: Apache-2.0
"""The laws of divided GPUs (MIG): slices sum to the GPU, nothing counts twice, nothing is told by shared power."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuledger.cells import SLICES_PER_GPU
from gpuledger.states import State, Uncovered
from gpuledger_agent.decision import Floors
from gpuledger_agent.drafts import gpu_time
from gpuledger_agent.meter import Meter
from gpuledger_agent.snapshot import GpuSnapshot, Health, InstanceIdentity, InstanceSnapshot
from gpuledger_agent.tally import Measured, Part, Span, Tally, divide, overall
from tests.fakes.streams import EDGE_MS, HOLDERS, Stream, streams
from tests.profiles import examples

GPU = "GPU-0"
HELD = HOLDERS[:1]
DIVIDED = streams(has_division=True)


def identity(number: int, slices: int, **changes: Any) -> InstanceIdentity:
    values: dict[str, Any] = {"profile": f"{slices}g.{slices}0gb", "memory_total_bytes": slices << 33} | changes
    return InstanceIdentity(uuid=f"MIG-{number}", instance=number, slices=slices, **values)


def on(who: InstanceIdentity, **seen: Any) -> InstanceSnapshot:
    values: dict[str, Any] = {"activity_ppm": 0, "activity_source": "gpm", "holders": (), "health": Health.CLEAN}
    return InstanceSnapshot(identity=who, seen=GpuSnapshot(**values | seen))


def board(*instances: InstanceSnapshot, **changes: Any) -> GpuSnapshot:
    values: dict[str, Any] = {"holders": (), "health": Health.CLEAN, "is_divided": True} | changes
    return GpuSnapshot(instances=instances, **values)


def meter(*seen: GpuSnapshot, step_ms: int = 1000) -> tuple[Tally, dict[str, Tally]]:
    """Return what one GPU adds up to over ticks `step_ms` apart, and the totals."""
    totals: dict[str, Tally] = {}
    found = Meter(1000, {}, totals)
    for tick, snapshot in enumerate(seen):
        found.tick(EDGE_MS + step_ms * tick, {GPU: snapshot})
    span = found.close()
    assert span is not None
    return span.tallies[GPU], totals


def seconds(measured: Measured) -> dict[str, float]:
    times = [*measured.state_slice_ms.items(), *measured.uncovered_slice_ms.items()]
    return {str(name): amount / 1000 for name, amount in times}


# ------------------------------------------------------------------------------------------------------------ laws


@examples(3)
@given(DIVIDED)
def test_the_parts_of_a_tick_have_seven_slices_between_them(stream: Stream) -> None:
    for _, seen in stream.ticks:
        for snapshot in seen.values():
            parts = divide(snapshot)
            assert sum(part.slices for part in parts) == SLICES_PER_GPU
            assert all(part.slices > 0 for part in parts)
            assert sum(part.instance is None for part in parts) <= 1


@examples(3)
@given(DIVIDED)
def test_each_tick_adds_to_a_gpu_what_it_adds_to_its_instances_and_to_the_rest(stream: Stream) -> None:
    totals: dict[str, Tally] = {}
    found = Meter(stream.interval_ms, {}, totals)
    before: dict[str, Tally] = {}
    for edge_ms, seen in stream.ticks:
        found.tick(edge_ms, seen)
        for uuid in seen:
            total, last = totals[uuid], before.get(uuid, Tally())
            if total.rest is not None:
                parts = [(total.rest, last if last.rest is None else last.rest)]
                parts += [(one, last.instances.get(who, Measured())) for who, one in total.instances.items()]
                grown = sum((growth(*pair) for pair in parts), Counter())
                assert +grown == +growth(total, last)
        before = {uuid: total.copy() for uuid, total in totals.items()}


def growth(now: Measured, before: Measured) -> Counter[Any]:
    """What was added, by what it is; nothing is ever taken away."""
    late, early = everything(now), everything(before)
    assert all(late[key] >= amount for key, amount in early.items())
    return late - early


def everything(measured: Measured) -> Counter[Any]:
    found: Counter[Any] = Counter()
    found.update(measured.state_slice_ms)
    found.update(measured.uncovered_slice_ms)
    found.update(dict(enumerate(measured.bin_slice_ms)))
    found.update({("active", engine): amount for engine, amount in measured.engine_slice_ns.items()})
    found.update({("known", engine): amount for engine, amount in measured.engine_known_slice_ms.items()})
    found["known"] = measured.active_known_slice_ms
    found["active"] = 0 if measured.active_slice_ns is None else measured.active_slice_ns
    found["binned"] = measured.binned_active_slice_ns
    return found


@examples(3)
@given(DIVIDED)
def test_an_instance_has_whole_milliseconds_of_its_slices_and_the_gpu_has_them_too(stream: Stream) -> None:
    for tally in (tally for span in spans_of(stream) for tally in span.tallies.values()):
        for who, measured in tally.instances.items():
            assert all(amount % who.slices == 0 for amount in everything(measured).values())
        for state in (*State, *Uncovered):
            parts = sum(everything(measured)[state] for measured in tally.instances.values())
            assert parts <= everything(tally)[state]
        assert sum(everything(one)["active"] for one in tally.instances.values()) <= everything(tally)["active"]


@examples(3)
@given(DIVIDED)
def test_totals_keep_only_the_instances_that_are_there(stream: Stream) -> None:
    totals: dict[str, Tally] = {}
    found = Meter(stream.interval_ms, {}, totals)
    for edge_ms, seen in stream.ticks:
        found.tick(edge_ms, seen)
        for uuid, snapshot in seen.items():
            if snapshot.is_looked_at and snapshot.instances is not None:
                assert set(totals[uuid].instances) == {one.identity for one in snapshot.instances}


@examples(2)
@given(DIVIDED, st.integers(0, 2**32))
def test_a_workload_on_an_instance_has_at_most_the_instances_time(stream: Stream, seed: int) -> None:
    del seed
    for tally in (tally for span in spans_of(stream) for tally in span.tallies.values()):
        by_name: Counter[Any] = Counter()
        for (_, _, name), times in tally.workload_slice_ms.items():
            for state, amount in times.items():
                by_name[name, state] += amount
        for state in (State.BUSY, State.HELD):
            own: Counter[str] = Counter()
            for who, measured in tally.instances.items():
                own[who.uuid] += measured.state_slice_ms.get(state, 0)
            for name, amount in own.items():
                assert by_name[name, state] == amount


def spans_of(stream: Stream) -> list[Span]:
    found = Meter(stream.interval_ms, {}, {})
    spans = [span for edge_ms, seen in stream.ticks for span in found.tick(edge_ms, seen)]
    last = found.close()
    return spans if last is None else [*spans, last]


# ------------------------------------------------------------------------------------------------------------ by hand


def test_each_instance_has_its_own_state_and_what_none_has_is_free() -> None:
    seen = board(
        on(identity(1, 3), activity_ppm=900_000, holders=HELD),
        on(identity(2, 2), activity_ppm=50_000, holders=HELD),
        on(identity(3, 1)),
    )
    tally, _ = meter(seen, seen, seen)
    assert seconds(tally) == {"busy": 6, "held": 4, "free": 4}
    assert [seconds(measured) for measured in tally.instances.values()] == [{"busy": 6}, {"held": 4}, {"free": 2}]
    sealed = gpu_time(GPU, tally, None)
    assert sealed.active_ns == (2 * 3 * 900_000_000 + 2 * 2 * 50_000_000) // 7
    assert [part.active_ns for part in sealed.instances] == [1_800_000_000, 100_000_000, 0]
    # The time for which the activity of six of seven slices was known.
    assert sealed.active_known_ms == -(-2 * 6 * 1000 // 7)


def test_theta_is_relative_to_the_instance() -> None:
    seen = board(on(identity(1, 1), activity_ppm=50_001, holders=HELD))
    tally, _ = meter(seen, seen)
    assert seconds(tally) == {"busy": 1, "free": 6}


def test_a_gpu_divided_into_nothing_is_free() -> None:
    tally, _ = meter(board(), board())
    assert seconds(tally) == {"free": 7}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"activity_ppm": None, "holders": HELD}, "unmeasured"),
        ({"activity_ppm": None}, "free"),
        ({"holders": None}, "unmeasured"),
        ({"activity_ppm": 60_000}, "unmeasured"),
    ],
)
def test_gpm_that_is_refused_leaves_an_instance_unmeasured_with_a_process_only(
    changes: dict[str, Any], expected: str
) -> None:
    seen = board(on(identity(1, 2), **changes))
    tally, _ = meter(seen, seen)
    (measured,) = tally.instances.values()
    assert seconds(measured) == {expected: 2}


def test_a_board_that_is_down_takes_all_slices_along() -> None:
    sick = Health.RECOVERY_ACTION
    seen = board(on(identity(1, 3), activity_ppm=900_000, holders=HELD, health=sick), health=sick)
    tally, _ = meter(seen, seen)
    assert seconds(tally) == {"down": 7}


def test_a_process_where_no_instance_is_leaves_those_slices_unmeasured() -> None:
    seen = board(on(identity(1, 3), holders=HELD), holders=HELD)
    tally, _ = meter(seen, seen)
    assert seconds(tally) == {"held": 3, "unmeasured": 4}


def test_instances_that_come_and_go_are_decided_by_the_tick_that_sees_them() -> None:
    old, new = identity(7, 2), identity(7, 1)
    working = {"activity_ppm": 800_000, "holders": HELD}
    tally, _ = meter(
        board(on(old, **working)),
        board(on(old, **working)),
        board(on(new, activity_ppm=None, holders=HELD)),  # its first sample only seeds
        board(on(new, **working)),
        board(),
    )
    assert seconds(tally) == {"busy": 2 + 1, "unmeasured": 1, "free": 5 + 6 + 6 + 7}
    assert [seconds(measured) for measured in tally.instances.values()] == [{"busy": 2}, {"unmeasured": 1, "busy": 1}]


def test_a_switch_of_the_mode_is_of_the_tick_that_sees_it_and_the_energy_with_it() -> None:
    whole = GpuSnapshot(activity_ppm=0, holders=HELD, health=Health.CLEAN, energy_mj=0)
    part = on(identity(1, 7), activity_ppm=900_000, holders=HELD)
    tally, _ = meter(
        whole,
        GpuSnapshot(activity_ppm=0, holders=HELD, health=Health.CLEAN, energy_mj=100),
        board(part, energy_mj=300),
        board(energy_mj=700),
        GpuSnapshot(activity_ppm=0, holders=(), health=Health.CLEAN, energy_mj=1500),
    )
    assert seconds(tally) == {"held": 7, "busy": 7, "free": 14}
    assert tally.energy_mj == {"held": 100, "mig": 200 + 400, "free": 800}


def test_where_the_instances_are_unknown_the_whole_gpu_is_unmeasured_with_a_process() -> None:
    known = board(on(identity(1, 3), activity_ppm=900_000, holders=HELD), energy_mj=0)
    unknown = GpuSnapshot(holders=HELD, health=Health.CLEAN, is_divided=True, instances=None, energy_mj=50)
    tally, totals = meter(known, unknown)
    assert seconds(tally) == {"unmeasured": 7}
    assert tally.energy_mj == {"mig": 50}
    # It may be only for a moment: the instances are not taken to be gone.
    assert list(totals[GPU].instances) == [identity(1, 3)]


def test_a_gap_is_unmeasured_for_the_instances_that_were_held_at_either_end() -> None:
    before, after, never = identity(1, 1), identity(2, 2), identity(3, 3)
    first = board(on(before, holders=HELD), on(after), on(never), energy_mj=0)
    last = board(on(before), on(after, holders=HELD), on(never), energy_mj=9)
    tally, _ = meter(first, last, step_ms=5000)
    assert seconds(tally) == {"unmeasured": 15, "gap": 20}
    assert tally.energy_mj == {"uncovered": 9}
    tally, _ = meter(board(on(before, holders=HELD)), board(on(before, holders=HELD)), step_ms=5000)
    assert seconds(tally) == {"gap": 35}


def test_no_hang_is_suspected_and_no_floor_learnt_by_power_that_instances_share() -> None:
    floors: dict[str, Floors] = {}
    found = Meter(1000, floors, {})

    def look(tick: int, **seen: Any) -> None:
        snapshot = board(on(identity(1, 7), holders=HELD, **seen), energy_mj=tick * 100_000)
        found.tick(EDGE_MS + 1000 * tick, {GPU: snapshot})

    for tick in range(70):
        look(tick)
    assert floors[GPU].idle_mw is None
    assert found.power_mw[GPU] == 100_000
    for tick in range(70, 140):
        energy_mj = tick * 100_000
        snapshot = GpuSnapshot(activity_ppm=0, holders=HELD, health=Health.CLEAN, energy_mj=energy_mj)
        found.tick(EDGE_MS + 1000 * tick, {GPU: snapshot})
    assert floors[GPU].idle_mw == 100_000
    look(140, activity_ppm=1_000_000, sm_active_ppm=0)
    assert found.parts[GPU][0].result is State.BUSY


@pytest.mark.parametrize(
    ("results", "expected"),
    [
        ([(7, State.FREE)], State.FREE),
        ([(1, State.BUSY), (6, State.FREE)], State.BUSY),
        ([(1, State.BUSY), (2, State.HELD), (4, State.FREE)], State.HELD),
        ([(2, State.BUSY), (2, State.HELD), (3, State.FREE)], State.HELD),
        ([(2, State.BUSY), (2, State.UNMEASURED), (3, State.FREE)], State.UNMEASURED),
        ([(7, Uncovered.FIRST_TICK)], Uncovered.FIRST_TICK),
        ([(3, State.UNMEASURED), (4, Uncovered.GAP)], Uncovered.GAP),
    ],
)
def test_a_gpu_is_called_free_only_where_all_of_it_is(results: list[tuple[int, Any]], expected: Any) -> None:
    parts = [Part(slices=slices, seen=GpuSnapshot(), result=result) for slices, result in results]
    assert overall(parts) is expected
