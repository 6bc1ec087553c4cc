# SPDX-License-Identifier: Apache-2.0
"""Random streams of what an agent sees, tick by tick: jitter, gaps of every length, failures, falling counters."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

from hypothesis import strategies as st

from gpuledger.cells import CELL_MS
from gpuledger.states import Uncovered
from gpuledger_agent.snapshot import GpuSnapshot, Growth, Health, Holder, InstanceIdentity, InstanceSnapshot

EDGE_MS = 1_795_446_000_000

ACTIVITIES_PPM = (None, 0, 0, 1, 10_000, 10_001, 49_999, 50_000, 50_001, 100_000, 500_000, 700_000, 700_001, 1_000_000)
HOLDERS = (
    Holder(workload="alpha", user="ada", memory_bytes=5),
    Holder(workload="beta", user=None, memory_bytes=None),
    Holder(workload="burn", user="root", memory_bytes=0, is_operator=True),
    Holder(workload="gamma", user="ada", memory_bytes=2**36),
)
TENANT = Holder(workload="machine", user=None, memory_bytes=None, source="virtual_machine")


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamPlan:
    """What kind of stream to make; each flag lets one kind of trouble in."""

    seed: int
    interval_ms: int = 1000
    ticks: int = 2
    gpus: int = 1
    has_gaps: bool = False
    has_unknowns: bool = False
    has_failures: bool = False
    has_absences: bool = False
    has_falls: bool = False
    has_division: bool = False
    is_steady: bool = False
    """What is seen seldom changes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """Ticks of one session: (edge in POSIX ms, snapshots by UUID)."""

    interval_ms: int
    ticks: tuple[tuple[int, dict[str, GpuSnapshot]], ...]


@dataclass(slots=True)
class _Board:
    """One GPU between ticks."""

    snapshot: GpuSnapshot
    odometer_mj: int
    is_divided: bool = False
    instances: list[InstanceSnapshot] = field(default_factory=list)
    made: int = 0
    is_present: bool = True
    throttle_read_ms: int | None = None


