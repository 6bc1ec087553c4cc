# SPDX-License-Identifier: Apache-2.0
"""What an agent has sealed, read from its journal without any of the agent's code, in the oracle's terms."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.abi.oracle import CELL_MS, SLICES, CellTruth, Truth


def sealed(state_dir: Path) -> Iterator[dict[str, Any]]:
    """The cores of all sealed readings, in the order of their sealing."""
    for segment in sorted((state_dir / "journal").glob("*.jsonl")):
        for line in segment.read_text(encoding="ascii").splitlines():
            envelope = json.loads(json.loads(line)["envelope"])
            core: dict[str, Any] = json.loads(base64.b64decode(envelope["payload"]))
            yield core


def account(state_dir: Path) -> Truth:
    """The sealed time per GPU and cell; slice-ms must be whole GPU-ms, since no MIG is scripted."""
    truth: Truth = {}
    for core in sealed(state_dir):
        assert core["end_ms"] - core["start_ms"] <= CELL_MS
        for gpu in core["gpus"]:
            cells = truth.setdefault(gpu["uuid"], {})
            _add(cells.setdefault(core["start_ms"] // CELL_MS * CELL_MS, CellTruth()), gpu)
    return truth


def _add(cell: CellTruth, gpu: dict[str, Any]) -> None:
    for counter, key in ((cell.states_ms, "states"), (cell.uncovered_ms, "uncovered")):
        for name, slice_ms in gpu.get(key, {}).items():
            whole_ms, rest = divmod(slice_ms, SLICES)
            assert rest == 0, f"{name}: {slice_ms} slice-ms are no whole GPU-ms"
            counter[name] += whole_ms
    for place, slice_ms in gpu.get("bins", {}).items():
        cell.bins_ms[int(place)] += slice_ms // SLICES
    for name, energy_mj in gpu.get("energy_mj", {}).items():
        cell.energy_mj[name] += energy_mj
    cell.active_ns += gpu.get("active_ns", 0)
    cell.active_known_ms += gpu.get("active_known_ms", 0)
    cell.engines_ns.update(gpu.get("engine_ns", {}))
    cell.engines_known_ms.update(gpu.get("engine_known_ms", {}))
    cell.xids.update({int(xid): count for xid, count in gpu.get("xids", {}).items()})
    cell.ecc.update(gpu.get("ecc_errors", {}))
    cell.energy_epochs += gpu.get("energy_epochs", 0)
