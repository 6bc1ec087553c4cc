# SPDX-License-Identifier: Apache-2.0
"""Words of the library's tests: one GPU, its handle in a request, an error in an answer."""

from collections.abc import Callable

from tests.abi.script import Gpu, Script

GPU = "gpu:0"
UUID = "GPU-00000000-0000-4000-8000-000000000000"
MEMORY_V2 = 0x02000028

Ask = Callable[..., list[object]]
"""`ask(script, request, ...)`: the answers to the requests, after nvmlInit at script time 0."""


def one_gpu() -> tuple[Script, Gpu]:
    script = Script()
    return script, script.add_gpu()


def error(code: int) -> dict[str, int]:
    return {"error": code}