@dataclass(slots=True)
class _Maker:
    plan: StreamPlan
    rng: Random
    boards: dict[str, _Board] = field(default_factory=dict)

    def step_ms(self) -> int:
        interval_ms, rng = self.plan.interval_ms, self.rng
        if not self.plan.has_gaps or rng.random() < 0.7:
            return max(1, interval_ms + rng.choice((0, 0, 0, 1, -1, rng.randint(-interval_ms // 2, interval_ms // 2))))
        steps = (0, 2, 2, 3, 7, 29, 30, 30, 31, 100, 700)
        return max(0, rng.choice(steps) * interval_ms + rng.choice((-1, 0, 0, 1)))

    def see(self, uuid: str, edge_ms: int) -> GpuSnapshot | None:
        """Return what one tick sees of a GPU; None where the caller does not speak of it."""
        plan, rng = self.plan, self.rng
        board = self.boards.setdefault(uuid, _Board(self.look(), rng.randint(0, 10**9)))
        if plan.has_absences and rng.random() < 0.15:
            return None
        if not plan.is_steady or rng.random() < 0.1:
            board.snapshot = self.look()
        board.odometer_mj += rng.choice((0, 1, 7, 70_000, 700_000, rng.randint(0, 10**6)))
        if plan.has_falls and rng.random() < 0.1:
            board.odometer_mj = rng.choice((0, board.odometer_mj // 2))
        errors = {"xids": ((rng.choice((13, 79)), None),) * rng.choice((0, 0, 0, 1, 2))}
        if plan.has_failures and rng.random() < 0.15:
            return GpuSnapshot(uncovered=rng.choice(list(Uncovered)), xids=errors["xids"])
        is_known = not plan.has_unknowns or rng.random() < 0.8
        snapshot = replace(
            board.snapshot,
            energy_mj=board.odometer_mj if is_known else None,
            xids=errors["xids"],
            ecc_errors={"corrected": rng.randint(1, 9)} if rng.random() < 0.1 else {},
            throttled=self.throttled(board, edge_ms),
        )
        return self.divide(uuid, board, snapshot) if plan.has_division else snapshot

    def throttled(self, board: _Board, edge_ms: int) -> dict[str, Growth]:
        """Return what a counter grew by since it was last read, in ticks that read it."""
        if self.rng.random() < 0.6 or board.throttle_read_ms == edge_ms:
            return {}
        since_ms, board.throttle_read_ms = board.throttle_read_ms, edge_ms
        if since_ms is None:
            return {}
        amount = (edge_ms - since_ms) * self.rng.choice((0, 1, 333_333, 1_000_000))
        return {"sw_power_cap": Growth(since_ms=since_ms, amount=amount)}

    def divide(self, uuid: str, board: _Board, snapshot: GpuSnapshot) -> GpuSnapshot:
        """Return what one tick sees of a GPU that may be divided, while its instances come and go."""
        rng = self.rng
        if rng.random() < 0.1:
            board.is_divided, board.instances = not board.is_divided, []
        if not board.is_divided:
            return snapshot
        # What the board says of itself is of no activity; rarely is a process where no instance is.
        snapshot = replace(
            snapshot,
            is_divided=True,
            activity_ppm=None,
            activity_source=None,
            sm_active_ppm=None,
            tensor_active_ppm=None,
            dram_active_ppm=None,
            holders=snapshot.holders if rng.random() < 0.1 else (),
        )
        if self.plan.has_unknowns and rng.random() < 0.1:
            return replace(snapshot, instances=None)
        board.instances = [one for one in board.instances if rng.random() < 0.9]
        while (room := 7 - sum(one.identity.slices for one in board.instances)) > 0 and rng.random() < 0.5:
            board.instances.append(self.make_instance(uuid, board, rng.randint(1, room)))
        board.instances = [
            one if self.plan.is_steady and rng.random() < 0.9 else self.see_instance(one, snapshot)
            for one in board.instances
        ]
        instances = [replace(one, seen=replace(one.seen, health=snapshot.health)) for one in board.instances]
        return replace(snapshot, instances=tuple(instances))

    def make_instance(self, uuid: str, board: _Board, slices: int) -> InstanceSnapshot:
        """Return a new instance; the driver's ids come again, and so may a UUID for another size."""
        board.made += 1
        taken = {one.identity.instance for one in board.instances}
        number = next(number for number in range(7) if number not in taken)
        again = self.rng.random() < 0.3
        name = f"MIG-{uuid}-{number}" if again else f"MIG-{uuid}-{number}-{board.made}"
        identity = InstanceIdentity(
            uuid=name, instance=number, profile=f"{slices}g", slices=slices, memory_total_bytes=slices << 33
        )
        return InstanceSnapshot(identity=identity, seen=GpuSnapshot(holders=()))

    def see_instance(self, one: InstanceSnapshot, board: GpuSnapshot) -> InstanceSnapshot:
        return replace(one, seen=replace(self.look(), health=board.health, rejected_values=0))

    def look(self) -> GpuSnapshot:
        plan, rng = self.plan, self.rng
        holders = tuple(holder for holder in HOLDERS if rng.random() < 0.3)
        health: Health | None = Health.CLEAN if rng.random() < 0.9 else rng.choice(list(Health))
        activity_ppm = rng.choice(ACTIVITIES_PPM)
        memory_bytes: int | None = rng.choice((0, 1, 2**36))
        is_allocated = rng.choice((None, True, False))
        snapshot = GpuSnapshot(
            activity_ppm=activity_ppm if plan.has_unknowns or activity_ppm is not None else 0,
            activity_source=rng.choice(("gpm", "polled")),
            sm_active_ppm=rng.choice((0, 9_999, 10_000, 500_000)),
            tensor_active_ppm=rng.choice((None, 0, 333_333)),
            dram_active_ppm=rng.choice((None, 1, 1_000_000)),
            holders=holders,
            is_allocated=is_allocated,
            # An allocation whose owner is not told is one all the same.
            allocated_to=tuple(holder for holder in HOLDERS if is_allocated is True and rng.random() < 0.6),
            health=health,
            memory_used_bytes=memory_bytes,
            rejected_values=rng.choice((0, 0, 1)),
            tenant=rng.choice((None, None, None, TENANT)),
        )
        if plan.has_unknowns and rng.random() < 0.4:
            unknown: dict[str, Any] = {
                rng.choice(("activity_ppm", "holders", "health", "memory_used_bytes", "sm_active_ppm")): None
            }
            snapshot = replace(snapshot, **unknown)
        return snapshot


def make(plan: StreamPlan) -> Stream:
    """Return the stream of the plan."""
    rng = Random(plan.seed)
    maker = _Maker(plan=plan, rng=rng)
    edge_ms = EDGE_MS - rng.choice((0, 1, plan.interval_ms, rng.randint(0, plan.ticks) * plan.interval_ms))
    ticks = []
    for _ in range(plan.ticks):
        views = {f"GPU-{index}": maker.see(f"GPU-{index}", edge_ms) for index in range(plan.gpus)}
        ticks.append((edge_ms, {uuid: seen for uuid, seen in views.items() if seen is not None}))
        edge_ms += maker.step_ms()
    return Stream(interval_ms=plan.interval_ms, ticks=tuple(ticks))


def streams(**fixed: object) -> st.SearchStrategy[Stream]:
    """Return streams of every kind, with the given attributes of their plans fixed."""
    free: dict[str, st.SearchStrategy[object]] = {
        "seed": st.integers(0, 2**32 - 1),
        "interval_ms": st.sampled_from([1000, 1000, 500, 5000, 60_000, CELL_MS]),
        "ticks": st.integers(1, 40),
        "gpus": st.integers(1, 3),
    }
    for name in StreamPlan.__dataclass_fields__:
        if name.startswith(("has_", "is_")):
            free[name] = st.booleans()
    return st.builds(StreamPlan, **free | {name: st.just(value) for name, value in fixed.items()}).map(make)
