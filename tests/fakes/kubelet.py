# SPDX-License-Identifier: Apache-2.0
"""A kubelet's pod-resources service: answers made with Google's protobuf from the published schema, served by gRPC.

https://github.com/kubernetes/kubelet/blob/master/pkg/apis/podresources/v1/api.proto
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_TEXT = descriptor_pb2.FieldDescriptorProto.TYPE_STRING
_NUMBER = descriptor_pb2.FieldDescriptorProto.TYPE_INT64
_MESSAGE = descriptor_pb2.FieldDescriptorProto.TYPE_MESSAGE
# Message -> its fields: name, number, whether there may be many, type (a name of a message, or None for a text).
_SCHEMA: dict[str, list[tuple[str, int, bool, str | None]]] = {
    "ListPodResourcesResponse": [("pod_resources", 1, True, "PodResources")],
    "PodResources": [
        ("name", 1, False, None),
        ("namespace", 2, False, None),
        ("containers", 3, True, "ContainerResources"),
        ("cpu_ids", 4, True, "int64"),
    ],
    "ContainerResources": [
        ("name", 1, False, None),
        ("devices", 2, True, "ContainerDevices"),
        ("cpu_ids", 3, True, "int64"),
        ("dynamic_resources", 5, True, "DynamicResource"),
    ],
    "ContainerDevices": [
        ("resource_name", 1, False, None),
        ("device_ids", 2, True, None),
        ("topology", 3, False, "TopologyInfo"),
    ],
    "TopologyInfo": [("nodes", 1, True, "NUMANode")],
    "NUMANode": [("ID", 1, False, "int64")],
    "DynamicResource": [
        ("claim_name", 2, False, None),
        ("claim_namespace", 3, False, None),
        ("claim_resources", 4, True, "ClaimResource"),
    ],
    "ClaimResource": [
        ("cdi_devices", 1, True, "CDIDevice"),
        ("driver_name", 2, False, None),
        ("pool_name", 3, False, None),
        ("device_name", 4, False, None),
    ],
    "CDIDevice": [("name", 1, False, None)],
}


@cache
def _message(name: str) -> Any:
    file = descriptor_pb2.FileDescriptorProto(name="podresources.proto", package="v1", syntax="proto3")
    for message, fields in _SCHEMA.items():
        described = file.message_type.add(name=message)
        for field, number, is_many, kind in fields:
            one = described.field.add(name=field, number=number)
            one.label = one.LABEL_REPEATED if is_many else one.LABEL_OPTIONAL
            one.type = _TEXT if kind is None else _NUMBER if kind == "int64" else _MESSAGE
            if one.type == _MESSAGE:
                one.type_name = f".v1.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"v1.{name}"))


def answer(pods: Sequence[dict[str, Any]]) -> bytes:
    """Return the bytes of a ListPodResourcesResponse.

    A pod has `name`, `namespace` and `containers`; a container `name`, `devices` as (resource, ids) and `claims` as
    (driver, pool, device). Processors, NUMA nodes and names of devices for the runtime stand beside, as a kubelet has.
    """
    response = _message("ListPodResourcesResponse")()
    for pod in pods:
        one = response.pod_resources.add(name=pod["name"], namespace=pod["namespace"], cpu_ids=[0, 300])
        for container in pod["containers"]:
            resources = one.containers.add(name=container["name"], cpu_ids=[1, 2, 2**40])
            for resource, ids in container["devices"]:
                devices = resources.devices.add(resource_name=resource, device_ids=ids)
                devices.topology.nodes.add(ID=1)
            for driver, pool, device in container["claims"]:
                claim = resources.dynamic_resources.add(claim_name="claim", claim_namespace=pod["namespace"])
                given = claim.claim_resources.add(driver_name=driver, pool_name=pool, device_name=device)
                given.cdi_devices.add(name=f"k8s.{driver}/claim={device}")
    data: bytes = response.SerializeToString()
    return data


@contextmanager
def serve(socket: Path, respond: Callable[[bytes, Any], bytes]) -> Iterator[None]:
    """Serve v1.PodResourcesLister/List on a unix socket; `respond` gets the request's bytes and gRPC's context."""
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=2))
    handler = grpc.unary_unary_rpc_method_handler(respond)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("v1.PodResourcesLister", {"List": handler}),))
    server.add_insecure_port(f"unix://{socket}")
    server.start()
    try:
        yield
    finally:
        server.stop(0).wait()
