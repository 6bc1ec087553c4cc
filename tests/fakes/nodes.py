# SPDX-License-Identifier: Apache-2.0
"""Nodes that seal what they could have seen of the true lives of their GPUs."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from random import Random

from gpuledger.cells import CELL_MS, SLICES_PER_GPU
from gpuledger.gpu_time import GpuTime
from gpuledger.reading import GENESIS, Reading, decode, decode_workloads, digest, encode, encode_workloads
from gpuledger.states import ACTIVITY_EDGES_PPM, State, Uncovered, activity_bin
from gpuledger.workload_time import WorkloadTime
from gpuledger_collector.ledger import Accepted

HOUR_EDGE_MS = 1_795_446_000_000
NAMES = ("alpha", "beta", "gamma")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What kind of fleet to grow; each flag lets one kind of trouble in."""

    seed: int
    nodes: int = 1
    gpus: int = 1
    cells: int = 1
    edge_ms: int = HOUR_EDGE_MS
    is_declared: bool = True
    has_moves: bool = False
    has_retirements: bool = False
    has_strangers: bool = False
    has_windows: bool = False
    has_holes: bool = False
    has_restarts: bool = False
    has_clock_steps: bool = False
    has_foreign_claims: bool = False
    has_equivocation: bool = False
    has_overlaps: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A stretch of one GPU's true life."""

    start_ms: int
    end_ms: int
    state: State
    activity_ppm: int
    memory_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Stint:
    """Where a GPU physically was."""

    node: str
    start_ms: int
    end_ms: int


def accept(reading: Reading, workloads: Sequence[WorkloadTime] | None) -> Accepted:
    """Return the reading as the log would hold it, after a round trip through its bytes."""
    blob = None if workloads is None else encode_workloads(workloads)
    data = encode(replace(reading, workloads_digest=None if blob is None else digest(blob)))
    decoded = decode(data)
    parts = () if blob is None else decode_workloads(blob, decoded)
    return Accepted(digest=hashlib.sha256(data).hexdigest(), reading=decoded, workloads=parts)


def overlaps(segments: Sequence[Segment], start_ms: int, end_ms: int) -> list[Segment]:
    """Return the parts of the segments that lie in [start_ms, end_ms)."""
    return [
        replace(part, start_ms=max(part.start_ms, start_ms), end_ms=min(part.end_ms, end_ms))
        for part in segments
        if part.start_ms < end_ms and start_ms < part.end_ms
    ]


def some_time(rng: Random, start_ms: int, end_ms: int) -> int:
    """Return a time in [start_ms, end_ms], often on a cell edge or next to one."""
    time_ms = rng.randint(start_ms, end_ms)
    if rng.random() < 0.5:
        time_ms += CELL_MS // 2 - (time_ms + CELL_MS // 2) % CELL_MS + rng.choice((-1, 0, 0, 1))
    return min(max(time_ms, start_ms), end_ms)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Span:
    """What one reading is to cover: [start_ms, end_ms) by its own clock, which is `offset_ms` ahead of the truth."""

    session: str
    start_ms: int
    end_ms: int
    offset_ms: int


