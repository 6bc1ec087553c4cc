# SPDX-License-Identifier: Apache-2.0
"""A fleet cut into parts that the ledger can work out one by one: what is about one GPU is never in two. Pure.

Nodes belong together that ever said they had one and the same GPU, that the roster gives one, or that one key wrote
for. All others share nothing, so that the ledger of a fleet is the ledgers of its parts, put together.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Generic, Protocol, TypeVar

from gpuledger_collector.roster import Claim, Entry, Roster


class Located(Protocol):
    """A reading, as far as it is looked at here: the name it bears, and a number for its key."""

    @property
    def node(self) -> str: ...

    @property
    def node_key(self) -> int: ...


_Item = TypeVar("_Item", bound=Located)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard(Generic[_Item]):
    """Some nodes: their readings, and the roster of all GPUs that are, or are said to be, in them."""

    readings: tuple[_Item, ...]
    roster: Roster


def cut(readings: Sequence[_Item], roster: Roster, claims: Iterable[Claim], readings_max: int) -> list[Shard[_Item]]:
    """Return the shards of a fleet, each of about so many readings, more where nodes cannot be parted.

    `claims` must have every GPU that any of the readings speaks of.
    """
    groups = _Groups()
    home: dict[str, str] = {}
    for gpu, node in _places(roster, claims):
        groups.join(home.setdefault(gpu, node), node)
    named: dict[int, str] = {}
    for item in readings:
        groups.join(named.setdefault(item.node_key, item.node), item.node)
    items: dict[str, list[_Item]] = {}
    for item in readings:
        items.setdefault(groups.of(item.node), []).append(item)
    entries: dict[str, list[Entry]] = {}
    for entry in roster.entries:
        entries.setdefault(groups.of(entry.node), []).append(entry)
    parts: list[list[str]] = []
    room = 0
    for name in sorted(items.keys() | entries.keys()):
        # GPUs that nothing is said about have rows all the same.
        length = max(1, len(items.get(name, ())))
        if not parts or length > room:
            parts.append([])
            room = readings_max
        parts[-1].append(name)
        room -= length
    return [
        Shard(
            readings=tuple(item for name in part for item in items.get(name, ())),
            roster=replace(roster, entries=tuple(entry for name in part for entry in entries.get(name, ()))),
        )
        for part in parts
    ]


def _places(roster: Roster, claims: Iterable[Claim]) -> Iterator[tuple[str, str]]:
    """Yield (GPU, node) for whatever anybody says, by every name that the GPU may have."""
    for entry in roster.entries:
        yield entry.gpu, entry.node
    for claim in claims:
        yield claim.gpu, claim.node
        if claim.serial is not None:
            yield f"serial:{claim.serial}", claim.node


class _Groups:
    """Names that belong together; `of` gives one name for all of a group."""

    def __init__(self) -> None:
        self._above: dict[str, str] = {}

    def of(self, name: str) -> str:
        path = []
        while (above := self._above.get(name, name)) != name:
            path.append(name)
            name = above
        for passed in path:
            self._above[passed] = name
        return name

    def join(self, one: str, other: str) -> None:
        if one != other:
            self._above[self.of(one)] = self.of(other)
