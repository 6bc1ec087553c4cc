# SPDX-License-Identifier: Apache-2.0
"""GPUs that the host handed to a virtual machine (vfio-pci): the driver does not list them, sysfs does.

What such a GPU does is not known here, so its whole time is unmeasured, in the name of the machine where the host says
which. Who it is was noted while the driver had it; else it is named by this node and its place. The only door to sysfs
and to libvirt's files. No command line is read.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpuledger_agent.holders import Holders
from gpuledger_agent.nvml import Identity
from gpuledger_agent.snapshot import GpuSnapshot, Holder

_log = logging.getLogger(__name__)

SYSFS = Path("/sys")
LIBVIRT = (Path("/run/libvirt/qemu"), Path("/var/run/libvirt/qemu"))
PCI_BOOK = "pci.json"
"""The book's file in the state directory."""
POLL_MS = 10_000
BOOK_ENTRIES_MAX = 1024
DOMAINS_MAX = 1024
DOMAIN_BYTES_MAX = 1 << 20
_NVIDIA = "0x10de"
_DISPLAY_CLASSES = ("0x0300", "0x0302")
_DRIVER = "vfio-pci"


@dataclass(frozen=True, slots=True, kw_only=True)
class PciFunction:
    """One NVIDIA GPU as sysfs shows it: its address, what it is ("vendor:device"), and whether a VM may have it."""

    address: str
    kind: str
    is_passed_through: bool


class PciBus:
    """The node's NVIDIA GPUs in sysfs; what a function is is read once, which driver has it each time."""

    def __init__(self, sysfs: Path) -> None:
        self._devices = sysfs / "bus" / "pci" / "devices"
        self._kinds: dict[str, str | None] = {}

    def scan(self) -> tuple[PciFunction, ...]:
        """Return the GPUs in order of address; none where there is no sysfs."""
        try:
            addresses = sorted(path.name for path in self._devices.iterdir())
        except OSError:
            return ()
        self._kinds = {address: self._kinds[address] for address in addresses if address in self._kinds}
        found = []
        for address in addresses:
            if address not in self._kinds:
                self._kinds[address] = self._kind(address)
            kind = self._kinds[address]
            if kind is not None:
                found.append(
                    PciFunction(address=address, kind=kind, is_passed_through=self._driver(address) == _DRIVER)
                )
        return tuple(found)

    def _kind(self, address: str) -> str | None:
        """Return "vendor:device" of a whole NVIDIA GPU; None for all else, a virtual function of one included."""
        path = self._devices / address
        try:
            vendor, device, code = ((path / name).read_text("ascii").strip() for name in ("vendor", "device", "class"))
        except (OSError, ValueError):
            return None
        is_gpu = vendor == _NVIDIA and code.startswith(_DISPLAY_CLASSES)
        return f"{vendor}:{device}" if is_gpu and not (path / "physfn").exists() else None

    def _driver(self, address: str) -> str | None:
        try:
            return (self._devices / address / "driver").readlink().name
        except OSError:
            return None


class PciBook:
    """Who the GPU at each address was when the driver last had it; survives restarts in one small file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._entries: dict[str, dict[str, Any]] = {}
        self._seen: dict[str, Identity] = {}
        try:
            found = json.loads(path.read_bytes())
        except FileNotFoundError:
            found = {}
        except (OSError, ValueError) as exc:
            _log.warning("pci_book_lost", extra={"why": f"{path}: {exc}"})
            found = {}
        if isinstance(found, dict):
            self._entries = {key: value for key, value in found.items() if isinstance(value, dict) and "uuid" in value}

    def note(self, identities: Mapping[str, Identity], kinds: Mapping[str, str]) -> None:
        """Take in who the driver's GPUs are; only a change is written."""
        current = {address_of(identity.pci_bus_id): identity for identity in identities.values() if identity.pci_bus_id}
        if current == self._seen:
            return
        self._seen = current
        entries = dict(self._entries)
        for address, identity in current.items():
            if address in kinds:
                entries[address] = {
                    "kind": kinds[address],
                    "uuid": identity.uuid,
                    "serial": identity.serial,
                    "model": identity.model,
                    "memory_total_bytes": identity.memory_total_bytes,
                }
        if entries != self._entries and len(entries) <= BOOK_ENTRIES_MAX:
            self._entries = entries
            self._save()

    def find(self, function: PciFunction) -> Identity | None:
        """Return who the GPU was; None where the driver never had it, or had another kind of GPU there."""
        entry = self._entries.get(function.address)
        if entry is None or entry.get("kind") != function.kind:
            return None
        memory = entry.get("memory_total_bytes")
        return Identity(
            uuid=str(entry["uuid"]),
            serial=_text(entry.get("serial")),
            index=None,
            pci_bus_id=function.address,
            model=_text(entry.get("model")),
            memory_total_bytes=memory if isinstance(memory, int) else None,
            power_limit_mw=None,
        )

    def _save(self) -> None:
        new = self._path.with_name(f"{self._path.name}.new")
        try:
            new.write_text(json.dumps(self._entries, sort_keys=True), encoding="utf-8")
            new.replace(self._path)
        except OSError as exc:
            _log.warning("pci_book_not_kept", extra={"why": f"{self._path}: {exc.strerror}"})


