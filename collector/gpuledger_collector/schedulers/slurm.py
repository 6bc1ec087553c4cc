# SPDX-License-Identifier: Apache-2.0
"""What `squeue --json` and `scontrol -o show node` say of a Slurm cluster. Pure.

Two calls for a whole cluster. The JSON is Slurm's own OpenAPI data: 22.05 writes plain values, 23.11 and later write
numbers as {"set": true, "infinite": false, "number": 7} and states as lists; both are read. Node states come as text,
since scontrol of 22.05 has no JSON; both commands must run with TZ=UTC, as scontrol prints local times.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from gpuledger.errors import GpuledgerError
from gpuledger_collector.schedulers.hostlist import HostlistError, expand
from gpuledger_collector.schedulers.view import Allocation, ClusterView, NodeState, Pending, Unschedulable, short_reason

_RUNNING = frozenset({"RUNNING", "SUSPENDED", "COMPLETING", "CONFIGURING", "STAGE_OUT", "SIGNALING", "STOPPED"})
_GRES = re.compile(r"(?:gres[:/])?gpu(?::(?P<type>[^:(=,]+))??(?:[:=](?P<count>\d+))?(?:\((?P<where>[^)]*)\))?")
_TRES_GPUS = re.compile(r"\bgres/gpu=(\d+)")
_INDICES = re.compile(r"IDX:([\d,\-]+)")
_NODE = re.compile(r"^NodeName=(?P<node>\S+) .*?\bState=(?P<state>\S+)", re.DOTALL)
_REASON = re.compile(r"\bReason=(?P<text>.*?) \[(?P<by>[^\[\]@]+)@(?P<at>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)\]")
_DOWN = frozenset({"DOWN", "FAIL", "FAILING", "NOT_RESPONDING", "POWERED_DOWN", "POWERING_DOWN", "UNKNOWN", "ERROR"})
_DRAINED = frozenset({"DRAIN", "DRAINED", "DRAINING"})
_RESERVED = frozenset({"RESERVED", "MAINT", "MAINTENANCE"})


class SlurmError(GpuledgerError):
    """What Slurm's commands said cannot be understood."""


def read_cluster(cluster: str, at_ms: int, squeue_json: str, scontrol_nodes: str) -> ClusterView:
    """Return the view of a cluster; raises SlurmError with a sentence where the texts are not what they should be."""
    try:
        document = json.loads(squeue_json)
        jobs = document["jobs"]
    except (ValueError, KeyError, TypeError, RecursionError) as exc:
        raise SlurmError(f"squeue --json of cluster {cluster}: not JSON with a list of jobs") from exc
    if not isinstance(jobs, list) or not all(isinstance(job, dict) for job in jobs):
        raise SlurmError(f"squeue --json of cluster {cluster}: jobs is not a list of jobs")
    allocations: list[Allocation] = []
    pending: list[Pending] = []
    try:
        for job in jobs:
            states = _states(job)
            if "PENDING" in states:
                pending += _pending(job)
            elif states & _RUNNING:
                allocations += _allocations(job)
    except HostlistError as exc:
        raise SlurmError(f"squeue --json of cluster {cluster}: {exc}") from exc
    nodes, unschedulable = _nodes(scontrol_nodes)
    if not nodes:
        raise SlurmError(f"scontrol show node of cluster {cluster}: names no node")
    return ClusterView(
        cluster=cluster,
        at_ms=at_ms,
        nodes=tuple(nodes),
        allocations=tuple(sorted(allocations, key=lambda a: (a.node, a.job))),
        unschedulable=tuple(unschedulable),
        pending=tuple(sorted(pending, key=lambda p: p.job)),
    )


# ---------------------------------------------------------------------------------------------- jobs


def _number(value: Any) -> int | None:
    """Return an integer in either form of Slurm's JSON; None where it is not set, endless or something else."""
    if isinstance(value, dict):
        value = value.get("number") if value.get("set") and not value.get("infinite") else None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if type(value) is int else None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _states(job: Mapping[str, Any]) -> frozenset[str]:
    state = job.get("job_state")
    return frozenset(map(str, state) if isinstance(state, list) else [str(state)])


def _job_name(job: Mapping[str, Any]) -> str:
    """Return the job's number as people write it: 12, 12_3 of an array, 12_[4-9%2] of one that waits, 12+1 of a het."""
    job_id = _number(job.get("job_id")) or 0
    array_id = _number(job.get("array_job_id")) or 0
    if array_id > 0:
        waiting = _text(job.get("array_task_string"))
        task = _number(job.get("array_task_id"))
        if waiting is not None:
            return f"{array_id}_[{waiting}]"
        return f"{array_id}_{job_id - array_id if task is None else task}"
    het_id = _number(job.get("het_job_id")) or 0
    return f"{het_id}+{_number(job.get('het_job_offset')) or 0}" if het_id > 0 else str(job_id)


def _seconds(job: Mapping[str, Any], *fields: str) -> int | None:
    """Return the first of these times that is set, in POSIX milliseconds."""
    for field in fields:
        time_s = _number(job.get(field))
        if time_s is not None and time_s > 0:
            return time_s * 1000
    return None


