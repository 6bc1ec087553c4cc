# SPDX-License-Identifier: Apache-2.0
"""A node on which something of everything has happened."""

from __future__ import annotations

import math
from pathlib import Path

from tests.fakes.agents import Rig
from tests.fakes.hangs import come_back, hang
from tests.fakes.nvml import LOST, NOT_LOADED, NOT_SUPPORTED, UNKNOWN, gpus, instance


def eventful_node(directory: Path) -> Rig:
    """A node on which something of everything has happened."""
    rig = Rig(directory, gpus(5))
    working, small = instance(1, 3, 4100), instance(9, 1, 4200)
    rig.nvml.gpus[4].gpm, rig.nvml.gpus[4].instances = {}, [working, None, instance(3, 2), small]
    rig.nvml.gpus[0].gpm = {1: (0, 0.0)}
    rig.nvml.gpus[2].gpm = {1: (0, 0.0), 2: (0, math.nan), 5: (UNKNOWN, 0.0)}
    rig.nvml.fails["nvmlInit"] = NOT_LOADED
    rig.agent.tick()
    rig.nvml.fails.clear()
    rig.tick(5)
    rig.nvml.gpus[0].work(97, 4100)
    rig.nvml.gpus[0].gpm = {1: (0, 96.5), 2: (0, 81.25), 3: (0, 40.0), 5: (0, 0.0), 10: (0, 33.0)}
    rig.nvml.gpus[0].gpm |= {20: (0, 96.0), 21: (0, 0.0), 60: (0, 88_000.5), 61: (0, 90_000.25)}
    rig.nvml.gpus[1].work(3, 4100, 4200, power_mw=115_000)
    rig.nvml.gpus[2].fails = {
        "nvmlDeviceGetTotalEnergyConsumption": NOT_SUPPORTED,
        "nvmlDeviceGetUtilizationRates": 999,
    }
    rig.tick(100)
    working.gpm = {1: (0, 64.0), 2: (0, 48.0), 5: (0, 32.0)}
    rig.nvml.gpus[4].instances = [working, small]
    rig.nvml.gpus[1].percent = 200
    rig.tick(3)
    rig.nvml.gpus[1].percent = 3
    rig.nvml.gpus[0].xids += [(31, None), (31, None), (94, None)]
    rig.nvml.gpus[0].ecc = {0: 17, 1: 0}
    rig.nvml.gpus[0].values = {74: (0, 2_500_000_000), 142: (0, 3), 143: (0, 0), 144: (0, 1), 145: (0, 0)}
    rig.tick(10)
    rig.nvml.gpus[0].ecc = {0: 20, 1: 1}
    rig.nvml.gpus[0].values[74] = 0, 7_000_000_000
    rig.tick(10)
    hang(rig, 3, "nvmlDeviceGetFieldValues")
    rig.tick(2)
    come_back(rig, 3, "nvmlDeviceGetFieldValues")
    rig.nvml.gpus[3].fails["*"] = LOST
    rig.tick(30)
    rig.clock.step_ms(5_000)
    rig.tick(20)
    return rig