class VirtualMachines:
    """Which running machine of libvirt has which PCI function, from the files that libvirt keeps of their state."""

    def __init__(self, directories: Sequence[Path]) -> None:
        self._directories = directories
        self._read: dict[Path, tuple[int, str | None, frozenset[str]]] = {}

    def by_address(self) -> dict[str, str]:
        """Return address -> name of the machine; empty where there is no libvirt, or it is not for us to read."""
        names: dict[str, str] = {}
        seen: dict[Path, tuple[int, str | None, frozenset[str]]] = {}
        for directory in self._directories:
            try:
                paths = sorted(path for path in directory.iterdir() if path.suffix == ".xml")[:DOMAINS_MAX]
            except OSError:
                continue
            for path in paths:
                try:
                    changed_ns = path.stat().st_mtime_ns
                    known = self._read.get(path)
                    domain = known if known is not None and known[0] == changed_ns else (changed_ns, *_domain(path))
                except OSError:
                    continue
                seen[path] = domain
                if domain[1] is not None:
                    names |= dict.fromkeys(domain[2], domain[1])
        self._read = seen
        return names


class PassedThrough:
    """The GPUs that virtual machines may have, as GPUs of this node."""

    def __init__(self, bus: PciBus, book: PciBook, machines: VirtualMachines, holders: Holders, node_id: str) -> None:
        self._bus = bus
        self._book = book
        self._machines = machines
        self._holders = holders
        self._node_id = node_id
        self._looked_ms: int | None = None
        self._tenants: dict[str, Holder | None] = {}
        self.identities: dict[str, Identity] = {}
        """Who they are, by UUID or by what stands for it."""

    def look(self, edge_ms: int, driven: Mapping[str, Identity]) -> dict[str, GpuSnapshot]:
        """Return a snapshot of each, by UUID; `driven` are the GPUs that the driver has shown so far."""
        if self._looked_ms is None or not 0 <= edge_ms - self._looked_ms < POLL_MS:
            self._looked_ms = edge_ms
            self._scan(driven)
        return {uuid: GpuSnapshot(tenant=tenant) for uuid, tenant in self._tenants.items()}

    def _scan(self, driven: Mapping[str, Identity]) -> None:
        functions = self._bus.scan()
        self._book.note(driven, {f.address: f.kind for f in functions if not f.is_passed_through})
        passed = [function for function in functions if function.is_passed_through]
        names = self._machines.by_address() if passed else {}
        identities: dict[str, Identity] = {}
        tenants: dict[str, Holder | None] = {}
        for function in passed:
            identity = self._book.find(function) or self._stranger(function)
            identities[identity.uuid] = identity
            name = names.get(function.address)
            tenants[identity.uuid] = None if name is None else self._holders.virtual_machine(name)
        for uuid in identities.keys() - self.identities.keys():
            _log.info("gpu_passed_through", extra={"uuid": uuid, "pci": identities[uuid].pci_bus_id})
        for uuid in self.identities.keys() - identities.keys():
            _log.info("gpu_passed_back", extra={"uuid": uuid})
        self.identities, self._tenants = identities, tenants

    def _stranger(self, function: PciFunction) -> Identity:
        """Return a name for a GPU that the driver never had: the same as long as node and place are."""
        return Identity(
            uuid=f"PCI-{self._node_id[:16]}-{function.address}",
            serial=None,
            index=None,
            pci_bus_id=function.address,
            model=None,
            memory_total_bytes=None,
            power_limit_mw=None,
        )


def address_of(bus_id: str) -> str:
    """Return an address as sysfs writes it: NVML's has a domain of eight digits, and capitals."""
    domain, _, rest = bus_id.lower().partition(":")
    return f"{domain[-4:]}:{rest}"


def _domain(path: Path) -> tuple[str | None, frozenset[str]]:
    """Return the name of a machine and the addresses of the host's PCI functions that it has; raises OSError."""
    data = path.read_bytes()
    if len(data) > DOMAIN_BYTES_MAX:
        return None, frozenset()
    # Here and not above: few nodes have virtual machines, and a parser of XML would stay in the memory of all.
    from xml.etree import ElementTree as ET  # noqa: PLC0415

    try:
        # libvirt's own file, of at most 1 MiB, in a directory of root's; expat bounds what entities may grow to.
        root = ET.fromstring(data)  # noqa: S314
    except ET.ParseError:
        return None, frozenset()
    name = root.findtext(".//domain/name")
    found = set()
    for source in root.findall(".//hostdev[@type='pci']/source/address"):
        try:
            domain, bus, slot, function = (int(source.get(key, "0"), 16) for key in _ADDRESS)
        except ValueError:
            continue
        found.add(f"{domain:04x}:{bus:02x}:{slot:02x}.{function:x}")
    return name, frozenset(found)


_ADDRESS = ("domain", "bus", "slot", "function")


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
