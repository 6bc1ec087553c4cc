# SPDX-License-Identifier: Apache-2.0
"""Which GPUs an engine knows of, from the labels of its series. Pure.

The same GPU may stand under many label sets: of other pods, other exporter pods, two Prometheus, another spelling of
its UUID. It is one GPU, at one node for the whole period: the one that its series name on most days.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from gpuledger_collector.engine.answer import Labels
from gpuledger_collector.engine.profile import Profile
from gpuledger_collector.ledger import Finding
from gpuledger_collector.roster import UNKNOWN_PLACE

INDEXES_MAX = 64
"""Indexes of GPUs in one node; numbers above it are no indexes."""
_UUID = re.compile(r"(?:gpu-)?([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})")
_INSTANCE = "mig-"
T = TypeVar("T", str, tuple[str, str, str])
_ADDRESS = re.compile(r"(.+):\d{1,5}")


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Stream:
    """Series that are scraped alike: those of one job, with their GPU in one label."""

    job: str
    gpu_label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One GPU: where it is, and what it is called in each stream; `first_day_ms` is the first day it was listed."""

    identity: str
    node: str
    site: str
    cluster: str
    pool: str
    model: str | None
    first_day_ms: int
    names: Mapping[Stream, tuple[str, ...]]
    is_simulated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Inventory:
    """GPUs in order of identity, and what is odd about them."""

    gpus: tuple[Gpu, ...]
    findings: tuple[Finding, ...]
    knows_workloads: bool
    """Whether any series named who a GPU is allocated to."""

    @property
    def streams(self) -> tuple[Stream, ...]:
        return tuple(sorted({stream for gpu in self.gpus for stream in gpu.names}))


@dataclass(slots=True)
class _Seen:
    first_day_ms: int
    names: dict[Stream, set[str]] = field(default_factory=dict)
    nodes: Counter[str] = field(default_factory=Counter)
    last_day_of_node: dict[str, int] = field(default_factory=dict)
    places: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    models: Counter[str] = field(default_factory=Counter)
    indexes: set[int] = field(default_factory=set)
    is_simulated: bool = False


def identity_of(name: str) -> str | None:
    """Return the one spelling of a GPU's UUID; None where the name is that of a MIG device, which names no GPU."""
    text = name.strip()
    if text.lower().startswith(_INSTANCE):
        return None
    found = _UUID.fullmatch(text.lower())
    return text if found is None else f"GPU-{found[1]}"


def first_label(labels: Labels, names: Sequence[str]) -> tuple[str, str] | None:
    """Return (label, value) of the first of `names` that is there and not empty."""
    return next(((name, labels[name]) for name in names if labels.get(name)), None)


def node_of(labels: Labels, profile: Profile) -> str | None:
    """Return the node's name: without a port, and not that of the exporter's own pod."""
    for label in profile.labels.node:
        value = labels.get(label)
        if not value or is_own(value, profile):
            continue
        address = _ADDRESS.fullmatch(value)
        return value if address is None else address[1].strip("[]")
    return None


def is_own(name: str, profile: Profile) -> bool:
    """Return whether the name is that of one of the exporter's own pods."""
    return profile.labels.own_names is not None and profile.labels.own_names in name


def workload_of(labels: Labels, profile: Profile) -> tuple[str, str | None] | None:
    """Return (workload, owner) that a series names; None where the GPU is nobody's as far as it says."""
    found = first_label(labels, profile.labels.workload)
    if found is None or is_own(found[1], profile):
        return None
    owner = first_label(labels, profile.labels.owner)
    return found[1], None if owner is None else owner[1]


def take_inventory(days: Iterable[tuple[int, Iterable[Labels]]], profile: Profile) -> Inventory:
    """Return the GPUs in the label sets listed for each day (its start in POSIX ms)."""
    seen: dict[str, _Seen] = {}
    strangers: dict[tuple[str, str], int] = {}
    knows_workloads = False
    for day_ms, label_sets in days:
        for labels in label_sets:
            named = first_label(labels, profile.labels.gpu)
            identity = None if named is None else identity_of(named[1])
            if named is None or identity is None:
                subject = node_of(labels, profile) or UNKNOWN_PLACE
                strangers.setdefault(("gpu_unnamed" if named is None else "instance_without_gpu", subject), day_ms)
                continue
            gpu = seen.setdefault(identity, _Seen(first_day_ms=day_ms))
            gpu.first_day_ms = min(gpu.first_day_ms, day_ms)
            stream = Stream(job=labels.get("job", ""), gpu_label=named[0])
            gpu.names.setdefault(stream, set()).add(named[1])
            _note(gpu, labels, profile, day_ms)
            knows_workloads = knows_workloads or workload_of(labels, profile) is not None
    gpus = tuple(_gpu(identity, found) for identity, found in sorted(seen.items()))
    findings = [_stranger(kind, subject, day_ms) for (kind, subject), day_ms in strangers.items()]
    findings += [_several_nodes(gpu, seen[gpu.identity]) for gpu in gpus if len(seen[gpu.identity].nodes) > 1]
    findings += _missing_indexes(gpus, seen)
    return Inventory(gpus=gpus, findings=tuple(sorted(findings)), knows_workloads=knows_workloads)


