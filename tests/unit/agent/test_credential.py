# SPDX-License-Identifier: Apache-2.0
"""`gpuledger agent credential`, and the collector's: what it prints is what the settings take."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from gpuledger.access import Passwords, Tokens, Verdict
from gpuledger.cli import main
from gpuledger_agent import config


def test_the_line_for_a_user_goes_into_the_table_of_users(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["agent", "credential", "--user", "ann"], input="s3cret\ns3cret\n")
    assert result.exit_code == 0
    assert "s3cret" not in result.output
    file = tmp_path / "agent.toml"
    file.write_text(f"[basic_auth_users]\n{result.stdout}")
    users = config.load(file, {}, {}).value.basic_auth_users
    assert Passwords(dict(users)).check(b"ann", b"s3cret") is Verdict.ALLOWED


@pytest.mark.parametrize("program", ["agent", "collector"])
def test_a_token_comes_with_the_line_for_the_file(tmp_path: Path, program: str) -> None:
    result = CliRunner().invoke(main, [program, "credential"])
    assert result.exit_code == 0
    token, digest = (line.split(":")[1].strip() for line in result.stdout.splitlines())
    file = tmp_path / "tokens"
    file.write_text(digest)
    file.chmod(0o600)
    assert Tokens(file).check(token.encode()) is Verdict.ALLOWED


def test_without_a_password_there_is_no_digest() -> None:
    result = CliRunner().invoke(main, ["agent", "credential", "--user", "ann"], input="")
    assert result.exit_code == 1
    assert result.stdout == ""
