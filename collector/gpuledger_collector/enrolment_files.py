# SPDX-License-Identifier: Apache-2.0
"""The file of enrolled keys: which key may write under which node's name, from when to when (docs/log.md)."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from gpuledger.errors import ConfigurationError
from gpuledger.sealing import node_id_of
from gpuledger.settings import read_toml
from gpuledger_collector.declared_files import Record, line_of, tables
from gpuledger_collector.enrolments import Enrolled

KEYS = ("node", "public_key", "from", "to", "revoked")
PUBLIC_KEY_BYTES = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class DeclaredKey:
    """One key as the file has it."""

    node: str
    public_key: bytes
    from_ms: int | None = None
    to_ms: int | None = None
    revoked_ms: int | None = None

    @property
    def node_id(self) -> str:
        return node_id_of(self.public_key)


def load_enrolment(path: Path) -> tuple[DeclaredKey, ...]:
    """Return the keys in the file; raises ConfigurationError naming file, line and field."""
    document = read_toml(path)
    lines = path.read_text(encoding="utf-8").splitlines()
    for name in document:
        if name != "key":
            raise ConfigurationError(f"{path}:{line_of(lines, name)}: {name}: unknown key; legal keys: key")
    if "key" not in document:
        raise ConfigurationError(f"{path}: lists no key: nothing would count")
    found: dict[bytes, DeclaredKey] = {}
    for record in tables(path, lines, "key", document["key"]):
        key = _key(record)
        if key.public_key in found:
            raise record.fail("public_key", f"stands here twice; before, for {found[key.public_key].node}")
        found[key.public_key] = key
    return tuple(found.values())


def _key(record: Record) -> DeclaredKey:
    record.check_keys(KEYS)
    text = record.required("public_key")
    try:
        public_key = base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error) as exc:
        raise record.fail("public_key", f"{text!r} is not base64") from exc
    if len(public_key) != PUBLIC_KEY_BYTES:
        raise record.fail("public_key", f"has {len(public_key)} bytes, not {PUBLIC_KEY_BYTES}")
    from_ms, to_ms = record.time_ms("from"), record.time_ms("to")
    if from_ms is not None and to_ms is not None and to_ms <= from_ms:
        raise record.fail("to", f"{record.values['to']} is not after from, {record.values['from']}")
    return DeclaredKey(
        node=record.required("node"),
        public_key=public_key,
        from_ms=from_ms,
        to_ms=to_ms,
        revoked_ms=record.time_ms("revoked"),
    )


def show_enrolment(keys: Sequence[Enrolled]) -> str:
    """Return a file with these keys."""
    return "\n".join(_table(key) for key in keys)


def _table(key: Enrolled) -> str:
    # Names are printable, so only two characters could end the text.
    node = key.node.replace("\\", "\\\\").replace('"', '\\"')
    lines = [f"[[key]]  # {key.how}", f'node = "{node}"', f'public_key = "{base64.b64encode(key.public_key).decode()}"']
    for name, time_ms in (("from", key.from_ms), ("to", key.to_ms), ("revoked", key.revoked_ms)):
        if time_ms is not None:
            found = datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(timespec="milliseconds")
            lines.append(f"{name} = {found}")
    return "\n".join(lines) + "\n"
