# SPDX-License-Identifier: Apache-2.0
"""The JSON interface: figures as integers, pages that neither miss nor repeat anything, and problems that say what."""

import json
from collections.abc import Iterable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuledger.states import IDLE, State
from gpuledger_collector import selection
from gpuledger_collector.api import answers
from gpuledger_collector.api.operations import OPERATIONS, ROOT
from gpuledger_collector.api.parameters import LIMIT_MAX, cursor
from gpuledger_collector.documents import Asked, Document
from gpuledger_collector.fleet import Fleet
from gpuledger_collector.overview import LedgerFigures, overview
from gpuledger_collector.published import Published, Publisher
from tests.fakes.glance import CELL, HOUR_SLICE_MS, NO_POLLS, NOW_MS, UNMEASURED, a_glance, a_published
from tests.fakes.large_fleet import MODELS, a_large_fleet

ROUTES = answers.routes()
FLEET = a_large_fleet(24, 4, sites=3)


def ask(path: str, published: Published = FLEET, /, *, named: str | None = None, **query: str | int) -> Document:
    """Return the answer at an address below /api/v1, such as "nodes" or "nodes/{node}"."""
    parts = {path[path.index("{") + 1 : -1]: named} if named is not None else {}
    asked = Asked(path=parts, query=tuple((name, str(value)) for name, value in query.items()))
    return ROUTES[f"{ROOT}/{path}"](published, asked)


def read(path: str, published: Published = FLEET, /, *, named: str | None = None, **query: str | int) -> Any:
    answer = ask(path, published, named=named, **query)
    assert answer.status == 200, answer.body
    return json.loads(answer.body)


def walk(path: str, limit: int, **query: Any) -> list[Any]:
    """Return the items of all pages."""
    items: list[Any] = []
    for _ in range(10_000):
        page = read(path, limit=limit, **query)
        assert len(page["items"]) <= limit
        items += page["items"]
        if page["next"] is None:
            return items
        query["after"] = page["next"]
    raise AssertionError("there is always one more page")


def a_total(**glance: Any) -> Any:
    return read("fleet", a_published(a_glance(**glance)))["total"]


# ------------------------------------------------------------------------------------------------ figures


def test_figures_are_integer_numerators_and_denominators() -> None:
    total = a_total()
    assert total["installed_slice_ms"] == 192 * HOUR_SLICE_MS
    assert total["state_slice_ms"]["dark"] == 2 * HOUR_SLICE_MS
    assert total["idle"] == {
        "low_numerator": 80 * HOUR_SLICE_MS,
        "high_numerator": 82 * HOUR_SLICE_MS,
        "denominator": 192 * HOUR_SLICE_MS,
    }
    assert total["coverage"] == {"numerator": 190 * HOUR_SLICE_MS, "denominator": 192 * HOUR_SLICE_MS}
    assert total["engine_active"]["numerator"] * 192 == total["engine_active"]["denominator"] * 44
    assert total["withheld"] == []


def test_busy_is_null_where_too_little_was_measured() -> None:
    total = a_total(account=UNMEASURED)
    assert total["busy"] is None
    assert total["withheld"] == ["occupancy", "used", "busy"]


@pytest.mark.parametrize("path", ["sites", "places", "nodes", "gpus"])
def test_every_list_adds_up_to_the_fleet(path: str) -> None:
    total = read("fleet")["total"]
    items = walk(path, LIMIT_MAX)
    for name in ("installed_slice_ms", "state_slice_ms"):
        if name == "installed_slice_ms":
            assert sum(item["figures"][name] for item in items) == total[name]
        else:
            sums = {state: sum(item["figures"][name].get(state, 0) for item in items) for state in State}
            assert {state.value: amount for state, amount in sums.items() if amount} == total[name]
    assert sum(item["figures"]["idle"]["low_numerator"] for item in items) == total["idle"]["low_numerator"]
    assert sum(item["figures"]["idle"]["high_numerator"] for item in items) == total["idle"]["high_numerator"]


