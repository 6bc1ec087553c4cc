# SPDX-License-Identifier: Apache-2.0
"""Settings: where each value comes from, and one sentence for each thing that is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuledger.errors import ConfigurationError
from gpuledger.settings import FILE_BYTES_MAX, describe, load, read_toml, setting
from tests.profiles import examples


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    interval_seconds: float = setting("interval_seconds", "Time between ticks.", 1.0, low=0.1, high=60.0)
    count: int = setting("limits.count", "How many.", 3, low=1, high=10)
    is_open: bool = setting("serve.open", "Whether anybody may ask.", default=False)
    listen: str = setting("serve.listen", "Where to listen.", "127.0.0.1:9835")
    level: str = setting("level", "How much to say.", "info", choices=("debug", "info"))
    state_dir: Path | None = setting("state_dir", "Where to keep state.", None)
    users: tuple[str, ...] = setting("users", "Whom to know.", ())
    ratio: float = setting("ratio", "A number without limits.", 0.5)


def fill(
    text: str | None = None,
    *,
    environment: Mapping[str, str] | None = None,
    directory: Path | None = None,
    foreign_tables: frozenset[str] = frozenset(),
    **flags: object,
) -> tuple[Example, Mapping[str, str]]:
    file = None
    if text is not None:
        assert directory is not None
        file = directory / "example.toml"
        file.write_text(text)
    loaded = load(
        Example, file=file, environment=environment or {}, prefix="EX", flags=flags, foreign_tables=foreign_tables
    )
    return loaded.value, loaded.origins


def test_defaults_stand_where_nothing_was_said() -> None:
    value, origins = fill()
    assert value == Example()
    assert set(origins.values()) == {"default"}


def test_a_flag_beats_the_environment_which_beats_the_file_which_beats_the_default(tmp_path: Path) -> None:
    text = "[limits]\ncount = 4\n"
    value, origins = fill(text, directory=tmp_path, environment={"EX_LIMITS_COUNT": "5"}, count=6)
    assert (value.count, origins["count"]) == (6, "flag")
    value, origins = fill(text, directory=tmp_path, environment={"EX_LIMITS_COUNT": "5"}, count=None)
    assert (value.count, origins["count"]) == (5, "environment EX_LIMITS_COUNT")
    value, origins = fill(text, directory=tmp_path)
    assert (value.count, origins["count"]) == (4, f"file {tmp_path}/example.toml")


def test_a_flag_of_zero_or_false_was_given_all_the_same() -> None:
    value, origins = fill(environment={"EX_SERVE_OPEN": "true"}, is_open=False, ratio=0.0)
    assert (value.is_open, value.ratio) == (False, 0.0)
    assert origins["is_open"] == origins["ratio"] == "flag"


@pytest.mark.parametrize(
    ("name", "text", "field", "value"),
    [
        ("EX_INTERVAL_SECONDS", "2", "interval_seconds", 2.0),
        ("EX_LIMITS_COUNT", "7", "count", 7),
        ("EX_SERVE_OPEN", "True", "is_open", True),
        ("EX_SERVE_OPEN", "0", "is_open", False),
        ("EX_STATE_DIR", "/var/lib/x", "state_dir", Path("/var/lib/x")),
        ("EX_USERS", "ada, bob ,", "users", ("ada", "bob")),
    ],
)
def test_the_environment_speaks_in_text(name: str, text: str, field: str, value: object) -> None:
    found = getattr(fill(environment={name: text})[0], field)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("intervall = 1", "unknown key 'intervall'; legal keys: "),
        ("[serve]\nlistne = 'x'", "unknown key 'serve.listne'"),
        ("[sevre]\nlisten = 'x'", "unknown key 'sevre.listen'"),
        ("[sevre]", "unknown key 'sevre'"),
        ("[serve.deep]", "unknown key 'serve.deep'"),
        ("serve = 1", "unknown key 'serve'"),
        ("'serve.listen' = 'x'", "unknown key '\"serve.listen\"'"),
        ("interval_seconds = '1'", "interval_seconds: '1' is not a number"),
        ("interval_seconds = true", "interval_seconds: True is not a number"),
        ("interval_seconds = nan", "interval_seconds: nan is not a number"),
        ("ratio = inf", "ratio: inf is not a number"),
        ("ratio = 1" + "0" * 400, "is not a number"),
        ("interval_seconds = 0.05", "interval_seconds: 0.05 is less than 0.1"),
        ("interval_seconds = 61", "interval_seconds: 61.0 is more than 60.0"),
        ("[limits]\ncount = 3.0", "limits.count: 3.0 is not an integer"),
        ("[limits]\ncount = true", "limits.count: True is not an integer"),
        ("[limits]\ncount = 11", "limits.count: 11 is more than 10"),
        ("[serve]\nopen = 1", "serve.open: 1 is not true or false"),
        ("[serve]\nlisten = 9835", "serve.listen: 9835 is not a text"),
        ("level = 'loud'", "level: 'loud' is not one of debug, info"),
        ("state_dir = 7", "state_dir: 7 is not a path"),
        ("users = 'ada'", "users: 'ada' is not a list of texts"),
        ("users = ['ada', 1]", "users: ['ada', 1] is not a list of texts"),
        ("a = ", "not valid TOML: "),
        ("count = 1\ncount = 2", "not valid TOML: "),
    ],
)
def test_what_is_wrong_in_a_file_is_one_sentence_that_names_file_and_key(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        fill(text, directory=tmp_path)
    sentence = str(caught.value)
    assert sentence.startswith(f"{tmp_path}/example.toml: ")
    assert named in sentence
    assert "\n" not in sentence
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("name", "text", "named"),
    [
        ("EX_LIMITS_COUNT", "many", "EX_LIMITS_COUNT: 'many' is not an integer"),
        ("EX_LIMITS_COUNT", "", "EX_LIMITS_COUNT: '' is not an integer"),
        ("EX_LIMITS_COUNT", "0", "EX_LIMITS_COUNT: 0 is less than 1"),
        ("EX_LIMITS_COUNT", "9" * 5000, "is not an integer"),
        ("EX_INTERVAL_SECONDS", "nan", "EX_INTERVAL_SECONDS: nan is not a number"),
        ("EX_RATIO", "-inf", "EX_RATIO: -inf is not a number"),
        ("EX_SERVE_OPEN", "maybe", "EX_SERVE_OPEN: 'maybe' is not true or false"),
        ("EX_LEVEL", "loud", "EX_LEVEL: 'loud' is not one of debug, info"),
    ],
)
def test_what_is_wrong_in_the_environment_names_the_variable(name: str, text: str, named: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        fill(environment={name: text})
    assert named in str(caught.value)


def test_what_is_wrong_in_a_flag_names_the_flag() -> None:
    with pytest.raises(ConfigurationError, match=r"^--count: 0 is less than 1$"):
        fill(count=0)


def test_tables_that_somebody_else_reads_are_left_alone(tmp_path: Path) -> None:
    text = "[targets]\nanything = 1\n[limits]\ncount = 2\n"
    assert fill(text, directory=tmp_path, foreign_tables=frozenset({"targets"}))[0].count == 2
    with pytest.raises(ConfigurationError, match=r"unknown key 'targets\.anything'"):
        fill(text, directory=tmp_path)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.toml", tmp_path):
        with pytest.raises(ConfigurationError, match=f"^{path}: cannot be read: "):
            read_toml(path)


def test_a_file_that_is_too_large_or_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "large.toml"
    path.write_bytes(b"#" * (FILE_BYTES_MAX + 1))
    with pytest.raises(ConfigurationError, match=f"^{path}: larger than {FILE_BYTES_MAX} bytes"):
        read_toml(path)
    path.write_bytes(b"a = '\xff'")
    with pytest.raises(ConfigurationError, match=f"^{path}: not UTF-8 text"):
        read_toml(path)


def test_a_description_names_every_setting_with_its_value_and_origin() -> None:
    loaded = load(Example, file=None, environment={"EX_LIMITS_COUNT": "5"}, prefix="EX", flags={})
    assert describe(loaded)[1] == ("limits.count", 5, "environment EX_LIMITS_COUNT")
    assert describe(loaded)[0][0] == "interval_seconds"
    assert len(describe(loaded)) == 8


VALUES: st.SearchStrategy[Any] = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.lists(st.text() | st.integers(), max_size=2)
)


@examples(5)
@given(st.sampled_from(["interval_seconds", "count", "is_open", "listen", "level", "state_dir", "users"]), VALUES)
def test_any_value_is_taken_in_its_kind_and_limits_or_refused_with_a_sentence(field: str, value: Any) -> None:
    refused = ""
    found = Example()
    try:
        found, _ = fill(**{field: value})
    except ConfigurationError as exc:
        refused = str(exc)
    assert refused == "" or refused.startswith(f"--{field.replace('_', '-')}: ")
    assert 0.1 <= found.interval_seconds <= 60
    assert type(found.count) is int
    assert 1 <= found.count <= 10
    assert type(found.is_open) is bool
    assert found.level in {"debug", "info"}
    assert all(isinstance(user, str) for user in found.users)
