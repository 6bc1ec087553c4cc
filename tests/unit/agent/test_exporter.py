# SPDX-License-Identifier: Apache-2.0
"""/metrics: exactly the contract, nothing from nothing, and no family takes another down."""

from __future__ import annotations

import logging
import math
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from gpuledger import __version__
from gpuledger.metrics import AGENT, Family, Kind
from gpuledger.states import OBSERVED
from gpuledger_agent.exporter import AgentCollector, registry_of
from gpuledger_agent.loop import View
from gpuledger_agent.push import PushFigures
from tests.fakes.agents import Rig
from tests.fakes.eventful import eventful_node
from tests.fakes.hangs import come_back, hang
from tests.fakes.nvml import NOT_LOADED, NOT_SUPPORTED, UNKNOWN, gpus, instance
from tests.parts import require_part

NODE_ID = "0" * 64
EMPTY = View(sessions={}, sources={}, driver_failures={})


def collector_of(view: Callable[[], View]) -> AgentCollector:
    return AgentCollector(view, NODE_ID, "node-1", 1.0, simulated=False, pushed=lambda: PUSHED)


def exposition(view: View) -> str:
    return generate_latest(registry_of(collector_of(lambda: view))).decode("utf-8")


PUSHED = PushFigures(acknowledged=17, pages=9, readings=12, failures={"timeout": 3}, succeeded_ms=1_795_446_000_000)


def families(view: View) -> dict[str, Metric]:
    return {metric.name: metric for metric in text_string_to_metric_families(exposition(view))}


def values(view: View, name: str) -> dict[tuple[str, ...], float]:
    """Label values, in order of the labels' names -> value of one family; empty where it has no series.

    An empty instance id is left out: to Prometheus it is no label.
    """
    metric = families(view).get(name.removesuffix("_total"))
    samples = [] if metric is None else [sample for sample in metric.samples if sample.name == name]
    return {
        tuple(value for label, value in sorted(sample.labels.items()) if (label, value) != ("instance_id", "")): (
            sample.value
        )
        for sample in samples
    }


def still(view: View) -> View:
    """Without what depends on the machine or on this version's name: what each source took, and the journal's size."""
    sources = {name: replace(report, duration_ns=0) for name, report in view.sources.items()}
    return replace(view, sources=sources, journal_bytes=4_096)


@pytest.fixture
def eventful(tmp_path: Path) -> Rig:
    return eventful_node(tmp_path)


# ---------------------------------------------------------------------------------------------- the contract


@pytest.mark.golden
def test_an_eventful_node_exposes_what_it_always_did(eventful: Rig, golden: Callable[[str, str], None]) -> None:
    text = exposition(still(eventful.agent.view)).replace(__version__, "VERSION")
    golden("agent-metrics.txt", text)


def test_every_family_of_the_contract_is_exposed_by_an_eventful_node(eventful: Rig) -> None:
    found = families(broken(eventful.agent.view))
    assert {family.name.removesuffix("_total") for family in AGENT} - found.keys() == {BROKEN}


BROKEN = "gpuledger_gpu_memory_used_bytes"


def broken(view: View) -> View:
    """A view of which the family BROKEN cannot be built, as a bug would have it."""
    whole = view.gpus[0].seen
    left = {field.name: getattr(whole, field.name) for field in fields(whole) if field.name != "memory_used_bytes"}
    seen: Any = SimpleNamespace(**left | {"is_allocated": False})
    return replace(view, gpus=(replace(view.gpus[0], seen=seen), *view.gpus[1:]))


@pytest.fixture(params=["empty", "eventful", "detached"])
def view(request: pytest.FixtureRequest, eventful: Rig) -> View:
    if request.param == "empty":
        return EMPTY
    if request.param == "detached":
        eventful.nvml.fails["nvmlInit"] = UNKNOWN
        for gpu in eventful.nvml.gpus:
            gpu.fails["*"] = NOT_LOADED
        eventful.tick(3)
    return eventful.agent.view


def test_what_is_exposed_has_the_contracts_kind_help_and_labels_and_nothing_else_is_exposed(view: View) -> None:
    contract: dict[str, Family] = {family.name.removesuffix("_total"): family for family in AGENT}
    for name, metric in families(view).items():
        family = contract[name]
        assert metric.type == family.kind.value
        assert metric.documentation == family.help
        for sample in metric.samples:
            labels = set(sample.labels) - ({"le"} if family.kind is Kind.HISTOGRAM else set())
            assert labels == set(family.labels)


def test_no_value_is_nan_infinite_or_negative(view: View) -> None:
    for metric in families(view).values():
        for sample in metric.samples:
            assert math.isfinite(sample.value)
            assert sample.value >= 0


