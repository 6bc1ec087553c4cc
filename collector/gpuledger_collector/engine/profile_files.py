# SPDX-License-Identifier: Apache-2.0
"""Reads profiles from TOML: the built-in ones beside this module, and a site's own.

exporter = "dcgm-exporter"          # as people call it
update_interval_seconds = 30        # how often it makes new values, if nobody changed that
[labels]                            # lists of names, best first; only `gpu` must be there
[[activity]]                        # metric, full (its value at 100 %), kind; best first, two at most; or [counters]
[memory]                            # metric, unit_bytes, held_above_bytes
[energy]                            # metric, unit_mj
[processes]                         # metric (one series for each process), owner (labels that name who)
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from gpuledger.errors import ConfigurationError
from gpuledger.settings import read_toml
from gpuledger_collector.engine.profile import (
    Activity,
    ActivityKind,
    Counters,
    Energy,
    Labels,
    Memory,
    Processes,
    Profile,
)

BUILT_IN = ("dcgm", "nvitop", "gpuledger")
TEXT_CHARACTERS_MAX = 200
NAMES_MAX = 16
ACTIVITIES_MAX = 2
_METRIC = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")


def load_profile(name: str, file: Path | None = None) -> Profile:
    """Return the profile in `file`, else the built-in one called `name`; raises ConfigurationError."""
    if file is not None:
        return parse_profile(file.stem, read_toml(file), str(file))
    if name not in BUILT_IN:
        raise ConfigurationError(
            f"profile: {name!r} is not one of {', '.join(BUILT_IN)}; give your own with --profile-file"
        )
    with resources.as_file(resources.files(__package__) / "profiles" / f"{name}.toml") as path:
        return parse_profile(name, read_toml(path), str(path))


def parse_profile(name: str, document: Mapping[str, Any], where: str) -> Profile:
    """Return the profile of a TOML document; raises ConfigurationError naming `where` and the key at fault."""
    top = _Table(document, where)
    labels = top.table("labels")
    own_names = labels.text("own_names", None)
    found = Labels(
        gpu=labels.names("gpu", is_needed=True),
        **{
            key: labels.names(key)
            for key in (
                "model",
                "index",
                "node",
                "site",
                "cluster",
                "pool",
                "workload",
                "owner",
                "instance",
                "instance_profile",
            )
        },
        own_names=own_names,
    )
    labels.end()
    profile = Profile(
        name=name,
        exporter=top.text("exporter"),
        update_interval_ms=round(top.number("update_interval_seconds", 0.001, 3600) * 1000),
        labels=found,
        activities=_activities(top),
        counters=_counters(top),
        memory=_memory(top),
        energy=_energy(top),
        processes=_processes(top),
    )
    top.end()
    if bool(profile.activities) is (profile.counters is not None):
        raise ConfigurationError(f"{where}: give one of [[activity]] and [counters]")
    return profile


def _activities(top: _Table) -> tuple[Activity, ...]:
    found = []
    for table in top.tables("activity", ACTIVITIES_MAX):
        kind = table.text("kind")
        if kind not in set(ActivityKind):
            raise ConfigurationError(
                f"{table.where}: kind: {kind!r} is not one of {', '.join(k.value for k in ActivityKind)}"
            )
        activity = Activity(
            metric=table.metric("metric"), full=table.number("full", 1e-9, 1e9), kind=ActivityKind(kind)
        )
        table.end()
        found.append(activity)
    return tuple(found)


def _counters(top: _Table) -> Counters | None:
    table = top.table("counters", is_needed=False)
    if table is None:
        return None
    counters = Counters(**{field.name: table.metric(field.name) for field in dataclasses.fields(Counters)})
    table.end()
    return counters


def _memory(top: _Table) -> Memory | None:
    table = top.table("memory", is_needed=False)
    if table is None:
        return None
    memory = Memory(
        metric=table.metric("metric"),
        unit_bytes=round(table.number("unit_bytes", 1, 1 << 40)),
        held_above_bytes=round(table.number("held_above_bytes", 0, 1 << 50)),
    )
    table.end()
    return memory


def _energy(top: _Table) -> Energy | None:
    table = top.table("energy", is_needed=False)
    if table is None:
        return None
    energy = Energy(metric=table.metric("metric"), unit_mj=round(table.number("unit_mj", 1, 1 << 40)))
    table.end()
    return energy


def _processes(top: _Table) -> Processes | None:
    table = top.table("processes", is_needed=False)
    if table is None:
        return None
    processes = Processes(metric=table.metric("metric"), owner=table.names("owner", is_needed=True))
    table.end()
    return processes


class _Table:
    """Takes the keys of one TOML table one by one; `end` refuses what is left."""

    def __init__(self, document: Mapping[str, Any], where: str) -> None:
        self._left = dict(document)
        self._seen: list[str] = []
        self.where = where

    def _take(self, key: str) -> Any:
        self._seen.append(key)
        return self._left.pop(key, None)

    def _fail(self, key: str, text: str) -> ConfigurationError:
        return ConfigurationError(f"{self.where}: {key}{text}")

    def text(self, key: str, default: Any = ...) -> Any:
        value = self._take(key)
        if value is None and default is not ...:
            return default
        if value is None:
            raise self._fail(key, " is missing")
        if not isinstance(value, str) or not 0 < len(value) <= TEXT_CHARACTERS_MAX or not value.isprintable():
            raise self._fail(key, f": {value!r} is not a text of 1 to {TEXT_CHARACTERS_MAX} characters")
        return value

    def metric(self, key: str) -> str:
        value: str = self.text(key)
        if not _METRIC.fullmatch(value):
            raise self._fail(key, f": {value!r} is not the name of a metric")
        return value

    def number(self, key: str, low: float, high: float) -> float:
        value = self._take(key)
        if value is None:
            raise self._fail(key, " is missing")
        if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
            raise self._fail(key, f": {value!r} is not a number")
        if not low <= value <= high:
            raise self._fail(key, f": {value!r} is not from {low:g} to {high:g}")
        return float(value)

    def names(self, key: str, *, is_needed: bool = False) -> tuple[str, ...]:
        value = self._take(key)
        if value is None and not is_needed:
            return ()
        is_list = isinstance(value, Sequence) and not isinstance(value, str) and 0 < len(value) <= NAMES_MAX
        if not is_list or not all(isinstance(name, str) and _LABEL.fullmatch(name) for name in value):
            raise self._fail(key, f": {value!r} is not a list of 1 to {NAMES_MAX} names of labels")
        return tuple(value)

    def table(self, key: str, *, is_needed: bool = True) -> Any:
        value = self._take(key)
        if value is None and not is_needed:
            return None
        if not isinstance(value, Mapping):
            raise self._fail(key, " is missing" if value is None else f": {value!r} is not a table")
        return _Table(value, f"{self.where}: {key}")

    def tables(self, key: str, most: int) -> list[_Table]:
        value = self._take(key)
        if value is None:
            return []
        if not isinstance(value, list) or len(value) > most or not all(isinstance(item, Mapping) for item in value):
            raise self._fail(key, f" is not a list of at most {most} tables; write [[{key}]]")
        return [_Table(item, f"{self.where}: {key} {number}") for number, item in enumerate(value, start=1)]

    def end(self) -> None:
        for key in self._left:
            raise self._fail(key, f" is not known; legal keys: {', '.join(sorted(self._seen))}")
