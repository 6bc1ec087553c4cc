# SPDX-License-Identifier: Apache-2.0
"""A collector's storage half, opened as the program opens it, with a clock that stands still."""

from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from gpuledger.cells import CELL_MS
from gpuledger_collector.batch import BatchResult
from gpuledger_collector.catalog import Catalog
from gpuledger_collector.config import CollectorConfig
from gpuledger_collector.enrolment_book import EnrolmentBook
from gpuledger_collector.entries import LogEntry, decode_entry
from gpuledger_collector.intake import Intake
from gpuledger_collector.keeper import Keeper, Refreshed
from gpuledger_collector.lease_book import LeaseRecord
from gpuledger_collector.ledger_files import LedgerFiles
from gpuledger_collector.names import Namer
from gpuledger_collector.roster_book import RosterBook
from gpuledger_collector.state import open_state
from gpuledger_collector.store import Store
from gpuledger_collector.upkeep import Upkeep
from gpuledger_collector.workload_book import WorkloadBook
from tests.fakes.readings import MONDAY_MS, FakeNode, Sealed


class Storage:
    """`now_ms` is the time of everything; `take` hands a node's readings in, `refresh` brings the ledger up to date."""

    def __init__(
        self,
        directory: Path,
        *,
        roster: Path | None = None,
        leases: Path | None = None,
        enrolment: Path | None = None,
        accept_simulated: bool = False,
    ) -> None:
        self.directory = directory
        self.now_ms = MONDAY_MS + 12 * CELL_MS
        self.config = CollectorConfig(
            state_dir=directory,
            roster=roster,
            leases=leases,
            enrolment=enrolment,
            accept_simulated=accept_simulated,
            settle_grace_seconds=0,
        )
        self._stack = ExitStack()
        self.open()

    def open(self) -> None:
        state = self._stack.enter_context(open_state(self.config, self.now_ms))
        self.catalog: Catalog = state.catalog
        self.store: Store = state.store
        self.intake: Intake = state.intake
        self.files: LedgerFiles = state.files
        self.book: RosterBook = state.book
        self.enrolment: EnrolmentBook = state.enrolment
        self.keeper: Keeper = state.keeper
        self.leases: LeaseRecord = state.leases
        self.namer: Namer = state.namer
        self.upkeep: Upkeep = state.upkeep
        self.workloads: WorkloadBook = state.workloads

    def close(self) -> None:
        self._stack.close()

    def reopen(self) -> None:
        self.close()
        self.open()

    def take(self, node: FakeNode, sealed: list[Sealed] | None = None, **options: Any) -> BatchResult:
        return self.intake.accept_batch(node.answer(sealed), **({"now_ms": self.now_ms} | options))

    def refresh(self) -> Refreshed:
        return self.keeper.refresh(self.now_ms)

    def logged(self) -> list[LogEntry]:
        """Every entry of the log, decoded, in order."""
        return [decode_entry(leaf) for leaf in self.catalog.log.iterate()]

    def kinds(self) -> list[str]:
        return [found.kind for found in self.store.findings()]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
