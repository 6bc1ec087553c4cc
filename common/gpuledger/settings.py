# SPDX-License-Identifier: Apache-2.0
"""Settings: frozen dataclasses filled from flags, the environment, a TOML file and defaults, in that order.

A settings class is flat: its fields are keys of the TOML file, in tables named by the part before the first dot of
`metadata["key"]` (or at top level without a dot). Every value remembers where it came from. An unknown key or a value
of the wrong kind is a ConfigurationError that names file, key, value and what would be legal.
"""

from __future__ import annotations

import dataclasses
import sys
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from gpuledger.errors import ConfigurationError

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover - one branch per Python version
    import tomli as tomllib

T = TypeVar("T")
FILE_BYTES_MAX = 1 << 20
Pairs = tuple[tuple[str, str], ...]
"""The kind of a setting that is a table of texts: its (name, text) in the order of the file."""


def setting(
    key: str,
    text: str,
    default: Any,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] | None = None,
    flag: str | None = None,
) -> Any:
    """Declare one setting: its TOML key (dots for tables), what it means, its default and its legal values.

    `flag` is what the command line calls it, where that is not the field's name with hyphens.
    """
    metadata = {"key": key, "text": text, "low": low, "high": high, "choices": choices, "flag": flag}
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded(Generic[T]):
    """Settings, and for each field where its value came from: "default", "file PATH", "environment NAME" or "flag"."""

    value: T
    origins: Mapping[str, str]


def read_toml(path: Path, parse_float: Callable[[str], Any] = float) -> dict[str, Any]:
    """Return the TOML document in `path`; raises ConfigurationError naming the file and the line at fault.

    `parse_float` takes numbers with a point as they are written: Decimal for amounts of money.
    """
    try:
        data = path.read_bytes()
    except OSError as exc:
        raise ConfigurationError(f"{path}: cannot be read: {exc.strerror}") from exc
    if len(data) > FILE_BYTES_MAX:
        raise ConfigurationError(f"{path}: larger than {FILE_BYTES_MAX} bytes")
    try:
        return tomllib.loads(data.decode("utf-8"), parse_float=parse_float)
    except UnicodeDecodeError as exc:
        raise ConfigurationError(f"{path}: not UTF-8 text (byte {exc.start})") from exc
    except tomllib.TOMLDecodeError as exc:
        raise ConfigurationError(f"{path}: not valid TOML: {exc}") from exc


def environment_name(prefix: str, key: str) -> str:
    """Return the environment variable of a key: "serve.listen" -> PREFIX_SERVE_LISTEN."""
    return f"{prefix}_{key.replace('.', '_')}".upper()


def load(
    cls: type[T],
    *,
    file: Path | None,
    environment: Mapping[str, str],
    prefix: str,
    flags: Mapping[str, object | None],
    foreign_tables: frozenset[str] = frozenset(),
) -> Loaded[T]:
    """Fill `cls` from `flags` (by field name; None means not given), `environment`, `file` and the defaults.

    `foreign_tables` are top-level tables of the file that somebody else reads.
    """
    fields = {f.metadata["key"]: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    hints = typing.get_type_hints(cls)
    values: dict[str, Any] = {}
    origins = {f.name: "default" for f in fields.values()}
    if file is not None:
        document = {k: v for k, v in read_toml(file).items() if k not in foreign_tables}
        for key, value in _flatten(document, fields):
            if key not in fields:
                legal = ", ".join(sorted(fields))
                raise ConfigurationError(f"{file}: unknown key {key!r}; legal keys: {legal}")
            found = fields[key]
            values[found.name] = _convert(value, hints[found.name], found.metadata, f"{file}: {key}")
            origins[found.name] = f"file {file}"
    for key, found in fields.items():
        name = environment_name(prefix, key)
        if name in environment:
            value = _from_text(environment[name], hints[found.name])
            values[found.name] = _convert(value, hints[found.name], found.metadata, name)
            origins[found.name] = f"environment {name}"
        if flags.get(found.name) is not None:
            flag = found.metadata["flag"] or f"--{found.name.replace('_', '-')}"
            values[found.name] = _convert(flags[found.name], hints[found.name], found.metadata, flag)
            origins[found.name] = "flag"
    return Loaded(value=cls(**values), origins=origins)


def _flatten(document: Mapping[str, Any], fields: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in document.items():
        # A dot within a quoted key is no table: '"serve.listen"' must not pass for listen in [serve].
        key = prefix + (f'"{name}"' if "." in name else name)
        is_table = isinstance(value, dict) and key not in fields
        if is_table and (value or any(known.startswith(key + ".") for known in fields)):
            yield from _flatten(value, fields, key + ".")
        else:
            yield key, value


def _alternatives(hint: Any) -> tuple[Any, ...]:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return tuple(arg for arg in typing.get_args(hint) if arg is not type(None))
    return (hint,)


def _from_text(text: str, hint: Any) -> Any:
    kind = _alternatives(hint)[0]
    if kind is bool:
        return {"true": True, "false": False, "1": True, "0": False}.get(text.lower(), text)
    if typing.get_origin(kind) is tuple:
        return [part.strip() for part in text.split(",") if part.strip()]
    if kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            return text
    return text


_KIND_NAMES = {int: "an integer", float: "a number", bool: "true or false", str: "a text", Path: "a path"}


def _convert(value: Any, hint: Any, metadata: Mapping[str, Any], where: str) -> Any:
    kind = _alternatives(hint)[0]
    if kind == Pairs:
        if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
            # What is there may be secret: it is not shown.
            raise ConfigurationError(f"{where}: not a table of texts")
        return tuple(value.items())
    if typing.get_origin(kind) is tuple:
        if not isinstance(value, (list, tuple)) or not all(isinstance(item, str) for item in value):
            raise ConfigurationError(f"{where}: {value!r} is not a list of texts")
        return tuple(value)
    converted = _convert_scalar(value, kind)
    if converted is None:
        raise ConfigurationError(f"{where}: {value!r} is not {_KIND_NAMES[kind]}")
    _check_limits(converted, metadata, where)
    return converted


def _convert_scalar(value: Any, kind: Any) -> Any:
    if kind is Path and isinstance(value, (str, Path)):
        return Path(value)
    if kind is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        # NaN passes every limit, since it is neither less nor more than anything.
        return float(value) if abs(value) <= sys.float_info.max else None
    if isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
        return value
    return None


def _check_limits(value: Any, metadata: Mapping[str, Any], where: str) -> None:
    low, high, choices = metadata["low"], metadata["high"], metadata["choices"]
    if choices is not None and value not in choices:
        raise ConfigurationError(f"{where}: {value!r} is not one of {', '.join(choices)}")
    if low is not None and value < low:
        raise ConfigurationError(f"{where}: {value!r} is less than {low}")
    if high is not None and value > high:
        raise ConfigurationError(f"{where}: {value!r} is more than {high}")


def describe(loaded: Loaded[Any]) -> list[tuple[str, object, str]]:
    """Return (key, value, origin) for every setting, in the order of declaration; of a table only the names."""
    hints = typing.get_type_hints(type(loaded.value))
    rows: list[tuple[str, object, str]] = []
    for f in dataclasses.fields(loaded.value):
        value = getattr(loaded.value, f.name)
        shown = tuple(name for name, _ in value) if hints[f.name] == Pairs else value
        rows.append((f.metadata["key"], shown, loaded.origins[f.name]))
    return rows
