# SPDX-License-Identifier: Apache-2.0
"""Which GPUs there are, whatever their series are called."""

import pytest

from gpuledger.cells import DAY_MS
from gpuledger_collector.engine.inventory import Inventory, Stream, identity_of, take_inventory
from gpuledger_collector.engine.profile_files import load_profile

DCGM = load_profile("dcgm")
UUID = "GPU-604ac76c-d9cf-fef3-62e9-d92044ab6e52"
OTHER = "GPU-265c9814-6156-355b-e589-ff2064894f16"
STREAM = Stream(job="dcgm", gpu_label="UUID")


def labels(uuid: str = UUID, **more: str) -> dict[str, str]:
    return {"job": "dcgm", "UUID": uuid, "gpu": "0", "modelName": "NVIDIA H100 80GB HBM3", "Hostname": "n1"} | more


def taken(*days: list[dict[str, str]]) -> Inventory:
    return take_inventory([(day * DAY_MS, found) for day, found in enumerate(days)], DCGM)


@pytest.mark.parametrize(
    "name",
    [UUID, UUID.upper(), UUID.removeprefix("GPU-"), f" {UUID} ", UUID.lower()],
    ids=["usual", "upper case", "bare", "spaces", "lower case"],
)
def test_a_uuid_has_one_spelling(name: str) -> None:
    assert identity_of(name) == UUID


def test_what_is_no_uuid_is_an_identity_as_it_is_and_a_mig_device_is_none() -> None:
    assert identity_of("gpu-7") == "gpu-7"
    assert identity_of("MIG-9b6ac6f2-5d4b-5e5e-8f9a-1f5a6f3a7f1d") is None


def test_spellings_pods_exporters_and_replicas_are_one_gpu() -> None:
    found = taken(
        [
            labels(pod="one", namespace="a", prometheus_replica="0"),
            labels(pod="two", namespace="a", prometheus_replica="1"),
            labels(UUID.lower().removeprefix("gpu-")),
        ]
    )
    (gpu,) = found.gpus
    assert (gpu.identity, gpu.node, gpu.site, gpu.model) == (UUID, "n1", "unknown", "NVIDIA H100 80GB HBM3")
    assert gpu.names == {STREAM: (UUID.removeprefix("GPU-"), UUID)}
    assert found.knows_workloads
    assert found.findings == ()


def test_the_label_of_the_old_namespace_is_a_stream_of_its_own() -> None:
    """dcgm-exporter --use-old-namespace writes uuid for UUID."""
    old = {name: value for name, value in labels().items() if name != "UUID"} | {"uuid": UUID}
    (gpu,) = taken([labels(), old]).gpus
    assert list(gpu.names) == [STREAM, Stream(job="dcgm", gpu_label="uuid")]


@pytest.mark.parametrize(
    ("more", "node"),
    [
        ({"node": "k8s-1"}, "k8s-1"),
        ({"Hostname": "dcgm-exporter-lcxpl", "instance": "10.0.0.7:9400"}, "10.0.0.7"),
        ({"Hostname": "", "hostname": "new"}, "new"),
        ({"Hostname": "", "instance": "[fd00::7]:9400"}, "fd00::7"),
        ({"Hostname": "", "instance": "gpu-host"}, "gpu-host"),
        ({"Hostname": ""}, "unknown"),
    ],
    ids=["kubernetes", "the exporter's own pod (issue 58)", "4.5.3", "address", "no port", "nothing"],
)
def test_the_node_is_told_by_the_best_label_that_tells_one(more: dict[str, str], node: str) -> None:
    (gpu,) = taken([labels(**more)]).gpus
    assert gpu.node == node


def test_a_gpu_with_several_host_names_is_at_the_one_of_most_days_and_that_is_found() -> None:
    found = taken([labels(Hostname="n1")], [labels(Hostname="n2")], [labels(Hostname="n2"), labels(Hostname="n1b")])
    (gpu,) = found.gpus
    assert gpu.node == "n2"
    assert [finding.kind for finding in found.findings] == ["several_nodes"]
    assert f"{UUID} was at n2 by most of its series, and at n1, n1b by others" in found.findings[0].text


def test_places_come_from_labels_where_there_are_any() -> None:
    (gpu,) = taken([labels(site="fra1", cluster="train", pool="h100")]).gpus
    assert (gpu.site, gpu.cluster, gpu.pool) == ("fra1", "train", "h100")
    (gpu,) = taken([labels(cluster="train")]).gpus
    assert (gpu.site, gpu.cluster) == ("train", "train")


@pytest.mark.parametrize(
    ("more", "knows"),
    [
        ({"exported_pod": "job-1", "pod": "dcgm-exporter-x"}, True),
        ({"pod": "dcgm-exporter-x", "namespace": "monitoring"}, False),
        ({"pod": "", "namespace": ""}, False),
        ({"hpc_job": "1234"}, True),
        ({}, False),
    ],
    ids=["honor_labels false (issue 85)", "the exporter's own pod (issue 27)", "empty (issue 58)", "slurm", "none"],
)
def test_whose_a_gpu_is_is_told_by_labels_and_never_by_the_exporters_own_pod(more: dict[str, str], knows: bool) -> None:
    assert taken([labels(**more)]).knows_workloads is knows


def test_holes_in_the_numbers_of_a_node_are_gpus_that_never_reported() -> None:
    found = taken([labels(gpu="0"), labels(OTHER, gpu="3"), labels("x", gpu="0:1")])
    (finding,) = found.findings
    assert (finding.kind, finding.subject) == ("missing_index", "n1")
    assert "no GPU 1, 2 below its highest" in finding.text


def test_series_that_name_no_gpu_are_found_and_not_guessed() -> None:
    found = taken([labels(), labels("MIG-9b6ac6f2-5d4b-5e5e-8f9a-1f5a6f3a7f1d"), labels("", Hostname="n9")])
    assert [gpu.identity for gpu in found.gpus] == [UUID]
    assert [(finding.kind, finding.subject) for finding in found.findings] == [
        ("gpu_unnamed", "n9"),
        ("instance_without_gpu", "n1"),
    ]


def test_a_gpu_is_known_from_the_first_day_on_which_it_is_listed() -> None:
    first, second = taken([], [labels()], [labels(), labels(OTHER)]).gpus
    assert (first.identity, first.first_day_ms) == (OTHER, 2 * DAY_MS)
    assert (second.identity, second.first_day_ms) == (UUID, DAY_MS)
