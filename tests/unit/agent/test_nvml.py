# SPDX-License-Identifier: Apache-2.0
"""The door to NVML: every error a sentence or a None, and only nvidia-ml-py behind it."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gpuledger_agent.nvml import BindingUnusable, CallFailed, DriverUnavailable, GpuLost, GpuProcess, Nvml
from gpuledger_agent.nvml_fields import FI_ENERGY, NvmlFields
from tests.fakes.clock import FakeClock
from tests.fakes.nvml import LOST, NO_PERMISSION, NOT_SUPPORTED, UNKNOWN, FakeNvml, gpus
from tests.fakes.nvml_shapes import FakeMismatchError


@pytest.fixture
def fake() -> FakeNvml:
    return FakeNvml(FakeClock(), gpus(1))


@pytest.fixture
def nvml(fake: FakeNvml) -> Nvml:
    door = Nvml(fake)
    door.attach()
    return door


def test_the_installed_binding_has_every_name_the_door_uses() -> None:
    assert Nvml().is_simulated is False


def test_a_binding_that_is_not_installed_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(BindingUnusable, match="nvidia-ml-py is not installed; install it with: pip install"):
        Nvml()


def test_another_package_that_calls_itself_pynvml_is_one_sentence_that_names_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    impostor = tmp_path / "pynvml"
    impostor.mkdir()
    (impostor / "__init__.py").write_text("def nvmlInit(): pass\nclass NVMLError(Exception): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "pynvml", raising=False)
    with pytest.raises(
        BindingUnusable, match=f"^{impostor}/__init__.py: .*it has no NVMLLibraryMismatchError.*nvidia-"
    ):
        Nvml()
    monkeypatch.delitem(sys.modules, "pynvml", raising=False)


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (12, "libnvidia-ml.so.1 was not found"),
        (9, "the NVIDIA kernel driver is not loaded"),
        (18, "of another version than the loaded kernel module"),
        (4, "no permission to use the NVIDIA driver"),
        (999, "NVML cannot be used: unknown"),
        (15, "NVML cannot be used: gpu_is_lost"),
        (4242, "NVML cannot be used: error_4242"),
    ],
)
def test_an_initialisation_that_fails_says_why(fake: FakeNvml, code: int, text: str) -> None:
    fake.fails["nvmlInit"] = code
    with pytest.raises(DriverUnavailable, match=text):
        Nvml(fake).attach()


def test_letting_go_of_a_library_that_is_gone_is_no_error(nvml: Nvml, fake: FakeNvml) -> None:
    fake.fails["nvmlShutdown"] = 1
    nvml.detach()


def test_what_the_driver_does_not_offer_is_none_and_what_fails_is_an_error(nvml: Nvml, fake: FakeNvml) -> None:
    handle = nvml.handle(0)
    fake.gpus[0].fails["nvmlDeviceGetTotalEnergyConsumption"] = NOT_SUPPORTED
    assert nvml.energy_mj(handle) is None
    fake.gpus[0].fails["nvmlDeviceGetTotalEnergyConsumption"] = NO_PERMISSION
    with pytest.raises(CallFailed, match="nvmlDeviceGetTotalEnergyConsumption failed: no_permission"):
        nvml.energy_mj(handle)
    fake.gpus[0].fails["nvmlDeviceGetTotalEnergyConsumption"] = LOST
    with pytest.raises(GpuLost):
        nvml.energy_mj(handle)


@pytest.mark.parametrize("code", [NOT_SUPPORTED, 13, UNKNOWN])
def test_what_every_driver_offers_fails_where_one_does_not(nvml: Nvml, fake: FakeNvml, code: int) -> None:
    fake.gpus[0].fails["nvmlDeviceGetHandleByIndex"] = code
    with pytest.raises(CallFailed):
        nvml.handle(0)


def test_a_driver_that_only_has_the_old_memory_call_is_asked_the_old_way(nvml: Nvml, fake: FakeNvml) -> None:
    def old(handle: Any, version: int | None = None) -> Any:
        if version is not None:
            raise FakeMismatchError
        return SimpleNamespace(used=3, total=9)

    fake.nvmlDeviceGetMemoryInfo = old  # type: ignore[method-assign]
    assert nvml.memory_bytes(nvml.handle(0)) == (3, 9)


def test_a_process_in_several_lists_is_one_with_the_most_memory_that_is_known(nvml: Nvml, fake: FakeNvml) -> None:
    fake.gpus[0].processes = [(5, None), (6, 70), (5, 30), (7, None)]
    listed = nvml.processes(nvml.handle(0))
    assert listed is not None
    assert [(process.pid, process.memory_bytes) for process in listed] == [(5, 30), (6, 70), (7, None)]


def test_clients_of_mps_are_told_from_others_where_the_driver_lists_them(nvml: Nvml, fake: FakeNvml) -> None:
    fake.gpus[0].processes = [(5, 30), (6, 70)]
    assert nvml.processes(nvml.handle(0)) == [GpuProcess(5, 30, None), GpuProcess(6, 70, None)]
    fake.gpus[0].mps_clients = [(6, 80), (7, None)]
    expected = [GpuProcess(5, 30, False), GpuProcess(6, 80, True), GpuProcess(7, None, True)]
    assert nvml.processes(nvml.handle(0)) == expected


def test_the_number_of_the_device_file_is_not_the_index(nvml: Nvml, fake: FakeNvml) -> None:
    fake.gpus[0].minor = 6
    identity = nvml.identity(nvml.handle(0), 0)
    assert (identity.index, identity.minor_number) == (0, 6)
    fake.gpus[0].fails["nvmlDeviceGetMinorNumber"] = NOT_SUPPORTED
    assert nvml.identity(nvml.handle(0), 0).minor_number is None


def test_a_process_list_of_which_a_part_failed_is_unknown_as_a_whole(nvml: Nvml, fake: FakeNvml) -> None:
    fake.gpus[0].fails["nvmlDeviceGetGraphicsRunningProcesses"] = UNKNOWN
    with pytest.raises(CallFailed):
        nvml.processes(nvml.handle(0))


def test_identity_keeps_what_could_be_read(nvml: Nvml, fake: FakeNvml) -> None:
    for function in ("nvmlDeviceGetSerial", "nvmlDeviceGetPciInfo", "nvmlDeviceGetMemoryInfo"):
        fake.gpus[0].fails[function] = UNKNOWN
    identity = nvml.identity(nvml.handle(0), 0)
    assert (identity.serial, identity.pci_bus_id, identity.memory_total_bytes) == (None, None, None)
    assert identity.model == "NVIDIA H100 80GB HBM3"


def test_a_board_that_says_something_that_is_no_text_has_no_serial(nvml: Nvml, fake: FakeNvml) -> None:
    def garbage(handle: Any) -> str:
        return b"\xff\xfe".decode()

    fake.nvmlDeviceGetSerial = garbage  # type: ignore[method-assign]
    assert nvml.identity(nvml.handle(0), 0).serial is None


@pytest.mark.parametrize("kind", [0, 7, 99])
def test_a_field_of_an_unexpected_kind_is_a_failed_call(nvml: Nvml, fake: FakeNvml, kind: int) -> None:
    def strange(handle: Any, fields: list[int]) -> list[Any]:
        return [SimpleNamespace(nvmlReturn=0, valueType=kind, value=SimpleNamespace(dVal=float("nan")))] * len(fields)

    fake.nvmlDeviceGetFieldValues = strange  # type: ignore[method-assign]
    with pytest.raises(CallFailed, match="unexpected_value_type"):
        NvmlFields(nvml).read(nvml.handle(0), [FI_ENERGY])


def test_what_the_driver_says_of_a_board_can_always_be_sealed(nvml: Nvml, fake: FakeNvml) -> None:
    fake.gpus[0].name = "NVIDIA\x00H100\n" + "x" * 300
    identity = nvml.identity(nvml.handle(0), 0)
    assert identity.model is not None
    assert identity.model.startswith("NVIDIA?H100?x")
    assert len(identity.model) == 256
    assert identity.model.isprintable()