def test_a_gpu_is_described_with_what_its_agent_says_and_with_its_figures() -> None:
    gpu = read("gpus/{gpu}", named="GPU-node-1-0")
    assert (gpu["node"], gpu["site"], gpu["state"], gpu["source"]) == ("node-1", "site-1", "busy", "live")
    assert gpu["live"]["holders"] == [{"workload": "01" * 32, "name": "train.py --config=a"}]
    assert gpu["figures"]["coverage"]["numerator"] == gpu["figures"]["coverage"]["denominator"]
    dark = read("gpus/{gpu}", named="GPU-node-7-0")
    assert (dark["state"], dark["source"], dark["live"]) == ("dark", "nobody", None)
    assert dark["figures"]["busy"] is None


def test_a_node_tells_since_when_all_of_it_is_free() -> None:
    found = {node["node"]: node["free_since_ms"] for node in walk("nodes", 5)}
    assert [name for name, since_ms in found.items() if since_ms is not None] == [
        "node-3", "node-6", "node-9", "node-12", "node-15", "node-18", "node-24",
    ]  # fmt: skip
    assert found["node-3"] < found["node-6"]
    assert read("nodes/{node}", named="node-3")["free_since_ms"] == found["node-3"]


def test_idle_blocks_are_gpus_of_one_node_in_one_idle_state() -> None:
    blocks = walk("idle-blocks", 7)
    assert {block["state"] for block in blocks} == {"free", "held", "reserved"}
    for block in blocks:
        states = {read("gpus/{gpu}", named=gpu)["state"] for gpu in block["gpus"]}
        assert states == {block["state"]}
    whole = [block for block in blocks if block["whole"]]
    assert {block["node"] for block in whole if block["state"] == "free"} >= {"node-3", "node-6"}
    known = next(block for block in blocks if block["node"] == "node-3")
    assert known["since_is_exact"] is True
    other = next(block for block in blocks if block["node"] == "node-6")
    assert (other["since_is_exact"], other["since_ms"]) == (False, FLEET.view.cell_ms - 300_000)  # type: ignore[operator]


def test_a_workload_is_told_by_node_with_its_names_where_they_are_open() -> None:
    found = read("workloads/{workload}", named="01" * 32)
    assert (found["name"], found["users"]) == ("train.py --config=a", [{"user": "81" * 32, "name": "ann"}])
    assert found["busy_slice_ms"] == sum(part["busy_slice_ms"] for part in found["parts"])
    assert [part["node"] for part in found["parts"]] == ["node-1"]
    assert walk("workloads", 3, node="node-1") == [found]
    assert {use["workload"] for use in walk("workloads", 3, site="site-1")} < {
        use["workload"] for use in walk("workloads", 3)
    }


def test_findings_come_newest_first() -> None:
    found = walk("findings", 5)
    assert [item["at_ms"] for item in found] == sorted((item["at_ms"] for item in found), reverse=True)
    assert len(found) == 12
    assert {item["kind"] for item in walk("findings", 2, kind="unrostered")} == {"unrostered"}


