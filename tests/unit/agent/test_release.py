# SPDX-License-Identifier: Apache-2.0
"""The commands' side of a release: who may ask, what is waited for, and what is said when nobody answers."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from gpuledger.cli import main
from gpuledger.errors import StorageError
from gpuledger_agent.program import lock_state_dir
from gpuledger_agent.release import ANSWER_MS, NotReleased, ReleaseDesk, ask_release, ask_resume
from tests.fakes.clock import FakeClock


class AnsweringClock(FakeClock):
    """While a command waits, the agent ticks: it says what `answers` holds next."""

    def __init__(self, directory: Path, answers: list[str]) -> None:
        super().__init__()
        self.directory = directory
        self.answers = answers

    def wait_until(self, boottime_ns: int, stop: object = None) -> bool:
        self.advance_ns(boottime_ns - self.boottime_ns())
        if self.answers:
            path = self.directory / "release"
            name = json.loads(path.read_bytes())["name"] if path.exists() else None
            told = {"state": self.answers.pop(0), "request": name, "pid": 4711, "interval_ms": 1_000}
            (self.directory / "driver").write_text(json.dumps(told), encoding="ascii")
        return False


@pytest.fixture
def state_dir(tmp_path: Path) -> Iterator[Path]:
    """A state directory that an agent has."""
    lock = lock_state_dir(tmp_path / "state")
    yield tmp_path / "state"
    os.close(lock)


def test_a_release_is_asked_for_and_waited_for(state_dir: Path) -> None:
    clock = AnsweringClock(state_dir, ["attached", "attached", "released"])
    said = ask_release(state_dir, clock, 900)
    assert said == "the agent (pid 4711) has let go of the driver, for 900 s, or until it is resumed"
    request = json.loads((state_dir / "release").read_bytes())
    assert (request["for_ms"], request["asked_ms"]) == (900_000, FakeClock().wall_ms)
    assert stat.S_IMODE((state_dir / "release").stat().st_mode) == 0o600


def test_a_release_without_an_end_says_how_to_end_it(state_dir: Path) -> None:
    said = ask_release(state_dir, AnsweringClock(state_dir, ["released"]), None)
    assert said.endswith("until `gpuledger agent resume`")
    assert "for_ms" not in json.loads((state_dir / "release").read_bytes())


def test_the_answer_to_an_earlier_request_is_not_taken_for_this_one(state_dir: Path) -> None:
    told = {"state": "released", "request": "an earlier one", "pid": 1, "interval_ms": 1_000}
    (state_dir / "driver").write_text(json.dumps(told), encoding="ascii")
    clock = AnsweringClock(state_dir, [])
    with pytest.raises(NotReleased, match=r"\(pid 1\) has not answered; it will let go of the driver at its next tick"):
        ask_release(state_dir, clock, 900)
    waited_ms = clock.wall_ms - FakeClock().wall_ms
    assert ANSWER_MS + 2_000 < waited_ms < ANSWER_MS + 3_000


def test_a_hung_driver_is_said_to_be_one(state_dir: Path) -> None:
    with pytest.raises(NotReleased, match="a call to the driver hangs"):
        ask_release(state_dir, AnsweringClock(state_dir, ["attached", *["hung"] * 2_000]), 900)


@pytest.mark.parametrize(
    ("answers", "sentence"),
    [
        (["released", "attached"], "has taken the driver up again"),
        (["released", "unattached"], "tries to take the driver up again"),
    ],
)
def test_a_resume_withdraws_the_request_and_waits(state_dir: Path, answers: list[str], sentence: str) -> None:
    ask_release(state_dir, AnsweringClock(state_dir, ["released"]), 900)
    assert sentence in ask_resume(state_dir, AnsweringClock(state_dir, answers))
    assert not (state_dir / "release").exists()


def test_a_resume_that_nobody_answers_is_over_all_the_same(state_dir: Path) -> None:
    ask_release(state_dir, AnsweringClock(state_dir, ["released"]), 900)
    with pytest.raises(NotReleased, match="take the driver up at its next tick"):
        ask_resume(state_dir, AnsweringClock(state_dir, []))
    assert not (state_dir / "release").exists()


def test_a_resume_of_what_was_not_released_says_so(state_dir: Path) -> None:
    assert ask_resume(state_dir, FakeClock()) == "the agent was not asked to let go of the driver"


def test_without_an_agent_nothing_is_asked(tmp_path: Path) -> None:
    os.close(lock_state_dir(tmp_path))
    with pytest.raises(StorageError, match="no agent runs on this state directory"):
        ask_release(tmp_path, FakeClock(), 900)
    assert not (tmp_path / "release").exists()
    with pytest.raises(StorageError, match="no agent runs"):
        ask_release(tmp_path / "nowhere", FakeClock(), 900)


def test_a_resume_without_an_agent_ends_the_release_for_the_next_one(tmp_path: Path) -> None:
    os.close(lock_state_dir(tmp_path))
    (tmp_path / "release").write_text("{}", encoding="ascii")
    with pytest.raises(StorageError, match="no agent runs"):
        ask_resume(tmp_path, FakeClock())
    assert not (tmp_path / "release").exists()


def test_a_directory_that_is_not_ours_to_write_is_one_sentence(
    state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, document: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("gpuledger_agent.release._write", refuse)
    with pytest.raises(StorageError, match="cannot write the request: Permission denied"):
        ask_release(state_dir, FakeClock(), 900)


def test_a_link_in_the_way_is_not_followed(state_dir: Path, tmp_path: Path) -> None:
    """Root may ask in a directory that is another user's."""
    precious = tmp_path / "precious"
    precious.write_text("kept", encoding="ascii")
    (state_dir / "release").symlink_to(precious)
    ask_release(state_dir, AnsweringClock(state_dir, ["released"]), 900)
    assert precious.read_text(encoding="ascii") == "kept"
    assert not (state_dir / "release").is_symlink()


def test_a_link_under_the_name_of_what_is_to_be_written_is_not_followed(
    state_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("secrets.token_hex", lambda size: "guessed")
    precious = tmp_path / "precious"
    precious.write_text("kept", encoding="ascii")
    (state_dir / "release.guessed.new").symlink_to(precious)
    with pytest.raises(StorageError, match="cannot write the request: File exists"):
        ask_release(state_dir, FakeClock(), 900)
    assert precious.read_text(encoding="ascii") == "kept"


def test_only_a_change_is_told(tmp_path: Path) -> None:
    desk = ReleaseDesk(tmp_path, FakeClock(), 1_000)
    desk.tell("attached")
    first = (tmp_path / "driver").stat().st_ino
    desk.tell("attached")
    assert (tmp_path / "driver").stat().st_ino == first
    desk.tell("released")
    assert json.loads((tmp_path / "driver").read_bytes())["state"] == "released"
    assert [path.name for path in tmp_path.iterdir()] == ["driver"], "nothing is left lying about"


@pytest.mark.parametrize("arguments", [["--for", "0"], ["--for", "soon"], ["--for", str(8 * 86_400)]])
def test_a_length_that_is_none_is_a_usage_error(state_dir: Path, arguments: list[str]) -> None:
    result = CliRunner().invoke(main, ["agent", "release", "--state-dir", str(state_dir), *arguments])
    assert result.exit_code == 2
    assert not (state_dir / "release").exists()


@pytest.mark.parametrize("command", ["release", "resume"])
def test_the_commands_say_that_no_agent_runs(tmp_path: Path, command: str) -> None:
    result = CliRunner().invoke(main, ["agent", command, "--state-dir", str(tmp_path)])
    assert result.exit_code == 1
    assert "no agent runs on this state directory" in result.stderr
