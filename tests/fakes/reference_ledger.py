# SPDX-License-Identifier: Apache-2.0
"""The collector's mapping a second time, from accounting.md alone: dictionaries, plain loops, no code shared.

A reading is its JSON object with two keys added: "digest" and "parts" (its workloads, a list of JSON objects).
A roster entry and a window are dictionaries with the names used in accounting.md's terms. Slow on purpose.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

CELL = 300_000
WHOLE = 7 * CELL
HOUR = 3_600_000

Plain = dict[str, Any]


def installed(entries: list[Plain], start: int, end: int) -> dict[tuple[str, int], Plain]:
    """Installed time rounds outward to cells; a cell divided by a move is the earlier place's."""
    cells: dict[tuple[str, int], Plain] = {}
    for cell in range(start, end, CELL):
        for entry in entries:
            first = entry["from"] // CELL * CELL
            is_over = entry["to"] is not None and entry["to"] <= cell
            if cell < first or is_over:
                continue
            known = cells.get((entry["gpu"], cell))
            if known is None or (entry["from"], entry["node"]) < (known["from"], known["node"]):
                cells[entry["gpu"], cell] = entry
    return cells


def name_of(gpu: Plain, entries: list[Plain]) -> str | None:
    """Return what the roster calls a GPU, by UUID and else by board serial where the roster has no UUID."""
    for entry in entries:
        if entry["gpu"] == gpu["uuid"]:
            return str(entry["gpu"])
    for entry in entries:
        if "serial" in gpu and entry["gpu"] == "serial:" + gpu["serial"] and entry["serial"] == gpu["serial"]:
            return str(entry["gpu"])
    return None


def declared(windows: list[Plain], entry: Plain, cell: int) -> set[str]:
    """Return the kinds of the windows that hold the whole cell, mean this GPU and were declared before they began."""
    kinds = set()
    for window in windows:
        is_meant = window["gpu"] is not None or window["node"] is not None
        if window["gpu"] is not None and window["gpu"] != entry["gpu"]:
            is_meant = False
        if window["node"] is not None and window["node"] != entry["node"]:
            is_meant = False
        is_inside = window["start"] <= cell and cell + CELL <= window["end"]
        if is_meant and is_inside and window["declared"] < window["start"]:
            kinds.add(window["kind"])
    return kinds


def same_name(one: Plain, other: Plain) -> bool:
    """Return whether two readings carry one node, session and sequence."""
    return all(one[key] == other[key] for key in ("node_id", "session", "sequence"))


def counting(
    gpu: str, cell: int, entry: Plain, readings: list[Plain], entries: list[Plain]
) -> tuple[list[Any], set[str]]:
    """Return (reading, its part about the GPU) of what counts in the cell, and the kinds of finding."""
    findings = set()
    own = []
    for reading in readings:
        if reading["start_ms"] // CELL * CELL != cell:
            continue
        for part in reading["gpus"]:
            if name_of(part, entries) != gpu:
                continue
            if reading["node"] != entry["node"]:
                findings.add("foreign_claim")
            else:
                own.append((reading, part))
    good = []
    for position, (reading, part) in enumerate(own):
        is_good = True
        for other in readings:
            if same_name(reading, other) and reading["digest"] != other["digest"]:
                is_good = False
                findings.add("equivocation")
        for other_position, (other, _) in enumerate(own):
            if position == other_position:
                continue
            if reading["start_ms"] < other["end_ms"] and other["start_ms"] < reading["end_ms"]:
                is_good = False
                findings.add("overlap")
        if is_good:
            good.append((reading, part))
    return good, findings


def put(amounts: dict[Any, int], key: Any, amount: int) -> None:
    """Add to a sum that may not exist yet; nothing is not a sum."""
    if amount != 0:
        amounts[key] = amounts.get(key, 0) + amount


def settle_rest(states: dict[str, int], kinds: set[str], *, is_given: bool) -> int:
    """Change one cell's states for absence, declarations and leases; return what was declared and not covered."""
    uncovered = WHOLE - sum(states.values())
    declared_uncovered = 0
    if "standby" in kinds:
        put(states, "standby", uncovered)
        declared_uncovered = uncovered
    elif "maintenance" in kinds:
        put(states, "maintenance", uncovered)
        declared_uncovered = uncovered
    else:
        put(states, "dark", uncovered)
    if is_given:
        put(states, "reserved", states.pop("free", 0))
    if "maintenance" in kinds:
        for state in ("free", "reserved"):
            put(states, "maintenance", states.pop(state, 0))
    return declared_uncovered


