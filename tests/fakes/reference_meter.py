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
    if health is not None and health.value != "clean":
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


def between(before: Any, after: Any, length: int, interval: int) -> str | None:
    """Return the state of the time between two ticks of one GPU, or None where it is uncovered."""
    if before is None or after is None:
        return None
    if before.uncovered is not None or after.uncovered is not None:
        return None
    if length <= 2 * interval:
        return state_of(after)
    if length <= 30 * interval:
        # A counter that fell was set anew on the way: it says nothing about the whole gap.
        has_integral = before.energy_mj is not None and after.energy_mj is not None
        has_integral = has_integral and after.energy_mj >= before.energy_mj
        was_held = before.holders is not None and len(before.holders) > 0
        is_held = after.holders is not None and len(after.holders) > 0
        if has_integral and (was_held or is_held):
            return "unmeasured"
    return None


def put(amounts: dict[Any, int], key: Any, amount: int) -> None:
    if amount != 0:
        amounts[key] = amounts.get(key, 0) + amount


def paint(cell: dict[str, Any], state: str, length: int, after: Any, *, is_single: bool) -> None:
    """Add a stretch of one state within one cell; `is_single` says that the stretch is a tick, not a gap."""
    put(cell["states"], state, 7 * length)
    if is_single and after.activity_ppm is not None:
        cell["active"] = (0 if cell["active"] is None else cell["active"]) + 7 * after.activity_ppm * length
        cell["known"] += 7 * length
        if state in {"busy", "held"}:
            put(cell["bins"], [after.activity_ppm <= edge for edge in EDGES].index(True), 7 * length)
    if is_single:
        for engine, share in (
            ("sm", after.sm_active_ppm),
            ("tensor", after.tensor_active_ppm),
            ("dram", after.dram_active_ppm),
        ):
            if share is not None:
                put(cell["engines"], engine, 7 * share * length)
                put(cell["engines_known"], engine, 7 * length)
    if state in {"busy", "held"}:
        names = sorted((process.workload, process.user) for process in after.holders)
        for position, name in enumerate(names):
            share = 7 * length // len(names) + (1 if position < 7 * length % len(names) else 0)
            put(cell["holders"], (*name, state), share)


def meter(ticks: Any, interval: int) -> dict[tuple[int, str], dict[str, Any]]:
    """Return what there is of each (cell, GPU) with any covered time: states, bins, active, known, holders, engines."""
    cells: dict[tuple[int, str], dict[str, Any]] = {}
    for (start, earlier), (end, later) in pairwise(ticks):
        for uuid, after in later.items():
            state = between(earlier.get(uuid), after, end - start, interval)
            if state is None:
                continue
            for cell in range(start // CELL * CELL, end, CELL):
                length = min(end, cell + CELL) - max(start, cell)
                if length > 0:
                    empty: dict[str, Any] = {
                        "states": {},
                        "bins": {},
                        "active": None,
                        "known": 0,
                        "holders": {},
                        "engines": {},
                        "engines_known": {},
                    }
                    row = cells.setdefault((cell, uuid), empty)
                    paint(row, state, length, after, is_single=end - start <= 2 * interval)
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
            state = between(before, after, end - start, interval)
            is_own = before is not None and before.energy_mj is not None
            put(sums.setdefault(uuid, {}), state if state is not None and is_own else "uncovered", rise)
    return sums
