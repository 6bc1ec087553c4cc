# SPDX-License-Identifier: Apache-2.0
"""The metrics contract: every family, its unit, labels and help; docs and dashboards are checked against it."""

from __future__ import annotations

from gpuledger.agent_families import AGENT_ITSELF
from gpuledger.collector_families import COLLECTOR
from gpuledger.family import Family, Kind
from gpuledger.gpu_families import GPU

__all__ = ["AGENT", "COLLECTOR", "FAMILIES", "Family", "Kind"]

AGENT: tuple[Family, ...] = (*GPU, *AGENT_ITSELF)
"""What an agent exposes."""

FAMILIES: dict[str, Family] = {family.name: family for family in (*AGENT, *COLLECTOR)}