def test_promtool_finds_nothing_to_say(view: View) -> None:
    promtool = require_part("promtool")
    text = exposition(view)
    done = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


# ---------------------------------------------------------------------------------------------- absence


def test_before_the_first_tick_only_what_is_known_of_the_agent_is_there() -> None:
    found = families(EMPTY)
    assert not any(name.startswith("gpuledger_gpu_") for name in found)
    assert "gpuledger_agent_tick_timestamp_seconds" not in found
    assert "gpuledger_agent_journal_last_sequence" not in found
    assert "gpuledger_agent_gpus_unidentified" not in found
    assert values(EMPTY, "gpuledger_agent_driver_attached") == {(): 0}


def test_what_a_board_never_told_has_no_series(tmp_path: Path) -> None:
    rig = Rig(tmp_path, gpus(2))
    rig.gpu.work(50, 4100)
    rig.gpu.fails = {"nvmlDeviceGetTotalEnergyConsumption": NOT_SUPPORTED, "nvmlDeviceGetUtilizationRates": UNKNOWN}
    rig.tick(10)
    for name in ("power_watts", "active_seconds_total", "activity_seconds", "energy_joules_total"):
        assert values(rig.agent.view, f"gpuledger_gpu_{name}").keys() <= {
            (rig.nvml.gpus[1].uuid,), ("free", rig.nvml.gpus[1].uuid)
        }  # fmt: skip
    assert values(rig.agent.view, "gpuledger_gpu_power_watts") == {(rig.nvml.gpus[1].uuid,): 70}


@pytest.mark.parametrize(("is_allocated", "value"), [(None, None), (False, 0), (True, 1)])
def test_an_allocation_that_is_not_known_has_no_series(
    tmp_path: Path, is_allocated: bool | None, value: int | None
) -> None:
    rig = Rig(tmp_path, gpus(1))
    rig.tick(2)
    (gpu,) = rig.agent.view.gpus
    view = replace(rig.agent.view, gpus=(replace(gpu, seen=replace(gpu.seen, is_allocated=is_allocated)),))
    assert values(view, "gpuledger_gpu_allocated") == ({} if value is None else {(rig.gpu.uuid,): value})


def test_a_divided_gpu_is_allocated_where_an_instance_is_and_unknown_where_one_may_be(tmp_path: Path) -> None:
    rig = Rig(tmp_path, gpus(1))
    rig.gpu.instances = [instance(1, 3), instance(9, 1)]
    rig.tick(2)
    (gpu,) = rig.agent.view.gpus
    first, second = gpu.seen.instances or ()

    def allocated(board: bool | None, *marks: bool | None) -> list[float]:
        pairs = zip((first, second), marks, strict=True)
        parts = tuple(replace(one, seen=replace(one.seen, is_allocated=mark)) for one, mark in pairs)
        seen = replace(gpu.seen, is_allocated=board, instances=parts)
        view = replace(rig.agent.view, gpus=(replace(gpu, seen=seen),))
        return list(values(view, "gpuledger_gpu_allocated").values())

    assert allocated(False, False, True) == [1]
    assert allocated(False, None, True) == [1]
    assert allocated(True, True, True) == [1]
    assert allocated(False, False, None) == []
    assert allocated(False, False, False) == [0]
    unknown = replace(gpu.seen, is_allocated=False, instances=None)
    view = replace(rig.agent.view, gpus=(replace(gpu, seen=unknown),))
    assert values(view, "gpuledger_gpu_allocated") == {}


def test_a_gpu_that_departed_has_no_series_in_any_family(eventful: Rig) -> None:
    departed = eventful.nvml.gpus.pop(0)
    eventful.tick(11)
    assert departed.uuid not in exposition(eventful.agent.view)
    assert eventful.nvml.gpus[0].uuid in exposition(eventful.agent.view)


def test_without_a_driver_the_gpus_known_before_go_on_as_uncovered(eventful: Rig) -> None:
    eventful.nvml.fails["nvmlInit"] = NOT_LOADED
    for gpu in eventful.nvml.gpus:
        gpu.fails["*"] = NOT_LOADED
    eventful.tick(10)
    view = eventful.agent.view
    uuid = eventful.nvml.gpus[0].uuid
    assert values(view, "gpuledger_gpu_uncovered_seconds_total")["library", uuid] >= 9
    assert values(view, "gpuledger_gpu_current_state") == {}
    assert values(view, "gpuledger_gpu_memory_used_bytes") == {}
    assert values(view, "gpuledger_agent_driver_attached") == {(): 0}
    (info,) = families(view)["gpuledger_agent_info"].samples
    assert info.labels["driver_version"] == ""


# ---------------------------------------------------------------------------------------------- figures


