# SPDX-License-Identifier: Apache-2.0
"""The lease book: who leases which GPUs, or how many of a pool, and what that makes of GPU time (accounting.md, 3).

The commercial axis divides installed time as the states do. A lease that names GPUs or nodes says of each cell whose it
is. A lease of n GPUs of a pool of N says only how many: it meets X of a state in [max(0, n + X - N), min(n, X)].
Leases round inward to cells. Pure: files are read by `lease_files`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from gpuledger.cells import CELL_MS, CELL_SLICE_MS, ceil_to
from gpuledger.states import State
from gpuledger_collector.roster import Entry


class Commercial(str, Enum):
    """What a GPU's time is commercially; the first four are what a lease that runs can be."""

    PAID = "paid"
    """By a customer who is not related to the operator."""
    RELATED = "related"
    INTERNAL = "internal"
    VOUCHER = "voucher"
    """Free of charge."""
    SIGNED = "signed"
    """Leased, and the lease has not commenced."""
    UNSOLD = "unsold"
    UNDECLARED = "undeclared"
    """No lease book speaks of it, or two leases do."""

    __hash__ = str.__hash__  # as for gpuledger.states.State

    def __str__(self) -> str:
        return self.value


LEASE_KINDS = (Commercial.VOUCHER, Commercial.INTERNAL, Commercial.RELATED, Commercial.PAID)
"""In the order in which an oversold pool serves them: what is said to be paid for comes last."""


class Several(str, Enum):
    """States whose bounds together are closer than the sums of theirs, where a lease is of a number of a pool."""

    DELIVERED = "delivered"
    DELIVERED_OR_DARK = "delivered_or_dark"
    USED_OR_UNKNOWN = "used_or_unknown"
    SOLD_IDLE = "sold_idle"

    __hash__ = str.__hash__  # as for gpuledger.states.State

    def __str__(self) -> str:
        return self.value


