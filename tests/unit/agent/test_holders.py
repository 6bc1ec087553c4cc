# SPDX-License-Identifier: Apache-2.0
"""Holders and the door to processes: who holds a GPU, and what of their names leaves the node."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpuledger.sealing import NameSealer, digest_name
from gpuledger_agent import holders as holders_module
from gpuledger_agent.allocations import Allocation, Devices
from gpuledger_agent.holders import IGNORABLE, Holders
from gpuledger_agent.nvml import GpuProcess
from gpuledger_agent.pod_names import PodNames
from gpuledger_agent.processes import SystemProcessTable
from gpuledger_agent.snapshot import Holder
from gpuledger_agent.workloads import Source
from tests.fakes.processes import FakeProcessTable

OWN_PID = 77


@pytest.fixture
def table() -> FakeProcessTable:
    return FakeProcessTable(p4100="python3", p4200="dcgmproftester12", p4300="nvidia-persiste")


def holders(
    table: FakeProcessTable,
    secret: bytes = bytes(32),
    operator_users: tuple[str, ...] = (),
    operator_executables: tuple[str, ...] = (),
    operator_cgroups: tuple[str, ...] = (),
) -> Holders:
    return Holders(
        table,
        NameSealer(secret),
        OWN_PID,
        operator_users,
        operator_executables,
        operator_cgroups=operator_cgroups,
    )


def name_of(found: Holders, holder: Holder) -> str:
    return found.openings([holder.workload])[holder.workload][1]


def names_of(found: Holders, *processes: GpuProcess) -> list[str]:
    return sorted(name_of(found, holder) for holder in found.resolve(processes))


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
    assert found.openings([holder.workload])[holder.workload][1] == "process:?/9999"


def test_an_operators_rule_knows_users_and_executables_and_nobody_else(table: FakeProcessTable) -> None:
    table.add(4400, "bench", user="burn-in")
    found = holders(table, operator_users=("burn-in",), operator_executables=("dcgmproftester12",))
    processes = [GpuProcess(pid, None) for pid in (4100, 4200, 4400, 9_999)]
    operators = {name_of(found, holder): holder.is_operator for holder in found.resolve(processes)}
    assert operators == {
        "process:python3/4100@7.50": False,
        "process:dcgmproftester12/4200@7.50": True,
        "process:bench/4400@7.50": True,
        "process:?/9999": False,
    }


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
    assert {name for _, name in openings.values()} == {"process:python3/4100@7.50", "mei"}
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


JOB = "0::/system.slice/slurmstepd.scope/job_12/step_{step}/user/task_0\n"
UNIT = "0::/system.slice/{name}.service\n"


def test_many_processes_of_a_job_on_a_gpu_are_one_holder_with_all_their_memory(table: FakeProcessTable) -> None:
    for pid, step in ((6001, "0"), (6002, "0"), (6003, "batch")):
        table.add(pid, "python3", cgroup=JOB.format(step=step))
    found = holders(table)
    (holder,) = found.resolve([GpuProcess(6003, 5), GpuProcess(6001, 7), GpuProcess(6002, 11)])
    assert (name_of(found, holder), holder.memory_bytes, holder.source) == ("slurm:12", 23, "slurm_job")
    (holder,) = found.resolve([GpuProcess(6001, 7), GpuProcess(6002, None)])
    assert holder.memory_bytes is None, "a sum with an unknown part is unknown"


def test_a_workload_on_many_gpus_has_one_digest_and_keeps_it_over_a_restart(table: FakeProcessTable) -> None:
    for pid in (6001, 6002):
        table.add(pid, "python3", cgroup=JOB.format(step="0"), started_s=pid)
    first, second = holders(table), holders(table)
    digests = [found.resolve([GpuProcess(pid, 1)])[0].workload for found in (first, second) for pid in (6001, 6002)]
    assert len(set(digests)) == 1


def test_a_process_that_came_under_an_old_pid_is_another_workload(table: FakeProcessTable) -> None:
    found = holders(table)
    before = names_of(found, GpuProcess(4100, 1))
    table.add(4100, "python3", started_s=8.5, cgroup=UNIT.format(name="vllm"))
    assert before == ["process:python3/4100@7.50"]
    assert names_of(found, GpuProcess(4100, 1)) == ["unit:vllm.service"]


def test_a_job_without_a_cgroup_is_known_by_the_slurmstepd_above_it(table: FakeProcessTable) -> None:
    table.add(6001, "python3", cgroup=UNIT.format(name="slurmd"))
    table.add(6002, "python3")
    table.step_titles = {6001: "slurmstepd: [7.0]", 6002: "slurmstepd: [7.batch]"}
    assert names_of(holders(table), GpuProcess(6001, 1), GpuProcess(6002, 1)) == ["slurm:7"]


def test_the_cluster_goes_into_the_names_of_its_jobs(table: FakeProcessTable) -> None:
    table.add(6001, "python3", cgroup=JOB.format(step="0"))
    assert names_of(Holders(table, NameSealer(bytes(32)), OWN_PID, slurm_cluster="fra"), GpuProcess(6001, 1)) == [
        "slurm:fra/12"
    ]


SLUID = "0::/system.slice/slurmstepd.scope/s5K1KKYAYG5D00/step_0/user/task_0\n"


def test_a_job_whose_cgroup_has_its_other_id_alone_is_known_by_its_daemon_or_its_file(table: FakeProcessTable) -> None:
    table.add(6001, "python3", cgroup=SLUID)
    found = holders(table)
    assert names_of(found, GpuProcess(6001, 1)) == ["slurm:s5K1KKYAYG5D00"]
    found.job_by_sluid = {"s5K1KKYAYG5D00": "41"}
    assert names_of(found, GpuProcess(6001, 1)) == ["slurm:41"]
    table.step_titles = {6001: "slurmstepd: [42.0]"}
    assert names_of(holders(table), GpuProcess(6001, 1)) == ["slurm:42"]


def test_the_user_is_the_one_that_the_path_names_else_the_process_own(table: FakeProcessTable) -> None:
    table.users = {1000: "ada", 7: "grace"}
    scope = "0::/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-" + "a" * 64 + ".scope/container\n"
    table.add(6001, "python3", user="100999", cgroup=scope)
    table.add(6002, "python3", user="root", cgroup="3:memory:/slurm/uid_7/job_9/step_0\n")
    table.add(6003, "python3", user="mei", cgroup=UNIT.format(name="vllm"))
    found = holders(table)
    users = {}
    for holder in found.resolve([GpuProcess(pid, 1) for pid in (6001, 6002, 6003)]):
        assert holder.user is not None
        users[name_of(found, holder)] = found.openings([holder.user])[holder.user][1]
    assert users == {"container:podman/aaaaaaaaaaaa": "ada", "slurm:9": "grace", "unit:vllm.service": "mei"}


def test_what_users_start_from_one_unit_is_each_users_own(table: FakeProcessTable) -> None:
    for pid, user in ((6001, "ada"), (6002, "grace"), (6003, "ada")):
        table.add(pid, "python3", user=user, cgroup=UNIT.format(name="cron"))
    found = holders(table).resolve([GpuProcess(pid, 1) for pid in (6001, 6002, 6003)])
    assert len({holder.workload for holder in found}) == 1
    assert sorted(holder.memory_bytes or 0 for holder in found) == [1, 2]


def test_a_workload_is_the_operators_only_if_all_of_it_is(table: FakeProcessTable) -> None:
    table.add(6001, "python3", cgroup=JOB.format(step="0"))
    table.add(6002, "dcgmproftester12", cgroup=JOB.format(step="1"))
    found = holders(table, operator_executables=("dcgmproftester12",))
    assert [holder.is_operator for holder in found.resolve([GpuProcess(6002, 1)])] == [True]
    assert [holder.is_operator for holder in found.resolve([GpuProcess(6001, 1), GpuProcess(6002, 1)])] == [False]


def test_an_operators_rule_knows_cgroups_with_all_below_and_by_pattern(table: FakeProcessTable) -> None:
    table.add(6001, "bench", cgroup="0::/system.slice/burn-in.service/gpu0\n")
    table.add(6002, "bench", cgroup="5:devices:/operator/night-7/x\n0::/\n")
    table.add(6003, "bench", cgroup="0::/system.slice/burn-in.service.d\n")
    found = holders(table, operator_cgroups=("/system.slice/burn-in.service", "/operator/night-*"))
    kinds = {pid: found.resolve([GpuProcess(pid, 1)])[0].is_operator for pid in (6001, 6002, 6003)}
    assert kinds == {6001: True, 6002: True, 6003: False}


def test_a_server_of_mps_is_nobody_and_its_clients_hold_the_gpu(table: FakeProcessTable) -> None:
    table.add(5000, "nvidia-cuda-mps-server", user="root")
    server, client = GpuProcess(5000, 30, False), GpuProcess(4100, 70, True)
    found = holders(table)
    assert found.resolve([server]) == ()
    assert names_of(found, server, client) == ["process:python3/4100@7.50"]


def test_a_server_of_mps_whose_clients_the_driver_does_not_list_stands_for_them(table: FakeProcessTable) -> None:
    table.add(5000, "nvidia-cuda-mps-server", user="root", cgroup=JOB.format(step="0"))
    assert names_of(holders(table), GpuProcess(5000, 30, None)) == ["slurm:12"]


POD = (
    "0::/kubepods.slice/kubepods-podf6adb0af_0855_4bab_b25b_c853f18d0ce2.slice/cri-containerd-" + "b" * 64 + ".scope\n"
)


def test_a_pod_has_its_names_once_the_kubelet_has_made_its_link(table: FakeProcessTable, tmp_path: Path) -> None:
    table.add(6001, "python3", cgroup=POD)
    found = Holders(table, NameSealer(bytes(32)), OWN_PID, pod_names=PodNames(tmp_path))
    process = GpuProcess(6001, 1)
    assert names_of(found, process) == ["pod:f6adb0af-0855-4bab-b25b-c853f18d0ce2/bbbbbbbbbbbb"]
    (tmp_path / f"train-0_ml_main-{'b' * 64}.log").symlink_to("nowhere")
    assert names_of(found, process) == ["pod:ml/train-0/main"]
    (tmp_path / f"train-0_ml_main-{'b' * 64}.log").unlink()
    assert names_of(found, process) == ["pod:ml/train-0/main"], "what a process was called stays"
    assert names_of(Holders(table, NameSealer(bytes(32)), OWN_PID), process) == [
        "pod:f6adb0af-0855-4bab-b25b-c853f18d0ce2/bbbbbbbbbbbb"
    ]


def test_a_pod_that_is_new_is_told_of_once(table: FakeProcessTable) -> None:
    found = holders(table)
    found.resolve([GpuProcess(4100, 1)])
    assert not found.take_new_pod()
    table.add(6001, "python3", cgroup=POD)
    found.resolve([GpuProcess(6001, 1)])
    found.resolve([GpuProcess(6001, 1)])
    assert found.take_new_pod()
    assert not found.take_new_pod()


def test_who_was_given_a_gpu_has_the_digest_of_who_holds_it(table: FakeProcessTable) -> None:
    table.add(6001, "python3", cgroup=JOB.format(step="0"))
    found = holders(table)
    (holder,) = found.resolve([GpuProcess(6001, 1)])
    given = Allocation(name="slurm:12", source=Source.SLURM_JOB, user="mei", devices=Devices())
    allocated = found.of_allocation(given)
    assert (allocated.workload, allocated.user, allocated.source) == (holder.workload, holder.user, "slurm_job")


def test_the_processes_that_are_remembered_are_bounded(
    table: FakeProcessTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holders_module, "_PROCESSES_KEPT_MAX", 3)
    found = holders(table)
    for pid in range(6_000, 6_020):
        table.add(pid, "python3")
        assert len(found.resolve([GpuProcess(pid, None)])) == 1
    assert len(found._known) == 3


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


def test_a_process_start_is_counted_from_the_boot_and_its_cgroup_is_read() -> None:
    facts = SystemProcessTable().describe(os.getpid())
    assert facts is not None
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    assert facts.started_s == ticks / os.sysconf("SC_CLK_TCK")
    assert facts.cgroup == Path("/proc/self/cgroup").read_text()


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    """A process of our own that does nothing."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


def test_what_was_read_of_a_process_stands_until_it_is_gone(child: subprocess.Popen[bytes]) -> None:
    table = SystemProcessTable()
    first = table.describe(child.pid)
    assert first is not None
    assert table.describe(child.pid) is first
    child.kill()
    child.wait()
    assert table.describe(child.pid) is None


def test_a_process_that_descends_from_no_slurmstepd_has_no_step(child: subprocess.Popen[bytes]) -> None:
    assert SystemProcessTable().step_title(child.pid) is None
    assert SystemProcessTable().step_title(2**22 + 5) is None


def test_a_user_has_a_name_or_is_a_number() -> None:
    table = SystemProcessTable()
    assert table.user_name(0) == "root"
    assert table.user_name(4_000_000_001) == "4000000001"
    assert table.user_name(2**40) == str(2**40)
