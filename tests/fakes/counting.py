# SPDX-License-Identifier: Apache-2.0
"""Agents that truly spent their time: what they count for an engine, and what they seal for the ledger, from one truth.

A GPU's life is a list of spans in one state; an agent's sessions say when it watched. Both ways lead from the same
milliseconds, so what differs between them is the way.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random

from gpuledger.cells import CELL_MS, SLICES_PER_GPU, split_at
from gpuledger.gpu_time import GpuTime
from gpuledger.reading import Reading
from gpuledger.states import ACTIVITY_EDGES_PPM, OBSERVED, State, activity_bin
from gpuledger_collector.ledger import Accepted

BUSY_PPM, HELD_PPM = 600_000, 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """One GPU: its spans (from, to, state) in order and without holes, and its agent's sessions (from, to)."""

    uuid: str
    node: str
    site: str
    spans: tuple[tuple[int, int, State], ...]
    sessions: tuple[tuple[int, int], ...]

    def spent(self, start_ms: int, end_ms: int) -> dict[State, int]:
        """Return the milliseconds by state of [start, end)."""
        found: dict[State, int] = {}
        first = max(0, bisect_right(self.spans, start_ms, key=lambda span: span[0]) - 1)
        for from_ms, to_ms, state in self.spans[first:]:
            if from_ms >= end_ms:
                break
            length_ms = min(to_ms, end_ms) - max(from_ms, start_ms)
            if length_ms > 0:
                found[state] = found.get(state, 0) + length_ms
        return found


def some_life(rng: Random, uuid: str, node: str, site: str, start_ms: int, end_ms: int, **more: object) -> Life:
    """Return a life of spans from seconds to hours, watched all the time unless `sessions` are given."""
    spans = []
    at_ms = start_ms
    while at_ms < end_ms:
        until_ms = min(
            end_ms, at_ms + rng.choice((7_000, 61_000, 600_000, 3_000_000, 15_000_000)) + rng.randint(0, 9_999)
        )
        spans.append((at_ms, until_ms, rng.choice((State.BUSY, State.BUSY, State.HELD, State.FREE, State.DOWN))))
        at_ms = until_ms
    sessions: tuple[tuple[int, int], ...] = more.get("sessions", ((start_ms, end_ms),))  # type: ignore[assignment]
    return Life(uuid=uuid, node=node, site=site, spans=tuple(spans), sessions=sessions)


def sealed(lives: Iterable[Life]) -> Iterator[Accepted]:
    """Yield what the agents sealed: a reading for each GPU, session and cell."""
    for life in lives:
        for number, (from_ms, to_ms) in enumerate(life.sessions):
            for start_ms, end_ms in split_at(from_ms, to_ms, CELL_MS):
                states = {state: ms * SLICES_PER_GPU for state, ms in life.spent(start_ms, end_ms).items()}
                yield _reading(life, f"session-{number}", start_ms, end_ms, states)


def _reading(life: Life, session: str, start_ms: int, end_ms: int, states: Mapping[State, int]) -> Accepted:
    bins = [0] * len(ACTIVITY_EDGES_PPM)
    bins[activity_bin(BUSY_PPM)] = states.get(State.BUSY, 0)
    bins[activity_bin(HELD_PPM)] = states.get(State.HELD, 0)
    busy_ns = states.get(State.BUSY, 0) * BUSY_PPM // SLICES_PER_GPU
    gpu = GpuTime(
        uuid=life.uuid,
        state_slice_ms=dict(states),
        bin_slice_ms=tuple(bins),
        active_ns=busy_ns + states.get(State.HELD, 0) * HELD_PPM // SLICES_PER_GPU,
        active_known_ms=end_ms - start_ms,
        activity_source="gpm",
    )
    reading = Reading(
        node_id=f"{life.node} {life.uuid}",
        node_name=life.node,
        session=session,
        sequence=start_ms,
        boot_id="",
        start_ms=start_ms,
        end_ms=end_ms,
        wall_start_ms=start_ms,
        wall_end_ms=end_ms,
        interval_ms=1000,
        agent_version="",
        configuration_digest="",
        previous="",
        gpus=(gpu,),
    )
    return Accepted(digest=f"{life.uuid} {session} {start_ms}", reading=reading)


# ------------------------------------------------------------------------------------------ what an engine scrapes

Samples = list[tuple[int, float]]
_Series = tuple[str, tuple[tuple[str, str], ...]]
"""Name and own labels."""


def scraped(
    lives: Sequence[Life],
    interval_ms: int,
    offset_ms: int,
    *,
    gaps: Sequence[tuple[int, int]] = (),
    is_simulated: bool = False,
) -> dict[str, list[tuple[dict[str, str], Samples]]]:
    """Return the agents' families as an engine has them that scraped at a pace, but not in the gaps."""
    found: dict[str, list[tuple[dict[str, str], Samples]]] = {}
    of_agents: set[tuple[str, str]] = set()
    for life in lives:
        target = {"job": "gpuledger", "instance": f"{life.node}:9400", "site": life.site}
        series: dict[_Series, Samples] = {}
        for from_ms, to_ms in life.sessions:
            first_ms = -(-(from_ms - offset_ms) // interval_ms) * interval_ms + offset_ms
            spent: dict[State, int] = {}
            counted_ms = from_ms
            for at_ms in range(first_ms, to_ms, interval_ms):
                tick_ms = at_ms - (at_ms - from_ms) % 1000
                for state, ms in life.spent(counted_ms, tick_ms).items():
                    spent[state] = spent.get(state, 0) + ms
                counted_ms = tick_ms
                if not any(start_ms <= at_ms < end_ms for start_ms, end_ms in gaps):
                    _show(life, at_ms, tick_ms, spent, series, is_simulated=is_simulated)
        for (name, own), samples in series.items():
            if name.startswith("gpuledger_agent_"):
                if (life.node, name) in of_agents:
                    continue
                of_agents.add((life.node, name))
            found.setdefault(name, []).append(({**dict(own), **target}, samples))
    return found


def _show(
    life: Life,
    at_ms: int,
    tick_ms: int,
    spent: Mapping[State, int],
    series: dict[_Series, Samples],
    *,
    is_simulated: bool,
) -> None:
    def add(name: str, value: float, **labels: str) -> None:
        series.setdefault((name, tuple(labels.items())), []).append((at_ms, value))

    add("gpuledger_agent_tick_timestamp_seconds", tick_ms / 1000)
    add("gpuledger_agent_info", 1.0, node=life.node, simulated=str(is_simulated).lower(), version="0")
    add(
        "gpuledger_gpu_info",
        1.0,
        uuid=life.uuid,
        model="NVIDIA H100 80GB HBM3",
        index=str(int(life.uuid[-1], 16) % 8),
        serial="1",
    )
    for state in OBSERVED:
        add("gpuledger_gpu_state_seconds_total", spent.get(state, 0) / 1000, uuid=life.uuid, state=state.value)
    busy, held = spent.get(State.BUSY, 0), spent.get(State.HELD, 0)
    add("gpuledger_gpu_active_seconds_total", (busy * BUSY_PPM + held * HELD_PPM) / 1e9, uuid=life.uuid)
    for edge_ppm in ACTIVITY_EDGES_PPM:
        below = (busy if edge_ppm >= BUSY_PPM else 0) + (held if edge_ppm >= HELD_PPM else 0)
        add("gpuledger_gpu_activity_seconds_bucket", below / 1000, uuid=life.uuid, le=repr(edge_ppm / 1e6))
    add("gpuledger_gpu_activity_seconds_bucket", (busy + held) / 1000, uuid=life.uuid, le="+Inf")
