# SPDX-License-Identifier: Apache-2.0
"""The load generator's process: one port that answers for every node of every fleet; `python -m` runs it.

Node N of fleet F has the address 127.(F + 1).x.y, with N = 256 x + y: all of them are this machine, and the address
that a connection came in at says which node is meant. Prints "listening on PORT" once there is something to serve.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import signal
import sys
import time
import urllib.request
from collections.abc import Sequence
from urllib.parse import urlsplit

from tests.perf.scale_fleet import Pattern, ScaleNode, make_nodes

PATTERN_EVERY_S = 1.0
METRICS_EVERY_S = 15.0
PER_OCTET = 256
COUNT_PATH = "/polls"
"""How often the nodes of the asked one's fleet were polled so far."""
_HEAD_END = b"\r\n\r\n"


def address_of(fleet: int, node: int) -> str:
    """Return the address of a node of a fleet; 65,536 nodes at most."""
    return f"127.{fleet + 1}.{node // PER_OCTET}.{node % PER_OCTET}"


def place_of(address: str) -> tuple[int, int]:
    """Return the fleet and the node of an address."""
    _, fleet, high, low = (int(part) for part in address.split("."))
    return fleet - 1, high * PER_OCTET + low


class Connection(asyncio.Protocol):
    """Serves one connection, request after request; clients do not send the next before they have the answer."""

    def __init__(self, fleets: Sequence[Sequence[ScaleNode]], polls: list[int]) -> None:
        self._fleets, self._polls = fleets, polls
        self._fleet = 0
        self._buffer = b""
        self._transport: asyncio.Transport | None = None
        self._node: ScaleNode | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._fleet, number = place_of(transport.get_extra_info("sockname")[0])
        self._node = self._fleets[self._fleet][number]

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._buffer.endswith(_HEAD_END):
            return
        head, self._buffer = self._buffer, b""
        assert self._transport is not None
        assert self._node is not None
        url = urlsplit(head.split(b" ", 2)[1].decode("ascii"))
        more = b""
        if url.path == "/v1/readings":
            body, kind = self._node.answer(url.query), b"application/json"
            self._polls[self._fleet] += 1
        elif url.path == COUNT_PATH:
            body, kind = str(self._polls[self._fleet]).encode("ascii"), b"text/plain"
        else:
            # As an agent's server does: Prometheus asks for it.
            body = gzip.compress(self._node.metrics(), compresslevel=1)
            kind, more = b"text/plain; version=0.0.4; charset=utf-8", b"Content-Encoding: gzip\r\n"
        self._transport.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\nContent-Length: %d\r\n%b\r\n%b" % (kind, len(body), more, body)
        )
        if b"\r\nconnection: close\r\n" in head.lower():
            self._transport.close()


async def _follow(pattern: Pattern, url: str) -> None:
    """Keep up with a real agent."""
    scraped_s = 0.0
    while True:
        after = pattern.last_sequence
        answer = await asyncio.to_thread(_get, f"{url}/v1/readings?after={after}&limit=4")
        pattern.take(json.loads(answer))
        if time.monotonic() - scraped_s >= METRICS_EVERY_S:
            scraped_s = time.monotonic()
            pattern.metrics = await asyncio.to_thread(_get, f"{url}/metrics")
        await asyncio.sleep(PATTERN_EVERY_S)


def _get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=10) as answer:
        found: bytes = answer.read()
        return found


async def serve(sizes: Sequence[int], urls: Sequence[str]) -> None:
    """Serve until SIGTERM."""
    patterns = [Pattern() for _ in urls]
    following = [asyncio.create_task(_follow(pattern, url)) for pattern, url in zip(patterns, urls, strict=True)]
    while not all(pattern.records and pattern.metrics for pattern in patterns):
        await asyncio.sleep(0.2)
        _raise_failed(following)
    fleets = make_nodes(sizes, patterns)
    polls = [0] * len(fleets)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(fleets, polls), "0.0.0.0", 0, backlog=1024)  # all of 127/8
    sys.stdout.write(f"listening on {server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    waiting = asyncio.create_task(stop.wait())
    await asyncio.wait([waiting, *following], return_when=asyncio.FIRST_COMPLETED)
    _raise_failed(following)


def _raise_failed(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        if task.done():
            task.result()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, nargs="+", required=True, help="size of each fleet")
    parser.add_argument("--agents", nargs="+", required=True, help="addresses of the agents that are the patterns")
    options = parser.parse_args()
    asyncio.run(serve(options.nodes, options.agents))


if __name__ == "__main__":
    main()
