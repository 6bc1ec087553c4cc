# SPDX-License-Identifier: Apache-2.0
"""What the agent serves: /metrics, /v1/readings, /healthz. Requests only read; nothing here touches hardware.

`GET /v1/readings?after=N&journal=ID&limit=K` returns the sealed readings after sequence N, oldest first, in one JSON
document, and the open cell apart as `live`. With another journal's ID the answer starts from the oldest reading. With
`checkpoint` and `log_key` the asking collector shows the newest checkpoint of its log, to be sealed into what comes.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import parse_qs

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest, gzip_accepted

from gpuledger.access import Access, Verdict
from gpuledger.clock import Clock
from gpuledger_agent.feed import Feed
from gpuledger_agent.loop import View
from gpuledger_agent.server import Application
from gpuledger_agent.witness import Witness

READINGS_DEFAULT = 100
READINGS_MAX = 1_000
READINGS_BYTES_MAX = 4 << 20
STALE_INTERVALS = 1.5
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""One format for all: OpenMetrics says the same of our families, and takes twice the time to write."""
GZIP_LEVEL = 1
"""A sixth of the time of the highest level, and a fifth more bytes."""

StartResponse = Callable[..., Any]


class Service:
    """The WSGI application."""

    def __init__(
        self,
        *,
        view: Callable[[], View],
        feed: Feed,
        interval_ms: int,
        clock: Clock,
        registry: CollectorRegistry,
        witness: Witness | None = None,
    ) -> None:
        self._view = view
        self._feed = feed
        self._interval_ms = interval_ms
        self._clock = clock
        self._registry = registry
        self._witness = Witness() if witness is None else witness

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        method = environ["REQUEST_METHOD"]
        if method == "HEAD":
            # The same answer as to GET, with the length of a body that is not sent.
            list(self._get({**environ, "REQUEST_METHOD": "GET"}, start_response))
            return []
        if method != "GET":
            return _answer(
                start_response, "405 Method Not Allowed", "this service is read-only", ("Allow", "GET, HEAD")
            )
        return self._get(environ, start_response)

    def _get(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path == "/metrics":
            return self._metrics(environ, start_response)
        if path == "/v1/readings":
            return self._readings(environ, start_response)
        if path == "/healthz":
            return self._health(start_response)
        return _answer(start_response, "404 Not Found", "there is /metrics, /v1/readings and /healthz")

    def _metrics(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        body = generate_latest(self._registry)
        headers = [("Content-Type", METRICS_TYPE), ("Vary", "Accept-Encoding")]
        if gzip_accepted(environ.get("HTTP_ACCEPT_ENCODING", "")):
            body = gzip.compress(body, GZIP_LEVEL)
            headers.append(("Content-Encoding", "gzip"))
        start_response("200 OK", [*headers, ("Content-Length", str(len(body)))])
        return [body]

    def _readings(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        try:
            query = parse_qs(environ.get("QUERY_STRING", ""), keep_blank_values=True, max_num_fields=8)
            after = _integer(query, "after", 0, 0, 2**63 - 1)
            limit = _integer(query, "limit", READINGS_DEFAULT, 1, READINGS_MAX)
        except ValueError as exc:
            return _answer(start_response, "400 Bad Request", str(exc))
        if query.get("journal", [self._feed.journal_id])[0] != self._feed.journal_id:
            after = 0
        if "checkpoint" in query and "log_key" in query:
            self._witness.show(query["checkpoint"][0], query["log_key"][0])
        body = self._feed.page(after, limit, READINGS_BYTES_MAX)
        start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
        return [body]

    def _health(self, start_response: StartResponse) -> Iterable[bytes]:
        ticked_ns = self._view().tick_boottime_ns
        if ticked_ns is None:
            return _answer(start_response, "503 Service Unavailable", "no tick yet")
        age_ms = (self._clock.boottime_ns() - ticked_ns) / 1e6
        if age_ms > STALE_INTERVALS * self._interval_ms:
            return _answer(start_response, "503 Service Unavailable", f"the last tick was {age_ms / 1000:.1f} s ago")
        return _answer(start_response, "200 OK", "ok")


class Guard:
    """Lets through whoever may ask; /healthz says nothing of work or people and may stay open to all."""

    def __init__(self, service: Application, access: Access, *, is_healthz_open: bool) -> None:
        self._service = service
        self._access = access
        self._is_healthz_open = is_healthz_open

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        if self._is_healthz_open and environ["PATH_INFO"] == "/healthz":
            return self._service(environ, start_response)
        verdict = self._access.judge(environ.get("HTTP_AUTHORIZATION"))
        if verdict is Verdict.ALLOWED:
            return self._service(environ, start_response)
        if verdict is Verdict.LATER:
            text = "a wrong password came just now; try again"
            return _answer(start_response, "429 Too Many Requests", text, ("Retry-After", "1"))
        challenges = [("WWW-Authenticate", challenge) for challenge in self._access.challenges]
        return _answer(start_response, "401 Unauthorized", "this service wants to know who asks", *challenges)


def _integer(query: dict[str, list[str]], name: str, default: int, low: int, high: int) -> int:
    text = query.get(name, [str(default)])[0]
    if not (text.isascii() and text.isdigit() and len(text) <= 19 and low <= int(text) <= high):
        raise ValueError(f"{name}={text[:40]!r} is not an integer from {low} to {high}")
    return int(text)


def _answer(start_response: StartResponse, status: str, text: str, *headers: tuple[str, str]) -> Iterable[bytes]:
    body = text.encode("utf-8") + b"\n"
    kind = ("Content-Type", "text/plain; charset=utf-8")
    start_response(status, [kind, ("Content-Length", str(len(body))), *headers])
    return [body]
