# SPDX-License-Identifier: Apache-2.0
"""The report's part on leases, schedulers and the roster: what it says, and what it leaves out where nobody told."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import pytest

from gpuledger.cells import HOUR_MS, SLICES_PER_GPU
from gpuledger.states import State
from gpuledger_collector.allotment import AllotmentRow, AllotmentRows, ClusterRow, QueueRow, UnschedulableRow
from gpuledger_collector.commerce import CommerceRow
from gpuledger_collector.leases import STATES_OF, Commercial, Several
from gpuledger_collector.node_figures import Scope
from gpuledger_collector.report.languages import ENGLISH, language
from gpuledger_collector.report.model import Weekly
from gpuledger_collector.report.periods import week_named
from gpuledger_collector.report.to_html import weekly_to_html
from gpuledger_collector.report.to_json import weekly_to_json
from gpuledger_collector.report.to_markdown import weekly_to_markdown
from gpuledger_collector.report.weekly import Extract, build_weekly
from gpuledger_collector.roster_change import Bridge
from gpuledger_collector.schedulers.view import Unschedulable
from gpuledger_collector.spare import FreeTags
from tests.fakes.ledger import FakeLedger
from tests.fakes.ledger_rows import MONDAY_MS, OPENINGS, two_weeks
from tests.fakes.side_rows import SideRows

W47 = week_named("2026-W47")
GPU_HOUR = HOUR_MS * SLICES_PER_GPU
NAMES = {"d-acme": "Acme GmbH", "d-job": "4711", "d-ada": "ada", "d-lab": "physics", "d-root": "root"}


def share(kind: Commercial, low: dict[State, int], high: dict[State, int], **facts: str | None) -> CommerceRow:
    """Hours of each state, at least and at most; together they are the time of the share."""
    states = {state: amount * GPU_HOUR for state, amount in low.items()}
    most = {state: amount * GPU_HOUR for state, amount in high.items()}
    own = int(facts.pop("hours", "0") or 0) * GPU_HOUR

    def of(amounts: dict[State, int], least: bool) -> dict[Several, int]:
        sums = {several: sum(amounts.get(state, 0) for state in some) for several, some in STATES_OF.items()}
        return sums if least else {several: min(amount, own) for several, amount in sums.items()}

    return CommerceRow(
        hour_ms=MONDAY_MS,
        site="north",
        pool="h100",
        kind=kind,
        lease=facts.get("lease"),
        tenant=facts.get("tenant"),
        slice_ms=own,
        low_slice_ms=states,
        high_slice_ms=most,
        low_of_slice_ms=of(states, least=True),
        high_of_slice_ms=of(most, least=False),
    )


def sides() -> SideRows:
    exact = {State.BUSY: 6, State.HELD: 2}
    rows = AllotmentRows(
        allotments=(
            AllotmentRow(
                hour_ms=MONDAY_MS,
                cluster="train",
                site="north",
                node="free-1",
                job="d-job",
                user="d-ada",
                account="d-lab",
                partition="gpu",
                gpus=4,
                slice_ms=4 * GPU_HOUR,
                busy_slice_ms=0,
                held_slice_ms=0,
                reserved_slice_ms=3 * GPU_HOUR,
                untold_slice_ms=0,
            ),
        ),
        unschedulable=(
            UnschedulableRow(
                hour_ms=MONDAY_MS,
                cluster="train",
                site="north",
                node="free-1",
                why=Unschedulable.DRAINED,
                reason="fan 3 | is <dead>",
                by="d-root",
                since_ms=MONDAY_MS - HOUR_MS,
                slice_ms=8 * GPU_HOUR,
                free_slice_ms=5 * GPU_HOUR,
            ),
        ),
        queues=(
            QueueRow(
                hour_ms=MONDAY_MS,
                cluster="train",
                partition="gpu",
                reason="Resources",
                jobs_max=3,
                wanted_slice_ms=12 * GPU_HOUR,
            ),
        ),
        clusters=(
            ClusterRow(
                hour_ms=MONDAY_MS,
                cluster="train",
                known_ms=HOUR_MS,
                free_slice_ms=8 * GPU_HOUR,
                wanted_slice_ms=12 * GPU_HOUR,
                idle_wanted_slice_ms=7 * GPU_HOUR,
            ),
        ),
    )
    commerce = (
        share(Commercial.PAID, exact, exact, lease="L-1", tenant="d-acme", hours="8"),
        share(
            Commercial.INTERNAL,
            {State.FREE: 1},
            {State.FREE: 4, State.BUSY: 3},
            lease="L-2",
            tenant="d-unknown",
            hours="4",
        ),
        share(Commercial.UNSOLD, {State.FREE: 5}, {State.FREE: 8, State.BUSY: 3}, hours="8"),
    )
    return SideRows(commerce, rows, openings=NAMES, bridge=Bridge(opening=38, added=4, retired=2, closing=40))


@cache
def report() -> Weekly:
    hours, holders, findings = two_weeks()
    tags = FreeTags(not_schedulable_slice_ms=GPU_HOUR // 2, stranded_node_slice_ms=GPU_HOUR // 4)
    hours = [replace(row, tags=tags) if row.node == "free-1" else row for row in hours if row.site == "north"]
    return build_weekly(FakeLedger(hours, holders, findings, openings=OPENINGS, sides=sides()), W47)


@pytest.mark.golden
def test_what_leases_schedulers_and_roster_tell_is_as_in_the_golden_files(golden: Callable[[str, str], None]) -> None:
    golden("given-weekly.md", weekly_to_markdown(report()))
    golden("given-weekly.json", json.dumps(json.loads(weekly_to_json(report()))["given"], indent=1) + "\n")


def test_every_table_stands_on_the_page_with_hostile_text_escaped() -> None:
    page = weekly_to_html(report())
    for text in ("Acme GmbH", "physics", "4711", "drained", "Resources", "Installed GPUs from the start"):
        assert text in page
    assert "<dead>" not in page


def test_the_bridge_adds_up_and_sellable_time_is_what_no_tag_is_on() -> None:
    given = report().given
    assert given is not None
    bridge = report().market.bridge
    assert bridge is not None
    assert bridge.opening + bridge.added - bridge.retired == bridge.closing
    assert given.sellable is not None
    found = given.sellable
    parts = found.not_schedulable_slice_ms + found.stranded_node_slice_ms + found.stranded_mig_slice_ms
    assert found.sellable_slice_ms == found.free_slice_ms - parts


def test_kinds_sum_to_the_time_of_their_shares() -> None:
    given = report().given
    assert given is not None
    assert [(kind.kind, kind.slice_ms // GPU_HOUR) for kind in given.kinds] == [
        (Commercial.PAID, 8),
        (Commercial.INTERNAL, 4),
        (Commercial.UNSOLD, 8),
    ]


def test_a_lease_is_delivered_in_work_and_idle_within_bounds_that_do_not_cross() -> None:
    given = report().given
    assert given is not None
    for lease in given.leases:
        assert lease.used_low_slice_ms <= lease.delivered_low_slice_ms <= lease.contracted_slice_ms
        assert lease.delivered_low_slice_ms <= lease.delivered_high_slice_ms <= lease.contracted_slice_ms
        assert lease.idle_low_slice_ms <= lease.idle_high_slice_ms
    assert [lease.tenant for lease in given.leases] == ["Acme GmbH", None]


def test_without_a_lease_book_nothing_is_said_of_leases() -> None:
    hours, holders, findings = two_weeks()
    without = build_weekly(FakeLedger(hours, holders, findings, openings=OPENINGS), W47)
    assert ENGLISH("given.heading") not in weekly_to_markdown(without)


def test_where_too_little_was_measured_how_much_was_in_work_is_withheld() -> None:
    hours, holders, findings = two_weeks()
    withheld = build_weekly(FakeLedger(hours, holders, findings, openings=OPENINGS, sides=sides()), W47)
    assert withheld.withheld
    text = weekly_to_markdown(withheld)
    assert ENGLISH("given.work_withheld") in text
    assert ENGLISH("given.work_withheld") not in weekly_to_markdown(report())


def test_a_part_of_the_fleet_says_nothing_of_what_is_known_of_the_whole() -> None:
    hours, holders, findings = two_weeks()
    ledger = FakeLedger(hours, holders, findings, openings=OPENINGS, sides=sides())
    extract = build_weekly(ledger, W47, extract=Extract(scope=Scope(sites=("north",)), items=()))
    assert extract.given is None


def test_it_is_said_in_chinese_too() -> None:
    text = weekly_to_markdown(report(), language("zh-CN"))
    assert language("zh-CN")("given.heading") in text
    assert ENGLISH("given.heading") not in text