def test_what_is_not_known_is_null() -> None:
    empty = overview(
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
    state = Publisher().publish(empty, Fleet())
    found = read("fleet", state)
    for key in ("period", "settled_cell", "refreshed_ms"):
        assert found[key] is None
    for key in ("idle", "busy", "coverage", "measured", "out", "engine_active"):
        assert found["total"][key] is None
    for operation in OPERATIONS:
        if operation.is_list:
            page = read(operation.path.removeprefix("/"), state)
            assert (page["items"], page["next"]) == ([], None)


def test_simulated_data_is_marked_in_every_answer() -> None:
    for simulated in (True, False):
        state = a_large_fleet(2, 1, simulated=simulated)
        for operation in OPERATIONS:
            if operation.is_list or operation.name == "fleet":
                assert read(operation.path.removeprefix("/"), state)["simulated"] is simulated
    assert read("fleet", a_published())["settled_cell"]["start_ms"] == CELL


# ------------------------------------------------------------------------------------------------ pages

LISTS = [operation.path.removeprefix("/") for operation in OPERATIONS if operation.is_list]


@cache
def everything(path: str) -> list[Any]:
    items: list[Any] = read(path, limit=LIMIT_MAX)["items"]
    return items


def names_of(items: Iterable[Any]) -> list[str]:
    return [json.dumps(item, sort_keys=True) for item in items]


@pytest.mark.parametrize("path", LISTS)
@given(limit=st.integers(1, 40))
def test_pages_of_any_size_make_the_whole_list_once(path: str, limit: int) -> None:
    assert walk(path, limit) == everything(path)


SELECTIONS = st.fixed_dictionaries(
    {},
    optional={
        "site": st.sampled_from(("site-0", "site-1", "nowhere")),
        "cluster": st.sampled_from(("cluster-0", "cluster-1")),
        "pool": st.sampled_from(("pool-0", "pool-1")),
        "model": st.sampled_from((*MODELS, "other")),
        "node": st.sampled_from(("node-1", "node-3", "node-10", "nobody")),
        "state": st.sampled_from([state.value for state in State]),
    },
)


@given(wanted=SELECTIONS, limit=st.integers(1, 40))
def test_a_filter_takes_what_has_the_value_and_nothing_else(wanted: dict[str, str], limit: int) -> None:
    expected = [gpu for gpu in everything("gpus") if all(gpu[name] == value for name, value in wanted.items())]
    assert walk("gpus", limit, **wanted) == expected
    nodes = {gpu["node"] for gpu in expected}
    assert {node["node"] for node in walk("nodes", limit, **wanted)} == nodes


@given(wanted=SELECTIONS, limit=st.integers(1, 20))
def test_blocks_are_filtered_by_the_state_of_the_settled_cell(wanted: dict[str, str], limit: int) -> None:
    wanted = {name: value for name, value in wanted.items() if name != "state" or value in IDLE}
    models = wanted.get("model")
    expected = [
        block
        for block in everything("idle-blocks")
        if all(block[name] == value for name, value in wanted.items() if name != "model")
        and (models is None or models in block["models"])
    ]
    assert walk("idle-blocks", limit, **wanted) == expected


def test_nodes_are_in_the_order_in_which_people_count() -> None:
    names = [(node["site"], node["node"]) for node in walk("nodes", 4)]
    assert names[:4] == [("site-0", "node-3"), ("site-0", "node-6"), ("site-0", "node-9"), ("site-0", "node-12")]


@pytest.mark.parametrize("path", ["nodes", "gpus", "idle-blocks", "workloads"])
def test_a_page_that_had_to_look_too_far_is_short_and_not_the_last(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = names_of(walk(path, 50, site="site-1"))
    monkeypatch.setattr(selection, "LOOKED_AT_MAX", 2)
    assert names_of(walk(path, 50, site="site-1")) == whole


@given(gone=st.sets(st.integers(0, 23), min_size=1, max_size=20), limit=st.integers(1, 7))
def test_nodes_that_come_or_go_between_two_pages_hide_no_other(gone: set[int], limit: int) -> None:
    first = read("nodes", limit=limit)
    left = tuple(node for position, node in enumerate(FLEET.view.nodes) if position not in gone)
    later = Publisher().publish(replace(FLEET.view, nodes=left), Fleet())
    rest = read("nodes", later, limit=LIMIT_MAX, after=first["next"])["items"]
    seen = [node["node"] for node in first["items"]]
    expected = [node.node for node in left if node.node not in seen]
    assert [node["node"] for node in rest] == expected


def test_the_next_page_is_linked_with_the_same_filters() -> None:
    answer = ask("gpus", site="site-1", limit=2)
    following = json.loads(answer.body)["next"]
    assert answer.headers["Link"] == f'</api/v1/gpus?site=site-1&limit=2&after={following}>; rel="next"'
    assert "Link" not in ask("gpus", node="node-1", limit=LIMIT_MAX).headers


def test_names_of_any_characters_pass_through_a_cursor() -> None:
    for name in ("half \ud800", "a/b?c&d", "é" * 512, '"'):
        view = replace(FLEET.view, nodes=tuple(replace(node, site=name) for node in FLEET.view.nodes))
        state = Publisher().publish(view, Fleet())
        page = read("nodes", state, limit=23)
        assert len(read("nodes", state, after=page["next"])["items"]) == 1


# ------------------------------------------------------------------------------------------------ problems


def problem(path: str, named: str | None = None, query: tuple[tuple[str, str], ...] = ()) -> Any:
    parts = {path[path.index("{") + 1 : -1]: named} if named is not None else {}
    answer = ROUTES[f"{ROOT}/{path}"](FLEET, Asked(path=parts, query=query))
    assert answer.content_type == "application/problem+json"
    found = json.loads(answer.body)
    assert answer.status == found["status"]
    return found


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ((("limit", "0"),), {"limit": "is not a number from 1 to 1000"}),
        ((("limit", "1001"),), {"limit": "is not a number from 1 to 1000"}),
        ((("limit", "٣"),), {"limit": "is not a number from 1 to 1000"}),
        ((("state", "asleep"),), {"state": "is not one of busy, held, reserved, free"}),
        ((("site", ""),), {"site": "has 0 characters, not 1 to 512"}),
        ((("pool", "x" * 513),), {"pool": "has 513 characters, not 1 to 512"}),
        ((("site", "a"), ("site", "a")), {"site": "is given more than once"}),
        (
            (("sight", "a"), ("limit", "-1")),
            {"sight": "is no parameter", "limit": "is not"},
        ),
        ((("after", "!"),), {"after": "is not what an earlier page of the same list gave as next"}),
        ((("after", "W1tbW1tb"),), {"after": "is not what an earlier page"}),
        ((("after", cursor(("site-1",))),), {"after": "is not what an earlier page"}),
        ((("after", cursor(("site-1", "node-1", 5))),), {"after": "is not what an earlier page"}),
        ((("after", "x" * 7000),), {"after": "is not what an earlier page"}),
    ],
)
def test_bad_input_is_answered_with_each_parameter_at_fault(
    query: tuple[tuple[str, str], ...], said: dict[str, str]
) -> None:
    found = problem("gpus", query=query)
    assert (found["status"], found["title"], found["type"]) == (400, "Bad Request", "about:blank")
    assert {fault["name"] for fault in found["parameters"]} == said.keys()
    for fault in found["parameters"]:
        assert fault["detail"].startswith(said[fault["name"]])
        assert f"{fault['name']}: {fault['detail']}" in found["detail"]


