# SPDX-License-Identifier: Apache-2.0
"""All dashboards, in the order in which people want them."""

from __future__ import annotations

from dashboards.source.fleet import FLEET
from dashboards.source.health import HEALTH
from dashboards.source.idle import IDLE_CAPACITY
from dashboards.source.node import NODE
from dashboards.source.workloads import WORKLOADS

DASHBOARDS = (FLEET, IDLE_CAPACITY, NODE, WORKLOADS, HEALTH)
