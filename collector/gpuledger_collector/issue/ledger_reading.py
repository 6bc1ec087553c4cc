# SPDX-License-Identifier: Apache-2.0
"""Reports read from a collector's ledger, as it stands when each is asked for."""

from __future__ import annotations

from pathlib import Path

from gpuledger.errors import StorageError
from gpuledger_collector.finance.book import PriceBook
from gpuledger_collector.finance.files import load_prices
from gpuledger_collector.node_figures import ReportReader
from gpuledger_collector.report.command import read_report, read_use
from gpuledger_collector.report.model import Weekly
from gpuledger_collector.report.periods import Span
from gpuledger_collector.report.use import UseReader


class LedgerReading:
    """Fulfils issuing.Reading with a ledger."""

    def __init__(self, reader: ReportReader, book: PriceBook | None = None, use: UseReader | None = None) -> None:
        self._reader, self._book, self._use = reader, book, use

    def extent(self) -> tuple[int, int] | None:
        return self._reader.extent()

    def report(self, span: Span) -> Weekly:
        return read_report(self._reader, span, book=self._book, use=self._use)


def open_reading(state_dir: Path, prices: Path | None = None) -> LedgerReading:
    """Open the ledger of a state directory for reading, and the price book where there is one.

    Raises StorageError where the ledger is not there, ConfigurationError where the price book is wrong.
    """
    if not state_dir.is_dir():
        raise StorageError(f"{state_dir}: no such state directory")
    # Here and not above: DuckDB is slow to import, and a wrong configuration need not wait for it.
    from gpuledger_collector.ledger_files import open_reader  # noqa: PLC0415

    return LedgerReading(open_reader(state_dir), None if prices is None else load_prices(prices), read_use(state_dir))
