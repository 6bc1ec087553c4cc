# SPDX-License-Identifier: Apache-2.0
"""Idle floors on disk: what comes back, and what is left aside."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from gpuledger.states import State
from gpuledger_agent.decision import Floors
from gpuledger_agent.floors_file import FloorsFile

NOW_MS = 1_795_446_000_000
DAY_MS = 86_400_000
UUID = "GPU-1"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "floors.json"


def document(**changes: Any) -> dict[str, Any]:
    return {"version": 1, "saved_ms": NOW_MS, "idle_mw": {UUID: {"bare": 70_000, "parked": 115_000}}} | changes


def test_floors_come_back_as_they_were_and_go_on_from_there(path: Path) -> None:
    FloorsFile(path).save(
        {UUID: Floors(70_000.4, 115_000.0), "GPU-2": Floors(), "GPU-3": Floors(bare_mw=68_000)}, NOW_MS
    )
    floors = FloorsFile(path).read(NOW_MS + 1)
    assert {uuid: one.known_mw() for uuid, one in floors.items()} == {
        UUID: {"bare": 70_000, "parked": 115_000},
        "GPU-3": {"bare": 68_000},
    }
    for _ in range(60):
        floors[UUID].learn(State.HELD, 0, 111_000, 1000)
    assert floors[UUID].known_mw() == {"bare": 70_000, "parked": 111_000}


def test_a_missing_file_is_no_news(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert FloorsFile(path).read(NOW_MS) == {}
    assert caplog.records == []


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (document(version=2), "not of version 1"),
        ([], "not of version 1"),
        (document(saved_ms="then"), "saved_ms is not an integer"),
        (document(saved_ms=True), "saved_ms is not an integer"),
        (document(saved_ms=NOW_MS - 30 * DAY_MS - 1), "saved more than 30 days ago, or in the future"),
        (document(saved_ms=NOW_MS + DAY_MS + 1), "saved more than 30 days ago, or in the future"),
        (document(idle_mw=[]), "idle_mw is not an object of at most 256"),
        (document(idle_mw={f"GPU-{index}": {} for index in range(257)}), "idle_mw is not an object of at most 256"),
        (document(idle_mw={UUID: {"bare": 999}}), "'GPU-1': no board idles at 999 mW"),
        (document(idle_mw={UUID: {"parked": 2_000_001}}), "'GPU-1': no board idles at 2000001 mW"),
        (document(idle_mw={UUID: {"parked": 70_000.5}}), "'GPU-1': no board idles at 70000.5 mW"),
        (document(idle_mw={UUID: {"parked": None}}), "'GPU-1': no board idles at None mW"),
        (document(idle_mw={UUID: {"warm": 70_000}}), "'GPU-1': not bare and parked"),
        (document(idle_mw={UUID: 70_000}), "'GPU-1': not bare and parked"),
    ],
)
def test_a_file_that_is_old_or_absurd_is_left_aside_with_one_line(
    path: Path, caplog: pytest.LogCaptureFixture, content: object, why: str
) -> None:
    path.write_text(json.dumps(content))
    assert FloorsFile(path).read(NOW_MS) == {}
    assert [(record.msg, record.why) for record in caplog.records] == [("floors_ignored", why)]  # type: ignore[attr-defined]


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b" " * 65_537, b"[" * 60_000])
def test_a_file_that_is_damaged_or_too_large_is_left_aside(
    path: Path, caplog: pytest.LogCaptureFixture, data: bytes
) -> None:
    path.write_bytes(data)
    assert FloorsFile(path).read(NOW_MS) == {}
    assert [record.msg for record in caplog.records] == ["floors_ignored"]


@pytest.mark.parametrize("age_ms", [-DAY_MS, 30 * DAY_MS])
def test_a_file_of_a_month_or_of_tomorrow_is_still_used(path: Path, age_ms: int) -> None:
    path.write_text(json.dumps(document(saved_ms=NOW_MS - age_ms)))
    assert set(FloorsFile(path).read(NOW_MS)) == {UUID}


def test_floors_are_written_only_when_they_moved(path: Path) -> None:
    file = FloorsFile(path)
    file.save({UUID: Floors(parked_mw=115_000)}, NOW_MS)
    file.save({UUID: Floors(parked_mw=115_000.3)}, NOW_MS + 5)
    assert json.loads(path.read_text())["saved_ms"] == NOW_MS
    file.save({UUID: Floors(parked_mw=114_000)}, NOW_MS + 9)
    assert json.loads(path.read_text())["saved_ms"] == NOW_MS + 9
    assert [found.name for found in path.parent.iterdir()] == ["floors.json"]


def test_nothing_learnt_writes_nothing(path: Path) -> None:
    FloorsFile(path).save({UUID: Floors()}, NOW_MS)
    assert not path.exists()


def test_a_disk_that_refuses_is_said_once_until_it_works_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place = tmp_path / "gone"
    file = FloorsFile(place / "floors.json")
    with caplog.at_level(logging.WARNING):
        for power_mw in (115_000, 114_000):
            file.save({UUID: Floors(parked_mw=power_mw)}, NOW_MS)
        place.mkdir()
        file.save({UUID: Floors(parked_mw=114_000)}, NOW_MS)
        assert (place / "floors.json").exists()
    assert [record.msg for record in caplog.records] == ["floors_not_saved"]
