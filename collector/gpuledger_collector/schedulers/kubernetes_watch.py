# SPDX-License-Identifier: Apache-2.0
"""The door to a Kubernetes API server: pods and nodes are listed once and then watched, one connection each.

Kept of each object is only what `kubernetes.read_cluster` reads. A watch that ends goes on from where it was; one that
is told that its place is gone (410) lists again; failures back off. No client library: the one there is takes 160 MB
for two GET requests.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from gpuledger.clock import Clock
from gpuledger.errors import ConfigurationError
from gpuledger_collector.schedulers.kubernetes import read_cluster
from gpuledger_collector.schedulers.view import ClusterView, short_reason

_log = logging.getLogger(__name__)

PAGE_OBJECTS = 500
OBJECTS_MAX = 500_000
OBJECT_BYTES_MAX = 4 << 20
WATCH_S = 300
BACK_OFF_S_FIRST, BACK_OFF_S_MAX = 1.0, 60.0
SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_PATHS = {"pods": "/api/v1/pods", "nodes": "/api/v1/nodes"}
_GONE = 410


@dataclass(frozen=True, slots=True, kw_only=True)
class KubernetesCluster:
    """One cluster: the API server's address, who it must be, and the token to show (read anew for each request)."""

    name: str
    server: str = "https://kubernetes.default.svc"
    ca_file: Path | None = SERVICE_ACCOUNT / "ca.crt"
    token_file: Path | None = SERVICE_ACCOUNT / "token"


class _Expired(Exception):
    """The server no longer knows the place from which the watch goes on."""


class _Refused(Exception):
    """The server answered something else than what was asked for; the text says what."""


@dataclass(slots=True)
class _Kept:
    """What is kept of one kind of object, and from where its watch goes on."""

    objects: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    version: str | None = None
    is_listed: bool = False
    trouble: str | None = None


