# SPDX-License-Identifier: Apache-2.0
"""The page in Chromium: what axe says of it, whether it fits, and that it reads without its script."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, sync_playwright

from gpuledger_collector.page.rendering import REFRESH_S
from gpuledger_collector.published import node_key
from tests.fakes.large_fleet import a_large_fleet
from tests.fakes.served import Desk, serving
from tests.parts import require_part

pytestmark = [pytest.mark.chromium, pytest.mark.slow]

FLEET = a_large_fleet(24, 8, sites=3)
ADDRESSES = (
    "/",
    "/sites/site-1",
    "/nodes/node-1",
    "/nodes/node-7",
    "/gpus/GPU-node-1-0",
    "/idle?state=free",
    "/workloads",
    f"/workloads/{'01' * 32}",
    "/quality",
    "/reports",
    "/legend",
    "/nodes/nobody",
)
LOOKS = [(390, "dark"), (1400, "light"), (2560, "dark")]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = require_part("chromium")
    with sync_playwright() as playwright:
        # Root, as CI is, has no sandbox; the pages are our own.
        browser = playwright.chromium.launch(executable_path=str(program), args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    reports = tmp_path_factory.mktemp("reports")
    (reports / "weekly-2026-W46.html").write_text("<!DOCTYPE html><title>a report</title>", encoding="utf-8")
    with serving(FLEET, reports) as desk:
        yield desk


def opened(browser: Browser, url: str, width: int = 1400, scheme: Any = "light", **options: Any) -> Page:
    """Return an open page, whose complaints are in `page.complaints`; the caller closes its context."""
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, **options)
    page = context.new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(url)
    page.complaints = complaints  # type: ignore[attr-defined]
    return page


@pytest.mark.parametrize(("width", "scheme"), LOOKS)
def test_axe_finds_nothing_and_nothing_sticks_out(width: int, scheme: str, browser: Browser, desk: Desk) -> None:
    page = opened(browser, desk.url, width, scheme)
    found = []
    for address in ADDRESSES:
        page.goto(desk.url + address)
        # What axe looks at is the same on a wall as on a desk; only what sticks out may differ there.
        for violation in () if width > 2000 else Axe().run(page).response["violations"]:
            nodes = [node["html"][:200] for node in violation["nodes"][:3]]
            found.append(f"{address}: {violation['id']}: {violation['help']}: {nodes}")
        if page.evaluate("document.documentElement.scrollWidth") > width:
            found.append(f"{address} is wider than the window of {width}")
    # A page that is not there answers 404, which Chromium notes; the policy's violations would be noted as well.
    complaints = [text for text in page.complaints if "404" not in text]  # type: ignore[attr-defined]
    page.context.close()
    assert found == []
    assert complaints == []


def test_without_script_everything_reads_and_nothing_moves(browser: Browser, desk: Desk) -> None:
    page = opened(browser, desk.url, java_script_enabled=False)
    assert "of installed GPU time stood idle" in page.inner_text("h1")
    assert not page.locator("#refresh").is_visible()
    for link, address in (("site-1", "/sites/site-1"), ("node-4", "/nodes/node-4")):
        page.locator("main").get_by_role("link", name=link, exact=True).first.click()
        assert page.url == desk.url + address
    page.locator("main th a").first.click()
    assert page.url == f"{desk.url}/gpus/GPU-node-4-0"
    page.context.close()


def test_with_script_what_is_new_shows_in_place_and_open_tables_stay_open(browser: Browser, desk: Desk) -> None:
    context = browser.new_context()
    page = context.new_page()
    page.clock.install()
    page.goto(desk.url + "/")
    page.locator("summary").first.click()
    page.locator("summary").first.blur()
    assert "21 of 24 agents answered" in page.inner_text("main")
    desk.show(replace(FLEET, view=replace(FLEET.view, targets_up=24)))
    page.clock.fast_forward((REFRESH_S + 1) * 1000)
    page.get_by_text("24 of 24 agents answered").wait_for()
    assert page.locator("details").first.evaluate("one => one.open")
    page.get_by_role("button", name="Pause").click()
    desk.show(FLEET)
    page.clock.fast_forward((REFRESH_S + 1) * 1000)
    assert "24 of 24 agents answered" in page.inner_text("main")
    page.get_by_role("button", name="Go on").click()
    page.get_by_text("21 of 24 agents answered").wait_for()
    context.close()


def test_a_collector_that_does_not_answer_is_said_so_and_what_was_shown_stays(browser: Browser) -> None:
    with serving(FLEET) as desk:
        context = browser.new_context()
        page = context.new_page()
        page.clock.install()
        page.goto(desk.url + "/idle")
    page.clock.fast_forward((REFRESH_S + 1) * 1000)
    page.get_by_text("The collector has not answered since").wait_for()
    assert "whole node" in page.inner_text("main")
    context.close()


def test_the_keyboard_reaches_everything_and_the_first_stop_skips_to_the_content(browser: Browser, desk: Desk) -> None:
    page = opened(browser, desk.url + "/idle")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "To the content"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "content"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.closest('main') !== null")
    page.locator("th a.sort", has_text="GPUs").focus()
    page.keyboard.press("Enter")
    page.wait_for_url("**/idle?sort=gpus&order=desc")
    assert page.locator("th[aria-sort=descending]").inner_text().startswith("GPUs")
    page.context.close()


def test_the_policy_lets_no_script_and_no_style_in(browser: Browser, desk: Desk) -> None:
    page = opened(browser, desk.url)
    page.evaluate(
        """() => {
            const script = document.createElement("script");
            script.textContent = "window.ran = true";
            document.body.append(script);
            document.body.setAttribute("style", "color: red");
        }"""
    )
    assert page.evaluate("window.ran === undefined")
    assert page.evaluate("getComputedStyle(document.body).color") != "rgb(255, 0, 0)"
    assert sum("Content Security Policy" in text for text in page.complaints) == 2  # type: ignore[attr-defined]
    page.context.close()


def test_a_hundred_thousand_gpus_are_pages_of_a_hundred_nodes(browser: Browser) -> None:
    nodes = tuple(replace(FLEET.view.nodes[0], node=f"node-{number}", site="big") for number in range(1, 12_501))
    state = replace(
        FLEET,
        view=replace(FLEET.view, nodes=nodes),
        node_keys=tuple(node_key("big", f"node-{number}") for number in range(1, 12_501)),
        nodes={f"node-{number}": number - 1 for number in range(1, 12_501)},
    )
    with serving(state) as desk:
        page = opened(browser, desk.url + "/sites/big?page=125")
        assert page.locator("table.nodes tbody tr").count() == 100
        assert page.locator("*").count() < 5_000
        assert "12,401 to 12,500 of 12,500 nodes, page 125 of 125" in page.inner_text("main")
        page.context.close()
