# SPDX-License-Identifier: Apache-2.0
"""What agents say about now: checked field by field, with "since" as this collector saw it."""

from typing import Any

import pytest

from gpuledger.states import State
from gpuledger_collector.live import BEHIND_MS_MAX, STALLED_AFTER_MS, LiveBoard, parse
from gpuledger_collector.targets import Target

TARGET = Target(url="http://node-1:9400", site="fra1")


def document(**changes: Any) -> dict[str, Any]:
    return {"node": "node-1", "node_id": "ab", "simulated": False, "live": None, **changes}


def live(edge_ms: int, **states: object) -> dict[str, Any]:
    return {"cell_ms": 0, "edge_ms": edge_ms, "gpus": [{"uuid": u, "state": s} for u, s in states.items()]}


def test_a_gpu_is_shown_with_every_field_that_is_right() -> None:
    gpu = {
        "uuid": "GPU-1",
        "state": "held",
        "reason": None,
        "activity_ppm": 0,
        "memory_used_bytes": 5,
        "power_mw": 70_000,
        "holders": ["alice"],
    }
    node = parse(document(live={"cell_ms": 0, "edge_ms": 9, "gpus": [gpu]}), TARGET, 100)
    assert node is not None
    assert (node.node, node.simulated, node.edge_ms, node.seen_ms) == ("node-1", False, 9, 100)
    (found,) = node.gpus
    assert (found.state, found.activity_ppm, found.power_mw, found.holders) == (State.HELD, 0, 70_000, ("alice",))


@pytest.mark.parametrize(
    "gpu",
    [
        {"uuid": "GPU-1", "state": "dark"},
        {"uuid": "GPU-1", "state": ["busy"]},
        {"uuid": "GPU-1", "state": None, "activity_ppm": -1, "power_mw": True, "holders": "all"},
        {"uuid": "GPU-1", "state": "sleeping", "memory_used_bytes": 1.5, "holders": [1, None, ""]},
    ],
)
def test_a_field_that_is_wrong_is_absent_and_the_gpu_stays(gpu: dict[str, Any]) -> None:
    node = parse(document(live={"edge_ms": 9, "gpus": [gpu]}), TARGET, 100)
    assert node is not None
    (found,) = node.gpus
    assert (found.state, found.activity_ppm, found.power_mw, found.memory_used_bytes, found.holders) == (
        None,
        None,
        None,
        None,
        (),
    )


@pytest.mark.parametrize("part", [None, 7, [], {"edge_ms": 1}, {"edge_ms": "1", "gpus": [{"uuid": "GPU-1"}]}])
def test_an_answer_without_a_usable_open_cell_shows_a_node_without_gpus(part: object) -> None:
    node = parse(document(live=part), TARGET, 100)
    assert node is not None
    assert node.gpus == ()


def test_items_that_are_no_gpus_are_left_out_and_too_many_are_cut() -> None:
    items = [3, {"state": "busy"}, {"uuid": 5}, *({"uuid": f"GPU-{n}"} for n in range(1000))]
    node = parse(document(live={"edge_ms": 1, "gpus": items}), TARGET, 100)
    assert node is not None
    assert len(node.gpus) == 253


def test_an_answer_that_names_no_node_is_not_shown_and_one_that_does_not_deny_it_is_simulated() -> None:
    assert parse(document(node=None), TARGET, 100) is None
    assert parse(document(node_id=""), TARGET, 100) is None
    node = parse({"node": "node-1", "node_id": "ab"}, TARGET, 100)
    assert node is not None
    assert node.simulated


def test_since_is_when_the_state_was_first_seen_and_exact_only_after_a_change() -> None:
    board = LiveBoard()
    board.note(document(live=live(1, a="free")), TARGET, 1000)
    board.note(document(live=live(2, a="free")), TARGET, 2000)
    (gpu,) = board.nodes()[0].gpus
    assert (gpu.since_ms, gpu.is_since_exact) == (1000, False)
    board.note(document(live=live(3, a="busy")), TARGET, 3000)
    board.note(document(live=live(4, a="busy")), TARGET, 4000)
    (gpu,) = board.nodes()[0].gpus
    assert (gpu.since_ms, gpu.is_since_exact) == (3000, True)
    board.note(document(node_id="another", live=live(5, a="busy")), TARGET, 5000)
    (gpu,) = board.nodes()[0].gpus
    assert (gpu.since_ms, gpu.is_since_exact) == (5000, False)


def test_an_agent_that_answers_and_does_not_move_on_is_not_measuring() -> None:
    board = LiveBoard()
    board.note(document(live=live(1, a="busy")), TARGET, 1000)
    board.note(document(live=live(1, a="busy")), TARGET, 1000 + STALLED_AFTER_MS)
    assert board.nodes()[0].is_measuring(1000 + STALLED_AFTER_MS)
    assert not board.nodes()[0].is_measuring(1001 + STALLED_AFTER_MS)
    board.note(document(live=live(2, a="busy")), TARGET, 2000 + STALLED_AFTER_MS)
    assert board.nodes()[0].is_measuring(2000 + STALLED_AFTER_MS)


def test_an_agent_with_a_long_interval_is_given_three_of_them() -> None:
    slow = parse(document(live=live(1, a="busy") | {"interval_ms": 150_000}), TARGET, 1000)
    assert slow is not None
    assert slow.is_measuring(1000 + 450_000)
    assert not slow.is_measuring(1001 + 450_000)


def test_an_open_cell_that_is_not_about_now_says_nothing_about_now() -> None:
    for behind_ms, is_measuring in ((BEHIND_MS_MAX, True), (BEHIND_MS_MAX + 1, False), (-BEHIND_MS_MAX - 1, False)):
        node = parse(document(live=live(5_000_000, a="busy")), TARGET, 5_000_000 + behind_ms)
        assert node is not None
        assert node.is_measuring(5_000_000 + behind_ms) is is_measuring
