# SPDX-License-Identifier: Apache-2.0
"""What a Kubernetes API server says of pods and nodes, as its JSON objects (core/v1). Pure.

The API knows how many GPUs a pod has and not which: that is the kubelet's knowledge, which the node's agent asks. MIG
resources (nvidia.com/mig-...) are parts of GPUs and are left out of the counts here for that reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from gpuledger_collector.schedulers.view import (
    Allocation,
    ClusterView,
    NodeState,
    Pending,
    Unschedulable,
    short_reason,
)

GPU_RESOURCES = ("nvidia.com/gpu", "nvidia.com/gpu.shared")
_OVER = frozenset({"Succeeded", "Failed"})
_UNSCHEDULABLE_TAINT = "node.kubernetes.io/unschedulable"
Object = Mapping[str, Any]


def read_cluster(cluster: str, at_ms: int, pods: Iterable[Object], nodes: Iterable[Object]) -> ClusterView:
    """Return the view of a cluster from its Pod and Node objects; fields that are missing or odd are left out."""
    allocations: list[Allocation] = []
    pending: list[Pending] = []
    for pod in pods:
        if _text(pod, "status", "phase") in _OVER:
            continue
        gpus = _gpus_of(pod)
        node = _text(pod, "spec", "nodeName")
        if gpus == 0:
            continue
        if node is not None:
            allocations.append(_allocation(pod, node, gpus))
        else:
            pending.append(_pending(pod, gpus))
    found = sorted(nodes, key=lambda node: _text(node, "metadata", "name") or "")
    states = [state for state in map(_node_state, found) if state is not None]
    return ClusterView(
        cluster=cluster,
        at_ms=at_ms,
        nodes=tuple(name for name in (_text(node, "metadata", "name") for node in found) if name is not None),
        allocations=tuple(sorted(allocations, key=lambda a: (a.node, a.job))),
        unschedulable=tuple(states),
        pending=tuple(sorted(pending, key=lambda p: p.job)),
    )


# ---------------------------------------------------------------------------------------------- reading objects


def _at(value: Object, *path: str) -> Any:
    """Return what stands at a path of keys, None where there is nothing."""
    found: Any = value
    for key in path:
        if not isinstance(found, Mapping):
            return None
        found = found.get(key)
    return found


def _text(value: Object, *path: str) -> str | None:
    found = _at(value, *path)
    return found if isinstance(found, str) and found else None


def _list(value: Object, *path: str) -> list[Mapping[str, Any]]:
    found = _at(value, *path)
    return [item for item in found if isinstance(item, Mapping)] if isinstance(found, list) else []


def _time_ms(text: str | None) -> int | None:
    if text is None:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return round((found if found.tzinfo is not None else found.replace(tzinfo=UTC)).timestamp() * 1000)


# ---------------------------------------------------------------------------------------------- pods


def _gpus_of(pod: Object) -> int:
    """Return how many GPUs a pod has: containers side by side, or one that runs before them, whichever is more.

    An init container that stays (restartPolicy Always) runs beside the others.
    """
    staying = before = 0
    for container in _list(pod, "spec", "initContainers"):
        if container.get("restartPolicy") == "Always":
            staying += _limit_of(container)
        else:
            before = max(before, staying + _limit_of(container))
    return max(before, staying + sum(map(_limit_of, _list(pod, "spec", "containers"))))


def _limit_of(container: Object) -> int:
    limits = _at(container, "resources", "limits")
    if not isinstance(limits, Mapping):
        return 0
    texts = [str(limits[name]) for name in GPU_RESOURCES if name in limits]
    return sum(int(text) for text in texts if text.isascii() and text.isdigit() and len(text) < 6)


def _name_of(pod: Object) -> str:
    return f"{_text(pod, 'metadata', 'namespace') or 'default'}/{_text(pod, 'metadata', 'name') or '?'}"


def _allocation(pod: Object, node: str, gpus: int) -> Allocation:
    return Allocation(
        job=_name_of(pod),
        user=_text(pod, "metadata", "namespace"),
        partition=_owner_of(pod),
        node=node,
        count=gpus,
        indices=None,
        since_ms=_time_ms(_text(pod, "status", "startTime")),
    )


def _owner_of(pod: Object) -> str | None:
    """Return what made the pod, as Kind/name; a ReplicaSet of a Deployment stands for it."""
    owners = _list(pod, "metadata", "ownerReferences")
    owner = next((owner for owner in owners if owner.get("controller") is True), owners[0] if owners else None)
    if owner is None:
        return None
    kind, name = _text(owner, "kind"), _text(owner, "name")
    if kind is None or name is None:
        return None
    suffix = _text(pod, "metadata", "labels", "pod-template-hash")
    if kind == "ReplicaSet" and suffix is not None and name.endswith(f"-{suffix}"):
        return f"Deployment/{name.removesuffix(f'-{suffix}')}"
    return f"{kind}/{name}"


def _pending(pod: Object, gpus: int) -> Pending:
    conditions = {_text(item, "type"): item for item in _list(pod, "status", "conditions")}
    scheduled = conditions.get("PodScheduled", {})
    reason = _text(scheduled, "message") or _text(scheduled, "reason") or "not told"
    return Pending(
        job=_name_of(pod),
        user=_text(pod, "metadata", "namespace"),
        partition=_owner_of(pod),
        tasks=1,
        gpus=gpus,
        reason=short_reason(reason),
        since_ms=_time_ms(_text(pod, "metadata", "creationTimestamp")),
    )


# ---------------------------------------------------------------------------------------------- nodes


def _node_state(node: Object) -> NodeState | None:
    name = _text(node, "metadata", "name")
    if name is None:
        return None
    ready = next((item for item in _list(node, "status", "conditions") if item.get("type") == "Ready"), None)
    if ready is not None and ready.get("status") != "True":
        reason = _text(ready, "message") or _text(ready, "reason")
        return NodeState(
            node=name,
            why=Unschedulable.DOWN,
            reason=None if reason is None else short_reason(reason),
            since_ms=_time_ms(_text(ready, "lastTransitionTime")),
        )
    taints = _list(node, "spec", "taints")
    taint = next((item for item in taints if item.get("key") == _UNSCHEDULABLE_TAINT), None)
    if _at(node, "spec", "unschedulable") is not True and taint is None:
        return None
    since_ms = None if taint is None else _time_ms(_text(taint, "timeAdded"))
    return NodeState(node=name, why=Unschedulable.CORDONED, since_ms=since_ms)
