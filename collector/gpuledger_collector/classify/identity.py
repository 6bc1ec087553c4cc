# SPDX-License-Identifier: Apache-2.0
"""Which workload a digest of a node belongs to: one Slurm job over all its nodes, the pods of one owner. Pure.

Only open names can be put together: digests of one name differ from node to node on purpose. What stays closed is a
workload at each node.
"""

from __future__ import annotations

from gpuledger.workload_names import parse
from gpuledger_collector.classify.declared import Facts
from gpuledger_collector.classify.kinds import Kind

RUN_MARK = "#"
"""Between a job's id and which of its runs it is, from the second on."""
LABELS = tuple(kind.value for kind in Kind if kind is not Kind.UNCLASSIFIED)
"""What an operator may confirm."""


def base_of(digest: str, name: str | None, *, node: str, cluster: str, facts: Facts | None = None) -> str:
    """Return the id of the workload, without its run.

    slurm:CLUSTER/JOB                    the job's cluster as its agent was told it, else that of the node's place
    owner:CLUSTER/NAMESPACE/KIND/NAME    what made a pod, where that is known
    pod:CLUSTER/NAMESPACE/POD            all containers of a pod
    NAME at NODE                         a container, a unit, a process, a lease
    DIGEST                               a name that is not open
    """
    if name is None:
        return digest
    parsed = parse(name)
    if parsed is None:
        return f"{name} at {node}"
    if parsed.source == "slurm_job":
        told, job = parsed.parts
        return f"slurm:{cluster if told is None else told}/{job}"
    if parsed.source == "pod":
        namespace, pod, _ = parsed.parts
        if facts is not None and facts.owner is not None and pod is not None:
            return f"owner:{cluster}/{namespace}/{facts.owner}"
        # Without its own name a pod has a uid, in the place of the namespace.
        return f"pod:{cluster}/{namespace}" + ("" if pod is None else f"/{pod}")
    return f"{name} at {node}"


def is_better(one: str, other: str) -> bool:
    """Return whether an id says more of a pod than another: what made it."""
    return one.startswith("owner:") and other.startswith("pod:")


def may_requeue(base: str) -> bool:
    """Return whether one id may stand for several runs: Slurm gives a job that is queued again the same number."""
    return base.startswith("slurm:")


def run_id(base: str, run: int) -> str:
    """Return the id of a run, counted from 1."""
    return base if run == 1 else f"{base}{RUN_MARK}{run}"
