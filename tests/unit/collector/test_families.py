# SPDX-License-Identifier: Apache-2.0
"""The collector's metrics: the contract, all of it and nothing else; one failing family costs itself."""

import logging
import subprocess
from collections.abc import Callable, Iterable

import pytest
from prometheus_client.parser import text_string_to_metric_families

from gpuledger import __version__
from gpuledger.cells import CELL_MS
from gpuledger.metrics import COLLECTOR
from gpuledger.states import State
from gpuledger_collector.answers import PollFigures
from gpuledger_collector.disk_use import DiskUse
from gpuledger_collector.families import SOURCES, Exposed, Exposer, Families, Sample
from gpuledger_collector.fleet import Fleet, settle
from gpuledger_collector.scheduler_watch import SchedulerFigures
from gpuledger_collector.upkeep import UpkeepFigures
from gpuledger_collector.workload_metrics import Info, WorkloadFigures
from tests.fakes.cells import T0_MS, rows
from tests.parts import require_part

NOTHING = PollFigures(targets=0, up={}, failures={}, accepted=0, refused={}, troubles={})


def a_fleet() -> Fleet:
    states: dict[tuple[str, str], State | dict[State, int] | None] = {
        ("n1", "GPU-1"): State.BUSY,
        ("n1", "GPU-2"): {State.HELD: 299_999, State.BUSY: 1},
        ("n2", "GPU-3"): State.FREE,
        ("n2", "GPU-4"): None,
    }
    fleet = settle(Fleet(), T0_MS, rows(T0_MS, {**states, ("n2", "GPU-4"): State.DOWN}), {})
    return settle(fleet, T0_MS + CELL_MS, rows(T0_MS + CELL_MS, states), {})


def everything() -> Exposed:
    return Exposed(
        fleet=a_fleet(),
        poll=PollFigures(
            targets=2,
            up={"http://n1:9400": True, "http://n2:9400": False},
            failures={"timeout": 2},
            accepted=11,
            refused={"signature": 1},
            lists_up={"targets.json": True, "https://inventory/targets": False},
            list_failures={("https://inventory/targets", "timeout"): 2},
            targets_refused=1,
            pushed_pages=4,
            push_failures={"denied": 1},
            schedulers={
                "train": SchedulerFigures(looks=3, last_ms=T0_MS, jobs=2, waiting=5, unschedulable=1),
                "lab": SchedulerFigures(failures={"unavailable": 2}, trouble="squeue did not answer"),
            },
            troubles={"http://n2:9400": "http://n2:9400 did not answer within 10 s"},
        ),
        simulated=True,
        last_seen_ms={("fra1", "n1"): T0_MS + 2 * CELL_MS, ("fra1", 'n"2\\\n'): T0_MS},
        findings={"foreign_claim": 2},
        not_schedulable={("fra1", "drained"): 3},
        refreshed_ms=T0_MS + 2 * CELL_MS + 1,
        refresh_duration_ns=42_000_000,
        workloads=WorkloadFigures(
            slice_ms={("fra1", "H100", "training", "busy"): 7_000_000, ("fra1", "H100", "inference", "busy"): 0},
            infos=(Info(workload="slurm:c1/7", site="fra1", kind="training", calibration="default", gpus=8),),
            live={("fra1", "training"): 1},
        ),
        upkeep=UpkeepFigures(
            disk=DiskUse(part_bytes={"entries": 7, "ledger": 5}, day_bytes={"entries": 0.5}, free_bytes=99),
            pruned_entries={"readings": 256},
            final_ms=T0_MS,
        ),
    )


def text(exposed: Exposed) -> str:
    return Exposer().render(exposed).text.decode()


@pytest.mark.golden
def test_the_exposition_is_the_golden_one(golden: Callable[[str, str], None]) -> None:
    golden("collector_metrics.txt", text(everything()).replace(__version__, "VERSION"))


