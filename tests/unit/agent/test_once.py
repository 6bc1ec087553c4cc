# SPDX-License-Identifier: Apache-2.0
"""`gpuledger agent once`: what a person at the node is shown, and what a script makes of the exit code."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from gpuledger.cli import main
from gpuledger.clock import Clock
from gpuledger.errors import GpuledgerError
from gpuledger.states import State
from gpuledger_agent import cli, once
from gpuledger_agent.config import AgentConfig
from gpuledger_agent.decision import Floors
from gpuledger_agent.floors_file import FLOORS_FILE, FloorsFile
from gpuledger_agent.nvml import Nvml
from gpuledger_agent.once import Look, look, render
from gpuledger_agent.processes import ProcessTable
from gpuledger_agent.simulate import SimulatedNvml, SimulatedProcesses
from gpuledger_agent.snapshot import GpuSnapshot, Growth, Health, HealthFacts
from tests.fakes.clock import FakeClock
from tests.fakes.hosts import Host
from tests.fakes.nvml import LOST, NOT_LOADED, UNKNOWN, FakeGpu, FakeNvml, gpus, instance
from tests.fakes.processes import FakeProcessTable

HOLDERS = "nvmlDeviceGetComputeRunningProcesses"
ACTIVITY = "nvmlDeviceGetUtilizationRates"
HEALTH = ("nvmlDeviceGetFieldValues", "nvmlDeviceGetRemappedRows")


@pytest.fixture(autouse=True)
def own_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


class Node:
    """A node of fakes that can be looked at."""

    def __init__(self, *devices: FakeGpu) -> None:
        self.clock = FakeClock()
        self.binding = FakeNvml(self.clock, list(devices))
        self.processes = FakeProcessTable(p4100="python3", p4200="vllm")

    def sources(self, simulate: str | None = None) -> tuple[Clock, Nvml, ProcessTable]:
        return self.clock, Nvml(self.binding), self.processes

    def look(self, config: AgentConfig | None = None) -> Look:
        return look(AgentConfig() if config is None else config, *self.sources())


def lines(node: Node, config: AgentConfig | None = None) -> list[str]:
    """Return the table's lines below its head."""
    text = render(node.look(config)).splitlines()
    assert text[2].split() == ["GPU", "MODEL", "STATE", "WHY", "ACTIVITY", "MEMORY", "POWER", "HEALTH", "HELD", "BY"]
    return text[3:]


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.split("  ") if cell.strip()]


def test_a_busy_gpu_shows_everything_in_one_line() -> None:
    (line,) = lines(Node(gpus(1)[0].work(93, 4100)))
    assert cells(line) == [
        "0",
        "NVIDIA H100 80GB HBM3",
        "busy",
        "a process, and activity above 5 %",
        "93 % (polled)",
        "8.0 / 79.6 GiB",
        "500 W",
        "clean",
        "mei: python3 (pid 4100)",
    ]


def test_each_further_holder_has_a_line_under_the_first() -> None:
    first, second = lines(Node(gpus(1)[0].work(3, 4200, 4100, 9999)))[:2]
    assert cells(first)[2:4] == ["held", "a process, and activity of at most 5 %"]
    assert cells(first)[-1] == "?: process 9999 (not visible)"
    assert cells(second) == ["mei: python3 (pid 4100)"]
    assert first.index("?: process") == second.index("mei:")


def failing(*functions: str) -> FakeGpu:
    gpu = gpus(1)[0].work(50, 4100)
    gpu.fails.update(dict.fromkeys(functions, UNKNOWN))
    return gpu


def idle(percent: int = 0, *functions: str) -> FakeGpu:
    gpu = gpus(1)[0]
    gpu.percent = percent
    gpu.fails.update(dict.fromkeys(functions, UNKNOWN))
    return gpu


@pytest.mark.parametrize(
    ("gpu", "state", "why"),
    [
        (idle(), "free", "no process"),
        (idle(50), "unmeasured", "activity without a process"),
        (idle(0, *HEALTH), "unmeasured", "no process, and its health is not known"),
        (failing(HOLDERS), "unmeasured", "who holds it is not known"),
        (failing(ACTIVITY), "unmeasured", "its activity is not known"),
        (FakeGpu("GPU-1", recovery_action=1), "down", "the driver recommends a recovery action"),
        (FakeGpu("GPU-1", is_row_remap_failed=True), "down", "memory rows could not be remapped"),
    ],
)
def test_the_state_comes_with_its_reason(gpu: FakeGpu, state: str, why: str) -> None:
    (line,) = lines(Node(gpu))
    assert cells(line)[2:4] == [state, why]


def test_the_operators_own_load_is_told_by_the_configuration() -> None:
    (line,) = lines(Node(gpus(1)[0].work(93, 4100)), AgentConfig(operator_users=("mei",)))
    assert cells(line)[2:4] == ["operator", "only the operator's own load"]


