# SPDX-License-Identifier: Apache-2.0
"""Pushing: everything that is sealed gets to the collector once, in order, whatever fails on the way."""

from __future__ import annotations

import base64
import gzip
import json
import logging
import random
import tempfile
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuledger.checkpoint import Checkpoint, line_of, sign_checkpoint
from gpuledger.credentials import NO_CREDENTIALS, Credentials, Proof
from gpuledger.errors import ConfigurationError
from gpuledger.reading import INTEGER_MAX
from gpuledger.sealing import SigningKey
from gpuledger_agent import config as agent_config
from gpuledger_agent import push as push_module
from gpuledger_agent.config import AgentConfig
from gpuledger_agent.push import PAGES_PER_ROUND_MAX, Pusher
from gpuledger_agent.push_plan import PushPlan
from gpuledger_agent.upload import Failure, Reply, UploadError
from tests.fakes.agents import Rig
from tests.fakes.nvml import gpus

PLAN = PushPlan(url="https://collector:9401", credentials=NO_CREDENTIALS, interval_s=30.0)


@dataclass
class FakeCollector:
    """Takes pages in as a collector does; `trouble` is what the next pages meet instead."""

    taken: list[int] = field(default_factory=list)
    journal: str | None = None
    after: list[int] = field(default_factory=list)
    trouble: list[Callable[[], Reply]] = field(default_factory=list)
    pages: list[Any] = field(default_factory=list)
    limit: int | None = None
    shown: dict[str, Any] = field(default_factory=dict)

    def send(self, url: str, body: bytes, headers: Mapping[str, str], proof: Proof, timeout_s: float) -> Reply:
        assert headers["Content-Encoding"] == "gzip"
        assert timeout_s == PLAN.timeout_s
        base, _, after = url.partition("?after=")
        assert base == "https://collector:9401/v1/readings"
        page = json.loads(gzip.decompress(body))
        self.after.append(int(after))
        self.pages.append(page)
        if self.trouble:
            return self.trouble.pop(0)()
        if self.limit is not None and len(page["readings"]) > self.limit:
            return Reply(status=413, body=b"the page is too large\n")
        self.journal = page["journal"]
        for record in page["readings"]:
            if record["sequence"] == self.acknowledged + 1:
                self.taken.append(record["sequence"])
        return self.receipt()

    @property
    def acknowledged(self) -> int:
        return self.taken[-1] if self.taken else 0

    def receipt(self) -> Reply:
        answer: dict[str, Any] = {
            "journal": self.journal,
            "sequence": self.acknowledged,
            "accepted": 0,
            "duplicates": 0,
            "refused": {},
            **self.shown,
        }
        return Reply(status=200, body=json.dumps(answer).encode())


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    """A node that has sealed ten readings."""
    rig = Rig(tmp_path, gpus(1), config=AgentConfig(state_dir=tmp_path, node_name="node-1", interval_seconds=5.0))
    rig.gpu.work(90, 4100)
    rig.agent.tick()
    for _ in range(10):
        rig.tick(60, interval_ms=5_000)
    return rig


def pusher(rig: Rig, collector: FakeCollector, **plan: Any) -> Pusher:
    return Pusher(replace(PLAN, **plan), rig.feed(), rig.clock, random.Random(7), send=collector.send)


def test_it_asks_how_far_the_collector_is_and_goes_on_from_there(rig: Rig) -> None:
    collector = FakeCollector(taken=[1, 2, 3])
    pushing = pusher(rig, collector, batch_readings=4)
    assert pushing.figures.acknowledged is None
    delay_s = pushing.push_round()
    assert 27 <= delay_s <= 33
    assert collector.taken == list(range(1, 11))
    assert collector.after == [INTEGER_MAX, 3, 7]
    assert [len(page["readings"]) for page in collector.pages] == [0, 4, 3]
    figures = pushing.figures
    assert (figures.acknowledged, figures.pages, figures.readings, figures.failures) == (10, 3, 7, {})
    assert figures.succeeded_ms == rig.clock.wall_ms


