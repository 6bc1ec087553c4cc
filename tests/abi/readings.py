# SPDX-License-Identifier: Apache-2.0
"""What an agent has sealed, read from its journal without any of the agent's code, in the oracle's terms."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.abi.truth import CELL_MS, CellTruth, InstanceTruth, Truth, of_gpu, whole


def sealed(state_dir: Path) -> Iterator[dict[str, Any]]:
    """The cores of all sealed readings, in the order of their sealing."""
    for segment in sorted((state_dir / "journal").glob("*.jsonl")):
        for line in segment.read_text(encoding="ascii").splitlines():
            envelope = json.loads(json.loads(line)["envelope"])
            core: dict[str, Any] = json.loads(base64.b64decode(envelope["payload"]))
            yield core


def account(state_dir: Path) -> Truth:
    """The sealed time per GPU and cell, and of its instances."""
    truth: Truth = {}
    for core in sealed(state_dir):
        assert core["end_ms"] - core["start_ms"] <= CELL_MS
        for gpu in core["gpus"]:
            cells = truth.setdefault(gpu["uuid"], {})
            cell = cells.setdefault(core["start_ms"] // CELL_MS * CELL_MS, CellTruth())
            _add(cell, gpu)
            for instance in gpu.get("instances", []):
                known = cell.instances.setdefault(instance["uuid"], InstanceTruth(instance["slices"]))
                _add_instance(known, instance)
    return truth


def _add(cell: CellTruth, gpu: dict[str, Any]) -> None:
    for counter, key in ((cell.states_ms, "states"), (cell.uncovered_ms, "uncovered")):
        for name, slice_ms in gpu.get(key, {}).items():
            counter[name] = whole(counter[name] + of_gpu(slice_ms))
    for place, slice_ms in gpu.get("bins", {}).items():
        cell.bins_ms[int(place)] = whole(cell.bins_ms[int(place)] + of_gpu(slice_ms))
    for name, energy_mj in gpu.get("energy_mj", {}).items():
        cell.energy_mj[name] += energy_mj
    _add_integrals(cell, gpu)
    cell.links.update(gpu.get("link_bytes", {}))
    cell.links_known_ms.update(gpu.get("link_known_ms", {}))
    cell.hang_ms += gpu.get("hang_suspicion_ms", 0)
    cell.xids.update({int(xid): count for xid, count in gpu.get("xids", {}).items()})
    cell.ecc.update(gpu.get("ecc_errors", {}))
    cell.energy_epochs += gpu.get("energy_epochs", 0)


def _add_instance(known: InstanceTruth, instance: dict[str, Any]) -> None:
    assert known.slices == instance["slices"]
    known.states_slice_ms.update(instance.get("states", {}))
    known.uncovered_slice_ms.update(instance.get("uncovered", {}))
    for place, slice_ms in instance.get("bins", {}).items():
        known.bins_slice_ms[int(place)] += slice_ms
    _add_integrals(known, instance)


def _add_integrals(known: CellTruth | InstanceTruth, part: dict[str, Any]) -> None:
    known.active_ns += part.get("active_ns", 0)
    known.active_known_ms += part.get("active_known_ms", 0)
    known.engines_ns.update(part.get("engine_ns", {}))
    known.engines_known_ms.update(part.get("engine_known_ms", {}))
