# SPDX-License-Identifier: Apache-2.0
"""Sections of a report: heat maps in which dark looks like nothing else, blocks to sell, what leases and queues say."""

from __future__ import annotations

import pytest

from gpuledger.cells import DAY_MS, HOUR_MS
from gpuledger.states import State
from gpuledger_collector.allotment import AllotmentRows, ClusterRow, QueueRow, UnschedulableRow
from gpuledger_collector.commerce import CommerceRow
from gpuledger_collector.leases import Commercial, Several
from gpuledger_collector.report import heat
from gpuledger_collector.report.languages import ENGLISH, TAGS, language
from gpuledger_collector.report.model import Demand, Weekly
from gpuledger_collector.report.patterns import hour_of_week
from gpuledger_collector.report.periods import week_named
from gpuledger_collector.report.to_html import weekly_to_html
from gpuledger_collector.report.to_markdown import weekly_to_markdown
from gpuledger_collector.report.weekly import build_weekly
from gpuledger_collector.schedulers.view import Unschedulable
from tests.fakes.ledger import FakeLedger
from tests.fakes.ledger_rows import MINUTE_SLICE_MS, MONDAY_MS, OPENINGS, hour_row, two_weeks
from tests.fakes.side_rows import SideRows

W47 = week_named("2026-W47")
HOUR_SLICE_MS = 60 * MINUTE_SLICE_MS
FRIDAY_NOON_MS = MONDAY_MS + 4 * DAY_MS + 12 * HOUR_MS


def report_of(sides: SideRows | None = None) -> Weekly:
    hours, holders, findings = two_weeks()
    return build_weekly(FakeLedger(hours, holders, findings, openings=OPENINGS, sides=sides), W47)


def cell_of(node: str, day: int) -> heat.Cell:
    found = heat.days_map(report_of(), ENGLISH)
    label = f"{node}, {ENGLISH.day(MONDAY_MS + day * DAY_MS)}:"
    (cell,) = [cell for cell in found.cells if cell.title.startswith(label)]
    return cell


def test_a_wholly_dark_day_is_hatched_all_over_and_has_no_colour() -> None:
    cell = cell_of("south-1", 5)
    assert (cell.dark_width, cell.color) == (cell.width, "")


def test_a_half_dark_day_is_half_hatched_and_its_number_is_of_what_was_seen() -> None:
    # Friday to noon: seven GPUs free and one down, then dark.
    cell = cell_of("south-1", 4)
    assert cell.dark_width == pytest.approx(cell.width / 2, abs=0.01)
    assert cell.text == "87"
    assert "at least 43.7 % and at most 93.8 % idle, 50.0 % dark" in cell.title


def test_a_day_that_was_seen_has_no_hatching() -> None:
    cell = cell_of("serve-1", 0)
    assert (cell.dark_width, cell.text) == (0, "50")


def test_nodes_that_were_idle_all_the_time_are_one_row() -> None:
    labels = [text.text for text in heat.days_map(report_of(), ENGLISH).texts]
    assert "wholly idle (2)" in labels
    assert "free-1" not in labels


def test_hours_of_the_week_begin_on_monday() -> None:
    assert [hour_of_week(MONDAY_MS + hours * HOUR_MS) for hours in (0, 25, 167, 168)] == [0, 25, 167, 0]
    hours = report_of().heat_hours
    assert len(hours) == 168
    assert sum(row.dark_slice_ms for row in hours) == 480 * HOUR_SLICE_MS


def test_a_block_is_of_nodes_that_are_free_up_to_the_end() -> None:
    (block,) = report_of().blocks
    (node,) = block.nodes
    assert (block.site, node.node, node.since_ms, node.is_longer) == ("north", "free-1", MONDAY_MS, True)
    assert block.free_slice_ms == 8 * 168 * HOUR_SLICE_MS


def only_busy(is_busy: bool) -> dict[State, int]:
    return {State.BUSY: 60} if is_busy else {State.FREE: 60}


