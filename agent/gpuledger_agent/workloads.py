# SPDX-License-Identifier: Apache-2.0
"""From the text of /proc/PID/cgroup to the workload that a process belongs to. Pure.

Of all paths in the text the most telling one decides: a Slurm job, else a pod, else a container, else a systemd unit.
A path may begin anywhere: whoever reads it from within a cgroup namespace of his own, or below a bind mount, sees a
part of it, with `..` where his own root is left. So segments are recognised by what they are called, never by where
they stand. The forms, and where each was seen, are in tests/unit/agent/cgroups.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from fnmatch import fnmatchcase

from gpuledger import workload_names

CGROUP_CHARACTERS_MAX = 16_384
"""How much of a text is looked at; the kernel gives at most some 15 lines of at most 4 KiB."""
_DELETED = " (deleted)"
_UID = r"[0-9a-f]{8}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{12}|[0-9a-f]{32}"

_OWNER = re.compile(r"user-(\d{1,10})\.slice|uid_(\d{1,10})")
_JOB = re.compile(r"job_(\d{1,10})")
_SLUID = re.compile(r"s[0-9A-HJKMNP-TV-Z]{13}")
_STEP = re.compile(r"step_(.{1,40})")
_STEP_TITLE = re.compile(r"slurmstepd: \[(\d{1,10})(?:\.([^\s\]]{1,40}))?(?: [^\]]*)?\]")
_POD = re.compile(rf"(?:.*-)?pod({_UID})(?:\.slice)?(?::([^:]+):([^:]+))?")
_NAMED_CONTAINER = re.compile(r"([a-z][a-z-]*)-([0-9a-f]{64})(?:\.scope)?")
_BARE_CONTAINER = re.compile(r"[0-9a-f]{64}")
_LXC = re.compile(r"lxc\.payload[./](.+)")
_APPTAINER_SCOPE = re.compile(r"(apptainer|singularity)-(\d{1,10})\.scope")
_MANAGER = re.compile(r"user@(\d{1,10})\.service")
_RUNTIMES = {
    "docker": "docker",
    "libpod": "podman",
    "libpod-payload": "podman",
    "nerdctl": "containerd",
    "containerd": "containerd",
    "cri-containerd": "cri-containerd",
    "crio": "cri-o",
}
"""How a scope is called -> the program that made it. Monitors (`libpod-conmon`, `crio-conmon`) are none."""
_POD_RUNTIMES = frozenset({"cri-containerd", "cri-o"})
"""Runtimes that only a kubelet uses, so that their containers are pods' whatever the path leaves out."""
_BARE_PARENTS = {"docker": "docker", "default": "containerd", "containerd": "containerd"}


class Source(str, Enum):
    """What told a workload from others; the value is one of gpuledger.states.WORKLOAD_SOURCES."""

    SLURM_JOB = "slurm_job"
    POD = "pod"
    CONTAINER = "container"
    UNIT = "unit"
    PROCESS = "process"
    LEASE = "lease"


@dataclass(frozen=True, slots=True, kw_only=True)
class PodName:
    """What a container of a pod is called."""

    namespace: str
    pod: str
    container: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Who one process, or many, belong to; what its source does not tell is None.

    `job` is Slurm's job id, or its SLUID where the cgroup has that alone (Slurm 26.05); `step` is a detail and makes no
    other workload. `owner_uid` is the user that the path names, which outlasts user namespaces and sudo.
    """

    source: Source
    job: str | None = None
    step: str | None = field(default=None, compare=False)
    pod_uid: str | None = None
    pod_name: PodName | None = None
    runtime: str | None = None
    container_id: str | None = None
    unit: str | None = None
    manager_uid: int | None = None
    owner_uid: int | None = field(default=None, compare=False)

    def name(self, cluster: str | None = None) -> str:
        """Return what the workload is called, in the forms of gpuledger.workload_names; it has to be no process."""
        if self.source is Source.SLURM_JOB and self.job is not None:
            return workload_names.slurm_job(self.job, cluster)
        if self.source is Source.POD:
            if self.pod_name is not None:
                return workload_names.pod(self.pod_name.namespace, self.pod_name.pod, self.pod_name.container)
            return workload_names.pod_by_uid(self.pod_uid, self.container_id)
        if self.source is Source.CONTAINER and self.runtime is not None and self.container_id is not None:
            return workload_names.container(self.runtime, self.container_id)
        if self.source is Source.UNIT and self.unit is not None:
            return workload_names.unit(self.unit, self.manager_uid)
        raise ValueError(f"a workload by {self.source.value} cannot be named from its cgroup")

    @property
    def is_job_numbered(self) -> bool:
        """Return whether it is a Slurm job whose own number is known."""
        return self.job is not None and self.job.isdigit()


def paths_of(text: str) -> tuple[str, ...]:
    """Return the paths of a cgroup text, the ones that systemd keeps first; lines that are none are passed over."""
    found: list[tuple[bool, str]] = []
    for line in text[:CGROUP_CHARACTERS_MAX].split("\n"):
        number, _, rest = line.partition(":")
        controllers, colon, path = rest.partition(":")
        if colon and path.startswith("/"):
            is_systemd = number == "0" or controllers == "name=systemd"
            found.append((not is_systemd, path.removesuffix(_DELETED)))
    found.sort(key=lambda item: item[0])
    return tuple(dict.fromkeys(path for _, path in found))


def identify(text: str) -> Workload | None:
    """Return the workload that a cgroup text tells; None where it tells nothing but a user's session, or nothing."""
    paths = [[part for part in path.split("/") if part not in ("", ".", "..")] for path in paths_of(text)]
    for look in (_slurm_job, _pod, _container, _unit):
        for segments in paths:
            workload = look(segments)
            if workload is not None:
                return replace(workload, owner_uid=_owner(paths))
    return None


