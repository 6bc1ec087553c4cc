# SPDX-License-Identifier: Apache-2.0
"""What schedulers said counts for whole cells in which they were looked at without a break, and never beyond."""

from __future__ import annotations

import pytest

from gpuledger.cells import CELL_MS, CELL_SLICE_MS, SLICES_PER_GPU
from gpuledger.gpu_time import GpuTime, InstanceTime
from gpuledger.states import State
from gpuledger_collector.allotment import AllotmentRow, ClusterRow, QueueRow
from gpuledger_collector.leases import Commercial, Lease, LeaseBook
from gpuledger_collector.ledger import Accepted, Ledger, build
from gpuledger_collector.roster import Roster
from gpuledger_collector.schedulers.view import Unschedulable
from gpuledger_collector.scheduling import Grant, NodeFact, Queue, Scheduling, Seen, Watched
from tests.fakes.cells import T0_MS, entry, reading

T1_MS = T0_MS + CELL_MS
MINUTE_MS = 60_000
JOB = Grant(node="n1", job="j", user="u", account="a", partition="gpu", count=2, indices=(0, 1))


def looks(*spans: tuple[int, int], queues: tuple[Queue, ...] = ()) -> list[Watched]:
    return [Watched(cluster="c", from_ms=from_ms, to_ms=to_ms, queues=queues) for from_ms, to_ms in spans]


def seen(fact: Grant | NodeFact, from_ms: int = T0_MS, to_ms: int | None = None) -> Seen:
    return Seen(cluster="c", fact=fact, from_ms=from_ms, to_ms=to_ms)


WHOLE = looks((T0_MS, T1_MS))


@pytest.mark.parametrize(
    ("watched", "fact", "is_held"),
    [
        (WHOLE, seen(JOB), True),
        (WHOLE, seen(JOB, T0_MS, T1_MS), True),
        (WHOLE, seen(JOB, T0_MS + 1), False),
        (WHOLE, seen(JOB, T0_MS, T1_MS - 1), False),
        (looks((T0_MS - 9, T0_MS + MINUTE_MS), (T0_MS + MINUTE_MS, T1_MS + 9)), seen(JOB), True),
        (looks((T0_MS, T0_MS + MINUTE_MS), (T0_MS + MINUTE_MS + 1, T1_MS)), seen(JOB), False),
        (looks((T0_MS, T1_MS - 1)), seen(JOB), False),
        ([], seen(JOB), False),
    ],
)
def test_a_job_has_its_gpus_for_a_cell_through_which_both_it_and_the_scheduler_were_seen(
    watched: list[Watched], fact: Seen, is_held: bool
) -> None:
    assert bool(Scheduling(watched, [fact]).grants("n1", T0_MS)) is is_held


def gpu(number: int, states: dict[State, int], *, index: int | None = None) -> GpuTime:
    slices = {state: amount * SLICES_PER_GPU for state, amount in states.items()}
    bins = (slices.get(State.HELD, 0), 0, 0, 0, 0, 0, 0, slices.get(State.BUSY, 0))
    return GpuTime(
        uuid=f"GPU-{number}", index=number if index is None else index, state_slice_ms=slices, bin_slice_ms=bins
    )


