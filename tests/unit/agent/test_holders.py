# SPDX-License-Identifier: Apache-2.0
"""Holders and the door to processes: who holds a GPU, and what of their names leaves the node."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpuledger.sealing import NameSealer, digest_name
from gpuledger_agent import holders as holders_module
from gpuledger_agent.holders import IGNORABLE, Holders
from gpuledger_agent.nvml import GpuProcess
from gpuledger_agent.processes import SystemProcessTable
from tests.fakes.processes import FakeProcessTable

OWN_PID = 77


@pytest.fixture
def table() -> FakeProcessTable:
    return FakeProcessTable(p4100="python3", p4200="dcgmproftester12", p4300="nvidia-persiste")


def holders(table: FakeProcessTable, secret: bytes = bytes(32), **rules: tuple[str, ...]) -> Holders:
    return Holders(table, NameSealer(secret), OWN_PID, **rules)


@pytest.mark.parametrize("name", sorted(IGNORABLE))
def test_processes_that_hold_a_gpu_without_working_on_it_are_nobody(table: FakeProcessTable, name: str) -> None:
    table.add(5000, name, user="root")
    assert holders(table).resolve([GpuProcess(5000, None)]) == ()


def test_the_names_that_are_ignored_fit_what_the_kernel_keeps_of_them() -> None:
    long = {name for name in IGNORABLE if len(name) > 15}
    assert {name[:15] for name in long if name.startswith("nvidia-pers")} <= IGNORABLE
    assert "nvidia-smi" not in IGNORABLE


def test_the_agent_itself_holds_nothing(table: FakeProcessTable) -> None:
    table.add(OWN_PID, "python3")
    assert holders(table).resolve([GpuProcess(OWN_PID, None)]) == ()


def test_a_process_that_is_not_visible_holds_all_the_same_and_has_no_user(table: FakeProcessTable) -> None:
    found = holders(table)
    (holder,) = found.resolve([GpuProcess(9_999, 5)])
    assert (holder.user, holder.memory_bytes, holder.is_operator) == (None, 5, False)
    assert found.openings([holder.workload])[holder.workload][1] == "process 9999 (not visible)"


def test_an_operators_rule_knows_users_and_executables_and_nobody_else(table: FakeProcessTable) -> None:
    table.add(4400, "bench", user="burn-in")
    found = holders(table, operator_users=("burn-in",), operator_executables=("dcgmproftester12",))
    processes = [GpuProcess(pid, None) for pid in (4100, 4200, 4400, 9_999)]
    kinds = {found.openings([h.workload])[h.workload][1].split()[0]: h.is_operator for h in found.resolve(processes)}
    assert kinds == {"python3": False, "dcgmproftester12": True, "bench": True, "process": False}


def test_two_processes_of_one_program_are_two_workloads_of_one_user(table: FakeProcessTable) -> None:
    table.add(4101, "python3")
    first, second = holders(table).resolve([GpuProcess(4100, 1), GpuProcess(4101, 2)])
    assert first.workload != second.workload
    assert first.user == second.user
    assert first.workload < second.workload


def test_two_processes_with_one_very_long_name_are_two_workloads(table: FakeProcessTable) -> None:
    for pid in (5001, 5002):
        table.add(pid, "x" * 255)
    assert len(holders(table).resolve([GpuProcess(5001, 1), GpuProcess(5002, 2)])) == 2


def test_a_digest_opens_to_its_name_with_the_salt_that_comes_with_it(table: FakeProcessTable) -> None:
    found = holders(table)
    (holder,) = found.resolve([GpuProcess(4100, None)])
    assert holder.user is not None
    openings = found.openings([holder.workload, holder.user, "f" * 64])
    assert {name for _, name in openings.values()} == {"python3 (pid 4100, started 7)", "mei"}
    for digest, (salt, name) in openings.items():
        assert digest_name(bytes.fromhex(salt), name) == digest
        assert len(bytes.fromhex(salt)) == 16


def test_one_name_has_one_digest_on_a_node_and_another_on_another_node(table: FakeProcessTable) -> None:
    process = [GpuProcess(4100, None)]
    assert holders(table).resolve(process) == holders(table).resolve(process)
    assert holders(table).resolve(process) != holders(table, secret=b"\1" * 32).resolve(process)


def test_the_names_that_are_remembered_are_bounded_and_the_newest_open(
    table: FakeProcessTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holders_module, "_NAMES_KEPT_MAX", 10)
    found = holders(table)
    digests = []
    for pid in range(6_000, 6_050):
        (holder,) = found.resolve([GpuProcess(pid, None)])
        digests.append(holder.workload)
    assert set(found.openings(digests)) == set(digests[-10:])


# ---------------------------------------------------------------------------------------------- the door to processes


@pytest.fixture
def renamed() -> Iterator[None]:
    """This process under a name that is not UTF-8, as any user may call theirs."""
    path = Path("/proc/self/comm")
    before = path.read_bytes().strip()
    path.write_bytes(b"caf\xe9\xff")
    yield
    path.write_bytes(before)


def test_a_live_process_has_a_name_a_user_and_a_start() -> None:
    facts = SystemProcessTable().describe(os.getpid())
    assert facts is not None
    assert facts.name != ""
    assert facts.user is not None
    assert facts.started_s > 0


@pytest.mark.usefixtures("renamed")
def test_a_process_whose_name_is_not_utf8_is_described_in_text_that_can_be_sealed() -> None:
    table = SystemProcessTable()
    facts = table.describe(os.getpid())
    assert facts is not None
    assert facts.name.encode("utf-8").startswith(b"caf")
    found = Holders(table, NameSealer(bytes(32)), own_pid=1)
    (holder,) = found.resolve([GpuProcess(os.getpid(), None)])
    assert len(holder.workload) == 64


@pytest.mark.parametrize("pid", [0, 2**22 + 5, 2**31, 2**32 - 1])
def test_a_pid_that_is_no_process_here_is_not_visible(pid: int) -> None:
    assert SystemProcessTable().describe(pid) is None
