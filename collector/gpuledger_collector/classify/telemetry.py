# SPDX-License-Identifier: Apache-2.0
"""What the GPU's behaviour hints at: three hints and three suspicions, from sums of sealed features. Pure.

Weights are small on purpose: on real recordings no quotient of these told training from inference at a place it was not
fitted to (docs/features.md). A quotient without known time under it is absent and hints at nothing: a missing field is
never replaced by another, so which fields there are is no evidence.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum

from gpuledger.states import POWER_BANDS_PERCENT
from gpuledger_collector.classify.kinds import Item, Kind, Tier

SOLE_MS_MIN = 1_800_000
"""Less time that counts (over all GPUs) says nothing: half a GPU-hour."""
KNOWN_SHARE_MIN = 0.5
"""Of the time that counts, for which a quotient's base must have been known."""

SAWTOOTH_AN_HOUR_MIN = 2.0
HEARTBEAT_JUMPS_MIN = 60
HEARTBEAT_TOGETHER_MIN = 0.8
HEARTBEAT_TENSOR_SHARE_MIN = 0.3
DECODE_DRAM_TO_TENSOR_MIN = 4.0
DECODE_SM_MIN = 0.1
ALIKE_SHARE_MIN = 0.8
SPIN_SHARE_MIN = 0.5
BURN_POWER_SHARE_MIN = 0.95
BURN_ACTIVITY_MIN = 0.98
BURN_LINK_BYTES_A_SECOND_MAX = 1_000_000

HINT_WEIGHT = 0.5
"""Log-odds of a hint or a suspicion; all of them together are capped like one tier."""


class Suspicion(str, Enum):
    """Load that may not be work."""

    KEEP_ALIVE = "keep_alive"
    """GPUs whose activity is the same to half a point, all the time."""
    BUSY_WAIT = "busy_wait"
    """Activity without SM activity, at a quarter of the power limit."""
    BURN_IN = "burn_in"
    """Full power without anything on the links."""

    __hash__ = str.__hash__

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspected:
    """A suspicion with the GPU time that shows it."""

    suspicion: Suspicion
    gpu_ms: int


def hints(features: Mapping[str, int], suspected: Iterable[Suspected]) -> Iterator[Item]:
    """Yield the hints that the sums of a workload's features, and what is suspected of them, give."""
    get = features.get
    sole_ms = get("sole_ms", 0)
    if sole_ms < SOLE_MS_MIN:
        return
    swings = get("memory_swings", 0) * 3_600_000 / sole_ms
    if swings >= SAWTOOTH_AN_HOUR_MIN:
        yield _item(Kind.TRAINING, "memory-sawtooth", f"{swings:.1f} swings of memory an hour and GPU")
    known_ms, sm_ns, tensor_ns = get("engines_known_ms", 0), get("sm_ns", 0), get("tensor_ns", 0)
    if known_ms >= KNOWN_SHARE_MIN * sole_ms:
        jumps, together = get("power_jumps", 0), get("power_jumps_together", 0)
        is_together = jumps >= HEARTBEAT_JUMPS_MIN and together >= HEARTBEAT_TOGETHER_MIN * jumps
        has_peers = get("peers_ms", 0) >= KNOWN_SHARE_MIN * sole_ms
        if is_together and has_peers and tensor_ns >= HEARTBEAT_TENSOR_SHARE_MIN * sm_ns > 0:
            shares = f"{together / jumps:.0%} of its jumps of power together, tensor : SM {tensor_ns / sm_ns:.2f}"
            yield _item(Kind.TRAINING, "heartbeat", shares)
        is_working = sm_ns >= DECODE_SM_MIN * known_ms * 1_000_000
        if is_working and 0 < tensor_ns * DECODE_DRAM_TO_TENSOR_MIN <= get("dram_ns", 0):
            yield _item(Kind.INFERENCE, "decode", f"DRAM : tensor {get('dram_ns', 0) / tensor_ns:.1f}")
    for found in suspected:
        if found.suspicion is not Suspicion.BUSY_WAIT:
            hours = f"{found.gpu_ms / 3_600_000:.1f} GPU-hours"
            yield _item(Kind.SYNTHETIC, found.suspicion.value.replace("_", "-"), hours)


def suspicions(features: Mapping[str, int]) -> Iterator[Suspected]:
    """Yield what load is suspected not to be work, scored in GPU time."""
    get = features.get
    sole_ms = get("sole_ms", 0)
    if sole_ms < SOLE_MS_MIN:
        return
    peers_ms, alike_ms, spin_ms = get("peers_ms", 0), get("alike_ms", 0), get("spin_ms", 0)
    if peers_ms >= KNOWN_SHARE_MIN * sole_ms and alike_ms >= ALIKE_SHARE_MIN * peers_ms:
        yield Suspected(suspicion=Suspicion.KEEP_ALIVE, gpu_ms=alike_ms)
    if spin_ms >= SPIN_SHARE_MIN * sole_ms:
        yield Suspected(suspicion=Suspicion.BUSY_WAIT, gpu_ms=spin_ms)
    banded_ms = sum(get(f"power_{percent}_ms", 0) for percent in POWER_BANDS_PERCENT)
    full_ms, links_ms = get("power_80_ms", 0), get("links_known_ms", 0)
    if banded_ms < KNOWN_SHARE_MIN * sole_ms or links_ms < KNOWN_SHARE_MIN * sole_ms:
        return
    moved = get("pcie_bytes", 0) + get("nvlink_bytes", 0)
    is_quiet = moved * 1000 <= BURN_LINK_BYTES_A_SECOND_MAX * links_ms
    is_active = get("active_ns", 0) >= BURN_ACTIVITY_MIN * sole_ms * 1_000_000
    if is_quiet and is_active and full_ms >= BURN_POWER_SHARE_MIN * banded_ms:
        yield Suspected(suspicion=Suspicion.BURN_IN, gpu_ms=full_ms)


def _item(kind: Kind, name: str, detail: str) -> Item:
    return Item(Tier.TELEMETRY, kind, HINT_WEIGHT, f"telemetry-{name}", 1.0, detail)
