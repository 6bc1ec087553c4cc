# SPDX-License-Identifier: Apache-2.0
"""What went over one GPU's links in a tick, and what its counters bridge that no mean covers. Pure.

A mean is of one tick. Where a tick has none, the counters that proved themselves go on from where a mean or a count
last stood, over whole covered time: a missed sample, or a gap, costs nothing then. Nothing is counted twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gpuledger.cells import share_by_weight
from gpuledger.states import LINKS, Uncovered
from gpuledger_agent.counters import bytes_since, share_of
from gpuledger_agent.snapshot import Count, GpuSnapshot
from gpuledger_agent.tally import Part


@dataclass(frozen=True, slots=True)
class Amount:
    """Bytes over a link, or ns of an engine, in the last `time_ms` up to the tick's edge."""

    name: str
    amount: int
    time_ms: int


class Bridge:
    """One GPU's counters where they last stood: count, and how long ago that was in ms."""

    __slots__ = ("_bases",)

    def __init__(self) -> None:
        self._bases: dict[str, tuple[Count, int]] = {}

    def cross(self, seen: GpuSnapshot, part: Part, gap_ms: int, age_ms_max: int) -> tuple[list[Amount], list[Amount]]:
        """Take in one tick of `gap_ms`; return what to add for engines, beside their means, and for links."""
        if isinstance(part.result, Uncovered) or not seen.is_looked_at:
            # What was not covered, or was before a loss, is no time to say anything of.
            self._bases = {name: (count, 0) for name, count in seen.counts.items()}
            return [], []
        is_believed = part.are_engines_believed
        is_meant = part.is_single and is_believed
        engines: list[Amount] = []
        for engine, mean_ppm in (("sm", seen.sm_active_ppm), ("tensor", seen.tensor_active_ppm)):
            base = self._move(engine, seen, gap_ms, age_ms_max, (is_meant and mean_ppm is not None) or not is_believed)
            if base is not None:
                time_ms = base[1] + gap_ms
                active_ns = share_of(base[0], seen.counts[engine], time_ms * 1_000_000)
                if active_ns is not None:
                    engines.append(Amount(engine, active_ns, time_ms))
        links: list[Amount] = []
        for link in LINKS:
            carried = seen.link_bytes.get(link) if is_meant else None
            base = self._move(link, seen, gap_ms, age_ms_max, carried is not None or not is_believed)
            if carried is not None:
                if gap_ms > 0:
                    links.append(Amount(link, carried, gap_ms))
            elif base is not None:
                time_ms = base[1] + gap_ms
                grown = bytes_since(base[0], seen.counts[link], link, time_ms)
                if grown is not None:
                    links.append(Amount(link, grown, time_ms))
        return engines, links

    def _move(
        self, name: str, seen: GpuSnapshot, gap_ms: int, age_ms_max: int, is_told: bool
    ) -> tuple[Count, int] | None:
        """Move a base on by one tick; return it as it was where the counter bridges from it to now."""
        count = seen.counts.get(name)
        base = self._bases.pop(name, None)
        if count is not None:
            self._bases[name] = (count, 0)
        elif base is not None and not is_told and base[1] + gap_ms <= age_ms_max:
            self._bases[name] = (base[0], base[1] + gap_ms)
        if is_told or base is None or count is None or not 0 < base[1] + gap_ms <= age_ms_max:
            return None
        return base


def cut(amounts: Sequence[Amount], pieces: Sequence[tuple[int, int]], span_start_ms: int) -> list[list[Amount]]:
    """Return the amounts of each piece of a tick; what was before the open span began is in no piece.

    Time before the tick's own pieces, within the open span, counts for the first of them.
    """
    found: list[list[Amount]] = [[] for _ in pieces]
    for whole in amounts:
        since_ms = pieces[-1][1] - whole.time_ms
        begin_ms = max(since_ms, span_start_ms)
        weights = [pieces[0][1] - begin_ms, *(end_ms - start_ms for start_ms, end_ms in pieces[1:])]
        shares = [whole.amount]
        if begin_ms > since_ms or len(pieces) > 1:
            shares = share_by_weight(whole.amount, [begin_ms - since_ms, *weights])[1:]
        for parts, share, time_ms in zip(found, shares, weights, strict=True):
            parts.append(Amount(whole.name, share, time_ms))
    return found
