# SPDX-License-Identifier: Apache-2.0
"""The only HTTP client: asks every agent for its sealed readings, page by page, and hands them to the intake.

Each target is on its own: what it does wrong costs only itself, is counted by reason, and is logged once per change.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import aiohttp

from gpuledger import __version__
from gpuledger.clock import Clock
from gpuledger.credentials import Keyring
from gpuledger.errors import ConfigurationError
from gpuledger.reading import INTEGER_MAX
from gpuledger_collector.answers import Cursor, Intake, PollFigures
from gpuledger_collector.live import LiveBoard
from gpuledger_collector.poll_failures import Failure, PollError, explain
from gpuledger_collector.taking import Taker
from gpuledger_collector.targets import Target

PATH = "/v1/readings"
PAGE_READINGS = 192
"""Readings asked for at once; an agent answers with fewer where they would be more than 4 MiB."""
KEEP_ALIVE_TARGETS_MAX = 500
"""With more targets, or an unknown number, idle connections would use up an ordinary service's file descriptors."""
WAKE_S = 1.0
WITNESSES_S_MAX = 30.0
"""For asking all agents at the start what they were shown of the log."""
_NOTHING = {"after": str(INTEGER_MAX), "limit": "1"}
"""Asks for no readings, only for what stands around them."""
_DOUBLINGS_MAX = 16

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class PollLimits:
    """How agents are polled; the defaults suit a site of some thousand nodes."""

    interval_s: float = 15.0
    timeout_s: float = 10.0
    concurrency: int = 64
    backoff_s_max: float = 300.0
    body_bytes_max: int = 8 << 20
    pages_per_round_max: int = 50


@dataclass(slots=True)
class _Watch:
    """One target and how it is doing."""

    target: Target
    cursor: Cursor | None = None
    is_begun: bool = False
    limit: int = PAGE_READINGS
    failures: int = 0
    failure: Failure | None = None
    trouble: str = ""
    is_gone: bool = False
    """No longer wanted: it is left alone as soon as nobody is at it."""


