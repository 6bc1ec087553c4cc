# SPDX-License-Identifier: Apache-2.0
"""Features in the workloads blob: sealed, checked, recovered after a kill, and left out where there is no room."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from gpuledger.errors import ReadingError
from gpuledger.hints import RULE_ID_CHARACTERS_MAX, RULES_MAX, WORLD_SIZE_MAX, Hints
from gpuledger.hints import decode as decode_hints
from gpuledger.hints import encode as encode_hints
from gpuledger.reading import WORKLOADS_BYTES_MAX, decode_workloads, encode_workloads, sketch_workloads
from gpuledger.states import FEATURES, POWER_BANDS_PERCENT, State
from gpuledger.wire import INTEGER_MAX
from gpuledger.workload_time import WorkloadTime
from gpuledger_agent.drafts import WORKLOAD_PART_BYTES_MAX, fit_features
from tests.fakes.agents import Rig, records, sealed
from tests.fakes.nvml import gpus

GPM = {1: (0, 96.5), 2: (0, 80.0), 3: (0, 40.0), 5: (0, 40.0), 10: (0, 60.0), 20: (0, 100.0), 21: (0, 200.0)}


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    """Two GPUs of which one workload holds the first; a minute has passed."""
    rig = Rig(tmp_path, gpus(2))
    rig.gpu.work(97, 4100)
    rig.gpu.gpm = GPM
    rig.tick(61)
    return rig


def blobs(rig: Rig) -> list[tuple[WorkloadTime, ...]]:
    readings = sealed(rig.directory, rig.key.public_bytes)
    texts = [record["workloads"] for record in records(rig.directory)]
    return [decode_workloads(text.encode(), reading) for text, reading in zip(texts, readings, strict=True)]


def test_a_reading_says_how_its_workloads_behaved(rig: Rig) -> None:
    rig.agent.close()
    ((part,),) = blobs(rig)
    # The first tick covers nothing, the second only seeds GPM.
    assert part.features["sole_ms"] == 60_000
    known_ms = part.features["engines_known_ms"]
    assert known_ms == 60_000
    assert part.features["sm_ns"] == known_ms * 800_000
    assert part.features["dram_ns"] == known_ms * 600_000
    assert part.features["pcie_bytes"] == 300 * 2**20 * 60
    assert part.features["power_60_ms"] == 60_000
    assert "nvlink_bytes" not in part.features


def test_what_a_killed_agent_left_open_keeps_its_features(rig: Rig) -> None:
    rig.start()
    ((part,),) = blobs(rig)
    assert part.features["sole_ms"] == 60_000


def test_names_that_are_no_features_are_refused_and_so_is_what_is_no_amount() -> None:
    part = WorkloadTime(workload="w", user=None, uuid="GPU-1", state_slice_ms={State.BUSY: 7})
    with pytest.raises(ReadingError, match="features has an unknown key 'mood'"):
        encode_workloads([replace(part, features={"mood": 1})])
    with pytest.raises(ReadingError, match=r"features\.sole_ms is not a positive integer"):
        encode_workloads([replace(part, features={"sole_ms": -1})])


LARGEST_HINTS = Hints(
    rules=tuple(f"{number}{'x' * (RULE_ID_CHARACTERS_MAX - 1)}" for number in range(RULES_MAX)),
    listens=False,
    world_size=WORLD_SIZE_MAX,
    checkpoints=INTEGER_MAX,
    table="1000000+0123456789ab",
)


def parts(count: int, *, has_features: bool = True) -> tuple[WorkloadTime, ...]:
    """Entries as large as they can be; the first has the most time."""
    return tuple(
        WorkloadTime(
            workload=f"{number:064x}",
            user="e" * 64,
            uuid=f"GPU-{number:036}",
            state_slice_ms={State.BUSY: 10**12 - number, State.HELD: 10**12},
            memory_bytes_max=INTEGER_MAX,
            features=dict.fromkeys(FEATURES, INTEGER_MAX) if has_features else {},
        )
        for number in range(count)
    )


def test_no_entry_takes_more_than_its_share() -> None:
    states = dict.fromkeys((State.BUSY, State.HELD, State.RESERVED, State.UNMEASURED, State.OPERATOR), INTEGER_MAX)
    (part,) = parts(1)
    largest = replace(
        part,
        state_slice_ms=states,
        source="virtual_machine",
        instance_uuid="MIG-" + "0" * 36,
        hints=LARGEST_HINTS,
    )
    assert decode_hints(encode_hints(LARGEST_HINTS), "hints") == LARGEST_HINTS
    assert len(sketch_workloads([largest])) <= WORKLOAD_PART_BYTES_MAX


@pytest.mark.parametrize("count", [1, 36, 45, 60, 200])
def test_features_give_way_where_a_blob_would_be_too_large_those_of_the_least_time_first(count: int) -> None:
    fitted = fit_features(parts(count))
    encode_workloads(fitted)
    kept = [bool(part.features) for part in fitted]
    assert kept == sorted(kept, reverse=True)
    assert [replace(part, features={}) for part in fitted] == list(parts(count, has_features=False))
    if not all(kept):
        # One more would not have fitted.
        more = list(fitted)
        more[kept.index(False)] = parts(count)[kept.index(False)]
        assert len(sketch_workloads(more)) > WORKLOADS_BYTES_MAX
    else:
        assert count < 60


def test_hints_outlive_features_and_give_way_where_they_alone_are_too_much() -> None:
    hinted = tuple(replace(part, hints=LARGEST_HINTS) for part in parts(100))
    fitted = fit_features(hinted)
    encode_workloads(fitted)
    kept = [part.hints is not None for part in fitted]
    assert kept == sorted(kept, reverse=True)
    assert 0 < sum(kept) < len(kept)
    assert not any(part.features for part in fitted)
    (first, *_) = fit_features(hinted[:45])
    assert first.features
    assert all(part.hints is not None for part in fit_features(hinted[:45]))


def test_features_are_few_and_their_names_end_in_their_units() -> None:
    assert len(FEATURES) == len(set(FEATURES)) == 27
    counts = {"bursts", "power_jumps", "power_jumps_together", "power_swings", "memory_swings"}
    units = ("_ms", "_ns", "_bytes", "_mj", "_w2ms", "_ms2")
    assert [name for name in FEATURES if not name.endswith(units) and name not in counts] == []
    assert all(f"power_{percent}_ms" in FEATURES for percent in POWER_BANDS_PERCENT)
