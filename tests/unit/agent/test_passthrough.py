# SPDX-License-Identifier: Apache-2.0
"""GPUs in the hands of virtual machines: found in sysfs, unmeasured, who they are, and whose."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import pytest

from gpuledger.sealing import NameSealer
from gpuledger.states import State, Uncovered
from gpuledger_agent.holders import Holders
from gpuledger_agent.loop import Agent
from gpuledger_agent.nvml import Nvml
from gpuledger_agent.passthrough import PassedThrough, PciBook, PciBus, PciFunction, VirtualMachines, address_of
from gpuledger_agent.watchdog import NvmlThread
from tests.fakes.agents import Rig, records
from tests.fakes.hosts import H100, Host
from tests.fakes.nvml import LIBRARY_NOT_FOUND, FakeGpu, gpus

ADDRESS = "0000:1b:00.0"
OTHER = "0000:4d:00.0"


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


class PassingRig(Rig):
    """A rig whose agent looks for GPUs of virtual machines on a host."""

    def __init__(self, directory: Path, host: Host, devices: list[FakeGpu]) -> None:
        self.host = host
        directory.mkdir()
        super().__init__(directory, devices)

    def start(self) -> None:
        super().start()
        holders = Holders(self.processes, NameSealer(bytes(32)), own_pid=1)
        self.agent = Agent(
            config=self.config,
            node_name="node-1",
            boot_id="boot",
            clock=self.clock,
            nvml=Nvml(self.nvml),
            holders=holders,
            journal=self.journal,
            sealer=self.sealer,
            thread=NvmlThread(now_ns=lambda: self.nvml.hung_ns),
            passed_through=PassedThrough(
                PciBus(self.host.sysfs),
                PciBook(self.directory / "pci.json"),
                VirtualMachines((self.host.libvirt,)),
                holders,
                self.key.node_id,
            ),
        )


def results(rig: Rig) -> dict[str, State | Uncovered]:
    return {gpu.identity.uuid: gpu.result for gpu in rig.agent.view.gpus}


# ---------------------------------------------------------------------------------------------- in the readings


def test_a_gpu_that_the_driver_never_had_is_unmeasured_under_a_name_of_node_and_place(
    tmp_path: Path, host: Host
) -> None:
    host.add(ADDRESS, "vfio-pci")
    host.run("tenant-a", ADDRESS)
    rig = PassingRig(tmp_path / "state", host, [])
    rig.nvml.fails["nvmlInit"] = LIBRARY_NOT_FOUND
    rig.agent.tick()
    rig.tick(300)
    (gpu,) = rig.readings()[0].gpus
    assert gpu.uuid == f"PCI-{rig.key.node_id[:16]}-{ADDRESS}"
    assert (gpu.pci_bus_id, gpu.index, gpu.model) == (ADDRESS, None, None)
    assert gpu.state_slice_ms == {State.UNMEASURED: 7 * 300_000}
    record = records(rig.directory)[0]
    (part,) = json.loads(record["workloads"])
    assert (part["source"], part["states"]) == ("virtual_machine", {"unmeasured": 7 * 300_000})
    assert record["openings"][part["workload"]][1] == "virtual machine tenant-a"


def test_a_gpu_that_the_driver_had_keeps_its_name_across_a_restart(tmp_path: Path, host: Host) -> None:
    host.add(ADDRESS, "nvidia")
    rig = PassingRig(tmp_path / "state", host, gpus(1))
    rig.tick(20)
    assert results(rig) == {rig.gpu.uuid: State.FREE}
    uuid = rig.nvml.gpus.pop().uuid
    host.bind(ADDRESS, "vfio-pci")
    rig.tick(12)
    assert results(rig) == {uuid: State.UNMEASURED}
    rig.start()
    rig.tick(12)
    assert results(rig) == {uuid: State.UNMEASURED}
    rig.tick(300)
    gpu = rig.readings()[-1].gpus[0]
    assert (gpu.uuid, gpu.serial, gpu.model) == (uuid, "1650200000000", "NVIDIA H100 80GB HBM3")


def test_a_gpu_that_comes_back_from_a_machine_is_metered_again(tmp_path: Path, host: Host) -> None:
    host.add(ADDRESS, "vfio-pci")
    rig = PassingRig(tmp_path / "state", host, [])
    rig.tick(15)
    rig.nvml.gpus += gpus(1)
    host.bind(ADDRESS, "nvidia")
    rig.tick(25)
    assert results(rig) == {rig.gpu.uuid: State.FREE}
    rig.tick(300)
    stranger = next(gpu for gpu in rig.readings()[0].gpus if gpu.uuid.startswith("PCI-"))
    assert stranger.uncovered_slice_ms[Uncovered.NOT_ENUMERATED] > 0


def test_a_gpu_of_a_machine_is_unmeasured_while_the_driver_is_released(tmp_path: Path, host: Host) -> None:
    host.add(ADDRESS, "vfio-pci")
    rig = PassingRig(tmp_path / "state", host, [])
    request = {"name": "r", "asked_ms": rig.clock.wall_ms}
    (rig.directory / "release").write_text(json.dumps(request), encoding="ascii")
    rig.tick(5)
    assert set(results(rig).values()) == {State.UNMEASURED}


def test_a_machine_that_changes_is_told_from_the_one_before(tmp_path: Path, host: Host) -> None:
    host.add(ADDRESS, "vfio-pci")
    first = host.run("tenant-a", ADDRESS)
    rig = PassingRig(tmp_path / "state", host, [])
    rig.agent.tick()
    rig.tick(100)
    first.unlink()
    rig.tick(100)
    host.run("tenant-b", ADDRESS)
    rig.tick(100)
    record = records(rig.directory)[0]
    names = {record["openings"][part["workload"]][1]: part["states"] for part in json.loads(record["workloads"])}
    assert set(names) == {"virtual machine tenant-a", "virtual machine tenant-b"}
    total = sum(states["unmeasured"] for states in names.values())
    assert 7 * 180_000 <= total <= 7 * 220_000, "the time between belongs to nobody who is known"


# ---------------------------------------------------------------------------------------------- sysfs


def test_only_whole_nvidia_gpus_are_found(host: Host) -> None:
    host.add(ADDRESS, "vfio-pci")
    host.add(OTHER, "nvidia", code="0x030000")
    host.add("0000:01:00.0", "vfio-pci", vendor="0x8086")
    host.add("0000:02:00.0", "vfio-pci", code="0x068000")
    (host.add("0000:1b:00.4", "vfio-pci") / "physfn").symlink_to("../0000:1b:00.0")
    (host.sysfs / "bus/pci/devices/broken").mkdir()
    host.add("0000:5d:00.0", None)
    found = {function.address: function.is_passed_through for function in PciBus(host.sysfs).scan()}
    assert found == {ADDRESS: True, OTHER: False, "0000:5d:00.0": False}


def test_without_sysfs_there_is_nothing(tmp_path: Path) -> None:
    assert PciBus(tmp_path / "nowhere").scan() == ()


def test_what_a_function_is_is_read_once_and_its_driver_each_time(host: Host) -> None:
    host.add(ADDRESS, "nvidia")
    bus = PciBus(host.sysfs)
    assert not bus.scan()[0].is_passed_through
    (host.sysfs / "bus/pci/devices" / ADDRESS / "vendor").unlink()
    host.bind(ADDRESS, "vfio-pci")
    assert bus.scan()[0].is_passed_through


@pytest.mark.parametrize("text", ["00000000:1B:00.0", "0000:1b:00.0"])
def test_addresses_of_nvml_are_those_of_sysfs(text: str) -> None:
    assert address_of(text) == ADDRESS


# ---------------------------------------------------------------------------------------------- who it was


def test_another_kind_of_gpu_at_the_same_place_is_not_the_one_that_was_there(tmp_path: Path, host: Host) -> None:
    host.add(ADDRESS, "nvidia")
    rig = PassingRig(tmp_path / "state", host, gpus(1))
    rig.tick(15)
    book = PciBook(rig.directory / "pci.json")
    same = PciFunction(address=ADDRESS, kind=f"0x10de:{H100}", is_passed_through=True)
    other = PciFunction(address=ADDRESS, kind="0x10de:0x2335", is_passed_through=True)
    known = book.find(same)
    assert known is not None
    assert known.uuid == rig.gpu.uuid
    assert book.find(other) is None


@pytest.mark.parametrize("text", ["not json", "[]", '{"0000:1b:00.0": 7}'])
def test_a_book_that_cannot_be_read_is_begun_anew(tmp_path: Path, text: str) -> None:
    path = tmp_path / "pci.json"
    path.write_text(text, encoding="ascii")
    assert PciBook(path).find(PciFunction(address=ADDRESS, kind="x", is_passed_through=True)) is None


def test_a_book_that_cannot_be_kept_is_said_and_used_all_the_same(
    tmp_path: Path, host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    host.add(ADDRESS, "nvidia")
    rig = PassingRig(tmp_path / "state", host, gpus(1))
    (rig.directory / "pci.json.new").mkdir()
    with caplog.at_level(logging.WARNING):
        rig.tick(25)
    assert caplog.messages == ["pci_book_not_kept"]
    uuid = rig.nvml.gpus.pop().uuid
    host.bind(ADDRESS, "vfio-pci")
    rig.tick(12)
    assert results(rig) == {uuid: State.UNMEASURED}


# ---------------------------------------------------------------------------------------------- whose it is


def test_machines_are_read_from_what_libvirt_keeps_of_them(host: Host) -> None:
    host.run("tenant-a", ADDRESS, OTHER)
    host.run("tenant-b")
    (host.libvirt / "broken.xml").write_text("<domstatus>", encoding="ascii")
    (host.libvirt / "strange.xml").write_text(
        "<domstatus><domain><name>s</name><hostdev type='pci'><source><address bus='x'/></source></hostdev></domain>"
        "</domstatus>",
        encoding="ascii",
    )
    (host.libvirt / "huge.xml").write_bytes(b" " * ((1 << 20) + 1))
    (host.libvirt / "autostart").mkdir()
    machines = VirtualMachines((host.libvirt, host.libvirt / "nowhere"))
    assert machines.by_address() == {ADDRESS: "tenant-a", OTHER: "tenant-a"}
    (host.libvirt / "tenant-a.xml").unlink()
    assert machines.by_address() == {}


def test_a_file_that_did_not_change_is_not_read_again(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    path = host.run("tenant-a", ADDRESS)
    machines = VirtualMachines((host.libvirt,))
    assert machines.by_address() == {ADDRESS: "tenant-a"}
    changed_ns = path.stat().st_mtime_ns
    path.write_text("<domstatus/>", encoding="ascii")
    os.utime(path, ns=(changed_ns, changed_ns))
    assert machines.by_address() == {ADDRESS: "tenant-a"}
    os.utime(path, ns=(changed_ns + 1, changed_ns + 1))
    assert machines.by_address() == {}


def test_entities_that_grow_without_bound_are_not_expanded(host: Host) -> None:
    bomb = "<!DOCTYPE x [<!ENTITY a0 'aaaaaaaaaa'>" + "".join(
        f"<!ENTITY a{n} '{f'&a{n - 1};' * 10}'>" for n in range(1, 12)
    )
    (host.libvirt / "bomb.xml").write_text(f"{bomb}]><domstatus>&a11;</domstatus>", encoding="ascii")
    assert VirtualMachines((host.libvirt,)).by_address() == {}
