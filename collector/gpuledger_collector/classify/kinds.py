# SPDX-License-Identifier: Apache-2.0
"""The kinds of workloads, the tiers of evidence, and how much each tier may say. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, IntEnum
from typing import NamedTuple


class Kind(str, Enum):
    """What a workload is for; the value is the name used in metrics, reports and labels."""

    TRAINING = "training"
    INFERENCE = "inference"
    SYNTHETIC = "synthetic"
    """Burn-in, benchmarks, loads that only keep a GPU warm."""
    OTHER = "other"
    """Computing that is neither: simulation, rendering."""
    UNCLASSIFIED = "unclassified"

    __hash__ = str.__hash__  # A kind equals its text, so it must hash as its text.

    def __str__(self) -> str:
        return self.value


KINDS: tuple[Kind, ...] = (Kind.TRAINING, Kind.INFERENCE, Kind.SYNTHETIC, Kind.OTHER)
"""Those that may be asserted; unclassified is the absence of all of them."""


class Tier(IntEnum):
    """Where evidence is from, the most telling first."""

    DECLARED = 1
    """Labels, what the scheduler was told, what made a pod."""
    PROCESS = 2
    """Which programs run."""
    ENVIRONMENT = 3
    """What programs run in."""
    TELEMETRY = 4
    """How the GPU behaves."""


CAPS: Mapping[Tier, float] = {Tier.DECLARED: 4.0, Tier.PROCESS: 3.0, Tier.ENVIRONMENT: 1.0, Tier.TELEMETRY: 0.6}
"""The most that all evidence of a tier says together for or against a kind, in log-odds; of telemetry as long as it is
not calibrated for the site."""


class Item(NamedTuple):
    """One piece of evidence: `weight` log-odds for `kind`, already scaled by `share`.

    `id` names the rule or hint, `share` is the share of the workload's known time in which it held (0 to 1), `detail`
    what else is to be said.
    """

    tier: Tier
    kind: Kind
    weight: float
    id: str
    share: float = 1.0
    detail: str = ""
