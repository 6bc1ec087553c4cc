# SPDX-License-Identifier: Apache-2.0
"""Random fleets: a true timeline for every GPU, the readings nodes sealed about it, a roster and declarations.

A `Plan` is small and shrinks well; `grow` makes the same fleet from the same plan, always. Every reading passes
through its bytes, so what the ledger sees is what an agent could have sent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from random import Random

from hypothesis import strategies as st

from gpuledger.cells import CELL_MS, SLICES_PER_GPU
from gpuledger.states import ACTIVITY_EDGES_PPM, THETA_PPM, State
from gpuledger_collector.ledger import Accepted
from gpuledger_collector.roster import Claim, Entry, Roster, Window, WindowKind, discover
from tests.fakes.nodes import HOUR_EDGE_MS, Plan, Sealer, Segment, Stint, overlaps, some_time

DAY_EDGE_MS = 1_795_478_400_000
WEEK_EDGE_MS = 1_795_392_000_000
"""2026-11-23T00:00Z, a Monday; the others are an hour and a day within the same week."""

TRUE_STATES = (
    State.BUSY,
    State.BUSY,
    State.HELD,
    State.HELD,
    State.FREE,
    State.FREE,
    State.RESERVED,
    State.OPERATOR,
    State.DOWN,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """`truth` and `stints` are by UUID; `identity` gives the name that the roster has for a UUID."""

    plan: Plan
    start_ms: int = field(repr=False)
    end_ms: int = field(repr=False)
    roster: Roster = field(repr=False)
    readings: tuple[Accepted, ...] = field(repr=False)
    truth: dict[str, tuple[Segment, ...]] = field(repr=False)
    identity: dict[str, str] = field(repr=False)

    def true_slice_ms(self, uuid: str, start_ms: int, end_ms: int) -> dict[State, int]:
        """Return the true slice-ms by state of one GPU over a span."""
        sums: dict[State, int] = {}
        for part in overlaps(self.truth[uuid], start_ms, end_ms):
            sums[part.state] = sums.get(part.state, 0) + (part.end_ms - part.start_ms) * SLICES_PER_GPU
        return sums


def plans(**fixed: object) -> st.SearchStrategy[Plan]:
    """Return plans of every kind, with the given attributes fixed."""
    free: dict[str, st.SearchStrategy[object]] = {
        "seed": st.integers(0, 2**32 - 1),
        "nodes": st.integers(1, 3),
        "gpus": st.integers(1, 4),
        "cells": st.integers(1, 7),
        "edge_ms": st.sampled_from([HOUR_EDGE_MS, DAY_EDGE_MS, WEEK_EDGE_MS]),
    }
    for name in Plan.__dataclass_fields__:
        if name.startswith(("has_", "is_")):
            free[name] = st.booleans()
    return st.builds(Plan, **free | {name: st.just(value) for name, value in fixed.items()})


def fleets(**fixed: object) -> st.SearchStrategy[Fleet]:
    """Return fleets of every kind, with the given attributes of their plans fixed."""
    return plans(**fixed).map(grow)


def grow(plan: Plan) -> Fleet:
    """Return the fleet of the plan."""
    rng = Random(plan.seed)
    start_ms = plan.edge_ms - rng.randint(0, plan.cells) * CELL_MS
    end_ms = start_ms + plan.cells * CELL_MS
    nodes = [f"node-{index}" for index in range(plan.nodes)]
    uuids = [f"GPU-{index}" for index in range(plan.gpus)]
    # Lives begin and end outside the span, so that nothing special happens at its edges.
    life_ms = (start_ms - CELL_MS, end_ms + CELL_MS)
    truth = {uuid: _live(rng, *life_ms) for uuid in uuids}
    stints = {uuid: _place(rng, nodes, *life_ms, has_moves=plan.has_moves) for uuid in uuids}
    sealer = Sealer(plan=plan, rng=rng, truth=truth, stints=stints)
    readings = [accepted for node in nodes for accepted in sealer.seal_node(node, start_ms, end_ms)]
    identity = {uuid: uuid for uuid in uuids}
    if plan.is_declared:
        entries = _declare(plan, rng, stints, identity, start_ms, end_ms)
        roster = Roster(entries=tuple(entries), is_declared=True)
    else:
        retired = {}
        if plan.has_retirements:
            retired = {uuid: some_time(rng, start_ms, end_ms) for uuid in uuids if rng.random() < 0.4}
        roster = discover(claims_of(readings), {nodes[0]: ("paris", "east", "training")}, retired)
    if plan.has_windows:
        roster = replace(roster, windows=tuple(_windows(rng, nodes, roster.entries, start_ms, end_ms)))
    return Fleet(
        plan=plan,
        start_ms=start_ms,
        end_ms=end_ms,
        roster=roster,
        readings=tuple(readings),
        truth=truth,
        identity=identity,
    )


def claims_of(readings: Sequence[Accepted]) -> list[Claim]:
    """Return the first claim of each node on each GPU."""
    first: dict[tuple[str, str], Claim] = {}
    for accepted in readings:
        reading = accepted.reading
        for gpu in reading.gpus:
            key = (gpu.uuid, reading.node_name)
            if key not in first or reading.start_ms < first[key].first_ms:
                first[key] = Claim(
                    gpu=gpu.uuid, node=key[1], first_ms=reading.start_ms, serial=gpu.serial, model=gpu.model
                )
    return list(first.values())


def _live(rng: Random, start_ms: int, end_ms: int) -> tuple[Segment, ...]:
    segments = []
    while start_ms < end_ms:
        until_ms = min(end_ms, start_ms + rng.choice((1, 1000, 60_000, CELL_MS, 3 * CELL_MS, rng.randint(1, CELL_MS))))
        state = rng.choice(TRUE_STATES)
        edges_ppm = (*ACTIVITY_EDGES_PPM, THETA_PPM + 1, 1)
        if state is State.BUSY:
            activity_ppm = rng.choice([ppm for ppm in (*edges_ppm, 432_100) if ppm > THETA_PPM])
        elif state is State.HELD:
            activity_ppm = rng.choice([ppm for ppm in edges_ppm if ppm <= THETA_PPM])
        else:
            activity_ppm = 0
        memory_bytes = rng.choice((0, 1, 79_000_000_000))
        segments.append(
            Segment(
                start_ms=start_ms, end_ms=until_ms, state=state, activity_ppm=activity_ppm, memory_bytes=memory_bytes
            )
        )
        start_ms = until_ms
    return tuple(segments)


def _place(rng: Random, nodes: list[str], start_ms: int, end_ms: int, *, has_moves: bool) -> tuple[Stint, ...]:
    node, stints = rng.choice(nodes), []
    for _ in range(rng.randint(1, 2) if has_moves and len(nodes) > 1 else 0):
        moved_ms = some_time(rng, start_ms, end_ms)
        stints.append(Stint(node=node, start_ms=start_ms, end_ms=moved_ms))
        node, start_ms = rng.choice([other for other in nodes if other != node]), moved_ms
    stints.append(Stint(node=node, start_ms=start_ms, end_ms=end_ms))
    return tuple(stint for stint in stints if stint.start_ms < stint.end_ms)


def _declare(
    plan: Plan, rng: Random, stints: dict[str, tuple[Stint, ...]], identity: dict[str, str], start_ms: int, end_ms: int
) -> list[Entry]:
    """Return a declared roster that follows the stints, and in `identity` what it calls each GPU."""
    entries = []
    for uuid, places in stints.items():
        if plan.has_strangers and rng.random() < 0.3:
            continue
        serial = f"serial-of-{uuid}"
        if plan.has_strangers and rng.random() < 0.4:
            identity[uuid] = f"serial:{serial}"
        model = rng.choice((None, "H100"))
        for index, stint in enumerate(places):
            is_last = index == len(places) - 1
            from_ms, to_ms = stint.start_ms, None if is_last else stint.end_ms
            if plan.has_retirements and rng.random() < 0.4:
                from_ms = some_time(rng, stint.start_ms, stint.end_ms - 1)
            if plan.has_retirements and rng.random() < 0.4:
                to_ms = some_time(rng, from_ms + 1, stint.end_ms)
            entries.append(
                Entry(
                    gpu=identity[uuid],
                    node=stint.node,
                    from_ms=from_ms,
                    to_ms=to_ms,
                    serial=serial if identity[uuid] != uuid else rng.choice((None, serial)),
                    site=f"site-of-{stint.node}",
                    model=model,
                )
            )
    if plan.has_strangers and rng.random() < 0.5:
        never_seen_ms = some_time(rng, start_ms, end_ms)
        entries.append(Entry(gpu="GPU-never-seen", node="node-0", from_ms=never_seen_ms, site="site-of-node-0"))
    rng.shuffle(entries)
    return entries


def _windows(rng: Random, nodes: list[str], entries: Sequence[Entry], start_ms: int, end_ms: int) -> list[Window]:
    windows = []
    for _ in range(rng.randint(1, 4)):
        begin_ms = min(some_time(rng, start_ms - CELL_MS, end_ms), some_time(rng, start_ms - CELL_MS, end_ms))
        finish_ms = max(some_time(rng, begin_ms, end_ms + CELL_MS), some_time(rng, begin_ms, end_ms + CELL_MS))
        gpus = sorted({entry.gpu for entry in entries}) or ["GPU-0"]
        node, gpu = rng.choice(
            ((rng.choice(nodes), None), (None, rng.choice(gpus)), (rng.choice(nodes), rng.choice(gpus)))
        )
        windows.append(
            Window(
                kind=rng.choice(list(WindowKind)),
                start_ms=begin_ms,
                end_ms=finish_ms,
                declared_ms=begin_ms + rng.choice((-CELL_MS, -1, -1, 0, 1)),
                node=node,
                gpu=gpu,
            )
        )
    return windows
