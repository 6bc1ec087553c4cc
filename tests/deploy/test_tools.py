# SPDX-License-Identifier: Apache-2.0
"""Dockerfile, compose file, scripts, Prometheus' configuration and the bill of materials, by the tools for them."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import sbom
import yaml

from tests.deploy.tools import ROOT, run, tool
from tests.parts import require_part

pytestmark = pytest.mark.deploy

DEPLOY = ROOT / "deploy"
SCRIPTS = ["tools/bootstrap", "tools/lock", ".ci/run", *(str(p.relative_to(ROOT)) for p in DEPLOY.rglob("*.sh"))]


def test_hadolint_has_nothing_to_say_against_the_dockerfile(tmp_path: Path) -> None:
    done = run("hadolint", DEPLOY / "docker" / "Dockerfile")
    assert (done.returncode, done.stdout) == (0, ""), done.stdout
    broken = tmp_path / "Dockerfile"
    broken.write_text("FROM debian:latest\nRUN sudo cd /tmp\n", encoding="utf-8")
    assert "DL3007" in run("hadolint", broken).stdout, "a mistake would be seen"


def test_the_compose_file_keeps_to_the_compose_specification(tmp_path: Path) -> None:
    check = ("check-jsonschema", "--builtin-schema", "vendor.compose-spec")
    file = DEPLOY / "compose" / "compose.yaml"
    done = run(*check, file)
    assert done.returncode == 0, done.stdout
    broken = tmp_path / "compose.yaml"
    broken.write_text(file.read_text(encoding="utf-8").replace("read_only: true", "readonly: true"), encoding="utf-8")
    assert run(*check, broken).returncode != 0, "a mistake would be seen"


def test_shellcheck_has_nothing_to_say_against_the_scripts() -> None:
    assert len(SCRIPTS) >= 5
    done = run("shellcheck", *SCRIPTS)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout


@pytest.mark.prometheus
def test_promtool_accepts_the_configuration_with_its_rules_where_compose_mounts_them(tmp_path: Path) -> None:
    shutil.copy(DEPLOY / "compose" / "prometheus.yml", tmp_path)
    for kind in ("rules", "alerts"):
        shutil.copy(DEPLOY / "prometheus" / f"gpuledger.{kind}.yml", tmp_path)
    said = promtool(tmp_path / "prometheus.yml")
    assert "2 rule files found" in said
    mounts = yaml.safe_load((DEPLOY / "compose" / "compose.yaml").read_text(encoding="utf-8"))["services"]["prometheus"]
    for name in ("prometheus.yml", "gpuledger.rules.yml", "gpuledger.alerts.yml"):
        assert any(f":/etc/prometheus/{name}:ro" in mount for mount in mounts["volumes"])


@pytest.mark.prometheus
def test_promtool_accepts_the_scrape_jobs_of_a_fleet(tmp_path: Path) -> None:
    text = (DEPLOY / "prometheus" / "gpuledger.scrape.yml").read_text(encoding="utf-8")
    # Files of the site's own are not here.
    text = text.replace("/etc/prometheus/", f"{tmp_path}/")
    (tmp_path / "prometheus.yml").write_text(text, encoding="utf-8")
    for name in re.findall(rf"{tmp_path}/([\w.-]+)", text):
        (tmp_path / name).touch()
    promtool(tmp_path / "prometheus.yml", "--syntax-only")


def promtool(file: Path, *options: str) -> str:
    command = [str(require_part("promtool")), "check", "config", *options, str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.prometheus
def test_amtool_accepts_alertmanagers_configuration() -> None:
    command = [str(require_part("amtool")), "check-config", str(DEPLOY / "compose" / "alertmanager.yml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SUCCESS" in done.stdout


@pytest.mark.parametrize("what", sbom.LOCKS)
def test_a_bill_of_materials_keeps_to_cyclonedx(what: str, tmp_path: Path) -> None:
    program = (
        "import sys; from cyclonedx.schema import SchemaVersion; from cyclonedx.validation.json import "
        "JsonStrictValidator; print(JsonStrictValidator(SchemaVersion.V1_6).validate_str(sys.stdin.read()))"
    )
    text = sbom.made(what)
    for given, is_right in ((text, True), (text.replace('"bomFormat"', '"bomForm"'), False)):
        done = subprocess.run([tool("python"), "-c", program], input=given, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert (done.stdout.strip() == "None") == is_right, done.stdout
