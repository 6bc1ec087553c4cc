# SPDX-License-Identifier: Apache-2.0
"""The Helm chart, linted and rendered by Helm's own code, and what it renders held against Kubernetes' schemas.

Objects of the Prometheus operator have no schema here: of them only what this chart uses is checked, by hand.
"""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from gpuledger_agent import config as agent_config
from gpuledger_collector import config as collector_config
from gpuledger_collector.issue.plan_files import load_plan
from gpuledger_collector.scheduler_files import load_schedulers
from tests.deploy.tools import ROOT, run
from tests.unit.test_deploy import settings_there_are, unknown_options

pytestmark = pytest.mark.deploy

CHART = ROOT / "deploy" / "helm" / "gpuledger"
CASES = sorted(path.stem for path in (CHART / "ci").glob("*.yaml"))
OPERATOR = "monitoring.coreos.com/v1"
Object = dict[str, Any]


def values_of(case: str) -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load((CHART / "ci" / f"{case}.yaml").read_text(encoding="utf-8"))
    return values


def ask_helm(*values: dict[str, Any]) -> list[dict[str, Any]]:
    done = run("python", ROOT / "tools" / "chart.py", CHART, *map(json.dumps, values))
    assert done.returncode == 0, done.stderr
    answers: list[dict[str, Any]] = json.loads(done.stdout)
    return answers


@functools.cache
def rendered(case: str) -> tuple[Object, ...]:
    (answer,) = ask_helm(values_of(case))
    assert answer["error"] is None
    manifests = [text for name, text in answer["rendered"].items() if not name.endswith("NOTES.txt")]
    return tuple(document for text in manifests for document in yaml.safe_load_all(text) if document is not None)


def one(case: str, kind: str, name: str) -> Object:
    (found,) = [x for x in rendered(case) if (x["kind"], x["metadata"]["name"]) == (kind, f"ledger-gpuledger{name}")]
    return found


def pods(case: str) -> list[Object]:
    return [x["spec"]["template"]["spec"] for x in rendered(case) if x["kind"] in {"DaemonSet", "StatefulSet"}]


@pytest.mark.parametrize("case", CASES)
def test_helm_has_nothing_to_say_against_the_chart(case: str) -> None:
    (answer,) = ask_helm(values_of(case))
    said = [message["error"] for message in answer["lint"]["messages"]]
    assert (answer["error"], answer["lint"]["errors"], said) == (None, [], ["icon is recommended"])
    assert "NOTES.txt" in "".join(answer["rendered"])


def test_a_value_that_is_unknown_or_of_the_wrong_kind_is_refused_by_name() -> None:
    wrong: list[dict[str, Any]] = [
        {"agent": {"kubelt": {}}},
        {"collector": {"service": {"port": "https"}}},
        {"site": ""},
    ]
    answers = ask_helm(*[{**values_of("plain"), **each} for each in wrong])
    assert [
        re.search(name, answer["error"]) is not None
        for name, answer in zip(("kubelt", "port", "site"), answers, strict=True)
    ] == [True] * 3


@pytest.mark.parametrize(
    ("part", "key", "said"),
    [
        ("collector", "tlsSecret", "the Secret with the collector's certificate"),
        ("collector", "readTokensSecret", "the tokens that may look"),
        ("collector", "pushTokensSecret", "the tokens that may push"),
        ("agent", "pushTokenSecret", "the token that agents push with"),
    ],
)
def test_a_secret_that_is_not_named_is_asked_for_in_a_sentence(part: str, key: str, said: str) -> None:
    values = values_of("plain")
    del values[part][key]
    (answer,) = ask_helm(values)
    assert said in answer["error"]


@pytest.mark.parametrize("case", CASES)
def test_kubernetes_knows_every_field_of_what_is_rendered(case: str, tmp_path: Path) -> None:
    kept = [document for document in rendered(case) if document["apiVersion"] != OPERATOR]
    files = []
    for number, document in enumerate(kept):
        files.append(tmp_path / f"{number}.yaml")
        files[-1].write_text(yaml.safe_dump(document), encoding="utf-8")
    done = run("kubernetes-validate", "--strict", *files)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_field_that_kubernetes_does_not_know_would_be_noticed(tmp_path: Path) -> None:
    file = tmp_path / "broken.yaml"
    file.write_text(yaml.safe_dump({**one("plain", "DaemonSet", "-agent"), "speck": {}}), encoding="utf-8")
    assert run("kubernetes-validate", "--strict", file).returncode != 0


def test_the_objects_of_the_prometheus_operator_have_the_fields_that_it_reads() -> None:
    found = {document["kind"]: document for document in rendered("full") if document["apiVersion"] == OPERATOR}
    assert found.keys() == {"PodMonitor", "ServiceMonitor", "PrometheusRule"}
    assert found["PodMonitor"]["spec"].keys() == {"selector", "podMetricsEndpoints"}
    assert found["ServiceMonitor"]["spec"].keys() == {"selector", "endpoints"}
    ours = [rule for document in ("rules", "alerts") for rule in rules_of(document)]
    assert found["PrometheusRule"]["spec"]["groups"] == ours
    assert all(document["metadata"]["labels"]["release"] == "kube-prometheus-stack" for document in found.values())
    legal = {"port", "interval", "scheme", "tlsConfig", "authorization", "relabelings", "honorLabels"}
    for endpoint in (
        *found["PodMonitor"]["spec"]["podMetricsEndpoints"],
        *found["ServiceMonitor"]["spec"]["endpoints"],
    ):
        assert endpoint.keys() <= legal
        assert endpoint["authorization"]["credentials"].keys() == {"name", "key"}
        assert endpoint["tlsConfig"]["ca"]["secret"].keys() == {"name", "key"}
    assert {document["kind"] for document in rendered("plain")} & found.keys() == set()


