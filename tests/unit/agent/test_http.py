# SPDX-License-Identifier: Apache-2.0
"""The agent's HTTP: what is asked for wrongly is said so, what is slow holds nobody up, nothing is counted."""

from __future__ import annotations

import base64
import gzip
import http.client
import json
import logging
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from gpuledger.checkpoint import Checkpoint, line_of, sign_checkpoint
from gpuledger.errors import ConfigurationError
from gpuledger.sealing import SigningKey, open_envelope
from gpuledger_agent import http as http_module
from gpuledger_agent.exporter import AgentCollector, registry_of
from gpuledger_agent.feed import live_document
from gpuledger_agent.http import Service
from gpuledger_agent.journal import Journal
from gpuledger_agent.server import Limits, serve
from tests.fakes.agents import Rig
from tests.fakes.clock import NOON_MS
from tests.fakes.nvml import UNKNOWN, gpus, instance


class Site:
    """A served agent, and the shortest of clients."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        collector = AgentCollector(lambda: rig.agent.view, rig.key.node_id, "node-1", 1.0, simulated=False)
        self.service = Service(
            view=lambda: rig.agent.view,
            feed=rig.feed(),
            interval_ms=1_000,
            clock=rig.clock,
            registry=registry_of(collector),
            witness=rig.witness,
        )
        self.server = serve("127.0.0.1", 0, self.service)
        self.port = self.server.server_port

    def ask(self, target: str, method: str = "GET", **headers: str) -> tuple[int, http.client.HTTPMessage, bytes]:
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)) as connection:
            connection.request(method, target, headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()

    def readings(self, query: str = "") -> Any:
        status, _, body = self.ask(f"/v1/readings{query}")
        assert status == 200
        return json.loads(body)


@pytest.fixture(autouse=True)
def prompt_shutdown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers look every 10 ms whether they are to stop, not every half second."""
    monkeypatch.setattr("gpuledger_agent.server.LOOK_S", 0.01)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    rig = Rig(tmp_path, gpus(1))
    found = Site(rig)
    yield found
    found.server.shutdown()
    found.server.server_close()


@pytest.fixture
def busy_site(site: Site) -> Site:
    site.rig.gpu.work(90, 4100)
    site.rig.agent.tick()
    for _ in range(4):
        site.rig.tick(60, interval_ms=5_000)
    return site


def numbers(document: Any) -> list[int]:
    return [record["sequence"] for record in document["readings"]]


# ---------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
def test_nothing_can_be_changed(site: Site, method: str) -> None:
    status, headers, body = site.ask("/v1/readings", method)
    assert (status, headers["Allow"], body) == (405, "GET, HEAD", b"this service is read-only\n")


@pytest.mark.parametrize("target", ["/", "/metrics/", "/v1/readings/3", "/../etc/passwd", "/favicon.ico", "/%00"])
def test_what_is_not_there_is_not_found_and_what_is_there_is_named(site: Site, target: str) -> None:
    status, _, body = site.ask(target)
    assert (status, body) == (404, b"there is /metrics, /v1/readings and /healthz\n")


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("after=x", "after='x'"),
        ("after=-1", "after='-1'"),
        ("after=1.5", "after='1.5'"),
        ("after=", "after=''"),
        ("after=" + "9" * 30, "after='999"),
        ("after=9223372036854775808", "after="),
        ("after=%C2%B2", "after='²'"),
        ("after=%D9%A3", "after="),
        ("limit=0", "limit='0' is not an integer from 1 to 1000"),
        ("limit=1001", "limit='1001'"),
        ("limit=%00", "limit="),
        ("&".join(f"a{number}=1" for number in range(9)), "fields"),
    ],
)
def test_a_query_that_is_wrong_is_refused_with_a_sentence(site: Site, query: str, named: str) -> None:
    status, _, body = site.ask(f"/v1/readings?{query}")
    assert status == 400
    assert named in body.decode("utf-8")
    assert body.count(b"\n") == 1


@pytest.mark.parametrize("target", ["/metrics", "/v1/readings", "/healthz", "/nowhere"])
def test_head_answers_as_get_does_without_the_body(busy_site: Site, target: str) -> None:
    status, headers, body = busy_site.ask(target, "HEAD")
    expected_status, expected_headers, expected_body = busy_site.ask(target)
    assert (status, body) == (expected_status, b"")
    assert headers["Content-Type"] == expected_headers["Content-Type"]
    assert int(headers["Content-Length"]) == len(expected_body)


# ---------------------------------------------------------------------------------------------- metrics