def test_a_block_begins_with_the_hour_after_the_last_that_was_not_free() -> None:
    rows = [
        hour_row(
            MONDAY_MS + hour * HOUR_MS,
            "n1",
            f"GPU-{gpu}",
            only_busy(hour == 10 and gpu == 1),
        )
        for hour in range(168)
        for gpu in (1, 2)
    ]
    (block,) = build_weekly(FakeLedger(rows), W47).blocks
    assert (block.nodes[0].since_ms, block.nodes[0].is_longer) == (MONDAY_MS + 11 * HOUR_MS, False)


def closed(*hours: int) -> SideRows:
    last = AllotmentRows(
        unschedulable=tuple(
            UnschedulableRow(
                hour_ms=MONDAY_MS + hour * HOUR_MS,
                cluster="slurm",
                site="north",
                node="free-1",
                why=Unschedulable.DRAINED,
                reason="RMA",
                by="a1" * 32,
                since_ms=MONDAY_MS,
                slice_ms=8 * HOUR_SLICE_MS,
                free_slice_ms=8 * HOUR_SLICE_MS,
            )
            for hour in hours
        ),
        queues=(
            QueueRow(
                hour_ms=MONDAY_MS, cluster="slurm", partition="p", reason="Resources", jobs_max=3, wanted_slice_ms=7
            ),
        ),
        clusters=(
            ClusterRow(
                hour_ms=MONDAY_MS,
                cluster="slurm",
                known_ms=HOUR_MS,
                free_slice_ms=HOUR_SLICE_MS,
                wanted_slice_ms=2 * HOUR_SLICE_MS,
                idle_wanted_slice_ms=HOUR_SLICE_MS,
            ),
        ),
    )
    return SideRows((), last, openings=OPENINGS)


def test_a_node_that_takes_no_work_at_the_end_is_in_no_block_and_says_who_closed_it() -> None:
    report = report_of(closed(166, 167))
    assert report.blocks == ()
    text = weekly_to_markdown(report)
    assert "| north (slurm) | free-1 | drained (RMA) |" in " ".join(text.split())
    assert "alice" in text


def test_a_node_that_was_closed_and_opened_again_can_be_sold() -> None:
    assert len(report_of(closed(5)).blocks) == 1


def test_demand_is_told_by_how_much_of_a_node_workloads_had() -> None:
    assert [(row.demand, row.workloads) for row in report_of().demand] == [(Demand.WHOLE_NODE, 3)]


@pytest.mark.parametrize("tag", TAGS)
def test_what_no_input_tells_is_one_line_each_and_goes_with_the_input(tag: str) -> None:
    lang = language(tag)
    bare, full = weekly_to_markdown(report_of(), lang), weekly_to_markdown(report_of(closed(5)), lang)
    for section in ("not_schedulable", "queues"):
        line = lang("absent.line", section=lang(f"absent.section_{section}"), needs=lang("absent.needs_scheduler"))
        assert line in bare
        assert line not in full
    assert lang("market.waiting_caption") in full
    assert lang("money.absent").split("（")[0].split("(")[0] in bare.replace("\\", "")


def test_sold_but_idle_time_names_the_tenant_and_keeps_bounds() -> None:
    commerce = CommerceRow(
        hour_ms=MONDAY_MS,
        site="north",
        pool="unknown",
        kind=Commercial.PAID,
        lease="L-1",
        tenant="a1" * 32,
        slice_ms=8 * HOUR_SLICE_MS,
        low_slice_ms={State.DARK: 0},
        high_slice_ms={State.DARK: HOUR_SLICE_MS},
        low_of_slice_ms={Several.SOLD_IDLE: HOUR_SLICE_MS},
        high_of_slice_ms={Several.SOLD_IDLE: 2 * HOUR_SLICE_MS},
    )
    report = report_of(SideRows([commerce], openings=OPENINGS))
    (row,) = report.market.sold_idle
    assert (row.tenant_name, row.idle_low_slice_ms, row.idle_high_slice_ms) == (
        "alice",
        HOUR_SLICE_MS,
        2 * HOUR_SLICE_MS,
    )
    text = weekly_to_html(report)
    assert "1.0 – 2.0" in text
    assert "tenants to call before they leave" in text