def test_a_cursor_that_ends_in_no_state_is_refused() -> None:
    found = problem("idle-blocks", query=(("after", cursor(("site-1", "node-1", "asleep"))),))
    assert found["parameters"][0]["detail"] == "ends in 'asleep', which is no state"


@pytest.mark.parametrize("path", ["nodes/{node}", "gpus/{gpu}", "workloads/{workload}"])
def test_what_is_not_there_is_named(path: str) -> None:
    found = problem(path, named="no\nsuch")
    assert (found["status"], found["detail"]) == (404, f"there is no {path[path.index('{') + 1 : -1]} 'no\\nsuch'")
    assert problem(path, named="x", query=(("limit", "1"),))["status"] == 400


# ------------------------------------------------------------------------------------------------ tags


def test_a_tag_changes_with_what_is_said_and_not_with_the_moment_alone() -> None:
    later = replace(FLEET, view=replace(FLEET.view, now_ms=FLEET.view.now_ms + 2000))
    other = replace(FLEET, view=replace(FLEET.view, simulated=False))
    for path in ("fleet", "nodes", "gpus"):
        assert ask(path, later).tag == ask(path).tag
        assert ask(path, later).body != ask(path).body
        assert ask(path, other).tag != ask(path).tag


def test_nobody_in_between_may_keep_an_answer() -> None:
    for path in ("fleet", "gpus", "openapi.json"):
        assert ask(path).headers["Cache-Control"] == "private, no-cache"
    assert ask("gpus", limit=0).headers["Cache-Control"] == "private, no-cache"
