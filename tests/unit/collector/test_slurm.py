# SPDX-License-Identifier: Apache-2.0
"""What Slurm's own commands print becomes allocations, queues and nodes that may not be used.

The files under tests/data/slurm are what squeue and scontrol of Slurm 22.05.8 (Debian's slurm-wlm 22.05.8-4) printed of
a cluster of two nodes with four GPUs each; node n3 is n2 at a later moment, under a reservation.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuledger_collector.schedulers.hostlist import HostlistError, expand
from gpuledger_collector.schedulers.slurm import SlurmError, read_cluster
from gpuledger_collector.schedulers.view import Allocation, ClusterView, NodeState, Pending, Unschedulable

DATA = Path(__file__).resolve().parents[2] / "data" / "slurm"
NODES = "NodeName=n1 State=IDLE ThreadsPerCore=1\n"
SUBMITTED_MS = 1_795_503_107_000


def recorded() -> ClusterView:
    squeue = (DATA / "squeue-22.05.8.json").read_text(encoding="utf-8")
    scontrol = (DATA / "scontrol-22.05.8.txt").read_text(encoding="utf-8")
    return read_cluster("alpha", 7, squeue, scontrol)


def view_of(*jobs: dict[str, Any], nodes: str = NODES) -> ClusterView:
    return read_cluster("alpha", 7, json.dumps({"jobs": jobs}), nodes)


def test_a_running_job_has_its_gpus_by_node_and_index() -> None:
    assert recorded().allocations == (
        Allocation(
            job="1",
            user="root",
            partition="train",
            node="n1",
            count=2,
            indices=(0, 1),
            since_ms=SUBMITTED_MS + 1000,
        ),
    )


def test_jobs_that_wait_for_gpus_say_how_many_and_why() -> None:
    found = {pending.job: (pending.tasks, pending.gpus, pending.reason) for pending in recorded().pending}
    assert found == {
        "2": (1, 4, "Resources"),
        "3": (1, 4, "Priority"),
        "4_[0-2%1]": (3, 1, "Priority"),
        "5": (
            1,
            4,
            "Nodes required for job are DOWN, DRAINED or reserved for jobs in higher priority partitions",
        ),
        "6": (1, 1, "JobHeldUser"),
        "7": (1, 1, "Dependency"),
    }
    assert recorded().pending[0] == Pending(
        job="2", user="root", partition="train", tasks=1, gpus=4, reason="Resources", since_ms=SUBMITTED_MS
    )


def test_drained_and_reserved_nodes_say_why_by_whom_and_since_when() -> None:
    assert recorded().nodes == ("n1", "n2", "n3")
    drained, reserved = recorded().unschedulable
    assert (drained.node, drained.why, drained.reason, drained.by) == (
        "n2",
        Unschedulable.DRAINED,
        "fan 3 is loud",
        "root",
    )
    assert drained.since_ms is not None
    assert datetime.fromtimestamp(drained.since_ms / 1000, UTC).date().isoformat() == "2026-11-24"
    assert reserved == NodeState(node="n3", why=Unschedulable.RESERVED)


def test_the_newer_form_of_the_json_means_the_same() -> None:
    """23.11 and later: numbers with `set` and `infinite`, states as a list (data_parser v0.0.40)."""
    number = {"set": True, "infinite": False, "number": 3}
    none = {"set": False, "infinite": False, "number": 0}
    job = {
        "job_id": 15,
        "array_job_id": {**number, "number": 12},
        "array_task_id": number,
        "array_task_string": "",
        "het_job_id": none,
        "job_state": ["RUNNING"],
        "user_name": "ada",
        "partition": "train",
        "nodes": "gpu[01-02]",
        "gres_detail": ["gpu:h100:8(IDX:0-7)", "gpu:h100:2(IDX:1,5),nic:1(IDX:0)"],
        "start_time": {**number, "number": 1_795_503_108},
    }
    first, second = view_of(job).allocations
    assert (first.job, first.node, first.count, first.indices) == ("12_3", "gpu01", 8, tuple(range(8)))
    assert (second.node, second.count, second.indices, second.since_ms) == ("gpu02", 2, (1, 5), 1_795_503_108_000)


@pytest.mark.parametrize(
    ("detail", "count", "indices"),
    [
        ("gpu:2", 2, None),
        ("gpu:h100", 1, None),
        ("gpu:h100:2(CNT:2)", 2, None),
        ("gpu(IDX:3)", 1, (3,)),
        ("gpu:a:1(IDX:0),gpu:b:2(IDX:2-3)", 3, (0, 2, 3)),
        ("gres:gpu:1(IDX:0)", 1, (0,)),
    ],
)
def test_gpus_are_counted_whether_or_not_slurm_says_which(
    detail: str, count: int, indices: tuple[int, ...] | None
) -> None:
    (found,) = view_of({"job_id": 1, "job_state": "RUNNING", "nodes": "n1", "gres_detail": [detail]}).allocations
    assert (found.count, found.indices) == (count, indices)


@pytest.mark.parametrize(
    ("fields", "gpus"),
    [
        ({"tres_per_job": "gres:gpu:6", "node_count": 2}, 6),
        ({"tres_per_node": "gres/gpu:h100:4", "node_count": 2}, 8),
        ({"tres_per_task": "gres/gpu=2", "tasks": 3}, 6),
        ({"tres_per_socket": "gres:gpu:1", "sockets_per_node": 2, "node_count": 2}, 4),
        ({"tres_req_str": "cpu=1,gres/gpu=4,gres/gpu:h100=4"}, 4),
    ],
)
def test_a_request_counts_gpus_however_it_was_put(fields: dict[str, Any], gpus: int) -> None:
    (found,) = view_of({"job_id": 1, "job_state": "PENDING", **fields}).pending
    assert found.gpus == gpus


def test_jobs_without_gpus_and_jobs_that_are_over_are_left_out() -> None:
    over = {"job_id": 1, "job_state": "COMPLETED", "nodes": "n1", "gres_detail": ["gpu:1(IDX:0)"]}
    without = {"job_id": 2, "job_state": "PENDING", "tres_req_str": "cpu=4"}
    no_gres = {"job_id": 3, "job_state": "RUNNING", "nodes": "n1", "gres_detail": []}
    found = view_of(over, without, no_gres)
    assert (found.allocations, found.pending) == ((), ())


def test_a_part_of_a_heterogeneous_job_has_its_own_name() -> None:
    job = {"job_id": 21, "het_job_id": 20, "het_job_offset": 1, "job_state": "PENDING", "tres_per_node": "gpu:1"}
    assert view_of(job).pending[0].job == "20+1"


@pytest.mark.parametrize(
    ("state", "why"),
    [
        ("IDLE", None),
        ("MIXED+PLANNED", None),
        ("IDLE+DRAIN", Unschedulable.DRAINED),
        ("ALLOCATED+DRAIN", Unschedulable.DRAINED),
        ("DOWN*+DRAIN", Unschedulable.DOWN),
        ("DOWN*", Unschedulable.DOWN),
        ("IDLE*+NOT_RESPONDING", Unschedulable.DOWN),
        ("IDLE+MAINTENANCE+RESERVED", Unschedulable.RESERVED),
        ("IDLE+RESERVED", Unschedulable.RESERVED),
        ("IDLE~+POWERED_DOWN", Unschedulable.DOWN),
    ],
)
def test_a_state_says_whether_work_may_be_placed(state: str, why: Unschedulable | None) -> None:
    found = view_of(nodes=f"NodeName=n1 State={state} ThreadsPerCore=1\n").unschedulable
    assert [node.why for node in found] == ([] if why is None else [why])


def test_a_reason_may_hold_anything_and_is_cut() -> None:
    reason = "[x@y] a=b State=IDLE " + "z" * 300
    nodes = f"NodeName=n1 State=IDLE+DRAIN Reason={reason} [root@2026-11-24T06:51:50]\n"
    (found,) = view_of(nodes=nodes).unschedulable
    assert found.reason == reason[:200]
    assert found.since_ms == 1_795_503_110_000


@pytest.mark.parametrize(
    ("squeue", "nodes", "said"),
    [
        ("", NODES, "squeue --json of cluster alpha: not JSON"),
        ("[]", NODES, "not JSON with a list of jobs"),
        ('{"jobs": 7}', NODES, "jobs is not a list"),
        ('{"jobs": [7]}', NODES, "jobs is not a list"),
        ('{"jobs": []}', "slurm_load_node error", "scontrol show node of cluster alpha: names no node"),
        ('{"jobs": [{"job_state": "RUNNING", "nodes": "n[1", "gres_detail": ["gpu:1"]}]}', NODES, "no host list"),
    ],
)
def test_what_is_not_slurms_is_a_sentence(squeue: str, nodes: str, said: str) -> None:
    with pytest.raises(SlurmError, match=said):
        read_cluster("alpha", 7, squeue, nodes)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", []),
        ("n1", ["n1"]),
        ("n1,m2", ["n1", "m2"]),
        ("n[1-3]", ["n1", "n2", "n3"]),
        ("n[01,08-10]", ["n01", "n08", "n09", "n10"]),
        ("r[1-2]n[3-4]x,login", ["r1n3x", "r1n4x", "r2n3x", "r2n4x", "login"]),
    ],
)
def test_a_host_list_names_its_hosts(text: str, names: list[str]) -> None:
    assert expand(text) == names


@pytest.mark.parametrize("text", ["n[", "n[1", "n]1", "n[a]", "n[3-1]", "n[1-100001]", "n[1-1000]m[1-1000]", "n[]"])
def test_what_is_no_host_list_or_too_long_is_refused(text: str) -> None:
    with pytest.raises(HostlistError):
        expand(text)


@given(st.text(alphabet="n[]0123-,x", max_size=24))
def test_no_text_is_more_than_a_sentence(text: str) -> None:
    try:
        names = expand(text)
    except HostlistError:
        return
    assert all("[" not in name for name in names)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 10**12) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
FIELDS = st.sampled_from(
    ["job_id", "array_job_id", "array_task_string", "job_state", "nodes", "gres_detail", "tres_per_node", "start_time"]
)


@given(st.dictionaries(FIELDS, JSON | st.sampled_from(["RUNNING", "PENDING", "n[1-2]", "gpu:1"]), max_size=8))
def test_a_job_of_any_form_is_read_or_refused_in_a_sentence(job: dict[str, Any]) -> None:
    try:
        found = view_of(job)
    except SlurmError:
        return
    assert all(allocation.count > 0 for allocation in found.allocations)
