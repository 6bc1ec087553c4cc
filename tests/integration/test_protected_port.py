# SPDX-License-Identifier: Apache-2.0
"""The collector's polling meets the agent's real port over real TLS: what each shows, and what the other takes."""

from __future__ import annotations

import datetime as dt
import os
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from gpuledger import access
from gpuledger.access import hash_password, new_token
from gpuledger.credentials import Credentials, Keyring
from gpuledger.errors import ConfigurationError
from gpuledger_agent import program, server
from gpuledger_agent.config import AgentConfig
from gpuledger_agent.exporter import AgentCollector, registry_of
from gpuledger_agent.http import Service
from gpuledger_collector.live import LiveBoard
from gpuledger_collector.poll import Poller, PollLimits
from gpuledger_collector.targets import Target
from tests.fakes.agents import Rig
from tests.fakes.certificates import Authority
from tests.fakes.nvml import gpus
from tests.fakes.polling import FakeIntake, StillClock

Serve = Callable[..., Target]


@pytest.fixture(autouse=True)
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "LOG2N", 10)
    monkeypatch.setattr(server, "LOOK_S", 0.01)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ca")


@pytest.fixture
def serve(tmp_path: Path, authority: Authority) -> Iterator[Serve]:
    """Start the port of an agent that has sealed three readings, with TLS; yields its target."""
    rig = Rig(tmp_path / "agent", gpus(1))
    rig.agent.tick()
    for _ in range(3):
        rig.tick(60, interval_ms=5_000)
    families = AgentCollector(lambda: rig.agent.view, rig.key.node_id, "node-1", 1.0, simulated=False)
    service = Service(
        view=lambda: rig.agent.view,
        feed=rig.feed(),
        interval_ms=1_000,
        clock=rig.clock,
        registry=registry_of(families),
    )
    pair = authority.issue("node")
    with ExitStack() as stack:

        def begin(config: AgentConfig) -> Target:
            config = replace(config, listen="127.0.0.1:0", tls_cert_file=pair.cert, tls_key_file=pair.key)
            port = program.open_port(config, service)
            stack.callback(port.server_close)
            stack.callback(port.shutdown)
            return Target(url=f"https://127.0.0.1:{port.server_port}")

        yield begin


async def poll(target: Target, credentials: Credentials) -> tuple[list[int], dict[str, int], str]:
    """Ask once; returns the sequences taken in, the failures by reason, and the sentence."""
    intake, target = FakeIntake(), replace(target, credentials=credentials)
    polling = Poller(
        [target],
        intake=intake,
        board=LiveBoard(),
        clock=StillClock(),
        limits=PollLimits(timeout_s=20),
        chance=random.Random(7),
    )
    async with polling._session() as session:
        await polling.poll(session, polling._watches[0])
    figures = polling.figures()
    return intake.taken.get(target.url, []), dict(figures.failures), figures.troubles.get(target.url, "")


def secret(path: Path, text: str) -> Path:
    path.write_text(f"{text}\n")
    path.chmod(0o600)
    return path


async def test_an_agent_is_polled_over_tls_if_its_authority_is_trusted(
    serve: Serve, authority: Authority, tmp_path: Path
) -> None:
    target = serve(AgentConfig())
    assert await poll(target, Credentials(ca_file=authority.ca)) == ([1, 2, 3], {}, "")
    for credentials in (
        Credentials(),
        Credentials(ca_file=Authority(tmp_path / "theirs").ca),
        Credentials(ca_file=authority.ca, server_name="node-9"),
    ):
        taken, failures, said = await poll(target, credentials)
        assert (taken, failures) == ([], {"tls": 1})
        assert "cannot be trusted" in said


