# SPDX-License-Identifier: Apache-2.0
"""The families of a GPU, and of who works on it, as its agent exposes them."""

from __future__ import annotations

from gpuledger.family import Family, Kind, family

_GPU = "GPUs"

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
        "gpuledger_gpu_state_seconds_total",
        Kind.COUNTER,
        "uuid state",
        "GPU time by observed state since the agent started; the states of a GPU grow by what was covered, once.",
        "the driver does not list the GPU",
        "GPUs x 7 states",
    ),
    family(
        "gpuledger_gpu_uncovered_seconds_total",
        Kind.COUNTER,
        "uuid reason",
        "GPU time the agent could not cover, by reason; part of no state.",
        "nothing was uncovered for that reason yet",
        "GPUs x 7 reasons",
    ),
    family(
        "gpuledger_gpu_activity_seconds",
        Kind.HISTOGRAM,
        "uuid",
        "Busy and held time by activity (ratio 0..1, upper-closed); sum is engine-active seconds of that time.",
        "no activity was ever known",
        "GPUs x 9 buckets",
    ),
    family(
        "gpuledger_gpu_active_seconds_total",
        Kind.COUNTER,
        "uuid",
        "Integral of engine activity over all time for which it was known.",
        "no activity was ever known",
        _GPU,
    ),
    family(
        "gpuledger_gpu_sm_active_seconds_total",
        Kind.COUNTER,
        "uuid",
        "Integral of the share of streaming multiprocessors with a warp on them, by GPM.",
        "GPM never answered for it",
        _GPU,
    ),
    family(
        "gpuledger_gpu_tensor_active_seconds_total",
        Kind.COUNTER,
        "uuid",
        "Integral of the share of time in which a tensor core worked, by GPM.",
        "GPM never answered for it",
        _GPU,
    ),
    family(
        "gpuledger_gpu_dram_active_seconds_total",
        Kind.COUNTER,
        "uuid",
        "Integral of the share of the memory bandwidth in use, by GPM.",
        "GPM never answered for it",
        _GPU,
    ),
    family(
        "gpuledger_gpu_energy_joules_total",
        Kind.COUNTER,
        "uuid state",
        "Energy of the board by the state it was spent in; state is uncovered where no state was covered.",
        "the board offers no energy counter",
        "GPUs x 8",
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
        "gpuledger_gpu_memory_used_bytes",
        Kind.GAUGE,
        "uuid",
        "Memory in use, without what the driver reserves.",
        "the last read failed or is not offered",
        _GPU,
    ),
    family(
        "gpuledger_gpu_memory_total_bytes",
        Kind.GAUGE,
        "uuid",
        "Memory of the board.",
        "the driver does not tell",
        _GPU,
    ),
    family(
        "gpuledger_gpu_current_state",
        Kind.GAUGE,
        "uuid state",
        "1 for the state of the last tick.",
        "the last tick covered no state",
        _GPU,
    ),
    family(
        "gpuledger_gpu_hang_suspicion_seconds_total",
        Kind.COUNTER,
        "uuid",
        "Time at over 70 % activity with idle SMs and power at the GPU's learnt floor: unmeasured, never busy.",
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
