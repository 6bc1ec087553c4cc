# SPDX-License-Identifier: Apache-2.0
"""Looks at schedulers in the log: only changes, once a cell, in digests; a break is a hole and never an assumption."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuledger.cells import CELL_MS
from gpuledger.errors import StorageError
from gpuledger_collector.check import check_log
from gpuledger_collector.given_entries import ScheduleEntry
from gpuledger_collector.schedule_book import GAP_MS_MAX, QUEUES_MAX, ScheduleBook, ViewTooLarge
from gpuledger_collector.schedulers.view import Allocation, ClusterView, NodeState, Pending, Unschedulable
from gpuledger_collector.scheduling import Grant
from tests.fakes.readings import MONDAY_MS
from tests.fakes.storage import Storage
from tests.profiles import examples

MINUTE_MS = 60_000
END_MS = MONDAY_MS + 8 * CELL_MS


def allocation(job: str = "12", *, node: str = "n1", indices: tuple[int, ...] | None = (0, 1)) -> Allocation:
    return Allocation(
        job=job,
        user="alice",
        account="physics",
        partition="gpu",
        node=node,
        count=2 if indices is None else len(indices),
        indices=indices,
        since_ms=None,
    )


def pending(job: str = "13", *, gpus: int = 4, reason: str = "Resources") -> Pending:
    return Pending(job=job, user="bob", partition="gpu", tasks=1, gpus=gpus, reason=reason, since_ms=None)


def view(at_ms: int, *allocations: Allocation, waits: tuple[Pending, ...] = (), why: str | None = None) -> ClusterView:
    states = [NodeState(node="n1", why=Unschedulable(why), reason="bad fan", by="root", since_ms=5)] if why else []
    return ClusterView(
        cluster="c",
        at_ms=at_ms,
        nodes=("n1", "n2"),
        allocations=allocations,
        unschedulable=tuple(states),
        pending=waits,
    )


class Looks:
    """Looks at one cluster minute by minute."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self.book = ScheduleBook(storage.catalog, storage.namer)

    def minutes(self, first: int, last: int, *allocations: Allocation, **facts: object) -> None:
        for minute in range(first, last + 1):
            self.book.take(view(MONDAY_MS + minute * MINUTE_MS, *allocations, **facts))  # type: ignore[arg-type]

    def held(self, node: str = "n1") -> list[int]:
        """Return in which cells a job had GPUs of the node, from Monday on."""
        scheduling = self.storage.store.scheduling(MONDAY_MS, END_MS)
        return [
            (cell_ms - MONDAY_MS) // CELL_MS
            for cell_ms in range(MONDAY_MS, END_MS, CELL_MS)
            if scheduling.grants(node, cell_ms)
        ]

    def entries(self) -> list[ScheduleEntry]:
        return [entry for entry in self.storage.logged() if isinstance(entry, ScheduleEntry)]


@pytest.fixture
def looks(storage: Storage) -> Looks:
    return Looks(storage)


def test_a_job_counts_from_the_cell_that_begins_after_it_was_seen_to_the_last_that_it_was_seen_through(
    looks: Looks,
) -> None:
    looks.minutes(0, 3)
    looks.minutes(4, 17, allocation())
    looks.minutes(18, 30)
    assert looks.held() == [1, 2]


def test_only_changes_are_logged_and_once_a_cell_for_how_long_it_was_looked_at(looks: Looks) -> None:
    looks.minutes(0, 16, allocation())
    assert [len(entry.opened) for entry in looks.entries()] == [3, 0, 0, 0]
    assert [(entry.from_ms - MONDAY_MS, entry.to_ms - MONDAY_MS) for entry in looks.entries()] == [
        (0, 0),
        (0, CELL_MS),
        (CELL_MS, 2 * CELL_MS),
        (2 * CELL_MS, 3 * CELL_MS),
    ]


def test_a_job_that_came_and_went_within_a_cell_is_not_logged(looks: Looks) -> None:
    looks.minutes(0, 1)
    looks.minutes(2, 3, allocation())
    looks.minutes(4, 6)
    assert [len(entry.opened) for entry in looks.entries()] == [2, 0]


def test_names_are_digests_in_the_log_and_open_beside_it(looks: Looks) -> None:
    looks.minutes(0, 6, allocation(), why="drained")
    data = b"".join(leaf.data for leaf in looks.storage.catalog.log.iterate())
    assert not any(name in data for name in (b"alice", b"physics", b"root"))
    (grant,) = [one.fact for one in looks.storage.store.open_facts("c") if isinstance(one.fact, Grant)]
    names = looks.storage.store.names([grant.job, str(grant.user), str(grant.account)])
    assert sorted(names.values()) == ["12", "alice", "physics"]
    assert check_log(looks.storage.catalog.log).failures == []


@pytest.mark.parametrize(("silent_minutes", "held"), [(3, [0, 1, 2]), (4, [0, 2])])
def test_a_scheduler_that_does_not_answer_leaves_a_hole_when_it_is_long(
    looks: Looks, silent_minutes: int, held: list[int]
) -> None:
    looks.minutes(0, 6, allocation())
    looks.minutes(6 + silent_minutes, 15, allocation())
    assert GAP_MS_MAX == 3 * MINUTE_MS
    assert looks.held() == held


