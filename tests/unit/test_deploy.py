# SPDX-License-Identifier: Apache-2.0
"""What deploy/ says is so: files that exist, commands and options that the programs have, settings that they know."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

import docs
from gpuledger import __version__
from gpuledger_agent import config as agent_config
from gpuledger_agent.scenarios import SCENARIOS
from gpuledger_collector import config as collector_config
from gpuledger_collector.targets import load_groups

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
CHART = DEPLOY / "helm" / "gpuledger"
DOCKERFILE = (DEPLOY / "docker" / "Dockerfile").read_text(encoding="utf-8")
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose" / "compose.yaml").read_text(encoding="utf-8"))
OURS = {name: one for name, one in COMPOSE["services"].items() if one["image"].startswith("gpuledger-")}
PROFILES = {"gpu", "simulated"}
OPTIONAL = {"global", "agent.resources.claims", "collector.resources.claims"}
"""What may stand among the chart's values and does not by itself."""


def unknown_options(words: list[str]) -> list[str]:
    """Return the options of a command line of ours that the command does not have; raises KeyError without one."""
    commands = {command.name: command.context for command in docs.walk()}
    name = "gpuledger"
    rest = list(words)
    while rest and f"{name} {rest[0]}" in commands:
        name = f"{name} {rest.pop(0)}"
    context = commands[name]
    assert context is not None
    assert not isinstance(context.command, click.Group), f"{name} is no command that runs"
    known = {option for parameter in context.command.params for option in parameter.opts}
    return [word for word in rest if word.startswith("-") and word.split("=")[0] not in known]


def environment_of(text: str) -> set[str]:
    return set(re.findall(r"GPULEDGER_(?:AGENT|COLLECTOR)_[A-Z_]+", text))


def settings_there_are() -> set[str]:
    pages = (
        (agent_config.AgentConfig, agent_config.PREFIX),
        (collector_config.CollectorConfig, collector_config.PREFIX),
    )
    return {row[1].strip("`") for cls, prefix in pages for row in docs.settings_rows(cls, prefix)}


# ------------------------------------------------------------------------------------------------------ the image


def dockerfile_lines() -> list[str]:
    joined = DOCKERFILE.replace("\\\n", " ")
    return [line for line in joined.splitlines() if line and not line.startswith("#")]


def test_each_image_starts_a_command_that_exists_as_a_user_who_is_not_root() -> None:
    _, *stages = re.split(r"(?m)^FROM ", DOCKERFILE)
    final = {stage.split()[2]: stage for stage in stages if "ENTRYPOINT" in stage}
    assert final.keys() == {"agent", "collector"}
    for name, stage in final.items():
        command = re.search(r"^CMD (\[.*\])$", stage, re.MULTILINE)
        assert command is not None
        assert json.loads(command[1]) == [name, "run"]
        assert unknown_options(json.loads(command[1])) == []
        user = re.search(r"^USER (\d+):(\d+)$", stage, re.MULTILINE)
        assert user is not None
        assert int(user[1]) > 0
        assert "HEALTHCHECK" in stage


def test_the_images_hold_every_package_against_its_hash() -> None:
    installs = [
        part for line in dockerfile_lines() for part in line.split("&&") if " install " in part and "pip" in part
    ]
    assert len(installs) == 5
    for part in installs:
        assert ("--require-hashes" in part and "--only-binary :all:" in part) or "--no-index --no-deps" in part, part
    named = re.findall(r"requirements/[a-z-]+\.txt", DOCKERFILE)
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_what_the_images_copy_is_sent_to_the_build_and_nothing_else_is() -> None:
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line[:1] == "!"}
    copied = [line.split()[1:-1] for line in dockerfile_lines() if line.startswith("COPY ") and "--from" not in line]
    sources = {source for line in copied for source in line}
    assert {source.replace("requirements/", "requirements/*.txt") for source in sources} == let_in
    assert [source for source in sources if not (ROOT / source).exists()] == []


# ------------------------------------------------------------------------------------------------------- compose


def test_each_service_of_ours_runs_a_command_that_exists_on_a_closed_file_system() -> None:
    assert {"agent", "collector", "simulated-training", "simulated-collector"} <= OURS.keys()
    for name, service in OURS.items():
        assert unknown_options(service.get("command", ["agent", "run"])) == [], name
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["image"].endswith(f":{__version__}")
        assert f"\nFROM ${{BASE}} AS {service['build']['target']}\n" in DOCKERFILE


def test_ports_are_published_on_the_loopback_alone() -> None:
    ports = [port for service in COMPOSE["services"].values() for port in service.get("ports", [])]
    assert len(ports) == 5
    assert [port for port in ports if not port.startswith("127.0.0.1:")] == []


def test_a_profile_needs_no_gpu_and_says_that_it_is_simulated() -> None:
    for name, service in COMPOSE["services"].items():
        assert set(service["profiles"]) <= PROFILES
        if "gpu" not in service["profiles"]:
            assert name.startswith("simulated-")
            assert "deploy" not in service
            assert "pid" not in service
    simulated = [one for one in OURS.values() if "--simulate" in one.get("command", [])]
    assert len(simulated) == 2
    assert {one["command"][one["command"].index("--simulate") + 1] for one in simulated} <= SCENARIOS.keys()


