# SPDX-License-Identifier: Apache-2.0
"""What the page says, and that nothing that comes from outside can say anything else on it."""

import re
from dataclasses import replace
from urllib.parse import quote

import pytest

from gpuledger.cells import CELL_MS, HOUR_MS
from gpuledger.states import State
from gpuledger_collector import wording
from gpuledger_collector.fleet import Fleet, Place
from gpuledger_collector.ledger import Finding
from gpuledger_collector.live import LiveBoard
from gpuledger_collector.overview import LedgerFigures, Origin, Overview, overview
from gpuledger_collector.page import bars
from gpuledger_collector.page.fleet_views import GRID_NODES_MAX
from gpuledger_collector.page.rendering import static_file, static_url
from gpuledger_collector.palette import LOOKS
from gpuledger_collector.targets import Target
from tests.fakes.cells import T0_MS
from tests.fakes.glance import (
    CELL,
    NO_POLLS,
    NOW_MS,
    UNMEASURED,
    a_document,
    a_fleet,
    a_glance,
    a_published,
    an_account,
)
from tests.fakes.pages import HOSTILE, Reader, get, look


def read(view: Overview) -> Reader:
    """Return the front page."""
    return look("/", a_published(view, Fleet() if view.cell_ms is None else None))


def test_the_headline_has_both_bounds_coverage_out_and_declared_in_one_sentence() -> None:
    said = read(a_glance()).words
    assert (
        "In the last 24 hours at least 41.6 % and at most 42.8 % of installed GPU time stood idle; coverage 98.9 %, "
        "5.3 % out of service, 0.0 % declared instead of observed." in said
    )
    assert "At least 52.0 % and at most 53.2 % was busy; engines were active for 22.9 % of it." in said
    assert "21 Nov 2026, 06:00 to 22 Nov 2026, 05:10 UTC" in said


def test_with_less_than_a_day_the_headline_says_how_much_there_is() -> None:
    view = a_glance()
    ledger = replace(view.ledger, start_ms=CELL - 3 * HOUR_MS)
    assert wording.headline(replace(view, ledger=ledger)).startswith(
        "In the 3 h 5 min since the ledger begins at least"
    )


def test_under_95_percent_measured_the_words_busy_used_and_occupancy_are_nowhere_on_the_page() -> None:
    reader = read(a_glance(account=UNMEASURED))
    shown = reader.words + " ".join(value for _, name, value in reader.attributes if name in {"title", "aria-label"})
    for word in ("busy", "used", "occupancy"):
        assert re.search(rf"\b{word}\b", shown, re.IGNORECASE) is None, word
    assert "Only 93.7 % of installed GPU time was measured (the floor is 95 %)" in shown
    assert "Engines were seen active for 22.9 % of it." in shown
    assert "work seen" in shown


def test_simulated_data_is_marked_in_the_title_and_on_top_of_the_page() -> None:
    reader = read(a_glance(simulated=True))
    assert reader.words.startswith(
        "SIMULATED · GPU fleet: 41.6 – 42.8 % idle · gpuledger To the content SIMULATED Read"
    )
    assert ("aside", "aria-label", "Simulated") in reader.attributes
    assert "SIMULATED" not in read(a_glance()).words


@pytest.mark.parametrize("flag", ["taken in", "ledger"])
def test_one_sign_of_simulation_is_enough(flag: str) -> None:
    view = overview(
        now_ms=NOW_MS,
        simulated=flag == "taken in",
        ledger=LedgerFigures(simulated=flag == "ledger"),
        fleet=Fleet(),
        live=[],
        poll=NO_POLLS,
        sealed_ms={},
        names={},
        refreshed_ms=None,
    )
    assert view.simulated
    assert read(view).words.startswith("SIMULATED")


def test_an_empty_collector_says_that_it_knows_nothing_and_shows_no_figure() -> None:
    view = overview(
        now_ms=NOW_MS,
        simulated=False,
        ledger=LedgerFigures(),
        fleet=Fleet(),
        live=[],
        poll=NO_POLLS,
        sealed_ms={},
        names={},
        refreshed_ms=None,
    )
    said = read(view).words
    assert "No figures yet: the ledger holds no complete cell of five minutes." in said
    assert "No node has answered yet." in said
    assert "No agents are polled." in said
    assert "%" not in said


def test_states_are_shown_with_hours_and_percentages_that_never_flatter() -> None:
    said = read(a_glance()).words
    # 100 of 192 is 52.083 %, rounded down; 20 of 192 is 10.417 %, rounded up.
    assert "B busy 52.0 % 100.0 GPU-h" in said
    assert "H held 10.5 % 20.0 GPU-h" in said
    assert "? dark 1.1 % 2.0 GPU-h" in said