@dataclass(slots=True, kw_only=True)
class Sealer:
    """Seals what a node could have seen of the truth."""

    plan: Plan
    rng: Random
    truth: dict[str, tuple[Segment, ...]]
    stints: dict[str, tuple[Stint, ...]]
    _odometer_mj: int = 1

    def seal_node(self, node: str, start_ms: int, end_ms: int) -> list[Accepted]:
        sealed: list[Accepted] = []
        spans = self._walk(node, start_ms, end_ms)
        for sequence, span in enumerate(spans, start=1):
            gpus = [self._observe(uuid, node, span) for uuid in self.truth if self._is_at(uuid, node, span)]
            if self.plan.has_foreign_claims:
                others = [uuid for uuid in self.truth if not self._is_at(uuid, node, span)]
                gpus += [self._observe(uuid, None, span) for uuid in others if self.rng.random() < 0.4]
            sealed.append(self._seal(node, span, sequence, gpus))
            if self.plan.has_equivocation and self.rng.random() < 0.2:
                sealed.append(self._seal_again(sealed[-1], self.rng.choice(spans)))
        return sealed

    def _walk(self, node: str, start_ms: int, end_ms: int) -> list[_Span]:
        """Cut a node's time into readings; restarts and clock steps begin a session, and may lose time."""
        rng, spans, session, offset_ms = self.rng, [], 1, 0
        while start_ms < end_ms:
            edge_ms = start_ms - start_ms % CELL_MS + CELL_MS
            until_ms = edge_ms
            if self.plan.has_restarts and rng.random() < 0.4:
                until_ms = some_time(rng, start_ms + 1, edge_ms)
            name = f"{node}/{session}"
            spans.append(_Span(session=name, start_ms=start_ms, end_ms=until_ms, offset_ms=offset_ms))
            if self.plan.has_overlaps and rng.random() < 0.2:
                early_ms = rng.randint(start_ms - start_ms % CELL_MS, until_ms - 1)
                late_ms = rng.randint(early_ms + 1, edge_ms)
                spans.append(_Span(session=f"{name}-beside", start_ms=early_ms, end_ms=late_ms, offset_ms=offset_ms))
            start_ms = until_ms
            if self.plan.has_restarts and rng.random() < 0.3:
                session += 1
                start_ms = some_time(rng, start_ms, start_ms + 2 * CELL_MS)
            if self.plan.has_clock_steps and rng.random() < 0.3:
                session += 1
                # Back: the time until the last sealed end is not sealed again. Forth: what is skipped is nobody's.
                step_ms = rng.choice((-3_600_000, -1500, 1001, CELL_MS))
                offset_ms += step_ms
                start_ms += max(0, step_ms)
        return spans

    def _is_at(self, uuid: str, node: str, span: _Span) -> bool:
        return any(
            stint.node == node and stint.start_ms < span.end_ms and span.start_ms < stint.end_ms
            for stint in self.stints[uuid]
        )

    def _observe(self, uuid: str, node: str | None, span: _Span) -> GpuTime:
        """Return what `node` sees of the GPU: the truth where it is there, less holes. None sees it all (a lie)."""
        rng = self.rng
        here = [(stint.start_ms, stint.end_ms) for stint in self.stints[uuid] if node in {None, stint.node}]
        hole_ms = (0, 0)
        if self.plan.has_holes and rng.random() < 0.5:
            first_ms = some_time(rng, span.start_ms, span.end_ms)
            hole_ms = (first_ms, some_time(rng, first_ms, span.end_ms))
        is_blind = rng.random() < 0.5
        view = _View(span_ms=span.end_ms - span.start_ms)
        for low_ms, high_ms in here:
            for from_ms, to_ms in ((low_ms, min(high_ms, hole_ms[0])), (max(low_ms, hole_ms[1]), high_ms)):
                view.see(self._cut(uuid, max(from_ms, span.start_ms), min(to_ms, span.end_ms), span.offset_ms))
            if is_blind:
                # Seen, but not clearly enough to say what it was.
                view.see_dimly(max(low_ms, hole_ms[0], span.start_ms), min(high_ms, hole_ms[1], span.end_ms))
        energy_mj = {state.value: rng.randint(0, 9) for state in view.states}
        start_mj, self._odometer_mj = self._odometer_mj, self._odometer_mj + sum(energy_mj.values())
        return GpuTime(
            uuid=uuid,
            serial=f"serial-of-{uuid}",
            index=rng.choice((None, 0, 3)),
            model=rng.choice((None, "NVIDIA H100 80GB HBM3")),
            state_slice_ms=view.states,
            uncovered_slice_ms=view.uncovered(rng.choice(list(Uncovered))),
            bin_slice_ms=tuple(view.bins),
            active_ns=view.active_ns,
            active_known_ms=view.known_ms,
            activity_source=rng.choice((None, "gpm", "polled")),
            energy_mj=energy_mj,
            energy_start_mj=start_mj,
            energy_end_mj=self._odometer_mj,
            memory_used_bytes_max=view.memory_bytes,
            hang_suspicion_ms=rng.randint(0, view.states.get(State.UNMEASURED, 0) // SLICES_PER_GPU),
        )

    def _cut(self, uuid: str, start_ms: int, end_ms: int, offset_ms: int) -> list[Segment]:
        """Return the truth over a span; before and after the known life a GPU is taken to be free."""
        if start_ms >= end_ms:
            return []
        found = overlaps(self.truth[uuid], start_ms - offset_ms, end_ms - offset_ms)
        missing_ms = end_ms - start_ms - sum(part.end_ms - part.start_ms for part in found)
        if missing_ms > 0:
            found.append(Segment(start_ms=0, end_ms=missing_ms, state=State.FREE, activity_ppm=0, memory_bytes=0))
        return found

    def _seal(self, node: str, span: _Span, sequence: int, gpus: list[GpuTime]) -> Accepted:
        reading = Reading(
            node_id=hashlib.sha256(node.encode()).hexdigest(),
            node_name=node,
            session=span.session,
            sequence=sequence,
            boot_id="boot",
            start_ms=span.start_ms,
            end_ms=span.end_ms,
            wall_start_ms=span.start_ms,
            wall_end_ms=span.end_ms,
            interval_ms=self.rng.choice((1000, 1000, 5000)),
            agent_version="0.1.0",
            configuration_digest="configuration",
            previous=GENESIS,
            simulated=self.rng.random() < 0.1,
            gpus=tuple(gpus),
        )
        return accept(reading, self._workloads(gpus) if self.rng.random() < 0.9 else None)

    def _seal_again(self, accepted: Accepted, elsewhere: _Span) -> Accepted:
        """Return a reading with the same name and other bytes: another span, fewer GPUs, or only a detail."""
        reading, kind = accepted.reading, self.rng.choice(("elsewhere", "fewer", "detail"))
        if kind == "elsewhere":
            gpus = [self._observe(gpu.uuid, None, elsewhere) for gpu in reading.gpus]
            again = self._seal(reading.node_name, replace(elsewhere, session=reading.session), reading.sequence, gpus)
            return again if again.digest != accepted.digest else accepted
        gpus = list(reading.gpus)[:-1] if kind == "fewer" else list(reading.gpus)
        return accept(replace(reading, agent_version="0.1.1", gpus=tuple(gpus)), None)

    def _workloads(self, gpus: Sequence[GpuTime]) -> list[WorkloadTime]:
        parts = []
        for gpu in gpus:
            names = self.rng.sample(NAMES, self.rng.randint(1, len(NAMES)))
            left = {state: gpu.state_slice_ms.get(state, 0) for state in (State.BUSY, State.HELD)}
            for position, name in enumerate(names):
                is_last = position == len(names) - 1
                shares = {state: amount if is_last else self.rng.randint(0, amount) for state, amount in left.items()}
                left = {state: left[state] - shares[state] for state in left}
                parts.append(
                    WorkloadTime(
                        workload=name,
                        user=self.rng.choice((None, "someone")),
                        uuid=gpu.uuid,
                        state_slice_ms={state: share for state, share in shares.items() if share > 0},
                        memory_bytes_max=self.rng.choice((None, 0, 5)),
                    )
                )
        return parts


@dataclass(slots=True, kw_only=True)
class _View:
    """Adds up what was seen of one GPU in one span."""

    span_ms: int
    states: dict[State, int] = field(default_factory=dict)
    bins: list[int] = field(default_factory=lambda: [0] * len(ACTIVITY_EDGES_PPM))
    active_ns: int | None = None
    known_ms: int = 0
    memory_bytes: int | None = None

    def see(self, parts: Sequence[Segment]) -> None:
        for part in parts:
            time_ms = part.end_ms - part.start_ms
            self.states[part.state] = self.states.get(part.state, 0) + time_ms * SLICES_PER_GPU
            if part.state in {State.BUSY, State.HELD}:
                self.bins[activity_bin(part.activity_ppm)] += time_ms * SLICES_PER_GPU
            self.active_ns = part.activity_ppm * time_ms + (0 if self.active_ns is None else self.active_ns)
            self.known_ms += time_ms
            most = part.memory_bytes if self.memory_bytes is None else max(self.memory_bytes, part.memory_bytes)
            self.memory_bytes = most

    def see_dimly(self, start_ms: int, end_ms: int) -> None:
        if start_ms < end_ms:
            amount = (end_ms - start_ms) * SLICES_PER_GPU
            self.states[State.UNMEASURED] = self.states.get(State.UNMEASURED, 0) + amount

    def uncovered(self, reason: Uncovered) -> dict[Uncovered, int]:
        missing = self.span_ms * SLICES_PER_GPU - sum(self.states.values())
        return {reason: missing} if missing > 0 else {}