_DELIVERED = (State.BUSY, State.HELD, State.RESERVED, State.UNMEASURED)
STATES_OF: Mapping[Several, tuple[State, ...]] = {
    Several.DELIVERED: _DELIVERED,
    Several.DELIVERED_OR_DARK: (*_DELIVERED, State.DARK),
    Several.USED_OR_UNKNOWN: (State.BUSY, State.DARK, State.UNMEASURED),
    Several.SOLD_IDLE: (State.HELD, State.RESERVED),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """One lease, of `gpus` (as the roster names them) and the GPUs at `nodes`, or of `count` GPUs of `pool`.

    `signed_ms` None: it was signed when it commenced. `site` None: the pool at every site.
    """

    name: str
    tenant: str
    kind: Commercial
    from_ms: int
    to_ms: int | None = None
    signed_ms: int | None = None
    gpus: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()
    pool: str | None = None
    site: str | None = None
    count: int | None = None
    price: str | None = None

    def runs_in(self, cell_ms: int) -> bool:
        """Return whether the lease runs throughout the cell."""
        return self.from_ms <= cell_ms and (self.to_ms is None or cell_ms + CELL_MS <= self.to_ms)

    def is_signed_in(self, cell_ms: int) -> bool:
        """Return whether the lease is signed throughout the cell, which is before it commences."""
        return self.signed_ms is not None and self.signed_ms <= cell_ms < ceil_to(self.from_ms, CELL_MS)

    def is_of_pool(self, entry: Entry) -> bool:
        return self.pool is not None and entry.pool == self.pool and self.site in {None, entry.site}


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What one lease, or none, had of some cells: its time, and of each state at least `low` and at most `high`.

    All in slice-ms. Shares of the same place, lease and kind add up (`add_shares`), and so do their bounds. `site` is
    None where a pool is leased as a whole: which site's GPUs were meant nobody said.
    """

    site: str | None
    pool: str
    kind: Commercial
    lease: str | None
    slice_ms: int
    low_slice_ms: Mapping[State, int]
    high_slice_ms: Mapping[State, int]
    low_of_slice_ms: Mapping[Several, int]
    high_of_slice_ms: Mapping[Several, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Conflict:
    """What cannot be: a GPU under two leases, or a pool that is leased out more than once over."""

    kind: str
    subject: str
    text: str


@dataclass(slots=True, kw_only=True)
class _Group:
    """GPUs of one pool in one cell which no lease names, and how many of them are signed for by name."""

    entry: Entry
    count: int = 0
    signed: int = 0
    total: dict[State, int] = field(default_factory=dict)


class LeaseBook:
    """All leases; speaks of cells from `from_ms` on, before which nothing is declared.

    A pool is leased by site or as a whole: its leases all name a site, or none does.
    """

    def __init__(self, leases: Iterable[Lease], from_ms: int) -> None:
        self.leases = tuple(sorted(leases, key=lambda lease: lease.name))
        self.from_ms = from_ms
        self._by_gpu: dict[str, list[Lease]] = {}
        self._by_node: dict[str, list[Lease]] = {}
        for lease in self.leases:
            for gpu in lease.gpus:
                self._by_gpu.setdefault(gpu, []).append(lease)
            for node in lease.nodes:
                self._by_node.setdefault(node, []).append(lease)
        self._of_pools = tuple(lease for lease in self.leases if lease.pool is not None)
        self._whole_pools = {lease.pool for lease in self._of_pools if lease.site is None}

    def naming(self, entry: Entry) -> list[Lease]:
        """Return the leases that name the GPU or its node, each once, in order of name."""
        found = self._by_gpu.get(entry.gpu, []) + self._by_node.get(entry.node, [])
        return sorted(set(found), key=lambda lease: lease.name) if len(found) > 1 else found

    def is_leased(self, entry: Entry, cell_ms: int) -> bool:
        """Return whether a lease that names the GPU or its node runs throughout the cell."""
        return any(lease.runs_in(cell_ms) for lease in self.naming(entry))

    def share_cell(
        self, cell_ms: int, installed: Sequence[tuple[Entry, Mapping[State, int]]]
    ) -> tuple[list[Share], list[Conflict]]:
        """Return what each lease and kind had of a cell, in which these GPUs with these states were installed.

        The shares' time sums to the installed time.
        """
        shares = CellShares(self, cell_ms)
        for entry, states in installed:
            shares.add(entry, states)
        return shares.close()

    def group_of(self, entry: Entry) -> tuple[str, str | None]:
        """Return the pool, and the site unless the pool is leased as a whole, to whose leases a GPU may belong."""
        return entry.pool, None if entry.pool in self._whole_pools else entry.site

    def share_groups(
        self, cell_ms: int, groups: Mapping[tuple[str, str | None], _Group]
    ) -> tuple[list[Share], list[Conflict]]:
        """Return what the leases of pools had of the GPUs that no lease names, and which pools did not suffice."""
        shares: list[Share] = []
        conflicts: list[Conflict] = []
        left = {lease.name: lease.count or 0 for lease in self._of_pools if lease.runs_in(cell_ms)}
        for key in sorted(groups, key=lambda key: (key[0], key[1] or "")):
            shares += self._share_group(cell_ms, key, groups[key], left)
        for lease in self._of_pools:
            if left.get(lease.name, 0) > 0:
                where = lease.pool if lease.site is None else f"{lease.pool} at {lease.site}"
                text = f"lease {lease.name} is of {left[lease.name]} GPUs more than pool {where} had left"
                conflicts.append(Conflict(kind="oversold", subject=lease.name, text=text))
        return shares, conflicts

    def _share_group(
        self, cell_ms: int, place: tuple[str, str | None], group: _Group, left: dict[str, int]
    ) -> list[Share]:
        """Give the GPUs of a group to the leases of its pool, as far as they go; `left` is what each still wants."""
        room = group.count
        counts: list[tuple[Commercial, str | None, int]] = []
        own = [lease for lease in self._of_pools if lease.is_of_pool(group.entry)]
        for lease in sorted(own, key=lambda lease: (LEASE_KINDS.index(lease.kind), lease.name)):
            taken = min(left.get(lease.name, 0), room)
            if taken > 0:
                left[lease.name] -= taken
                room -= taken
                counts.append((lease.kind, lease.name, taken))
        signed = group.signed + sum(lease.count or 0 for lease in own if lease.is_signed_in(cell_ms))
        counts.append((Commercial.SIGNED, None, min(signed, room)))
        counts.append((Commercial.UNSOLD, None, room - min(signed, room)))
        return [_bounded(place, kind, lease, count, group) for kind, lease, count in counts if count > 0]


class CellShares:
    """What each lease and kind had of one cell, in which the GPUs that are added were installed."""

    def __init__(self, book: LeaseBook, cell_ms: int) -> None:
        self._book = book
        self._cell_ms = cell_ms
        self._shares: list[Share] = []
        self._conflicts: list[Conflict] = []
        self._groups: dict[tuple[str, str | None], _Group] = {}

    def add(self, entry: Entry, states: Mapping[State, int]) -> None:
        """Add one GPU and its states, which sum to the cell."""
        if self._cell_ms < self._book.from_ms:
            self._shares.append(_exact(entry.site, entry.pool, Commercial.UNDECLARED, None, states))
            return
        named = self._book.naming(entry)
        running = [lease for lease in named if lease.runs_in(self._cell_ms)]
        if len(running) == 1:
            self._shares.append(_exact(entry.site, entry.pool, running[0].kind, running[0].name, states))
        elif running:
            self._shares.append(_exact(entry.site, entry.pool, Commercial.UNDECLARED, None, states))
            names = ", ".join(lease.name for lease in running)
            text = f"{entry.gpu} at {entry.node} is under the leases {names} at once; its time counts as undeclared"
            self._conflicts.append(Conflict(kind="double_lease", subject=entry.gpu, text=text))
        else:
            group = self._groups.setdefault(self._book.group_of(entry), _Group(entry=entry))
            group.count += 1
            group.signed += any(lease.is_signed_in(self._cell_ms) for lease in named)
            for state, amount in states.items():
                group.total[state] = group.total.get(state, 0) + amount

    def close(self) -> tuple[list[Share], list[Conflict]]:
        """Return the shares, whose time sums to the installed time, and what cannot be."""
        if self._cell_ms < self._book.from_ms:
            return self._shares, []
        shares, conflicts = self._book.share_groups(self._cell_ms, self._groups)
        return [*self._shares, *shares], [*self._conflicts, *conflicts]


def _exact(site: str, pool: str, kind: Commercial, lease: str | None, states: Mapping[State, int]) -> Share:
    of = _of(states)
    return Share(
        site=site,
        pool=pool,
        kind=kind,
        lease=lease,
        slice_ms=sum(states.values()),
        low_slice_ms=states,
        high_slice_ms=states,
        low_of_slice_ms=of,
        high_of_slice_ms=of,
    )


def _of(states: Mapping[State, int]) -> dict[Several, int]:
    return {several: sum(states.get(state, 0) for state in some) for several, some in STATES_OF.items()}


def _bounded(place: tuple[str, str | None], kind: Commercial, lease: str | None, count: int, group: _Group) -> Share:
    """Return the share of `count` GPUs of a group: of each state what they had at least and at most."""
    own, whole = count * CELL_SLICE_MS, group.count * CELL_SLICE_MS
    of = _of(group.total)
    return Share(
        site=place[1],
        pool=place[0],
        kind=kind,
        lease=lease,
        slice_ms=own,
        low_slice_ms={state: own + amount - whole for state, amount in group.total.items() if own + amount > whole},
        high_slice_ms={state: min(own, amount) for state, amount in group.total.items() if amount > 0},
        low_of_slice_ms={several: max(own + amount - whole, 0) for several, amount in of.items()},
        high_of_slice_ms={several: min(own, amount) for several, amount in of.items()},
    )


def add_shares(shares: Iterable[Share]) -> list[Share]:
    """Return one share for each place, lease and kind, in order of kind, lease, pool and site."""
    sums: dict[tuple[str | None, str, Commercial, str | None], Sum] = {}
    for share in shares:
        key = share.site, share.pool, share.kind, share.lease
        if key not in sums:
            sums[key] = Sum()
        sums[key].add(share)
    order = list(Commercial)
    found = [
        Share(
            site=site,
            pool=pool,
            kind=kind,
            lease=lease,
            slice_ms=total.slice_ms,
            low_slice_ms=total.low,
            high_slice_ms=total.high,
            low_of_slice_ms=total.low_of,
            high_of_slice_ms=total.high_of,
        )
        for (site, pool, kind, lease), total in sums.items()
    ]
    return sorted(found, key=lambda one: (order.index(one.kind), one.lease or "", one.pool, one.site or ""))


class Sum:
    """Shares of one place, lease and kind, added up."""

    __slots__ = ("high", "high_of", "low", "low_of", "slice_ms")

    def __init__(self) -> None:
        self.slice_ms = 0
        self.low: dict[State, int] = {}
        self.high: dict[State, int] = {}
        self.low_of: dict[Several, int] = {}
        self.high_of: dict[Several, int] = {}

    def add(self, share: Share) -> None:
        self.slice_ms += share.slice_ms
        for state, amount in share.low_slice_ms.items():
            self.low[state] = self.low.get(state, 0) + amount
        for state, amount in share.high_slice_ms.items():
            self.high[state] = self.high.get(state, 0) + amount
        for several, amount in share.low_of_slice_ms.items():
            self.low_of[several] = self.low_of.get(several, 0) + amount
        for several, amount in share.high_of_slice_ms.items():
            self.high_of[several] = self.high_of.get(several, 0) + amount


def undeclared(site: str, pool: str, states: Mapping[State, int]) -> Share:
    """Return the share of GPUs of which no lease book speaks."""
    return _exact(site, pool, Commercial.UNDECLARED, None, states)
