# SPDX-License-Identifier: Apache-2.0
"""The alerts of deploy/prometheus: each is accepted, tested, explained in the runbook, and over families that exist."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from gpuledger.metrics import FAMILIES
from gpuledger.states import State
from gpuledger_agent.xids import FATAL
from tests.parts import require_part

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy" / "prometheus"
ALERTS: dict[str, dict[str, Any]] = {
    rule["alert"]: rule
    for group in yaml.safe_load((FOLDER / "gpuledger.alerts.yml").read_text(encoding="utf-8"))["groups"]
    for rule in group["rules"]
}


@pytest.mark.prometheus
def test_prometheus_accepts_the_alerts_and_their_unit_tests_pass() -> None:
    for arguments in (("check", "rules", "gpuledger.alerts.yml"), ("test", "rules", "gpuledger.alerts.test.yml")):
        command = [str(require_part("promtool")), *arguments]
        done = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_is_quiet_first_in_its_unit_test_and_then_fires() -> None:
    tests = yaml.safe_load((FOLDER / "gpuledger.alerts.test.yml").read_text(encoding="utf-8"))["tests"]
    tested = {one["alert_rule_test"][0]["alertname"]: one["alert_rule_test"] for one in tests}
    assert tested.keys() == ALERTS.keys()
    for name, looks in tested.items():
        assert {look["alertname"] for look in looks} == {name}
        assert [len(look["exp_alerts"]) for look in looks] == [0, 1], name


@pytest.mark.parametrize("name", ALERTS)
def test_each_alert_says_how_bad_it_is_and_where_to_read_on(name: str) -> None:
    rule = ALERTS[name]
    assert rule["labels"]["severity"] in {"info", "warning", "critical"}
    assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}
    assert rule["annotations"]["runbook_url"] == f"docs/runbook.md#{name.lower()}"
    assert f"\n### {name}\n" in (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ALERTS)
def test_each_alert_is_made_of_families_labels_and_states_of_the_contract(name: str) -> None:
    expr = ALERTS[name]["expr"]
    used = set(re.findall(r"gpuledger_\w+", expr))
    assert used
    assert used <= FAMILIES.keys()
    states = set("|".join(re.findall(r'state=~?"([\w|]+)"', expr)).split("|")) - {""}
    assert states <= {state.value for state in State}


def test_the_fatal_errors_are_those_for_which_the_agent_takes_a_gpu_for_down() -> None:
    lists = re.findall(r'xid=~"([\d|]+)"', ALERTS["GpuledgerFatalXid"]["expr"])
    assert {tuple(map(int, found.split("|"))) for found in lists} == {tuple(sorted(FATAL))}
