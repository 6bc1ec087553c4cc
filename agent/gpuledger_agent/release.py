# SPDX-License-Identifier: Apache-2.0
"""`gpuledger agent release` and `resume`: two small files in the state directory, one from each side.

Who may write to the state directory may ask; nobody else can. The request outlives a restart of the agent, so a driver
is not taken up again in the middle of its upgrade; it ends by itself unless it was asked not to.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import secrets
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpuledger.clock import Clock
from gpuledger.errors import GpuledgerError, StorageError

_log = logging.getLogger(__name__)

RELEASE_SECONDS = 900
RELEASE_SECONDS_MAX = 7 * 86_400
REQUEST_BYTES_MAX = 4096
ANSWER_MS = 30_000
"""How long a command waits for the agent, beside two of its intervals."""
_LOOK_MS = 50
_REQUEST, _STATE = "release", "driver"
_NS = 1_000_000


class NotReleased(GpuledgerError):
    """The agent runs and did not let go of the driver."""

    exit_code = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One wish: the driver let go of from `asked_ms` (POSIX) on, for `for_ms` (None: until it is resumed)."""

    name: str
    asked_ms: int
    for_ms: int | None


class ReleaseDesk:
    """The agent's side: reads the request, and tells how it stands with the driver."""

    def __init__(self, directory: Path, clock: Clock, interval_ms: int) -> None:
        self._request_path = directory / _REQUEST
        self._state_path = directory / _STATE
        self._clock = clock
        self._interval_ms = interval_ms
        self._signature: tuple[int, int] | None = None
        self._request: Request | None = None
        self._until_ns: int | None = None
        self._told: dict[str, Any] | None = None

    def is_wanted(self, boottime_ns: int) -> bool:
        """Return whether the driver is to be let go of now; a request that has run out is withdrawn."""
        self._read(boottime_ns)
        if self._request is None:
            return False
        if self._until_ns is None or boottime_ns < self._until_ns:
            return True
        _log.warning("release_ran_out", extra={"after_s": (self._request.for_ms or 0) / 1000})
        with suppress(OSError):
            self._request_path.unlink()
        self._request = None
        return False

    def tell(self, state: str) -> None:
        """Say how it stands, for the commands that wait for it; only a change is written."""
        request = None if self._request is None else self._request.name
        told = {"state": state, "request": request, "pid": os.getpid(), "interval_ms": self._interval_ms}
        if told == self._told:
            return
        self._told = told
        try:
            _write(self._state_path, told)
        except OSError as exc:
            _log.warning("state_not_told", extra={"why": f"{self._state_path}: {exc.strerror}"})

    def _read(self, boottime_ns: int) -> None:
        try:
            status = self._request_path.stat()
        except OSError:
            self._signature, self._request = None, None
            return
        signature = (status.st_ino, status.st_mtime_ns)
        if signature == self._signature:
            return
        self._signature = signature
        request = self._request = _read_request(self._request_path)
        if request is None:
            _log.error("release_refused", extra={"why": f"{self._request_path}: not a request of this version"})
            return
        self._until_ns = None
        if request.for_ms is not None:
            # By the wall clock, since the request may be older than this process; by a clock that never steps then on.
            passed_ms = self._clock.wall_ns() // _NS - request.asked_ms
            left_ms = min(max(request.for_ms - passed_ms, 0), request.for_ms)
            self._until_ns = boottime_ns + left_ms * _NS


# ---------------------------------------------------------------------------------------------- the commands' side