def with_agents(label_sets: Iterable[Labels], agent: str) -> list[Labels]:
    """Return the label sets of GPUs, each with what the agent of the same scrape says of itself (metric `agent`)."""
    found = list(label_sets)
    agents = {(one.get("job"), one.get("instance")): one for one in found if one.get("__name__") == agent}
    gpus = (one for one in found if one.get("__name__") != agent)
    return [{**_of_agent(agents.get((one.get("job"), one.get("instance")), {})), **one} for one in gpus]


def _of_agent(labels: Labels) -> Labels:
    return {name: labels[name] for name in ("node", "simulated") if name in labels}


def _note(gpu: _Seen, labels: Labels, profile: Profile, day_ms: int) -> None:
    node = node_of(labels, profile)
    if node is not None:
        if gpu.last_day_of_node.get(node) != day_ms:
            gpu.nodes[node] += 1
        gpu.last_day_of_node[node] = day_ms
    places = (
        first_label(labels, names) for names in (profile.labels.site, profile.labels.cluster, profile.labels.pool)
    )
    site, cluster, pool = (UNKNOWN_PLACE if found is None else found[1] for found in places)
    gpu.places[site, cluster, pool] += 1
    model = first_label(labels, profile.labels.model)
    if model is not None:
        gpu.models[model[1]] += 1
    gpu.is_simulated = gpu.is_simulated or labels.get("simulated") == "true"
    index = first_label(labels, profile.labels.index)
    if index is not None and index[1].isascii() and index[1].isdigit() and int(index[1]) < INDEXES_MAX:
        gpu.indexes.add(int(index[1]))


def _gpu(identity: str, seen: _Seen) -> Gpu:
    node = max(
        seen.nodes, key=lambda name: (seen.nodes[name], seen.last_day_of_node[name], _inverse(name)), default=None
    )
    site, cluster, pool = _most(seen.places) or (UNKNOWN_PLACE,) * 3
    return Gpu(
        identity=identity,
        node=UNKNOWN_PLACE if node is None else node,
        site=site,
        cluster=cluster,
        pool=pool,
        model=_most(seen.models),
        first_day_ms=seen.first_day_ms,
        names={stream: tuple(sorted(names)) for stream, names in sorted(seen.names.items())},
        is_simulated=seen.is_simulated,
    )


def _inverse(name: str) -> tuple[int, ...]:
    """Return what makes the lesser of two names the greater."""
    return tuple(-ord(mark) for mark in name)


def _most(counts: Counter[T]) -> T | None:
    return min(counts, key=lambda item: (-counts[item], item), default=None)


def _stranger(kind: str, subject: str, day_ms: int) -> Finding:
    what = {
        "gpu_unnamed": "series without the label of a GPU; their time is in no figure",
        "instance_without_gpu": "MIG devices that do not say which GPU they are part of; their time is in no figure",
    }[kind]
    return Finding(at_ms=day_ms, kind=kind, subject=subject, text=f"{subject} has {what}")


def _several_nodes(gpu: Gpu, seen: _Seen) -> Finding:
    others = ", ".join(sorted(name for name in seen.nodes if name != gpu.node))
    text = f"{gpu.identity} was at {gpu.node} by most of its series, and at {others} by others; all count at {gpu.node}"
    return Finding(at_ms=gpu.first_day_ms, kind="several_nodes", subject=gpu.identity, text=text)


def _missing_indexes(gpus: Iterable[Gpu], seen: Mapping[str, _Seen]) -> list[Finding]:
    """Return a finding for each node whose GPUs have holes in their numbers: there is a GPU that never reported."""
    by_node: dict[str, list[Gpu]] = {}
    for gpu in gpus:
        by_node.setdefault(gpu.node, []).append(gpu)
    findings = []
    for node, found in sorted(by_node.items()):
        indexes = {index for gpu in found for index in seen[gpu.identity].indexes}
        missing = sorted(set(range(max(indexes, default=0))) - indexes)
        if missing and node != UNKNOWN_PLACE:
            listed = ", ".join(map(str, missing))
            text = f"{node} has no GPU {listed} below its highest: what never reported is not known, and in no figure"
            day_ms = min(gpu.first_day_ms for gpu in found)
            findings.append(Finding(at_ms=day_ms, kind="missing_index", subject=node, text=text))
    return findings
