# SPDX-License-Identifier: Apache-2.0
"""Whom to poll, kept up to date while the collector runs: lists in files are watched, lists from URLs asked for again.

A list that cannot be had costs only itself: what it said last stands, the failure is counted and said once.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from gpuledger import __version__
from gpuledger.credentials import Keyring
from gpuledger.errors import ConfigurationError
from gpuledger_collector.target_documents import DOCUMENT_BYTES_MAX, TARGETS_MAX, Listed, parse_json, parse_yaml
from gpuledger_collector.targets import (
    FileList,
    Group,
    Target,
    TargetList,
    UrlList,
    make_targets,
    static_targets,
)

FILES_MAX = 1_000
TIMEOUT_S = 30.0
BACKOFF_S_MAX = 300.0
_DOUBLINGS_MAX = 16
_Stamp = tuple[int, int, int]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFigures:
    """How lists of targets are doing: by name whether the last look worked, and failures by (name, reason)."""

    up: Mapping[str, bool] = field(default_factory=dict)
    failures: Mapping[tuple[str, str], int] = field(default_factory=dict)
    refused: int = 0
    """Targets of the lists in force that cannot be polled."""


class _ListError(Exception):
    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


@dataclass(slots=True)
class _Kept:
    """What one list said last, and how it is doing."""

    group: Group
    source: TargetList
    listed: list[Listed] = field(default_factory=list)
    files: dict[str, tuple[_Stamp, list[Listed]]] = field(default_factory=dict)
    is_asked: bool = False
    failures: int = 0
    reason: str | None = None


class Discovery:
    """Keeps all lists; `on_change` is called with every target there is whenever that changes."""

    def __init__(
        self, groups: Sequence[Group], on_change: Callable[[Sequence[Target]], None], chance: random.Random
    ) -> None:
        self._groups, self._on_change, self._chance = groups, on_change, chance
        self._static = static_targets(groups)
        self._kept = [_Kept(group=group, source=source) for group in groups for source in group.lists]
        self._keyring = Keyring()
        self._failures: Counter[tuple[str, str]] = Counter()
        self._problems: tuple[str, ...] = ()
        self._targets: tuple[Target, ...] = self._static
        self._lock = asyncio.Lock()

    @property
    def is_complete(self) -> bool:
        """Return whether every list was looked at once, with or without success."""
        return all(kept.is_asked for kept in self._kept)

    def figures(self) -> SourceFigures:
        return SourceFigures(
            up={kept.source.name: kept.reason is None for kept in self._kept if kept.is_asked},
            failures=dict(self._failures),
            refused=len(self._problems),
        )

    async def run(self) -> None:
        """Keep the lists up to date until cancelled."""
        async with self._session() as session, asyncio.TaskGroup() as tasks:
            for kept in self._kept:
                tasks.create_task(self._follow(session, kept))
            tasks.create_task(asyncio.Event().wait())

    async def _follow(self, session: aiohttp.ClientSession, kept: _Kept) -> None:
        while True:
            delay_s = await self.look(session, kept)
            await asyncio.sleep(delay_s)

    def _session(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(force_close=True),
            timeout=aiohttp.ClientTimeout(total=TIMEOUT_S),
            # Without compression the limit on the body is a limit on memory too.
            headers={
                "Accept": "application/json",
                "Accept-Encoding": "identity",
                "User-Agent": f"gpuledger/{__version__}",
            },
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    # ------------------------------------------------------------------------------------------ one list

    async def look(self, session: aiohttp.ClientSession, kept: _Kept) -> float:
        """Look at one list, and return after how many seconds to look again."""
        source, before = kept.source, kept.listed
        error: _ListError | None = None
        try:
            if isinstance(source, FileList):
                kept.listed, error = await asyncio.to_thread(_read_files, source, kept.files)
            else:
                kept.listed = await self._fetch(session, source)
        except _ListError as exc:
            error = exc
        if error is None:
            self._note_success(kept)
            delay_s = source.refresh_s * self._chance.uniform(0.9, 1.1)
        else:
            delay_s = self._note_failure(kept, error)
        if not kept.is_asked or kept.listed != before:
            kept.is_asked = True
            await self._publish()
        return delay_s

    async def _fetch(self, session: aiohttp.ClientSession, source: UrlList) -> list[Listed]:
        try:
            proof = self._keyring.proof(source.credentials)
        except ConfigurationError as exc:
            raise _ListError("credentials", f"is not asked: {exc}") from exc
        body = bytearray()
        try:
            async with session.get(
                source.url,
                allow_redirects=False,
                ssl=True if proof.context is None else proof.context,
                headers=proof.headers,
                server_hostname=proof.server_name,
            ) as response:
                if response.status != 200:
                    raise _ListError("http_status", f"answers with HTTP status {response.status}")
                async for chunk in response.content.iter_any():
                    body += chunk
                    if len(body) > DOCUMENT_BYTES_MAX:
                        raise _ListError("too_large", f"sends more than {DOCUMENT_BYTES_MAX} bytes")
        except TimeoutError as exc:
            raise _ListError("timeout", f"did not answer within {TIMEOUT_S:g} s") from exc
        except (aiohttp.ClientError, OSError, ValueError) as exc:
            raise _ListError("unreachable", f"cannot be asked: {' '.join(str(exc).split())[:200]}") from exc
        meta = {"__meta_url": source.name}
        return _parsed(bytes(body), source.name, meta, is_json=True)

    def _note_failure(self, kept: _Kept, error: _ListError) -> float:
        source = kept.source
        self._failures[source.name, error.reason] += 1
        kept.failures += 1
        if kept.reason != error.reason:
            facts = {"list": source.name, "reason": error.reason, "text": f"{source.name}: {error}"}
            logger.warning("target_list_failed", extra=facts)
        kept.reason = error.reason
        if isinstance(source, FileList):
            return source.refresh_s  # Looking at a file costs little, and somebody may be mending it.
        delay_s: float = source.refresh_s * 2 ** min(kept.failures - 1, _DOUBLINGS_MAX)
        return min(delay_s, max(BACKOFF_S_MAX, source.refresh_s)) * self._chance.uniform(0.75, 1.0)

    def _note_success(self, kept: _Kept) -> None:
        if kept.reason is not None:
            logger.info("target_list_recovered", extra={"list": kept.source.name, "failures": kept.failures})
        kept.failures, kept.reason = 0, None

    # ------------------------------------------------------------------------------------------ all lists

    async def _publish(self) -> None:
        """Work out all targets anew and hand them on if they have changed."""
        async with self._lock:
            targets, problems = await asyncio.to_thread(self._resolve)
            if problems != self._problems and problems:
                logger.warning("targets_refused", extra={"targets": len(problems), "first": problems[0]})
            self._problems = problems
            if targets != self._targets:
                before, after = set(self._targets), set(targets)
                counts = {"targets": len(after), "added": len(after - before), "removed": len(before - after)}
                logger.info("targets_changed", extra=counts)
                self._targets = targets
            self._on_change(targets)

    def _resolve(self) -> tuple[tuple[Target, ...], tuple[str, ...]]:
        """Return all targets, each address once (the first counts), and what is wrong with the others."""
        found = {target.url: target for target in self._static}
        problems: list[str] = []
        for kept in self._kept:
            targets, wrong = make_targets(kept.group, list(kept.listed), kept.source.name)
            problems += wrong
            for target in targets:
                if target.url not in found and len(found) >= TARGETS_MAX:
                    problems.append(f"{kept.source.name}: {target.url}: more than {TARGETS_MAX} targets in all")
                    continue
                found.setdefault(target.url, target)
        return tuple(found.values()), tuple(problems)


# ---------------------------------------------------------------------------------------------- files


def _read_files(
    source: FileList, known: dict[str, tuple[_Stamp, list[Listed]]]
) -> tuple[list[Listed], _ListError | None]:
    """Return what all files of the path list, and what is wrong with one of them; `known` is brought up to date.

    Only files that have changed are read. Of one that cannot be used, what it said last stands. A file of a pattern
    that is gone lists nothing any more; one named by itself is missed.
    """
    is_pattern = any(character in source.path.name for character in "*?[")
    paths = sorted(source.path.parent.glob(source.path.name)) if is_pattern else [source.path]
    error = _ListError("too_large", f"more than {FILES_MAX} files") if len(paths) > FILES_MAX else None
    paths = paths[:FILES_MAX]
    for gone in known.keys() - {str(path) for path in paths}:
        del known[gone]
    for path in paths:
        try:
            _read_file(path, known)
        except _ListError as exc:
            error = exc
    return [listed for path in paths if str(path) in known for listed in known[str(path)][1]], error


def _read_file(path: Path, known: dict[str, tuple[_Stamp, list[Listed]]]) -> None:
    try:
        status = path.stat()
        stamp = status.st_ino, status.st_mtime_ns, status.st_size
        if str(path) in known and known[str(path)][0] == stamp:
            return
        with path.open("rb") as file:
            data = file.read(DOCUMENT_BYTES_MAX + 1)
    except OSError as exc:
        raise _ListError("unreadable", f"{path}: cannot be read: {exc.strerror}") from exc
    meta = {"__meta_filepath": str(path)}
    known[str(path)] = stamp, _parsed(data, str(path), meta, is_json=path.suffix == ".json")


def _parsed(data: bytes, where: str, meta: Mapping[str, str], *, is_json: bool) -> list[Listed]:
    try:
        listed = parse_json(data, where) if is_json else parse_yaml(data, where)
    except ConfigurationError as exc:
        raise _ListError("invalid", str(exc)) from exc
    return [Listed(address=item.address, labels={**meta, **item.labels}) for item in listed]
