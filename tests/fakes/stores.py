# SPDX-License-Identifier: Apache-2.0
"""A small state directory with something of everything, as the versions since the first Merkle log write it.

`python -m tests.fakes.stores NAME` records what the code writes now below tests/data/stores: once for each form that a
released version writes, and never again. What is recorded must be readable for ever.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization

from gpuledger.cells import CELL_MS, HOUR_MS
from gpuledger.states import State
from gpuledger_collector.columns import finding_record, holder_record, hour_record
from gpuledger_collector.ledger_files import LedgerFiles
from tests.fakes.readings import MONDAY_MS, FakeNode, key_of
from tests.fakes.storage import Storage

STORES = Path(__file__).resolve().parents[1] / "data" / "stores"
EXPECTED = "expected.json"
KEY = "log.key"
CELLS = 30
START_MS = MONDAY_MS - HOUR_MS
"""Sunday's last hour: two days have files."""


def nodes(*, is_whole: bool = False) -> list[FakeNode]:
    """Two nodes; of one a reading is missing, unless `is_whole`."""
    one, other = FakeNode("node-1", gpus=2), FakeNode("node-2", gpus=1)
    for index in range(CELLS):
        busy_ms = 10_000 * index % CELL_MS
        one.seal(START_MS + index * CELL_MS, states_ms=[{State.BUSY: busy_ms}, {State.HELD: CELL_MS - busy_ms}])
        other.seal(START_MS + index * CELL_MS, states_ms={State.DOWN: busy_ms}, user="bob", workload="inference")
    if not is_whole:
        del one.sealed[7]
    return [one, other]


def put_key(directory: Path) -> None:
    """Put the key of every recorded log where the collector looks for it; no key lies in the repository."""
    path = directory / KEY
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    private = key_of("recorded store").private
    path.write_bytes(
        private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )


def write(directory: Path) -> list[FakeNode]:
    """Fill a state directory as a collector does, and return the nodes whose readings it took in."""
    put_key(directory)
    found = nodes()
    with Storage(directory) as storage:
        storage.now_ms = START_MS + CELLS * CELL_MS
        for first in range(0, CELLS, 5):
            for node in found:
                storage.take(node, node.sealed[first : first + 5], target=f"http://{node.name}:9400")
        storage.refresh()
    return found


def rows_of(files: LedgerFiles) -> dict[str, list[dict[str, Any]]]:
    """Return all rows and findings of a ledger as plain values, absent ones left out."""
    extent = files.extent()
    assert extent is not None
    hours = files.rows(*extent)
    sites = {(row.hour_ms, row.gpu, row.node): row.site for row in hours}
    tables = {
        "hours": [hour_record(row) for row in hours],
        "holders": [holder_record(row, sites[row.hour_ms, row.gpu, row.node]) for row in files.holder_rows(*extent)],
        "findings": [finding_record(found, found.at_ms) for found in files.findings(*extent)],
    }
    return {
        table: [{name: value for name, value in record.items() if value is not None} for record in records]
        for table, records in tables.items()
    }


def main(name: str) -> None:
    """Record what the code writes now."""
    directory = STORES / name
    write(directory)
    with Storage(directory) as storage:
        expected = rows_of(storage.files)
    (directory / EXPECTED).write_text(json.dumps(expected, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    (directory / KEY).unlink()


def restore(name: str, directory: Path) -> dict[str, list[dict[str, Any]]]:
    """Copy a recorded store to a directory; return the rows and findings that its ledger had."""
    shutil.copytree(STORES / name, directory)
    put_key(directory)
    found: dict[str, list[dict[str, Any]]] = json.loads((directory / EXPECTED).read_text(encoding="utf-8"))
    (directory / EXPECTED).unlink()
    return found


if __name__ == "__main__":
    main(sys.argv[1])
