# SPDX-License-Identifier: Apache-2.0
"""What workloads are called: one text for each, built by agents and taken apart by whoever opens its digest.

    slurm:JOB                       slurm:CLUSTER/JOB where the agent was told its cluster
    pod:NAMESPACE/POD/CONTAINER     pod:UID/ID where the names of the pod are not known; UID may be ?
    container:RUNTIME/ID
    unit:NAME                       unit:user@UID.service/NAME for a unit of a user's own manager
    process:NAME/PID@START          START is seconds since the node's boot; process:?/PID where it is not visible
    lease:HOLDER

IDs of containers are cut to 12 characters, as their programs print them. A name is what a digest is of, so it must come
out the same whenever it is built; a form that changes makes a new workload of every one that it names.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

CONTAINER_ID_CHARACTERS = 12
UNKNOWN = "?"
_LABEL_CHARACTERS_MAX = 64
"""Kubernetes lets namespaces and containers have 63, and Slurm's names are short."""
_POD_CHARACTERS_MAX = 120
_LONG_CHARACTERS_MAX = 200
_MARK_CHARACTERS = 8
_PREFIXES = {
    "slurm": "slurm_job",
    "pod": "pod",
    "container": "container",
    "unit": "unit",
    "process": "process",
    "lease": "lease",
}
_FORMS = {
    "slurm": re.compile(r"(?:([^/]+)/)?([^/]+)"),
    "pod": re.compile(r"([^/]+)/(?:([^/]+)/)?([^/]+)"),
    "container": re.compile(r"([^/]+)/([^/]+)"),
    "unit": re.compile(r"(?:user@(\d+)\.service/)?([^/]+)"),
    "process": re.compile(r"(.*)/(\d+)(?:@(\d+\.\d\d))?"),
    "lease": re.compile(r"(.+)"),
}


@dataclass(frozen=True, slots=True)
class WorkloadName:
    """A name taken apart: its source, one of WORKLOAD_SOURCES, and its parts in the order of the form.

    A part that a form leaves out is None: (cluster, job), (namespace or uid, pod, container or id), (runtime, id),
    (uid of the user's manager, unit), (name, pid, start), (holder,).
    """

    source: str
    parts: tuple[str | None, ...]


def parse(text: str) -> WorkloadName | None:
    """Return the parts of a name, or None where it has none of the forms (`rest`, say, or an older agent's)."""
    prefix, _, rest = text.partition(":")
    form = _FORMS.get(prefix)
    found = None if form is None else form.fullmatch(rest)
    return None if found is None else WorkloadName(_PREFIXES[prefix], found.groups())


def slurm_job(job: str, cluster: str | None = None) -> str:
    """Return a Slurm job's name: of its raw job id, which is what tasks of arrays and parts of het jobs have."""
    return f"slurm:{_part(job)}" if cluster is None else f"slurm:{_part(cluster)}/{_part(job)}"


def pod(namespace: str, name: str, container: str) -> str:
    """Return the name of a container of a pod; it stays the same when the pod is made anew under its name."""
    return f"pod:{_part(namespace)}/{_part(name, _POD_CHARACTERS_MAX)}/{_part(container)}"


def pod_by_uid(uid: str | None, container_id: str | None) -> str:
    """Return the name of a container of a pod whose own name is not known."""
    return f"pod:{UNKNOWN if uid is None else _part(uid)}/{_short(container_id)}"


def container(runtime: str, container_id: str) -> str:
    """Return the name of a container that belongs to no pod."""
    return f"container:{_part(runtime)}/{_short(container_id)}"


def unit(name: str, manager_uid: int | None = None) -> str:
    """Return a systemd unit's name; `manager_uid` is the user whose own manager runs it."""
    manager = "" if manager_uid is None else f"user@{manager_uid}.service/"
    return f"unit:{manager}{_part(name, _LONG_CHARACTERS_MAX)}"


def process(name: str, pid: int, started_s: float) -> str:
    """Return a process' name; `started_s` is seconds since boot, as the kernel counts them: in hundredths."""
    return f"process:{_cut(name, _LONG_CHARACTERS_MAX)}/{pid}@{started_s:.2f}"


def process_not_visible(pid: int) -> str:
    """Return the name of a process that is known by its pid alone."""
    return f"process:{UNKNOWN}/{pid}"


def lease(holder: str) -> str:
    """Return the name of who holds a lease."""
    return f"lease:{_cut(holder or UNKNOWN, _LONG_CHARACTERS_MAX)}"


def _short(container_id: str | None) -> str:
    return UNKNOWN if container_id is None else _part(container_id[:CONTAINER_ID_CHARACTERS])


def _part(text: str, characters_max: int = _LABEL_CHARACTERS_MAX) -> str:
    """Return a text as a part between slashes: none of its own, not empty, and not too long."""
    return _cut(text.replace("/", UNKNOWN) or UNKNOWN, characters_max)


def _cut(text: str, characters_max: int) -> str:
    # What is cut off may be all that tells two apart (pods of one owner), so a mark of the whole takes its place.
    if len(text) <= characters_max:
        return text
    mark = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:_MARK_CHARACTERS]
    return f"{text[: characters_max - _MARK_CHARACTERS - 1]}~{mark}"
