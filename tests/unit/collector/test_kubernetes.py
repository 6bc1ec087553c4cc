# SPDX-License-Identifier: Apache-2.0
"""Pods and nodes of a Kubernetes API become allocations, queues and nodes that may not be used."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuledger_collector.schedulers.kubernetes import read_cluster
from gpuledger_collector.schedulers.view import Allocation, ClusterView, NodeState, Pending, Unschedulable

CREATED = "2026-11-24T06:51:47Z"
CREATED_MS = 1_795_503_107_000


def container(gpus: object = 1, **fields: Any) -> dict[str, Any]:
    return {"name": "main", "resources": {"limits": {"nvidia.com/gpu": gpus}}, **fields}


def pod(
    name: str = "trainer-0",
    *containers: dict[str, Any],
    node: str | None = "n1",
    phase: str = "Running",
    init: tuple[dict[str, Any], ...] = (),
    **metadata: Any,
) -> dict[str, Any]:
    return {
        "metadata": {"namespace": "ml", "name": name, "creationTimestamp": CREATED, **metadata},
        "spec": {"nodeName": node, "containers": list(containers or (container(),)), "initContainers": list(init)},
        "status": {"phase": phase, "startTime": CREATED},
    }


def node(name: str = "n1", *, ready: str = "True", **spec: Any) -> dict[str, Any]:
    condition = {"type": "Ready", "status": ready, "message": "Kubelet stopped posting", "lastTransitionTime": CREATED}
    return {"metadata": {"name": name}, "spec": spec, "status": {"conditions": [condition]}}


def view_of(*pods: Any, nodes: tuple[Any, ...] = ()) -> ClusterView:
    return read_cluster("k1", 7, pods, nodes or (node(),))


def test_a_pod_on_a_node_has_its_gpus_and_says_what_made_it() -> None:
    owner = {"kind": "ReplicaSet", "name": "chat-6d4b75cb6d", "controller": True}
    made = pod(
        "chat-6d4b75cb6d-x7", container("4"), ownerReferences=[owner], labels={"pod-template-hash": "6d4b75cb6d"}
    )
    assert view_of(made).allocations == (
        Allocation(
            job="ml/chat-6d4b75cb6d-x7",
            user="ml",
            partition="Deployment/chat",
            node="n1",
            count=4,
            indices=None,
            since_ms=CREATED_MS,
        ),
    )


def test_a_pod_that_waits_says_why_and_since_when() -> None:
    waiting = pod(node=None, phase="Pending", ownerReferences=[{"kind": "Job", "name": "train"}])
    message = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."
    waiting["status"]["conditions"] = [{"type": "PodScheduled", "status": "False", "message": message}]
    assert view_of(waiting).pending == (
        Pending(
            job="ml/trainer-0", user="ml", partition="Job/train", tasks=1, gpus=1, reason=message, since_ms=CREATED_MS
        ),
    )


@pytest.mark.parametrize(
    ("made", "gpus"),
    [
        (pod("a", container(1), container(2)), 3),
        (pod("a", container(1), init=(container(4),)), 4),
        (pod("a", container(1), init=(container(2, restartPolicy="Always"),)), 3),
        (pod("a", container(1), init=(container(2, restartPolicy="Always"), container(3))), 5),
        (pod("a", {"resources": {"limits": {"nvidia.com/mig-1g.10gb": 2}}}), 0),
        (pod("a", {"name": "no resources"}), 0),
        (pod("a", container("many")), 0),
        (pod("a", phase="Succeeded"), 0),
        (pod("a", phase="Failed"), 0),
    ],
)
def test_gpus_of_a_pod_are_those_it_has_at_once(made: dict[str, Any], gpus: int) -> None:
    assert sum(allocation.count for allocation in view_of(made).allocations) == gpus


@pytest.mark.parametrize(
    ("found", "state"),
    [
        (node(), None),
        (node(taints=[{"key": "nvidia.com/gpu", "effect": "NoSchedule"}]), None),
        (node(unschedulable=True), NodeState(node="n1", why=Unschedulable.CORDONED)),
        (
            node(taints=[{"key": "node.kubernetes.io/unschedulable", "timeAdded": CREATED}]),
            NodeState(node="n1", why=Unschedulable.CORDONED, since_ms=CREATED_MS),
        ),
        (
            node(ready="Unknown", unschedulable=True),
            NodeState(node="n1", why=Unschedulable.DOWN, reason="Kubelet stopped posting", since_ms=CREATED_MS),
        ),
    ],
)
def test_a_node_says_whether_pods_may_be_placed(found: dict[str, Any], state: NodeState | None) -> None:
    assert view_of(nodes=(found,)).unschedulable == (() if state is None else (state,))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=5,
)
KEYS = st.sampled_from(["metadata", "spec", "status", "name", "containers", "conditions", "nodeName", "resources"])
OBJECTS = st.recursive(
    JSON | st.dictionaries(KEYS, JSON, max_size=3),
    lambda inner: st.dictionaries(KEYS, inner | st.lists(inner, max_size=2), max_size=3),
    max_leaves=6,
).filter(lambda value: isinstance(value, dict))


@given(OBJECTS, OBJECTS)
def test_an_object_of_any_form_is_read_as_far_as_it_goes(some_pod: Any, some_node: Any) -> None:
    found = read_cluster("k1", 7, [some_pod], [some_node])
    assert len(found.nodes) <= 1
    assert all(allocation.count > 0 for allocation in found.allocations)
