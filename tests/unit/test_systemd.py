# SPDX-License-Identifier: Apache-2.0
"""The systemd units: systemd has nothing to say against them, and little is left open to the services."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from gpuledger.cli import main
from gpuledger_agent.config import AgentConfig
from gpuledger_collector.config import CollectorConfig
from gpuledger_collector.issue.issued_files import AlreadyIssuingError

UNITS = Path(__file__).resolve().parents[2] / "deploy" / "systemd"
NAMES = ("gpuledger-agent", "gpuledger-collector", "gpuledger-report")
EXPOSURE_MAX = {"gpuledger-agent": 1.6, "gpuledger-collector": 1.2, "gpuledger-report": 1.2}
needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not here")


def analyze(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "LC_ALL": "C.UTF-8"},
    )


def service(name: str) -> dict[str, str]:
    """Return the service's settings; of one that stands twice the last."""
    parser = configparser.ConfigParser(strict=False, interpolation=None, delimiters=("=",))
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(UNITS / f"{name}.service", encoding="utf-8")
    return dict(parser["Service"])


@needs_systemd
@pytest.mark.parametrize("name", NAMES)
def test_systemd_has_nothing_to_say_against_the_unit(name: str, tmp_path: Path) -> None:
    text = (UNITS / f"{name}.service").read_text(encoding="utf-8")
    unit = tmp_path / f"{name}.service"
    # The command is not installed where tests run.
    unit.write_text(text.replace("/usr/bin/gpuledger ", "/bin/true "), encoding="utf-8")
    done = analyze("verify", "--man=no", unit)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    unit.write_text(unit.read_text(encoding="utf-8").replace("NoNewPrivileges=yes", "NoNewPrivilege=yes"))
    assert "NoNewPrivilege" in analyze("verify", "--man=no", unit).stderr, "a mistake would be seen"


@needs_systemd
@pytest.mark.parametrize("name", NAMES)
def test_little_is_left_open(name: str) -> None:
    done = analyze("security", "--offline=true", "--no-pager", UNITS / f"{name}.service")
    match = re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    assert match is not None, done.stderr
    assert float(match[1]) <= EXPOSURE_MAX[name]


@pytest.mark.parametrize(
    ("name", "default"),
    [
        ("gpuledger-agent", AgentConfig()),
        ("gpuledger-collector", CollectorConfig()),
        ("gpuledger-report", CollectorConfig()),
    ],
)
def test_each_service_has_a_user_of_its_own_and_the_state_directory_of_the_defaults(
    name: str, default: AgentConfig | CollectorConfig
) -> None:
    settings = service(name)
    users = re.findall(r"^u (\S+) ", (UNITS / "gpuledger.sysusers.conf").read_text(encoding="utf-8"), re.MULTILINE)
    assert settings["User"] in users
    assert Path("/var/lib") / settings["StateDirectory"] == default.state_dir


@pytest.mark.parametrize("name", NAMES)
def test_each_service_starts_a_command_that_exists(name: str) -> None:
    program, *arguments = service(name)["ExecStart"].split()
    assert program == "/usr/bin/gpuledger"
    assert arguments[-2] == "--config"
    result = CliRunner().invoke(main, [*arguments[:-2], "--help"])
    assert result.exit_code == 0
    assert "--config" in result.stdout


@needs_systemd
def test_systemd_has_nothing_to_say_against_the_timer(tmp_path: Path) -> None:
    service_text = (UNITS / "gpuledger-report.service").read_text(encoding="utf-8")
    (tmp_path / "gpuledger-report.service").write_text(service_text.replace("/usr/bin/gpuledger ", "/bin/true "))
    timer = tmp_path / "gpuledger-report.timer"
    timer.write_text((UNITS / timer.name).read_text(encoding="utf-8"))
    done = analyze("verify", "--man=no", timer)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    timer.write_text(timer.read_text(encoding="utf-8").replace("OnCalendar=*:0/10", "OnCalendar=*:0/ten"))
    assert "ten" in analyze("verify", "--man=no", timer).stderr, "a mistake would be seen"


def test_a_run_of_reports_beside_another_is_no_failure() -> None:
    assert service("gpuledger-report")["SuccessExitStatus"] == str(AlreadyIssuingError.exit_code)
