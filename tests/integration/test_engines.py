# SPDX-License-Identifier: Apache-2.0
"""A recorded week in a real Prometheus and a real VictoriaMetrics, reported by the command as anybody would call it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from gpuledger.cells import HOUR_MS, SLICES_PER_GPU
from gpuledger.states import State
from tests.fakes.programs import run_python
from tests.integration.engines import prometheus_with, victoria_metrics_with
from tests.integration.recorded_week import BLANK, TRUTH, Span, past

WEEK = "2026-W47"
SOURCE = ("--source", "prometheus", "--url")
pytestmark = [pytest.mark.slow, pytest.mark.prometheus]


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with prometheus_with(past(), tmp_path_factory.mktemp("prometheus")) as url:
        yield url


@pytest.fixture(scope="module")
def victoria_metrics(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with victoria_metrics_with(past(), tmp_path_factory.mktemp("victoria")) as url:
        yield url


def report(url: str, out: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return run_python("-m", "gpuledger", "report", "weekly", *SOURCE, url, "--week", WEEK, "--out", str(out), *more)


def document(url: str, out: Path, *more: str) -> Any:
    done = report(url, out, *more)
    assert done.returncode == 0, done.stderr
    return json.loads((out / "weekly-2026-W47.json").read_text(encoding="utf-8"))


def hours(totals: Any) -> dict[State, float]:
    return {State(row["state"]): row["slice_ms"] / SLICES_PER_GPU / HOUR_MS for row in totals["states"]}


@pytest.mark.parametrize("engine", ["prometheus", "victoria_metrics"])
def test_a_recorded_week_is_reported_as_it_was_spent(
    engine: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    found = document(request.getfixturevalue(engine), tmp_path)
    assert found["headline"]["gpus"] == 8
    # Each of some forty edges is at most an interval off.
    assert hours(found["headline"]) == pytest.approx(TRUTH, abs=0.2)
    assert found["headline"]["installed_slice_ms"] == 8 * 168 * HOUR_MS * SLICES_PER_GPU
    assert [place["model"] for place in found["places"]] == ["NVIDIA H100 80GB HBM3"]
    assert {node["node"] for node in found["idle_list"]["dark"]} == {"gpu-node-07"}
    holders = {(row["user_name"], row["workload_name"]): row["held_gpu_hours"] for row in found["idle_list"]["held"]}
    assert holders == {("people", "notebook-7"): pytest.approx(168 - 1 / 3, abs=0.1)}
    source = found["source"]
    assert source["contradicting_points"] == pytest.approx(12 * 120, abs=2)
    assert source["rejected_points"] == 0
    assert found["findings"] == []
    assert found["comparison"]["absent"] == "previous_not_in_ledger"


def test_both_engines_give_the_same_bytes(prometheus: str, victoria_metrics: str, tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    assert report(prometheus, one).returncode == 0
    assert report(victoria_metrics, other).returncode == 0
    names = sorted(path.name for path in one.iterdir())
    assert len(names) == 6
    for name in names:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


@pytest.mark.parametrize("engine", [prometheus_with, victoria_metrics_with])
def test_blanks_in_a_series_never_make_a_busy_gpu_idle(
    engine: Callable[..., AbstractContextManager[str]], tmp_path: Path
) -> None:
    """VictoriaMetrics 1.79.5 keeps the values of a block to one scale: near 9.2e18 it reads 0.94 as 0."""
    week = [
        Span(gpu="0", to_h=10, active=0.94, utilisation=98, memory=70_995),
        Span(gpu="0", from_h=10, to_h=12, active=BLANK, utilisation=98, memory=70_995),
        Span(gpu="0", from_h=12, to_h=24, active=0.94, utilisation=98, memory=70_995),
    ]
    folder = tmp_path / "engine"
    folder.mkdir()
    with engine(past(week), folder) as url:
        day = ("--from", "2026-11-16", "--to", "2026-11-17")
        done = run_python("-m", "gpuledger", "report", "weekly", *SOURCE, url, "--out", str(tmp_path), *day)
    assert done.returncode == 0, done.stderr
    (file,) = tmp_path.glob("*.json")
    found = json.loads(file.read_text(encoding="utf-8"))
    spent = hours(found["headline"])
    known = {State.BUSY, State.UNMEASURED, State.DARK}
    assert {state for state, amount in spent.items() if amount > 0} <= known
    assert spent[State.BUSY] >= 2 - 0.02
    assert found["source"]["rejected_points"] == pytest.approx(2 * 120, abs=2)
    if engine is prometheus_with:
        assert spent[State.BUSY] == pytest.approx(24, abs=0.02)


def test_an_engine_with_small_limits_is_asked_for_less_and_gives_the_same(prometheus: str, tmp_path: Path) -> None:
    day = ("--from", "2026-11-19", "--to", "2026-11-20")

    def read(url: str, out: Path) -> tuple[subprocess.CompletedProcess[str], Any]:
        done = run_python("-m", "gpuledger", "report", "weekly", *SOURCE, url, "--out", str(out), *day)
        found = [json.loads(file.read_text(encoding="utf-8")) for file in out.glob("*.json")]
        return done, found[0] if found else None

    _, whole = read(prometheus, tmp_path / "whole")
    for name in ("small", "tiny"):
        (tmp_path / name).mkdir()
    with prometheus_with(past(), tmp_path / "small", "--query.max-samples=20000") as url:
        done, found = read(url, tmp_path / "small-report")
        assert done.returncode == 0, done.stderr
        assert found["method"]["ledger_digest"] == whole["method"]["ledger_digest"]
    with prometheus_with(past(), tmp_path / "tiny", "--query.max-samples=100") as url:
        done, found = read(url, tmp_path / "tiny-report")
    assert (done.returncode, found) == (1, None)
    assert done.stderr.startswith(f"Error: {url} refuses the query (HTTP 422): query processing would load too many")
    assert done.stderr.count("\n") == 1


def test_a_week_that_the_engine_has_nothing_of_is_one_sentence(prometheus: str, tmp_path: Path) -> None:
    done = report(prometheus, tmp_path / "out", "--profile", "nvitop")
    assert done.returncode == 1
    assert "has no samples of gpu_utilization_Percentage or gpu_memory_used_MiB from" in done.stderr
    assert done.stderr.count("\n") == 1
