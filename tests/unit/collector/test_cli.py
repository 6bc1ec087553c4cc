# SPDX-License-Identifier: Apache-2.0
"""The collector's commands: what they print, and one clear sentence with the right exit code when they cannot."""

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from gpuledger.checkpoint import line_of
from gpuledger.cli import main
from gpuledger.states import State
from tests.fakes.readings import MONDAY_MS, FakeNode
from tests.fakes.storage import Storage


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def assert_sentence(result: Result, exit_code: int, text: str) -> None:
    assert result.exit_code == exit_code, result.output
    assert result.stderr.startswith("Error: ")
    assert len(result.stderr.strip().splitlines()) == 1
    assert text in result.stderr


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    with Storage(tmp_path / "state") as storage:
        node = FakeNode(gpus=2)
        node.seal_cells(MONDAY_MS, 12, {State.BUSY: 100_000})
        storage.take(node, place=("fra1", "train", "h100"))
        storage.refresh()
    return tmp_path / "state"


def test_config_prints_each_setting_with_its_origin(tmp_path: Path) -> None:
    file = tmp_path / "collector.toml"
    file.write_text('poll_interval_seconds = 5\n[limits]\nconcurrent_polls = 8\n[[group]]\nsite = "x"\ntargets = []\n')
    result = call("collector", "config", "--config", file, "--listen", "127.0.0.1:1")
    assert result.exit_code == 0
    assert f"poll_interval_seconds = 5.0  # file {file}" in result.output
    assert f"limits.concurrent_polls = 8  # file {file}" in result.output
    assert "listen = 127.0.0.1:1  # flag" in result.output
    assert "settle_grace_seconds = 90.0  # default" in result.output


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("pol_interval_seconds = 5\n", "unknown key 'pol_interval_seconds'; legal keys: accept_simulated"),
        ("poll_interval_seconds = 0\n", "poll_interval_seconds: 0.0 is less than 1"),
        ('listen = "nowhere"\n', "listen: 'nowhere' is not HOST:PORT"),
        ('listen = "127.0.0.1:99999"\n', "listen: '127.0.0.1:99999' is not HOST:PORT with a port from 0 to 65535"),
        ("listen = [\n", "not valid TOML"),
        ('accept_simulated = "yes"\n', "accept_simulated: 'yes' is not true or false"),
    ],
)
def test_settings_that_are_wrong_end_with_a_sentence_and_2(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "collector.toml").write_text(text)
    assert_sentence(call("collector", "config", "--config", tmp_path / "collector.toml"), 2, said)


def test_log_check_prints_counts_and_ends_with_0_while_the_log_holds(filled: Path) -> None:
    result = call("log", "check", "--state-dir", filled)
    assert result.exit_code == 0
    assert "3 clock, 1 enrolment, 1 origin, 12 reading, 1 roster" in result.output
    assert "signed by gpuledger/" in result.output
    assert "18 signatures hold" in result.output
    assert "0 findings, 0 failures" in result.output