FREE = {State.FREE: CELL_MS}
HALF_BUSY = {State.BUSY: CELL_MS // 2, State.FREE: CELL_MS // 2}


def ledger_of(
    gpus: list[GpuTime], watched: list[Watched], facts: list[Seen], leases: LeaseBook | None = None
) -> Ledger:
    roster = Roster(entries=tuple(entry(one.uuid, "n1") for one in gpus), is_declared=True)
    readings: list[Accepted] = [reading("n1", gpus)]
    return build(readings, roster, T0_MS, T1_MS, leases=leases, scheduling=Scheduling(watched, facts))


def total(ledger: Ledger, state: State) -> int:
    return sum(row.account.slice_ms(state) for row in ledger.hours) // SLICES_PER_GPU


def test_free_time_of_a_job_is_reserved_in_its_owners_name_and_other_time_stays() -> None:
    ledger = ledger_of([gpu(0, FREE), gpu(1, HALF_BUSY), gpu(2, FREE)], WHOLE, [seen(JOB)])
    assert total(ledger, State.RESERVED) == CELL_MS + CELL_MS // 2
    assert total(ledger, State.FREE) == CELL_MS
    assert total(ledger, State.BUSY) == CELL_MS // 2
    assert ledger.allotted.allotments == (
        AllotmentRow(
            hour_ms=T0_MS,
            cluster="c",
            site="fra1",
            node="n1",
            job="j",
            user="u",
            account="a",
            partition="gpu",
            gpus=2,
            slice_ms=2 * CELL_SLICE_MS,
            busy_slice_ms=CELL_SLICE_MS // 2,
            held_slice_ms=0,
            reserved_slice_ms=CELL_SLICE_MS + CELL_SLICE_MS // 2,
            untold_slice_ms=0,
        ),
    )


def test_a_job_whose_gpus_are_only_counted_reserves_none_and_its_time_is_still_known() -> None:
    job = Grant(node="n1", job="j", count=2)
    ledger = ledger_of([gpu(0, FREE), gpu(1, FREE)], WHOLE, [seen(job)])
    assert total(ledger, State.RESERVED) == 0
    (row,) = ledger.allotted.allotments
    assert (row.gpus, row.slice_ms, row.untold_slice_ms) == (2, 2 * CELL_SLICE_MS, 2 * CELL_SLICE_MS)


def test_a_node_that_takes_no_new_work_keeps_its_free_time_which_could_not_be_sold() -> None:
    closed = NodeFact(node="n1", why=Unschedulable.DRAINED, reason="fan", by="d", since_ms=7)
    ledger = ledger_of([gpu(0, FREE), gpu(1, HALF_BUSY)], WHOLE, [seen(closed)])
    assert total(ledger, State.FREE) == CELL_MS + CELL_MS // 2
    tags = [row.tags for row in ledger.hours]
    assert [one.not_schedulable_slice_ms for one in tags] == [CELL_SLICE_MS, CELL_SLICE_MS // 2]
    assert [one.stranded_slice_ms for one in tags] == [0, 0]
    (row,) = ledger.allotted.unschedulable
    assert (row.node, row.why, row.reason, row.by, row.since_ms) == ("n1", Unschedulable.DRAINED, "fan", "d", 7)
    assert (row.slice_ms, row.free_slice_ms) == (2 * CELL_SLICE_MS, CELL_SLICE_MS + CELL_SLICE_MS // 2)


def test_gpus_that_were_free_while_jobs_waited_are_counted_up_to_what_the_jobs_wanted() -> None:
    queues = (
        Queue(partition="gpu", reason="Resources", jobs_max=2, gpu_ms=CELL_MS // 2),
        Queue(partition="gpu", reason="Dependency", jobs_max=1, gpu_ms=CELL_MS),
    )
    watched = looks((T0_MS, T1_MS), queues=queues)
    ledger = ledger_of([gpu(0, FREE)], watched, [seen(NodeFact(node="n1"))])
    assert [row.wanted_slice_ms for row in ledger.allotted.queues] == [CELL_SLICE_MS, CELL_SLICE_MS // 2]
    assert ledger.allotted.queues[1] == QueueRow(
        hour_ms=T0_MS,
        cluster="c",
        partition="gpu",
        reason="Resources",
        jobs_max=2,
        wanted_slice_ms=CELL_SLICE_MS // 2,
    )
    assert ledger.allotted.clusters == (
        ClusterRow(
            hour_ms=T0_MS,
            cluster="c",
            known_ms=CELL_MS,
            free_slice_ms=CELL_SLICE_MS,
            wanted_slice_ms=CELL_SLICE_MS // 2,
            idle_wanted_slice_ms=CELL_SLICE_MS // 2,
        ),
    )


def test_a_lease_reserves_by_name_and_shows_in_the_commercial_axis() -> None:
    lease = Lease(name="L", tenant="t", kind=Commercial.PAID, from_ms=0, gpus=("GPU-0",))
    ledger = ledger_of([gpu(0, FREE), gpu(1, FREE)], [], [], LeaseBook([lease], 0))
    assert total(ledger, State.RESERVED) == CELL_MS
    assert [(row.kind, row.lease, row.tenant, row.slice_ms) for row in ledger.commerce] == [
        (Commercial.PAID, "L", "t", CELL_SLICE_MS),
        (Commercial.UNSOLD, None, None, CELL_SLICE_MS),
    ]
    assert ledger.allotted.clusters == ()


def test_two_leases_of_one_gpu_are_found_once_an_hour() -> None:
    leases = [Lease(name=name, tenant="t", kind=Commercial.PAID, from_ms=0, gpus=("GPU-0",)) for name in ("L", "M")]
    ledger = ledger_of([gpu(0, FREE)], [], [], LeaseBook(leases, 0))
    assert [(found.kind, found.subject, found.at_ms) for found in ledger.findings] == [("double_lease", "GPU-0", T0_MS)]


def test_a_divided_gpu_is_nobodys_by_an_index() -> None:
    whole = gpu(0, FREE)
    instance = InstanceTime(uuid="MIG-1", instance=1, slices=1, state_slice_ms={State.FREE: CELL_MS})
    from_instances = GpuTime(uuid=whole.uuid, index=0, state_slice_ms=whole.state_slice_ms, instances=(instance,))
    ledger = ledger_of([from_instances], WHOLE, [seen(JOB)])
    assert total(ledger, State.RESERVED) == 0


def test_a_job_has_as_many_gpus_as_its_scheduler_says_whatever_was_seen_of_them() -> None:
    roster = Roster(entries=tuple(entry(f"GPU-{number}", "n1") for number in range(2)), is_declared=True)
    watched = looks((T0_MS, T1_MS), (T1_MS, T1_MS + CELL_MS))
    # In the second cell nobody reported, so nobody knows which GPUs the job had.
    seen_once = [reading("n1", [gpu(0, FREE), gpu(1, FREE)])]
    ledger = build(seen_once, roster, T0_MS, T1_MS + CELL_MS, scheduling=Scheduling(watched, [seen(JOB)]))
    (row,) = ledger.allotted.allotments
    assert (row.gpus, row.slice_ms, row.untold_slice_ms) == (2, 4 * CELL_SLICE_MS, 2 * CELL_SLICE_MS)
