# SPDX-License-Identifier: Apache-2.0
"""State directories with a few days of readings that are old enough to go, and what takes them out."""

from __future__ import annotations

from gpuledger.cells import CELL_MS, DAY_MS, HOUR_MS
from gpuledger.states import State
from gpuledger_collector.check import Checked, check_log
from gpuledger_collector.config import Policy
from gpuledger_collector.disk import Disk
from gpuledger_collector.entries import PruningEntry
from gpuledger_collector.pruning import Pruner
from gpuledger_collector.retention import Plan
from gpuledger_collector.tiles import LogReader
from tests.fakes.readings import MONDAY_MS, FakeNode
from tests.fakes.storage import Storage

DAYS = 3
CELLS = DAYS * DAY_MS // CELL_MS
KEPT_DAYS = 2
"""Fewer than any configuration may say: intake would take in readings of older hours, and here none come."""
POLICY = Policy(reading_days=KEPT_DAYS)
WORKLOADS_ONLY = Policy(workload_days=KEPT_DAYS)
LATER_MS = MONDAY_MS + (KEPT_DAYS + DAYS - 1) * DAY_MS + HOUR_MS
"""When the readings of all days but the last are old enough to go."""
EDGE_MS = MONDAY_MS + (DAYS - 1) * DAY_MS


def node_with(name: str, cells: int = CELLS, gpus: int = 1) -> FakeNode:
    node = FakeNode(name, gpus=gpus)
    for index in range(cells):
        busy_ms = 1_000 * index % CELL_MS
        node.seal(MONDAY_MS + index * CELL_MS, states_ms={State.BUSY: busy_ms, State.HELD: (CELL_MS - busy_ms) // 2})
    return node


def fill(storage: Storage, *nodes: FakeNode, page: int = 100) -> None:
    """Take all in, in pages, node by node within each day, and bring the ledger up to date."""
    storage.now_ms = MONDAY_MS + DAYS * DAY_MS
    for first in range(0, CELLS, page):
        for node in nodes:
            storage.take(node, node.sealed[first : first + page])
        storage.refresh()


def prune(storage: Storage, policy: Policy = POLICY, disk: Disk | None = None) -> Plan:
    return Pruner(storage.catalog, storage.files, storage.keeper, policy, disk).run(storage.now_ms)


def check(storage: Storage) -> Checked:
    return check_log(LogReader(storage.catalog.log.path))


def digest(storage: Storage) -> str:
    return storage.files.digest(0, 2**62)


def prunings(storage: Storage) -> list[PruningEntry]:
    return [entry for entry in storage.logged() if isinstance(entry, PruningEntry)]
