# SPDX-License-Identifier: Apache-2.0
"""Allocations: GPUs that somebody was given, with or without a process on them. Pure: texts in, GPUs' allocations out.

Who gave them says it in numbers of his own. /dev/nvidiaN carries the driver's minor number; NVML's index is the order
of PCI addresses; often the two agree, and on some boards they do not (DGX A100). Slurm's numbers are neither: they
count its own list, which is in NVML's order where slurmd found the GPUs itself (AutoDetect=nvml), else in that of the
device files of gres.conf.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from gpuledger import workload_names
from gpuledger_agent.workloads import Source

ORDERS = ("same", "index", "minor")
"""What Slurm's N-th GPU is: the one with NVML's index N, with minor number N, or the one with both (else unknown)."""
JOB_FILE_BYTES_MAX = 4_096
GPUS_MAX = 256
LEASES_MAX = 1_024

_NOTHING: frozenset[Any] = frozenset()
_UUID = re.compile(r"(?:GPU|MIG)-[0-9A-Za-z/-]{1,120}")
_DEVICE_FILE = re.compile(r"/dev/nvidia(\d{1,4})")
_NUMBER = re.compile(r"\d{1,4}")
_JOB = re.compile(r"\d{1,10}")


class MalformedAllocation(ValueError):
    """A text that does not say what it should; the text of the error says what is wrong with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Devices:
    """Which GPUs, in whatever they were named by; `numbers` are both NVML's index and the minor number."""

    uuids: frozenset[str] = _NOTHING
    minors: frozenset[int] = _NOTHING
    indexes: frozenset[int] = _NOTHING
    numbers: frozenset[int] = _NOTHING

    @property
    def is_any(self) -> bool:
        return bool(self.uuids or self.minors or self.indexes or self.numbers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Allocation:
    """GPUs given to a workload; `name` is one of the forms of gpuledger.workload_names."""

    name: str
    source: Source
    user: str | None
    devices: Devices


@dataclass(frozen=True, slots=True)
class Place:
    """Where a GPU is among its node's: UUID, NVML's index and the number of its device file, None where unknown."""

    uuid: str
    index: int | None
    minor: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """UUID -> its allocations in order of name. `is_ambiguous`: a number meant one GPU by index, another by file."""

    by_uuid: Mapping[str, tuple[Allocation, ...]]
    is_ambiguous: bool


def assign(places: Iterable[Place], allocations: Iterable[Allocation]) -> Assignment:
    """Return which GPUs and GPU instances the allocations hold; a number that nobody has is passed over."""
    by_index: dict[int, str] = {}
    by_minor: dict[int, str] = {}
    found: dict[str, list[Allocation]] = {}
    for place in places:
        found[place.uuid] = []
        if place.index is not None:
            by_index[place.index] = place.uuid
        if place.minor is not None:
            by_minor[place.minor] = place.uuid
    is_ambiguous = False
    for allocation in sorted(set(allocations), key=lambda one: (one.name, one.user or "")):
        devices = allocation.devices
        uuids = set(devices.uuids)
        uuids |= {by_minor[minor] for minor in devices.minors if minor in by_minor}
        uuids |= {by_index[index] for index in devices.indexes if index in by_index}
        for number in devices.numbers:
            uuid = by_index.get(number)
            if uuid != by_minor.get(number):
                is_ambiguous = True
            elif uuid is not None:
                uuids.add(uuid)
        for uuid in uuids:
            # A UUID that is none of the places may be a GPU instance's, which has no number.
            found.setdefault(uuid, []).append(allocation)
    return Assignment(
        by_uuid={uuid: tuple(allocations) for uuid, allocations in found.items()}, is_ambiguous=is_ambiguous
    )


# ---------------------------------------------------------------------------------------------- Slurm's job files


@dataclass(frozen=True, slots=True, kw_only=True)
class SlurmGpus:
    """How to read Slurm's numbers: `order` is one of ORDERS; `files` are its device files where they are not all."""

    order: str = "same"
    files: tuple[str, ...] = ()

    def devices(self, numbers: Iterable[int]) -> Devices:
        """Return the GPUs of Slurm's numbers; raises MalformedAllocation for one beyond `files`."""
        wanted = frozenset(numbers)
        if self.files:
            minors = [int(file.rpartition("/dev/nvidia")[2]) for file in self.files]
            if any(number >= len(minors) for number in wanted):
                raise MalformedAllocation(f"gpus has a number beyond the {len(minors)} configured device files")
            return Devices(minors=frozenset(minors[number] for number in wanted))
        if self.order == "index":
            return Devices(indexes=wanted)
        return Devices(minors=wanted) if self.order == "minor" else Devices(numbers=wanted)


def is_device_file(text: str) -> bool:
    """Return whether a text is /dev/nvidiaN."""
    return _DEVICE_FILE.fullmatch(text) is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One job as the prolog noted it; `sluid` is Slurm's other id of it (25.11 and later)."""

    job: str
    user: str | None
    boot_id: str
    sluid: str | None
    devices: Devices

    def allocation(self, cluster: str | None) -> Allocation:
        name = workload_names.slurm_job(self.job, cluster)
        return Allocation(name=name, source=Source.SLURM_JOB, user=self.user, devices=self.devices)


def parse_job(text: str, gpus: SlurmGpus) -> Job:
    """Return the job of a file of `key=value` lines; keys that are not known are passed over.

    Raises MalformedAllocation. UUIDs (`devices`, from Slurm 25.11 on, and of MIG before) go before numbers (`gpus`).
    """
    values: dict[str, str] = {}
    for line in text.splitlines():
        key, equals, value = line.partition("=")
        if line.strip() and not equals:
            raise MalformedAllocation("a line is not key=value")
        values[key.strip()] = value.strip()
    job, boot_id = values.get("job", ""), values.get("boot", "")
    if _JOB.fullmatch(job) is None:
        raise MalformedAllocation("job is not a job id")
    if not boot_id:
        raise MalformedAllocation("boot is missing")
    return Job(
        job=job,
        user=values.get("user") or None,
        boot_id=boot_id,
        sluid=values.get("sluid") or None,
        devices=_slurm_devices(values.get("devices", ""), values.get("gpus", ""), gpus),
    )


def _slurm_devices(devices: str, gpus: str, order: SlurmGpus) -> Devices:
    uuids = [part.strip() for part in devices.split(",") if part.strip()]
    if uuids and all(_UUID.fullmatch(uuid) is not None for uuid in uuids):
        return Devices(uuids=frozenset(uuids[:GPUS_MAX]))
    numbers = [part.strip() for part in gpus.split(",") if part.strip()]
    if not numbers:
        raise MalformedAllocation("neither devices nor gpus names a GPU")
    if len(numbers) > GPUS_MAX or any(_NUMBER.fullmatch(number) is None for number in numbers):
        raise MalformedAllocation("gpus is not a list of numbers")
    return order.devices(map(int, numbers))


# ---------------------------------------------------------------------------------------------- leases


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """An allocation from `from_ms` until `to_ms` (POSIX milliseconds; None: open)."""

    allocation: Allocation
    from_ms: int | None
    to_ms: int | None

    def is_running(self, now_ms: int) -> bool:
        return (self.from_ms is None or self.from_ms <= now_ms) and (self.to_ms is None or now_ms < self.to_ms)


def leases_of(document: Mapping[str, Any]) -> tuple[Lease, ...]:
    """Return the leases of a TOML document, tables `[[lease]]`; raises MalformedAllocation naming the one at fault."""
    entries = document.get("lease", [])
    if set(document) - {"lease"} or not isinstance(entries, list) or len(entries) > LEASES_MAX:
        raise MalformedAllocation(f"not a list of at most {LEASES_MAX} tables [[lease]] and nothing else")
    return tuple(_lease(entry, f"lease {number}") for number, entry in enumerate(entries, 1))


def _lease(entry: Any, where: str) -> Lease:
    if not isinstance(entry, dict):
        raise MalformedAllocation(f"{where}: not a table")
    unknown = sorted(set(entry) - {"holder", "gpus", "from", "to"})
    if unknown:
        raise MalformedAllocation(f"{where}: unknown key {unknown[0]!r}; legal keys: from, gpus, holder, to")
    holder, gpus = entry.get("holder"), entry.get("gpus")
    if not isinstance(holder, str) or not holder.strip():
        raise MalformedAllocation(f"{where}: holder is not a name")
    if not isinstance(gpus, list) or not 0 < len(gpus) <= GPUS_MAX:
        raise MalformedAllocation(f"{where}: gpus is not a list of 1 to {GPUS_MAX} UUIDs or indexes")
    name = workload_names.lease(holder.strip())
    return Lease(
        allocation=Allocation(name=name, source=Source.LEASE, user=None, devices=_lease_devices(gpus, where)),
        from_ms=_moment_ms(entry.get("from"), f"{where}: from"),
        to_ms=_moment_ms(entry.get("to"), f"{where}: to"),
    )


def _lease_devices(gpus: Sequence[Any], where: str) -> Devices:
    uuids: set[str] = set()
    indexes: set[int] = set()
    for gpu in gpus:
        if isinstance(gpu, int) and not isinstance(gpu, bool) and 0 <= gpu < GPUS_MAX:
            indexes.add(gpu)
        elif isinstance(gpu, str) and _UUID.fullmatch(gpu) is not None:
            uuids.add(gpu)
        else:
            raise MalformedAllocation(f"{where}: {gpu!r} is neither the UUID nor the index of a GPU")
    return Devices(uuids=frozenset(uuids), indexes=frozenset(indexes))


def _moment_ms(value: Any, where: str) -> int | None:
    if value is None:
        return None
    if not isinstance(value, datetime) or value.tzinfo is None:
        raise MalformedAllocation(f"{where} is not a moment with its offset, such as 2026-11-01T00:00:00Z")
    return round(value.timestamp() * 1000)