def test_metrics_are_compressed_for_who_can_read_that_and_in_one_format_for_all(busy_site: Site) -> None:
    wanted = {"Accept": "application/openmetrics-text;version=1.0.0,text/plain;q=0.5", "Accept-Encoding": "gzip"}
    _, plain_headers, plain = busy_site.ask("/metrics")
    _, headers, body = busy_site.ask("/metrics", **wanted)
    assert b'gpuledger_gpu_state_seconds_total{instance_id="",state="busy"' in plain
    assert gzip.decompress(body) == plain
    assert headers["Content-Encoding"] == "gzip"
    assert plain_headers["Content-Encoding"] is None
    assert headers["Content-Type"] == plain_headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"


# ---------------------------------------------------------------------------------------------- readings


def test_readings_come_oldest_first_with_who_sealed_them(busy_site: Site) -> None:
    document = busy_site.readings()
    rig = busy_site.rig
    assert numbers(document) == [1, 2, 3, 4]
    assert (document["first_sequence"], document["last_sequence"]) == (1, 4)
    assert document["node_id"] == rig.key.node_id
    assert base64.b64decode(document["public_key"]) == rig.key.public_bytes
    assert document["journal"] == rig.journal.id
    assert document["simulated"] is False


def test_pages_follow_each_other(busy_site: Site) -> None:
    assert numbers(busy_site.readings("?limit=3")) == [1, 2, 3]
    assert numbers(busy_site.readings("?after=3&limit=3")) == [4]
    assert numbers(busy_site.readings("?after=4")) == []
    assert numbers(busy_site.readings("?after=9223372036854775807")) == []


def test_a_page_ends_at_its_bytes(busy_site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_module, "READINGS_BYTES_MAX", 1)
    assert numbers(busy_site.readings("?after=2")) == [3]


def test_who_comes_with_another_journals_name_starts_from_the_oldest(busy_site: Site) -> None:
    name = busy_site.rig.journal.id
    assert numbers(busy_site.readings(f"?after=3&journal={name}")) == [4]
    assert numbers(busy_site.readings("?after=3&journal=0123456789abcdef")) == [1, 2, 3, 4]
    assert numbers(busy_site.readings("?after=3&journal=")) == [1, 2, 3, 4]


def test_the_open_cell_comes_apart_as_live(busy_site: Site) -> None:
    busy_site.rig.tick(2, interval_ms=1_000)
    live = busy_site.readings()["live"]
    assert live["edge_ms"] == NOON_MS + 4 * 300_000 + 2_000
    assert live["cell_ms"] == NOON_MS + 4 * 300_000
    (gpu,) = live["gpus"]
    assert (gpu["state"], gpu["reason"], gpu["activity_ppm"]) == ("busy", None, 900_000)
    assert len(gpu["holders"]) == 1


def test_live_is_null_before_the_first_tick_and_unknown_is_null_in_it(site: Site) -> None:
    assert site.readings()["live"] is None
    for function in ("nvmlDeviceGetUtilizationRates", "nvmlDeviceGetComputeRunningProcesses"):
        site.rig.gpu.fails[function] = UNKNOWN
    site.rig.agent.tick()
    live = live_document(site.rig.agent.view, 1_000)
    assert live is not None
    (gpu,) = live["gpus"]
    assert (gpu["holders"], gpu["activity_ppm"], gpu["state"], gpu["power_mw"]) == (None, None, None, None)
    assert gpu["reason"] == "first_tick"


def test_live_tells_of_each_instance_of_a_divided_gpu_and_never_calls_it_free(site: Site) -> None:
    site.rig.gpu.gpm, site.rig.gpu.instances = {}, [instance(2, 3, 4100), instance(9, 1, 4100, 4200)]
    site.rig.tick(3)
    live = live_document(site.rig.agent.view, 1_000)
    assert live is not None
    (gpu,) = live["gpus"]
    told = [(one["instance"], one["profile"], one["slices"], one["state"]) for one in gpu["instances"]]
    assert told == [(2, "3g.30gb", 3, "held"), (9, "1g.10gb", 1, "held")]
    assert (gpu["state"], gpu["activity_ppm"]) == ("held", None)
    # Each holder once, whatever it holds.
    assert [len(one["holders"]) for one in gpu["instances"]] == [1, 2]
    assert gpu["holders"] == sorted({name for one in gpu["instances"] for name in one["holders"]})


def test_asking_changes_no_figure(busy_site: Site) -> None:
    before = busy_site.rig.agent.view
    for _ in range(5):
        busy_site.ask("/metrics")
        busy_site.readings()
        busy_site.ask("/healthz")
    assert busy_site.rig.agent.view is before


# ---------------------------------------------------------------------------------------------- health


