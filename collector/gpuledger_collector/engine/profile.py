# SPDX-License-Identifier: Apache-2.0
"""Profiles: what an exporter's metrics and labels are called, and what they mean. Pure; `profile_files` reads them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class ActivityKind(str, Enum):
    """What one sample of an activity gauge says."""

    MEAN = "mean"
    """The mean over the exporter's update interval."""
    MOMENT = "moment"
    """A moment: the driver's last sample period, of a second at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Activity:
    """One gauge of activity; `full` is its value at 100 %."""

    metric: str
    full: float
    kind: ActivityKind


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """The gauge of memory in use; more than `held_above_bytes` is taken for a process on the GPU."""

    metric: str
    unit_bytes: int
    held_above_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Energy:
    """The board's counter of energy."""

    metric: str
    unit_mj: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Processes:
    """A metric with one series for each process on a GPU, and the labels that say whose it is."""

    metric: str
    owner: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """The metrics of gpuledger's own agent: who a GPU and an agent are, its last tick, and counters of seconds."""

    who: str
    agent: str
    tick: str
    states: str
    uncovered: str
    activity: str
    active: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """Names of labels by what they say, best first; nothing where an exporter does not say it."""

    gpu: tuple[str, ...]
    model: tuple[str, ...] = ()
    index: tuple[str, ...] = ()
    node: tuple[str, ...] = ()
    site: tuple[str, ...] = ()
    cluster: tuple[str, ...] = ()
    pool: tuple[str, ...] = ()
    workload: tuple[str, ...] = ()
    owner: tuple[str, ...] = ()
    instance: tuple[str, ...] = ()
    instance_profile: tuple[str, ...] = ()
    own_names: str | None = None
    """What the exporter's own pods have in their names: they hold no GPU, and are no node."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """One exporter."""

    name: str
    exporter: str
    update_interval_ms: int
    labels: Labels
    activities: tuple[Activity, ...] = ()
    counters: Counters | None = None
    """Instead of gauges of activity."""
    memory: Memory | None = None
    energy: Energy | None = None
    processes: Processes | None = None

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics by which a GPU is seen at all."""
        if self.counters is not None:
            return (self.counters.who,)
        found = tuple(activity.metric for activity in self.activities)
        return found if self.memory is None else (*found, self.memory.metric)
