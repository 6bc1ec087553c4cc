# SPDX-License-Identifier: Apache-2.0
"""The kubelet's answer to PodResourcesLister.List (v1): its bytes, and the GPUs that containers were given. Pure.

Only the fields that say who has which device are read; the others, and those of a later kubelet, are passed over.
https://github.com/kubernetes/kubelet/blob/master/pkg/apis/podresources/v1/api.proto
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from gpuledger import workload_names
from gpuledger_agent.allocations import Allocation, Devices
from gpuledger_agent.workloads import Source

ANSWER_BYTES_MAX = 4 << 20
CLAIM_DRIVER = "gpu.nvidia.com"
_RESOURCE_PREFIX = "nvidia.com/"
_UUID = re.compile(r"(?:GPU|MIG)-[0-9A-Za-z/-]{1,120}")
_GKE_DEVICE = re.compile(r"nvidia(\d{1,4})(?:/vgpu\d{1,4})?")
"""What GKE's plugin calls a GPU, and a share of one; `nvidiaN/giM`, an instance, is not told from here."""
_CLAIM_DEVICE = re.compile(r"gpu-(\d{1,4})")
"""What NVIDIA's driver for dynamic resource allocation calls a whole GPU: by its minor number."""
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class MalformedAnswer(ValueError):
    """Bytes that are not the kubelet's answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerDevices:
    """One container: devices of plugins as (resource, id), of claims as (driver, pool, device)."""

    namespace: str
    pod: str
    container: str
    plugin_devices: tuple[tuple[str, str], ...] = ()
    claim_devices: tuple[tuple[str, str, str], ...] = ()


def decode(data: bytes) -> tuple[ContainerDevices, ...]:
    """Return the containers of a ListPodResourcesResponse; raises MalformedAnswer."""
    if len(data) > ANSWER_BYTES_MAX:
        raise MalformedAnswer(f"{len(data)} bytes, and at most {ANSWER_BYTES_MAX} are read")
    found: list[ContainerDevices] = []
    for pod in _messages(data, 1):
        name = namespace = ""
        containers = []
        for field, value in _fields(pod):
            if field == 1:
                name = _text(value)
            elif field == 2:
                namespace = _text(value)
            elif field == 3:
                containers.append(_bytes(value))
        found += [_container(container, namespace, name) for container in containers]
    return tuple(found)


def allocation_of(container: ContainerDevices) -> Allocation | None:
    """Return the GPUs of a container as an allocation; None where it has none."""
    uuids: set[str] = set()
    minors: set[int] = set()
    for resource, device in container.plugin_devices:
        if not resource.startswith(_RESOURCE_PREFIX):
            continue
        # A GPU that is shared by time has its replicas numbered after two colons.
        whole = device.partition("::")[0]
        gke = _GKE_DEVICE.fullmatch(whole)
        if _UUID.fullmatch(whole) is not None:
            uuids.add(whole)
        elif gke is not None:
            minors.add(int(gke[1]))
    for driver, _, device in container.claim_devices:
        gpu = _CLAIM_DEVICE.fullmatch(device)
        if driver == CLAIM_DRIVER and gpu is not None:
            minors.add(int(gpu[1]))
    devices = Devices(uuids=frozenset(uuids), minors=frozenset(minors))
    if not devices.is_any:
        return None
    name = workload_names.pod(container.namespace, container.pod, container.container)
    return Allocation(name=name, source=Source.POD, user=None, devices=devices)


# ---------------------------------------------------------------------------------------------- messages


def _container(data: bytes, namespace: str, pod: str) -> ContainerDevices:
    name = ""
    plugin_devices: list[tuple[str, str]] = []
    claim_devices: list[tuple[str, str, str]] = []
    for field, value in _fields(data):
        if field == 1:
            name = _text(value)
        elif field == 2:
            plugin_devices += _plugin_devices(_bytes(value))
        elif field == 5:
            claim_devices += [_claim_device(claim) for claim in _messages(_bytes(value), 4)]
    return ContainerDevices(
        namespace=namespace,
        pod=pod,
        container=name,
        plugin_devices=tuple(plugin_devices),
        claim_devices=tuple(claim_devices),
    )


def _plugin_devices(data: bytes) -> list[tuple[str, str]]:
    resource = ""
    ids = []
    for field, value in _fields(data):
        if field == 1:
            resource = _text(value)
        elif field == 2:
            ids.append(_text(value))
    return [(resource, device) for device in ids]


def _claim_device(data: bytes) -> tuple[str, str, str]:
    texts = {2: "", 3: "", 4: ""}
    for field, value in _fields(data):
        if field in texts:
            texts[field] = _text(value)
    return texts[2], texts[3], texts[4]


def _messages(data: bytes, wanted: int) -> Iterator[bytes]:
    for field, value in _fields(data):
        if field == wanted:
            yield _bytes(value)


# ---------------------------------------------------------------------------------------------- the wire format


def _fields(data: bytes) -> Iterator[tuple[int, bytes | None]]:
    """Yield (number, content) of each field of a message; the content of a number is None."""
    position = 0
    while position < len(data):
        key, position = _varint(data, position)
        kind = key & 7
        if kind == _BYTES:
            length, position = _varint(data, position)
            content: bytes | None = data[position : position + length]
            position += length
        elif kind == _VARINT:
            content, (_, position) = None, _varint(data, position)
        elif kind in (_FIXED64, _FIXED32):
            content, position = None, position + (8 if kind == _FIXED64 else 4)
        else:
            raise MalformedAnswer(f"a field of wire type {kind}")
        if position > len(data):
            raise MalformedAnswer("a field is longer than what holds it")
        yield key >> 3, content


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while position < len(data) and shift < 64:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
    raise MalformedAnswer("a number does not end")


def _bytes(value: bytes | None) -> bytes:
    if value is None:
        raise MalformedAnswer("a number where a text or a message belongs")
    return value


def _text(value: bytes | None) -> str:
    return _bytes(value).decode("utf-8", "replace")
