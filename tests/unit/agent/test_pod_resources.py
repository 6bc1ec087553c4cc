# SPDX-License-Identifier: Apache-2.0
"""The kubelet's answer: our reading of it against Google's protobuf, and any bytes at all."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuledger_agent import pod_resources
from gpuledger_agent.allocations import Devices
from gpuledger_agent.pod_resources import ContainerDevices, MalformedAnswer, allocation_of, decode
from tests.fakes import kubelet

UUID = "GPU-8f2b1c7e-5a3d-4e6f-9a1b-2c3d4e5f6a7b"
MIG = "MIG-5c89852c-d268-c3f3-1b07-005d5ae1dc3f"

NAMES = st.text(st.characters(codec="utf-8"), max_size=20)
PODS = st.lists(
    st.fixed_dictionaries(
        {
            "name": NAMES,
            "namespace": NAMES,
            "containers": st.lists(
                st.fixed_dictionaries(
                    {
                        "name": NAMES,
                        "devices": st.lists(st.tuples(NAMES, st.lists(NAMES, max_size=3)), max_size=3),
                        "claims": st.lists(st.tuples(NAMES, NAMES, NAMES), max_size=3),
                    }
                ),
                max_size=3,
            ),
        }
    ),
    max_size=4,
)


@given(PODS)
def test_what_google_protobuf_writes_is_read(pods: list[dict[str, Any]]) -> None:
    expected = [
        ContainerDevices(
            namespace=pod["namespace"],
            pod=pod["name"],
            container=container["name"],
            plugin_devices=tuple((resource, one) for resource, ids in container["devices"] for one in ids),
            claim_devices=tuple(container["claims"]),
        )
        for pod in pods
        for container in pod["containers"]
    ]
    assert list(decode(kubelet.answer(pods))) == expected


@given(
    st.one_of(
        st.binary(max_size=200),
        PODS.map(kubelet.answer).flatmap(
            lambda data: st.sampled_from([data[:length] for length in range(len(data) + 1)])
        ),
    )
)
def test_any_bytes_are_an_answer_or_refused(data: bytes) -> None:
    try:
        containers = decode(data)
    except MalformedAnswer:
        return
    for container in containers:
        allocation_of(container)


def test_fields_that_are_not_known_are_passed_over() -> None:
    pod = {"name": "p", "namespace": "n", "containers": [{"name": "c", "devices": [("r", ["d"])], "claims": []}]}
    data = kubelet.answer([pod])
    unknown = b"\xf8\x07\x05" + b"\xfa\x07\x02hi" + b"\xf9\x07" + bytes(8) + b"\xfd\x07" + bytes(4)
    assert decode(unknown + data + unknown) == decode(data)
    assert decode(b"") == ()


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"\x0a\x05ab", "longer than what holds it"),
        (b"\x0b", "wire type 3"),
        (b"\x08\x05", "a number where a text or a message belongs"),
        (b"\xff" * 11, "a number does not end"),
        (b"\x09\x00", "longer than what holds it"),
    ],
)
def test_bytes_that_are_no_answer_are_refused_with_the_reason(data: bytes, why: str) -> None:
    with pytest.raises(MalformedAnswer, match=why):
        decode(data)


def test_an_answer_that_is_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pod_resources, "ANSWER_BYTES_MAX", 3)
    with pytest.raises(MalformedAnswer, match="4 bytes, and at most 3 are read"):
        decode(bytes(4))


def of_plugin(*devices: str, resource: str = "nvidia.com/gpu") -> ContainerDevices:
    pairs = tuple((resource, device) for device in devices)
    return ContainerDevices(namespace="ml", pod="train-0", container="main", plugin_devices=pairs)


def of_claim(device: str, driver: str = "gpu.nvidia.com") -> ContainerDevices:
    return ContainerDevices(namespace="ml", pod="p", container="c", claim_devices=((driver, "node-1", device),))


@pytest.mark.parametrize(
    ("container", "devices"),
    [
        (of_plugin(UUID), Devices(uuids=frozenset({UUID}))),
        (of_plugin(f"{UUID}::3", f"{UUID}::4"), Devices(uuids=frozenset({UUID}))),
        (of_plugin(UUID, resource="nvidia.com/gpu.shared"), Devices(uuids=frozenset({UUID}))),
        (of_plugin(MIG, resource="nvidia.com/mig-1g.10gb"), Devices(uuids=frozenset({MIG}))),
        (of_plugin("nvidia3"), Devices(minors=frozenset({3}))),
        (of_plugin("nvidia3/vgpu1"), Devices(minors=frozenset({3}))),
        (of_claim("gpu-3"), Devices(minors=frozenset({3}))),
    ],
)
def test_every_form_of_a_gpu_is_known(container: ContainerDevices, devices: Devices) -> None:
    allocation = allocation_of(container)
    assert allocation is not None
    assert allocation.devices == devices
    assert (allocation.source.value, allocation.user) == ("pod", None)


@pytest.mark.parametrize(
    "container",
    [
        of_plugin(),
        of_plugin("0000:3b:00.0", resource="nvidia.com/hostdev"),
        of_plugin(UUID, resource="example.com/gpu"),
        of_plugin("nvidia3/gi1"),
        of_claim("gpu-3", driver="gpu.example.com"),
        of_claim("gpu-1-mig-2g47gb-14-0"),
        of_claim("gpu-vfio-3"),
    ],
)
def test_a_container_without_a_whole_gpu_that_can_be_told_has_no_allocation(container: ContainerDevices) -> None:
    assert allocation_of(container) is None


def test_a_container_is_called_by_its_names() -> None:
    allocation = allocation_of(of_plugin(UUID))
    assert allocation is not None
    assert allocation.name == "pod:ml/train-0/main"