def test_what_a_receipt_shows_of_the_log_is_kept_if_it_verifies_and_shown_with_the_next_page(rig: Rig) -> None:
    collector = FakeCollector()
    pushing = pusher(rig, collector)
    key = SigningKey.generate()
    lines = [line_of(sign_checkpoint(Checkpoint(origin="log/a", size=size, root=bytes(32)), key)) for size in (5, 9, 7)]
    public_key = base64.b64encode(key.public_bytes).decode()
    seen = []
    for shown in (
        {"checkpoint": lines[0], "log_key": public_key},
        {"checkpoint": lines[1], "log_key": public_key},
        {"checkpoint": lines[2], "log_key": public_key},
        {"checkpoint": lines[1].replace(" 9 ", " 10 "), "log_key": public_key},
        {"checkpoint": 5, "log_key": [public_key]},
        {},
    ):
        collector.shown = shown
        rig.tick(60, interval_ms=5_000)
        pushing.push_round()
        seen.append(collector.pages[-1]["checkpoints"])
    # The first round asks how far the collector is before it pushes: what that answer shows is in its second page.
    assert seen == [[lines[0]], [lines[0]], [lines[1]], [lines[1]], [lines[1]], [lines[1]]]
    assert rig.readings()[-1].checkpoint == lines[1]


def test_what_is_pushed_is_what_is_served_openings_and_the_open_cell_included(rig: Rig) -> None:
    collector = FakeCollector()
    pusher(rig, collector).push_round()
    assert collector.pages[1] == json.loads(rig.feed().page(0, 1000, 1 << 30))
    assert collector.pages[1]["readings"][0]["openings"]
    assert collector.pages[1]["live"]["gpus"][0]["state"] == "busy"


def test_with_nothing_new_a_page_without_readings_shows_that_the_node_lives(rig: Rig) -> None:
    collector = FakeCollector()
    pushing = pusher(rig, collector)
    pushing.push_round()
    pushing.push_round()
    assert collector.after[2:] == [10]
    assert collector.pages[2]["readings"] == []
    rig.tick(60, interval_ms=5_000)
    pushing.push_round()
    assert collector.taken == list(range(1, 12))
    assert pushing.figures.readings == 11


def test_a_collector_that_lost_what_it_had_gets_it_again(rig: Rig) -> None:
    collector = FakeCollector()
    pushing = pusher(rig, collector)
    pushing.push_round()
    collector.taken.clear()
    rig.tick(60, interval_ms=5_000)
    assert pushing.push_round() > 0
    assert collector.taken == list(range(1, 12))


