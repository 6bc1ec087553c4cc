# SPDX-License-Identifier: Apache-2.0
"""GPU instances that were given to somebody: by their own UUID, or with the whole board."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from gpuledger.reading import decode_workloads
from gpuledger.states import State
from gpuledger_agent.allocation_files import Answer
from gpuledger_agent.allocations import Allocation, Devices
from gpuledger_agent.sources import TickReads
from gpuledger_agent.workloads import Source
from tests.fakes.agents import Rig, records
from tests.fakes.nvml import FakeInstance, gpus, instance


@dataclass
class Given:
    """A source that says who was given which UUIDs."""

    is_whole: bool = True
    uuids: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def poll(self, now_ms: int, reads: TickReads) -> Answer:
        given = tuple(
            Allocation(name=name, source=Source.SLURM_JOB, user=None, devices=Devices(uuids=frozenset(uuids)))
            for name, uuids in self.uuids.items()
        )
        return Answer(allocations=given, is_whole=self.is_whole)

    def close(self) -> None:
        pass


@dataclass
class Node:
    rig: Rig
    given: Given
    big: FakeInstance
    small: FakeInstance

    def states(self) -> dict[str, State]:
        """What each instance, and what none has ("rest"), is in the next tick."""
        self.rig.tick(2)
        parts = self.rig.agent.view.gpus[0].parts
        names = {None: "rest", self.big.instance: "big", self.small.instance: "small"}
        found = {names[None if part.instance is None else part.instance.instance]: part.result for part in parts}
        return {name: result for name, result in found.items() if isinstance(result, State)}

    def owners(self) -> dict[tuple[str, str | None], int]:
        """The reserved slice-ms of each workload on each instance, as they are sealed."""
        self.rig.agent.close()
        (record,), (reading,) = records(self.rig.directory), self.rig.readings()
        sealed = decode_workloads(record["workloads"].encode(), reading)
        names = {
            digest: name for digest, (_, name) in self.rig.holders.openings(one.workload for one in sealed).items()
        }
        return {(names[one.workload], one.instance_uuid): one.state_slice_ms[State.RESERVED] for one in sealed}


@pytest.fixture
def node(tmp_path: Path) -> Node:
    """A GPU divided into 3 slices and 1 that nobody holds; 3 slices are in no instance."""
    given, big, small = Given(), instance(2, 3), instance(9, 1)
    rig = Rig(tmp_path, gpus(1), sources=[given])
    rig.gpu.gpm, rig.gpu.instances = {}, [big, small]
    return Node(rig, given, big, small)


def test_an_instance_is_given_by_its_own_uuid_and_the_rest_of_the_board_is_free(node: Node) -> None:
    node.given.uuids = {"slurm:1": (node.big.uuid,)}
    assert node.states() == {"big": State.RESERVED, "small": State.FREE, "rest": State.FREE}
    assert node.owners() == {("slurm:1", node.big.uuid): 3_000}


def test_who_was_given_the_whole_board_was_given_all_that_it_is_divided_into(node: Node) -> None:
    node.given.uuids = {"slurm:1": (node.rig.gpu.uuid,)}
    assert node.states() == {"big": State.RESERVED, "small": State.RESERVED, "rest": State.RESERVED}
    assert node.owners() == {
        ("slurm:1", node.big.uuid): 3_000,
        ("slurm:1", node.small.uuid): 1_000,
        ("slurm:1", None): 3_000,
    }


def test_an_instance_that_was_given_by_itself_is_not_the_boards_owner_s(node: Node) -> None:
    node.given.uuids = {"slurm:1": (node.rig.gpu.uuid,), "slurm:2": (node.small.uuid,)}
    node.states()
    assert node.owners() == {
        ("slurm:1", node.big.uuid): 3_000,
        ("slurm:2", node.small.uuid): 1_000,
        ("slurm:1", None): 3_000,
    }


def test_whoever_holds_a_given_instance_holds_it(node: Node) -> None:
    node.given.uuids = {"slurm:1": (node.big.uuid, node.small.uuid)}
    node.big.processes, node.big.memory_used_bytes = [(4100, 1 << 30)], 1 << 30
    assert node.states() == {"big": State.HELD, "small": State.RESERVED, "rest": State.FREE}


def test_an_instance_that_may_have_been_given_is_free(node: Node) -> None:
    node.given.is_whole = False
    assert node.states() == {"big": State.FREE, "small": State.FREE, "rest": State.FREE}
    seen = node.rig.agent.view.gpus[0].seen
    assert [one.seen.is_allocated for one in seen.instances or ()] == [None, None]