class Poller:
    """Polls `targets` for ever at its own pace; `figures` and `last_beat_ns` may be read from any thread."""

    def __init__(
        self,
        targets: Sequence[Target],
        *,
        intake: Intake,
        board: LiveBoard,
        clock: Clock,
        limits: PollLimits,
        chance: random.Random,
        is_list_fixed: bool = True,
    ) -> None:
        self._is_list_fixed, self._is_running = is_list_fixed, False
        self._watches = [_Watch(target=target) for target in targets]
        self._urls = {target.url for target in targets}
        self._intake, self._board, self._clock = intake, board, clock
        self._limits, self._chance = limits, chance
        self._keyring = Keyring()
        self._failures: Counter[str] = Counter()
        self._refused: Counter[str] = Counter()
        self._accepted = 0
        self._polled: dict[str, _Watch] = {}
        self._drained: set[str] = set()
        self._taker = Taker(intake, board, clock)
        self._due: list[tuple[float, int, _Watch]] = []
        self._order = itertools.count()
        self._pushed = asyncio.Event()
        self._beat_ns = clock.boottime_ns()

    @property
    def last_beat_ns(self) -> int:
        """Return when polling last made progress (CLOCK_BOOTTIME)."""
        return self._beat_ns

    def is_stalled(self, now_ns: int) -> bool:
        """Return whether nothing has moved for much longer than one request may take."""
        return now_ns - self._beat_ns > (2 * self._limits.timeout_s + 60) * 1e9

    @property
    def has_asked_everyone(self) -> bool:
        """Return whether each target has failed to answer, or had nothing left to give, once since the start."""
        return len(self._drained) == len(self._watches)

    def figures(self) -> PollFigures:
        polled = dict(self._polled)
        return PollFigures(
            targets=len(self._watches),
            up={url: watch.failure is None for url, watch in polled.items()},
            failures=dict(self._failures),
            accepted=self._accepted,
            refused=dict(self._refused),
            troubles={url: watch.trouble for url, watch in polled.items() if watch.failure is not None},
        )

    def set_targets(self, targets: Sequence[Target]) -> None:
        """Poll these from now on; who stays keeps what is known of it. Call it from the event loop."""
        before = {watch.target.url: watch for watch in self._watches}
        self._watches = []
        for target in targets:
            watch = before.pop(target.url, None)
            if watch is None:
                watch = _Watch(target=target)
                if self._is_running:
                    self._push(self._soon(), watch)
            watch.target = target
            self._watches.append(watch)
        self._urls = {watch.target.url for watch in self._watches}
        for watch in before.values():
            watch.is_gone = True
            self._forget(watch)

    def _forget(self, watch: _Watch) -> None:
        url = watch.target.url
        if url not in self._urls:
            self._polled.pop(url, None)
            self._drained.discard(url)
            self._board.forget(watch.target)

    def _soon(self) -> float:
        return asyncio.get_running_loop().time() + self._chance.uniform(0, self._limits.interval_s)

    # ------------------------------------------------------------------------------------------ schedule

    async def run(self) -> None:
        """Poll until cancelled. What is being taken in at that moment is finished before this returns."""
        self._is_running = True
        for watch in self._watches:
            self._push(self._soon(), watch)
        ready: asyncio.Queue[_Watch] = asyncio.Queue(maxsize=1)
        try:
            async with self._session() as session:
                await self._ask_witnesses(session)
                await self._poll_for_ever(session, ready)
        finally:
            self._taker.close()

    async def _poll_for_ever(self, session: aiohttp.ClientSession, ready: asyncio.Queue[_Watch]) -> None:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(self._limits.concurrency):
                tasks.create_task(self._work(session, ready))
            tasks.create_task(self._hand_out(ready))

    async def _ask_witnesses(self, session: aiohttp.ClientSession) -> None:
        """Ask everyone, before anything is logged, whether he was shown more of the log than there is now.

        Who does not answer in time is heard when he is polled.
        """
        if not self._intake.is_continued():
            return
        places = asyncio.Semaphore(self._limits.concurrency)

        async def ask(watch: _Watch) -> None:
            async with places:
                try:
                    body = await self._fetch(session, watch, _NOTHING)
                    await self._taker.examine(body)
                except PollError as exc:
                    logger.debug("witness_not_heard", extra={"target": watch.target.url, "why": str(exc)})

        try:
            async with asyncio.timeout(WITNESSES_S_MAX), asyncio.TaskGroup() as tasks:
                for watch in self._watches:
                    tasks.create_task(ask(watch))
        except TimeoutError:
            logger.warning("witnesses_not_heard", extra={"within_s": WITNESSES_S_MAX})

    async def _hand_out(self, ready: asyncio.Queue[_Watch]) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self._beat()
            wait_s = self._due[0][0] - loop.time() if self._due else WAKE_S
            if wait_s > 0:
                self._pushed.clear()
                try:
                    async with asyncio.timeout(min(wait_s, WAKE_S)):
                        await self._pushed.wait()
                except TimeoutError:
                    pass
                continue
            await ready.put(heapq.heappop(self._due)[2])

    async def _work(self, session: aiohttp.ClientSession, ready: asyncio.Queue[_Watch]) -> None:
        loop = asyncio.get_running_loop()
        while True:
            watch = await ready.get()
            delay_s = 0.0 if watch.is_gone else await self.poll(session, watch)
            if watch.is_gone:
                self._forget(watch)
            else:
                self._push(loop.time() + delay_s, watch)

    def _push(self, due_s: float, watch: _Watch) -> None:
        heapq.heappush(self._due, (due_s, next(self._order), watch))
        self._pushed.set()

    def _beat(self) -> None:
        self._beat_ns = self._clock.boottime_ns()

    def _session(self) -> aiohttp.ClientSession:
        limits = self._limits
        if self._is_list_fixed and len(self._watches) <= KEEP_ALIVE_TARGETS_MAX:
            idle_s = limits.interval_s + limits.timeout_s
            connector = aiohttp.TCPConnector(limit=limits.concurrency, keepalive_timeout=idle_s)
        else:
            connector = aiohttp.TCPConnector(limit=limits.concurrency, force_close=True)
        return aiohttp.ClientSession(
            connector=connector,
            timeout=aiohttp.ClientTimeout(total=limits.timeout_s),
            # Without compression the body limit is a limit on memory too.
            headers={
                "Accept": "application/json",
                "Accept-Encoding": "identity",
                "User-Agent": f"gpuledger/{__version__}",
            },
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    # ------------------------------------------------------------------------------------------ one target

    async def poll(self, session: aiohttp.ClientSession, watch: _Watch) -> float:
        """Drain one target's journal, bounded, and return after how many seconds to ask it again."""
        try:
            more = await self._drain(session, watch)
        except PollError as exc:
            delay_s = self._delay_after(watch.failures + 1)
            self._note_failure(watch, exc, delay_s)
            self._drained.add(watch.target.url)
            return delay_s
        self._note_success(watch)
        if more:
            return 0.0
        self._drained.add(watch.target.url)
        return self._limits.interval_s

    def _delay_after(self, failures: int) -> float:
        """Return the wait after so many failures in a row: doubling, capped, up to a quarter shorter by chance."""
        limits = self._limits
        delay_s: float = limits.interval_s * 2 ** min(failures - 1, _DOUBLINGS_MAX)
        return min(delay_s, max(limits.backoff_s_max, limits.interval_s)) * self._chance.uniform(0.75, 1.0)

    async def _drain(self, session: aiohttp.ClientSession, watch: _Watch) -> bool:
        """Take in pages until nothing is left (False) or the round's bound is reached (True)."""
        if not watch.is_begun:
            watch.cursor = await self._taker.begin(watch.target)
            watch.is_begun = True
        for _ in range(self._limits.pages_per_round_max):
            body = await self._fetch(session, watch, self._query(watch))
            outcome = await self._taker.take(body, watch.target, watch.cursor)
            self._beat()
            self._accepted += outcome.accepted
            self._refused.update(outcome.refused)
            if not outcome.more:
                watch.cursor = outcome.cursor
                return False
            if outcome.cursor == watch.cursor:
                raise PollError(Failure.STUCK, "says that more readings wait, and gives the same page again")
            watch.cursor = outcome.cursor
        return True

    def _query(self, watch: _Watch) -> dict[str, str]:
        query = {"after": "0", "limit": str(watch.limit), **self._intake.checkpoint()}
        if watch.cursor is not None:
            query |= {"journal": watch.cursor.journal, "after": str(watch.cursor.sequence)}
        return query

    async def _fetch(self, session: aiohttp.ClientSession, watch: _Watch, query: Mapping[str, str]) -> bytes:
        try:
            proof = self._keyring.proof(watch.target.credentials)
        except ConfigurationError as exc:
            raise PollError(Failure.CREDENTIALS, f"is not asked: {exc}") from exc
        try:
            async with session.get(
                watch.target.url + PATH,
                params=query,
                allow_redirects=False,
                ssl=True if proof.context is None else proof.context,
                headers=proof.headers,
                server_hostname=proof.server_name,
            ) as response:
                if response.status != 200:
                    raise PollError(Failure.HTTP_STATUS, f"answers with HTTP status {response.status}")
                return await self._read(response, watch)
        except (aiohttp.ClientError, OSError, ValueError) as exc:
            failure, text = explain(exc, self._limits.timeout_s)
            raise PollError(failure, text) from exc

    async def _read(self, response: aiohttp.ClientResponse, watch: _Watch) -> bytes:
        most = self._limits.body_bytes_max
        body = bytearray()
        async for chunk in response.content.iter_any():
            body += chunk
            if len(body) > most:
                asked = watch.limit
                # A smaller page may fit; a single reading that does not will be refused for ever, and counted.
                watch.limit = max(1, watch.limit // 2)
                raise PollError(Failure.TOO_LARGE, f"sends more than {most} bytes for {asked} readings")
        return bytes(body)

    # ------------------------------------------------------------------------------------------ bookkeeping

    def _note_failure(self, watch: _Watch, error: PollError, delay_s: float) -> None:
        self._beat()
        url, failure = watch.target.url, error.failure
        self._failures[failure.value] += 1
        watch.failures += 1
        watch.trouble = f"{url} {error}"
        if watch.failure is not failure:
            facts = {"target": url, "reason": failure.value, "text": watch.trouble, "retry_s": round(delay_s)}
            logger.warning("target_failed", extra=facts, exc_info=error if failure is Failure.INTERNAL else None)
        watch.failure = failure
        self._polled[watch.target.url] = watch

    def _note_success(self, watch: _Watch) -> None:
        self._beat()
        if watch.failure is not None:
            facts = {"target": watch.target.url, "failures": watch.failures}
            logger.info("target_recovered", extra=facts)
        watch.failures, watch.failure, watch.trouble = 0, None, ""
        self._polled[watch.target.url] = watch