@pytest.mark.parametrize(
    ("file", "service"), [("collector.toml", "collector"), ("simulated.toml", "simulated-collector")]
)
def test_the_collectors_of_compose_have_a_legal_configuration_and_ask_services_that_are_there(
    file: str, service: str
) -> None:
    path = DEPLOY / "compose" / file
    loaded = collector_config.load(path, COMPOSE["services"][service]["environment"], {})
    assert loaded.value.is_unprotected_allowed
    assert loaded.value.accept_simulated == (file == "simulated.toml")
    hosts = {re.sub(r"https?://|:\d+", "", listed.address) for group in load_groups(path) for listed in group.static}
    profile = COMPOSE["services"][service]["profiles"]
    assert hosts
    assert all(COMPOSE["services"][host]["profiles"] == profile for host in hosts)


def test_every_file_that_compose_mounts_is_there() -> None:
    mounts = [mount for service in COMPOSE["services"].values() for mount in service.get("volumes", [])]
    files = [mount.split(":")[0] for mount in mounts if mount.startswith(".")]
    assert len(files) >= 10
    assert [file for file in files if not (DEPLOY / "compose" / file).is_file()] == []
    volumes = {mount.split(":")[0] for mount in mounts if not mount.startswith(".")}
    assert volumes == COMPOSE["volumes"].keys()


def test_every_dashboard_is_mounted() -> None:
    mounts = "\n".join(COMPOSE["services"]["grafana"]["volumes"])
    assert [path.name for path in (ROOT / "dashboards").glob("*.json") if f"/{path.name}:" not in mounts] == []


# --------------------------------------------------------------------------------------------------------- chart


def test_the_charts_copies_are_the_files_that_they_are_copies_of() -> None:
    copies = {path.name: path.read_bytes() for path in (CHART / "files").rglob("*") if path.is_file()}
    sources = [*(ROOT / "dashboards").glob("*.json")]
    sources += [DEPLOY / "prometheus" / f"gpuledger.{kind}.yml" for kind in ("rules", "alerts")]
    assert copies == {path.name: path.read_bytes() for path in sources}, "run `make docs`"


def test_the_chart_has_the_programs_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    assert (chart["version"], chart["appVersion"]) == (__version__, __version__)


def shape(value: Any, schema: Any) -> Iterator[str]:
    """Yield each key of a value that its schema does not name."""
    for key, inner in value.items() if isinstance(value, dict) else ():
        if key in schema.get("properties", {}):
            yield from shape(inner, schema["properties"][key])
        elif schema.get("additionalProperties", True) is False:
            yield key


def leaves(schema: Any, path: str = "") -> Iterator[str]:
    for key, inner in schema.get("properties", {}).items():
        if "properties" in inner:
            yield from leaves(inner, f"{path}.{key}")
        else:
            yield f"{path}.{key}".lstrip(".")


def test_values_and_their_schema_name_the_same_keys() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    assert list(shape(values, schema)) == []
    assert sorted(leaf for leaf in leaves(schema) if leaf not in OPTIONAL and not is_in(values, leaf)) == []


def is_in(values: Any, leaf: str) -> bool:
    for key in leaf.split("."):
        if not isinstance(values, dict) or key not in values:
            return False
        values = values[key]
    return True


def test_no_value_of_the_chart_is_a_secret() -> None:
    text = (CHART / "values.yaml").read_text(encoding="utf-8")
    assert not re.search(r"(?im)^\s*(?:password|token|key|secret)\s*:\s*\S", text)
    assert not any("kind: Secret" in path.read_text(encoding="utf-8") for path in (CHART / "templates").iterdir())


# ---------------------------------------------------------------------------------------------------- everything


def test_every_variable_that_deploy_sets_is_a_setting() -> None:
    used = {
        name: path
        for path in [*DEPLOY.rglob("*")]
        if path.is_file() and path.suffix != ".json"
        for name in environment_of(path.read_text(encoding="utf-8"))
    }
    assert len(used) > 15
    assert {name: path for name, path in used.items() if name not in settings_there_are()} == {}


def test_cron_runs_a_command_that_exists_as_the_collectors_user() -> None:
    lines = (DEPLOY / "cron" / "gpuledger").read_text(encoding="utf-8").splitlines()
    jobs = [line for line in lines if line[:1] in "*0123456789"]
    assert len(jobs) == 1
    *_, user, command, rest = jobs[0].split(maxsplit=7)[4:]
    assert (user, command) == ("gpuledger", "gpuledger")
    words = shlex.split(rest.split("||")[0])
    assert words[:2] == ["report", "due"]
    assert unknown_options(words) == []


def test_an_option_that_a_command_does_not_have_would_be_noticed() -> None:
    assert unknown_options(["agent", "run", "--confg", "FILE"]) == ["--confg"]
