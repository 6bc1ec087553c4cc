# SPDX-License-Identifier: Apache-2.0
"""What turns one roster into another, and whether that changes the past: the bridge of installed GPUs. Pure.

A roster's history is only added to: an entry may end, and entries may begin, from now on. Whatever else changes
what was installed before, and with it figures that somebody may hold.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from gpuledger_collector.roster import Entry


class Change(str, Enum):
    """What happened to a GPU's entry."""

    ADDED = "added"
    RETIRED = "retired"
    MOVED = "moved"
    REMOVED = "removed"
    CHANGED = "changed"


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryChange:
    """One difference between two rosters; `rewrites_past` is set where installed time before `now_ms` changes."""

    change: Change
    gpu: str
    text: str
    rewrites_past: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Bridge:
    """GPUs installed at the start and the end of a span and what lies between: opening + added - retired = closing."""

    opening: int
    added: int
    retired: int
    closing: int


def compare(before: Iterable[Entry], after: Iterable[Entry], now_ms: int) -> list[EntryChange]:
    """Return what turns one roster into the other, by GPU in order of time."""
    old, new = _by_gpu(before), _by_gpu(after)
    changes: list[EntryChange] = []
    for gpu in sorted(old.keys() | new.keys()):
        changes += _compare_gpu(old.get(gpu, ()), new.get(gpu, ()), now_ms)
    return changes


def bridge(entries: Iterable[Entry], start_ms: int, end_ms: int) -> Bridge:
    """Return the bridge of [start_ms, end_ms): a GPU counts once, wherever it moves."""
    opening = added = retired = closing = 0
    for spans in _by_gpu(entries).values():
        at_start = any(_is_installed(entry, start_ms) for entry in spans)
        at_end = any(_is_installed(entry, end_ms) for entry in spans)
        opening += at_start
        closing += at_end
        added += at_end and not at_start
        retired += at_start and not at_end
    return Bridge(opening=opening, added=added, retired=retired, closing=closing)


def _is_installed(entry: Entry, time_ms: int) -> bool:
    return entry.from_ms <= time_ms and (entry.to_ms is None or time_ms < entry.to_ms)


def _by_gpu(entries: Iterable[Entry]) -> Mapping[str, Sequence[Entry]]:
    found: dict[str, list[Entry]] = {}
    for entry in sorted(entries, key=lambda entry: (entry.gpu, entry.from_ms, entry.node)):
        found.setdefault(entry.gpu, []).append(entry)
    return found


def _compare_gpu(old: Sequence[Entry], new: Sequence[Entry], now_ms: int) -> list[EntryChange]:
    changes: list[EntryChange] = []
    new_at = {entry.from_ms: entry for entry in new}
    old_at = {entry.from_ms: entry for entry in old}
    for entry in old:
        kept = new_at.get(entry.from_ms)
        if kept is None:
            text = f"{entry.gpu} at {entry.node} is no longer in the roster"
            changes.append(_change(Change.REMOVED, entry, text, entry.from_ms < now_ms))
        elif kept != entry:
            changes += _compare_entry(entry, kept, now_ms)
    for entry in new:
        if entry.from_ms not in old_at:
            is_move = any(other.to_ms is not None and other.to_ms <= entry.from_ms for other in new)
            change, what = (Change.MOVED, "moves to") if is_move else (Change.ADDED, "is added at")
            changes.append(_change(change, entry, f"{entry.gpu} {what} {entry.node}", entry.from_ms < now_ms))
    return changes


def _compare_entry(old: Entry, new: Entry, now_ms: int) -> list[EntryChange]:
    changes = []
    if old.to_ms != new.to_ms:
        ends = [time_ms for time_ms in (old.to_ms, new.to_ms) if time_ms is not None]
        text = f"{old.gpu} at {old.node} " + ("ends" if new.to_ms is not None else "does not end any more")
        changes.append(_change(Change.RETIRED, new, text, min(ends) < now_ms))
    facts = ("node", "site", "cluster", "pool", "serial", "model")
    differing = [name for name in facts if getattr(old, name) != getattr(new, name)]
    if differing:
        told = ", ".join(f"{name} {getattr(old, name)} -> {getattr(new, name)}" for name in differing)
        changes.append(_change(Change.CHANGED, new, f"{old.gpu} at {old.node}: {told}", old.from_ms < now_ms))
    return changes


def _change(change: Change, entry: Entry, text: str, rewrites_past: bool) -> EntryChange:
    return EntryChange(change=change, gpu=entry.gpu, text=text, rewrites_past=rewrites_past)