def test_every_family_of_the_contract_is_served_and_no_other() -> None:
    served = {
        family.name + ("_total" if family.type == "counter" else "")
        for family in text_string_to_metric_families(text(everything()))
    }
    assert served == {family.name for family in COLLECTOR}
    assert SOURCES.keys() == served


def test_labels_and_types_are_those_of_the_contract() -> None:
    contract = {family.name.removesuffix("_total"): family for family in COLLECTOR}
    for found in text_string_to_metric_families(text(everything())):
        wanted = contract[found.name]
        assert found.type == wanted.kind.value
        assert found.documentation == wanted.help
        assert all(set(sample.labels) == set(wanted.labels) for sample in found.samples), found.name


def test_a_name_that_is_no_unicode_text_costs_nothing() -> None:
    exposed = Exposed(fleet=Fleet(), poll=NOTHING, simulated=False, last_seen_ms={("fra1", "half \ud800"): T0_MS})
    assert 'gpuledger_node_last_seen_timestamp_seconds{node="half ?",site="fra1"}' in text(exposed)


def test_what_is_not_known_is_absent_and_never_0_or_nan() -> None:
    served = text(Exposed(fleet=Fleet(), poll=NOTHING, simulated=False))
    names = {family.name for family in text_string_to_metric_families(served)}
    # Of what is known without anybody having reported, 0 is a count: no agent is polled, nothing came.
    counted = {"gpuledger_collector_readings_accepted", "gpuledger_collector_targets"}
    assert names == {"gpuledger_collector_info"} | counted
    assert 'simulated="false"' in served


def test_ratios_are_quotients_of_the_cell_and_bounds_add_up() -> None:
    samples = {
        (sample.name, sample.labels.get("bound")): sample.value
        for family in text_string_to_metric_families(text(everything()))
        for sample in family.samples
        if sample.name.endswith("_ratio")
    }
    # 4 GPUs: 1 busy, 1 held but for a millisecond, 1 free, 1 dark.
    whole = 4 * CELL_MS
    assert samples["gpuledger_fleet_idle_ratio", "low"] == (2 * CELL_MS - 1) / whole
    assert samples["gpuledger_fleet_idle_ratio", "high"] == (3 * CELL_MS - 1) / whole
    assert samples["gpuledger_fleet_busy_ratio", "low"] == (CELL_MS + 1) / whole
    assert samples["gpuledger_fleet_coverage_ratio", None] == 0.75


def test_a_family_that_the_contract_does_not_know_is_refused() -> None:
    sources = {"gpuledger_fleet_happiness": SOURCES["gpuledger_fleet_gpus"]}
    with pytest.raises(ValueError, match="not in the metrics contract: gpuledger_fleet_happiness"):
        Families(everything, sources)


def fails(_: Exposed) -> Iterable[Sample]:
    raise KeyError("a bug")


@pytest.mark.parametrize(
    "broken",
    [fails, lambda _: [(("too", "many", "labels", "here"), 1.0)], lambda _: [(("a", "b", "c"), float("nan"))]],
    ids=["raises", "labels", "nan"],
)
def test_a_family_that_fails_is_left_out_and_logged_once_and_the_others_are_served(
    broken: Callable[[Exposed], Iterable[Sample]], caplog: pytest.LogCaptureFixture
) -> None:
    exposer = Exposer({**SOURCES, "gpuledger_fleet_gpus": broken})
    for _ in range(2):
        exposition = exposer.render(everything())
        assert b"gpuledger_fleet_gpus" not in exposition.text
        assert b"gpuledger_fleet_installed_gpus{" in exposition.text
        assert exposition.openmetrics.endswith(b"# EOF\n")
    records = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert [(record.msg, vars(record)["family"]) for record in records] == [("family_failed", "gpuledger_fleet_gpus")]


@pytest.mark.prometheus
def test_promtool_finds_nothing_wrong() -> None:
    done = subprocess.run(
        [require_part("promtool"), "check", "metrics"],
        input=text(everything()),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