def spoil(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[5000] ^= 1
    path.write_bytes(data)


def test_log_check_ends_with_1_and_the_place_where_the_log_does_not_hold(filled: Path) -> None:
    spoil(filled / "log" / "tile" / "entries" / "000")
    result = call("log", "check", "--state-dir", filled)
    assert_sentence(result, 1, f"{filled}/log: the log does not hold: {filled}/log/tile/entries/000: entry 4 does not")
    assert "FAIL: " in result.stdout


def test_a_collector_does_not_open_a_log_with_an_entry_that_was_changed(filled: Path) -> None:
    spoil(filled / "log" / "tile" / "entries" / "000")
    for index in filled.glob("collector.sqlite*"):
        index.unlink()
    result = call("ledger", "rebuild", "--state-dir", filled)
    assert_sentence(result, 1, "entries/000: entry 4 is not what the tree says")


def test_a_checkpoint_that_was_kept_holds_the_log_to_it(filled: Path, tmp_path: Path) -> None:
    shown = call("log", "show", "--state-dir", filled)
    assert shown.exit_code == 0
    assert shown.stdout == (filled / "log" / "checkpoint").read_text(encoding="utf-8")
    kept, line, other = tmp_path / "kept", tmp_path / "line", tmp_path / "other"
    kept.write_text(shown.stdout, encoding="utf-8")
    line.write_text(line_of(shown.stdout) + "\n", encoding="ascii")
    with Storage(filled) as storage:
        storage.take(FakeNode(name="node-9"), [FakeNode(name="node-9").seal(MONDAY_MS)])
    for file in (kept, line):
        assert call("log", "check", "--state-dir", filled, "--checkpoint", file).exit_code == 0
    with Storage(tmp_path / "elsewhere"):
        other.write_bytes((tmp_path / "elsewhere" / "log" / "checkpoint").read_bytes())
    assert_sentence(call("log", "check", "--state-dir", filled, "--checkpoint", other), 1, "which this log never was")
    other.write_text("nothing")
    result = call("log", "check", "--state-dir", filled, "--checkpoint", other)
    assert_sentence(result, 2, "is not ORIGIN SIZE ROOT SIGNATURE")
    assert_sentence(call("log", "check", "--state-dir", filled, "--checkpoint", tmp_path / "no"), 2, "cannot be read")


def test_log_show_says_that_there_is_nothing_yet(tmp_path: Path) -> None:
    assert_sentence(call("log", "show", "--state-dir", tmp_path), 1, "the log has no checkpoint yet")


def test_log_keys_prints_a_file_with_which_the_same_keys_count(filled: Path, tmp_path: Path) -> None:
    shown = call("log", "keys", "--state-dir", filled)
    assert shown.exit_code == 0
    assert '[[key]]  # first sight\nnode = "node-1"' in shown.stdout
    (tmp_path / "keys.toml").write_text(shown.stdout)
    with Storage(filled, enrolment=tmp_path / "keys.toml") as storage:
        (known,) = storage.store.enrolments()
        assert (known.node, known.how, known.revoked_ms) == ("node-1", "declared", None)
    assert "[[key]]  # declared" in call("log", "keys", "--state-dir", filled).stdout


def test_a_log_of_the_earlier_form_gets_one_sentence_from_every_command(tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "entries.log").write_bytes(b"gpuledger-log 1\n")
    for command in (("log", "check"), ("log", "show"), ("log", "new-origin"), ("ledger", "rebuild")):
        assert_sentence(call(*command, "--state-dir", tmp_path), 1, "entries.log: a log of an earlier form")


def test_a_name_that_cannot_be_an_origin_is_refused(tmp_path: Path) -> None:
    result = call("log", "new-origin", "--state-dir", tmp_path, "--log-origin", "two words")
    assert_sentence(result, 2, "log_origin: origin 'two words' is not 1 to 64 printable ASCII characters")


def test_ledger_rebuild_says_that_nothing_changed(filled: Path) -> None:
    before = call("ledger", "digest", "--state-dir", filled)
    result = call("ledger", "rebuild", "--state-dir", filled)
    assert result.exit_code == 0
    assert "Rebuilt 1 hours from 12 readings, up to 2026-11-02T01:00:00Z." in result.output
    assert "(the same as before)" in result.output
    assert before.output.split()[0] in result.output


def test_ledger_rebuild_mends_a_damaged_ledger(filled: Path) -> None:
    before = call("ledger", "digest", "--state-dir", filled).output
    (filled / "ledger" / "hours" / "2026-11-02.parquet").write_bytes(b"damage")
    assert_sentence(call("ledger", "digest", "--state-dir", filled), 1, "run: gpuledger ledger rebuild")
    result = call("ledger", "rebuild", "--state-dir", filled)
    assert "(before: none)" in result.output
    assert call("ledger", "digest", "--state-dir", filled).output == before


def test_ledger_rebuild_while_a_collector_runs_is_refused(filled: Path) -> None:
    with Storage(filled):
        result = call("ledger", "rebuild", "--state-dir", filled)
    assert_sentence(result, 1, "another collector is writing this log; one state_dir serves one")


def test_an_empty_log_makes_an_empty_ledger(tmp_path: Path) -> None:
    with Storage(tmp_path / "state"):
        pass
    result = call("ledger", "rebuild", "--state-dir", tmp_path / "state")
    assert "The log holds nothing to account for: the ledger is empty." in result.output
    assert_sentence(call("ledger", "digest", "--state-dir", tmp_path / "state"), 1, "the ledger is empty")


def test_ledger_digest_takes_a_period(filled: Path) -> None:
    whole = call("ledger", "digest", "--state-dir", filled)
    same = call("ledger", "digest", "--state-dir", filled, "--from", "2026-11-02", "--to", "2026-11-03T01:00+01:00")
    none = call("ledger", "digest", "--state-dir", filled, "--from", "2026-11-03", "--to", "2026-11-04")
    assert whole.output.split()[0] == same.output.split()[0] != none.output.split()[0]
    assert whole.output.endswith("2026-11-02T00:00:00Z to 2026-11-02T01:00:00Z\n")
    result = call("ledger", "digest", "--state-dir", filled, "--from", "yesterday")
    assert_sentence(result, 2, "--from: 'yesterday' is not a time like")


@pytest.mark.parametrize("command", [("log", "check"), ("ledger", "digest"), ("ledger", "rebuild"), ("roster", "show")])
def test_a_state_directory_that_is_not_there_is_named(tmp_path: Path, command: tuple[str, str]) -> None:
    assert_sentence(call(*command, "--state-dir", tmp_path / "none"), 2, f"{tmp_path / 'none'} is not a directory")


def test_roster_show_prints_a_file_that_can_be_declared(filled: Path, tmp_path: Path) -> None:
    shown = call("roster", "show", "--state-dir", filled)
    assert shown.exit_code == 0
    file = tmp_path / "roster.csv"
    file.write_text(shown.stdout)
    assert "2 GPUs at 1 nodes in 2 entries, 0 windows" in call("roster", "check", file).output
    digest = call("ledger", "digest", "--state-dir", filled).output
    with Storage(filled, roster=file) as storage:
        storage.refresh()
        assert storage.store.roster().is_declared
    assert call("ledger", "digest", "--state-dir", filled).output == digest


def test_roster_check_names_what_is_wrong(tmp_path: Path) -> None:
    file = tmp_path / "roster.toml"
    file.write_text('[[gpu]]\nuuid = "GPU-1"\nnode = "n"\nfrom = "soon"\n')
    assert_sentence(call("roster", "check", file), 2, "roster.toml:4: from: 'soon' is not a date or time")