def test_what_is_not_known_is_a_question_mark_and_never_a_zero() -> None:
    (line,) = lines(Node(failing(HOLDERS, ACTIVITY, *HEALTH, "nvmlDeviceGetTotalEnergyConsumption")))
    assert cells(line)[4:] == ["?", "8.0 / 79.6 GiB", "?", "?", "?"]
    gpu = gpus(1)[0]
    gpu.fails["nvmlDeviceGetMemoryInfo"] = UNKNOWN
    (line,) = lines(Node(gpu))
    assert cells(line)[5] == "? / ? GiB"
    assert cells(line)[4] == "0 % (polled)"


def test_a_reserved_gpu_shows_whom_it_was_given_to(tmp_path: Path) -> None:
    leases = tmp_path / "leases.toml"
    leases.write_text('[[lease]]\nholder = "ACME"\ngpus = [0]\n')
    line = lines(Node(gpus(1)[0]), AgentConfig(lease_file=leases))[0]
    assert cells(line)[2:4] == ["reserved", "allocated, and no process"]
    assert cells(line)[-1] == "?: lease:ACME"


def test_a_name_cannot_drive_the_terminal() -> None:
    node = Node(gpus(1)[0].work(93, 4100))
    node.processes.add(4100, "\x1b[2Jevil\n", user="a\x07b")
    (line,) = lines(node)
    assert cells(line)[-1] == "a?b: ?[2Jevil? (pid 4100)"


def test_a_gpu_of_which_no_call_answers_is_not_observed() -> None:
    node = Node(*gpus(2))
    node.binding.gpus[1].fails.update(
        {name: UNKNOWN for name in dir(FakeNvml) if name.startswith("nvmlDevice") and "Handle" not in name}
    )
    del node.binding.gpus[1].fails["nvmlDeviceGetUUID"]
    found = node.look()
    assert not found.is_whole
    assert cells(render(found).splitlines()[4])[2:4] == ["not observed", "no call about it answers"]


def test_the_driver_is_let_go_of_whatever_happens() -> None:
    node = Node(*gpus(1))
    node.look()
    assert node.binding.attached == 0
    node.binding.fails["nvmlDeviceGetCount"] = NOT_LOADED
    with pytest.raises(GpuledgerError, match="kernel driver is not loaded"):
        node.look()
    assert node.binding.attached == 0


# ---------------------------------------------------------------------------------------------- the command


Call = Callable[..., Result]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Call]:
    monkeypatch.chdir(tmp_path)

    def run(node: Node, *arguments: str) -> Result:
        monkeypatch.setattr(cli, "_sources", node.sources)
        return CliRunner().invoke(main, ["agent", "once", *arguments])

    yield run
    assert list(tmp_path.iterdir()) == [], "nothing is written"


def test_exit_codes_tell_a_script_what_a_person_reads(call: Call) -> None:
    assert call(Node(*gpus(2))).exit_code == 0
    assert call(Node(gpus(1)[0].work(93, 4100))).exit_code == 0
    assert call(Node(FakeGpu("GPU-1", recovery_action=1))).exit_code == 3
    none = call(Node())
    assert (none.exit_code, none.stderr) == (1, "Error: the NVIDIA driver answers and lists no GPU\n")
    absent = Node()
    absent.binding.fails["nvmlInit"] = NOT_LOADED
    assert call(absent).exit_code == 1
    assert call(Node(*gpus(1)), "--config", "none.toml").exit_code == 2
    assert CliRunner().invoke(main, ["agent", "once", "--colour"]).exit_code == 2


def test_a_gpu_that_was_lost_before_the_look_is_said_and_counts(call: Call) -> None:
    lost = gpus(2)
    lost[1].fails["nvmlDeviceGetHandleByIndex"] = LOST
    result = call(Node(*lost))
    assert result.exit_code == 3
    assert "1 more GPU(s) listed by the driver could not be identified" in result.stdout


def test_a_divided_gpu_has_a_line_for_each_instance_and_one_for_what_no_instance_has() -> None:
    (gpu,) = gpus(1)
    working = instance(2, 3, 4100, 4200)
    working.gpm = {1: (0, 64.0)}
    gpu.gpm, gpu.instances = {}, [working, instance(9, 1)]
    board, first, more, second, rest = lines(Node(gpu))
    assert cells(board)[:4] == ["0", "NVIDIA H100 80GB HBM3", "divided", "into GPU instances (MIG)"]
    assert cells(first) == [
        "0/2",
        "3g.30gb (3/7)",
        "busy",
        "a process, and activity above 5 %",
        "64 % (gpm)",
        "2.0 / 30.0 GiB",
        "mei: python3 (pid 4100)",
    ]
    assert cells(more) == ["mei: vllm (pid 4200)"]
    assert cells(second)[:3] == ["0/9", "1g.10gb (1/7)", "free"]
    assert cells(rest) == ["3/7 in no instance", "free", "no process", "-"]


def test_a_simulated_node_of_divided_gpus_can_be_looked_at() -> None:
    clock = FakeClock()
    found = look(AgentConfig(), clock, Nvml(SimulatedNvml("shared", clock)), SimulatedProcesses())
    assert all(gpu.seen.is_divided for gpu in found.gpus)
    assert all(sum(part.slices for part in gpu.parts) == 7 for gpu in found.gpus)
    states = {part.result for gpu in found.gpus for part in gpu.parts}
    assert states == {State.BUSY, State.HELD, State.FREE}


