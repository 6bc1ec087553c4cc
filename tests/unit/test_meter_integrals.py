# SPDX-License-Identifier: Apache-2.0
"""Links and counters in the meter: nothing is lost that a counter knows, nothing is counted twice."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuledger.cells import CELL_MS, SLICES_PER_GPU
from gpuledger.reading import GENESIS, Reading, decode, encode
from gpuledger.states import LINKS, State, Uncovered
from gpuledger_agent.decision import Floors
from gpuledger_agent.drafts import gpu_time
from gpuledger_agent.meter import Meter
from gpuledger_agent.snapshot import Count, GpuSnapshot, Health
from gpuledger_agent.tally import Span, Tally
from tests.fakes.streams import EDGE_MS, HOLDERS, Stream, streams
from tests.profiles import examples

UUID = "GPU-0"
MHZ = 1980


def quiet(**changes: Any) -> GpuSnapshot:
    values: dict[str, Any] = {"activity_ppm": 500_000, "holders": HOLDERS[:1], "health": Health.CLEAN} | changes
    return GpuSnapshot(**values)


def run(ticks: list[tuple[int, GpuSnapshot]], interval_ms: int = 1000) -> tuple[list[Span], Tally]:
    """Return the spans of one GPU's session and its totals."""
    totals: dict[str, Tally] = {}
    meter = Meter(interval_ms, {}, totals)
    spans: list[Span] = []
    for edge_ms, seen in ticks:
        spans += meter.tick(edge_ms, {UUID: seen})
    last = meter.close()
    return ([*spans, last] if last is not None else spans), totals[UUID]


# ------------------------------------------------------------------------------------------------------------ laws


def truth(seed: int, *, is_marred: bool) -> tuple[list[tuple[int, GpuSnapshot]], int, int]:
    """A GPU with counters, ticks that lose means or counts, and what it did since the first: SM ns and bytes sent."""
    rng = Random(seed)
    edge_ms = EDGE_MS - rng.randint(0, 20) * 1000
    active_cycles, elapsed_cycles, sent = 10**12, 10**13, 10**9
    ticks = [(edge_ms, quiet(counts={"sm": Count(active_cycles, elapsed_cycles), "pcie_tx": Count(sent)}, energy_mj=0))]
    active_ns = 0
    for number in range(rng.randint(1, 40)):
        gap_ms = rng.choice((1000, 1000, 1000, 999, 1700, 2000, 2001, 5000, 29_000))
        ppm, grown = rng.choice((0, 1, 333_333, 999_999, 1_000_000)), rng.randint(0, 10**10)
        edge_ms += gap_ms
        active_ns += ppm * gap_ms
        active_cycles, elapsed_cycles = active_cycles + ppm * gap_ms * MHZ // 1000, elapsed_cycles + gap_ms * MHZ * 1000
        sent += grown
        has_counts = not is_marred or rng.random() < 0.6
        has_mean = has_counts and rng.random() < 0.6
        seen = quiet(energy_mj=1000 * number)
        if has_counts:
            counts = {"sm": Count(active_cycles, elapsed_cycles), "pcie_tx": Count(sent)}
            seen = replace(seen, counts=counts)
        if has_mean:
            seen = replace(seen, sm_active_ppm=ppm, link_bytes={"pcie_tx": grown})
        ticks.append((edge_ms, seen))
    return ticks, active_ns, sent - 10**9


@examples(5)
@given(st.integers(0, 2**32 - 1))
def test_with_counters_at_every_tick_nothing_is_lost_whatever_means_are_missing(seed: int) -> None:
    ticks, active_ns, sent = truth(seed, is_marred=False)
    _, total = run(ticks)
    known_ms = ticks[-1][0] - ticks[0][0]
    assert total.engine_known_slice_ms["sm"] == known_ms * SLICES_PER_GPU
    # Cycles are whole, so that a share of them may be some ns less.
    found_ns = total.engine_slice_ns["sm"] // SLICES_PER_GPU
    assert active_ns - len(ticks) * 1000 <= found_ns <= active_ns
    assert (total.link_bytes["pcie_tx"], total.link_known_ms["pcie_tx"]) == (sent, known_ms)


