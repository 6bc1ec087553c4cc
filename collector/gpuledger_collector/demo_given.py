# SPDX-License-Identifier: Apache-2.0
"""What a simulated site has beside its nodes: a lease book, and a Slurm that says the same at every look. SIMULATED.

The commands are files that print; the collector runs and reads them as it does real ones, and so is their past.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from gpuledger_collector.config import CollectorConfig
from gpuledger_collector.schedule_book import ScheduleBook
from gpuledger_collector.schedulers.slurm import read_cluster
from gpuledger_collector.state import open_state

CLUSTER = "SIMULATED"
LOOK_MS = 150_000
"""As far apart as two looks may be without a break, and two in each cell."""
ENTRIES_AT_ONCE = 500

_LEASES = """\
# SIMULATED: nothing of this was ever leased.
[book]
from = {from}

[[lease]]
id = "SIM-1"
tenant = "SIMULATED customer"
kind = "paid"
nodes = ["{paid}"]
from = {from}

[[lease]]
id = "SIM-2"
tenant = "SIMULATED research"
kind = "internal"
pool = "unknown"
count = 8
from = {from}
"""
_NODE = "NodeName={node} Arch=x86_64 Gres=gpu:h100:8 State={state} Partitions=gpu{reason}"


def write_given(root: Path, nodes: Sequence[str], from_ms: int) -> str:
    """Write lease book and commands below `root`; return the lines of the collector's file that name them."""
    first = datetime.fromtimestamp(from_ms / 1000, UTC).strftime("%Y-%m-%d")
    leases, squeue, scontrol = root / "leases.toml", root / "squeue", root / "scontrol"
    leases.write_text(_LEASES.replace("{from}", first).replace("{paid}", nodes[0]), encoding="utf-8")
    for path, text in ((squeue, squeue_text(nodes)), (scontrol, scontrol_text(nodes))):
        path.write_text(f"#!/bin/sh\ncat <<'SIMULATED'\n{text}\nSIMULATED\n", encoding="utf-8")
        path.chmod(0o755)
    return "\n".join(
        (
            f"[[slurm]]\nname = {json.dumps(CLUSTER)}",
            f"squeue = {json.dumps(str(squeue))}",
            f"scontrol = {json.dumps(str(scontrol))}",
        )
    )


def squeue_text(nodes: Sequence[str]) -> str:
    """Return what squeue would say: one job that has four GPUs of a free node, and one that waits for more."""
    common = {"user_name": "SIMULATED-ada", "account": "SIMULATED-lab", "partition": "gpu"}
    running = {
        **common,
        "job_id": 4711,
        "job_state": "RUNNING",
        "nodes": nodes[2],
        "gres_detail": ["gpu:h100:4(IDX:0-3)"],
    }
    waiting = {
        **common,
        "job_id": 4712,
        "job_state": "PENDING",
        "state_reason": "Resources",
        "node_count": 2,
        "tres_per_node": "gres:gpu:8",
    }
    return json.dumps({"jobs": [running, waiting]})


def scontrol_text(nodes: Sequence[str]) -> str:
    """Return what scontrol would say: the last node is drained."""
    reason = " Reason=SIMULATED fan 3 failed [SIMULATED-root@2026-01-01T00:00:00]"
    lines = [_NODE.format(node=node, state="IDLE", reason="") for node in nodes[:-1]]
    return "\n".join([*lines, _NODE.format(node=nodes[-1], state="IDLE+DRAIN", reason=reason)])


def play_scheduler(config: CollectorConfig, nodes: Sequence[str], from_ms: int, to_ms: int) -> None:
    """Put looks at the simulated scheduler from `from_ms` to `to_ms` into a log, before the collector runs."""
    squeue, scontrol = squeue_text(nodes), scontrol_text(nodes)
    with open_state(config, from_ms) as state:
        book = ScheduleBook(state.catalog, state.namer, entries_at_once=ENTRIES_AT_ONCE)
        for at_ms in range(from_ms, to_ms, LOOK_MS):
            book.take(read_cluster(CLUSTER, at_ms, squeue, scontrol))
        book.finish(to_ms)
