# SPDX-License-Identifier: Apache-2.0
"""A GPU's part of a reading: instances, links and counts keep their laws, and have one form in bytes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from gpuledger.errors import ReadingError
from gpuledger.gpu_time import GpuTime, InstanceTime, check, decode, encode
from gpuledger.states import State, Uncovered

SPAN_MS = 1000
BINS = (0, 0, 0, 0, 0, 0, 0, 4000)
INSTANCE = InstanceTime(
    uuid="MIG-one",
    instance=1,
    profile="4g.40gb",
    slices=4,
    state_slice_ms={State.BUSY: 4000},
    bin_slice_ms=BINS,
    active_ns=900_000_000,
    active_known_ms=1000,
    engine_ns={"sm": 1},
    engine_known_ms={"sm": 1000},
    memory_total_bytes=40 << 30,
    memory_used_bytes_max=0,
)
GPU = GpuTime(
    uuid="GPU-one",
    state_slice_ms={State.BUSY: 4000, State.FREE: 3000},
    bin_slice_ms=BINS,
    active_ns=900_000_000 * 4 // 7,
    active_known_ms=572,
    link_bytes={"pcie_tx": 5},
    link_known_ms={"pcie_tx": 1000, "nvlink_rx": 1000},
    energy_mj={"mig": 300_000},
    xids={79: 1, 13: 4},
    ecc_errors={"corrected": 9},
    throttle_ms={"hw_thermal": 12},
    instances=(INSTANCE,),
)


def test_a_divided_gpu_decodes_to_itself() -> None:
    check(GPU, "gpu", SPAN_MS)
    assert decode(encode(GPU), "gpu") == GPU


def test_what_was_not_seen_takes_no_bytes() -> None:
    assert encode(GpuTime(uuid="GPU-one")) == {"uuid": "GPU-one"}


def instance(**changes: Any) -> GpuTime:
    return replace(GPU, instances=(replace(INSTANCE, **changes),))


@pytest.mark.parametrize(
    ("gpu", "named"),
    [
        (replace(GPU, instances=(INSTANCE, INSTANCE)), "twice"),
        (instance(slices=8), "slices"),
        (instance(slices=0, state_slice_ms={}, bin_slice_ms=(0,) * 8), "slices"),
        (instance(slices=3), "slices"),
        (instance(instance=256), "instance is more"),
        (instance(state_slice_ms={State.BUSY: 4000, State.HELD: 4}), "not the time of 4 slices"),
        (instance(state_slice_ms={State.BUSY: 3998}, bin_slice_ms=(0,) * 7 + (3998,)), "not the time of 4 slices"),
        (instance(bin_slice_ms=(0,) * 8), "bins sum"),
        (instance(active_ns=None), "active_ns"),
        (instance(engine_known_ms={"sm": 1001}), "engine_ns of sm"),
        (instance(state_slice_ms={State.FREE: 4000}, bin_slice_ms=(0,) * 8), "free: the instances have 4000"),
        (instance(state_slice_ms={}, uncovered_slice_ms={Uncovered.GAP: 4000}, bin_slice_ms=(0,) * 8), "gap"),
        (instance(bin_slice_ms=(4000, *(0,) * 7)), "bin 0"),
        (replace(GPU, link_bytes={"nvlink_tx": 1}), "nvlink_tx"),
        (replace(GPU, link_known_ms={"pcie_tx": 1001}), "pcie_tx"),
        (replace(GPU, throttle_ms={"hw_thermal": 1001}), "hw_thermal"),
    ],
)
def test_what_cannot_be_is_refused_by_name(gpu: GpuTime, named: str) -> None:
    with pytest.raises(ReadingError, match=named):
        check(gpu, "gpu", SPAN_MS)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("xids", {"0": 1}),
        ("xids", {"1000": 1}),
        ("xids", {"79": 0}),
        ("ecc_errors", {"odd": 1}),
        ("throttle_ms", {"idle": 1}),
        ("link_bytes", {"usb": 1}),
        ("energy_mj", {"dark": 1}),
        ("instances", []),
        ("instances", [{}] * 15),
        ("instances", {}),
    ],
)
def test_what_is_not_in_the_schema_is_refused(field: str, value: object) -> None:
    with pytest.raises(ReadingError, match=field):
        decode({**encode(GPU), field: value}, "gpu")
