# SPDX-License-Identifier: Apache-2.0
"""Polling over real HTTP on this machine: what each agent does wrong costs only itself and is counted by reason."""

import asyncio
import logging
import random
from contextlib import AsyncExitStack
from dataclasses import replace

import pytest

from gpuledger.errors import ReadingError
from gpuledger_collector.answers import Cursor
from gpuledger_collector.live import LiveBoard
from gpuledger_collector.poll import PAGE_READINGS, Poller, PollLimits
from gpuledger_collector.targets import Target
from tests.fakes.polling import DISK_FULL, FakeAgent, FakeIntake, StillClock, serving

LIMITS = PollLimits(interval_s=10, timeout_s=5, body_bytes_max=100_000)


def poller(*targets: Target, intake: FakeIntake, limits: PollLimits = LIMITS, board: LiveBoard | None = None) -> Poller:
    board = LiveBoard() if board is None else board
    return Poller(targets, intake=intake, board=board, clock=StillClock(), limits=limits, chance=random.Random(7))


async def poll_each(polling: Poller) -> list[float]:
    """Ask every target once; returns after how many seconds each is asked again."""
    async with polling._session() as session:
        return [await polling.poll(session, watch) for watch in polling._watches]


async def test_every_reading_is_taken_in_once_and_in_order_over_many_pages() -> None:
    agent, intake = FakeAgent(count=2 * PAGE_READINGS + 5), FakeIntake()
    async with serving(agent) as target:
        polling = poller(target, intake=intake)
        assert await poll_each(polling) == [LIMITS.interval_s]
        assert intake.taken[target.url] == list(range(1, agent.count + 1))
        agent.count += 1
        await poll_each(polling)
    assert intake.taken[target.url] == list(range(1, agent.count + 1))
    assert agent.requests[0] == {"after": "0", "limit": str(PAGE_READINGS)}
    assert agent.requests[-1] == {"journal": "j1", "after": str(agent.count - 1), "limit": str(PAGE_READINGS)}
    assert polling.figures().accepted == agent.count
    assert polling.figures().up == {target.url: True}


async def test_polling_goes_on_where_an_earlier_run_stopped() -> None:
    agent, intake = FakeAgent(count=9), FakeIntake()
    async with serving(agent) as target:
        intake.cursors[target.url] = Cursor(journal="j1", sequence=7)
        await poll_each(poller(target, intake=intake))
    assert intake.taken[target.url] == [8, 9]


async def test_a_round_takes_no_more_pages_than_its_bound_and_asks_again_at_once() -> None:
    agent, intake = FakeAgent(count=5 * PAGE_READINGS), FakeIntake()
    limits = PollLimits(interval_s=10, pages_per_round_max=2)
    async with serving(agent) as target:
        assert await poll_each(poller(target, intake=intake, limits=limits)) == [0.0]
    assert len(intake.taken[target.url]) == 2 * PAGE_READINGS


async def test_every_question_shows_the_newest_checkpoint_of_the_log() -> None:
    agent, intake = FakeAgent(count=PAGE_READINGS + 1), FakeIntake(shown={"checkpoint": "one", "log_key": "k"})
    async with serving(agent) as target:
        polling = poller(target, intake=intake)
        await poll_each(polling)
        intake.shown["checkpoint"] = "two"
        await poll_each(polling)
    assert [asked["checkpoint"] for asked in agent.requests] == ["one", "one", "two"]
    assert {asked["log_key"] for asked in agent.requests} == {"k"}


async def run_until(polling: Poller, agent: FakeAgent, requests: int) -> None:
    running = asyncio.create_task(polling.run())
    async with asyncio.timeout(20):
        while True:
            if len(agent.requests) >= requests or running.done():
                break
            await asyncio.sleep(0.01)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_a_log_that_was_begun_earlier_is_not_written_before_everyone_was_asked_what_he_had_seen_of_it() -> None:
    agents, intake = [FakeAgent(node=f"node-{number}") for number in range(3)], FakeIntake(continued=True)
    agents[1].mode = "garbage"
    limits = PollLimits(interval_s=0.01, timeout_s=5)
    async with AsyncExitStack() as stack:
        targets = [await stack.enter_async_context(serving(agent)) for agent in agents]
        await run_until(poller(*targets, intake=intake, limits=limits), agents[0], 3)
    assert sorted(intake.examined) == ["node-0", "node-2"]
    nothing = {"after": str(2**63 - 1), "limit": "1"}
    assert [agent.requests[0] for agent in agents] == [nothing] * 3
    assert agents[0].requests[1]["after"] == "0"
    assert intake.taken[targets[0].url][:3] == [1, 2, 3]


