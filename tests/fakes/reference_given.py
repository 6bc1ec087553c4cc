# SPDX-License-Identifier: Apache-2.0
"""Leases, schedulers and what could be sold a second time, from accounting.md alone: plain loops, no code shared.

A lease is {"name", "kind", "from", "to", "signed", "gpus", "nodes", "pool", "site", "count"}; a stretch of looks
{"cluster", "from", "to", "queues"}; a fact {"cluster", "from", "to", "node", "job" or None, "indices", "count", "why"}.
"""

from __future__ import annotations

from itertools import combinations
from typing import Any

from tests.fakes.reference_ledger import CELL, HOUR, WHOLE, Plain, put


def runs(lease: Plain, cell: int) -> bool:
    """Whole cells only: paid leases round inward."""
    return lease["from"] <= cell and (lease["to"] is None or lease["to"] >= cell + CELL)


def names(lease: Plain, entry: Plain) -> bool:
    return entry["gpu"] in lease["gpus"] or entry["node"] in lease["nodes"]


def looked(stretches: list[Plain], cluster: str, cell: int) -> bool:
    """Return whether every millisecond of the cell lies in some stretch of looks at the cluster."""
    at = cell
    while at < cell + CELL:
        ends = [one["to"] for one in stretches if one["cluster"] == cluster and one["from"] <= at < one["to"]]
        if not ends:
            return False
        at = max(ends)
    return True


def held(fact: Plain, stretches: list[Plain], cell: int) -> bool:
    is_there = fact["from"] <= cell and (fact["to"] is None or fact["to"] >= cell + CELL)
    return is_there and looked(stretches, fact["cluster"], cell)


def index_of(good: list[Any]) -> int | None:
    """Return the index that all parts tell; nothing where they differ, or the GPU is divided."""
    told = [part.get("index") for _, part in good]
    is_divided = any(part.get("instances") for _, part in good)
    if not told or is_divided or any(one != told[0] for one in told):
        return None
    return None if told[0] is None else int(told[0])


def is_given(
    entry: Plain, good: list[Any], leases: list[Plain], facts: list[Plain], looks: list[Plain], cell: int
) -> bool:
    """Return whether a lease names the GPU, or a scheduler's allocation has it for the whole cell."""
    if any(names(lease, entry) and runs(lease, cell) for lease in leases):
        return True
    index = index_of(good)
    return index is not None and any(
        fact["job"] is not None and fact["node"] == entry["node"] and index in (fact["indices"] or ())
        for fact in facts
        if held(fact, looks, cell)
    )


def tags(cells: dict[Any, Plain], facts: list[Plain], looks: list[Plain]) -> dict[Any, Plain]:
    """Return by (gpu, cell) what of free time took no new work, and what stood beside others in use.

    `cells` has {"entry", "states", "divided"} by (gpu, cell).
    """
    found: dict[Any, Plain] = {}
    for (gpu, cell), own in cells.items():
        free = own["states"].get("free", 0)
        closed = 0
        for fact in facts:
            is_closed = fact["job"] is None and fact["why"] is not None and fact["node"] == own["entry"]["node"]
            if is_closed and held(fact, looks, cell):
                closed = free
        stranded = 0
        for (other, other_cell), beside in cells.items():
            if other == gpu or other_cell != cell or beside["entry"]["node"] != own["entry"]["node"]:
                continue
            used = sum(beside["states"].get(state, 0) for state in ("busy", "held", "reserved"))
            # However they lay in time, at least so much of both was at once.
            stranded = max(stranded, used + free - closed - WHOLE)
        found[gpu, cell] = {"closed": closed, "stranded": 0 if own["divided"] else max(stranded, 0)}
    return found


def shares(cells: dict[Any, Plain], leases: list[Plain], begin: int) -> dict[Any, Plain]:
    """Return the commercial axis by (hour, site, pool, kind, lease): time, and the least and most of each state."""
    found: dict[Any, Plain] = {}
    for cell in sorted({cell for _, cell in cells}):
        installed = [own for (_, at), own in sorted(cells.items(), key=lambda item: item[0]) if at == cell]
        rest: list[Plain] = []
        for own in installed:
            entry = own["entry"]
            running = [lease for lease in leases if names(lease, entry) and runs(lease, cell)]
            if cell < begin or len(running) > 1:
                add(found, (cell // HOUR * HOUR, entry["site"], entry["pool"], "undeclared", None), [own["states"]], 1)
            elif running:
                key = (cell // HOUR * HOUR, entry["site"], entry["pool"], running[0]["kind"], running[0]["name"])
                add(found, key, [own["states"]], 1)
            else:
                rest.append(own)
        if cell >= begin:
            share_pools(found, rest, leases, cell)
    return found


def share_pools(found: dict[Any, Plain], rest: list[Plain], leases: list[Plain], cell: int) -> None:
    """Give the GPUs that no lease names to the leases of numbers of their pool, those said to be paid for last."""
    whole = {lease["pool"] for lease in leases if lease["pool"] is not None and lease["site"] is None}
    left = {lease["name"]: lease["count"] for lease in leases if lease["pool"] is not None and runs(lease, cell)}
    groups: dict[Any, list[Plain]] = {}
    for own in rest:
        site = None if own["entry"]["pool"] in whole else own["entry"]["site"]
        groups.setdefault((own["entry"]["pool"], site), []).append(own)
    order = ["voucher", "internal", "related", "paid"]
    for (pool, site), members in sorted(groups.items(), key=lambda item: (item[0][0], item[0][1] or "")):
        own_leases = [
            lease
            for lease in leases
            if lease["pool"] == pool and (lease["site"] is None or lease["site"] == members[0]["entry"]["site"])
        ]
        room = len(members)
        hour = cell // HOUR * HOUR
        states = [member["states"] for member in members]
        for lease in sorted(own_leases, key=lambda one: (order.index(one["kind"]), one["name"])):
            count = min(left.get(lease["name"], 0), room)
            if count > 0:
                left[lease["name"]] -= count
                room -= count
                add(found, (hour, site, pool, lease["kind"], lease["name"]), states, count)
        signed = sum(
            any(names(lease, member["entry"]) and is_signed(lease, cell) for lease in leases) for member in members
        )
        signed += sum(lease["count"] for lease in own_leases if is_signed(lease, cell))
        signed = min(signed, room)
        for kind, count in (("signed", signed), ("unsold", room - signed)):
            if count > 0:
                add(found, (hour, site, pool, kind, None), states, count)


def is_signed(lease: Plain, cell: int) -> bool:
    """Signed, and not yet commenced in any whole cell."""
    return lease["signed"] is not None and lease["signed"] <= cell and not lease["from"] <= cell


def add(found: dict[Any, Plain], key: Any, members: list[dict[str, int]], count: int) -> None:
    """Add what `count` of the members had of each state: n of N meet X in [max(0, n + X - N), min(n, X)]."""
    row = found.setdefault(key, {"time": 0, "low": {}, "high": {}})
    row["time"] += count * WHOLE
    for state in {state for states in members for state in states}:
        total = sum(states.get(state, 0) for states in members)
        put(row["low"], state, max(0, count * WHOLE + total - len(members) * WHOLE))
        put(row["high"], state, min(count * WHOLE, total))


def by_choice(members: list[dict[str, int]], count: int, states: set[str]) -> tuple[int, int]:
    """Return the least and most that any choice of whole members had of some states together."""
    sums = [sum(one.get(state, 0) for one in chosen for state in states) for chosen in combinations(members, count)]
    return min(sums), max(sums)