def test_an_agent_is_healthy_for_one_and_a_half_intervals_after_a_tick(site: Site) -> None:
    assert site.ask("/healthz")[0] == 503
    site.rig.agent.tick()
    assert site.ask("/healthz")[::2] == (200, b"ok\n")
    site.rig.clock.advance_ms(1_500)
    assert site.ask("/healthz")[0] == 200
    site.rig.clock.advance_ms(1)
    status, _, body = site.ask("/healthz")
    assert (status, body) == (503, b"the last tick was 1.5 s ago\n")
    site.rig.agent.tick()
    assert site.ask("/healthz")[0] == 200


# ---------------------------------------------------------------------------------------------- clients


def test_clients_that_say_nothing_hold_nobody_up(site: Site) -> None:
    silent = [socket.create_connection(("127.0.0.1", site.port)) for _ in range(30)]
    try:
        silent[0].sendall(b"GET /healthz HT")
        assert site.ask("/healthz")[0] == 503
        assert site.ask("/metrics")[0] == 200
    finally:
        for connection in silent:
            connection.close()


def test_a_client_that_is_too_slow_or_breaks_off_leaves_no_traceback(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    noted = threading.Event()

    class Noting(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.getMessage() == "request_broken_off":
                noted.set()

    handler = Noting()
    logger = logging.getLogger("gpuledger_agent.server")
    logger.addHandler(handler)
    try:
        with caplog.at_level(logging.DEBUG):
            monkeypatch.setattr(site.server, "_limits", Limits(request_s=0.01))
            with socket.create_connection(("127.0.0.1", site.port)):
                assert noted.wait(20)
            noted.clear()
            monkeypatch.setattr(site.server, "_limits", Limits())
            connection = socket.create_connection(("127.0.0.1", site.port))
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()
            assert noted.wait(20)
    finally:
        logger.removeHandler(handler)
    assert "Traceback" not in capfd.readouterr().err
    assert not [record for record in caplog.records if record.levelno > logging.DEBUG]


@pytest.mark.parametrize(
    ("host", "named"), [("no.such.host.invalid", "no.such.host.invalid:0"), ("a..b", "a..b:0"), ("203.0.113.9", "")]
)
def test_an_address_that_cannot_be_served_on_is_one_sentence(site: Site, host: str, named: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^listen: cannot serve on {named}"):
        serve(host, 0, site.service)


def test_a_port_in_use_is_one_sentence(site: Site) -> None:
    with pytest.raises(ConfigurationError, match=f"cannot serve on 127.0.0.1:{site.port}: Address already in use"):
        serve("127.0.0.1", site.port, site.service)


def test_it_serves_on_an_address_of_the_new_kind_too(site: Site) -> None:
    try:
        server = serve("::1", 0, site.service)
    except ConfigurationError:
        pytest.skip("this machine has no IPv6")
    with closing(http.client.HTTPConnection("::1", server.server_port, timeout=20)) as connection:
        connection.request("GET", "/healthz")
        assert connection.getresponse().status == 503
    server.shutdown()
    server.server_close()


def test_a_bug_in_a_request_is_an_answer_and_a_log_line(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(self: Journal, after: int, count_max: int, bytes_max: int) -> list[bytes]:
        raise AssertionError("a bug")

    monkeypatch.setattr(Journal, "read", fail)
    with caplog.at_level(logging.ERROR):
        assert site.ask("/v1/readings")[0] == 500
    assert "request_failed" in caplog.messages
    assert site.ask("/healthz")[0] == 503


# ---------------------------------------------------------------------------------------------- checkpoints


def test_a_checkpoint_that_is_shown_is_shown_again_and_sealed_into_what_comes(site: Site) -> None:
    key = SigningKey.generate()
    note = sign_checkpoint(Checkpoint(origin="log.example/fra1", size=7, root=bytes(32)), key)
    line = line_of(note)
    shown = urlencode({"checkpoint": line, "log_key": base64.b64encode(key.public_bytes).decode()})
    assert site.readings()["checkpoints"] == []
    assert site.readings("?checkpoint=nonsense&log_key=")["checkpoints"] == []
    assert site.readings(f"?after=0&limit=1&journal=x&{shown}")["checkpoints"] == [line]
    site.rig.gpu.work(90, 4100)
    for _ in range(3):
        site.rig.tick(60, interval_ms=5_000)
    document = site.readings()
    sealed = [json.loads(open_envelope(one["envelope"].encode()).payload) for one in document["readings"]]
    assert [one["checkpoint"] for one in sealed] == [line] * len(sealed)
    assert len(sealed) > 0
