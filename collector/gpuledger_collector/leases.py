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

    All in slice-ms. Shares of the same lease and kind add up, and so do their bounds.
    """

    kind: Commercial
    lease: str | None
    slice_ms: int
    low_slice_ms: Mapping[State, int]
    high_slice_ms: Mapping[State, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Conflict:
    """What cannot be: a GPU under two leases, or a pool that is leased out more than once over."""

    kind: str
    subject: str
    text: str


@dataclass(slots=True, kw_only=True)
class _Group:
    """GPUs of one pool in one cell which no lease names, and how many of them are signed for by name."""

    members: list[Mapping[State, int]] = field(default_factory=list)
    signed: int = 0
    entry: Entry


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
        if cell_ms < self.from_ms:
            return [_exact(Commercial.UNDECLARED, None, states) for _, states in installed], []
        shares: list[Share] = []
        conflicts: list[Conflict] = []
        groups: dict[tuple[str, str | None], _Group] = {}
        for entry, states in installed:
            named = self.naming(entry)
            running = [lease for lease in named if lease.runs_in(cell_ms)]
            if len(running) == 1:
                shares.append(_exact(running[0].kind, running[0].name, states))
            elif running:
                shares.append(_exact(Commercial.UNDECLARED, None, states))
                names = ", ".join(lease.name for lease in running)
                text = f"{entry.gpu} at {entry.node} is under the leases {names} at once; its time counts as undeclared"
                conflicts.append(Conflict(kind="double_lease", subject=entry.gpu, text=text))
            else:
                site = None if entry.pool in self._whole_pools else entry.site
                group = groups.setdefault((entry.pool, site), _Group(entry=entry))
                group.members.append(states)
                group.signed += any(lease.is_signed_in(cell_ms) for lease in named)
        left = {lease.name: lease.count or 0 for lease in self._of_pools if lease.runs_in(cell_ms)}
        for key in sorted(groups, key=lambda key: (key[0], key[1] or "")):
            shares += self._share_group(cell_ms, groups[key], left)
        for lease in self._of_pools:
            if left.get(lease.name, 0) > 0:
                where = lease.pool if lease.site is None else f"{lease.pool} at {lease.site}"
                text = f"lease {lease.name} is of {left[lease.name]} GPUs more than pool {where} had left"
                conflicts.append(Conflict(kind="oversold", subject=lease.name, text=text))
        return shares, conflicts

    def _share_group(self, cell_ms: int, group: _Group, left: dict[str, int]) -> list[Share]:
        """Give the GPUs of a group to the leases of its pool, as far as they go; `left` is what each still wants."""
        room = len(group.members)
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
        total: dict[State, int] = {}
        for states in group.members:
            for state, amount in states.items():
                total[state] = total.get(state, 0) + amount
        whole = len(group.members) * CELL_SLICE_MS
        return [
            _bounded(kind, lease, count * CELL_SLICE_MS, total, whole) for kind, lease, count in counts if count > 0
        ]


def _exact(kind: Commercial, lease: str | None, states: Mapping[State, int]) -> Share:
    return Share(kind=kind, lease=lease, slice_ms=sum(states.values()), low_slice_ms=states, high_slice_ms=states)


def _bounded(kind: Commercial, lease: str | None, own: int, total: Mapping[State, int], whole: int) -> Share:
    """Return the share of `own` slice-ms of a pool of `whole`, in which the states took `total`."""
    return Share(
        kind=kind,
        lease=lease,
        slice_ms=own,
        low_slice_ms={state: own + amount - whole for state, amount in total.items() if own + amount > whole},
        high_slice_ms={state: min(own, amount) for state, amount in total.items() if amount > 0},
    )


def add_shares(shares: Iterable[Share]) -> list[Share]:
    """Return one share for each lease and kind, in order of kind and name."""
    sums: dict[tuple[Commercial, str | None], tuple[int, dict[State, int], dict[State, int]]] = {}
    for share in shares:
        time, low, high = sums.get((share.kind, share.lease), (0, {}, {}))
        for state, amount in share.low_slice_ms.items():
            low[state] = low.get(state, 0) + amount
        for state, amount in share.high_slice_ms.items():
            high[state] = high.get(state, 0) + amount
        sums[share.kind, share.lease] = (time + share.slice_ms, low, high)
    order = list(Commercial)
    return [
        Share(kind=kind, lease=lease, slice_ms=time, low_slice_ms=low, high_slice_ms=high)
        for (kind, lease), (time, low, high) in sorted(
            sums.items(), key=lambda item: (order.index(item[0][0]), item[0][1] or "")
        )
    ]
