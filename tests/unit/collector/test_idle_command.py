# SPDX-License-Identifier: Apache-2.0
"""`gpuledger idle`: from a collector's interface, page by page, and from a ledger; what cannot be asked is named."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from click.testing import CliRunner, Result

from gpuledger.cli import main
from tests.fakes.ledger import FakeLedger
from tests.fakes.ledger_rows import two_weeks


def block(node: str, state: str = "free", gpus: int = 8, **more: Any) -> dict[str, Any]:
    return {
        "site": "fra1",
        "cluster": "c",
        "pool": "p",
        "node": node,
        "state": state,
        "gpus": [f"GPU-{index}" for index in range(gpus)],
        "models": [],
        "whole": gpus == 8,
        "since_ms": 1_795_212_000_000,
        "since_is_exact": True,
        "not_schedulable": None,
        **more,
    }


@contextmanager
def collector(pages: list[list[dict[str, Any]]], status: int = 200) -> Iterator[tuple[str, list[str]]]:
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            page = int(parse_qs(urlsplit(self.path).query).get("after", ["0"])[0])
            following = str(page + 1) if page + 1 < len(pages) else None
            body = json.dumps(
                {"simulated": True, "period": {"end_ms": 1_795_324_200_000}, "items": pages[page], "next": following}
            ).encode()
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def run(*arguments: str, ledger: FakeLedger | None = None) -> Result:
    return CliRunner().invoke(main, ["idle", *arguments], obj=None if ledger is None else lambda _: ledger)


def test_all_pages_of_a_collector_are_one_table() -> None:
    closed = block("n3", gpus=2, not_schedulable={"why": "drained"}, since_is_exact=False)
    with collector([[block("n1"), block("n2", "held", 3)], [closed]]) as (url, asked):
        result = run("--url", url, "--site", "fra1", "--state", "free", "--state", "held")
    assert result.exit_code == 0, result.output
    assert [line.split() for line in result.stdout.splitlines()] == [
        ["STATE", "SITE", "POOL", "NODE", "GPUS", "WHOLE", "SINCE", "(UTC)", "NOTE"],
        ["held", "fra1", "p", "n2", "3", "2026-11-20", "22:00"],
        ["free", "fra1", "p", "n1", "8", "yes", "2026-11-20", "22:00"],
        ["free", "fra1", "p", "n3", "2", "2026-11-20", "22:00", "or", "longer", "not", "schedulable:", "drained"],
        ["SIMULATED:", "GPUs", "3", "held,", "10", "free;", "to", "2026-11-22", "05:10", "UTC"],
    ]
    assert len(asked) == 2
    assert "site=fra1&state=free&state=held&limit=1000" in asked[0]


def test_json_has_the_rows_whole() -> None:
    with collector([[block("n1")]]) as (url, _):
        found = json.loads(run("--url", url, "--json").stdout)
    assert found["rows"][0]["gpus"] == 8
    assert found["simulated"] is True


def test_a_name_that_would_move_the_cursor_is_shown_harmless() -> None:
    with collector([[block("\x1b[2J\u202en1\n")]]) as (url, _):
        result = run("--url", url)
    assert "\x1b" not in result.stdout
    assert "\u202e" not in result.stdout
    assert len(result.stdout.splitlines()) == 3


def test_a_ledger_tells_its_last_hour() -> None:
    hours, _, _ = two_weeks()
    result = run("--state-dir", "s", ledger=FakeLedger(hours))
    assert result.exit_code == 0, result.output
    rows = {tuple(line.split()[:1] + line.split()[3:5]) for line in result.stdout.splitlines()[1:-1]}
    assert rows == {
        ("held", "held-1", "8"),
        ("held", "train-1", "0.8"),
        ("free", "free-1", "8"),
        ("free", "serve-1", "4"),
    }
    assert "2026-11-16 00:00 or longer" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "sentence", "code"),
    [
        (["--url", "ftp://x"], "give an address like http", 1),
        (["--url", "http://127.0.0.1:1"], "the collector cannot be asked", 1),
        (["--url", "http://x", "--state-dir", "s"], "either --url or --state-dir", 2),
        (["--username", "me"], "username and password_file go together", 2),
    ],
)
def test_what_cannot_be_asked_is_one_sentence(arguments: list[str], sentence: str, code: int) -> None:
    result = run(*arguments)
    assert (result.exit_code, result.stderr.count("\n")) == (code, 1)
    assert sentence in result.stderr


def test_a_collector_that_refuses_is_named_with_its_answer() -> None:
    with collector([[]], status=401) as (url, _):
        result = run("--url", url)
    assert result.exit_code == 1
    assert "the collector answered 401" in result.stderr


def test_a_state_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    result = run("--state-dir", str(tmp_path / "none"))
    assert (result.exit_code, "no such state directory" in result.stderr) == (1, True)
