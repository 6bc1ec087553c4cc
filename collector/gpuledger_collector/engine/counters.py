# SPDX-License-Identifier: Apache-2.0
"""Counters of seconds become hours of states. Pure.

What a counter grew by between two samples was spent between the agent's ticks that they show; it is laid out evenly
over that time, so sums over hours and days are exact but for their two ends. A counter that fell began again at 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from gpuledger.cells import HOUR_MS, SLICES_PER_GPU, floor_to, split_at
from gpuledger.states import ACTIVITY_EDGES_PPM, THETA_PPM, State, activity_bin
from gpuledger_collector.engine.gauges import Cell

SOURCE = "counters of the agent"
SPAN_MS_MAX = HOUR_MS + 600_000
"""Samples further apart say what was spent, but not when: that time stays dark."""
_SLACK_MS = 1_000
"""An agent whose clock is off by more begins a new session."""
_ROUNDING_SLICE_MS = 10 * SLICES_PER_GPU
"""Each of seven counters is rounded where it is laid out over hours."""
_SLICE_MS_PER_SECOND = 1000 * SLICES_PER_GPU
_SLICE_NS_PER_SECOND = 1_000_000_000 * SLICES_PER_GPU

WHOLE = ""
"""The instance of what is about an undivided GPU, or about what no instance of a divided one has."""

Key = tuple[str, str, str]
"""Counter, its label, and GPU instance: ("state", "busy", ""), ("reason", "gap", ""), ("active", "", "7")."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One GPU's counters in seconds at the agent's tick `time_ms`."""

    time_ms: int
    seconds: Mapping[Key, float]


_Amounts = dict[tuple[str, str], int]
"""Slice-ms (slice-ns of "active") of one hour by counter and label, of the GPU with all its instances."""


def hours_of(points: Iterable[Point], start_ms: int, end_ms: int) -> dict[int, Cell]:
    """Return what one agent's counters of one GPU say of the hours (by start) of [start_ms, end_ms).

    Of an hour that the span cuts off only the part within it.
    """
    amounts: dict[int, _Amounts] = {}
    for before, after in pairwise(sorted(points, key=lambda point: point.time_ms)):
        if after.time_ms > before.time_ms:
            _lay_out(before, after, start_ms, end_ms, amounts)
    hours = {}
    for hour_ms, found in sorted(amounts.items()):
        length_ms = min(hour_ms + HOUR_MS, end_ms) - max(hour_ms, start_ms)
        hour = _hour(found, length_ms * SLICES_PER_GPU)
        if hour.covered_ms > 0:
            hours[hour_ms] = hour
    return hours


def fell(before: Mapping[Key, float], after: Mapping[Key, float]) -> bool:
    """Return whether any counter is less than it was, or gone: the agent, or an instance of the GPU, began again."""
    return any(after.get(key, -1.0) < value for key, value in before.items())


def _grown(before: Mapping[Key, float], after: Mapping[Key, float]) -> dict[Key, float]:
    """Return what each counter of one life of the agent grew by; a new instance, of any number, began at 0."""
    fallen = {key[2] for key, value in before.items() if after.get(key, -1.0) < value}
    return {key: value - (0.0 if key[2] in fallen else before.get(key, 0.0)) for key, value in after.items()}


def _lived_s(grown: Mapping[Key, float]) -> float:
    return sum(value for (counter, _, _), value in grown.items() if counter in {"state", "reason"})


def _lay_out(before: Point, after: Point, start_ms: int, end_ms: int, amounts: dict[int, _Amounts]) -> None:
    from_ms = before.time_ms
    # Instances come and go; what the whole GPU has falls only where the agent began again.
    if fell({key: value for key, value in before.seconds.items() if key[2] == WHOLE}, after.seconds):
        grown = dict(after.seconds)
        from_ms = max(from_ms, after.time_ms - round(_lived_s(grown) * 1000))
    else:
        grown = _grown(before.seconds, after.seconds)
    length_ms = after.time_ms - from_ms
    spent_s = sum(value for (counter, _, _), value in grown.items() if counter == "state")
    if not 0 < length_ms <= SPAN_MS_MAX or spent_s * 1000 > length_ms + _SLACK_MS:
        return
    pieces = list(split_at(max(from_ms, start_ms), min(after.time_ms, end_ms), HOUR_MS))
    for key, value in grown.items():
        if value == 0:
            continue
        total = round(value * (_SLICE_NS_PER_SECOND if key[0] == "active" else _SLICE_MS_PER_SECOND))
        for piece_ms, piece_end_ms in pieces:
            amount = total * (piece_end_ms - from_ms) // length_ms - total * (piece_ms - from_ms) // length_ms
            hour = amounts.setdefault(floor_to(piece_ms, HOUR_MS), {})
            hour[key[:2]] = hour.get(key[:2], 0) + amount


def _hour(found: _Amounts, most_slice_ms: int) -> Cell:
    states = {State(label): amount for (counter, label), amount in found.items() if counter == "state"}
    left = most_slice_ms - sum(states.values())
    if states and left <= _ROUNDING_SLICE_MS:
        # Rounding, or a clock that is a little off: an hour that was all covered is all covered.
        largest = max(states, key=lambda state: states[state])
        states[largest] += max(left, -states[largest])
    total = sum(states.values())
    bins = _bins({label: amount for (counter, label), amount in found.items() if counter == "le"}, states)
    known = total - states.get(State.UNMEASURED, 0)
    active = found.get(("active", ""), 0)
    return Cell(
        covered_ms=total // SLICES_PER_GPU,
        state_slice_ms={state: amount for state, amount in states.items() if amount > 0},
        bin_slice_ms=bins,
        active_slice_ns=min(active, known * 1_000_000),
        active_known_slice_ms=known,
        sources={SOURCE},
    )


def _bins(cumulative: Mapping[str, int], states: Mapping[State, int]) -> list[int]:
    """Return busy and held time in each bin, from the buckets of a histogram by their upper edges.

    Without a histogram all that is known is on which side of the threshold the states are.
    """
    bins = [0] * len(ACTIVITY_EDGES_PPM)
    busy, held = states.get(State.BUSY, 0), states.get(State.HELD, 0)
    if not cumulative:
        bins[activity_bin(THETA_PPM)], bins[activity_bin(THETA_PPM + 1)] = held, busy
        return bins
    by_edge = {round(float(label) * 1_000_000): amount for label, amount in cumulative.items() if label != "+Inf"}
    below = 0
    for index, edge_ppm in enumerate(ACTIVITY_EDGES_PPM):
        reached = max(below, by_edge.get(edge_ppm, below))
        bins[index] = reached - below
        below = reached
    # Each counter was rounded by itself.
    largest = max(range(len(bins)), key=lambda index: bins[index])
    bins[largest] = max(0, bins[largest] + busy + held - sum(bins))
    return bins


def irregular_hours(edges: Sequence[Point | None], counts: Sequence[float | None]) -> list[int]:
    """Return the numbers of the hours that need all their samples: something is in them that their edges do not tell.

    `edges` are at the hours' starts and at the last one's end, `counts` the samples in each hour. An hour without
    samples has nothing to tell; one between two edges without a restart is told by them, unless an instance that had
    some of the time came and went between them.
    """
    found = []
    for number, count in enumerate(counts):
        before, after = edges[number], edges[number + 1]
        if count is None or count == 0:
            continue
        if (
            before is None
            or after is None
            or fell(before.seconds, after.seconds)
            or after.time_ms - before.time_ms - 1000 * _lived_s(_grown(before.seconds, after.seconds)) > _SLACK_MS
        ):
            found.append(number)
    return found
