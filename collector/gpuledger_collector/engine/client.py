# SPDX-License-Identifier: Apache-2.0
"""The only door to engines: Prometheus' HTTP API over aiohttp, with limits and a few attempts."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import aiohttp

from gpuledger import __version__
from gpuledger.credentials import Keyring
from gpuledger.errors import EngineError
from gpuledger_collector.engine import answer
from gpuledger_collector.engine.answer import Grid, Labels, Row
from gpuledger_collector.engine.config import EngineConfig

ATTEMPTS = 3
_WAIT_S = 1.0
"""Before a second attempt; twice as long before a third."""
_WHOLE_ANSWERS = {
    "partial_response": "false",  # Thanos
    "dedup": "true",  # Thanos
    "deny_partial_response": "1",  # VictoriaMetrics cluster
    "nocache": "1",  # VictoriaMetrics: its cache moves points and rounds values
}
_BUSY = frozenset({429, 502})
_TOO_MUCH = frozenset({413, 422, 503, 504})
"""What engines answer to queries that load too much or take too long, among other things."""


class TooMuchError(EngineError):
    """The engine refused, or did not finish, a query that may pass if it asks for less."""


class EngineClient:
    """Asks one engine; use it as an asynchronous context manager."""

    def __init__(self, config: EngineConfig) -> None:
        self._config = config
        self._base = config.url.rstrip("/").removesuffix("/api/v1")
        self._slots = asyncio.Semaphore(config.concurrent_queries)
        self._keyring = Keyring()
        self._session: aiohttp.ClientSession | None = None
        self.queries = 0
        """Requests answered so far."""

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self._config.concurrent_queries),
            timeout=aiohttp.ClientTimeout(total=self._config.query_timeout_seconds),
            headers={"Accept": "application/json", "User-Agent": f"gpuledger/{__version__}"}
            | dict(self._config.headers),
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def now_ms(self) -> int:
        """Return the engine's own time."""
        return round(answer.scalar_of(await self._ask("query", {"query": "time()"})) * 1000)

    async def instant(self, query: str, time_ms: int) -> Any:
        """Return the data of an instant query."""
        return await self._ask("query", {"query": query, "time": _seconds(time_ms)})

    async def rows(self, query: str, grid: Grid) -> list[Row]:
        """Return the rows of a range query on the grid."""
        values = {
            "query": query,
            "start": _seconds(grid.first_ms),
            "end": _seconds(grid.last_ms),
            "step": _seconds(grid.step_ms),
        }
        data = await self._ask("query_range", values)
        try:
            return answer.rows_of(data, grid)
        except EngineError as exc:
            raise self._named(str(exc)) from exc

    async def label_sets(self, selectors: Sequence[str], start_ms: int, end_ms: int) -> list[Labels]:
        """Return the label sets of all series that match any selector and have samples in the span."""
        pairs = [("match[]", selector) for selector in selectors]
        pairs += [("start", _seconds(start_ms)), ("end", _seconds(end_ms))]
        return answer.label_sets_of(await self._ask("series", pairs))

    # ------------------------------------------------------------------------------------------ one request

    async def _ask(self, path: str, values: Mapping[str, str] | Sequence[tuple[str, str]]) -> Any:
        """Return `data` of the answer; raises EngineError, or TooMuchError where less may pass."""
        pairs = [*(values.items() if isinstance(values, Mapping) else values), *_WHOLE_ANSWERS.items()]
        url = f"{self._base}/api/v1/{path}"
        async with self._slots:
            status, body = await self._post_patiently(url, pairs)
        self.queries += 1
        if status != 200:
            raise self._refused(status, body)
        try:
            return answer.data_of(body)
        except EngineError as exc:
            raise self._named(str(exc)) from exc

    async def _post_patiently(self, url: str, pairs: Sequence[tuple[str, str]]) -> tuple[int, bytes]:
        for attempt in range(1, ATTEMPTS):
            try:
                status, body = await self._post(url, pairs)
            except (aiohttp.ClientConnectionError, ConnectionError) as exc:
                if isinstance(exc, TimeoutError):
                    raise self._explained(exc) from exc
            except (aiohttp.ClientError, OSError, ValueError) as exc:
                raise self._explained(exc) from exc
            else:
                if status not in _BUSY:
                    return status, body
            await asyncio.sleep(_WAIT_S * 2 ** (attempt - 1))
        try:
            return await self._post(url, pairs)
        except (aiohttp.ClientError, OSError, ValueError) as exc:
            raise self._explained(exc) from exc

    async def _post(self, url: str, pairs: Sequence[tuple[str, str]]) -> tuple[int, bytes]:
        assert self._session is not None
        proof = self._keyring.proof(self._config.credentials)
        async with self._session.post(
            url,
            data=list(pairs),
            allow_redirects=False,
            ssl=True if proof.context is None else proof.context,
            headers=proof.headers,
            server_hostname=proof.server_name,
        ) as response:
            body = bytearray()
            async for chunk in response.content.iter_any():
                body += chunk
                if len(body) > self._config.answer_bytes:
                    raise TooMuchError(f"{self._base} sends more than {self._config.answer_bytes} bytes for one query")
            return response.status, bytes(body)

    # ------------------------------------------------------------------------------------------ errors

    def _named(self, text: str) -> EngineError:
        return EngineError(f"{self._base} {text}")

    def _refused(self, status: int, body: bytes) -> EngineError:
        text = answer.error_text(body)
        if status in {401, 403}:
            return self._named(f"refuses the login (HTTP {status}): {text}")
        if status == 404:
            return self._named(
                "has no Prometheus API there (HTTP 404): the address may need a path, like /prometheus for Mimir or "
                "/select/0/prometheus for a VictoriaMetrics cluster"
            )
        if 300 <= status < 400:
            return self._named(f"sends elsewhere (HTTP {status}): give the address where it ends up")
        if status in _TOO_MUCH:
            return TooMuchError(f"{self._base} refuses the query (HTTP {status}): {text}")
        return self._named(f"refuses the query (HTTP {status}): {text}")

    def _explained(self, error: Exception) -> EngineError:
        seconds = self._config.query_timeout_seconds
        if isinstance(error, TimeoutError):
            return TooMuchError(f"{self._base} did not answer within {seconds:g} s")
        if isinstance(error, aiohttp.ClientSSLError | ssl.SSLError) or isinstance(error.__cause__, ssl.SSLError):
            return self._named(f"cannot be trusted or does not speak TLS: {answer.shorten(str(error))}")
        if isinstance(error, aiohttp.ClientConnectorError):
            if isinstance(error.os_error, ConnectionRefusedError):
                return self._named("refuses the connection: no engine listens there")
            return self._named(f"cannot be reached: {answer.shorten(str(error.os_error))}")
        return self._named(f"broke off or does not speak HTTP: {answer.shorten(str(error) or type(error).__name__)}")


def _seconds(time_ms: int) -> str:
    """Return milliseconds as seconds in decimal, exactly."""
    whole, rest = divmod(time_ms, 1000)
    return str(whole) if rest == 0 else f"{whole}.{rest:03d}"
