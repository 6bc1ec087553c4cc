# SPDX-License-Identifier: Apache-2.0
"""Answers that wait are taken in together, and one that is wrong costs only itself."""

import asyncio
import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from gpuledger.cells import CELL_MS
from gpuledger.errors import StorageError
from gpuledger_collector.answers import Answered, Outcome
from gpuledger_collector.batch import BatchResult, Offer
from gpuledger_collector.closing import ClockEntry
from gpuledger_collector.entries import ReadingEntry
from gpuledger_collector.live import LiveBoard
from gpuledger_collector.poll_failures import Failure, PollError
from gpuledger_collector.taking import Taker
from gpuledger_collector.targets import Target
from tests.fakes.polling import FakeIntake, StillClock
from tests.fakes.readings import MONDAY_MS, FakeNode
from tests.fakes.storage import Storage


@dataclass
class SlowIntake(FakeIntake):
    """Holds the first answer until it is let go; remembers how many came at once."""

    let_go: threading.Event = field(default_factory=threading.Event)
    entered: threading.Event = field(default_factory=threading.Event)
    at_once: list[int] = field(default_factory=list)

    def accept(self, answers: Sequence[Answered], now_ms: int) -> list[Outcome | Exception]:
        self.at_once.append(len(answers))
        self.entered.set()
        self.let_go.wait(timeout=10)
        return super().accept(answers, now_ms)


def answer(node: str = "node-1") -> bytes:
    page = {"node": node, "node_id": node, "journal": "j1", "last_sequence": 1, "live": None}
    return json.dumps(page | {"readings": [{"sequence": 1}]}).encode()


def target(number: int) -> Target:
    return Target(url=f"http://node-{number}:9400")


async def test_what_comes_while_something_is_taken_in_is_taken_in_at_once() -> None:
    intake, board = SlowIntake(), LiveBoard()
    taker = Taker(intake, board, StillClock())
    first = asyncio.create_task(taker.take(answer(), target(0), None))
    await asyncio.to_thread(intake.entered.wait, 10)
    rest = [asyncio.create_task(taker.take(answer(), target(number), None)) for number in range(1, 6)]
    await asyncio.sleep(0)
    intake.let_go.set()
    outcomes = await asyncio.gather(first, *rest)
    taker.close()
    assert intake.at_once == [1, 5]
    assert [outcome.accepted for outcome in outcomes] == [1] * 6
    assert [node.target for node in board.nodes()] == [target(number) for number in range(6)]


async def test_an_answer_that_is_no_json_costs_none_of_those_beside_it() -> None:
    intake, board = SlowIntake(), LiveBoard()
    taker = Taker(intake, board, StillClock())
    first = asyncio.create_task(taker.take(answer(), target(0), None))
    await asyncio.to_thread(intake.entered.wait, 10)
    bad = asyncio.create_task(taker.take(b"{]", target(1), None))
    good = asyncio.create_task(taker.take(answer(), target(2), None))
    await asyncio.sleep(0)
    intake.let_go.set()
    assert (await good).accepted == (await first).accepted == 1
    with pytest.raises(PollError) as caught:
        await bad
    taker.close()
    assert caught.value.failure is Failure.NOT_JSON
    assert intake.at_once == [1, 1]


def offer(node: FakeNode, **changes: Any) -> Offer:
    return Offer(document=node.answer() | changes, target=f"http://{node.name}:9400", place=("fra1", "a", "b"))


def enrolled(storage: Storage, *names: str) -> list[FakeNode]:
    """Nodes whose first reading was taken in, with a second one sealed."""
    nodes = [FakeNode(name, gpus=1) for name in names]
    for node in nodes:
        node.seal(MONDAY_MS)
        storage.take(node)
        node.seal(MONDAY_MS + CELL_MS)
    return nodes


def accepted(results: Sequence[BatchResult | Exception]) -> list[int | None]:
    return [result.accepted if isinstance(result, BatchResult) else None for result in results]


def test_answers_of_different_nodes_are_logged_as_one_batch(storage: Storage) -> None:
    nodes = enrolled(storage, "node-1", "node-2", "node-3")
    before = len(storage.logged())
    results = storage.intake.accept_all([offer(node) for node in nodes], now_ms=storage.now_ms)
    assert accepted(results) == [1, 1, 1]
    assert [type(entry) for entry in storage.logged()[before:]] == [*[ReadingEntry] * 3, ClockEntry]
    for node in nodes:
        assert storage.store.cursor(node.node_id, node.journal) == 2
        assert storage.intake.cursor_of(f"http://{node.name}:9400") == (node.journal, 2)
    assert storage.intake.accepted == 6


def test_an_answer_that_is_wrong_as_a_whole_costs_none_of_those_beside_it(storage: Storage) -> None:
    one, two, three = enrolled(storage, "node-1", "node-2", "node-3")
    offers = [offer(one), offer(two, node_id=one.node_id), offer(three)]
    results = storage.intake.accept_all(offers, now_ms=storage.now_ms)
    assert accepted(results) == [1, None, 1]
    assert "fingerprint" in str(results[1])
    assert storage.store.count_readings() == 5


def test_two_answers_of_one_node_at_once_are_taken_in_one_after_the_other(storage: Storage) -> None:
    (node,) = enrolled(storage, "node-1")
    results = storage.intake.accept_all([offer(node), offer(node)], now_ms=storage.now_ms)
    assert accepted(results) == [1, 0]
    assert storage.store.count_readings() == 2
    assert storage.kinds() == []


def test_two_new_keys_of_one_name_at_once_are_found(storage: Storage) -> None:
    one, two = FakeNode("node-1"), FakeNode("node-1", key_name="another key")
    one.seal(MONDAY_MS)
    two.seal(MONDAY_MS + CELL_MS)
    assert accepted(storage.intake.accept_all([offer(one), offer(two)], now_ms=storage.now_ms)) == [1, 1]
    assert "node_key_changed" in storage.kinds()


def test_a_disk_that_refuses_costs_all_that_were_to_be_logged_at_once_and_no_cursor_moves(storage: Storage) -> None:
    nodes = enrolled(storage, "node-1", "node-2")
    storage.catalog.log.refuse("the disk is full")
    results = storage.intake.accept_all([offer(node) for node in nodes], now_ms=storage.now_ms)
    assert [type(result) for result in results] == [StorageError, StorageError]
    assert [storage.store.cursor(node.node_id, node.journal) for node in nodes] == [1, 1]
    assert storage.intake.accepted == 2


def test_an_answer_without_news_writes_nothing(storage: Storage) -> None:
    nodes = enrolled(storage, "node-1", "node-2")
    offers = [offer(node) for node in nodes]
    storage.intake.accept_all(offers, now_ms=storage.now_ms)
    before = storage.store._db.total_changes
    storage.intake.accept_all([offer(node, readings=[]) for node in nodes], now_ms=storage.now_ms + 30_000)
    assert storage.store._db.total_changes == before
    moved = Offer(document=nodes[0].answer([]), target="http://node-1:9400", place=("ber2", "a", "b"))
    storage.intake.accept_all([moved], now_ms=storage.now_ms)
    assert storage.store.places()["node-1"] == ("ber2", "a", "b")
