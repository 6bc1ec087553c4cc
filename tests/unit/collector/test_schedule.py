# SPDX-License-Identifier: Apache-2.0
"""The schedule: work comes round again, and a bug in it is not swallowed."""

import asyncio

import pytest

from gpuledger_collector.schedule import Schedule


class Work:
    """Counts its runs; an object that can be called, as paced work is."""

    def __init__(self) -> None:
        self.runs = 0
        self.twice = asyncio.Event()

    async def __call__(self) -> None:
        self.runs += 1
        if self.runs == 2:
            self.twice.set()


async def test_work_comes_round_again() -> None:
    work, schedule = Work(), Schedule()
    schedule.repeat(work, 0.001)
    schedule.start()
    await work.twice.wait()
    schedule.stop()


async def test_work_that_raises_is_raised_to_whoever_waits() -> None:
    async def work() -> None:
        raise KeyError("a bug")

    schedule = Schedule()
    schedule.repeat(work, 0.001)
    schedule.start()
    with pytest.raises(KeyError, match="a bug"):
        await schedule.failure()
    schedule.stop()


async def test_a_schedule_that_is_stopped_raises_nothing() -> None:
    schedule = Schedule()
    schedule.start()
    waiting = asyncio.create_task(schedule.failure())
    await asyncio.sleep(0)
    schedule.stop()
    with pytest.raises(asyncio.CancelledError):
        await waiting
