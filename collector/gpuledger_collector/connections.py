# SPDX-License-Identifier: Apache-2.0
"""Connections to the collector's port: so many at once, and so long for the head of a request and for its answer.

aiohttp bounds neither: a client that drips a header, or does not read what it asked for, would keep its connection for
ever. While a request is worked on, its handler has a time limit of its own.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

logger = logging.getLogger(__name__)


class Connection(asyncio.Protocol):
    """One connection; what comes is handed on to `inner`."""

    def __init__(self, inner: asyncio.Protocol, book: Connections) -> None:
        self._inner, self._book = inner, book
        self._transport: asyncio.Transport | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._is_working = False
        self._is_answering = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._book.add(transport, self)
        self._arm()
        self._inner.connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        if self._transport is not None:
            self._book.remove(self._transport)
        self._inner.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        is_idle = self._deadline is None or (self._is_answering and self._is_sent)
        if is_idle and not self._is_working:
            self._is_answering = False
            self._arm()
        self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self._inner.eof_received()

    def pause_writing(self) -> None:
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._inner.resume_writing()

    def begin_work(self) -> None:
        """Note that the head of a request is there."""
        self._is_working = True
        self._disarm()

    def end_work(self) -> None:
        """Note that the answer is on its way."""
        self._is_working, self._is_answering = False, True
        self._arm()

    @property
    def _is_sent(self) -> bool:
        return self._transport is None or self._transport.get_write_buffer_size() == 0

    def _arm(self) -> None:
        self._disarm()
        self._deadline = asyncio.get_running_loop().call_later(self._book.request_s, self._expire)

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _expire(self) -> None:
        self._deadline = None
        if self._is_answering and self._is_sent:
            return  # Idle: aiohttp closes it when it has been so for long enough.
        if self._transport is not None:
            logger.debug("request_broken_off", extra={"why": "its time was up"})
            self._transport.abort()


class Connections:
    """All that are open."""

    def __init__(self, count_max: int, request_s: float) -> None:
        self._count_max = count_max
        self.request_s = request_s
        self._open: dict[asyncio.BaseTransport, Connection] = {}
        self._is_full_said = False

    def connect(self, make_inner: Callable[[], asyncio.Protocol]) -> asyncio.Protocol:
        """Return what serves a new connection, or what refuses it."""
        if len(self._open) >= self._count_max:
            if not self._is_full_said:
                self._is_full_said = True
                logger.warning("connections_refused", extra={"connections": self._count_max})
            return _Refused()
        return Connection(make_inner(), self)

    def add(self, transport: asyncio.BaseTransport, connection: Connection) -> None:
        self._open[transport] = connection

    def remove(self, transport: asyncio.BaseTransport) -> None:
        self._open.pop(transport, None)
        if not self._open:
            self._is_full_said = False

    def of(self, transport: asyncio.BaseTransport | None) -> Connection | None:
        """Return the connection of a request's transport; None if it is gone."""
        return None if transport is None else self._open.get(transport)


class _Refused(asyncio.Protocol):
    """A connection beyond the limit: closed before anything is read from it."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()