def test_a_bar_is_exact_whatever_is_printed() -> None:
    sums = a_glance().sites["fra1"]
    bar = bars.bar("fra1", sums, LOOKS)
    assert [part.look.state for part in bar.segments] == [State.BUSY, State.HELD, State.FREE, State.DOWN, State.DARK]
    assert sum(float(part.width.rstrip("%")) for part in bar.segments) == pytest.approx(100, abs=0.01)
    assert bar.segments[1].x == bar.segments[0].width


def test_the_grid_shows_each_gpu_by_letter_and_says_it_in_words() -> None:
    reader = read(a_glance())
    said = reader.words
    # node-10 comes after node-3, and is dark since nobody ever heard of it.
    assert re.search(r"node-1 B busy since 05:14 or earlier X down since 05:14 or earlier 05:10 node-2 H held", said)
    assert (
        "node-3 F free since 05:14 or earlier F free since 05:14 or earlier 05:10 node-10 ? dark ? dark never answered"
        in said
    )
    hints = [value for tag, name, value in reader.attributes if tag == "td" and name == "title"]
    assert hints[0].splitlines() == [
        "GPU-11",
        "busy since 05:14 or earlier",
        "activity 91.3 %",
        "memory 3.0 GiB",
        "power 70 W",
    ]
    assert hints[2].endswith("holders: train.py (alice), b0b0b0b0b0b0…")
    assert len(hints) == 8


def test_a_node_that_fell_silent_is_dark_and_one_that_stopped_measuring_too() -> None:
    board = LiveBoard()
    target = Target(url="http://node-1:9400", site="fra1")
    past = a_document("node-1")
    past["live"]["edge_ms"] = NOW_MS - 3 * HOUR_MS
    board.note(past, target, NOW_MS - 3 * HOUR_MS)
    silent = a_glance(board=board)
    assert [gpu.state for gpu in silent.nodes[0].gpus] == [State.DARK, State.DARK]
    assert "silent for 3 h" in read(silent).words
    with_trouble = a_glance(troubles={target.url: f"{target.url} refuses the connection: no agent listens there"})
    assert [gpu.state for gpu in with_trouble.nodes[0].gpus] == [State.DARK, State.DARK]
    assert "silent for 3 s" in read(with_trouble).words
    past["live"] |= {"interval_ms": 1000}
    for seen_ms in (NOW_MS - 3 * 60_000, NOW_MS - 1000):
        past["live"]["edge_ms"] = NOW_MS - 3 * 60_000
        board.note(past, target, seen_ms)
    stuck = a_glance(board=board)
    assert [gpu.state for gpu in stuck.nodes[0].gpus] == [State.DARK, State.DARK]
    assert "not measuring" in read(stuck).words


def test_a_node_whose_time_is_far_from_ours_says_nothing_about_now() -> None:
    board, document = LiveBoard(), a_document("node-1")
    document["live"]["edge_ms"] = NOW_MS - 3 * HOUR_MS
    board.note(document, Target(url="http://node-1:9400", site="fra1"), NOW_MS)
    view = a_glance(board=board)
    assert [gpu.state for gpu in view.nodes[0].gpus] == [State.DARK, State.DARK]
    assert "its time is 3 h behind" in read(view).words


def test_a_gpu_that_the_roster_does_not_know_is_shown_and_counted_nowhere() -> None:
    board = LiveBoard()
    document = a_document("node-1")
    document["live"]["gpus"].append({"uuid": "GPU-new", "state": "free"})
    board.note(document, Target(url="http://node-1:9400"), NOW_MS)
    view = a_glance(board=board)
    stranger = view.nodes[0].gpus[-1]
    assert (stranger.gpu, stranger.is_rostered, stranger.origin) == ("GPU-new", False, Origin.LIVE)
    assert sum(view.states_now.values()) == 8
    assert "free since 05:14 or earlier, not in the roster" in read(view).words


def test_free_whole_nodes_are_listed_with_since_when() -> None:
    said = read(a_glance()).words
    assert "node-3 fra1 F free 2 of 2 whole node 1 d 7 h since 20 Nov 22:00" in said
    looked = a_fleet(looked_back_to_ms=T0_MS - 26 * HOUR_MS)
    state = a_published(a_glance(fleet=looked), looked)
    assert "2 of 2 whole node at least 1 d 7 h since 20 Nov 22:00 or earlier" in look("/", state).words
    assert "for the whole of the five minutes up to 05:10 UTC" in said


