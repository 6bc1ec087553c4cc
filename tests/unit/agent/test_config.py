# SPDX-License-Identifier: Apache-2.0
"""The agent's settings: what is legal, where it comes from, and what a reading says of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from gpuledger.errors import ConfigurationError
from gpuledger.settings import describe
from gpuledger_agent.config import AgentConfig, load, parse_listen

FILES = "tls_server_config = {cert_file = 'a', key_file = 'b'"


def fill(directory: Path, text: str = "", environment: Mapping[str, str] | None = None, **flags: object) -> AgentConfig:
    file = directory / "agent.toml"
    file.write_text(text, encoding="utf-8")
    return load(file, environment or {}, flags).value


def test_without_anything_said_the_defaults_serve_this_machine_only() -> None:
    loaded = load(None, {}, {})
    assert loaded.value.listen == "127.0.0.1:9400"
    assert loaded.value.interval_ms == 1_000
    assert set(loaded.origins.values()) == {"default"}


def test_each_value_remembers_where_it_came_from(tmp_path: Path) -> None:
    file = tmp_path / "agent.toml"
    file.write_text('listen = "0.0.0.0:1"\nlog_level = "debug"\n[journal]\ndays = 3\n[operator]\nusers = ["burn-in"]\n')
    environment = {"GPULEDGER_AGENT_LOG_LEVEL": "error", "GPULEDGER_AGENT_OPERATOR_EXECUTABLES": "a, b"}
    loaded = load(file, environment, {"listen": "127.0.0.1:2", "node_name": None})
    assert loaded.value.listen == "127.0.0.1:2"
    assert loaded.value.operator_executables == ("a", "b")
    assert {name: origin for name, origin in loaded.origins.items() if origin != "default"} == {
        "listen": "flag",
        "log_level": "environment GPULEDGER_AGENT_LOG_LEVEL",
        "journal_days": f"file {file}",
        "operator_users": f"file {file}",
        "operator_executables": "environment GPULEDGER_AGENT_OPERATOR_EXECUTABLES",
    }


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("intervall_seconds = 1", "unknown key 'intervall_seconds'; legal keys: allocations.lease_file, allocations."),
        ("[journal]\nweeks = 2", "unknown key 'journal.weeks'"),
        ("listen = [", "not valid TOML: Invalid value (at "),
        ("interval_seconds = 0.4", "interval_seconds: 0.4 is less than 0.5"),
        ("interval_seconds = 301", "interval_seconds: 301.0 is more than 300"),
        ("interval_seconds = nan", "interval_seconds: nan is not a number"),
        ('interval_seconds = "1"', "interval_seconds: '1' is not a number"),
        ("interval_seconds = true", "interval_seconds: True is not a number"),
        ("journal.bytes = 1.5", "journal.bytes: 1.5 is not an integer"),
        ("journal.days = 0", "journal.days: 0.0 is less than 1"),
        ("journal = 5", "unknown key 'journal'"),
        ("operator.users = 'root'", "operator.users: 'root' is not a list of texts"),
        ("operator.users = [0]", "operator.users: [0] is not a list of texts"),
        ("log_level = 'loud'", "log_level: 'loud' is not one of debug, info, warning, error"),
        ("basic_auth_users = ['a']", "basic_auth_users: not a table of texts"),
        ("basic_auth_users.a = 5", "basic_auth_users: not a table of texts"),
        ("tls_server_config.min_version = 'TLS10'", "'TLS10' is not one of TLS12, TLS13"),
        ("tls_server_config.client_auth_type = 'RequireAnyClientCert'", "is not one of NoClientCert, VerifyClient"),
        ("listen = 'here'", "listen: 'here' is not HOST:PORT with a port from 0 to 65535"),
        ("node_name = ''", "node_name: '' is not a printable text of 1 to 256 characters"),
        ('node_name = "a\\nb"', "node_name: 'a\\nb' is not a printable text"),
        (f"node_name = '{'n' * 257}'", "is not a printable text of 1 to 256 characters"),
    ],
)
def test_what_is_wrong_is_one_sentence_that_names_file_key_and_value(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        fill(tmp_path, text)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)
    if not named.startswith(("listen:", "node_name:", "is not")):
        assert str(caught.value).startswith(f"{tmp_path / 'agent.toml'}: ")


def test_a_flag_that_is_wrong_is_named_as_the_command_line_names_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"^--interval: 0\.1 is less than 0\.5$"):
        fill(tmp_path, interval_seconds=0.1)


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("127.0.0.1:9400", ("127.0.0.1", 9400)),
        ("[::1]:0", ("::1", 0)),
        ("::1:80", ("::1", 80)),
        ("node-1.example:65535", ("node-1.example", 65535)),
    ],
)
def test_an_address_is_host_and_port(text: str, parsed: tuple[str, int]) -> None:
    assert parse_listen(text) == parsed


@pytest.mark.parametrize(
    "text", ["", ":", ":80", "[]:80", "[:80", "host", "host:", "host:-1", "host:65536", "host:²", "host:٣", "ho st:1",
             "host:" + "9" * 5000, "host:8 0", "[::1]", "http://host:80", "host\x00:80"],
)  # fmt: skip
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="is not HOST:PORT"):
        parse_listen(text)


def test_the_digest_changes_with_what_moves_time_between_states_and_with_nothing_else() -> None:
    base = AgentConfig()
    assert AgentConfig(listen="127.0.0.1:1", node_name="x", journal_days=3, log_level="debug").digest() == base.digest()
    others = [
        AgentConfig(interval_seconds=2),
        AgentConfig(operator_users=("a",)),
        AgentConfig(operator_executables=("a",)),
    ]
    assert len({config.digest() for config in [base, *others]}) == 4
    assert AgentConfig(operator_users=("b", "a")).digest() == AgentConfig(operator_users=("a", "b")).digest()


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("tls_server_config.key_file = 'a'", "tls_server_config.cert_file: missing: TLS needs both"),
        ("tls_server_config.cert_file = 'a'", "tls_server_config.key_file: missing: TLS needs both"),
        ("tls_server_config.client_ca_file = 'a'", "tls_server_config.cert_file: missing: TLS needs both"),
        (f"{FILES}, client_auth_type = 'RequireAndVerifyClientCert'}}", "client_ca_file: missing: client_auth_type"),
        (f"{FILES}, client_ca_file = 'c'}}", "client_auth_type: NoClientCert asks for no certificate, yet"),
    ],
)
def test_half_a_configuration_of_tls_is_refused(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^tls_server_config") as caught:
        fill(tmp_path, text)
    assert named in str(caught.value)


def test_users_are_a_table_and_only_their_names_are_shown(tmp_path: Path) -> None:
    file = tmp_path / "agent.toml"
    file.write_text('[basic_auth_users]\nann = "scrypt$1"\nbob = "scrypt$2"\n')
    loaded = load(file, {}, {})
    assert loaded.value.basic_auth_users == (("ann", "scrypt$1"), ("bob", "scrypt$2"))
    assert ("basic_auth_users", ("ann", "bob"), f"file {file}") in describe(loaded)
    with pytest.raises(ConfigurationError, match=r"GPULEDGER_AGENT_BASIC_AUTH_USERS: not a table of texts$"):
        load(None, {"GPULEDGER_AGENT_BASIC_AUTH_USERS": "ann"}, {})
