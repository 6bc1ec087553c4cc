# SPDX-License-Identifier: Apache-2.0
"""Where to push, how often, and how much at once: what the settings say, for whoever pushes."""

from __future__ import annotations

from dataclasses import dataclass

from gpuledger.credentials import Credentials


@dataclass(frozen=True, slots=True, kw_only=True)
class PushPlan:
    """Where to push, how often, and how much at once."""

    url: str
    credentials: Credentials
    interval_s: float = 30.0
    timeout_s: float = 30.0
    batch_readings: int = 192
    batch_bytes: int = 2 << 20
