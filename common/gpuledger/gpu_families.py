# SPDX-License-Identifier: Apache-2.0
"""The families of a GPU, and of who works on it, as its agent exposes them.

Where a family has `instance_id` it is empty for an undivided GPU, and for what no instance of a divided one (MIG) has,
and else the instance's: so a sum over a `uuid` is the whole GPU's, once.
"""

from __future__ import annotations

from gpuledger.family import Family, Kind, family

_GPU = "GPUs"
_SHARE = "GPUs and instances"

GPU: tuple[Family, ...] = (
    family(
        "gpuledger_gpu_info",
        Kind.GAUGE,
        "uuid serial model index pci_bus_id",
        "Who a GPU is; always 1.",
        "the driver does not list the GPU",
        _GPU,
    ),
    family(
        "gpuledger_gpu_instance_info",
        Kind.GAUGE,
        "uuid instance_id instance_uuid profile slices",
        "What a GPU instance (MIG) is; always 1. instance_id is the driver's, which it uses again.",
        "the GPU is not divided, or into nothing",
        "instances",
    ),
    family(
        "gpuledger_gpu_state_seconds_total",
        Kind.COUNTER,
        "uuid instance_id state",
        "GPU time by observed state since the agent started; the states of a GPU grow by what was covered, once; an "
        "instance (MIG) counts by its slices.",
        "the driver does not list the GPU",
        "GPUs and instances x 7 states",
    ),
    family(
        "gpuledger_gpu_uncovered_seconds_total",
        Kind.COUNTER,
        "uuid instance_id reason",
        "GPU time the agent could not cover, by reason; part of no state.",
        "nothing was uncovered for that reason yet",
        "GPUs and instances x 7 reasons",
    ),
    family(
        "gpuledger_gpu_activity_seconds",
        Kind.HISTOGRAM,
        "uuid instance_id",
        "Busy and held time by activity (ratio 0..1, upper-closed); sum is engine-active seconds of that time.",
        "no activity was ever known",
        "GPUs and instances x 9 buckets",
    ),
    family(
        "gpuledger_gpu_active_seconds_total",
        Kind.COUNTER,
        "uuid instance_id",
        "Integral of engine activity over all time for which it was known; an instance counts by its slices.",
        "no activity was ever known",
        _SHARE,
    ),
    family(
        "gpuledger_gpu_sm_active_seconds_total",
        Kind.COUNTER,
        "uuid instance_id",
        "Integral of the share of streaming multiprocessors with a warp on them, by GPM.",
        "GPM never answered for it",
        _SHARE,
    ),
    family(
        "gpuledger_gpu_tensor_active_seconds_total",
        Kind.COUNTER,
        "uuid instance_id",
        "Integral of the share of time in which a tensor core worked, by GPM.",
        "GPM never answered for it",
        _SHARE,
    ),
    family(
        "gpuledger_gpu_dram_active_seconds_total",
        Kind.COUNTER,
        "uuid instance_id",
        "Integral of the share of the memory bandwidth in use, by GPM.",
        "GPM never answered for it",
        _SHARE,
    ),
    family(
        "gpuledger_gpu_pcie_transmit_bytes_total",
        Kind.COUNTER,
        "uuid",
        "Bytes from the GPU over PCIe, by GPM.",
        "GPM never answered for it",
        _GPU,
    ),
    family(
        "gpuledger_gpu_pcie_receive_bytes_total",
        Kind.COUNTER,
        "uuid",
        "Bytes to the GPU over PCIe, by GPM.",
        "GPM never answered for it",
        _GPU,
    ),
    family(
        "gpuledger_gpu_nvlink_transmit_bytes_total",
        Kind.COUNTER,
        "uuid",
        "Bytes from the GPU over NVLink, all links together, by GPM.",
        "GPM never answered for it",
        _GPU,
    ),
    family(
        "gpuledger_gpu_nvlink_receive_bytes_total",
        Kind.COUNTER,
        "uuid",
        "Bytes to the GPU over NVLink, all links together, by GPM.",
        "GPM never answered for it",
        _GPU,
    ),
    family(
        "gpuledger_gpu_energy_joules_total",
        Kind.COUNTER,
        "uuid state",
        "Energy of the board by the state it was spent in; state is mig while the board is divided, and uncovered "
        "where no state was covered.",
        "the board offers no energy counter",
        "GPUs x 9",
    ),
    family(
        "gpuledger_gpu_power_watts",
        Kind.GAUGE,
        "uuid",
        "Mean power of the board over the last tick, from its energy counter.",
        "there was no energy reading at both ends of the last tick",
        _GPU,
    ),
    family(
        "gpuledger_gpu_idle_floor_watts",
        Kind.GAUGE,
        "uuid kind",
        "Least mean power over 60 quiet ticks, learnt: kind is bare (no process) or parked (a process).",
        "it was not quiet for so long yet",
        "GPUs x 2",
    ),
    family(
        "gpuledger_gpu_memory_used_bytes",
        Kind.GAUGE,
        "uuid instance_id",
        "Memory in use, without what the driver reserves; of a divided GPU that of its instances.",
        "the last read failed or is not offered",
        _SHARE,
    ),
    family(
        "gpuledger_gpu_memory_total_bytes",
        Kind.GAUGE,
        "uuid instance_id",
        "Memory of the board; of a divided GPU that of its instances.",
        "the driver does not tell",
        _SHARE,
    ),
    family(
        "gpuledger_gpu_current_state",
        Kind.GAUGE,
        "uuid instance_id state",
        "The part of the GPU that was in this state in the last tick: 1, or an instance's slices of 7.",
        "the last tick covered no state",
        _SHARE,
    ),
    family(
        "gpuledger_gpu_hang_suspicion_seconds_total",
        Kind.COUNTER,
        "uuid",
        "Time in which a source claims over 70 % activity of idle SMs at idle power; never busy (docs/accounting.md).",
        "the driver does not list the GPU",
        _GPU,
    ),
    family(
        "gpuledger_gpu_rejected_values_total",
        Kind.COUNTER,
        "uuid",
        "Values outside the physical range that were not used.",
        "the driver does not list the GPU",
        _GPU,
    ),
)
"""What an agent exposes of its GPUs."""
