# SPDX-License-Identifier: Apache-2.0
"""Who may ask: passwords and tokens over the Authorization header, of which only digests are kept."""

from __future__ import annotations

import base64
import hashlib
import os
from pathlib import Path

import pytest

from gpuledger import access
from gpuledger.access import Access, Passwords, Tokens, Verdict, hash_password, new_token
from gpuledger.errors import ConfigurationError


@pytest.fixture(autouse=True)
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "LOG2N", 10)


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode("ascii")


class Now:
    def __init__(self) -> None:
        self.ns = 0

    def __call__(self) -> int:
        return self.ns


def token_file(path: Path, *digests: str) -> Path:
    path.write_text("# scrapers\n" + "".join(f"{digest}  # one\n" for digest in digests))
    path.chmod(0o600)
    return path


def test_without_users_and_tokens_everybody_may_ask() -> None:
    assert Access().is_open
    assert Access().judge(None) is Verdict.ALLOWED


def test_a_user_comes_in_with_the_password_alone() -> None:
    now = Now()
    judge = Access(Passwords({"ann": hash_password("s3:cret é")}, now)).judge
    assert judge(basic("ann", "s3:cret é")) is Verdict.ALLOWED
    for wrong in (
        basic("ann", "s3"),
        basic("bob", "s3:cret é"),
        basic("", ""),
        None,
        "",
        "Basic",
        "Basic é",
        "Basic YQ",
    ):
        now.ns += access.BRAKE_NS
        assert judge(wrong) is Verdict.DENIED, wrong
    now.ns += access.BRAKE_NS
    assert judge("Bearer s3:cret é") is Verdict.DENIED


def test_a_password_that_passed_once_is_not_made_slow_again(monkeypatch: pytest.MonkeyPatch) -> None:
    passwords = Passwords({"ann": hash_password("right")})
    assert passwords.check(b"ann", b"right") is Verdict.ALLOWED
    monkeypatch.setattr(hashlib, "scrypt", None)
    assert passwords.check(b"ann", b"right") is Verdict.ALLOWED
    with pytest.raises(TypeError):
        passwords.check(b"ann", b"other")


def test_after_a_wrong_password_no_unknown_one_is_tested_for_a_second_and_known_ones_pass() -> None:
    now = Now()
    passwords = Passwords({"ann": hash_password("right"), "bob": hash_password("left")}, now)
    assert passwords.check(b"ann", b"right") is Verdict.ALLOWED
    assert passwords.check(b"ann", b"wrong") is Verdict.DENIED
    now.ns += access.BRAKE_NS - 1
    assert passwords.check(b"bob", b"left") is Verdict.LATER
    assert passwords.check(b"ann", b"right") is Verdict.ALLOWED
    now.ns += 1
    assert passwords.check(b"bob", b"left") is Verdict.ALLOWED


def test_a_password_without_end_is_refused_untested(monkeypatch: pytest.MonkeyPatch) -> None:
    passwords = Passwords({"ann": hash_password("right")})
    monkeypatch.setattr(hashlib, "scrypt", None)
    assert passwords.check(b"ann", b"x" * 1025) is Verdict.DENIED


@pytest.mark.parametrize(
    ("kept", "said"),
    [
        ("secret", "not a password's digest; the command `credential` makes one"),
        ("$2y$10$abcdefghijklmnopqrstuv", "not a password's digest"),
        (f"scrypt$9$8$1${'A' * 22}${'A' * 43}", "too weak or too heavy"),
        (f"scrypt$20$16$1${'A' * 22}${'A' * 43}", "too weak or too heavy"),
        (f"scrypt$14$0$1${'A' * 22}${'A' * 43}", "too weak or too heavy"),
    ],
)
def test_what_is_no_digest_of_a_password_is_said_without_showing_it(kept: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^basic_auth_users.ann: ") as caught:
        Passwords({"ann": kept})
    assert said in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("user", ["", "a:b", "a\nb"])
def test_a_name_that_basic_authentication_cannot_carry_is_refused(user: str) -> None:
    with pytest.raises(ConfigurationError, match="is not a user's name"):
        Passwords({user: hash_password("x")})


def test_any_token_of_the_file_comes_in_and_no_other(tmp_path: Path) -> None:
    (first, first_digest), (second, second_digest) = new_token(), new_token()
    judge = Access(tokens=Tokens(token_file(tmp_path / "tokens", first_digest, second_digest))).judge
    assert judge(f"Bearer {first}") is Verdict.ALLOWED
    assert judge(f"bearer  {second}") is Verdict.ALLOWED
    for wrong in (
        f"Bearer {first}x",
        f"Bearer {first_digest}",
        "Bearer ",
        "Bearer",
        first,
        f"Basic {first}",
        "Bearer é",
    ):
        assert judge(wrong) is Verdict.DENIED, wrong


def test_tokens_are_read_again_when_their_file_changes_and_a_lost_file_lets_nobody_in(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (old, old_digest), (new, new_digest) = new_token(), new_token()
    file = token_file(tmp_path / "tokens", old_digest)
    tokens = Tokens(file)
    assert tokens.check(old.encode()) is Verdict.ALLOWED
    token_file(file, new_digest)
    os.utime(file, ns=(1, 1))
    assert tokens.check(old.encode()) is Verdict.DENIED
    assert tokens.check(new.encode()) is Verdict.ALLOWED
    file.unlink()
    assert tokens.check(new.encode()) is Verdict.DENIED
    assert tokens.check(new.encode()) is Verdict.DENIED
    assert caplog.messages.count("tokens_unreadable") == 1
    token_file(file, new_digest)
    assert tokens.check(new.encode()) is Verdict.ALLOWED


def test_a_file_of_tokens_that_is_wrong_or_missing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read: No such file"):
        Tokens(tmp_path / "none")
    file = token_file(tmp_path / "tokens", "A" * 64)
    with pytest.raises(ConfigurationError, match="line 2 is not a SHA-256 in 64 lower-case digits"):
        Tokens(file)


@pytest.mark.parametrize("mode", [0o660, 0o604, 0o644, 0o610])
def test_a_file_of_tokens_that_others_may_change_or_strangers_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    file = token_file(tmp_path / "tokens")
    file.chmod(mode)
    with pytest.raises(ConfigurationError, match=f"mode {mode:04o} lets others use"):
        Tokens(file)


@pytest.mark.parametrize("mode", [0o400, 0o440, 0o640])
def test_the_group_may_read_digests_as_kubernetes_has_it(tmp_path: Path, mode: int) -> None:
    file = token_file(tmp_path / "tokens")
    file.chmod(mode)
    assert Tokens(file).check(b"none") is Verdict.DENIED


def test_each_way_in_is_named_to_who_has_none(tmp_path: Path) -> None:
    tokens = Tokens(token_file(tmp_path / "tokens"))
    both = Access(Passwords({"ann": hash_password("x")}), tokens)
    assert both.challenges == ('Basic realm="gpuledger", charset="UTF-8"', 'Bearer realm="gpuledger"')
    assert Access(tokens=tokens).challenges == ('Bearer realm="gpuledger"',)
