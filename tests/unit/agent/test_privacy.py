# SPDX-License-Identifier: Apache-2.0
"""Names leave the node as the site says: openings of users, of workloads, of both or of none."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuledger_agent.config import AgentConfig
from gpuledger_agent.crash_file import CrashFile
from gpuledger_agent.privacy import Privacy
from tests.fakes.agents import Rig, records
from tests.fakes.nvml import gpus

MODES = [
    Privacy(are_users_open=users, are_workloads_open=workloads) for users, workloads in product((True, False), repeat=2)
]
DIGESTS = st.sets(st.sampled_from([letter * 64 for letter in "abcdef"]))


@pytest.mark.parametrize(
    ("mode", "left"),
    [
        (Privacy(), {"job", "mei", "both"}),
        (Privacy(are_users_open=False), {"job"}),
        (Privacy(are_workloads_open=False), {"mei", "both"}),
        (Privacy(are_users_open=False, are_workloads_open=False), set()),
    ],
)
def test_each_kind_of_name_leaves_as_its_own_setting_says(mode: Privacy, left: set[str]) -> None:
    assert mode.may_leave(["job", "both"], ["mei", "both"]) == left


def line(workloads: set[str], users: set[str], **more: Any) -> bytes:
    parts = [{"workload": name, "uuid": "GPU-a"} for name in sorted(workloads)]
    parts += [{"workload": "rest", "user": name, "uuid": "GPU-a"} for name in sorted(users)]
    openings = {name: ["00", f"name of {name}"] for name in sorted(workloads | users)}
    record = {"sequence": 7, "envelope": "{}", "workloads": json.dumps(parts), "openings": openings, **more}
    return json.dumps(record, separators=(",", ":")).encode()


@given(workloads=DIGESTS, users=DIGESTS, mode=st.sampled_from(MODES))
def test_of_a_record_nothing_but_openings_is_taken_and_those_that_may_leave_stay(
    workloads: set[str], users: set[str], mode: Privacy
) -> None:
    before = line(workloads, users, more=True)
    after = mode.strip(before)
    assert json.loads(after)["openings"].keys() == mode.may_leave(workloads, users)
    assert {**json.loads(after), "openings": None} == {**json.loads(before), "openings": None}
    assert mode.strip(after) == after
    if mode == Privacy():
        assert after is before


def test_a_name_that_looks_like_no_openings_is_stripped_all_the_same() -> None:
    record = json.loads(line({"a" * 64}, set()))
    record["openings"] = {"a" * 64: ["00", '"openings":{}']}
    stripped = Privacy(are_workloads_open=False).strip(json.dumps(record, separators=(",", ":")).encode())
    assert json.loads(stripped)["openings"] == {}


def test_what_was_open_before_is_sealed_and_served_closed_from_the_change_on(tmp_path: Path) -> None:
    rig = Rig(tmp_path, gpus(1))
    rig.processes.add(4100, "secretproject", user="mei")
    rig.gpu.work(90, 4100)
    rig.agent.tick()
    rig.tick(330)
    # Killed, and started again with other settings: in the crash file the names are open.
    rig.config = replace(rig.config, privacy_users="digest", privacy_workloads="digest")
    rig.clock.advance_ms(5_000)
    rig.start()
    rig.agent.tick()
    rig.tick(600)
    opened = [len(record["openings"]) for record in records(tmp_path)]
    assert opened[0] == 2
    assert len(opened) == 4
    assert opened[1:] == [0, 0, 0]
    page = rig.feed().page(0, 100, 1 << 30)
    assert len(json.loads(page)["readings"]) == 4
    assert b"secretproject" not in page
    assert b'"mei"' not in page
    assert b"secretproject" not in (CrashFile(tmp_path / "open").read() or b"")


def test_the_default_is_plain_and_what_is_sealed_does_not_depend_on_it() -> None:
    closed = AgentConfig(privacy_users="digest", privacy_workloads="digest")
    assert AgentConfig().privacy == Privacy()
    assert closed.privacy == Privacy(are_users_open=False, are_workloads_open=False)
    assert closed.digest() == AgentConfig().digest(), "it moves no time between states"
