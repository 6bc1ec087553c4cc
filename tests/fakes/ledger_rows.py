# SPDX-License-Identifier: Apache-2.0
"""Ledger rows by the minute, and a small fleet of two weeks whose every figure can be worked out by hand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from gpuledger.accounting import Account
from gpuledger.cells import DAY_MS, HOUR_MS, SLICES_PER_GPU
from gpuledger.states import ACTIVITY_EDGES_PPM, State
from gpuledger_collector.ledger import Finding, HolderRow, HourRow

MINUTE_SLICE_MS = 60_000 * SLICES_PER_GPU
MONDAY_MS = 1_794_787_200_000
"""2026-11-16T00:00:00Z, the start of 2026-W47."""
H100 = "NVIDIA H100 80GB HBM3"

BUSY_BIN = 6
"""Activity over 50 up to 75 %."""
HELD_BIN = 1
"""Activity over 0 up to 1 %."""


def hour_row(
    hour_ms: int,
    node: str,
    gpu: str,
    minutes: Mapping[State, int],
    *,
    site: str = "north",
    model: str | None = H100,
    simulated: bool = False,
    declared_minutes: int = 0,
    interval_ms: int = 1000,
    source: str = "gpm",
) -> HourRow:
    """Return one GPU-hour; busy time is at 60 % activity, held time at none worth naming."""
    busy, held = minutes.get(State.BUSY, 0), minutes.get(State.HELD, 0)
    bins = [0] * len(ACTIVITY_EDGES_PPM)
    bins[BUSY_BIN], bins[HELD_BIN] = busy * MINUTE_SLICE_MS, held * MINUTE_SLICE_MS
    uncovered = {State.DARK, State.STANDBY, State.MAINTENANCE}
    seen = sum(amount for state, amount in minutes.items() if state not in uncovered)
    return HourRow(
        hour_ms=hour_ms,
        gpu=gpu,
        serial=None,
        model=model,
        site=site,
        cluster="unknown",
        pool="unknown",
        node=node,
        simulated=simulated and seen > 0,
        account=Account(
            state_slice_ms={state: amount * MINUTE_SLICE_MS for state, amount in minutes.items() if amount > 0},
            bin_slice_ms=tuple(bins),
            active_ns=busy * 60 * 600_000_000 if seen > 0 else None,
            declared_uncovered_slice_ms=declared_minutes * MINUTE_SLICE_MS,
        ),
        active_known_ms=seen * 60_000,
        intervals_ms=(interval_ms,) if seen > 0 else (),
        activity_sources=(source,) if seen > 0 else (),
    )


def holder_row(hour: HourRow, workload: str, user: str | None, memory_bytes: int | None = 70 << 30) -> HolderRow:
    """Return who had all busy and held time of a row."""
    return HolderRow(
        hour_ms=hour.hour_ms,
        gpu=hour.gpu,
        node=hour.node,
        workload=workload,
        user=user,
        busy_slice_ms=hour.account.slice_ms(State.BUSY),
        held_slice_ms=hour.account.slice_ms(State.HELD),
        memory_bytes_max=memory_bytes,
    )


ALICE, BOB = "a1" * 32, "b0" * 32
TRAIN, NOTEBOOK, SERVE = "71" * 32, "42" * 32, "5e" * 32
OPENINGS = {ALICE: "alice", TRAIN: "train.py", SERVE: "vllm"}
"""Bob and his notebook stay digests."""


def two_weeks(*, simulated: bool = False) -> tuple[list[HourRow], list[HolderRow], list[Finding]]:
    """Return 2026-W46 and W47 of five nodes with eight GPUs each, at two sites.

    train-1: busy 54, held 6 minutes of each hour (alice). serve-1: busy 30, free 30 (alice); held-1: held (bob).
    free-1: free. south-1: free; in W47 dark from Friday 12:00 on; its GPU 3 down from Wednesday on.
    """
    hours: list[HourRow] = []
    holders: list[HolderRow] = []
    for hour_ms in range(MONDAY_MS - 7 * DAY_MS, MONDAY_MS + 7 * DAY_MS, HOUR_MS):
        for node, index, minutes in _fleet_hour(hour_ms):
            site = "south" if node.startswith("south") else "north"
            row = hour_row(hour_ms, node, f"GPU-{node}-{index}", minutes, site=site, simulated=simulated)
            hours.append(row)
            holder = {"train-1": (TRAIN, ALICE), "serve-1": (SERVE, ALICE), "held-1": (NOTEBOOK, BOB)}.get(node)
            if holder is not None:
                holders.append(holder_row(row, *holder))
    text = "south-1 claims GPU-free-1-0, which the roster has at free-1; the claim does not count"
    findings = [
        Finding(at_ms=MONDAY_MS + hour * HOUR_MS, kind="foreign_claim", subject="GPU-free-1-0", text=text)
        for hour in (5, 6, 7)
    ]
    return hours, holders, findings


def _fleet_hour(hour_ms: int) -> Iterator[tuple[str, int, Mapping[State, int]]]:
    friday_noon_ms = MONDAY_MS + 4 * DAY_MS + 12 * HOUR_MS
    wednesday_ms = MONDAY_MS + 2 * DAY_MS
    for index in range(8):
        yield "train-1", index, {State.BUSY: 54, State.HELD: 6}
        yield "serve-1", index, {State.BUSY: 30, State.FREE: 30}
        yield "held-1", index, {State.HELD: 60}
        yield "free-1", index, {State.FREE: 60}
        if hour_ms >= friday_noon_ms:
            yield "south-1", index, {State.DARK: 60}
        elif index == 3 and hour_ms >= wednesday_ms:
            yield "south-1", index, {State.DOWN: 60}
        else:
            yield "south-1", index, {State.FREE: 60}
