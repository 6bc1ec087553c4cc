# SPDX-License-Identifier: Apache-2.0
"""The snapshot: what is refreshed when, what is counted once, and what a full disk changes."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import pytest

from gpuledger.cells import CELL_MS, CELL_SLICE_MS, HOUR_MS
from gpuledger.errors import StorageError
from gpuledger.states import State
from gpuledger_collector.answers import PollFigures
from gpuledger_collector.api import answers
from gpuledger_collector.documents import Asked
from gpuledger_collector.figures import Group, Holding, Key, NotSchedulable
from gpuledger_collector.ledger import CellRow, Finding
from gpuledger_collector.live import LiveBoard
from gpuledger_collector.page.routes import routes as page_routes
from gpuledger_collector.shelf import Prepared
from gpuledger_collector.snapshot import CATCH_UP_CELLS_MAX, CATCH_UP_MS_MAX, QUIET_MS, Snapshot
from gpuledger_collector.targets import Target
from tests.fakes.cells import T0_MS, rows
from tests.fakes.glance import ALICE, MEASURED, NO_POLLS, NOW_MS, a_document
from tests.fakes.ledger import FakeGpuAccounts
from tests.fakes.polling import StillClock
from tests.fakes.side_rows import SideRows

FREE = ("fra1", "NVIDIA H100", "free")


@dataclass(frozen=True, kw_only=True)
class FakeRefreshed:
    horizon_ms: int | None
    hours: int


@dataclass
class FakeSite(SideRows):
    """Keeper, counters, ledger and poller of a site with one GPU that is free all the time."""

    horizon_ms: int | None = T0_MS + CELL_MS
    error: StorageError | None = None
    asked_everyone: bool = True
    counted_to_ms: int | None = None
    counts: dict[tuple[str, str, str], int] = field(default_factory=dict)
    settled_cells: list[int] = field(default_factory=list)
    simulated: bool = False
    polled: PollFigures = NO_POLLS
    seen: dict[str, int] = field(default_factory=lambda: {"node-1": T0_MS + CELL_MS})
    reads: int = 0

    def refresh(self, now_ms: int) -> FakeRefreshed:
        del now_ms
        if self.error is not None:
            raise self.error
        return FakeRefreshed(horizon_ms=self.horizon_ms, hours=0)

    def cell_rows(self, cell_ms: int) -> list[CellRow]:
        self.settled_cells.append(cell_ms)
        return rows(cell_ms, {("node-1", "GPU-1"): State.FREE})

    def settled(self) -> tuple[int | None, Mapping[tuple[str, str, str], int]]:
        return self.counted_to_ms, self.counts

    def add_settled(self, to_ms: int, amounts: Mapping[tuple[str, str, str], int]) -> None:
        self.counted_to_ms = to_ms
        for key, amount in amounts.items():
            self.counts[key] = self.counts.get(key, 0) + amount

    def last_seen(self) -> Mapping[str, int]:
        return self.seen

    def is_simulated(self) -> bool:
        return self.simulated

    @property
    def has_asked_everyone(self) -> bool:
        return self.asked_everyone

    def figures(self) -> PollFigures:
        return self.polled

    def names(self, digests: Iterable[str]) -> Mapping[str, str]:
        return {digest: "train.py (alice)" for digest in digests if digest == ALICE}

    def extent(self) -> tuple[int, int] | None:
        self.reads += 1
        return None if self.horizon_ms is None else (T0_MS - 48 * HOUR_MS, self.horizon_ms)

    def sum_by(self, keys: Sequence[Key], start_ms: int, end_ms: int) -> list[Group]:
        del start_ms, end_ms
        if keys != ("site", "model"):
            return []
        return [
            Group(
                key=("fra1", "NVIDIA H100"),
                account=MEASURED,
                gpus=8,
                active_known_ms=0,
                hang_suspicion_ms=0,
                memory_used_bytes_max=None,
                intervals_ms=(1000,),
                activity_sources=("gpm",),
                simulated=False,
            )
        ]

    def holdings(self, start_ms: int, end_ms: int) -> list[Holding]:
        del start_ms, end_ms
        return []

    def not_schedulable(self, start_ms: int, end_ms: int) -> list[NotSchedulable]:
        del start_ms, end_ms
        return []

    def gpu_accounts(self, start_ms: int, end_ms: int) -> FakeGpuAccounts:
        del start_ms, end_ms
        return FakeGpuAccounts({})

    def findings(self, start_ms: int, end_ms: int) -> list[Finding]:
        found = [
            Finding(at_ms=T0_MS - 40 * HOUR_MS, kind="unrostered", subject="GPU-9", text="an older one"),
            Finding(at_ms=T0_MS - HOUR_MS, kind="unrostered", subject="GPU-9", text="a newer one"),
        ]
        return [finding for finding in found if start_ms <= finding.at_ms < end_ms]

    def digest(self, start_ms: int, end_ms: int) -> str:
        raise AssertionError((start_ms, end_ms))


def body(prepared: Prepared, path: str) -> bytes:
    """Return what is served at an address."""
    return {**page_routes(), **answers.routes()}[path](prepared.published, Asked()).body


def snapshot_of(site: FakeSite, clock: StillClock | None = None, board: LiveBoard | None = None) -> Snapshot:
    return Snapshot(
        keeper=site,
        counting=site,
        reader=site,
        polling=site,
        board=LiveBoard() if board is None else board,
        clock=StillClock() if clock is None else clock,
    )


def test_each_newly_settled_cell_is_counted_once_and_on_disk() -> None:
    site = FakeSite()
    snapshot = snapshot_of(site)
    for cells in (1, 1, 3, 3):
        site.horizon_ms = T0_MS + cells * CELL_MS
        snapshot.refresh()
    assert site.settled_cells == [T0_MS, T0_MS + CELL_MS, T0_MS + 2 * CELL_MS]
    assert site.counts == {FREE: 3 * CELL_SLICE_MS}
    text = snapshot.prepare().metrics.body.decode()
    assert 'gpuledger_fleet_state_seconds_total{model="NVIDIA H100",site="fra1",state="free"} 900.0' in text
    (shown,) = [line for line in text.splitlines() if line.startswith("gpuledger_fleet_cell_timestamp_seconds ")]
    assert float(shown.split()[1]) == (T0_MS + 2 * CELL_MS) / 1000


def test_a_later_run_counts_what_the_one_before_left_and_nothing_twice() -> None:
    site = FakeSite()
    snapshot_of(site).refresh()
    site.horizon_ms = T0_MS + 4 * CELL_MS
    again = snapshot_of(site)
    again.refresh()
    assert site.counts == {FREE: 4 * CELL_SLICE_MS}
    third = snapshot_of(site)
    third.refresh()
    assert site.counts == {FREE: 4 * CELL_SLICE_MS}
    # It counted nothing, and shows the last cell all the same.
    assert b'gpuledger_fleet_gpus{model="NVIDIA H100",site="fra1",state="free"} 1.0' in third.prepare().metrics.body


def test_after_a_long_outage_the_counters_leave_out_what_is_too_old(caplog: pytest.LogCaptureFixture) -> None:
    site = FakeSite()
    snapshot_of(site).refresh()
    site.horizon_ms = T0_MS + (CATCH_UP_CELLS_MAX + 10) * CELL_MS
    snapshot_of(site).refresh()
    assert site.counts == {FREE: (1 + CATCH_UP_CELLS_MAX) * CELL_SLICE_MS}
    assert [record.msg for record in caplog.records] == ["cells_not_counted"]


def a_board(*nodes: str) -> LiveBoard:
    board = LiveBoard()
    for node in nodes:
        board.note(a_document(node), Target(url=f"http://{node}:9400"), T0_MS)
    return board


def up(*nodes: str, accepted: int = 0) -> PollFigures:
    return replace(NO_POLLS, up={f"http://{node}:9400": True for node in nodes}, accepted=accepted)


def test_the_first_cell_waits_until_agents_that_answer_have_handed_over_what_they_kept() -> None:
    site = FakeSite(asked_everyone=False, polled=up("node-1"), seen={"node-1": T0_MS})
    snapshot = snapshot_of(site, board=a_board("node-1", "node-2"))
    snapshot.refresh()
    site.asked_everyone = True
    snapshot.refresh()
    assert site.settled_cells == []
    site.seen["node-1"] = T0_MS + CELL_MS
    snapshot.refresh()
    assert site.settled_cells == [T0_MS]
    # Later cells wait for nobody: what comes late changes the ledger alone.
    site.horizon_ms = T0_MS + 2 * CELL_MS
    snapshot.refresh()
    assert site.settled_cells == [T0_MS, T0_MS + CELL_MS]


def test_the_first_cell_waits_no_longer_when_nothing_more_comes() -> None:
    site, clock = FakeSite(polled=up("node-1", accepted=1), seen={"node-1": T0_MS}), StillClock()
    snapshot = snapshot_of(site, clock, a_board("node-1"))
    for accepted in range(1, 4):
        site.polled = up("node-1", accepted=accepted)
        snapshot.refresh()
        clock.boottime += QUIET_MS * 1_000_000
        snapshot.refresh()
        assert site.settled_cells == []
    clock.boottime += 1
    snapshot.refresh()
    assert site.settled_cells == [T0_MS]


def test_the_first_cell_never_waits_longer_than_the_bound() -> None:
    site, clock = FakeSite(polled=up("node-1"), seen={"node-1": T0_MS}), StillClock()
    snapshot = snapshot_of(site, clock, a_board("node-1"))
    for accepted in range(CATCH_UP_MS_MAX // QUIET_MS + 2):
        site.polled = up("node-1", accepted=accepted)
        snapshot.refresh()
        clock.boottime += QUIET_MS * 1_000_000
    assert site.settled_cells == [T0_MS]


def test_a_disk_that_refuses_is_logged_once_and_the_last_figures_stand(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    site, clock = FakeSite(), StillClock()
    snapshot = snapshot_of(site, clock)
    snapshot.refresh()
    before = body(snapshot.prepare(), "/api/v1/fleet")
    site.error = StorageError("ledger/hours: cannot be written: No space left on device")
    clock.boottime += 400 * 10**9
    snapshot.refresh()
    snapshot.refresh()
    assert body(snapshot.prepare(), "/api/v1/fleet") == before
    assert snapshot.refresh_trouble(clock.boottime, within_s=400) is None
    assert snapshot.refresh_trouble(clock.boottime, within_s=300) == (
        "the ledger was not brought up to date for 400 s: ledger/hours: cannot be written: No space left on device"
    )
    site.error = None
    snapshot.refresh()
    assert snapshot.refresh_trouble(clock.boottime, within_s=300) is None
    assert [record.msg for record in caplog.records] == ["refresh_failed", "refresh_recovered"]


def test_the_ledger_is_read_again_only_when_it_changed() -> None:
    site = FakeSite()
    snapshot = snapshot_of(site)
    snapshot.refresh()
    reads = site.reads
    snapshot.refresh()
    assert site.reads == reads


def test_the_page_has_the_findings_of_its_period_and_the_metrics_all_of_them() -> None:
    site = FakeSite()
    snapshot = snapshot_of(site)
    snapshot.refresh()
    prepared = snapshot.prepare()
    assert b"a newer one" in body(prepared, "/quality")
    assert b"an older one" not in body(prepared, "/quality")
    assert b'gpuledger_collector_findings{kind="unrostered"} 2.0' in prepared.metrics.body


@pytest.mark.parametrize("where", ["taken in", "live"])
def test_simulated_data_is_marked_in_page_json_and_metrics(where: str) -> None:
    site, board = FakeSite(simulated=where == "taken in"), LiveBoard()
    board.note(a_document("node-1", simulated=where == "live"), Target(url="http://node-1:9400"), T0_MS)
    prepared = snapshot_of(site, board=board).prepare()
    assert b"<title>SIMULATED" in body(prepared, "/quality")
    assert b'"simulated":true' in body(prepared, "/api/v1/fleet")
    assert b'simulated="true"' in prepared.metrics.body


def test_a_node_is_last_seen_where_it_is_installed() -> None:
    site = FakeSite()
    snapshot = snapshot_of(site)
    assert b'last_seen_timestamp_seconds{node="node-1",site="unknown"}' in snapshot.prepare().metrics.body
    snapshot.refresh()
    assert b'last_seen_timestamp_seconds{node="node-1",site="fra1"}' in snapshot.prepare().metrics.body


def test_holders_are_named_where_their_names_are_open() -> None:
    board = LiveBoard()
    board.note(a_document("node-2"), Target(url="http://node-2:9400"), NOW_MS)
    prepared = snapshot_of(FakeSite(), StillClock(wall=NOW_MS * 1_000_000), board).prepare()
    assert "holders: train.py (alice), b0b0b0b0b0b0…" in body(prepared, "/").decode()
