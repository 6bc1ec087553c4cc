# SPDX-License-Identifier: Apache-2.0
"""What the people of the scenarios run, SIMULATED: command lines as the programs have them."""

from __future__ import annotations

import shlex

from gpuledger_agent.processes import Listening

_BESIDE = 100_000
"""What is added to the pid of a process that holds a GPU for that of its parent."""
LINES = {
    4100: "python3 -u pretrain_gpt.py --tensor-model-parallel-size 8",
    4100 + _BESIDE: "python3 /venv/bin/torchrun --nproc-per-node=8 pretrain_gpt.py",
    4200: "python3 /venv/bin/vllm serve SIMULATED/model --port 8000",
    4300: "python3 -m ipykernel_launcher -f kernel.json",
    4400: "python3 fold.py",
    **{4500 + seat: "python3 -m ipykernel_launcher -f kernel.json" for seat in range(7)},
}
SERVING = {4200: 8000}


class SimulatedProcessTree:
    """The processes of the scenarios; each holds a GPU, and a launcher stands above one."""

    def parents(self) -> dict[int, int]:
        return {pid: pid + _BESIDE if pid + _BESIDE in LINES else 1 for pid in LINES}

    def cgroup(self, pid: int) -> str | None:
        return "" if pid in LINES else None

    def started_s(self, pid: int) -> float | None:
        return 0.0 if pid in LINES else None

    def argv(self, pid: int) -> tuple[str, ...] | None:
        line = LINES.get(pid)
        return None if line is None else tuple(shlex.split(line))

    def executable(self, pid: int) -> str | None:
        return None

    def listening(self, pid: int) -> tuple[Listening, ...] | None:
        return tuple(Listening(inode=serving, port=port) for serving, port in SERVING.items())

    def sockets(self, pid: int) -> frozenset[int] | None:
        return frozenset({pid} & set(SERVING))
