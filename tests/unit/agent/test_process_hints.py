# SPDX-License-Identifier: Apache-2.0
"""Hints from the processes of a workload: who is looked at and when, whether it listens, and what stays on the node."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from gpuledger.cells import CELL_MS
from gpuledger.hints import Hints
from gpuledger.process_rules import load_rules
from gpuledger.reading import encode_workloads
from gpuledger.sealing import NameSealer
from gpuledger.states import State
from gpuledger_agent.drafts import Origin, make_drafts
from gpuledger_agent.holders import Holders
from gpuledger_agent.nvml import GpuProcess
from gpuledger_agent.process_hints import AGAIN_S, PROCESSES_MAX, WORKLOADS_MAX, ProcessHints
from gpuledger_agent.processes import SystemProcessTree
from gpuledger_agent.scenarios import PEOPLE
from gpuledger_agent.simulated_tree import LINES, SimulatedProcessTree
from gpuledger_agent.snapshot import GpuSnapshot, Holder
from gpuledger_agent.tally import Part, Span
from tests.fakes.processes import FakeProcessTable, FakeProcessTree

TABLE = load_rules()
JOB = "0::/system.slice/slurmstepd.scope/job_7/step_0/user/task_0\n"
BATCH = "0::/system.slice/slurmstepd.scope/job_7/step_batch/user/task_0\n"
OTHER = "0::/system.slice/slurmstepd.scope/job_8/step_0/user/task_0\n"


class Watching:
    """Hints of a tree at a time that a test moves on."""

    def __init__(self) -> None:
        self.tree = FakeProcessTree()
        self.now_s = 100.0
        self.hints = ProcessHints(self.tree, TABLE, lambda: int(self.now_s * 1e9))

    def of(self, *pids: int, is_alone: bool = False) -> Hints | None:
        """Ask, look, and ask again."""
        members = {pid: self.tree.starts[pid] for pid in pids}
        self.hints.of("job", members, is_alone=is_alone)
        self.hints.look()
        return self.hints.of("job", members, is_alone=is_alone)


@pytest.fixture
def watching() -> Watching:
    return Watching()


def test_who_asks_first_is_told_nothing_and_never_waits(watching: Watching) -> None:
    watching.tree.add(10, 1, "python3 train.py")
    assert watching.hints.of("job", {10: 7.5}, is_alone=True) is None
    assert watching.tree.looks == 0


def test_the_launcher_above_a_process_tells_what_it_is(watching: Watching) -> None:
    watching.tree.add(5, 1, "bash job.sh", JOB)
    watching.tree.add(6, 5, "python3 /venv/bin/torchrun --nproc-per-node=2 --nnodes=4 main.py", JOB)
    watching.tree.add(7, 6, "python3 -u main.py", JOB)
    watching.tree.add(8, 6, "python3 -u main.py", JOB)
    assert watching.of(7, 8) == Hints(table="1", rules=("torchrun",), listens=False, world_size=8)


def test_a_process_of_another_workload_is_not_looked_at(watching: Watching) -> None:
    watching.tree.add(5, 1, "python3 /venv/bin/vllm serve x", OTHER)
    watching.tree.add(6, 5, "python3 main.py", JOB)
    watching.tree.add(7, 6, "tritonserver", OTHER)
    assert watching.of(6) == Hints(table="1", listens=False)


def test_another_step_of_the_same_job_is_the_same_workload(watching: Watching) -> None:
    watching.tree.add(5, 1, "python3 /venv/bin/deepspeed x.py", BATCH)
    watching.tree.add(6, 5, "python3 x.py", JOB)
    hints = watching.of(6)
    assert hints is not None
    assert hints.rules == ("deepspeed",)


def test_a_sibling_under_the_same_launcher_is_looked_at(watching: Watching) -> None:
    watching.tree.add(5, 1, "tini -- start", JOB)
    watching.tree.add(6, 5, "text-generation-router --port 80", JOB)
    watching.tree.add(7, 5, "python3 worker.py", JOB)
    watching.tree.ports[6] = 80
    hints = watching.of(7)
    assert hints is not None
    assert (hints.rules, hints.listens) == (("tgi-launcher",), True)


def test_a_process_that_is_a_workload_by_itself_has_no_siblings(watching: Watching) -> None:
    watching.tree.add(5, 1, "sshd")
    watching.tree.add(6, 5, "python3 /venv/bin/vllm serve x")
    watching.tree.add(7, 5, "bash")
    watching.tree.add(8, 7, "python3 main.py")
    watching.tree.add(9, 8, "gmx mdrun")
    hints = watching.of(8, is_alone=True)
    assert hints is not None
    assert hints.rules == ("gromacs",)


def test_process_1_of_the_node_is_nobody_s(watching: Watching) -> None:
    watching.tree.add(1, 0, "tritonserver")
    watching.tree.add(6, 1, "python3 main.py")
    assert watching.of(6) == Hints(table="1", listens=False)


@pytest.mark.parametrize(("port", "listens"), [(8000, True), (29_500, False), (29_400, False), (45_001, False)])
def test_ports_of_a_rendezvous_and_ports_the_kernel_gave_out_are_no_service(
    watching: Watching, port: int, listens: bool
) -> None:
    watching.tree.add(6, 1, "python3 main.py")
    watching.tree.ports[6] = port
    assert watching.of(6) == Hints(table="1", listens=listens)


def test_what_may_not_be_seen_is_unknown_and_not_false(watching: Watching) -> None:
    watching.tree.add(6, 1, "python3 -m vllm.entrypoints.openai.api_server")
    watching.tree.hidden.add(6)
    assert watching.of(6) == Hints(table="1", rules=("vllm-api-server",), listens=None)


def test_the_size_of_the_world_is_counted_where_no_launcher_tells_it(watching: Watching) -> None:
    for pid in (6, 7, 8):
        watching.tree.add(pid, 5, "python3 -u pretrain_gpt.py", JOB)
    hints = watching.of(6, 7, 8)
    assert hints is not None
    assert hints.world_size == 3


def test_a_process_that_names_itself_later_is_known_later(watching: Watching) -> None:
    watching.tree.add(6, 1, "python3 -c 'from multiprocessing.spawn import spawn_main'")
    assert watching.of(6) == Hints(table="1", listens=False)
    watching.tree.lines[6] = ("VLLM::EngineCore",)
    watching.tree.executables[6] = "/usr/bin/python3.11"
    assert watching.of(6) == Hints(table="1", listens=False)
    watching.now_s += AGAIN_S[1]
    assert watching.of(6) == Hints(table="1", rules=("vllm-engine",), listens=False)


def test_looks_grow_rare_and_a_new_process_is_looked_at_at_once(watching: Watching) -> None:
    watching.tree.add(6, 1, "python3 main.py")
    watching.of(6)
    for _ in range(3600):
        watching.now_s += 1
        watching.hints.look()
    assert watching.tree.looks == 8
    watching.tree.add(7, 1, "python3 main.py")
    watching.of(6, 7)
    assert watching.tree.looks == 9


def test_a_pid_that_another_process_has_now_is_not_looked_at(watching: Watching) -> None:
    watching.tree.add(6, 1, "python3 main.py")
    watching.hints.of("job", {6: 7.5}, is_alone=True)
    watching.tree.add(6, 1, "python3 /venv/bin/vllm serve x", started_s=9.0)
    watching.hints.look()
    assert watching.hints.of("job", {}, is_alone=True) is None


def test_a_workload_that_is_over_is_forgotten(watching: Watching) -> None:
    watching.tree.add(6, 1, "tritonserver")
    watching.of(6)
    watching.tree.drop(6)
    watching.now_s += AGAIN_S[1]
    assert watching.hints.look() is None


def test_a_workload_of_very_many_processes_is_looked_at_in_part(watching: Watching) -> None:
    watching.tree.add(5, 1, "raylet", JOB)
    for pid in range(100, 100 + 3 * PROCESSES_MAX):
        watching.tree.add(pid, 5, "python3 main.py", JOB)
    hints = watching.of(100)
    assert hints == Hints(table="1", listens=False)


def test_no_more_workloads_are_kept_than_the_limit(watching: Watching) -> None:
    for number in range(WORKLOADS_MAX + 5):
        watching.now_s += 1
        watching.hints.of(f"job-{number}", {}, is_alone=True)
    assert len(watching.hints._watches) == WORKLOADS_MAX
    assert "job-0" not in watching.hints._watches


def test_a_loop_of_parents_ends(watching: Watching) -> None:
    watching.tree.add(6, 7, "python3 main.py", JOB)
    watching.tree.add(7, 6, "tritonserver", JOB)
    hints = watching.of(6)
    assert hints is not None
    assert hints.rules == ("triton-server",)


# ------------------------------------------------------------------------------------------------ into a reading


def test_holders_carry_hints_into_the_reading_and_no_command_line_with_them() -> None:
    tree, table = FakeProcessTree(), FakeProcessTable()
    line = "python3 /venv/bin/vllm serve /srv/secret-model --api-key hunter2"
    tree.add(4100, 1, line)
    table.add(4100, "python3")
    hints = ProcessHints(tree, TABLE, lambda: 0)
    holders = Holders(table, NameSealer(bytes(32)), 77, hints=hints)
    assert holders.resolve([GpuProcess(4100, 5)])[0].hints is None
    hints.look()
    found = holders.resolve([GpuProcess(4100, 5)])
    span = Span(start_ms=CELL_MS, end_ms=CELL_MS)
    part = Part(slices=7, seen=GpuSnapshot(holders=found), result=State.HELD)
    span.tally("GPU-0").add(part, 1000)
    span.end_ms += 1000
    origin = Origin(
        node_name="node",
        session="session",
        boot_id="boot",
        interval_ms=1000,
        configuration_digest="ab",
        is_simulated=False,
        wall_offset_ms=0,
    )
    (draft,) = make_drafts(span, "cd", origin, {}, holders)
    assert draft.workloads[0].hints == Hints(table="1", rules=("vllm-serve",), listens=False)
    blob = encode_workloads(draft.workloads)
    assert b"vllm-serve" in blob
    assert b"secret" not in blob
    assert b"hunter2" not in blob


def test_what_was_told_earlier_in_a_span_stays_in_it() -> None:
    span = Span(start_ms=0, end_ms=0)
    holder = Holder(workload="ab", user=None, memory_bytes=None)
    for rules in (("axolotl",), ("axolotl", "torchrun"), ("torchrun",)):
        seen = GpuSnapshot(holders=(replace(holder, hints=Hints(table="1", rules=rules)),))
        span.tally("GPU-0").add(Part(slices=7, seen=seen, result=State.HELD), 1000)
    assert span.tally("GPU-0").workload_hints["ab", None, None].rules == ("axolotl", "torchrun")


def test_simulated_people_are_looked_at_when_they_are_asked_for() -> None:
    hints = ProcessHints(SimulatedProcessTree(), TABLE, lambda: 0, is_inline=True)
    hints.start()
    assert hints.of("a", {4100: 0.0}, is_alone=True) == Hints(
        table="1", rules=("megatron", "torchrun"), listens=False, world_size=8
    )
    assert hints.of("b", {4200: 0.0}, is_alone=True) == Hints(table="1", rules=("vllm-serve",), listens=True)
    assert hints.of("c", {4400: 0.0}, is_alone=True) == Hints(table="1", listens=False)
    assert set(LINES) >= set(PEOPLE)


# ------------------------------------------------------------------------------------------------ the door


def test_the_door_sees_a_real_process_its_parent_and_that_it_listens(tmp_path: Path) -> None:
    script = tmp_path / "listen.py"
    script.write_text(
        "import socket\n"
        "listener = socket.create_server(('127.0.0.1', 0))\n"
        "print(listener.getsockname()[1], flush=True)\n"
        "input()\n"
    )
    command = [sys.executable, str(script), "an argument"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        port = int(child.stdout.readline())
        tree = SystemProcessTree()
        assert tree.parents()[child.pid] == os.getpid()
        assert tree.argv(child.pid) == tuple(command)
        assert tree.executable(child.pid) == str(Path(sys.executable).resolve())
        assert tree.cgroup(child.pid) == tree.cgroup(os.getpid())
        started_s = tree.started_s(child.pid)
        assert started_s is not None
        sockets, listening = tree.sockets(child.pid), tree.listening(child.pid)
        assert sockets is not None
        assert listening is not None
        assert [one.port for one in listening if one.inode in sockets] == [port]
        child.send_signal(signal.SIGKILL)


def test_the_door_knows_nothing_of_a_process_that_is_not_there() -> None:
    tree = SystemProcessTree()
    gone = 2**22 + 1
    assert tree.argv(gone) is None
    assert tree.executable(gone) is None
    assert tree.cgroup(gone) is None
    assert tree.started_s(gone) is None
    assert tree.listening(gone) is None
    assert tree.sockets(gone) is None
    assert gone not in tree.parents()


def test_a_socket_that_does_not_listen_is_not_one_that_does() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        listening = SystemProcessTree().listening(os.getpid())
        assert listening is not None
        ports = {one.port for one in listening}
        assert server.getsockname()[1] in ports
        assert client.getsockname()[1] not in ports
