# SPDX-License-Identifier: Apache-2.0
"""The roster: which GPUs are installed, where, from when to when, and what was declared about them.

Installed time comes from here, never from what happened to report. Pure: files are read by `roster_files`, discovery
is a function of the set of readings, so two collectors that saw the same readings know the same fleet.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import Enum

from gpuledger.cells import CELL_MS, ceil_to, floor_to

UNKNOWN_PLACE = "unknown"
"""Site, cluster or pool that nobody named."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One GPU at one node for one span; `to_ms` None means still in service.

    `gpu` is the identity used in the ledger: the UUID where it is known, else "serial:" and the board serial.
    """

    gpu: str
    node: str
    from_ms: int
    to_ms: int | None = None
    serial: str | None = None
    site: str = UNKNOWN_PLACE
    cluster: str = UNKNOWN_PLACE
    pool: str = UNKNOWN_PLACE
    model: str | None = None


class WindowKind(str, Enum):
    """What a declared window says; the value is the state it maps uncovered time to."""

    STANDBY = "standby"
    MAINTENANCE = "maintenance"


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A declared standby or maintenance; valid only if declared before it began.

    It is meant for every GPU of `node`, for `gpu` wherever it is, or, with both, for `gpu` while it is at `node`.
    """

    kind: WindowKind
    start_ms: int
    end_ms: int
    declared_ms: int
    node: str | None = None
    gpu: str | None = None

    @property
    def is_valid(self) -> bool:
        return self.declared_ms < self.start_ms

    def covers(self, entry: Entry, cell_ms: int) -> bool:
        """Return whether the whole cell is inside the window (inward rounding) and the GPU is meant."""
        if self.gpu is None and self.node is None:
            return False
        meant = self.gpu in {None, entry.gpu} and self.node in {None, entry.node}
        return meant and self.is_valid and self.start_ms <= cell_ms and cell_ms + CELL_MS <= self.end_ms


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """One node said that a GPU is in it, first and last within the readings seen."""

    gpu: str
    node: str
    first_ms: int
    serial: str | None = None
    model: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Roster:
    """All entries and windows; `is_declared` tells a declared roster from a discovered one."""

    entries: tuple[Entry, ...]
    windows: tuple[Window, ...] = ()
    is_declared: bool = False

    def by_gpu(self) -> Mapping[str, tuple[Entry, ...]]:
        """Return each GPU's entries in order of time."""
        found: dict[str, list[Entry]] = {}
        for entry in sorted(self.entries, key=lambda e: (e.gpu, e.from_ms, e.node)):
            found.setdefault(entry.gpu, []).append(entry)
        return {gpu: tuple(entries) for gpu, entries in found.items()}


def installed_cells(entries: tuple[Entry, ...], start_ms: int, end_ms: int) -> Iterable[tuple[int, Entry]]:
    """Yield (cell start, entry) for each installed cell of one GPU in [start_ms, end_ms), each cell once.

    Installed time rounds outward to cells. A cell that a move divides goes to the entry that was there first, so no
    GPU-time is counted at two nodes.
    """
    taken_to_ms = start_ms
    for entry in entries:
        first_ms = max(floor_to(entry.from_ms, CELL_MS), taken_to_ms)
        last_ms = end_ms if entry.to_ms is None else min(ceil_to(entry.to_ms, CELL_MS), end_ms)
        for cell_ms in range(first_ms, last_ms, CELL_MS):
            yield cell_ms, entry
        taken_to_ms = max(taken_to_ms, last_ms)


def discover(claims: Iterable[Claim], places: Mapping[str, tuple[str, str, str]], retired: Mapping[str, int]) -> Roster:
    """Return the roster that the claims themselves make, for a fleet without a declared one.

    A GPU belongs to the node that claimed it first (ties: the lesser name) from its first claimed cell on; only a
    retirement (`retired`: gpu -> POSIX ms) ends it. `places` gives (site, cluster, pool) by node.
    """
    known = list(claims)
    first: dict[str, Claim] = {}
    for claim in known:
        best = first.get(claim.gpu)
        if best is None or (claim.first_ms, claim.node) < (best.first_ms, best.node):
            first[claim.gpu] = claim
    nowhere = (UNKNOWN_PLACE, UNKNOWN_PLACE, UNKNOWN_PLACE)
    entries = []
    for gpu in sorted(first):
        claim = first[gpu]
        site, cluster, pool = places.get(claim.node, nowhere)
        entries.append(
            Entry(
                gpu=gpu,
                node=claim.node,
                from_ms=claim.first_ms,
                to_ms=retired.get(gpu),
                site=site,
                cluster=cluster,
                pool=pool,
            )
        )
    return complete(Roster(entries=tuple(entries)), known)


def complete(roster: Roster, claims: Iterable[Claim]) -> Roster:
    """Return the roster with the serial and model it does not give, as the entry's own node first reported them.

    A ledger groups by the roster alone, never by what reported in an hour; so what is missing is filled in here, for
    all time at once, and dark hours stay in the group of the GPU.
    """
    by_gpu: dict[tuple[str, str], list[Claim]] = {}
    for claim in sorted(claims, key=lambda c: (c.first_ms, c.serial or "", c.model or "")):
        by_gpu.setdefault((claim.gpu, claim.node), []).append(claim)
        if claim.serial is not None:
            by_gpu.setdefault((f"serial:{claim.serial}", claim.node), []).append(claim)
    entries = []
    for entry in roster.entries:
        own = by_gpu.get((entry.gpu, entry.node), [])
        serial = next((claim.serial for claim in own if claim.serial is not None), None)
        model = next((claim.model for claim in own if claim.model is not None), None)
        entries.append(
            replace(
                entry,
                serial=serial if entry.serial is None else entry.serial,
                model=model if entry.model is None else entry.model,
            )
        )
    return replace(roster, entries=tuple(entries))
