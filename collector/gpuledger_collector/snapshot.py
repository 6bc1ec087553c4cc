# SPDX-License-Identifier: Apache-2.0
"""The snapshot that requests are served from: brought up to date at its own pace, rendered before anybody asks.

Two steps, each in a worker thread: `refresh` (ledger up to date, newly settled cells counted) and `prepare` (metrics
rendered, and what page and JSON are made of put together, from what the last refresh and the last polls left).
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from gpuledger.cells import CELL_MS
from gpuledger.clock import Clock, monotonic_ns
from gpuledger.errors import StorageError
from gpuledger_collector.answers import PollFigures
from gpuledger_collector.documents import Document
from gpuledger_collector.families import OPENMETRICS_TYPE, TEXT_TYPE, Exposed, Exposer
from gpuledger_collector.figures import FleetReader
from gpuledger_collector.fleet import CellFigures, Fleet, added, resume, settle
from gpuledger_collector.ledger import CellRow
from gpuledger_collector.live import LiveBoard, LiveNode
from gpuledger_collector.overview import LedgerFigures, overview, read_free_since, read_ledger
from gpuledger_collector.published import Publisher
from gpuledger_collector.roster import UNKNOWN_PLACE
from gpuledger_collector.shelf import Prepared
from gpuledger_collector.upkeep import UpkeepFigures
from gpuledger_collector.workload_metrics import NO_WORKLOADS, WorkloadFigures
from gpuledger_collector.workload_verdicts import ToldVerdict

CATCH_UP_CELLS_MAX = 288
"""After a longer outage the counters leave out what is older; the ledger has it."""
QUIET_MS = 120_000
CATCH_UP_MS_MAX = 900_000
"""How long after the start the first settled cell waits for agents: while nothing comes, and in all."""
NAMES_MAX = 20_000

logger = logging.getLogger(__name__)


class Refreshed(Protocol):
    """What a refresh of the ledger tells: up to where it accounts, and how many hours were redone."""

    @property
    def horizon_ms(self) -> int | None: ...

    @property
    def hours(self) -> int: ...


class Keeping(Protocol):
    """Keeps the ledger up to date with what was logged."""

    def refresh(self, now_ms: int) -> Refreshed: ...

    def cell_rows(self, cell_ms: int) -> list[CellRow]: ...


class Counting(Protocol):
    """Keeps what must outlive the program: the counters, and when nodes were last seen."""

    def settled(self) -> tuple[int | None, Mapping[tuple[str, str, str], int]]: ...

    def add_settled(self, to_ms: int, amounts: Mapping[tuple[str, str, str], int]) -> None: ...

    def last_seen(self) -> Mapping[str, int]: ...

    def is_simulated(self) -> bool: ...

    def names(self, digests: Iterable[str]) -> Mapping[str, str]: ...


class Polling(Protocol):
    """What polling tells about itself."""

    @property
    def has_asked_everyone(self) -> bool: ...

    def figures(self) -> PollFigures: ...


class Workloads(Protocol):
    """Counts settled cells by kind of workload."""

    @property
    def figures(self) -> WorkloadFigures: ...

    def settle(self, cell: CellFigures, rows: Sequence[CellRow]) -> None: ...


class Verdicts(Protocol):
    """Tells what the largest workloads are taken for."""

    def since(self, since_ms: int) -> Mapping[str, ToldVerdict]: ...


class Snapshot:
    """Holds the fleet as last seen; `refresh` and `prepare` may run in different threads."""

    def __init__(
        self,
        *,
        keeper: Keeping,
        counting: Counting,
        reader: FleetReader,
        polling: Polling,
        board: LiveBoard,
        clock: Clock,
        workloads: Workloads | None = None,
        verdicts: Verdicts | None = None,
        upkeep: Callable[[], UpkeepFigures] = UpkeepFigures,
    ) -> None:
        self._upkeep = upkeep
        self._keeper, self._counting, self._reader = keeper, counting, reader
        self._polling, self._board, self._clock = polling, board, clock
        self._workloads, self._verdicts = workloads, verdicts
        self._exposer, self._publisher = Exposer(), Publisher()
        self._mutex = threading.Lock()
        self._fleet = resume(*counting.settled())
        self._ledger = LedgerFigures()
        self._is_read = False
        self._refreshed_ms: int | None = None
        self._refresh_duration_ns: int | None = None
        self._refresh_error: str | None = None
        self._started_ns = self._refreshed_ns = self._accepted_ns = clock.boottime_ns()
        self._accepted = 0
        self._names: dict[str, str] = {}

    def refresh(self) -> None:
        """Bring the ledger up to date and count newly settled cells; a disk that refuses is logged and tried again."""
        begun_ns, now_ms = monotonic_ns(), self._clock.wall_ns() // 1_000_000
        try:
            refreshed = self._keeper.refresh(now_ms)
            if refreshed.hours > 0 or not self._is_read:
                ledger = read_ledger(self._reader)
                if self._verdicts is not None and ledger.start_ms is not None:
                    ledger = replace(ledger, verdicts=self._verdicts.since(ledger.start_ms))
                with self._mutex:
                    self._ledger, self._is_read = ledger, True
            if refreshed.horizon_ms is not None and self._is_caught_up(refreshed.horizon_ms):
                self._settle(refreshed.horizon_ms)
        except StorageError as exc:
            if self._refresh_error != str(exc):
                logger.error("refresh_failed", extra={"why": str(exc)})  # noqa: TRY400 - the sentence says it all
            self._refresh_error = str(exc)
            return
        if self._refresh_error is not None:
            logger.info("refresh_recovered")
        with self._mutex:
            self._refresh_error = None
            self._refreshed_ms = now_ms
            self._refresh_duration_ns = monotonic_ns() - begun_ns
            self._refreshed_ns = self._clock.boottime_ns()

    def refresh_trouble(self, now_ns: int, within_s: float) -> str | None:
        """Return what is wrong where the last good refresh is longer ago than `within_s`."""
        with self._mutex:
            ago_s = (now_ns - self._refreshed_ns) / 1e9
            if ago_s <= within_s:
                return None
            why = "" if self._refresh_error is None else f": {self._refresh_error}"
            return f"the ledger was not brought up to date for {ago_s:.0f} s{why}"

    def _is_caught_up(self, horizon_ms: int) -> bool:
        """Return whether what agents kept while this program was away is here, as far as they answer.

        A cell is settled only once, so the first one waits: until every agent that answers has handed over its
        readings up to the horizon, or for a while nothing more came, or for all it may take.
        """
        if self._fleet.cell is not None:
            return True
        now_ns, figures = self._clock.boottime_ns(), self._polling.figures()
        if figures.accepted != self._accepted:
            self._accepted, self._accepted_ns = figures.accepted, now_ns
        if now_ns - self._accepted_ns > QUIET_MS * 1_000_000 or now_ns - self._started_ns > CATCH_UP_MS_MAX * 1_000_000:
            return True
        sealed_ms = self._counting.last_seen()
        answering = [node.node for node in self._board.nodes() if figures.up.get(node.target.url, False)]
        return self._polling.has_asked_everyone and all(sealed_ms.get(node, 0) >= horizon_ms for node in answering)

    def _settle(self, horizon_ms: int) -> None:
        fleet = self._fleet
        for cell_ms in _cells_to_settle(fleet, horizon_ms):
            earlier, looked_back_to_ms = read_free_since(self._reader) if fleet.cell is None else ({}, None)
            rows = self._keeper.cell_rows(cell_ms)
            after = settle(fleet, cell_ms, rows, earlier, looked_back_to_ms)
            grown = added(fleet, after)
            # On disk before it is shown: a counter that was seen never goes back.
            if after.counted_to_ms is not None and after.counted_to_ms != fleet.counted_to_ms:
                self._counting.add_settled(after.counted_to_ms, grown)
            if self._workloads is not None and after.cell is not None:
                self._workloads.settle(after.cell, rows)
            fleet = after
            with self._mutex:
                self._fleet = fleet

    def _open(self, live: Sequence[LiveNode]) -> Mapping[str, str]:
        """Return the names of all that is on a GPU now, as far as they are open; what was open stays so."""
        wanted = {digest for node in live for gpu in node.gpus for digest in gpu.holders}
        if len(self._names) > NAMES_MAX:
            self._names = {digest: name for digest, name in self._names.items() if digest in wanted}
        self._names |= self._counting.names(wanted - self._names.keys())
        return self._names

    def prepare(self) -> Prepared:
        """Put together everything that can be asked for."""
        now_ms = self._clock.wall_ns() // 1_000_000
        sealed_ms, simulated = self._counting.last_seen(), self._counting.is_simulated()
        poll, live = self._polling.figures(), self._board.nodes()
        with self._mutex:
            fleet, ledger = self._fleet, self._ledger
            refreshed_ms, duration_ns = self._refreshed_ms, self._refresh_duration_ns
        view = overview(
            now_ms=now_ms,
            simulated=simulated,
            ledger=ledger,
            fleet=fleet,
            live=live,
            poll=poll,
            sealed_ms=sealed_ms,
            names=self._open(live),
            refreshed_ms=refreshed_ms,
        )
        published = self._publisher.publish(view, fleet)
        closed = Counter((one.site, one.why.value) for one in published.not_schedulable.values())
        sites = {node.node: node.site for node in view.nodes}
        exposition = self._exposer.render(
            Exposed(
                fleet=fleet,
                poll=poll,
                simulated=view.simulated,
                last_seen_ms={(sites.get(node) or UNKNOWN_PLACE, node): at_ms for node, at_ms in sealed_ms.items()},
                findings=ledger.findings_by_kind,
                not_schedulable=closed,
                refreshed_ms=refreshed_ms,
                refresh_duration_ns=duration_ns,
                workloads=NO_WORKLOADS if self._workloads is None else self._workloads.figures,
                upkeep=self._upkeep(),
            )
        )
        return Prepared(
            published=published,
            metrics=Document(body=exposition.text, content_type=TEXT_TYPE),
            openmetrics=Document(body=exposition.openmetrics, content_type=OPENMETRICS_TYPE),
        )


def _cells_to_settle(fleet: Fleet, horizon_ms: int) -> Sequence[int]:
    """Return the cells up to the horizon that are to be counted, or at least the last one, to be shown."""
    last_ms = horizon_ms - CELL_MS
    if fleet.cell is not None and fleet.cell.cell_ms >= last_ms:
        return ()
    first_ms = last_ms if fleet.counted_to_ms is None else min(fleet.counted_to_ms, last_ms)
    oldest_ms = last_ms - (CATCH_UP_CELLS_MAX - 1) * CELL_MS
    if first_ms < oldest_ms:
        logger.warning("cells_not_counted", extra={"from_ms": first_ms, "to_ms": oldest_ms})
    return range(max(first_ms, oldest_ms), horizon_ms, CELL_MS)