def _allocations(job: Mapping[str, Any]) -> list[Allocation]:
    details = job.get("gres_detail")
    text = _text(job.get("nodes"))
    if not isinstance(details, list) or text is None:
        return []
    found = []
    # One detail for each node, in the order of the node list.
    for node, detail in zip(expand(text), details, strict=False):
        count, indices = _gpus_in(str(detail))
        if count > 0:
            found.append(
                Allocation(
                    job=_job_name(job),
                    user=_text(job.get("user_name")),
                    partition=_text(job.get("partition")),
                    node=node,
                    count=count,
                    indices=indices,
                    since_ms=_seconds(job, "start_time"),
                    account=_text(job.get("account")),
                )
            )
    return found


def _gpus_in(detail: str) -> tuple[int, tuple[int, ...] | None]:
    """Return how many GPUs a text like `gpu:h100:2(IDX:0-1),nic:1` names, and which; None where one is not told."""
    count = 0
    indices: list[int] | None = []
    for item in _split(detail):
        match = _GRES.fullmatch(item)
        if match is None:
            continue
        amount = 1 if match["count"] is None else int(match["count"])
        count += amount
        told = _INDICES.search(match["where"] or "")
        if amount > 0 and told is None:
            indices = None
        elif told is not None and indices is not None:
            indices += [int(number) for number in expand(f"[{told[1]}]")]
    return count, None if indices is None else tuple(sorted(indices))


def _split(text: str) -> Iterable[str]:
    """Cut at commas outside of parentheses."""
    return (item.strip() for item in re.split(r",(?![^(]*\))", text) if item.strip())


def _pending(job: Mapping[str, Any]) -> list[Pending]:
    gpus = _gpus_wanted(job)
    if gpus == 0:
        return []
    reason = _text(job.get("state_description")) or _text(job.get("state_reason")) or "not told"
    return [
        Pending(
            job=_job_name(job),
            user=_text(job.get("user_name")),
            partition=_text(job.get("partition")),
            tasks=_tasks(_text(job.get("array_task_string"))),
            gpus=gpus,
            reason=short_reason(reason),
            since_ms=_seconds(job, "eligible_time", "submit_time"),
        )
    ]


def _gpus_wanted(job: Mapping[str, Any]) -> int:
    """Return how many GPUs a job asks for; Slurm keeps it by job, node, socket or task, as the user put it."""
    nodes = max(_number(job.get("node_count")) or 1, 1)
    tasks = max(_number(job.get("tasks")) or 1, 1)
    sockets = max(_number(job.get("sockets_per_node")) or 1, 1)
    by_what = (
        ("tres_per_job", 1),
        ("tres_per_node", nodes),
        ("tres_per_task", tasks),
        ("tres_per_socket", nodes * sockets),
    )
    for field, times in by_what:
        text = _text(job.get(field))
        count = 0 if text is None else _gpus_in(text)[0]
        if count > 0:
            return count * times
    # Typed and untyped GPUs stand there beside each other, for the same ones.
    match = _TRES_GPUS.search(_text(job.get("tres_req_str")) or "")
    return 0 if match is None else int(match[1])


def _tasks(waiting: str | None) -> int:
    """Return how many tasks of an array wait: `0-2%1` are three; a list that Slurm cut short counts as far as told."""
    if waiting is None:
        return 1
    count = 0
    for item in waiting.partition("%")[0].split(","):
        match = re.fullmatch(r"(\d{1,9})(?:-(\d{1,9})(?::(\d{1,9}))?)?", item)
        if match is not None:
            first, last, step = int(match[1]), int(match[2] or match[1]), max(int(match[3] or 1), 1)
            count += max(last - first, 0) // step + 1
    return max(count, 1)


# ---------------------------------------------------------------------------------------------- nodes


def _nodes(text: str) -> tuple[list[str], list[NodeState]]:
    names: list[str] = []
    found: list[NodeState] = []
    for line in text.splitlines():
        match = _NODE.match(line)
        if match is None:
            continue
        node = match["node"]
        names.append(node)
        why = _why(match["state"])
        if why is None:
            continue
        found.append(_node_state(node, why, _REASON.search(line)))
    return names, found


def _node_state(node: str, why: Unschedulable, reason: re.Match[str] | None) -> NodeState:
    if reason is None:
        return NodeState(node=node, why=why)
    since = datetime.fromisoformat(reason["at"]).replace(tzinfo=UTC)
    return NodeState(
        node=node,
        why=why,
        reason=short_reason(reason["text"]),
        by=short_reason(reason["by"]),
        since_ms=round(since.timestamp()) * 1000,
    )


def _why(state: str) -> Unschedulable | None:
    """Return why a node of a state like IDLE+DRAIN takes no new work; the gravest first."""
    flags = set(re.split(r"[+]", re.sub(r"[*~#!%$@^-]", "", state)))
    if flags & _DOWN:
        return Unschedulable.DOWN
    if flags & _DRAINED:
        return Unschedulable.DRAINED
    return Unschedulable.RESERVED if flags & _RESERVED else None