def test_a_simulated_node_says_so_first(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeClock()
    found = look(AgentConfig(), clock, Nvml(SimulatedNvml("training", clock)), SimulatedProcesses())
    assert len(found.gpus) == 8
    text = render(found)
    assert text.startswith("SIMULATED: these GPUs do not exist\n")
    assert "SIMULATED mei: SIMULATED python3 (pid 4100)" in text
    assert not render(Node(*gpus(1)).look()).startswith("SIMULATED")
    refused = CliRunner().invoke(main, ["agent", "once", "--simulate", "chaos"])
    assert refused.exit_code == 2
    assert once.SAMPLE_MS == 1_000


def test_the_idle_power_that_the_service_has_learnt_is_shown_beside_the_power(tmp_path: Path) -> None:
    node = Node(*gpus(3))
    node.binding.gpus[0].work(93, 4100)
    uuids = [gpu.uuid for gpu in node.binding.gpus]
    learnt = {uuids[0]: Floors(parked_mw=115_000), uuids[1]: Floors(parked_mw=115_000, bare_mw=69_800)}
    FloorsFile(tmp_path / FLOORS_FILE).save(learnt, node.clock.wall_ns() // 1_000_000)
    found = lines(node, AgentConfig(state_dir=tmp_path))
    assert [cells(line)[6] for line in found] == ["500 W (idle: 115 W)", "70 W (idle: 70 W)", "70 W"]


@pytest.mark.parametrize(
    ("seen", "words"),
    [
        (GpuSnapshot(), "?"),
        (GpuSnapshot(health=Health.CLEAN), "clean"),
        (
            GpuSnapshot(health=Health.FATAL_XID, xids=((48, None), (48, None), (31, 2), (999, None))),
            "fatal xid, Xid 31 (GPU memory page fault), Xid 48 (double-bit ECC error), Xid 999",
        ),
        (
            GpuSnapshot(health=Health.RECOVERY_ACTION, health_facts=HealthFacts(recovery_action=1)),
            "reset gpu",
        ),
        (GpuSnapshot(health=Health.CLEAN, health_facts=HealthFacts(is_remap_pending=True)), "clean, rows to remap"),
        (GpuSnapshot(health=Health.CLEAN, ecc_errors={"corrected": 3}), "clean, corrected memory errors"),
        (
            GpuSnapshot(
                health=Health.CLEAN,
                throttled={"hw_thermal": Growth(since_ms=0, amount=5), "sw_thermal": Growth(since_ms=0, amount=0)},
            ),
            "clean, throttled by hw thermal",
        ),
    ],
)
def test_what_is_wrong_with_a_gpu_is_shown_in_a_word_or_two(seen: GpuSnapshot, words: str) -> None:
    assert once._health(seen) == words


def test_health_is_read_twice_so_that_its_counters_are_of_this_second() -> None:
    gpu = gpus(1)[0]
    gpu.values = {144: (0, 1)}
    node = Node(gpu)
    assert cells(lines(node)[0])[7] == "clean, rows to remap"
    assert node.binding.calls["nvmlDeviceGetFieldValues"] == 2


# ---------------------------------------------------------------------------------------------- virtual machines


def test_gpus_of_virtual_machines_are_listed_unmeasured_with_the_machine_and_nothing_is_written(tmp_path: Path) -> None:
    host = Host(tmp_path)
    host.add("0000:4d:00.0", "vfio-pci")
    host.add("0000:5d:00.0", "vfio-pci")
    host.add("0000:1b:00.0", "nvidia")
    host.run("rented-7", "0000:4d:00.0")
    node, state = Node(*gpus(1)), tmp_path / "state"
    state.mkdir()
    where = once.Host(sysfs=host.sysfs, libvirt=(host.libvirt,))
    found = look(AgentConfig(state_dir=state), *node.sources(), where)
    own, rented, other = (cells(line) for line in render(found).splitlines()[3:])
    assert own[2] == "free"
    why = "a virtual machine has it (vfio-pci)"
    assert rented[:4] == ["-", "0000:4d:00.0", "unmeasured", why]
    assert (rented[-1], other[-1]) == ("virtual machine rented-7", "?")
    assert found.is_whole, "a GPU in a machine is not at fault"
    assert list(state.iterdir()) == []


def test_a_node_whose_gpus_are_all_in_virtual_machines_needs_no_driver(tmp_path: Path) -> None:
    host = Host(tmp_path)
    host.add("0000:4d:00.0", "vfio-pci")
    node = Node()
    node.binding.fails["nvmlInit"] = NOT_LOADED
    found = look(AgentConfig(), *node.sources(), once.Host(sysfs=host.sysfs, libvirt=()))
    assert [gpu.result for gpu in found.gpus] == [State.UNMEASURED]
    with pytest.raises(GpuledgerError, match="not loaded"):
        look(AgentConfig(), *node.sources(), once.Host(sysfs=tmp_path / "nothing", libvirt=()))
