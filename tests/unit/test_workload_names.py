# SPDX-License-Identifier: Apache-2.0
"""Names of workloads: what is built can be taken apart, is short enough, and tells two apart."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuledger import workload_names as names
from gpuledger.states import WORKLOAD_SOURCES
from gpuledger.wire import TEXT_CHARACTERS_MAX
from gpuledger.workload_names import WorkloadName

CONTAINER = "99f3a16ea25b7724cb56a4f0c0df1113ad9474fbf5545bead97fd5c7f61c13f4"


@pytest.mark.parametrize(
    ("name", "text", "parts"),
    [
        (names.slurm_job("12"), "slurm:12", ("slurm_job", (None, "12"))),
        (names.slurm_job("12", "fra"), "slurm:fra/12", ("slurm_job", ("fra", "12"))),
        (names.pod("ml", "job-0", "main"), "pod:ml/job-0/main", ("pod", ("ml", "job-0", "main"))),
        (names.pod_by_uid("u-1", CONTAINER), "pod:u-1/99f3a16ea25b", ("pod", ("u-1", None, "99f3a16ea25b"))),
        (names.pod_by_uid(None, None), "pod:?/?", ("pod", ("?", None, "?"))),
        (
            names.container("docker", CONTAINER),
            "container:docker/99f3a16ea25b",
            ("container", ("docker", "99f3a16ea25b")),
        ),
        (names.unit("vllm.service"), "unit:vllm.service", ("unit", (None, "vllm.service"))),
        (names.unit("a.service", 1000), "unit:user@1000.service/a.service", ("unit", ("1000", "a.service"))),
        (names.process("a/b@1", 7, 12.345), "process:a/b@1/7@12.35", ("process", ("a/b@1", "7", "12.35"))),
        (names.process_not_visible(7), "process:?/7", ("process", ("?", "7", None))),
        (names.lease("ACME/7"), "lease:ACME/7", ("lease", ("ACME/7",))),
    ],
)
def test_each_form_is_built_and_taken_apart(name: str, text: str, parts: tuple[str, tuple[str | None, ...]]) -> None:
    assert name == text
    assert names.parse(name) == WorkloadName(*parts)


@pytest.mark.parametrize("text", ["rest", "unattributed", "", "slurm:", "pod:a", "job:1", "python3 (pid 7, started 9)"])
def test_a_text_of_no_form_is_no_name(text: str) -> None:
    assert names.parse(text) is None


PART = st.text(st.characters(exclude_characters="/", exclude_categories=("Cs", "Cc")), min_size=1, max_size=400)


@given(PART, PART, PART, st.integers(0, 2**22), st.floats(0, 1e9))
def test_every_name_is_short_and_of_its_own_source(one: str, two: str, three: str, pid: int, started_s: float) -> None:
    built = [
        ("slurm_job", names.slurm_job(one, two)),
        ("pod", names.pod(one, two, three)),
        ("container", names.container(one, two)),
        ("unit", names.unit(one, pid)),
        ("process", names.process(one, pid, started_s)),
        ("lease", names.lease(one)),
    ]
    for source, name in built:
        parsed = names.parse(name)
        assert parsed is not None
        assert parsed.source == source
        assert source in WORKLOAD_SOURCES
        assert len(name) <= TEXT_CHARACTERS_MAX


@pytest.mark.parametrize("build", [lambda text: names.pod("n", text, "c"), names.unit, names.lease, names.slurm_job])
def test_two_long_names_that_differ_at_their_end_stay_two(build: object) -> None:
    assert callable(build)
    assert build("x" * 300 + "1") != build("x" * 300 + "2")


def test_a_part_keeps_to_its_slashes() -> None:
    assert names.pod("a/b", "", "c") == "pod:a?b/?/c"
