# SPDX-License-Identifier: Apache-2.0
"""Signs: what the readings of one hour tell of a workload at one node, as small as verdicts allow. Pure.

Everything is a sum or a set by cell, so signs of nodes and hours can be put together in any order.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

from gpuledger.cells import HOUR_MS, floor_to
from gpuledger.hints import Hints
from gpuledger.states import FEATURES, State
from gpuledger.workload_time import REST, UNATTRIBUTED, WorkloadTime

HINTS_CACHED_MAX = 4_096
_TO_JSON = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode


class CellSign(NamedTuple):
    """A workload in one cell at one node: the hints of its processes, its slice-ms, and on how many GPUs.

    `hints` is None where nobody looked; `gpus` counts GPUs with time of any state.
    """

    cell_ms: int
    node: str
    hints: Hints | None
    busy_slice_ms: int
    held_slice_ms: int
    gpus: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HourSigns:
    """One workload (a digest) at one node in one hour; `features` are sums over the hour by the names of FEATURES."""

    hour_ms: int
    node: str
    site: str
    cluster: str
    workload: str
    user: str | None
    source: str | None
    cells: tuple[CellSign, ...]
    features: Mapping[str, int] = field(default_factory=dict)


class Seen(NamedTuple):
    """A workload's part of a reading that counts, and where the roster has its GPU."""

    cell_ms: int
    site: str
    cluster: str
    node: str
    part: WorkloadTime


def gather(seen: Iterable[Seen]) -> tuple[HourSigns, ...]:
    """Return the signs of all workloads in canonical order; what stands for many workloads is none."""
    found: dict[tuple[int, str, str], list[Seen]] = {}
    for one in seen:
        if one.part.workload not in (REST, UNATTRIBUTED):
            found.setdefault((floor_to(one.cell_ms, HOUR_MS), one.node, one.part.workload), []).append(one)
    return tuple(_hour_signs(hour_ms, parts) for (hour_ms, _, _), parts in sorted(found.items()))


def _hour_signs(hour_ms: int, parts: list[Seen]) -> HourSigns:
    cells: dict[tuple[int, Hints | None], list[int]] = {}
    gpus: dict[tuple[int, Hints | None], set[str]] = {}
    features: dict[str, int] = {}
    for one in parts:
        key = one.cell_ms, one.part.hints
        sums = cells.setdefault(key, [0, 0])
        sums[0] += one.part.state_slice_ms.get(State.BUSY, 0)
        sums[1] += one.part.state_slice_ms.get(State.HELD, 0)
        gpus.setdefault(key, set()).add(one.part.uuid)
        for name, amount in one.part.features.items():
            features[name] = features.get(name, 0) + amount
    first = parts[0]
    return HourSigns(
        hour_ms=hour_ms,
        node=first.node,
        site=first.site,
        cluster=first.cluster,
        workload=first.part.workload,
        # The least text, so that it does not matter which reading came first.
        user=min((one.part.user for one in parts if one.part.user is not None), default=None),
        source=min((one.part.source for one in parts if one.part.source is not None), default=None),
        cells=tuple(
            CellSign(cell_ms, first.node, hints, sums[0], sums[1], len(gpus[cell_ms, hints]))
            for (cell_ms, hints), sums in sorted(cells.items(), key=lambda item: (item[0][0], order(item[0][1])))
        ),
        features={name: features[name] for name in FEATURES if features.get(name)},
    )


def order(hints: Hints | None) -> tuple[object, ...]:
    """Return what hints are sorted by; None comes first."""
    if hints is None:
        return (0,)
    facts = (hints.listens, hints.world_size, hints.checkpoints)
    return (1, hints.table, hints.rules, *(-1 if fact is None else int(fact) for fact in facts))


# ---------------------------------------------------------------------------------------------- as bytes and back


def to_bytes(signs: HourSigns) -> bytes:
    """Return what a store keeps of the signs beside hour, node and workload; hints stand once each.

    Written for every live workload in every cell, so integers are packed and not spelt.
    """
    told: dict[Hints | None, int] = {}
    numbers = [len(signs.cells)]
    for cell_ms, _, hints, busy, held, gpus in signs.cells:
        numbers += (cell_ms - signs.hour_ms, told.setdefault(hints, len(told)), busy, held, gpus)
    names = _TO_JSON((signs.site, signs.cluster, signs.user, signs.source))
    texts = ",".join(map(_hints_text, told))
    return packed(f"[{names},[{texts}]]", (*numbers, *amounts(signs.features)))


def from_bytes(hour_ms: int, node: str, workload: str, data: bytes) -> HourSigns:
    """Return the signs that `to_bytes` wrote."""
    ((site, cluster, user, source), hints), numbers = unpacked(data)
    told = [_hints(item) for item in hints]
    count, rest = numbers[0], numbers[1:]
    cells = [rest[index : index + 5] for index in range(0, count * 5, 5)]
    return HourSigns(
        hour_ms=hour_ms,
        node=node,
        site=site,
        cluster=cluster,
        workload=workload,
        user=user,
        source=source,
        cells=tuple(
            CellSign(hour_ms + offset_ms, node, told[place], busy, held, gpus)
            for offset_ms, place, busy, held, gpus in cells
        ),
        features=named(rest[count * 5 :]),
    )


def packed(text: str, numbers: Sequence[int]) -> bytes:
    """Return a line of JSON and integers of eight bytes after it."""
    return text.encode("ascii") + b"\n" + struct.pack(f"<{len(numbers)}q", *numbers)


def unpacked(data: bytes) -> tuple[Any, tuple[int, ...]]:
    """Return what `packed` put together."""
    text, _, rest = data.partition(b"\n")
    return json.loads(text), struct.unpack(f"<{len(rest) // 8}q", rest)


@lru_cache(maxsize=HINTS_CACHED_MAX)
def _hints_text(hints: Hints | None) -> str:
    return _TO_JSON(_plain(hints))


def amounts(features: Mapping[str, int]) -> list[int]:
    """Return features in the order of FEATURES, which a store keeps without their names; 0 is absent."""
    get = features.get
    return [get(name, 0) for name in FEATURES]


def named(values: Iterable[int]) -> dict[str, int]:
    """Return the features that `amounts` wrote."""
    return {name: amount for name, amount in zip(FEATURES, values, strict=False) if amount}


def _plain(hints: Hints | None) -> list[Any] | None:
    if hints is None:
        return None
    return [hints.rules, hints.listens, hints.world_size, hints.checkpoints, hints.table]


def _hints(value: list[Any] | None) -> Hints | None:
    if value is None:
        return None
    rules, listens, world_size, checkpoints, table = value
    return Hints(rules=tuple(rules), listens=listens, world_size=world_size, checkpoints=checkpoints, table=table)
