# SPDX-License-Identifier: Apache-2.0
"""The agent's metering a second time, from accounting.md alone: pairs of ticks, dictionaries, no code shared.

`meter` looks at each two consecutive ticks of a session and says what the time between them was, for each GPU; what it
says is painted onto cells. Power and its floor are left out: no hang is suspected here.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

CELL = 300_000
EDGES = (0, 10_000, 50_000, 100_000, 250_000, 500_000, 750_000, 1_000_000)
THETA = 50_000


def state_of(seen: Any, *, is_hang: bool = False) -> str:
    """Return the state of a covered tick: the table of accounting.md, section 2, from top to bottom."""
    processes, activity, health = seen.holders, seen.activity_ppm, seen.health
    is_list_known = processes is not None
    has_process = is_list_known and len(processes) > 0
    is_above = activity is not None and activity > THETA
    if health is not None and health.value == "fatal_xid" and not is_above:
        return "down"
    if health is not None and health.value not in {"clean", "fatal_xid"}:
        return "down"
    if has_process and not [process for process in processes if not process.is_operator]:
        return "operator"
    if is_above and has_process and not is_hang:
        return "busy"
    if is_above and is_list_known and not has_process:
        return "unmeasured"
    if is_above and is_hang:
        return "unmeasured"
    if not is_list_known:
        return "unmeasured"
    if has_process and activity is None:
        return "unmeasured"
    if not has_process and health is None:
        return "unmeasured"
    if has_process:
        return "held"
    if seen.is_allocated is True:
        return "reserved"
    return "free"


def shares_of(seen: Any) -> list[tuple[Any, int, Any]]:
    """Return (instance or None, its slices, what was seen of them): all seven of a GPU, once each."""
    instances = seen.instances if seen.is_divided and seen.instances is not None else ()
    shares = [(one.identity, one.identity.slices, one.seen) for one in instances]
    left = 7 - sum(slices for _, slices, _ in shares)
    return shares + [(None, left, seen)] * (left > 0)


def between(before: Any, after: Any, length: int, interval: int) -> list[str | None]:
    """Return the state of the time between two ticks for each share of the later one, None where it is uncovered."""
    shares = shares_of(after)
    nothing: list[str | None] = [None] * len(shares)
    if before is None or before.uncovered is not None or after.uncovered is not None:
        return nothing
    if length <= 2 * interval:
        return [state_of(seen) for _, _, seen in shares]
    # A counter that fell was set anew on the way: it says nothing about the whole gap.
    has_integral = before.energy_mj is not None and after.energy_mj is not None
    if length > 30 * interval or not has_integral or after.energy_mj < before.energy_mj:
        return nothing
    held_before = {identity for identity, _, seen in shares_of(before) if seen.holders}
    return ["unmeasured" if seen.holders or identity in held_before else None for identity, _, seen in shares]


def put(amounts: dict[Any, int], key: Any, amount: int) -> None:
    if amount != 0:
        amounts[key] = amounts.get(key, 0) + amount


def empty() -> dict[str, Any]:
    """Return nothing yet."""
    return {
        "states": {},
        "bins": {},
        "active": None,
        "known": 0,
        "holders": {},
        "engines": {},
        "engines_known": {},
        "instances": {},
    }


def paint(cell: dict[str, Any], state: str, amount: int, seen: Any, *, is_single: bool) -> None:
    """Add slice-ms of one state within one cell; `is_single` says that they are a tick's, not a gap's."""
    put(cell["states"], state, amount)
    if is_single and seen.activity_ppm is not None:
        cell["active"] = (0 if cell["active"] is None else cell["active"]) + seen.activity_ppm * amount
        cell["known"] += amount
        if state in {"busy", "held"}:
            put(cell["bins"], [seen.activity_ppm <= edge for edge in EDGES].index(True), amount)
    if is_single:
        for engine, share in (
            ("sm", seen.sm_active_ppm),
            ("tensor", seen.tensor_active_ppm),
            ("dram", seen.dram_active_ppm),
        ):
            if share is not None:
                put(cell["engines"], engine, share * amount)
                put(cell["engines_known"], engine, amount)


def hold(holders: dict[Any, int], state: str, amount: int, identity: Any, seen: Any) -> None:
    """Give slice-ms to those who held them, were given them, or have the GPU in a virtual machine."""
    tenant = () if seen.tenant is None else (seen.tenant,)
    by_state = {"busy": seen.holders, "held": seen.holders, "reserved": seen.allocated_to, "unmeasured": tenant}
    owners = by_state.get(state, ())
    on = None if identity is None else identity.uuid
    names = sorted((owner.workload, owner.user) for owner in owners)
    for position, name in enumerate(names):
        share = amount // len(names) + (1 if position < amount % len(names) else 0)
        put(holders, (*name, on, state), share)


def meter(ticks: Any, interval: int) -> dict[tuple[int, str], dict[str, Any]]:
    """Return what there is of each (cell, GPU) with any covered time, and of its instances, all in units of a slice."""
    cells: dict[tuple[int, str], dict[str, Any]] = {}
    for (start, earlier), (end, later) in pairwise(ticks):
        for uuid, after in later.items():
            states = between(earlier.get(uuid), after, end - start, interval)
            for state, (identity, slices, seen) in zip(states, shares_of(after), strict=True):
                if state is None:
                    continue
                for cell in range(start // CELL * CELL, end, CELL):
                    amount = slices * (min(end, cell + CELL) - max(start, cell))
                    if amount <= 0:
                        continue
                    row = cells.setdefault((cell, uuid), empty())
                    rows = [row] if identity is None else [row, row["instances"].setdefault(identity, empty())]
                    for one in rows:
                        paint(one, state, amount, seen, is_single=end - start <= 2 * interval)
                    hold(row["holders"], state, amount, identity, seen)
    return cells


def energy(ticks: Any, interval: int) -> dict[str, dict[str, int]]:
    """Return each GPU's energy by state: every known rise of its counter, by what the time it took was."""
    sums: dict[str, dict[str, int]] = {}
    last: dict[str, int] = {}
    for position, (end, later) in enumerate(ticks):
        for uuid, after in later.items():
            if after.energy_mj is None:
                continue
            rise = after.energy_mj - last.get(uuid, after.energy_mj)
            last[uuid] = after.energy_mj
            if rise <= 0:
                continue
            start, earlier = ticks[position - 1]
            before = earlier.get(uuid)
            states = between(before, after, end - start, interval)
            key = "uncovered"
            if None not in states and before is not None and before.energy_mj is not None:
                key = "mig" if after.is_divided else str(states[0])
            put(sums.setdefault(uuid, {}), key, rise)
    return sums
