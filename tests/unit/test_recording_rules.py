# SPDX-License-Identifier: Apache-2.0
"""The recording rules of deploy/prometheus: accepted by promtool, right by its unit tests, over families that exist."""

import re
import subprocess
from pathlib import Path

import pytest

from gpuledger.metrics import FAMILIES
from tests.parts import require_part

FOLDER = Path(__file__).resolve().parents[2] / "deploy" / "prometheus"


def promtool(*arguments: str) -> str:
    done = subprocess.run(
        [require_part("promtool"), *arguments], cwd=FOLDER, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.prometheus
def test_the_rules_are_accepted_and_their_unit_tests_pass() -> None:
    assert "6 rules found" in promtool("check", "rules", "gpuledger.rules.yml")
    assert "SUCCESS" in promtool("test", "rules", "gpuledger.rules.test.yml")


def test_the_rules_are_made_of_families_of_the_contract() -> None:
    text = (FOLDER / "gpuledger.rules.yml").read_text(encoding="utf-8")
    recorded = set(re.findall(r"record: (\S+)", text))
    used = set(re.findall(r"(?<![:\w])gpuledger_\w+", re.sub(r"#.*", "", text)))
    assert used <= FAMILIES.keys()
    tests = (FOLDER / "gpuledger.rules.test.yml").read_text(encoding="utf-8")
    untested = {name for name in recorded if f"expr: {name}" not in tests}
    assert untested == {"site_model:gpuledger_gpu_covered_seconds:increase5m"}  # it is in the ratios
