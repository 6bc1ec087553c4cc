# SPDX-License-Identifier: Apache-2.0
"""One node that is polled and pushes at the same time: the ledger is that of either alone, and nothing is a finding."""

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuledger.cells import CELL_MS
from gpuledger.errors import StorageError
from gpuledger.states import State
from gpuledger_collector.answers import Answered, Cursor, Outcome
from gpuledger_collector.program import AgentIntake
from gpuledger_collector.state import State as CollectorState
from gpuledger_collector.targets import Target
from tests.fakes.polling import StillClock
from tests.fakes.readings import MONDAY_MS, FakeNode
from tests.fakes.storage import Storage
from tests.profiles import examples

TARGET = Target(url="http://node-1:9400", site="fra1", cluster="train", pool="h100")
PLACE = ("fra1", "train", "h100")
CELLS = 24


@dataclass
class Node:
    """An agent's two ways out, each with what it remembers."""

    storage: Storage
    node: FakeNode
    intake: AgentIntake = field(init=False)
    cursor: Cursor | None = None
    acknowledged: int | None = None

    def __post_init__(self) -> None:
        self.intake = AgentIntake(cast("CollectorState", self.storage), StillClock(), PLACE)

    def page(self, after: int, size: int) -> dict[str, Any]:
        return self.node.answer([one for one in self.node.sealed if one.reading.sequence > after][:size])

    def poll(self, size: int, *, is_stale: bool = False) -> None:
        """Ask as the poller does; a stale question was asked before others were answered."""
        asked = self.cursor
        if is_stale and asked is not None:
            asked = Cursor(journal=asked.journal, sequence=0)
        after = 0 if asked is None else asked.sequence
        answer = Answered(document=self.page(after, size), target=TARGET, asked=asked)
        (outcome,) = self.intake.accept([answer], self.storage.now_ms)
        assert isinstance(outcome, Outcome)
        self.cursor = outcome.cursor

    def push(self, size: int, *, is_answer_lost: bool = False) -> None:
        if self.acknowledged is None:
            position = 2**63 - 1
            size = 0
        else:
            position = self.acknowledged
        pushed = self.intake.accept_pushed(self.page(position, size), position, self.storage.now_ms)
        assert pushed.refused == {}
        if not is_answer_lost:
            self.acknowledged = pushed.sequence

    def finish(self) -> None:
        while self.acknowledged != self.node.sequence:
            self.push(100)
        while self.cursor is None or self.cursor.sequence != self.node.sequence:
            self.poll(100)


def seal_one(node: FakeNode) -> None:
    index = node.sequence
    node.seal(MONDAY_MS + index * CELL_MS, states_ms={State.BUSY: 1000 * (index % 300), State.HELD: 7})


def restart(node: Node) -> None:
    """The collector forgets what it knew of both; the agent too."""
    node.cursor = node.acknowledged = None
    node.__post_init__()


STEPS: dict[str, Callable[[Node, int], None]] = {
    "seal": lambda node, size: seal_one(node.node) if node.node.sequence < CELLS else None,
    "poll": lambda node, size: node.poll(size),
    "stale poll": lambda node, size: node.poll(size, is_stale=True),
    "push": lambda node, size: node.push(size),
    "push without an answer": lambda node, size: node.push(size, is_answer_lost=True),
    "restart": lambda node, size: restart(node),
    "refresh": lambda node, size: cast("None", node.storage.refresh()),
}


@examples(0.5)
@given(st.lists(st.tuples(st.sampled_from([*STEPS, "seal", "poll", "push"]), st.integers(1, 5)), max_size=25))
def test_push_and_poll_in_any_order_give_the_ledger_of_either_alone(steps: list[tuple[str, int]]) -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        Storage(Path(folder) / "both") as both,
        Storage(Path(folder) / "one") as one,
    ):
        both.now_ms = one.now_ms = MONDAY_MS + (CELLS + 1) * CELL_MS
        node = Node(both, FakeNode(gpus=2))
        seal_one(node.node)
        for step, size in steps:
            STEPS[step](node, size)
        node.finish()
        one.take(node.node, place=PLACE)
        for storage in (both, one):
            storage.refresh()
        assert both.store.count_readings() == one.store.count_readings() == node.node.sequence
        assert both.store.findings() == []
        assert both.store.places() == one.store.places()
        extent = one.files.extent()
        assert extent == both.files.extent()
        assert extent is not None
        assert both.files.digest(*extent) == one.files.digest(*extent)


def test_who_only_pushes_stands_where_it_is_configured_and_who_is_polled_where_its_target_says(tmp_path: Path) -> None:
    with Storage(tmp_path) as storage:
        only, both = Node(storage, FakeNode("node-1")), Node(storage, FakeNode("node-2"))
        intake = AgentIntake(cast("CollectorState", storage), StillClock(), ("ber2", "rest", "spare"))
        for node in (only, both):
            node.intake = intake
            seal_one(node.node)
        both.poll(9)
        for node in (only, both):
            node.push(0)
            node.push(9)
            seal_one(node.node)
            node.push(9)
        assert storage.store.places() == {"node-1": ("ber2", "rest", "spare"), "node-2": PLACE}
        again = AgentIntake(cast("CollectorState", storage), StillClock(), ("ber2", "rest", "elsewhere"))
        for node in (only, both):
            node.intake = again
            seal_one(node.node)
            node.push(9)
        assert storage.store.places() == {"node-1": ("ber2", "rest", "elsewhere"), "node-2": PLACE}


@pytest.mark.parametrize("is_genuine", [True, False])
def test_a_page_is_shown_only_from_a_key_that_counts(tmp_path: Path, *, is_genuine: bool) -> None:
    with Storage(tmp_path) as storage:
        node = Node(storage, FakeNode())
        seal_one(node.node)
        page = node.page(0, 9)
        if not is_genuine:
            page |= {"node_id": FakeNode("other").node_id, "public_key": FakeNode("other").answer()["public_key"]}
        pushed = node.intake.accept_pushed(page, 0, storage.now_ms)
        assert (pushed.sender is not None) == is_genuine
        assert pushed.refused == ({} if is_genuine else {"tampered": 1})


def test_who_pushes_is_a_witness_an_older_copy_put_back_takes_nothing_in(tmp_path: Path) -> None:
    state, copy = tmp_path / "state", tmp_path / "copy"
    node = FakeNode(gpus=2)
    with Storage(state) as storage:
        pusher = Node(storage, node)
        seal_one(node)
        shown = pusher.intake.accept_pushed(pusher.page(0, 1), 0, storage.now_ms).shown
        storage.close()
        shutil.copytree(state, copy)
        storage.open()
        pusher = Node(storage, node)
        seal_one(node)
        again = pusher.intake.accept_pushed(pusher.page(1, 1), 1, storage.now_ms).shown
        assert again["checkpoint"] == storage.catalog.log.line != shown["checkpoint"]
    with Storage(copy) as storage:
        pusher = Node(storage, node)
        seal_one(node)
        size = storage.catalog.log.size
        # What it was shown before is a beginning of this log, too.
        early = pusher.page(1, 2) | {"checkpoints": [shown["checkpoint"]]}
        late = pusher.page(1, 2) | {"checkpoints": [again["checkpoint"]]}
        with pytest.raises(StorageError, match="an older copy was put back"):
            pusher.intake.accept_pushed(late, 1, storage.now_ms)
        with pytest.raises(StorageError, match="an older copy was put back"):
            pusher.intake.accept_pushed(early, 1, storage.now_ms)
        assert storage.catalog.log.size == size
