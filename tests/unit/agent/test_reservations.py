# SPDX-License-Identifier: Apache-2.0
"""Whether, and to whom, a GPU is allocated: all sources together, and what becomes of it in the states."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from gpuledger.sealing import NameSealer
from gpuledger.states import State
from gpuledger_agent.allocation_files import Answer
from gpuledger_agent.allocations import Allocation, Devices
from gpuledger_agent.devices import Device
from gpuledger_agent.holders import Holders
from gpuledger_agent.meter import Meter
from gpuledger_agent.nvml import GpuProcess, Identity
from gpuledger_agent.reservations import Reservations
from gpuledger_agent.snapshot import GpuSnapshot, Health
from gpuledger_agent.sources import SourceReport, TickReads
from gpuledger_agent.tally import Tally
from gpuledger_agent.workloads import Source
from tests.fakes.processes import FakeProcessTable

NOW_MS = 1_795_300_200_000
FREE = GpuSnapshot(activity_ppm=0, holders=(), health=Health.CLEAN)


@dataclass
class FakeSource:
    answer: Answer = field(default_factory=lambda: Answer(is_whole=True))
    is_closed: bool = False

    def poll(self, now_ms: int, reads: TickReads) -> Answer:
        return self.answer

    def close(self) -> None:
        self.is_closed = True


def device(index: int, minor: int | None = None) -> Device:
    identity = Identity(
        uuid=f"GPU-{index}",
        serial=None,
        index=index,
        pci_bus_id=None,
        model=None,
        memory_total_bytes=None,
        power_limit_mw=None,
        minor_number=index if minor is None else minor,
    )
    return Device(identity=identity, handle=object())


def allocation(name: str, user: str | None = None, **devices: frozenset[Any]) -> Allocation:
    return Allocation(name=name, source=Source.SLURM_JOB, user=user, devices=Devices(**devices))


class Node:
    """Two GPUs, and sources that a test fills."""

    def __init__(self, *sources: FakeSource, devices: Sequence[Device] = (device(0), device(1))) -> None:
        self.sources, self.devices = sources, devices
        self.table = FakeProcessTable()
        self.holders = Holders(self.table, NameSealer(bytes(32)), own_pid=1)
        self.reservations = Reservations(self.holders, sources)
        self.reports: dict[str, SourceReport] = {}

    def marked(self, seen: GpuSnapshot = FREE) -> list[GpuSnapshot]:
        reads = TickReads(self.reports)
        self.reservations.poll(NOW_MS, self.devices, reads)
        self.reports.update(reads.ran)
        return [self.reservations.mark(device.identity.uuid, seen) for device in self.devices]

    def names(self, seen: GpuSnapshot) -> list[str]:
        digests = [holder.workload for holder in seen.allocated_to]
        return sorted(name for _, name in self.holders.openings(digests).values())


@pytest.mark.parametrize(
    ("answers", "known"),
    [
        ([], [None, None]),
        ([Answer(is_whole=True)], [False, False]),
        ([Answer(is_whole=False)], [None, None]),
        ([Answer(allocations=(allocation("slurm:1", indexes=frozenset({0})),), is_whole=True)], [True, False]),
        ([Answer(allocations=(allocation("slurm:1", indexes=frozenset({0})),), is_whole=False)], [True, None]),
        ([Answer(is_whole=True), Answer(is_whole=False)], [None, None]),
    ],
)
def test_a_gpu_is_not_allocated_only_where_every_source_said_all_it_should(
    answers: list[Answer], known: list[bool | None]
) -> None:
    node = Node(*(FakeSource(answer) for answer in answers))
    assert [seen.is_allocated for seen in node.marked()] == known


def test_allocations_of_all_sources_stand_together_and_a_later_answer_takes_their_place() -> None:
    slurm, pods = FakeSource(), FakeSource()
    node = Node(slurm, pods)
    slurm.answer = Answer(allocations=(allocation("slurm:1", indexes=frozenset({0, 1})),), is_whole=True)
    pods.answer = Answer(allocations=(allocation("pod:a/b/c", minors=frozenset({1})),), is_whole=True)
    assert [node.names(seen) for seen in node.marked()] == [["slurm:1"], ["pod:a/b/c", "slurm:1"]]
    slurm.answer = Answer(is_whole=True)
    assert [node.names(seen) for seen in node.marked()] == [[], ["pod:a/b/c"]]


def test_two_allocations_of_one_workload_on_a_gpu_are_one() -> None:
    source = FakeSource()
    node = Node(source)
    twice = (allocation("slurm:1", "ada", indexes=frozenset({0})), allocation("slurm:1", minors=frozenset({0})))
    source.answer = Answer(allocations=twice, is_whole=True)
    assert len(node.marked()[0].allocated_to) == 1


def test_numbers_that_may_be_two_gpus_are_counted_said_once_and_leave_all_unknown(
    caplog: pytest.LogCaptureFixture,
) -> None:
    numbered = Answer(allocations=(allocation("slurm:1", numbers=frozenset({0})),), is_whole=True)
    node = Node(FakeSource(numbered), devices=(device(0, minor=1), device(1, minor=0)))
    assert [seen.is_allocated for seen in node.marked()] == [None, None]
    node.marked()
    assert node.reports["job_files"].failures == {"order_ambiguous": 1}
    assert [record.msg for record in caplog.records] == ["gpu_order_ambiguous"]


def test_what_is_under_way_is_ended_with_the_agent() -> None:
    source = FakeSource()
    Node(source).reservations.close()
    assert source.is_closed


def metered(seen: GpuSnapshot) -> Tally:
    meter = Meter(1_000, {}, {})
    meter.tick(NOW_MS, {"GPU-0": seen})
    meter.tick(NOW_MS + 1_000, {"GPU-0": seen})
    span = meter.open_span
    assert span is not None
    return span.tallies["GPU-0"]


def test_a_gpu_without_a_process_is_reserved_under_the_name_of_whom_it_was_given_to() -> None:
    given = Answer(allocations=(allocation("slurm:1", "ada", indexes=frozenset({0})),), is_whole=True)
    node = Node(FakeSource(given))
    node.table.add(6001, "python3", user="ada", cgroup="0::/system.slice/slurmstepd.scope/job_1/step_0/user/task_0\n")
    first, second = (metered(seen) for seen in node.marked())
    assert first.state_slice_ms == {State.RESERVED: 7_000}
    assert second.state_slice_ms == {State.FREE: 7_000}
    ((key, times),) = first.workload_slice_ms.items()
    assert times == {State.RESERVED: 7_000}
    assert first.workload_source == {key: "slurm_job"}
    (holder,) = node.holders.resolve([GpuProcess(6001, 1)])
    assert key == (holder.workload, holder.user, None), "it is the same workload once it has a process there"


def test_an_unknown_allocation_leaves_a_gpu_free() -> None:
    node = Node(FakeSource(Answer(is_whole=False)))
    assert metered(node.marked()[0]).state_slice_ms == {State.FREE: 7_000}


def test_whoever_holds_an_allocated_gpu_holds_it() -> None:
    given = Answer(allocations=(allocation("slurm:1", indexes=frozenset({0})),), is_whole=True)
    node = Node(FakeSource(given))
    node.table.add(4100, "python3")
    held = GpuSnapshot(activity_ppm=0, holders=node.holders.resolve([GpuProcess(4100, 1)]), health=Health.CLEAN)
    tally = metered(node.marked(held)[0])
    assert tally.state_slice_ms == {State.HELD: 7_000}
    assert set(tally.workload_source.values()) == {"process"}


def test_reserved_time_of_several_is_shared_equally_and_its_sum_is_kept() -> None:
    three = tuple(allocation(f"slurm:{job}", indexes=frozenset({0})) for job in (1, 2, 3))
    tally = metered(Node(FakeSource(Answer(allocations=three, is_whole=True))).marked()[0])
    shares = [times[State.RESERVED] for times in tally.workload_slice_ms.values()]
    assert sum(shares) == tally.state_slice_ms[State.RESERVED] == 7_000
    assert max(shares) - min(shares) == 1
