# SPDX-License-Identifier: Apache-2.0
"""All pages: that their links lead somewhere, that tables go on and turn round, and what reports may be had."""

import json
import re
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

import pytest

from gpuledger.cells import HOUR_MS
from gpuledger_collector.api import answers
from gpuledger_collector.classify.kinds import Kind
from gpuledger_collector.documents import Asked
from gpuledger_collector.figures import NotSchedulable
from gpuledger_collector.fleet import Fleet
from gpuledger_collector.page import links
from gpuledger_collector.page.rendering import POLICY, static_documents, static_url
from gpuledger_collector.page.reports import Reports
from gpuledger_collector.page.routes import routes
from gpuledger_collector.published import Published, Publisher
from gpuledger_collector.schedulers.view import Unschedulable
from gpuledger_collector.workload_verdicts import ToldVerdict
from tests.fakes.large_fleet import CELL, LAST_HOUR_MS, a_large_fleet
from tests.fakes.pages import HOSTILE, ROUTES, Reader, get, look

FLEET = a_large_fleet(24, 4, sites=3)
PAGES = [
    ("/", {}),
    ("/sites/{site}", {"site": "site-1"}),
    ("/nodes/{node}", {"node": "node-1"}),
    ("/nodes/{node}", {"node": "node-7"}),
    ("/gpus/{gpu}", {"gpu": "GPU-node-1-0"}),
    ("/gpus/{gpu}", {"gpu": "GPU-node-7-0"}),
    ("/idle", {}),
    ("/workloads", {}),
    ("/workloads/{workload}", {"workload": "01" * 32}),
    ("/quality", {}),
    ("/reports", {}),
    ("/legend", {}),
]


@pytest.mark.parametrize(("path", "names"), PAGES)
def test_a_page_loads_its_own_two_files_and_has_no_style_or_script_inside(path: str, names: dict[str, str]) -> None:
    answer = get(path, FLEET, **names)
    assert answer.status == 200
    assert answer.headers["Content-Security-Policy"] == POLICY
    assert answer.headers["Cache-Control"] == "private, no-cache"
    reader = Reader(answer.body.decode())
    loading = {("script", "src"), ("link", "href"), ("img", "src")}
    loaded = {value for tag, name, value in reader.attributes if (tag, name) in loading}
    assert loaded == {"data:,", static_url("page.css"), static_url("page.js")}
    assert "style" not in reader.tags
    assert not any(name == "style" or name.startswith("on") for _, name, _ in reader.attributes)
    assert b"<script src=" in answer.body
    assert answer.body.count(b"<script") == 1


