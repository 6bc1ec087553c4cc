# SPDX-License-Identifier: Apache-2.0
"""A collector's state directory, opened: log, index, ledger, and the parts that keep them.

state_dir/log/              what was taken in, an append-only Merkle log: the source of everything below
state_dir/log.key           the key that signs it
state_dir/names.key         the secret of the digests of names that the collector itself learns
state_dir/collector.sqlite  index over the log, and cursors, openings and contacts
state_dir/ledger/           hourly rows as Parquet files
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from gpuledger.errors import StorageError
from gpuledger.process_rules import load_rules
from gpuledger_collector.catalog import Catalog
from gpuledger_collector.classify.declared import OWN_RULES
from gpuledger_collector.config import CollectorConfig
from gpuledger_collector.declared_rules import load_declared_rules
from gpuledger_collector.enrolment_book import EnrolmentBook
from gpuledger_collector.identity import LOG, open_identity
from gpuledger_collector.intake import Intake
from gpuledger_collector.keeper import Keeper
from gpuledger_collector.label_book import LabelBook
from gpuledger_collector.lease_book import LeaseRecord
from gpuledger_collector.ledger_files import DIRECTORY as LEDGER
from gpuledger_collector.ledger_files import LedgerFiles
from gpuledger_collector.log import LogWriter, refuse_old_form
from gpuledger_collector.names import SECRET, Namer
from gpuledger_collector.pruning import Pruner
from gpuledger_collector.roster_book import RosterBook
from gpuledger_collector.store import Store
from gpuledger_collector.tiles import LogReader
from gpuledger_collector.upkeep import Upkeep
from gpuledger_collector.witness import Witness
from gpuledger_collector.workload_book import WorkloadBook


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """Everything that writes to one state directory; `files` also answers as figures.LedgerReader."""

    catalog: Catalog
    store: Store
    files: LedgerFiles
    intake: Intake
    book: RosterBook
    enrolment: EnrolmentBook
    workloads: WorkloadBook
    labels: LabelBook
    leases: LeaseRecord
    namer: Namer
    keeper: Keeper
    upkeep: Upkeep


@contextmanager
def open_state(config: CollectorConfig, now_ms: int) -> Iterator[State]:
    """Open the state directory for writing, and close it at the end.

    Raises StorageError where it cannot be used, another collector uses it or the log is damaged, and
    ConfigurationError where the roster, the lease book or the file of keys is wrong.
    """
    with ExitStack() as stack:
        refuse_old_form(config.state_dir / LOG)
        store = stack.enter_context(Store(config.state_dir))
        identity = open_identity(config.state_dir, config.log_origin, is_simulated=config.accept_simulated)
        log = stack.enter_context(LogWriter(config.state_dir / LOG, identity, known=store.log_known()))
        witness = Witness(log)
        files = LedgerFiles(config.state_dir / LEDGER, store)
        files.extent_if_legible()  # A newer version's is refused before anything is written.
        catalog = Catalog(log, store, now_ms=now_ms)
        book = RosterBook(catalog, config.roster)
        enrolment = EnrolmentBook(catalog, config.enrolment)
        namer = Namer(config.state_dir / SECRET if config.names_secret is None else config.names_secret)
        leases = LeaseRecord(catalog, config.leases, namer)
        enrolment.sync(now_ms)
        declared_rules = OWN_RULES if config.declared_rules is None else load_declared_rules(config.declared_rules)
        workloads = WorkloadBook(store, load_rules(config.process_rules).rules, declared_rules)
        labels = LabelBook(catalog, workloads, config.state_dir)
        keeper = Keeper(
            catalog,
            files,
            book,
            enrolment,
            workloads,
            settle_grace_ms=config.settle_grace_ms,
            labels=labels,
            leases=leases,
        )
        yield State(
            catalog=catalog,
            store=store,
            files=files,
            intake=Intake(
                catalog,
                witness,
                accept_simulated=config.accept_simulated,
                is_enrolment_declared=enrolment.is_declared,
                reading_age_days_max=config.reading_age_days,
            ),
            book=book,
            enrolment=enrolment,
            workloads=workloads,
            labels=labels,
            leases=leases,
            namer=namer,
            keeper=keeper,
            upkeep=Upkeep(config.state_dir, Pruner(catalog, files, keeper, config.policy), store),
        )


@contextmanager
def open_log(state_dir: Path) -> Iterator[LogReader]:
    """Open the log of a state directory for reading, beside a collector or without one."""
    if not state_dir.is_dir():
        raise StorageError(f"{state_dir}: no such state directory")
    refuse_old_form(state_dir / LOG)
    with LogReader(state_dir / LOG) as log:
        yield log