def ask_release(directory: Path, clock: Clock, for_s: float | None) -> str:
    """Ask the agent on `directory` to let go of the driver, and wait until it has; returns a sentence.

    Raises StorageError where no agent runs there, NotReleased where it runs and does not let go.
    """
    _require_agent(directory)
    request = {"name": secrets.token_hex(8), "asked_ms": clock.wall_ns() // _NS}
    if for_s is not None:
        request["for_ms"] = round(for_s * 1000)
    try:
        _write(directory / _REQUEST, request)
    except OSError as exc:
        raise StorageError(f"{directory}: cannot write the request: {exc.strerror}") from exc
    told = _wait(directory, clock, lambda told: told["request"] == request["name"] and told["state"] == "released")
    if told["request"] == request["name"] and told["state"] == "released":
        end = "until `gpuledger agent resume`" if for_s is None else f"for {for_s:g} s, or until it is resumed"
        return f"the agent (pid {told['pid']}) has let go of the driver, {end}"
    if told["state"] == "hung":
        raise NotReleased("a call to the driver hangs, so the agent cannot let go of it; it will when the call returns")
    raise NotReleased(f"the agent (pid {told['pid']}) has not answered; it will let go of the driver at its next tick")


def ask_resume(directory: Path, clock: Clock) -> str:
    """Withdraw a release, and wait until the agent has taken the driver up, or cannot; returns a sentence."""
    try:
        (directory / _REQUEST).unlink()
        was_released = True
    except FileNotFoundError:
        was_released = False
    except OSError as exc:
        raise StorageError(f"{directory}: cannot withdraw the request: {exc.strerror}") from exc
    _require_agent(directory)
    if not was_released:
        return "the agent was not asked to let go of the driver"
    told = _wait(directory, clock, lambda told: told["state"] not in ("released", "hung"))
    if told["state"] == "attached":
        return f"the agent (pid {told['pid']}) has taken the driver up again"
    if told["state"] in ("released", "hung"):
        raise NotReleased(
            f"the agent (pid {told['pid']}) has not answered; it will take the driver up at its next tick"
        )
    return f"the agent (pid {told['pid']}) tries to take the driver up again; see driver_unavailable in its log"


def _require_agent(directory: Path) -> None:
    """Raise StorageError unless an agent holds the lock of the directory."""
    try:
        descriptor = os.open(directory / "lock", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as exc:
        raise StorageError(f"{directory}: no agent runs on this state directory ({exc.strerror})") from exc
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    finally:
        os.close(descriptor)
    raise StorageError(f"{directory}: no agent runs on this state directory")


def _wait(directory: Path, clock: Clock, is_so: Any) -> dict[str, Any]:
    """Return what the agent says as soon as it is so, or when it has taken too long."""
    begin_ns = clock.boottime_ns()
    while True:
        told = _read_state(directory / _STATE)
        passed_ms = (clock.boottime_ns() - begin_ns) // _NS
        if is_so(told) or passed_ms > ANSWER_MS + 2 * int(told["interval_ms"]):
            return told
        clock.wait_until(clock.boottime_ns() + _LOOK_MS * _NS)


def _read_state(path: Path) -> dict[str, Any]:
    told = {"state": "unknown", "request": None, "pid": "?", "interval_ms": 0}
    with suppress(OSError, ValueError):
        found = json.loads(path.read_bytes())
        if isinstance(found, dict):
            told |= {key: found[key] for key in told if key in found}
    return told


def _read_request(path: Path) -> Request | None:
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        data = path.read_bytes()
        value = json.loads(data) if len(data) <= REQUEST_BYTES_MAX else {}
        for_ms = value.get("for_ms")
        return Request(
            name=str(value["name"]), asked_ms=int(value["asked_ms"]), for_ms=None if for_ms is None else int(for_ms)
        )
    return None


def _write(path: Path, document: dict[str, Any]) -> None:
    """Replace a file whole, for the directory's owner; raises OSError."""
    # Root may write into a directory that is somebody else's: the name is new, and no link is followed.
    new = path.with_name(f"{path.name}.{secrets.token_hex(8)}.new")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(new, flags, 0o600)
    try:
        owner = path.parent.stat()
        if owner.st_uid != os.geteuid():
            os.fchown(descriptor, owner.st_uid, owner.st_gid)
        os.write(descriptor, json.dumps(document).encode("ascii") + b"\n")
        new.replace(path)
    except OSError:
        new.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)