def test_the_states_of_a_gpu_are_all_there_and_sum_to_what_was_covered(tmp_path: Path) -> None:
    rig = Rig(tmp_path, gpus(1))
    rig.agent.tick()
    rig.gpu.work(50, 4100)
    rig.tick(90)
    found = values(rig.agent.view, "gpuledger_gpu_state_seconds_total")
    assert {state for state, _ in found} == {str(state) for state in OBSERVED}
    assert sum(found.values()) == 90
    assert found["busy", rig.gpu.uuid] == 90
    assert values(rig.agent.view, "gpuledger_gpu_active_seconds_total") == {(rig.gpu.uuid,): 45}
    assert values(rig.agent.view, "gpuledger_gpu_power_watts") == {(rig.gpu.uuid,): 500}


def test_the_activity_histogram_is_cumulative_with_the_contracts_edges(tmp_path: Path) -> None:
    rig = Rig(tmp_path, gpus(1))
    rig.gpu.work(0, 4100)
    rig.agent.tick()
    rig.tick(10)
    for percent, seconds in ((3, 20), (5, 30), (100, 40)):
        rig.gpu.percent = percent
        rig.tick(seconds)
    samples = families(rig.agent.view)["gpuledger_gpu_activity_seconds"].samples
    by_edge = {sample.labels["le"]: sample.value for sample in samples if "le" in sample.labels}
    assert by_edge == {
        "0.0": 10, "0.01": 10, "0.05": 60, "0.1": 60, "0.25": 60, "0.5": 60, "0.75": 60, "1.0": 100, "+Inf": 100,
    }  # fmt: skip
    totals = {sample.name.rsplit("_", 1)[1]: sample.value for sample in samples if "le" not in sample.labels}
    assert totals["count"] == 100
    assert totals["sum"] == pytest.approx(20 * 0.03 + 30 * 0.05 + 40)


# ---------------------------------------------------------------------------------------------- divided GPUs


@pytest.fixture
def divided(tmp_path: Path) -> Rig:
    """A GPU that was whole and busy for 7 s, then divided: 3 slices at 50 %, 1 held, 3 in no instance, for 14 s."""
    rig = Rig(tmp_path, gpus(1))
    rig.gpu.gpm = {1: (0, 100.0)}
    rig.gpu.work(100, 4100, power_mw=70_000)
    rig.tick(9)
    rig.gpu.work(0, power_mw=70_000)
    half = instance(2, 3, 4100)
    half.gpm = {1: (0, 50.0), 2: (0, 25.0)}
    rig.gpu.instances = [half, instance(9, 1, 4200)]
    rig.tick(10)
    return rig


def test_the_series_of_a_divided_gpu_sum_to_the_whole_gpu_whatever_becomes_of_its_instances(divided: Rig) -> None:
    state = "gpuledger_gpu_state_seconds_total"
    totals = divided.agent.view.gpus[0].total
    before = sum(values(divided.agent.view, state).values())
    assert before == pytest.approx(sum(totals.state_slice_ms.values()) / 7_000)
    divided.tick(14)
    grown = sum(values(divided.agent.view, state).values()) - before
    assert grown == pytest.approx(14)
    found = values(divided.agent.view, state)
    uuid = divided.gpu.uuid
    divided.tick(7)
    later = values(divided.agent.view, state)
    assert {key: later[key] - found[key] for key in later if later[key] > found[key]} == {
        ("2", "busy", uuid): pytest.approx(3),
        ("9", "held", uuid): pytest.approx(1),
        ("free", uuid): pytest.approx(3),
    }


def test_what_is_relative_to_an_instance_counts_by_its_slices(divided: Rig) -> None:
    uuid = divided.gpu.uuid
    first = values(divided.agent.view, "gpuledger_gpu_active_seconds_total")
    sm = values(divided.agent.view, "gpuledger_gpu_sm_active_seconds_total")
    divided.tick(14)
    second = values(divided.agent.view, "gpuledger_gpu_active_seconds_total")
    assert second["2", uuid] - first["2", uuid] == pytest.approx(14 * 3 / 7 * 0.5)
    assert second[(uuid,)] == first[(uuid,)]
    grown = values(divided.agent.view, "gpuledger_gpu_sm_active_seconds_total")["2", uuid] - sm["2", uuid]
    assert grown == pytest.approx(14 * 3 / 7 * 0.25)


def test_what_is_the_boards_alone_is_there_once(divided: Rig) -> None:
    view, uuid = divided.agent.view, divided.gpu.uuid
    assert values(view, "gpuledger_gpu_power_watts") == {(uuid,): 70}
    assert values(view, "gpuledger_gpu_energy_joules_total")["mig", uuid] > 0
    assert values(view, "gpuledger_gpu_memory_total_bytes") == {("2", uuid): 30 << 30, ("9", uuid): 10 << 30}
    assert values(view, "gpuledger_gpu_memory_used_bytes") == {("2", uuid): 1 << 30, ("9", uuid): 1 << 30}
    assert sum(values(view, "gpuledger_gpu_current_state").values()) == pytest.approx(1)
    assert values(view, "gpuledger_gpu_current_state")["2", "busy", uuid] == pytest.approx(3 / 7)


