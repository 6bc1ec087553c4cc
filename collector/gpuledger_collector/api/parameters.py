# SPDX-License-Identifier: Apache-2.0
"""What may be asked for, declared once, and read from a query with a sentence for each thing that is wrong. Pure."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gpuledger.states import IDLE, State

LIMIT_DEFAULT, LIMIT_MAX = 100, 1_000
TEXT_CHARACTERS_MAX = 512
CURSOR_CHARACTERS_MAX = 6_000
"""What a cursor may have: three names, each character of which takes up to six."""


class BadRequest(Exception):
    """A query that cannot be answered: for each parameter at fault, what is wrong with it."""

    def __init__(self, faults: Mapping[str, str]) -> None:
        super().__init__("; ".join(f"{name}: {detail}" for name, detail in faults.items()))
        self.faults = dict(faults)


class BadValue(Exception):
    """What is wrong with one value."""


Value = str | int | State | tuple[Any, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """One parameter of a query; `read` returns its value and raises BadValue."""

    name: str
    text: str
    schema: Mapping[str, Any]
    read: Callable[[str], Value]


def _read_text(text: str) -> str:
    if not 1 <= len(text) <= TEXT_CHARACTERS_MAX:
        raise BadValue(f"has {len(text)} characters, not 1 to {TEXT_CHARACTERS_MAX}")
    return text


def _text(name: str, text: str) -> Parameter:
    schema = {"type": "string", "minLength": 1, "maxLength": TEXT_CHARACTERS_MAX}
    return Parameter(name=name, text=text, schema=schema, read=_read_text)


def _state(states: Sequence[State], text: str) -> Parameter:
    names = [state.value for state in states]

    def read(value: str) -> State:
        if value not in names:
            raise BadValue(f"is not one of {', '.join(names)}")
        return State(value)

    return Parameter(name="state", text=text, schema={"type": "string", "enum": names}, read=read)


def _read_limit(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 9 and 1 <= int(text) <= LIMIT_MAX):
        raise BadValue(f"is not a number from 1 to {LIMIT_MAX}")
    return int(text)


def _read_cursor(text: str) -> tuple[Any, ...]:
    if len(text) > CURSOR_CHARACTERS_MAX:
        raise BadValue(_NO_CURSOR)
    try:
        padded = text + "=" * (-len(text) % 4)
        found = json.loads(base64.b64decode(padded.encode("ascii"), altchars=b"-_", validate=True))
    except (ValueError, binascii.Error, RecursionError):
        raise BadValue(_NO_CURSOR) from None
    if not isinstance(found, list):
        raise BadValue(_NO_CURSOR)
    return tuple(found)


_NO_CURSOR = "is not what an earlier page of the same list gave as next"


def cursor(last: Sequence[str | int]) -> str:
    """Return the text that names the last item of a page; the list it comes from reads it back."""
    encoded = json.dumps(list(last), separators=(",", ":")).encode("ascii")
    return base64.urlsafe_b64encode(encoded).decode("ascii").rstrip("=")


def checked_cursor(found: tuple[Any, ...] | None, *types: type) -> tuple[Any, ...] | None:
    """Return a cursor whose parts have the types that this list gives out; raises BadRequest."""
    if found is None:
        return None
    fits = len(found) == len(types) and all(type(part) is kind for part, kind in zip(found, types, strict=True))
    if not fits:
        raise BadRequest({"after": _NO_CURSOR})
    return found


SITE = _text("site", "Only what stands at this site.")
CLUSTER = _text("cluster", "Only what belongs to this cluster.")
POOL = _text("pool", "Only what belongs to this pool.")
MODEL = _text("model", "Only GPUs of this model.")
NODE = _text("node", "Only what is in this node.")
KIND = _text("kind", "Only findings of this kind.")
STATE = _state(tuple(State), "Only GPUs in this state at this moment.")
IDLE_STATE = _state([state for state in State if state in IDLE], "Only blocks in this state.")
LIMIT = Parameter(
    name="limit",
    text=f"How many items a page may have, {LIMIT_DEFAULT} without.",
    schema={"type": "integer", "minimum": 1, "maximum": LIMIT_MAX, "default": LIMIT_DEFAULT},
    read=_read_limit,
)
AFTER = Parameter(
    name="after",
    text="Go on behind this: `next` of the page before.",
    schema={
        "type": "string",
        "minLength": 1,
        "maxLength": CURSOR_CHARACTERS_MAX,
        "pattern": "^[A-Za-z0-9_-]+$",
    },
    read=_read_cursor,
)
PAGED = (LIMIT, AFTER)


def read_query(parameters: Sequence[Parameter], query: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Return the values by name; raises BadRequest naming every parameter at fault."""
    known = {parameter.name: parameter for parameter in parameters}
    values: dict[str, Any] = {}
    faults: dict[str, str] = {}
    for name, text in query:
        if name not in known:
            legal = f"it has {', '.join(known)}" if known else "it has none"
            faults[name] = f"is no parameter of this list; {legal}"
        elif name in values or name in faults:
            faults[name] = "is given more than once"
        else:
            try:
                values[name] = known[name].read(text)
            except BadValue as exc:
                faults[name] = str(exc)
    if faults:
        raise BadRequest(faults)
    return values