def rules_of(kind: str) -> list[Object]:
    groups: list[Object] = yaml.safe_load(
        (ROOT / "deploy" / "prometheus" / f"gpuledger.{kind}.yml").read_text(encoding="utf-8")
    )["groups"]
    return groups


def test_the_monitors_select_ports_that_the_pods_have() -> None:
    ports = {port["name"] for pod in pods("full") for port in pod["containers"][0]["ports"]}
    assert ports == {"metrics", "https"}
    for kind, key, name in (
        ("PodMonitor", "podMetricsEndpoints", "-agent"),
        ("ServiceMonitor", "endpoints", "-collector"),
    ):
        monitor = one("full", kind, name)["spec"]
        assert {endpoint["port"] for endpoint in monitor[key]} <= ports
        owner = "DaemonSet" if kind == "PodMonitor" else "StatefulSet"
        labels = one("full", owner, name)["spec"]["template"]["metadata"]["labels"]
        assert monitor["selector"]["matchLabels"].items() <= labels.items()


@pytest.mark.parametrize("case", CASES)
def test_each_container_runs_a_command_that_exists_with_settings_that_exist(case: str, tmp_path: Path) -> None:
    for pod in pods(case):
        (container,) = pod["containers"]
        assert unknown_options(container["args"]) == []
        given = {entry["name"]: entry.get("value", "node-1") for entry in container["env"]}
        assert given.keys() <= settings_there_are()
        name = container["name"]
        file = tmp_path / f"{name}.toml"
        file.write_text(one(case, "ConfigMap", f"-{name}")["data"][file.name], encoding="utf-8")
        # The programs themselves accept file and variables together.
        if name == "agent":
            config = agent_config.load(file, given, {}).value
            assert config.push is not None
            assert config.node_name == "node-1"
        else:
            served = collector_config.load(file, given, {}).value
            assert served.check_protection("192.0.2.1") == ()
            served.check_push("192.0.2.1")
            load_plan(file)
            assert len(load_schedulers(file)) == int(case != "simulated")


@pytest.mark.parametrize("case", CASES)
def test_no_container_may_do_more_than_it_must(case: str) -> None:
    for pod in pods(case):
        (container,) = pod["containers"]
        closed = container["securityContext"]
        assert closed == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        is_root = pod["securityContext"]["runAsUser"] == 0
        # Only an agent that asks the kubelet is root, for its socket.
        assert is_root == any(volume["name"] == "pod-resources" for volume in pod["volumes"])
        assert pod.get("hostPID", False) == (container["name"] == "agent" and case != "simulated")
        assert "hostNetwork" not in pod
        if case == "simulated":
            assert not any("hostPath" in volume for volume in pod["volumes"])
        mounts = {mount["name"]: mount for mount in container["volumeMounts"]}
        assert mounts.keys() <= {volume["name"] for volume in pod["volumes"]} | {"state"}
        assert {name for name, mount in mounts.items() if not mount.get("readOnly")} == {"state", "tmp"}


def test_all_rights_in_the_cluster_are_to_look_at_pods_and_nodes() -> None:
    roles = [document for case in CASES for document in rendered(case) if document["kind"].endswith("Role")]
    assert roles
    for role in roles:
        assert role["rules"] == [{"apiGroups": [""], "resources": ["pods", "nodes"], "verbs": ["get", "list", "watch"]}]
    for case in CASES:
        tokens = [pod["automountServiceAccountToken"] for pod in pods(case)]
        assert tokens.count(True) == int(case != "simulated"), "the collector alone, where it looks at the cluster"


def test_of_the_collectors_secret_no_node_has_the_key() -> None:
    agent = one("full", "DaemonSet", "-agent")["spec"]["template"]["spec"]
    sources = [volume["secret"] for volume in agent["volumes"] if "secret" in volume]
    (ours,) = [source for source in sources if source["secretName"] == "gpuledger-collector-tls"]
    assert ours["items"] == [{"key": "ca.crt", "path": "ca.crt"}]


def test_the_dashboards_carry_the_label_that_grafanas_sidecar_looks_for() -> None:
    maps = [x for x in rendered("full") if x["kind"] == "ConfigMap" and x["metadata"]["name"].endswith("-dashboard")]
    files = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "dashboards").glob("*.json")}
    assert {name: text for found in maps for name, text in found["data"].items()} == files
    assert {found["metadata"]["labels"]["grafana_dashboard"] for found in maps} == {"1"}


def test_policies_let_in_prometheus_and_ours_and_nobody_else() -> None:
    for name, port in (("-agent", "metrics"), ("-collector", "https")):
        policy = one("full", "NetworkPolicy", name)["spec"]
        assert policy["policyTypes"] == ["Ingress", "Egress"]
        (rule,) = policy["ingress"]
        assert rule["ports"] == [{"port": port, "protocol": "TCP"}]
        assert all("podSelector" in peer or "namespaceSelector" in peer for peer in rule["from"])