def identify_step(title: str) -> Workload | None:
    """Return the Slurm job that the process title of its slurmstepd names."""
    found = _STEP_TITLE.match(title)
    return None if found is None else Workload(source=Source.SLURM_JOB, job=found[1], step=found[2])


def is_within(paths: Iterable[str], patterns: Sequence[str]) -> bool:
    """Return whether a path is one of the patterns or below it; `*`, `?` and `[...]` match slashes as well."""
    for path in paths:
        for pattern in patterns:
            # "/a" holds "/a" and "/a/b", and not "/ab".
            prefix = pattern.rstrip("/")
            if fnmatchcase(path, pattern) or fnmatchcase(path, prefix) or fnmatchcase(path, f"{prefix}/*"):
                return True
    return False


# ---------------------------------------------------------------------------------------------- one path each


def _owner(paths: Iterable[Sequence[str]]) -> int | None:
    for segments in paths:
        for segment in segments:
            found = _OWNER.fullmatch(segment)
            if found is not None:
                return int(found[1] or found[2])
    return None


def _slurm_job(segments: Sequence[str]) -> Workload | None:
    """`slurm[_NODE]/uid_N/job_N[/step_X[/task_N]]` (v1), `[NODE_]slurmstepd.scope/job_N|SLUID[/step_X...]` (v2)."""
    for position, segment in enumerate(segments):
        if segment == "slurmstepd.scope" or segment.endswith("_slurmstepd.scope"):
            rest = segments[position + 1 :]
        elif (segment == "slurm" or segment.startswith("slurm_")) and _is_user(segments, position + 1):
            rest = segments[position + 2 :]
        else:
            continue
        if not rest:
            continue
        job, sluid = _JOB.fullmatch(rest[0]), _SLUID.fullmatch(rest[0])
        if job is None and sluid is None:
            continue
        step = _STEP.fullmatch(rest[1]) if len(rest) > 1 else None
        return Workload(
            source=Source.SLURM_JOB,
            job=rest[0] if job is None else job[1],
            step=None if step is None else step[1],
        )
    return None


def _is_user(segments: Sequence[str], position: int) -> bool:
    return position < len(segments) and re.fullmatch(r"uid_\d{1,10}", segments[position]) is not None


def _containers(segments: Sequence[str]) -> Iterator[tuple[int, str, str]]:
    """Yield (position, runtime, id) of each container along a path, the outermost first."""
    for position, segment in enumerate(segments):
        before = segments[position - 1] if position > 0 else ""
        named = _NAMED_CONTAINER.fullmatch(segment)
        if named is not None:
            if named[1] in _RUNTIMES:
                yield position, _RUNTIMES[named[1]], named[2]
        elif _BARE_CONTAINER.fullmatch(segment) is not None:
            # The path does not say whose: "oci" is any program that makes containers.
            yield position, _BARE_PARENTS.get(before, "oci"), segment
        elif segment.count(":") == 2 and ".slice:" in segment:
            # A runtime that asks for systemd's form and is given a plain directory (SLICE:RUNTIME:ID).
            _, program, identity = segment.split(":")
            if program in _RUNTIMES and _BARE_CONTAINER.fullmatch(identity) is not None:
                yield position, _RUNTIMES[program], identity
        else:
            other = _other_container(segment, before)
            if other is not None:
                yield position, *other


def _other_container(segment: str, before: str) -> tuple[str, str] | None:
    """Return (runtime, id) of a container whose id is no digest: LXC's name, Apptainer's pid."""
    lxc = _LXC.fullmatch(segment)
    if lxc is not None:
        return "lxc", lxc[1]
    scope = _APPTAINER_SCOPE.fullmatch(segment)
    if scope is not None:
        return scope[1], scope[2]
    if before == "lxc" and not segment.startswith("."):
        return "lxc", segment
    if before in ("apptainer", "singularity") and segment.isascii() and segment.isdigit():
        return before, segment
    return None


def _pod(segments: Sequence[str]) -> Workload | None:
    """A segment with `pod` and its uid, in the forms of both cgroup drivers, then the container's."""
    for position, segment in enumerate(segments):
        found = _POD.fullmatch(segment)
        if found is None:
            continue
        within = [item for item in _containers(segments) if item[0] >= position]
        return Workload(
            source=Source.POD,
            pod_uid=found[1].replace("_", "-"),
            runtime=within[0][1] if within else None,
            container_id=within[0][2] if within else None,
        )
    for _, runtime, container_id in _containers(segments):
        if runtime in _POD_RUNTIMES:
            return Workload(source=Source.POD, runtime=runtime, container_id=container_id)
    return None


def _container(segments: Sequence[str]) -> Workload | None:
    for _, runtime, container_id in _containers(segments):
        return Workload(source=Source.CONTAINER, runtime=runtime, container_id=container_id)
    return None


def _unit(segments: Sequence[str]) -> Workload | None:
    """The first service along a path; of a user's own manager the first below it. Scopes are sessions, and no unit."""
    manager_uid: int | None = None
    for segment in segments:
        if not segment.endswith(".service") or len(segment) == len(".service"):
            continue
        manager = _MANAGER.fullmatch(segment)
        if manager is not None:
            manager_uid = int(manager[1])
            continue
        return Workload(source=Source.UNIT, unit=segment, manager_uid=manager_uid)
    return None