def test_a_long_backlog_is_pushed_in_rounds_without_a_pause(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(push_module, "PAGES_PER_ROUND_MAX", 3)
    collector = FakeCollector()
    pushing = pusher(rig, collector, batch_readings=2)
    assert pushing.push_round() == 0.0
    pushing.push_round()
    assert collector.taken == list(range(1, 11))
    assert PAGES_PER_ROUND_MAX == 50


def test_a_page_that_is_too_large_is_halved_until_it_fits(rig: Rig) -> None:
    collector = FakeCollector(limit=3)
    pushing = pusher(rig, collector)
    rounds = 0
    while pushing.figures.acknowledged != 10:
        pushing.push_round()
        rounds += 1
        assert rounds < 20
    assert collector.taken == list(range(1, 11))
    assert pushing.figures.failures.keys() == {"http_status"}


def unreachable() -> Reply:
    raise UploadError(Failure.UNREACHABLE, "cannot be reached: no route")


def bug() -> Reply:
    raise KeyError("x")


TROUBLES = [
    (unreachable, "unreachable", "cannot be reached: no route"),
    (
        lambda: Reply(status=401, body=b"this service wants to know who asks\n"),
        "denied",
        "HTTP status 401: this service",
    ),
    (lambda: Reply(status=403, body=b"not here"), "denied", "HTTP status 403: not here"),
    (lambda: Reply(status=500, body=b"\xff\n\x1b[31m"), "http_status", "HTTP status 500"),
    (lambda: Reply(status=302, body=b""), "http_status", "HTTP status 302"),
    (lambda: Reply(status=200, body=b"<html>"), "answer", "answers with what is no receipt"),
    (lambda: Reply(status=200, body=b'{"journal": "other", "sequence": 3}'), "answer", "no receipt of this journal"),
    (lambda: Reply(status=200, body=b'{"journal": "other"}'), "answer", "no receipt of"),
    (lambda: Reply(status=200, body=b"[" * 100_000), "answer", "no receipt"),
    (bug, "internal", "KeyError"),
]


@pytest.mark.parametrize(("trouble", "reason", "said"), TROUBLES)
def test_what_fails_is_counted_said_once_and_pushed_again(
    rig: Rig, trouble: Callable[[], Reply], reason: str, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    collector = FakeCollector(trouble=[trouble, trouble])
    pushing = pusher(rig, collector)
    caplog.set_level(logging.INFO)
    assert 22.5 <= pushing.push_round() <= 30
    assert 45 <= pushing.push_round() <= 60
    assert pushing.figures.failures == {reason: 2}
    assert pushing.figures.acknowledged is None
    pushing.push_round()
    assert collector.taken == list(range(1, 11))
    lines = [record for record in caplog.records if record.msg in {"push_failed", "push_recovered"}]
    assert [line.msg for line in lines] == ["push_failed", "push_recovered"]
    assert vars(lines[0])["reason"] == reason
    assert said in vars(lines[0])["text"]


def test_a_sequence_that_is_none_is_no_receipt(rig: Rig) -> None:
    for sequence in (True, -1, 1 << 63, "3", None, 1.0):
        body = json.dumps({"journal": rig.journal.id, "sequence": sequence}).encode()
        pushing = pusher(rig, FakeCollector(trouble=[lambda body=body: Reply(status=200, body=body)]))  # type: ignore[misc]
        pushing.push_round()
        assert pushing.figures.failures == {"answer": 1}


def test_a_collector_that_takes_nothing_is_not_asked_without_a_pause(rig: Rig) -> None:
    collector = FakeCollector()
    pushing = pusher(rig, collector)
    collector.trouble = [
        lambda: Reply(status=200, body=json.dumps({"journal": rig.journal.id, "sequence": 0}).encode())
    ] * 2
    assert pushing.push_round() > 20
    assert pushing.figures.failures == {"stuck": 1}
    pushing.push_round()
    assert collector.taken == list(range(1, 11))


def test_pauses_double_up_to_the_cap_and_end_no_earlier_than_the_collector_wants(rig: Rig) -> None:
    pushing = pusher(rig, FakeCollector(trouble=[unreachable] * 6))
    for wanted_s in (30, 60, 120, 240, 300, 300):
        assert wanted_s * 0.75 <= pushing.push_round() <= wanted_s
    for retry_s, wanted_s in ((200.0, 200), (9999.0, 300)):
        busy = FakeCollector(trouble=[lambda retry_s=retry_s: Reply(status=503, body=b"", retry_s=retry_s)])  # type: ignore[misc]
        assert wanted_s * 0.75 <= pusher(rig, busy).push_round() <= wanted_s


def test_a_token_that_cannot_be_read_is_a_failure_like_any_other(rig: Rig, tmp_path: Path) -> None:
    token = tmp_path / "token"
    collector = FakeCollector()
    pushing = pusher(rig, collector, credentials=Credentials(bearer_token_file=token))
    pushing.push_round()
    assert pushing.figures.failures == {"credentials": 1}
    assert collector.pages == []
    token.write_text("secret\n")
    pushing.push_round()
    assert collector.taken == list(range(1, 11))


@given(st.lists(st.sampled_from(["fine", "lost answer", "unreachable", "half of it", "seal"]), max_size=12))
def test_whatever_happens_on_the_way_each_reading_arrives_once_and_in_order(steps: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        rig = Rig(Path(folder), gpus(1))
        rig.agent.tick()
        collector = FakeCollector()
        pushing = pusher(rig, collector, batch_readings=2)
        for step in steps:
            collector.trouble = []
            if step == "seal":
                rig.tick(60, interval_ms=5_000)
            elif step == "lost answer":

                def lose() -> Reply:
                    for record in collector.pages[-1]["readings"]:
                        if record["sequence"] == collector.acknowledged + 1:
                            collector.taken.append(record["sequence"])
                    raise UploadError(Failure.DROPPED, "broke off")

                collector.trouble = [lose]
            elif step == "unreachable":
                collector.trouble = [unreachable]
            elif step == "half of it":
                collector.limit = 1
            pushing.push_round()
            collector.limit = None
        pushing.push_round()
        assert collector.taken == list(range(1, rig.journal.last.sequence + 1))


def test_a_thread_of_its_own_pushes_and_what_is_sealed_at_the_end_is_pushed_too(rig: Rig) -> None:
    collector = FakeCollector()
    is_pushed = threading.Event()
    inner = collector.send

    def send(*arguments: Any) -> Reply:
        reply = inner(*arguments)
        if collector.acknowledged == 10:
            is_pushed.set()
        return reply

    pushing = Pusher(PLAN, rig.feed(), rig.clock, random.Random(7), send=send)
    pushing.start()
    assert is_pushed.wait(60)
    rig.tick(60, interval_ms=5_000)
    pushing.finish()
    assert collector.taken == list(range(1, 12))


# ---------------------------------------------------------------------------------------------- settings


def load(folder: Path, text: str) -> AgentConfig:
    file = folder / "agent.toml"
    file.write_text(text)
    return agent_config.load(file, {}, {}).value


def test_the_table_push_says_where_and_how(tmp_path: Path) -> None:
    text = """
    [push]
    url = "https://Collector:9401/"
    bearer_token_file = "token"
    interval_seconds = 10
    batch_readings = 5
    tls_config = { ca_file = "ca.pem", cert_file = "a.pem", key_file = "a.key", server_name = "c" }
    """
    credentials = Credentials(
        ca_file=Path("ca.pem"),
        cert_file=Path("a.pem"),
        key_file=Path("a.key"),
        server_name="c",
        bearer_token_file=Path("token"),
    )
    plan = load(tmp_path, text).push
    assert plan == PushPlan(
        url="https://collector:9401", credentials=credentials, interval_s=10.0, timeout_s=30.0, batch_readings=5
    )
    assert load(tmp_path, "").push is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('url = "collector:9401"', "push.url: 'collector:9401' is not http://HOST:PORT"),
        ('url = "http://a:1/x"', "push.url: 'http://a:1/x' is not http://HOST:PORT"),
        ('bearer_token_file = "t"', "push.url: missing, yet [push] says how to push"),
        ('url = "http://a:1"\nbearer_token_file = "t"', "push.url: http://a:1 is not https"),
        (
            'url = "https://a:1"\ntls_config = { cert_file = "c" }',
            "push: tls_config: cert_file and key_file go together",
        ),
        ('url = "https://a:1"\nbasic_auth = { username = "u" }', "push: basic_auth: username and password_file go"),
        (
            'url = "https://a:1"\nbearer_token_file = "t"\nbasic_auth = { username = "u", password_file = "p" }',
            "push: give one of basic_auth and bearer_token_file",
        ),
        ("url = 7", "push.url: 7 is not a text"),
        ('url = "https://a:1"\nbatch_readings = 0', "push.batch_readings: 0 is less than 1"),
    ],
)
def test_half_a_configuration_is_said_in_one_sentence(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(tmp_path, f"[push]\n{text}\n")
    assert said in str(caught.value)