def test_agents_that_fail_and_findings_are_named() -> None:
    finding = Finding(at_ms=T0_MS, kind="foreign_claim", subject="GPU-1", text="node-7 claims GPU-1")
    view = a_glance(findings=(finding,))
    for said in (read(view).words, look("/quality", a_published(view)).words):
        assert "3 of 4 agents answered when last asked. http://node-10:9400 did not answer within 10 s" in said
    assert "1 finding in this period." in read(view).words
    assert "00:00 foreign claim node-7 claims GPU-1" in look("/quality", a_published(view)).words
    assert "None of that kind." in look("/quality", a_published(view), "kind=other").words


def test_hostile_names_are_text_and_nothing_else() -> None:
    board = LiveBoard()
    document = a_document("node-1") | {"node": HOSTILE}
    document["live"]["gpus"][0] |= {"uuid": HOSTILE, "holders": [HOSTILE], "reason": HOSTILE}
    board.note(document, Target(url="http://node-1:9400", site=HOSTILE, pool=HOSTILE), NOW_MS)
    finding = Finding(at_ms=T0_MS, kind=HOSTILE, subject=HOSTILE, text=HOSTILE)
    view = a_glance(site=HOSTILE, findings=(finding,), board=board, troubles={HOSTILE: HOSTILE})
    view = replace(view, ledger=replace(view.ledger, places={Place(HOSTILE, HOSTILE): view.total}))
    state = a_published(view)
    for path, names in (
        ("/", {}),
        ("/sites/{site}", {"site": HOSTILE}),
        ("/nodes/{node}", {"node": HOSTILE}),
        ("/gpus/{gpu}", {"gpu": HOSTILE}),
        ("/quality", {}),
    ):
        answer = get(path, state, f"site={quote(HOSTILE)}&kind={quote(HOSTILE)}&sort={quote(HOSTILE)}", **names)
        reader = Reader(answer.body.decode())
        assert answer.status == 200, path
        assert "img" not in reader.tags
        assert [value for tag, name, value in reader.attributes if tag == "script" and name == "src"] == [
            static_url("page.js")
        ]
        assert answer.body.count(b"<script") == 1
        assert not any(name.startswith("on") for _, name, _ in reader.attributes)
        assert "alert('x')" in reader.words
        assert "{{ 7 *" in reader.words


def test_a_name_that_is_no_unicode_text_does_not_stop_the_page() -> None:
    board = LiveBoard()
    board.note(a_document("node-1") | {"node": "half \ud800 a character"}, Target(url="http://node-1:9400"), NOW_MS)
    assert "half \N{REPLACEMENT CHARACTER} a character" in read(a_glance(board=board)).words


def test_the_style_sheet_has_the_colours_of_the_palette() -> None:
    for shown in LOOKS.values():
        (rule,) = re.findall(rf"\.{shown.css_class} {{([^}}]*)}}", static_file("page.css").decode())
        assert shown.color in rule
        assert f"color: {shown.ink}" in rule


def test_few_nodes_are_shown_on_the_front_page_in_tables_side_by_side_and_many_are_not() -> None:
    nodes = [replace(a_glance().nodes[0], node=f"node-{number}") for number in range(GRID_NODES_MAX + 1)]
    assert "fra1: node-0 to node-19" in read(replace(a_glance(), nodes=tuple(nodes[:-1]))).words
    said = read(replace(a_glance(), nodes=tuple(nodes))).words
    assert f"{GRID_NODES_MAX + 1} nodes are more than fit one page" in said
    assert "node-19" not in said


def test_a_range_is_rounded_outward_and_nothing_rounds_up_to_whole_coverage() -> None:
    sums = replace(a_glance().total, account=an_account(busy=99_999, dark=1))
    assert wording.coverage_text(sums) == "99.9 %"
    assert wording.range_text(sums.account.busy) == "99.9 – 100.0 %"
    assert wording.range_text(sums.account.idle) == "0.0 – 0.1 %"


@pytest.mark.parametrize(
    ("length_ms", "said"),
    [(-5, "0 s"), (59_999, "59 s"), (CELL_MS, "5 min"), (3 * HOUR_MS, "3 h"), (27 * HOUR_MS + 1, "1 d 3 h")],
)
def test_durations_are_said_in_two_units_at_most(length_ms: int, said: str) -> None:
    assert wording.duration(length_ms) == said
