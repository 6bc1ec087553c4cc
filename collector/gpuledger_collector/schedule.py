# SPDX-License-Identifier: Apache-2.0
"""The only door to APScheduler: work that is repeated at a pace of its own, one run of a kind at a time.

A run that raises is a bug: the schedule stops and hands the error to whoever waits for it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from apscheduler.events import EVENT_JOB_ERROR, JobExecutionEvent
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.interval import IntervalTrigger


class Schedule:
    """Repeats coroutines in the running event loop."""

    def __init__(self) -> None:
        # Its own lines about every run would drown ours; what fails reaches us by the listener.
        logging.getLogger("apscheduler").setLevel(logging.CRITICAL)
        self._scheduler = AsyncIOScheduler(timezone="UTC")
        self._scheduler.add_listener(self._note_error, EVENT_JOB_ERROR)
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def repeat(self, work: Callable[[], Awaitable[None]], every_s: float) -> None:
        """Run `work` every `every_s` from one interval from now on; while it still runs, its next turn is left out."""

        # The scheduler awaits only what it recognises as a coroutine function.
        async def turn() -> None:
            await work()

        trigger = IntervalTrigger(seconds=every_s, timezone="UTC")
        self._scheduler.add_job(turn, trigger, max_instances=1, coalesce=True, misfire_grace_time=None)

    def start(self) -> None:
        self._scheduler.start()

    async def failure(self) -> None:
        """Wait until some work raises, and raise it here."""
        await asyncio.shield(self._failed)

    def stop(self) -> None:
        self._scheduler.shutdown(wait=False)
        self._failed.cancel()

    def _note_error(self, event: JobExecutionEvent) -> None:
        if not self._failed.done():
            self._failed.set_exception(event.exception)
