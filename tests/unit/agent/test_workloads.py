# SPDX-License-Identifier: Apache-2.0
"""From the text of a cgroup file to a workload: every form that was seen, and any text at all."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gpuledger import workload_names
from gpuledger.states import WORKLOAD_SOURCES
from gpuledger.wire import TEXT_CHARACTERS_MAX
from gpuledger_agent.workloads import CGROUP_CHARACTERS_MAX, Source, identify, identify_step, is_within, paths_of
from tests.unit.agent import cgroups
from tests.unit.agent.cgroups import ROWS, Row

OF_RANDOM_PARTS = st.lists(
    st.sampled_from(
        [
            *("slurm", "slurm_n1", "uid_7", "job_12", "job_", "step_0", "slurmstepd.scope", "s5K1KKYAYG5D00", "user"),
            *(
                "kubepods",
                f"pod{cgroups.UID}",
                f"kubepods-pod{cgroups.UID_}.slice",
                f"cri-containerd-{cgroups.A}.scope",
            ),
            *(
                "docker",
                cgroups.B,
                f"libpod-{cgroups.A}",
                "lxc",
                "lxc.payload.x",
                "apptainer",
                "77",
                "..",
                ".",
                "",
                " ",
            ),
            *("user@7.service", "a.service", ".service", f"x.slice:crio:{cgroups.A}", "::", "a:b:c", "user-7.slice"),
        ]
    ),
    max_size=12,
).map("/".join)


@pytest.mark.parametrize("row", ROWS, ids=[f"{number} {row.name}" for number, row in enumerate(ROWS)])
def test_every_form_that_was_seen_has_its_name(row: Row) -> None:
    workload = identify(row.text)
    assert (None if workload is None else workload.name()) == row.name, row.seen
    if workload is not None:
        assert (workload.step, workload.owner_uid) == (row.step, row.owner_uid)
        name = workload_names.parse(workload.name())
        assert name is not None
        assert name.source == workload.source.value


def test_every_form_says_where_it_was_seen() -> None:
    assert [row.text for row in ROWS if len(row.seen) < 10] == []
    assert len({row.text for row in ROWS}) == len(ROWS)


def test_what_tells_a_workload_is_what_readings_have_a_word_for() -> None:
    assert {source.value for source in Source} <= set(WORKLOAD_SOURCES)


@pytest.mark.parametrize("rows", [cgroups.SLURM, cgroups.PODS, cgroups.CONTAINERS, cgroups.UNITS])
def test_a_form_is_known_below_any_directory_and_from_any_namespace(rows: list[Row]) -> None:
    for row in rows:
        for prefix in ("/..", "/../..", "/nested/deeper"):
            text = re.sub(r"^(\d+:[^:]*:)/(?=[^\n])", rf"\1{prefix}/", row.text, flags=re.MULTILINE)
            workload = identify(text)
            assert (None if workload is None else workload.name()) == row.name, text


@pytest.mark.parametrize("rows", [cgroups.SLURM, cgroups.PODS, cgroups.CONTAINERS, cgroups.UNITS])
def test_two_lines_of_a_text_may_stand_in_any_order(rows: list[Row]) -> None:
    for row in rows:
        text = "".join(reversed(row.text.splitlines(keepends=True)))
        workload = identify(text)
        assert (None if workload is None else workload.name()) == row.name


def test_steps_and_tasks_of_a_job_are_one_workload() -> None:
    steps = ("step_batch", "step_0/user/task_0", "step_0/user/task_7", "step_1/user/task_0", "step_extern/user")
    found = {identify(f"0::/system.slice/slurmstepd.scope/job_12/{step}\n") for step in steps}
    assert len(found) == 1


def test_a_scheduler_goes_before_a_container_and_a_container_before_a_unit() -> None:
    job = "/slurm/uid_7/job_12/step_0"
    pod = f"/kubepods/pod{cgroups.UID}/{cgroups.A}"
    container = f"/docker/{cgroups.B}"
    unit = "/system.slice/a.service"
    texts = [unit, container + unit, pod + container + unit, job + pod + container + unit]
    found = [identify(f"0::{text}") for text in texts]
    kinds = [Source.UNIT, Source.CONTAINER, Source.POD, Source.SLURM_JOB]
    assert [workload and workload.source for workload in found] == kinds
    lines = "".join(f"{number}:c{number}:{path}\n" for number, path in enumerate((unit, container, pod, job), 1))
    workload = identify(lines)
    assert workload is not None
    assert workload.source is Source.SLURM_JOB


@pytest.mark.parametrize(
    ("title", "name", "step"),
    [
        ("slurmstepd: [1.batch]\0\0", "slurm:1", "batch"),
        ("slurmstepd: [4711.0]", "slurm:4711", "0"),
        ("slurmstepd: [4711.0+1]", "slurm:4711", "0+1"),
        ("slurmstepd: [4711.extern stepmgr]", "slurm:4711", "extern"),
        ("slurmstepd: [4711]", "slurm:4711", None),
    ],
)
def test_the_title_of_a_slurmstepd_names_job_and_step(title: str, name: str, step: str | None) -> None:
    workload = identify_step(title)
    assert workload is not None
    assert (workload.name(), workload.step) == (name, step)


@pytest.mark.parametrize(
    "title", ["", "slurmstepd", "slurmstepd: [x.0]", "slurmstepd infinity", "slurmstepd: [n:namespace]"]
)
def test_any_other_title_names_nothing(title: str) -> None:
    assert identify_step(title) is None


@pytest.mark.parametrize(
    ("path", "pattern", "is_it"),
    [
        ("/system.slice/dcgm.service", "/system.slice/dcgm.service", True),
        ("/system.slice/dcgm.service/sub", "/system.slice/dcgm.service", True),
        ("/system.slice/dcgm.service/sub", "/system.slice/dcgm.service/", True),
        ("/system.slice/dcgm.service2", "/system.slice/dcgm.service", False),
        ("/system.slice/burn-in-7.service", "/system.slice/burn-in-*.service", True),
        ("/system.slice/burn-in-7.service/x", "/system.slice/burn-in-*.service", True),
        ("/other/burn-in-7.service", "/system.slice/burn-in-*.service", False),
        ("/a/b/job_9/c", "*/job_9", True),
        ("/a", "/", True),
    ],
)
def test_a_rule_holds_a_cgroup_and_all_below(path: str, pattern: str, is_it: bool) -> None:
    assert is_within([path], [pattern]) is is_it
    assert is_within(["/elsewhere", path], ["/nowhere", pattern]) is (is_it or pattern == "/")


def test_paths_are_those_of_the_text_once_each_and_systemds_first() -> None:
    text = "3:cpu:/a\n2:memory:/a\n1:name=systemd:/b\n0::/c (deleted)\nnonsense\n9:x:relative\n"
    assert paths_of(text) == ("/b", "/c", "/a")


@given(
    st.one_of(
        st.text(), OF_RANDOM_PARTS.map(lambda path: f"0::/{path}\n"), st.lists(OF_RANDOM_PARTS).map("\n1:x:/".join)
    )
)
@example("0::/" + "x/" * 40_000)
@example("0::/slurm/uid_1")
@example("0::/slurmstepd.scope")
@example("0::/" + "a:b:c")
def test_any_text_gives_a_name_that_can_be_taken_apart_or_none(text: str) -> None:
    workload = identify(text)
    if workload is None:
        return
    assert identify(text) == workload
    name = workload.name()
    assert len(name) <= TEXT_CHARACTERS_MAX
    parsed = workload_names.parse(name)
    assert parsed is not None
    assert parsed.source == workload.source.value


@given(st.text())
def test_any_title_gives_a_job_or_nothing(title: str) -> None:
    workload = identify_step(title)
    assert workload is None or workload.is_job_numbered


def test_no_more_of_a_text_is_looked_at_than_the_kernel_gives() -> None:
    assert identify("\n" * CGROUP_CHARACTERS_MAX + "0::/slurm/uid_1/job_1\n") is None