async def test_an_agent_that_wants_a_certificate_gets_the_groups(
    serve: Serve, authority: Authority, tmp_path: Path
) -> None:
    target = serve(AgentConfig(tls_client_auth_type="RequireAndVerifyClientCert", tls_client_ca_file=authority.ca))
    ours, theirs = authority.issue("collector"), Authority(tmp_path / "theirs").issue("collector")
    known = Credentials(ca_file=authority.ca, cert_file=ours.cert, key_file=ours.key)
    assert await poll(target, known) == ([1, 2, 3], {}, "")
    for credentials in (
        Credentials(ca_file=authority.ca),
        Credentials(ca_file=authority.ca, cert_file=theirs.cert, key_file=theirs.key),
    ):
        taken, failures, _ = await poll(target, credentials)
        assert (taken, failures) == ([], {"tls": 1})


async def test_a_certificate_that_ran_out_costs_polls_until_it_is_renewed_and_no_reading(
    serve: Serve, authority: Authority
) -> None:
    target = serve(AgentConfig(tls_client_auth_type="RequireAndVerifyClientCert", tls_client_ca_file=authority.ca))
    ours = authority.issue("collector", end=dt.datetime(2021, 1, 1, tzinfo=dt.UTC))
    credentials = Credentials(ca_file=authority.ca, cert_file=ours.cert, key_file=ours.key)
    taken, failures, _ = await poll(target, credentials)
    assert (taken, failures) == ([], {"tls": 1})
    authority.issue("collector")
    assert await poll(target, credentials) == ([1, 2, 3], {}, "")


async def test_an_agent_that_wants_a_token_gets_the_one_in_the_file_as_of_now(
    serve: Serve, authority: Authority, tmp_path: Path
) -> None:
    token, digest = new_token()
    target = serve(AgentConfig(bearer_tokens_file=secret(tmp_path / "tokens", digest)))
    file = secret(tmp_path / "token", "an-older-one")
    credentials = Credentials(ca_file=authority.ca, bearer_token_file=file)
    keyring = Keyring()
    before = keyring.proof(credentials).headers
    taken, failures, said = await poll(target, credentials)
    assert (taken, failures) == ([], {"http_status": 1})
    assert "answers with HTTP status 401" in said
    secret(file, token)
    os.utime(file, ns=(1, 1))
    assert keyring.proof(credentials).headers != before
    assert keyring.proof(credentials) is keyring.proof(credentials)
    assert await poll(target, credentials) == ([1, 2, 3], {}, "")
    file.unlink()
    taken, failures, said = await poll(target, credentials)
    assert failures == {"credentials": 1}
    assert f"is not asked: {file}: cannot be read: No such file" in said


async def test_an_agent_that_wants_a_password_gets_user_and_password(
    serve: Serve, authority: Authority, tmp_path: Path
) -> None:
    target = serve(AgentConfig(basic_auth_users=(("collector", hash_password("s3cret")),)))
    right = secret(tmp_path / "right", "s3cret")
    credentials = Credentials(ca_file=authority.ca, username="collector", password_file=right)
    assert await poll(target, credentials) == ([1, 2, 3], {}, "")
    assert (await poll(target, replace(credentials, username="other")))[1] == {"http_status": 1}


@pytest.mark.parametrize("text", ["", "two\nlines", "x" * 9000, "\udcff"])
def test_a_secret_is_one_line(tmp_path: Path, text: str) -> None:
    file = tmp_path / "token"
    file.write_text(text, errors="surrogateescape")
    with pytest.raises(ConfigurationError, match=r"token: not "):
        Keyring().proof(Credentials(bearer_token_file=file))


def test_files_that_do_not_go_together_are_named(authority: Authority) -> None:
    pair, other = authority.issue("a"), authority.issue("b")
    with pytest.raises(ConfigurationError, match=r"a\.pem: does not go with .*b\.key"):
        Keyring().proof(Credentials(cert_file=pair.cert, key_file=other.key))
    with pytest.raises(ConfigurationError, match=r"a\.key: no certificates in PEM"):
        Keyring().proof(Credentials(ca_file=pair.key))
