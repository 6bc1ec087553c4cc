# SPDX-License-Identifier: Apache-2.0
"""The agent on a real GPU. Settings: GPULEDGER_GPU_INDEX, GPULEDGER_GPU_SECONDS, GPULEDGER_HARDWARE_OUT."""

import datetime as dt
import os
import platform
from collections.abc import Iterator
from pathlib import Path

import pynvml
import pytest

from tests.gpu.bench import ROOT, measure, running_agent
from tests.gpu.plan import PHASES, seconds_of
from tests.gpu.table import BEGIN, faults, put_between_marks, render

pytestmark = pytest.mark.gpu
SECONDS = 600


def report(section: str) -> Path:
    """Write the measured section where GPULEDGER_HARDWARE_OUT says, by default into docs/hardware.md."""
    path = Path(os.environ.get("GPULEDGER_HARDWARE_OUT", ROOT / "docs" / "hardware.md"))
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    path.write_text(put_between_marks(before, section) if BEGIN in before else section, encoding="utf-8")
    return path


@pytest.fixture
def gpu(request: pytest.FixtureRequest) -> Iterator[object]:
    """NVML's handle of the GPU to measure; skips without a driver, or where somebody else is at work on it."""
    if "gpu" not in str(request.config.getoption("markexpr")):
        pytest.skip("takes ten minutes and a whole GPU: run by `make gpu-test`")
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as exc:
        pytest.skip(f"no usable NVIDIA driver: {exc}")
    index = int(os.environ.get("GPULEDGER_GPU_INDEX", "0"))
    try:
        if index >= pynvml.nvmlDeviceGetCount():
            pytest.skip(f"there is no GPU {index}")
        handle: object = pynvml.nvmlDeviceGetHandleByIndex(index)
        if pynvml.nvmlDeviceGetComputeRunningProcesses(handle):
            pytest.skip(f"GPU {index} is in use: set GPULEDGER_GPU_INDEX to one that is free")
        yield handle
    finally:
        pynvml.nvmlShutdown()


def test_the_agent_measures_what_the_load_is_known_to_do(gpu: object, tmp_path: Path) -> None:
    uuid = pynvml.nvmlDeviceGetUUID(gpu)
    total_s = int(os.environ.get("GPULEDGER_GPU_SECONDS", str(SECONDS)))
    rows, loads = [], set()
    with running_agent(tmp_path) as address:
        for phase, length_s in zip(PHASES, seconds_of(PHASES, total_s), strict=True):
            row, load = measure(phase, length_s, address, uuid, lambda: pynvml.nvmlDeviceGetPowerUsage(gpu) / 1000)
            rows.append(row)
            loads |= set() if load is None else {load}
    facts = {
        "Measured": dt.datetime.now(dt.UTC).date().isoformat(),
        "GPU": pynvml.nvmlDeviceGetName(gpu),
        "driver": pynvml.nvmlSystemGetDriverVersion(),
        "kernel": platform.release(),
        "load": ", ".join(sorted(loads)),
    }
    path = report(render(rows, facts))
    assert [fault for row in rows for fault in faults(row)] == [], f"the table is in {path}"