class KubernetesWatch:
    """Keeps pods and nodes of one cluster; `run` for as long as it shall."""

    def __init__(self, cluster: KubernetesCluster, clock: Clock, chance: Callable[[], float] = random.random) -> None:
        self._cluster, self._clock, self._chance = cluster, clock, chance
        self._kept = {kind: _Kept() for kind in _PATHS}

    @property
    def trouble(self) -> str | None:
        """Return why the view is not up to date, in one sentence; None while both watches run."""
        return next((kept.trouble for kept in self._kept.values() if kept.trouble is not None), None)

    def view(self) -> ClusterView | None:
        """Return the cluster as far as it is known now; None until pods and nodes were listed once."""
        pods, nodes = self._kept["pods"], self._kept["nodes"]
        if not pods.is_listed or not nodes.is_listed:
            return None
        now_ms = self._clock.wall_ns() // 1_000_000
        return read_cluster(self._cluster.name, now_ms, pods.objects.values(), nodes.objects.values())

    async def run(self) -> None:
        """List and watch until cancelled; raises ConfigurationError where the certificates cannot be used."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=WATCH_S + 30)
        connector = aiohttp.TCPConnector(ssl=self._tls())
        async with (
            aiohttp.ClientSession(self._cluster.server, timeout=timeout, connector=connector) as session,
            asyncio.TaskGroup() as group,
        ):
            for kind in _PATHS:
                group.create_task(self._keep(session, kind))

    def _tls(self) -> ssl.SSLContext | bool:
        if not self._cluster.server.startswith("https:") or self._cluster.ca_file is None:
            return True
        try:
            return ssl.create_default_context(cafile=str(self._cluster.ca_file))
        except (OSError, ssl.SSLError) as exc:
            raise ConfigurationError(f"{self._cluster.ca_file}: cannot be used as certificates: {exc}") from exc

    async def _keep(self, session: aiohttp.ClientSession, kind: str) -> None:
        kept, wait_s = self._kept[kind], BACK_OFF_S_FIRST
        while True:
            try:
                if kept.version is None:
                    await self._list(session, kind)
                self._say(kind, None)
                await self._watch(session, kind)
                wait_s = BACK_OFF_S_FIRST
            except _Expired:
                kept.version = None
                continue
            except (aiohttp.ClientError, OSError, TimeoutError, _Refused) as exc:
                self._say(kind, str(exc) or type(exc).__name__)
                await asyncio.sleep(wait_s * (0.5 + self._chance() / 2))
                wait_s = min(2 * wait_s, BACK_OFF_S_MAX)

    def _say(self, kind: str, why: str | None) -> None:
        kept = self._kept[kind]
        text = None if why is None else f"{kind} of cluster {self._cluster.name}: {short_reason(why)}"
        if text is not None and kept.trouble is None:
            _log.warning("kubernetes_unavailable", extra={"why": text})
        elif text is None and kept.trouble is not None:
            _log.info("kubernetes_recovered", extra={"kind": kind, "cluster": self._cluster.name})
        kept.trouble = text

    # ------------------------------------------------------------------------------------------ requests

    def _headers(self) -> dict[str, str]:
        if self._cluster.token_file is None:
            return {}
        return {
            "Authorization": f"Bearer {self._cluster.token_file.read_text(encoding='utf-8', errors='replace').strip()}"
        }

    async def _list(self, session: aiohttp.ClientSession, kind: str) -> None:
        """Replace what is kept by a whole list, which takes as many requests as it has pages."""
        objects: dict[str, Mapping[str, Any]] = {}
        parameters = {"limit": str(PAGE_OBJECTS)}
        while True:
            async with session.get(_PATHS[kind], params=parameters, headers=self._headers()) as answer:
                _check_status(answer.status)
                document = _object(await answer.read())
            for item in _mappings(document.get("items")):
                _put(objects, item, kind)
            metadata = _mapping(document.get("metadata"))
            if not metadata.get("continue"):
                break
            parameters["continue"] = str(metadata["continue"])
        kept = self._kept[kind]
        kept.objects, kept.version, kept.is_listed = objects, str(metadata.get("resourceVersion") or "0"), True

    async def _watch(self, session: aiohttp.ClientSession, kind: str) -> None:
        """Take in changes until the server ends the watch."""
        kept = self._kept[kind]
        parameters = {
            "watch": "1",
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(WATCH_S),
            "resourceVersion": str(kept.version),
        }
        async with session.get(
            _PATHS[kind], params=parameters, headers=self._headers(), max_line_size=OBJECT_BYTES_MAX
        ) as answer:
            _check_status(answer.status)
            async for line in _lines(answer.content):
                self._take(kind, _object(line))

    def _take(self, kind: str, event: Mapping[str, Any]) -> None:
        kept, what, item = self._kept[kind], event.get("type"), event.get("object")
        if not isinstance(item, Mapping):
            raise _Refused("a watch event without an object")
        if what == "ERROR":
            if item.get("code") == _GONE:
                raise _Expired
            raise _Refused(f"the watch ended with {item.get('code')}: {item.get('message')}")
        if what == "DELETED":
            kept.objects.pop(_identity(item), None)
        elif what in ("ADDED", "MODIFIED"):
            _put(kept.objects, item, kind)
        version = _mapping(item.get("metadata")).get("resourceVersion")
        if version:
            kept.version = str(version)


async def _lines(stream: aiohttp.StreamReader) -> Any:
    rest = b""
    async for chunk in stream.iter_any():
        *lines, rest = (rest + chunk).split(b"\n")
        if len(rest) > OBJECT_BYTES_MAX:
            raise _Refused(f"an object of more than {OBJECT_BYTES_MAX} bytes")
        for line in lines:
            if line.strip():
                yield line


def _check_status(status: int) -> None:
    if status == _GONE:
        raise _Expired
    if status != 200:
        hint = {401: " (the token is not accepted)", 403: " (its account may not list and watch this)"}.get(status, "")
        raise _Refused(f"the API server answers {status}{hint}")


def _object(data: bytes) -> Mapping[str, Any]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as exc:
        raise _Refused("the API server answers what is not JSON") from exc
    if not isinstance(value, dict):
        raise _Refused("the API server answers what is no object")
    return value


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _mappings(value: object) -> list[Mapping[str, Any]]:
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []


def _identity(item: Mapping[str, Any]) -> str:
    metadata = _mapping(item.get("metadata"))
    return f"{metadata.get('namespace')}/{metadata.get('name')}/{metadata.get('uid')}"


def _put(objects: dict[str, Mapping[str, Any]], item: Mapping[str, Any], kind: str) -> None:
    if len(objects) >= OBJECTS_MAX:
        raise _Refused(f"more than {OBJECTS_MAX} {kind}")
    objects[_identity(item)] = _slim(item)


def _slim(item: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what is read of a pod or node; the rest of it, environments above all, is not kept."""
    metadata, spec, status = (_mapping(item.get(key)) for key in ("metadata", "spec", "status"))
    containers = {
        key: [_slim_container(one) for one in _mappings(spec[key])]
        for key in ("containers", "initContainers")
        if key in spec
    }
    conditions = [one for one in _mappings(status.get("conditions")) if one.get("type") in ("Ready", "PodScheduled")]
    return {
        "metadata": {
            **_some(metadata, "namespace", "name", "creationTimestamp", "ownerReferences"),
            "labels": _some(_mapping(metadata.get("labels")), "pod-template-hash"),
        },
        "spec": {**_some(spec, "nodeName", "unschedulable", "taints"), **containers},
        "status": {**_some(status, "phase", "startTime"), "conditions": conditions},
    }


def _slim_container(container: Mapping[str, Any]) -> Mapping[str, Any]:
    limits = _mapping(_mapping(container.get("resources")).get("limits"))
    return {**_some(container, "restartPolicy"), "resources": {"limits": limits}}


def _some(value: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value[key] for key in keys if key in value}
