# SPDX-License-Identifier: Apache-2.0
"""Exporters scraped by a real Prometheus once a second: a replayed dcgm-exporter, and the real nvitop-exporter."""

from __future__ import annotations

import getpass
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gpuledger.cells import HOUR_MS, SLICES_PER_GPU, floor_to
from gpuledger.states import State
from gpuledger_collector.engine.config import EngineConfig
from gpuledger_collector.report.from_engine import read_from_engine
from gpuledger_collector.report.model import Weekly
from gpuledger_collector.report.periods import PeriodKind, Span
from tests.abi.build import BuildError, build
from tests.abi.script import FULL, GIB, Constant, Failure, Process, Script
from tests.abi.stage import set_up
from tests.integration.engines import exporter, free_port, running_prometheus, wait_until
from tests.integration.recorded_week import EXPOSITION
from tests.parts import require_part

pytestmark = [pytest.mark.slow, pytest.mark.prometheus]

SCRAPES = """
global: {{ scrape_interval: 1s, scrape_timeout: 1s }}
scrape_configs:
  - job_name: {job}
    honor_labels: true
    static_configs: [ {{ targets: ["{target}"] }} ]
"""


def hour_before_now() -> int:
    return floor_to(time.time_ns() // 1_000_000, HOUR_MS)


def report_of(url: str, profile: str, start_ms: int) -> Weekly:
    """The report of the hour that began at `start_ms` and the next; what is still to come of them is dark."""
    span = Span(name="now", start_ms=start_ms, end_ms=start_ms + 2 * HOUR_MS, kind=PeriodKind.SPAN)
    config = EngineConfig(url=url, profile=profile)
    return read_from_engine(config, span, is_compared=False, horizon_ms=span.end_ms)


def seconds(report: Weekly) -> dict[State, float]:
    assert report.headline is not None
    return {time.state: time.slice_ms / SLICES_PER_GPU / 1000 for time in report.headline.states if time.slice_ms > 0}


def test_pods_that_change_and_an_exporter_that_fails_leave_no_time_twice_and_no_gap_unseen(tmp_path: Path) -> None:
    """Prometheus writes staleness markers; a range does not see them, so the newer series must win."""
    begun: list[float] = []
    asked: list[float] = []

    def answer() -> str | None:
        now = time.monotonic()
        begun[:] = begun or [now]
        asked.append(now - begun[0])
        if asked[-1] < 4.5:
            return EXPOSITION
        if asked[-1] < 8.5:
            return EXPOSITION.replace('pod="train-0"', 'pod="train-1"').replace('pod="eval-3"', 'pod="eval-4"')
        return None if asked[-1] < 13.5 else EXPOSITION

    start_ms = hour_before_now()
    with exporter(answer) as target, running_prometheus(tmp_path, SCRAPES.format(job="dcgm", target=target)) as url:
        wait_until(lambda: bool(asked) and asked[-1] > 17, "17 s of scrapes")
        elapsed = time.monotonic() - begun[0]
        report = report_of(url, "dcgm", start_ms)
    assert report.method.intervals_ms == (1000,)
    spent = seconds(report)
    dark = spent.pop(State.DARK)
    covered = sum(spent.values()) / 8
    # Five scrapes failed; the last sample before them stood for two intervals.
    assert elapsed - 5 - 6 <= covered <= elapsed - 5 + 3
    assert dark > 5 * 8
    # Of the divided GPU three slices work, two are free, and of two nothing is known.
    expected = {
        State.BUSY: 3 + 3 / 7,
        State.HELD: 1.0,
        State.FREE: 2 + 2 / 7,
        State.RESERVED: 1.0,
        State.UNMEASURED: 2 / 7,
    }
    assert {state: amount / covered for state, amount in spent.items()} == pytest.approx(expected, abs=0.01)
    busy = {row.workload_name: row.busy_slice_ms for row in report.idle_list.held}
    assert set(busy) == {"notebook-7"}
    assert report.source is not None
    assert report.source.contradicting_points == 0


@contextmanager
def nvitop_exporter(script: Script, folder: Path) -> Iterator[str]:
    """HOST:PORT of the real nvitop-exporter on the scripted NVML library."""
    program = require_part("nvitop-exporter")
    try:
        library = build()
    except BuildError as error:
        pytest.skip(str(error))
    stage = set_up(folder, library, script, virtual=False)
    environment = {name: value for name, value in stage.env.items() if name != "PYTHONPATH"}
    port = free_port()
    command = [str(program), "--bind-address", "127.0.0.1", "--port", str(port), "--hostname", "node-1"]
    with (folder / "nvitop.log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            yield f"127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(60)


def four_gpus() -> Script:
    """One works, one is held, one is free, and one says nothing of its utilisation."""
    script = Script()
    for utilization, memory, is_held in ((FULL * 9 // 10, 70 * GIB, True), (0, 20 * GIB, True), (0, 1 << 20, False)):
        gpu = script.add_gpu()
        gpu.tracks["utilization"] = [(0, Constant(utilization))]
        gpu.tracks["memory_used_bytes"] = [(0, Constant(memory))]
        if is_held:
            gpu.processes.append(Process(pid=os.getpid(), memory_bytes=memory))
    silent = script.add_gpu()
    silent.tracks["utilization"] = [(0, Failure())]
    silent.tracks["memory_used_bytes"] = [(0, Constant(20 * GIB))]
    return script


def test_the_real_nvitop_exporter_is_read_with_its_profile(tmp_path: Path) -> None:
    start_ms = hour_before_now()
    (tmp_path / "prometheus").mkdir()
    with nvitop_exporter(four_gpus(), tmp_path / "nvitop") as target:
        config = SCRAPES.format(job="nvitop", target=target)
        with running_prometheus(tmp_path / "prometheus", config) as url:
            found: list[Weekly] = []

            def is_enough() -> bool:
                try:
                    found[:] = [report_of(url, "nvitop", start_ms)]
                except Exception:  # noqa: BLE001, it has not been scraped yet
                    return False
                return sum(seconds(found[0]).values()) - seconds(found[0])[State.DARK] > 4 * 8

            wait_until(is_enough, "8 s of scrapes")
            (report,) = found
    spent = seconds(report)
    spent.pop(State.DARK)
    covered = sum(spent.values()) / 4
    expected = {State.BUSY: 1.0, State.HELD: 1.0, State.FREE: 1.0, State.UNMEASURED: 1.0}
    assert {state: amount / covered for state, amount in spent.items()} == pytest.approx(expected, abs=0.2)
    assert report.headline is not None
    assert report.headline.gpus == 4
    assert [place.model for place in report.places] == ["NVIDIA H100 80GB HBM3"]
    (held,) = report.idle_list.held
    assert (held.node, held.user_name, held.workload_name) == ("node-1", getpass.getuser(), "processes")
    assert report.source is not None
    assert (report.source.exporter, report.method.activity_sources) == (
        "nvitop-exporter",
        ("gpu_utilization_Percentage",),
    )
