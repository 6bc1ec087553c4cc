# SPDX-License-Identifier: Apache-2.0
"""A node's sysfs and what libvirt keeps of its virtual machines, as files."""

from __future__ import annotations

import os
from pathlib import Path

H100 = "0x2330"


class Host:
    """A node's sysfs and libvirt, as files."""

    def __init__(self, directory: Path) -> None:
        self.sysfs = directory / "sys"
        self.libvirt = directory / "libvirt"
        (self.sysfs / "bus/pci/devices").mkdir(parents=True)
        self.libvirt.mkdir()

    def add(
        self, address: str, driver: str | None, *, vendor: str = "0x10de", device: str = H100, code: str = "0x030200"
    ) -> Path:
        path = self.sysfs / "bus/pci/devices" / address
        path.mkdir()
        for name, text in (("vendor", vendor), ("device", device), ("class", code)):
            (path / name).write_text(f"{text}\n", encoding="ascii")
        if driver is not None:
            self.bind(address, driver)
        return path

    def bind(self, address: str, driver: str) -> None:
        home = self.sysfs / "bus/pci/drivers" / driver
        home.mkdir(parents=True, exist_ok=True)
        link = self.sysfs / "bus/pci/devices" / address / "driver"
        link.unlink(missing_ok=True)
        link.symlink_to(os.path.relpath(home, link.parent))

    def run(self, name: str, *addresses: str) -> Path:
        """Write what libvirt keeps of a running machine."""
        devices = ""
        for address in addresses:
            domain, bus, rest = address.split(":")
            slot, function = rest.split(".")
            devices += (
                "<hostdev mode='subsystem' type='pci' managed='yes'><driver name='vfio'/><source>"
                f"<address domain='0x{domain}' bus='0x{bus}' slot='0x{slot}' function='0x{function}'/></source>"
                "<address type='pci' domain='0x0000' bus='0x06' slot='0x00' function='0x0'/></hostdev>"
            )
        path = self.libvirt / f"{name}.xml"
        path.write_text(
            f"<domstatus state='running' pid='4711'><domain type='kvm'><name>{name}</name>"
            f"<devices>{devices}<hostdev mode='subsystem' type='usb'/></devices></domain></domstatus>",
            encoding="utf-8",
        )
        return path