def test_a_job_that_ended_while_the_scheduler_did_not_answer_ended_when_it_was_last_seen(looks: Looks) -> None:
    looks.minutes(0, 6, allocation())
    looks.minutes(14, 20)
    assert looks.held() == [0]
    (entry,) = [entry for entry in looks.entries() if entry.closed]
    assert [one.to_ms for one in entry.closed] == [MONDAY_MS + 6 * MINUTE_MS]


def test_a_restart_goes_on_from_what_is_logged_and_knows_nothing_of_the_time_between(storage: Storage) -> None:
    looks = Looks(storage)
    looks.minutes(0, 7, allocation(), allocation("14", node="n2"))
    looks.book.finish(MONDAY_MS + 7 * MINUTE_MS)
    again = Looks(storage)
    again.minutes(9, 20, allocation())
    assert again.held() == [0, 2, 3]
    assert again.held("n2") == [0]
    assert sum(len(entry.opened) for entry in again.entries()) == 4


def test_a_clock_that_is_set_back_is_waited_for(looks: Looks) -> None:
    looks.minutes(0, 6, allocation())
    looks.minutes(2, 4)
    looks.minutes(7, 10, allocation())
    assert looks.held() == [0, 1]


def test_what_waits_is_summed_by_reason_as_far_as_two_looks_saw_it(looks: Looks) -> None:
    looks.minutes(0, 2, waits=(pending(), pending("14", gpus=2)))
    looks.minutes(3, 4, waits=(pending(),))
    looks.minutes(5, 10)
    first = next(entry for entry in looks.entries() if entry.queues)
    (queue,) = first.queues
    assert (queue.partition, queue.reason, queue.jobs_max) == ("gpu", "Resources", 2)
    assert queue.gpu_ms == (2 * 6 + 2 * 4) * MINUTE_MS


def test_reasons_beyond_a_bound_are_added_up(looks: Looks) -> None:
    many = tuple(pending(str(number), reason=f"reason {number}", gpus=1) for number in range(QUEUES_MAX + 5))
    looks.minutes(0, 5, waits=many)
    queues = next(entry for entry in looks.entries() if entry.queues).queues
    assert len(queues) == QUEUES_MAX
    assert sum(queue.gpu_ms for queue in queues) == (QUEUES_MAX + 5) * CELL_MS


def test_a_cluster_that_says_too_much_is_refused(looks: Looks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpuledger_collector.schedule_book.FACTS_MAX", 2)
    with pytest.raises(ViewTooLarge, match="cluster c has more than 2 nodes and jobs"):
        looks.minutes(0, 0, allocation())


def test_thousands_of_jobs_fit_the_log_in_parts(looks: Looks) -> None:
    jobs = [allocation(str(number), node=f"n{number % 7}") for number in range(1000)]
    looks.minutes(0, 6, *jobs)
    assert sum(len(entry.opened) for entry in looks.entries()) == 1002
    assert check_log(looks.storage.catalog.log).failures == []
    digests = {one.fact for one in looks.storage.store.open_facts("c")}
    looks.storage.keeper.rebuild()
    assert {one.fact for one in looks.storage.store.open_facts("c")} == digests


def test_what_could_not_be_logged_is_taken_up_again_by_the_next_look(
    looks: Looks, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks.minutes(0, 4, allocation())

    def refuse(*_: object, **__: object) -> None:
        raise StorageError("disk full")

    with monkeypatch.context() as patched:
        patched.setattr(looks.storage.catalog, "commit", refuse)
        with pytest.raises(StorageError, match="disk full"):
            looks.minutes(5, 5, allocation())
    looks.minutes(6, 16, allocation())
    assert looks.held() == [2]


@examples(0.5)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=30, max_size=40), st.integers(0, 299_999))
def test_a_job_is_never_given_a_cell_through_which_it_was_not_seen(
    tmp_path_factory: pytest.TempPathFactory, minutes: list[tuple[bool, bool]], offset_ms: int
) -> None:
    """Each minute the scheduler answers or not, and the job is there or not."""
    answered = [
        (MONDAY_MS + offset_ms + number * MINUTE_MS, is_there)
        for number, (answers, is_there) in enumerate(minutes)
        if answers
    ]
    with Storage(Path(tmp_path_factory.mktemp("looks"))) as storage:
        looks = Looks(storage)
        for at_ms, is_there in answered:
            looks.book.take(view(at_ms, *([allocation()] if is_there else [])))
        looks.book.finish(END_MS + 10 * CELL_MS)
        scheduling = storage.store.scheduling(MONDAY_MS, END_MS + 5 * CELL_MS)
    for cell_ms in range(MONDAY_MS, END_MS, CELL_MS):
        before = [item for item in answered if item[0] <= cell_ms][-1:]
        inside = [item for item in answered if cell_ms < item[0] < cell_ms + CELL_MS]
        after = [item for item in answered if item[0] >= cell_ms + CELL_MS][:1]
        chain = [*before, *inside, *after]
        is_seen = bool(before) and bool(after) and all(is_there for _, is_there in chain)
        is_unbroken = all(later[0] - earlier[0] <= GAP_MS_MAX for earlier, later in itertools.pairwise(chain))
        assert bool(scheduling.grants("n1", cell_ms)) is (is_seen and is_unbroken)
