# SPDX-License-Identifier: Apache-2.0
"""What lies ready for requests: made anew while somebody looks, and left to grow old while nobody does."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass

from gpuledger.clock import monotonic_ns
from gpuledger_collector.documents import Document
from gpuledger_collector.published import Published

WATCHED_S = 90.0
"""Somebody is watching for so long after each look: most look again sooner."""
LOOK_S = 8.0
"""How long the first look after a rest waits for what is new."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """All that can be asked for; replaced as a whole."""

    published: Published
    metrics: Document
    openmetrics: Document


class Shelf:
    """Holds what was prepared last; None until something was."""

    def __init__(self) -> None:
        self.prepared: Prepared | None = None
        self._is_resting = False
        self._looked_ns = monotonic_ns()
        self._waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    def renew(self, prepare: Callable[[], Prepared]) -> None:
        """Put there what `prepare` returns, unless nobody has looked for WATCHED_S; may be called from a thread."""
        self._is_resting = self.prepared is not None and monotonic_ns() - self._looked_ns > WATCHED_S * 1e9
        if self._is_resting:
            return
        self.prepared = prepare()
        waiting, self._waiting = self._waiting, []
        for loop, renewed in waiting:
            loop.call_soon_threadsafe(renewed.set)

    async def look(self) -> Prepared | None:
        """Return what lies there; where it was left to grow old, what is prepared next, if that comes in time."""
        self._looked_ns = monotonic_ns()
        if self._is_resting:
            renewed = asyncio.Event()
            self._waiting.append((asyncio.get_running_loop(), renewed))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await renewed.wait()
        return self.prepared
