# SPDX-License-Identifier: Apache-2.0
"""Lists of targets as Prometheus' file_sd and http_sd have them, in JSON or YAML; the only door to PyYAML.

[{"targets": ["node-001:9400"], "labels": {"rack": "r12"}}]
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from gpuledger.errors import ConfigurationError
from gpuledger_collector.relabel import TEXT_CHARACTERS_MAX, is_label_name

DOCUMENT_BYTES_MAX = 16 << 20
TARGETS_MAX = 100_000
LABELS_MAX = 64
# Where libyaml is there it is ten times as fast.
_LOADER = getattr(yaml, "CBaseLoader", yaml.BaseLoader)


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """One target of a list, and the labels of its entry."""

    address: str
    labels: Mapping[str, str]


def parse_json(data: bytes, where: str) -> list[Listed]:
    """Return the targets in a JSON document; raises ConfigurationError, which begins with `where`."""
    _check_size(data, where)
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as exc:
        raise ConfigurationError(f"{where}: not JSON: {_shorten(exc)}") from exc
    return _listed(document, where)


def parse_yaml(data: bytes, where: str) -> list[Listed]:
    """Return the targets in a YAML document, likewise. Every scalar is a text, as it stands there."""
    _check_size(data, where)
    try:
        # The base loader knows lists, maps and texts: there is no tag that it would make an object of.
        document = yaml.load(data, Loader=_LOADER)  # noqa: S506
    except (yaml.YAMLError, ValueError, RecursionError) as exc:
        raise ConfigurationError(f"{where}: not YAML: {_shorten(exc)}") from exc
    return _listed(None if document == "" else document, where)


def _check_size(data: bytes, where: str) -> None:
    if len(data) > DOCUMENT_BYTES_MAX:
        raise ConfigurationError(f"{where}: larger than {DOCUMENT_BYTES_MAX} bytes")


def _listed(document: Any, where: str) -> list[Listed]:
    if document is None:
        return []
    if not isinstance(document, list):
        raise ConfigurationError(f"{where}: not a list of groups of targets")
    found: list[Listed] = []
    for number, group in enumerate(document, start=1):
        here = f"{where}: entry {number}"
        if not isinstance(group, dict) or not group.keys() <= {"targets", "labels"}:
            raise ConfigurationError(f"{here}: not an object with targets and labels")
        targets, labels = group.get("targets"), group.get("labels") or {}
        if not isinstance(targets, list) or not all(isinstance(target, str) for target in targets):
            raise ConfigurationError(f"{here}: targets is not a list of texts")
        is_small = isinstance(labels, dict) and len(labels) <= LABELS_MAX
        if not is_small or not all(_is_label(name, value) for name, value in labels.items()):
            raise ConfigurationError(f"{here}: labels is not an object of at most {LABELS_MAX} texts by name")
        found += [Listed(address=target, labels=labels) for target in targets]
        if len(found) > TARGETS_MAX:
            raise ConfigurationError(f"{here}: more than {TARGETS_MAX} targets")
    return found


def _is_label(name: object, value: object) -> bool:
    is_name = isinstance(name, str) and is_label_name(name)
    return is_name and isinstance(value, str) and len(value) <= TEXT_CHARACTERS_MAX


def _shorten(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
