# SPDX-License-Identifier: Apache-2.0
"""The ledger of a fleet is that of its shards put together, however the fleet is cut."""

from dataclasses import dataclass, replace

from hypothesis import given
from hypothesis import strategies as st

from gpuledger_collector.ledger import Accepted, build, build_parts
from gpuledger_collector.roster import Claim, Entry, Roster
from gpuledger_collector.shards import cut
from tests.fakes.fleets import Fleet, claims_of, fleets
from tests.profiles import examples


@dataclass(frozen=True)
class Item:
    """A reading, and where it would lie."""

    accepted: Accepted
    node_key: int

    @property
    def node(self) -> str:
        return self.accepted.reading.node_name


def items_of(fleet: Fleet) -> list[Item]:
    keys = sorted({accepted.reading.node_id for accepted in fleet.readings})
    return [Item(accepted, keys.index(accepted.reading.node_id)) for accepted in fleet.readings]


@examples(2)
@given(fleets(), st.integers(1, 12))
def test_any_fleet_in_shards_of_any_size_has_the_ledger_of_the_whole(fleet: Fleet, readings_max: int) -> None:
    shards = cut(items_of(fleet), fleet.roster, claims_of(fleet.readings), readings_max)
    parts = (([item.accepted for item in shard.readings], shard.roster) for shard in shards)
    assert build_parts(parts, fleet.start_ms, fleet.end_ms) == build(
        fleet.readings, fleet.roster, fleet.start_ms, fleet.end_ms
    )


def shards_of(roster: Roster, claims: list[Claim], readings_max: int = 1) -> list[list[str]]:
    nobody: list[Item] = []
    shards = cut(nobody, roster, claims, readings_max)
    return [sorted({entry.node for entry in shard.roster.entries}) for shard in shards]


def test_nodes_that_share_nothing_are_parted_and_those_with_one_gpu_are_not() -> None:
    entries = tuple(Entry(gpu=f"GPU-{node}", node=node, from_ms=0) for node in "abcd")
    roster = Roster(entries=entries)
    assert shards_of(roster, []) == [["a"], ["b"], ["c"], ["d"]]
    assert shards_of(roster, [], readings_max=3) == [["a", "b", "c"], ["d"]]
    moved = replace(roster, entries=(*entries, Entry(gpu="GPU-a", node="c", from_ms=300_000)))
    assert sorted(shards_of(moved, [])) == [["a", "c"], ["b"], ["d"]]
    claims = [Claim(gpu="GPU-b", node="d", first_ms=0)]
    assert sorted(shards_of(roster, claims)) == [["a"], ["b", "d"], ["c"]]


def test_a_gpu_that_the_roster_knows_by_its_serial_keeps_its_claimants_together() -> None:
    roster = Roster(
        entries=(Entry(gpu="serial:S1", node="a", from_ms=0, serial="S1"), Entry(gpu="x", node="b", from_ms=0))
    )
    claims = [Claim(gpu="GPU-1", node="b", first_ms=0, serial="S1")]
    assert shards_of(roster, claims) == [["a", "b"]]


def test_names_that_one_key_writes_under_stay_together() -> None:
    @dataclass(frozen=True)
    class Said:
        node: str
        node_key: int

    roster = Roster(entries=(Entry(gpu="GPU-a", node="a", from_ms=0), Entry(gpu="GPU-b", node="b", from_ms=0)))
    assert len(cut([Said("a", 1), Said("b", 2)], roster, [], 1)) == 2
    assert len(cut([Said("a", 1), Said("b", 1)], roster, [], 1)) == 1
