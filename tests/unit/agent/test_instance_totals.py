# SPDX-License-Identifier: Apache-2.0
"""Counters of GPU instances: a GPU that does not answer for a moment does not begin them anew."""

from __future__ import annotations

import pytest

from gpuledger.states import State, Uncovered
from gpuledger_agent.meter import Meter
from gpuledger_agent.snapshot import GpuSnapshot, Health, InstanceIdentity, InstanceSnapshot
from gpuledger_agent.tally import Tally

IDENTITY = InstanceIdentity(uuid="MIG-1", instance=1, profile="3g.40gb", slices=3, memory_total_bytes=40 << 30)
DIVIDED = GpuSnapshot(
    holders=(),
    health=Health.CLEAN,
    is_divided=True,
    instances=(InstanceSnapshot(identity=IDENTITY, seen=GpuSnapshot(holders=(), health=Health.CLEAN)),),
)


@pytest.mark.parametrize(
    "moment", [GpuSnapshot(uncovered=Uncovered.CALLS_FAILED), GpuSnapshot(health=Health.LOST)], ids=["silent", "lost"]
)
def test_an_instance_counts_on_after_a_tick_in_which_its_gpu_did_not_answer(moment: GpuSnapshot) -> None:
    totals: dict[str, Tally] = {}
    meter = Meter(1000, {}, totals)
    for second, seen in enumerate([DIVIDED, DIVIDED, moment, DIVIDED, DIVIDED]):
        meter.tick(second * 1000, {"GPU-1": seen})
    measured = totals["GPU-1"].instances[IDENTITY]
    # The two ticks between answers that follow each other, and the one after a loss, which is covered.
    assert measured.state_slice_ms[State.FREE] == 3000 * (3 if moment.health is Health.LOST else 2)


def test_an_instance_of_a_gpu_that_is_whole_again_is_no_longer_counted() -> None:
    totals: dict[str, Tally] = {}
    meter = Meter(1000, {}, totals)
    for second, seen in enumerate([DIVIDED, DIVIDED, GpuSnapshot(holders=(), health=Health.CLEAN)]):
        meter.tick(second * 1000, {"GPU-1": seen})
    assert totals["GPU-1"].instances == {}