@pytest.mark.parametrize(("path", "names"), PAGES)
def test_every_link_of_a_page_leads_to_a_page_that_is_there(path: str, names: dict[str, str]) -> None:
    elsewhere = {"/metrics", "/log/checkpoint"}
    known = {**ROUTES, **answers.routes()}
    for tag, name, value in look(path, FLEET, **names).attributes:
        if tag != "a" or name != "href" or value.startswith("#"):
            continue
        parts = urlsplit(value)
        if parts.path in elsewhere:
            continue
        found = [
            (route, re.fullmatch(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", pattern), parts.path))
            for pattern, route in known.items()
        ]
        ((route, match),) = [(route, match) for route, match in found if match is not None and route is not None][:1]
        asked = Asked(
            path={key: unquote(text) for key, text in match.groupdict().items()}, query=tuple(parse_qsl(parts.query))
        )
        assert route(FLEET, asked).status == 200, value


def test_the_two_files_are_served_under_the_name_of_what_they_hold() -> None:
    for url, document in static_documents().items():
        assert ROUTES[url](FLEET, Asked()) == document
        assert document.headers["Cache-Control"] == "private, max-age=31536000, immutable"
    assert static_url("page.css") != static_url("page.js")


def test_what_is_not_there_is_said_on_a_page() -> None:
    for path, name in (("/sites/{site}", "site"), ("/nodes/{node}", "node"), ("/gpus/{gpu}", "gpu")):
        answer = get(path, FLEET, **{name: HOSTILE})
        assert answer.status == 404
        assert "script" not in answer.body.decode().replace("<script src=", "").replace("</script>", "").replace(
            "&lt;script&gt;", ""
        ).replace("&lt;/script", "")


def test_a_site_shows_its_nodes_a_hundred_at_a_time_in_any_order() -> None:
    nodes = tuple(replace(FLEET.view.nodes[0], node=f"node-{number}", site="big") for number in range(1, 251))
    state = Publisher().publish(replace(FLEET.view, nodes=nodes), Fleet())
    first = look("/sites/{site}", state, site="big").words
    assert "1 to 100 of 250 nodes, page 1 of 3" in first
    assert re.search(r"\bnode-100\b", first)
    assert not re.search(r"\bnode-101\b", first)
    last = look("/sites/{site}", state, "page=3&sort=node&order=desc", site="big").words
    assert "201 to 250 of 250 nodes, page 3 of 3" in last
    assert re.search(r"\bnode-1\b", last)
    assert "page 3 of 3" in look("/sites/{site}", state, "page=99", site="big").words
    assert "page 1 of 3" in look("/sites/{site}", state, "page=-1&sort=nonsense", site="big").words


def test_a_table_says_by_what_it_is_sorted_and_a_click_turns_it_round() -> None:
    reader = look("/idle", FLEET, "sort=gpus&order=desc&site=site-1")
    sorts = [value for tag, name, value in reader.attributes if tag == "th" and name == "aria-sort"]
    assert sorts == ["none", "none", "none", "descending", "none"]
    hrefs = {value for tag, name, value in reader.attributes if tag == "a" and name == "href"}
    assert "/idle?site=site-1&sort=gpus&order=asc" in hrefs
    assert "/idle?site=site-1&sort=since&order=asc" in hrefs


def test_filters_show_what_is_like_that_and_say_so_where_nothing_is() -> None:
    said = look("/idle", FLEET, "state=held").words
    assert "held" in said
    assert "8 of 8 whole node" not in said
    whole = look("/idle", FLEET, "whole=yes&state=free").words
    assert re.search(r"7 blocks of 28 GPUs", whole)
    assert "No idle block is like that." in look("/idle", FLEET, "site=nowhere").words
    assert "No node of this site is like that." in look("/sites/{site}", FLEET, "pool=nothing", site="site-1").words
    assert "No workload is called that." in look("/workloads", FLEET, "q=nobody").words
    assert "train.py --config=a" in look("/workloads", FLEET, "q=ANN").words


def test_a_gpu_leads_to_its_workload_and_a_workload_to_its_gpus() -> None:
    gpu = look("/gpus/{gpu}", FLEET, gpu="GPU-node-1-0")
    assert ("a", "href", f"/workloads/{'01' * 32}") in gpu.attributes
    assert "at least 0.0 % and at most 2.0 % of its installed time stood idle" in gpu.words
    workload = look("/workloads/{workload}", FLEET, workload="01" * 32)
    assert ("a", "href", "/gpus/GPU-node-1-0") in workload.attributes
    assert "2 GPUs in 1 node over the last 24 hours" in workload.words


def test_a_dark_gpu_says_that_nobody_observes_it() -> None:
    said = look("/gpus/{gpu}", FLEET, gpu="GPU-node-7-0").words
    assert "Not known: nobody observes this GPU at this moment." in said
    assert "at least 0.0 % and at most 100.0 %" in said


def test_a_node_that_takes_no_new_work_says_why() -> None:
    closed = NotSchedulable(
        cluster="slurm",
        site="site-0",
        node="node-3",
        why=Unschedulable.DRAINED,
        reason="bad cable",
        by=None,
        by_name="ann",
        since_ms=CELL,
        slice_ms=1,
        free_slice_ms=1,
        first_hour_ms=LAST_HOUR_MS,
        last_hour_ms=LAST_HOUR_MS,
    )
    reopened = replace(closed, node="node-6", last_hour_ms=LAST_HOUR_MS - HOUR_MS)
    ledger = replace(FLEET.view.ledger, not_schedulable=(closed, reopened))
    state = Publisher().publish(replace(FLEET.view, ledger=ledger), Fleet())
    assert (
        "places no new work here: drained, “bad cable”, by ann, since"
        in look("/nodes/{node}", state, node="node-3").words
    )
    assert "places no new work" not in look("/nodes/{node}", state, node="node-6").words
    told = json.loads(answers.routes()["/api/v1/nodes/{node}"](state, Asked(path={"node": "node-3"})).body)
    assert told["not_schedulable"] == {"why": "drained", "reason": "bad cable", "by": "ann", "since_ms": CELL}


def judged() -> Published:
    """The fleet with a verdict on one of its workloads."""
    verdict = ToldVerdict(
        workload="slurm:c1/7",
        kind=Kind.TRAINING,
        sentence="training, p 0.97",
        evidence=("+3.00 training: rule torchrun",),
    )
    ledger = replace(FLEET.view.ledger, verdicts={"01" * 32: verdict})
    return Publisher().publish(replace(FLEET.view, ledger=ledger), Fleet())


def test_a_workload_says_why_it_is_taken_for_what_it_is() -> None:
    said = look("/workloads/{workload}", judged(), workload="01" * 32).words
    assert "Why this verdict training, p 0.97 +3.00 training: rule torchrun" in said
    assert "gpuledger workload label slurm:c1/7" in said
    assert "Nobody has judged yet" in look("/workloads/{workload}", judged(), workload="02" * 32).words
    assert "ann training 2" in look("/workloads", judged(), "q=ann").words
    told = json.loads(answers.routes()["/api/v1/workloads"](judged(), Asked(query=(("limit", "2"),))).body)["items"]
    assert told[0]["verdict"]["evidence"] == ["+3.00 training: rule torchrun"]
    assert told[1]["verdict"] is None


def test_reports_are_the_files_of_one_directory_that_have_a_reports_name(tmp_path: Path) -> None:
    (tmp_path / "weekly-2026-W47.html").write_text("<h1>report</h1>", encoding="utf-8")
    (tmp_path / "weekly-2026-W47-idle.csv").write_text("a,b\n", encoding="utf-8")
    (tmp_path / "weekly-2026-W46.md").write_text("# report\n", encoding="utf-8")
    (tmp_path / "secret.txt").write_text("secret", encoding="utf-8")
    (tmp_path / "weekly-2026-W45.html").symlink_to(tmp_path / "secret.txt")
    pages = routes(Reports(tmp_path))
    listed = Reader(pages["/reports"](FLEET, Asked()).body.decode()).words
    assert listed.index("weekly-2026-W47.html") < listed.index("weekly-2026-W46.md")
    for name in ("secret.txt", "weekly-2026-W45.html"):
        assert name not in listed
    for name in ("secret.txt", "../secret.txt", "weekly-2026-W45.html", "weekly-2026-W44.html", "weekly-..html"):
        assert pages["/reports/{name}"](FLEET, Asked(path={"name": name})).status == 404
    html = pages["/reports/{name}"](FLEET, Asked(path={"name": "weekly-2026-W47.html"}))
    assert (html.body, html.content_type) == (b"<h1>report</h1>", "text/html; charset=utf-8")
    assert html.headers["Content-Security-Policy"].endswith("sandbox")
    csv = pages["/reports/{name}"](FLEET, Asked(path={"name": "weekly-2026-W47-idle.csv"}))
    assert csv.headers["Content-Disposition"] == 'attachment; filename="weekly-2026-W47-idle.csv"'


def test_where_no_reports_are_the_page_says_what_to_do(tmp_path: Path) -> None:
    assert "set reports_dir to the directory" in look("/reports", FLEET).words
    said = Reader(routes(Reports(tmp_path / "none"))["/reports"](FLEET, Asked()).body.decode()).words
    assert "There is no report yet." in said


def test_a_name_of_any_characters_makes_an_address_that_leads_back() -> None:
    for name in ("a/b?c#d", "é ü", "half \ud800", "%2F", ".."):
        assert "/" not in links.node(name).removeprefix("/nodes/")