def test_an_instance_that_is_gone_has_no_series_and_the_next_of_its_id_begins_anew(divided: Rig) -> None:
    uuid = divided.gpu.uuid
    info = "gpuledger_gpu_instance_info"
    assert set(values(divided.agent.view, info)) == {
        ("2", "MIG-00000002-0000-5000-8000-000000000000", "3g.30gb", "3", uuid),
        ("9", "MIG-00000009-0000-5000-8000-000000000000", "1g.10gb", "1", uuid),
    }
    divided.gpu.instances = [instance(2, 4)]
    divided.tick(1)
    found = values(divided.agent.view, "gpuledger_gpu_state_seconds_total")
    assert {key[0] for key in found if len(key) == 3} == {"2"}
    assert found["2", "free", uuid] == pytest.approx(4 / 7)
    assert found["2", "busy", uuid] == 0
    divided.gpu.instances = None
    divided.tick(11)
    assert values(divided.agent.view, info) == {}
    assert {len(key) for key in values(divided.agent.view, "gpuledger_gpu_state_seconds_total")} == {2}


# ---------------------------------------------------------------------------------------------- isolation


def test_a_family_that_cannot_be_built_costs_only_itself_and_is_counted_and_said_once(
    eventful: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    collector = collector_of(lambda: broken(eventful.agent.view))
    registry = registry_of(collector)
    with caplog.at_level(logging.ERROR):
        for scrape in (1, 2, 3):
            found = {m.name: m for m in text_string_to_metric_families(generate_latest(registry).decode("utf-8"))}
            assert BROKEN not in found
            assert "gpuledger_gpu_state_seconds" in found
            (sample,) = (s for s in found["gpuledger_agent_exposition_failures"].samples if s.name.endswith("_total"))
            assert (sample.labels, sample.value) == ({"family": BROKEN}, scrape)
    assert caplog.messages == ["family_failed"]


def test_a_contract_that_nobody_fulfils_costs_only_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    def contract() -> Iterator[Family]:
        yield replace(AGENT[0], name="gpuledger_nobody_knows")
        yield from AGENT

    monkeypatch.setattr("gpuledger_agent.exporter.AGENT", tuple(contract()))
    assert values(EMPTY, "gpuledger_agent_exposition_failures_total") == {("gpuledger_nobody_knows",): 1}


# ---------------------------------------------------------------------------------------------- health


def test_what_ails_a_gpu_is_counted_by_kind(eventful: Rig) -> None:
    view = eventful.agent.view
    uuid = eventful.gpu.uuid
    assert values(view, "gpuledger_gpu_xid_errors_total") == {(uuid, "31"): 2, (uuid, "94"): 1}
    assert values(view, "gpuledger_gpu_ecc_errors_total") == {("corrected", uuid): 3, ("uncorrected", uuid): 1}
    assert values(view, "gpuledger_gpu_throttled_seconds_total") == {("sw_power_cap", uuid): 4.5}
    rows = values(view, "gpuledger_gpu_remapped_rows")
    assert (rows["correctable", uuid], rows["uncorrectable", uuid]) == (3, 0)
    assert values(view, "gpuledger_gpu_row_remap_pending")[uuid,] == 1
    assert values(view, "gpuledger_gpu_row_remap_failed")[uuid,] == 0
    assert values(view, "gpuledger_gpu_recovery_action")["none", uuid] == 1


def test_a_lost_gpu_says_nothing_of_its_rows(eventful: Rig) -> None:
    lost = eventful.nvml.gpus[3].uuid
    for name in ("gpuledger_gpu_recovery_action", "gpuledger_gpu_remapped_rows", "gpuledger_gpu_row_remap_pending"):
        assert not any(lost in labels for labels in values(eventful.agent.view, name))


def test_hung_calls_are_counted_by_function_and_those_that_hang_now_are_shown(eventful: Rig) -> None:
    function = "nvmlDeviceGetFieldValues"
    assert values(eventful.agent.view, "gpuledger_agent_hung_calls_total") == {(function,): 1}
    assert values(eventful.agent.view, "gpuledger_agent_stuck_calls") == {(): 0}
    hang(eventful, 0, function)
    eventful.tick()
    assert values(eventful.agent.view, "gpuledger_agent_stuck_calls") == {(): 1}
    assert values(eventful.agent.view, "gpuledger_agent_hung_gpus") == {(): 1}
    come_back(eventful, 0, function)
