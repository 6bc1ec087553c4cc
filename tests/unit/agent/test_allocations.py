# SPDX-License-Identifier: Apache-2.0
"""Allocations from texts: Slurm's job files, leases, and which GPU a number means."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuledger import workload_names
from gpuledger_agent.allocations import (
    Allocation,
    Devices,
    MalformedAllocation,
    Place,
    SlurmGpus,
    assign,
    is_device_file,
    leases_of,
    parse_job,
)
from gpuledger_agent.workloads import Source

# A node whose device files are in another order than NVML's indexes, as on a DGX A100.
PLACES = [Place(f"GPU-{index}", index, minor) for index, minor in enumerate((2, 3, 0, 1))]
AGREEING = [Place(f"GPU-{index}", index, index) for index in range(4)]


def allocation(name: str = "slurm:1", **devices: frozenset[Any]) -> Allocation:
    return Allocation(name=name, source=Source.SLURM_JOB, user="ada", devices=Devices(**devices))


def assigned(places: list[Place], *allocations: Allocation) -> dict[str, list[str]]:
    found = assign(places, allocations)
    assert not found.is_ambiguous
    return {uuid: [one.name for one in held] for uuid, held in found.by_uuid.items() if held}


JOB = "job=12\nuser=ada\ngpus=0,1\ndevices=0,1\nsluid=\nstart=1795300200\nboot=b-1\n"


def test_a_job_file_says_whose_the_gpus_are() -> None:
    job = parse_job(JOB, SlurmGpus())
    assert (job.job, job.user, job.boot_id, job.sluid) == ("12", "ada", "b-1", None)
    assert job.allocation("fra").name == "slurm:fra/12"
    assert job.devices == Devices(numbers=frozenset({0, 1}))


@pytest.mark.parametrize(
    ("order", "uuids"),
    [
        (SlurmGpus(order="index"), {"GPU-0", "GPU-1"}),
        (SlurmGpus(order="minor"), {"GPU-2", "GPU-3"}),
        (SlurmGpus(files=("/dev/nvidia1", "/dev/nvidia2")), {"GPU-3", "GPU-0"}),
    ],
)
def test_a_number_of_slurm_is_what_the_site_says_it_is(order: SlurmGpus, uuids: set[str]) -> None:
    job = parse_job(JOB, order)
    assert set(assigned(PLACES, job.allocation(None))) == uuids


def test_a_number_that_may_be_two_gpus_is_nobodys_until_the_site_says_which() -> None:
    job = parse_job(JOB, SlurmGpus())
    found = assign(PLACES, [job.allocation(None)])
    assert found.is_ambiguous
    assert not any(found.by_uuid.values())
    assert set(assigned(AGREEING, job.allocation(None))) == {"GPU-0", "GPU-1"}
    assert assign([Place("GPU-0", 0, None)], [job.allocation(None)]).is_ambiguous, "an unknown number is no agreement"


def test_a_uuid_goes_before_a_number() -> None:
    text = JOB.replace("devices=0,1", "devices=GPU-3,MIG-7a1b")
    assert parse_job(text, SlurmGpus()).devices == Devices(uuids=frozenset({"GPU-3", "MIG-7a1b"}))
    mixed = JOB.replace("devices=0,1", "devices=GPU-3,1")
    assert parse_job(mixed, SlurmGpus()).devices == Devices(numbers=frozenset({0, 1}))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "job is not a job id"),
        ("job=x\nboot=b\ngpus=0\n", "job is not a job id"),
        ("job=12\ngpus=0\n", "boot is missing"),
        ("job=12\nboot=b\n", "neither devices nor gpus names a GPU"),
        ("job=12\nboot=b\ngpus=0,x\n", "gpus is not a list of numbers"),
        ("job=12\nboot=b\ngpus=" + ",".join(["0"] * 300) + "\n", "gpus is not a list of numbers"),
        ("job=12\nboot=b\ngpus=0\nnonsense\n", "a line is not key=value"),
    ],
)
def test_a_job_file_that_does_not_say_it_is_refused_with_the_reason(text: str, why: str) -> None:
    with pytest.raises(MalformedAllocation, match=why):
        parse_job(text, SlurmGpus())


def test_a_number_beyond_the_device_files_is_refused() -> None:
    with pytest.raises(MalformedAllocation, match="beyond the 1 configured"):
        parse_job(JOB, SlurmGpus(files=("/dev/nvidia1",)))


@given(st.text())
def test_any_text_is_a_job_or_refused(text: str) -> None:
    try:
        job = parse_job(text, SlurmGpus())
    except MalformedAllocation:
        return
    assert workload_names.parse(job.allocation(None).name) is not None


@pytest.mark.parametrize(
    ("text", "is_one"), [("/dev/nvidia0", True), ("/dev/nvidia", False), ("/dev/nvidiactl", False)]
)
def test_a_device_file_is_told(text: str, is_one: bool) -> None:
    assert is_device_file(text) is is_one


# ---------------------------------------------------------------------------------------------- who has which


def test_a_gpu_has_all_its_allocations_in_order_of_name_once_each() -> None:
    first = allocation("slurm:2", uuids=frozenset({"GPU-0"}), indexes=frozenset({0}))
    second = allocation("slurm:1", minors=frozenset({0}))
    assert assigned(AGREEING, first, second, first) == {"GPU-0": ["slurm:1", "slurm:2"]}


def test_a_number_that_no_gpu_of_the_node_has_is_passed_over() -> None:
    lost = allocation(indexes=frozenset({9}), minors=frozenset({9}), numbers=frozenset({9}))
    assert assigned(AGREEING, lost) == {}


def test_a_gpu_instance_is_known_by_its_uuid_and_is_no_other_gpus() -> None:
    assert assigned(AGREEING, allocation(uuids=frozenset({"MIG-7"}))) == {"MIG-7": ["slurm:1"]}


DEVICES = st.builds(
    Devices,
    uuids=st.frozensets(st.sampled_from([f"GPU-{index}" for index in range(6)])),
    minors=st.frozensets(st.integers(0, 6)),
    indexes=st.frozensets(st.integers(0, 6)),
    numbers=st.frozensets(st.integers(0, 6)),
)


@given(st.lists(st.tuples(st.sampled_from(["a", "b", "c"]), DEVICES), max_size=6))
def test_whoever_is_named_has_exactly_what_names_it(named: list[tuple[str, Devices]]) -> None:
    given_out = [Allocation(name=name, source=Source.LEASE, user=None, devices=devices) for name, devices in named]
    found = assign(AGREEING, given_out)
    assert not found.is_ambiguous, "where both orders agree nothing is in doubt"
    for place in AGREEING:
        expected = {
            name
            for name, devices in named
            if place.uuid in devices.uuids or place.index in devices.minors | devices.indexes | devices.numbers
        }
        assert {one.name for one in found.by_uuid[place.uuid]} == expected


# ---------------------------------------------------------------------------------------------- leases


def lease(**changes: Any) -> dict[str, Any]:
    return {"lease": [{"holder": "ACME", "gpus": ["GPU-1", 3]} | changes]}


def test_a_lease_names_gpus_by_uuid_or_index_and_a_time() -> None:
    begin, end = datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 12, 1, tzinfo=UTC)
    (found,) = leases_of(lease(**{"from": begin, "to": end}))
    assert found.allocation.name == "lease:ACME"
    assert found.allocation.devices == Devices(uuids=frozenset({"GPU-1"}), indexes=frozenset({3}))
    begin_ms, end_ms = round(begin.timestamp() * 1000), round(end.timestamp() * 1000)
    running = [found.is_running(ms) for ms in (begin_ms - 1, begin_ms, end_ms - 1, end_ms)]
    assert running == [False, True, True, False]
    assert all(leases_of(lease())[0].is_running(ms) for ms in (0, 2**60))


@pytest.mark.parametrize(
    ("document", "why"),
    [
        ({"leases": []}, r"not a list of at most 1024 tables \[\[lease\]\]"),
        ({"lease": {}}, r"tables \[\[lease\]\]"),
        ({"lease": [5]}, "lease 1: not a table"),
        (lease(holder=" "), "lease 1: holder is not a name"),
        (lease(gpus=[]), "lease 1: gpus is not a list of 1 to 256"),
        (lease(gpus=["0"]), "lease 1: '0' is neither the UUID nor the index of a GPU"),
        (lease(gpus=[True]), "lease 1: True is neither"),
        (lease(gpus=[-1]), "lease 1: -1 is neither"),
        (lease(until=1), "lease 1: unknown key 'until'; legal keys: from, gpus, holder, to"),
        (lease(to=datetime(2026, 1, 1)), "lease 1: to is not a moment with its offset"),  # noqa: DTZ001
        (lease(to="2026-01-01"), "lease 1: to is not a moment with its offset"),
    ],
)
def test_a_lease_that_is_wrong_is_named_with_what_is_wrong(document: dict[str, Any], why: str) -> None:
    with pytest.raises(MalformedAllocation, match=why):
        leases_of(document)