@examples(5)
@given(st.integers(0, 2**32 - 1))
def test_counters_that_come_and_go_never_count_anything_twice(seed: int) -> None:
    ticks, active_ns, sent = truth(seed, is_marred=True)
    spans, total = run(ticks)
    assert total.engine_slice_ns.get("sm", 0) <= active_ns * SLICES_PER_GPU
    assert total.link_bytes.get("pcie_tx", 0) <= sent
    of_spans = sum(span.tallies[UUID].engine_slice_ns.get("sm", 0) for span in spans)
    assert of_spans <= total.engine_slice_ns.get("sm", 0)
    for span in spans:
        tally = span.tallies[UUID]
        span_ms = span.end_ms - span.start_ms
        assert tally.engine_known_slice_ms.get("sm", 0) <= span_ms * SLICES_PER_GPU
        assert tally.link_known_ms.get("pcie_tx", 0) <= span_ms
        assert tally.engine_slice_ns.get("sm", 0) <= tally.engine_known_slice_ms.get("sm", 0) * 1_000_000


def enrich(stream: Stream, seed: int) -> Stream:
    """The stream with links, counters, power limits and high activity in it."""
    rng = Random(seed)
    carried = 0

    def more(seen: GpuSnapshot) -> GpuSnapshot:
        nonlocal carried
        if seen.uncovered is not None:
            return seen
        carried = rng.choice((0, carried + rng.randint(0, 10**11)))
        links = {link: rng.choice((0, 1, 10**12 + 1)) for link in LINKS if rng.random() < 0.7}
        counts = {"pcie_tx": Count(carried), "sm": Count(carried // 7, carried // 3)}
        return replace(
            seen,
            link_bytes=links,
            counts=counts if rng.random() < 0.7 else {},
            high_activity_ms=rng.choice((None, 0, 9_999, 10_000, 60_000)),
            power_limit_mw=rng.choice((None, 700_000)),
            memory_total_bytes=2**36,
        )

    ticks = tuple((edge_ms, {uuid: more(seen) for uuid, seen in views.items()}) for edge_ms, views in stream.ticks)
    return Stream(interval_ms=stream.interval_ms, ticks=ticks)


@examples(4)
@given(streams(), st.integers(0, 2**32 - 1))
def test_whatever_is_seen_every_span_can_be_sealed_and_links_sum_to_the_totals(stream: Stream, seed: int) -> None:
    totals: dict[str, Tally] = {}
    meter = Meter(stream.interval_ms, {}, totals)
    spans: list[Span] = []
    for edge_ms, seen in enrich(stream, seed).ticks:
        spans += meter.tick(edge_ms, seen)
    last = meter.close()
    spans += [] if last is None else [last]
    for sequence, span in enumerate(spans, start=1):
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
            gpus=tuple(gpu_time(uuid, tally, None) for uuid, tally in span.tallies.items()),
        )
        assert {gpu.uuid for gpu in decode(encode(reading)).gpus} == set(span.tallies)
    for uuid, total in totals.items():
        for link in LINKS:
            of_spans = sum(span.tallies[uuid].link_bytes.get(link, 0) for span in spans if uuid in span.tallies)
            # Only what a counter bridged may have begun in a cell that was sealed already.
            is_bridged = link == "pcie_tx"
            assert (
                of_spans <= total.link_bytes.get(link, 0) if is_bridged else of_spans == total.link_bytes.get(link, 0)
            )


# ------------------------------------------------------------------------------------------------------- by hand


def test_bytes_of_a_tick_over_a_cells_edge_go_to_both_by_time() -> None:
    edge_ms = EDGE_MS - EDGE_MS % CELL_MS + CELL_MS - 400
    ticks = [(edge_ms, quiet()), (edge_ms + 1000, quiet(link_bytes={"nvlink_tx": 1001}))]
    spans, _ = run(ticks)
    tallies = [span.tallies[UUID] for span in spans]
    assert [tally.link_bytes for tally in tallies] == [{"nvlink_tx": 400}, {"nvlink_tx": 601}]
    assert [tally.link_known_ms for tally in tallies] == [{"nvlink_tx": 400}, {"nvlink_tx": 600}]


def test_a_counter_over_a_sealed_cell_counts_for_what_is_open_only() -> None:
    edge_ms = EDGE_MS - EDGE_MS % CELL_MS + CELL_MS - 1000
    base, middle, now = (quiet(counts={"sm": Count(n * 500, n * 1000)}) for n in (0, 1, 3))
    ticks = [(edge_ms, base), (edge_ms + 1000, replace(middle, counts={})), (edge_ms + 3000, now)]
    spans, total = run(ticks)
    known = [span.tallies[UUID].engine_known_slice_ms.get("sm") for span in spans]
    assert known == [None, 2000 * SLICES_PER_GPU]
    assert spans[1].tallies[UUID].engine_slice_ns["sm"] == 10**9 * SLICES_PER_GPU
    assert total.engine_slice_ns["sm"] == 3 * 10**9 // 2 * SLICES_PER_GPU


@pytest.mark.parametrize(
    ("activity_ppm", "watts"),
    [
        # Engines draw 500 W of 700, whatever GPM says.
        (0, 500),
        # At 100 W utilisation insists, and activity is unknown: a hang.
        (None, 100),
    ],
)
def test_what_is_not_believed_is_not_bridged_either(activity_ppm: int | None, watts: int) -> None:
    ticks = []
    for second in range(3):
        seen = quiet(
            counts={"sm": Count(second * 500, second * 1000), "pcie_rx": Count(second)},
            energy_mj=second * watts * 1000,
            power_limit_mw=700_000,
        )
        if second == 1:
            seen = replace(seen, activity_ppm=activity_ppm, high_activity_ms=10_000)
        ticks.append((EDGE_MS + second * 1000, seen))
    _, total = run(ticks)
    assert total.state_slice_ms == {State.UNMEASURED: 7000, State.BUSY: 7000}
    assert total.engine_known_slice_ms == {"sm": 7000}
    assert total.link_known_ms == {"pcie_rx": 1000}


@pytest.mark.parametrize(("late_ms", "state"), [(901, State.BUSY), (900, State.UNMEASURED)])
def test_an_energy_counter_that_has_not_moved_since_a_moment_ago_is_no_power_of_zero(
    late_ms: int, state: State
) -> None:
    totals: dict[str, Tally] = {}
    meter = Meter(1000, {UUID: Floors(parked_mw=100_000)}, totals)
    for edge_ms, energy_mj in ((0, 0), (late_ms, 400_000), (1000, 400_000)):
        meter.tick(EDGE_MS + edge_ms, {UUID: quiet(activity_ppm=1_000_000, energy_mj=energy_mj)})
    late = totals[UUID].state_slice_ms
    assert late.get(State.BUSY, 0) + late.get(State.UNMEASURED, 0) == 7000
    assert late.get(State.UNMEASURED, 0) == (0 if state is State.BUSY else 7 * (1000 - late_ms))


def test_time_that_is_not_covered_is_not_bridged() -> None:
    base, late, now = (quiet(counts={"sm": Count(n * 500, n * 1000), "pcie_tx": Count(n)}) for n in (0, 2, 3))
    unseen = GpuSnapshot(uncovered=Uncovered.CALLS_FAILED)
    ticks = [(EDGE_MS, base), (EDGE_MS + 1000, unseen), (EDGE_MS + 2000, late), (EDGE_MS + 3000, now)]
    _, total = run(ticks)
    assert total.uncovered_slice_ms == {Uncovered.CALLS_FAILED: 7000, Uncovered.FIRST_TICK: 7000}
    assert (total.engine_known_slice_ms, total.link_known_ms) == ({"sm": 7000}, {"pcie_tx": 1000})


def test_a_loss_forgets_where_counters_stood() -> None:
    ticks = [
        (EDGE_MS, quiet(counts={"sm": Count(0, 0)})),
        (EDGE_MS + 1000, GpuSnapshot(health=Health.LOST)),
        (EDGE_MS + 2000, quiet(counts={"sm": Count(500, 2000)})),
        (EDGE_MS + 3000, quiet(counts={"sm": Count(1500, 3000)})),
    ]
    _, total = run(ticks)
    assert total.engine_known_slice_ms == {"sm": 7000}
    assert total.engine_slice_ns == {"sm": 7 * 10**9}


def test_a_gpu_that_nobody_speaks_of_begins_anew() -> None:
    totals: dict[str, Tally] = {}
    meter = Meter(1000, {}, totals)
    for index, views in enumerate(({UUID: 0}, {}, {UUID: 2000}, {UUID: 3000})):
        counted = {uuid: quiet(counts={"sm": Count(amount, amount)}) for uuid, amount in views.items()}
        meter.tick(EDGE_MS + 1000 * index, counted)
    assert totals[UUID].engine_known_slice_ms == {"sm": 7000}
