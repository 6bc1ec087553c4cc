# SPDX-License-Identifier: Apache-2.0
"""Asks the kubelet once which container has which device, and writes its answer to standard output as it is.

A program of its own (`python -m gpuledger_agent.pod_resources_client SOCKET SECONDS`), so that gRPC takes memory for a
moment and not in the agent. On failure it writes one short name of what went wrong to standard error and exits with 1.
"""

from __future__ import annotations

import sys

from gpuledger_agent.pod_resources import ANSWER_BYTES_MAX

_METHOD = "/v1.PodResourcesLister/List"


def main(arguments: list[str]) -> int:
    """Return the exit status: 0 answered, 1 not, 2 usage."""
    if len(arguments) != 2:
        return _fail("usage", 2)
    try:
        import grpc  # noqa: PLC0415 - an extra; whoever imports this module need not have it
    except ImportError:
        return _fail("grpcio_missing")
    socket, seconds = arguments
    options = [
        ("grpc.max_receive_message_length", ANSWER_BYTES_MAX),
        ("grpc.enable_http_proxy", 0),
        ("grpc.enable_retries", 0),
    ]
    with grpc.insecure_channel(f"unix://{socket}", options=options) as channel:
        # Without serializers the bytes go through as they are: the request is empty, as the kubelet's is.
        ask = channel.unary_unary(_METHOD, request_serializer=None, response_deserializer=None)
        try:
            answer: bytes = ask(b"", timeout=float(seconds), wait_for_ready=False)
        except grpc.RpcError as exc:
            return _fail(exc.code().name.lower())
    sys.stdout.buffer.write(answer)
    sys.stdout.buffer.flush()
    return 0


def _fail(error: str, status: int = 1) -> int:
    sys.stderr.write(error)
    return status


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
