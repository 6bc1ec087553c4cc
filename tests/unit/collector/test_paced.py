# SPDX-License-Identifier: Apache-2.0
"""Work in threads: one run at a time, and no more of it than its share of the time."""

import asyncio
import threading

import pytest

from gpuledger_collector.program import _Paced
from tests.fakes.polling import StillClock

SECOND_NS = 10**9


async def test_work_rests_until_it_took_no_more_than_its_share() -> None:
    clock, runs = StillClock(), []

    def work() -> None:
        runs.append(clock.boottime)
        clock.boottime += 2 * SECOND_NS

    paced = _Paced(work, clock, share_max=0.1)
    await paced()
    assert paced.cycle_s == 20
    for now_s in (2, 19, 20, 21):
        clock.boottime = now_s * SECOND_NS
        await paced()
    assert runs == [0, 20 * SECOND_NS]


async def test_a_turn_that_comes_while_the_last_run_is_still_on_is_left_out() -> None:
    begun, go_on = threading.Event(), threading.Event()
    runs = []

    def work() -> None:
        runs.append(1)
        begun.set()
        go_on.wait(30)

    paced = _Paced(work, StillClock(), share_max=1.0)
    first = asyncio.create_task(paced())
    await asyncio.to_thread(begun.wait, 30)
    await paced()
    go_on.set()
    await first
    assert runs == [1]


async def test_work_that_raises_may_run_again() -> None:
    def work() -> None:
        raise KeyError("a bug")

    paced = _Paced(work, StillClock(), share_max=1.0)
    for _ in range(2):
        with pytest.raises(KeyError):
            await paced()
