# SPDX-License-Identifier: Apache-2.0
"""Who holds a GPU and who was given it, put together as configured."""

from __future__ import annotations

import os

from gpuledger.sealing import NameSealer
from gpuledger_agent.allocation_files import AllocationSource, JobFiles, LeaseFile
from gpuledger_agent.allocations import SlurmGpus
from gpuledger_agent.config import AgentConfig
from gpuledger_agent.holders import Holders
from gpuledger_agent.pod_names import PodNames
from gpuledger_agent.pod_poll import PodResources
from gpuledger_agent.process_hints import ProcessHints
from gpuledger_agent.processes import ProcessTable
from gpuledger_agent.reservations import Reservations


def attribute(
    config: AgentConfig,
    processes: ProcessTable,
    names: NameSealer,
    boot_id: str,
    hints: ProcessHints | None = None,
) -> tuple[Holders, Reservations]:
    """Return the two parts, which share digests; nothing is read yet."""
    pod_names = PodNames(config.pod_names_dir)
    holders = Holders(
        processes,
        names,
        os.getpid(),
        config.operator_users,
        config.operator_executables,
        operator_cgroups=config.operator_cgroups,
        slurm_cluster=config.slurm_cluster,
        pod_names=pod_names,
        hints=hints,
    )
    sources: list[AllocationSource] = []
    if config.slurm_dir is not None:
        gpus = SlurmGpus(order=config.slurm_gpu_order, files=config.slurm_gpu_files)
        sources.append(JobFiles(config.slurm_dir, gpus, config.slurm_cluster, boot_id))
    if config.pods_socket is not None:
        sources.append(PodResources(config.pods_socket, round(config.pods_seconds * 1000)))
    if config.lease_file is not None:
        sources.append(LeaseFile(config.lease_file))
    return holders, Reservations(holders, sources, pod_names)