async def test_a_log_that_is_new_asks_nobody_what_he_had_seen_of_it() -> None:
    agent, intake = FakeAgent(), FakeIntake()
    async with serving(agent) as target:
        limits = PollLimits(interval_s=0.01, timeout_s=5)
        await run_until(poller(target, intake=intake, limits=limits), agent, 1)
    assert (intake.examined, agent.requests[0]["after"]) == ([], "0")


async def test_who_does_not_say_in_time_what_he_had_seen_holds_nobody_up(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("gpuledger_collector.poll.WITNESSES_S_MAX", 0.05)
    slow, other, intake = FakeAgent(mode="slow"), FakeAgent(), FakeIntake(continued=True)
    async with serving(slow) as first, serving(other) as second:
        limits = PollLimits(interval_s=0.01, timeout_s=5)
        await run_until(poller(first, second, intake=intake, limits=limits), other, 3)
    assert [record.msg for record in caplog.records].count("witnesses_not_heard") == 1
    assert intake.taken[second.url][:3] == [1, 2, 3]


@pytest.mark.parametrize(
    ("mode", "reason", "said"),
    [
        ("slow", "timeout", "did not answer within 0.2 s"),
        ("huge", "too_large", "sends more than 100000 bytes for 192 readings"),
        ("garbage", "not_json", "does not answer with JSON"),
        ("deep", "not_json", "does not answer with JSON"),
        ("list", "not_json", "answers with a JSON list, not with an object"),
        ("500", "http_status", "answers with HTTP status 500"),
        ("redirect", "http_status", "answers with HTTP status 302"),
        ("drop", "dropped", "broke off or does not speak HTTP"),
        ("half", "dropped", "broke off or does not speak HTTP"),
        ("same page", "stuck", "says that more readings wait, and gives the same page again"),
    ],
)
async def test_an_agent_that_misbehaves_costs_only_itself(
    mode: str, reason: str, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    bad, good, intake = FakeAgent(mode=mode), FakeAgent(node="node-2"), FakeIntake()
    limits = PollLimits(interval_s=10, timeout_s=0.2 if mode == "slow" else 5, body_bytes_max=100_000)
    caplog.set_level(logging.INFO)
    async with serving(bad) as bad_target, serving(good) as good_target:
        polling = poller(bad_target, good_target, intake=intake, limits=limits)
        await poll_each(polling)
        await poll_each(polling)
    assert intake.taken[good_target.url] == [1, 2, 3]
    figures = polling.figures()
    assert figures.failures == {reason: 2}
    assert figures.up == {bad_target.url: False, good_target.url: True}
    sentence = figures.troubles[bad_target.url]
    assert sentence.startswith(f"{bad_target.url} ")
    assert said in sentence or mode == "huge"
    lines = [record for record in caplog.records if record.msg == "target_failed"]
    assert [(vars(line)["target"], vars(line)["reason"]) for line in lines] == [(bad_target.url, reason)]
    assert said in vars(lines[0])["text"]


async def test_an_address_where_nobody_listens_is_counted_as_refused_and_an_unknown_name_as_unreachable() -> None:
    async with serving(FakeAgent()) as gone:
        pass
    unknown = Target(url="http://no-such-node.invalid:9400")
    polling = poller(gone, unknown, intake=FakeIntake())
    await poll_each(polling)
    assert polling.figures().failures == {"refused": 1, "unreachable": 1}


async def test_an_agent_that_does_not_speak_tls_is_counted_as_tls() -> None:
    async with serving(FakeAgent()) as target:
        polling = poller(Target(url=target.url.replace("http:", "https:")), intake=FakeIntake())
        await poll_each(polling)
    assert polling.figures().failures == {"tls": 1}


async def test_failures_back_off_twofold_up_to_the_cap_and_recovery_is_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    agent = FakeAgent(mode="500")
    caplog.set_level(logging.INFO)
    async with serving(agent) as target:
        polling = poller(target, intake=FakeIntake())
        delays = [(await poll_each(polling))[0] for _ in range(8)]
        agent.mode = "good"
        assert await poll_each(polling) == [LIMITS.interval_s]
        assert await poll_each(polling) == [LIMITS.interval_s]
    for delay_s, wanted_s in zip(delays, (10, 20, 40, 80, 160, 300, 300, 300), strict=True):
        assert wanted_s * 0.75 <= delay_s <= wanted_s
    assert [record.msg for record in caplog.records if record.name.startswith("gpuledger")] == [
        "target_failed",
        "target_recovered",
    ]


async def test_a_page_that_is_too_large_is_asked_for_in_smaller_parts_until_it_fits() -> None:
    agent, intake = FakeAgent(count=192), FakeIntake()
    limits = PollLimits(interval_s=10, body_bytes_max=1500)
    async with serving(agent) as target:
        polling = poller(target, intake=intake, limits=limits)
        while not polling.figures().up.get(target.url, False):
            await poll_each(polling)
    assert intake.taken[target.url] == list(range(1, 193))
    assert polling.figures().failures.keys() == {"too_large"}


@pytest.mark.parametrize(
    ("error", "reason"),
    [(DISK_FULL, "storage"), (ReadingError("answer: journal is missing"), "rejected"), (KeyError("x"), "internal")],
)
async def test_an_answer_that_cannot_be_taken_in_is_counted_and_asked_for_again(error: Exception, reason: str) -> None:
    intake = FakeIntake(error=error)
    async with serving(FakeAgent()) as target:
        polling = poller(target, intake=intake)
        await poll_each(polling)
        assert polling.figures().failures == {reason: 1}
        assert polling.figures().accepted == 0
        intake.error = None
        await poll_each(polling)
    assert intake.taken[target.url] == [1, 2, 3]


async def test_what_an_agent_says_about_now_reaches_the_board_only_with_an_answer_that_was_taken_in() -> None:
    live = {"cell_ms": 0, "edge_ms": 5, "gpus": [{"uuid": "GPU-1", "state": "free"}]}
    board, intake = LiveBoard(), FakeIntake(error=DISK_FULL)
    async with serving(FakeAgent(live=live)) as target:
        polling = poller(target, intake=intake, board=board)
        await poll_each(polling)
        assert board.nodes() == []
        intake.error = None
        await poll_each(polling)
    assert [(node.node, [gpu.uuid for gpu in node.gpus]) for node in board.nodes()] == [("node-1", ["GPU-1"])]


async def test_many_agents_are_polled_with_bounded_concurrency_and_cancelling_ends_it() -> None:
    agents, intake = [FakeAgent(node=f"node-{n}") for n in range(9)], FakeIntake()
    limits = PollLimits(interval_s=0.01, concurrency=2)
    async with AsyncExitStack() as stack:
        targets = [await stack.enter_async_context(serving(agent)) for agent in agents]
        polling = poller(*targets, intake=intake, limits=limits)
        running = asyncio.create_task(polling.run())
        for agent in agents:
            await agent.asked_twice.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    assert all(intake.taken[target.url] == [1, 2, 3] for target in targets)


async def test_targets_are_added_and_removed_while_polling_goes_on() -> None:
    agents, intake, board = [FakeAgent(node=f"node-{n}") for n in range(3)], FakeIntake(), LiveBoard()
    async with AsyncExitStack() as stack:
        first, second, third = [await stack.enter_async_context(serving(agent)) for agent in agents]
        limits = PollLimits(interval_s=0.01)
        polling = Poller(
            [first, second],
            intake=intake,
            board=board,
            clock=StillClock(),
            limits=limits,
            chance=random.Random(7),
            is_list_fixed=False,
        )
        running = asyncio.create_task(polling.run())
        await agents[0].asked_twice.wait()
        await agents[1].asked_twice.wait()
        moved = replace(second, site="ber2")
        polling.set_targets([moved, third])
        agents[1].asked_twice.clear()
        agents[1].requests.clear()
        await agents[1].asked_twice.wait()
        await agents[2].asked_twice.wait()
        async with asyncio.timeout(60):
            while polling.figures().up.keys() != {second.url, third.url}:  # noqa: ASYNC110 - a poll may be under way
                await asyncio.sleep(0)
        asked = len(agents[0].requests)
        assert polling.figures().targets == 2
        assert polling.has_asked_everyone
        assert {node.target for node in board.nodes()} == {moved, third}
        # Whoever is no longer wanted is not asked any more, and one that comes back goes on where it was.
        agents[2].asked_twice.clear()
        agents[2].requests.clear()
        await agents[2].asked_twice.wait()
        assert len(agents[0].requests) == asked
        polling.set_targets([first, moved, third])
        agents[0].asked_twice.clear()
        agents[0].requests.clear()
        await agents[0].asked_twice.wait()
        assert agents[0].requests[0]["after"] == "3"
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    assert all(intake.taken[target.url] == [1, 2, 3] for target in (first, second, third))


async def test_polling_without_a_sign_of_life_is_stalled() -> None:
    polling = poller(intake=FakeIntake())
    assert not polling.is_stalled(polling.last_beat_ns + 70 * 10**9)
    assert polling.is_stalled(polling.last_beat_ns + 71 * 10**9)