def account(good: list[Any], kinds: set[str], *, is_given: bool) -> Plain:
    """Return one cell's account: the observed states, and what absence, declarations and leases make of the rest."""
    states: dict[str, int] = {}
    bins: dict[int, int] = {}
    energy: dict[str, int] = {}
    holders: dict[Any, dict[str, int]] = {}
    active = None
    hang = sum(part.get("hang_suspicion_ms", 0) for _, part in good)
    for reading, part in good:
        for state, amount in part.get("states", {}).items():
            put(states, state, amount)
        for key, amount in part.get("bins", {}).items():
            put(bins, int(key), amount)
        for key, amount in part.get("energy_mj", {}).items():
            put(energy, key, amount)
        if "active_ns" in part:
            active = part["active_ns"] if active is None else active + part["active_ns"]
        for key in ("busy", "held"):
            named = 0
            for item in reading["parts"]:
                if item["uuid"] == part["uuid"]:
                    named += item.get("states", {}).get(key, 0)
                    put(
                        holders.setdefault((item["workload"], item.get("user")), {}),
                        key,
                        item.get("states", {}).get(key, 0),
                    )
            missing = part.get("states", {}).get(key, 0) - named
            if missing > 0:
                put(holders.setdefault(("unattributed", None), {}), key, missing)
    declared_uncovered = settle_rest(states, kinds, is_given=is_given)
    return {
        "states": states,
        "bins": bins,
        "energy": energy,
        "active": active,
        "holders": holders,
        "declared": declared_uncovered,
        "hang": hang,
    }


def ledger(
    readings: list[Plain],
    entries: list[Plain],
    windows: list[Plain],
    start: int,
    end: int,
    is_given: Callable[[Plain, list[Any], int], bool] = lambda entry, good, cell: False,
) -> Plain:
    """Return {"hours": {(hour, gpu, node, from): account}, "findings": {(hour, kind, subject)}, "cells": by GPU, cell}.

    `is_given` says of an entry, what counts of it and a cell whether somebody had the GPU.
    """
    unique = {reading["digest"]: reading for reading in readings}
    known = [unique[key] for key in sorted(unique)]
    hours: dict[Any, Plain] = {}
    findings = set()
    cells = installed(entries, start, end)
    by_cell: dict[Any, Plain] = {}
    for (gpu, cell), entry in cells.items():
        good, kinds_found = counting(gpu, cell, entry, known, entries)
        hour = cell // HOUR * HOUR
        findings |= {(hour, kind, gpu) for kind in kinds_found}
        found = account(good, declared(windows, entry, cell), is_given=is_given(entry, good, cell))
        by_cell[gpu, cell] = {
            "entry": entry,
            "states": found["states"],
            "divided": any(part.get("instances") for _, part in good),
        }
        key = (hour, gpu, entry["node"], entry["from"])
        total = hours.setdefault(
            key, {"states": {}, "bins": {}, "energy": {}, "holders": {}, "active": None, "declared": 0, "hang": 0}
        )
        for name in ("states", "bins", "energy"):
            for item, amount in found[name].items():
                put(total[name], item, amount)
        for holder, times in found["holders"].items():
            for item, amount in times.items():
                put(total["holders"].setdefault(holder, {}), item, amount)
        if found["active"] is not None:
            total["active"] = found["active"] + (0 if total["active"] is None else total["active"])
        total["declared"] += found["declared"]
        total["hang"] += found["hang"]
        if total["hang"] >= 60_000:
            findings.add((hour, "hang_suspected", gpu))
    for reading in known:
        cell = reading["start_ms"] // CELL * CELL
        if not start <= cell < end:
            continue
        for part in reading["gpus"]:
            gpu_name = name_of(part, entries)
            if gpu_name is None:
                findings.add((cell // HOUR * HOUR, "unrostered", part["uuid"]))
            elif (gpu_name, cell) not in cells:
                findings.add((cell // HOUR * HOUR, "out_of_service", gpu_name))
    return {"hours": hours, "findings": findings, "cells": by_cell}
