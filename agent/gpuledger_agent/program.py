# SPDX-License-Identifier: Apache-2.0
"""Puts the agent together from its parts and runs it; the only place where they meet."""

from __future__ import annotations

import fcntl
import ipaddress
import logging
import os
import socket
import stat
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpuledger.clock import Clock
from gpuledger.errors import StorageError
from gpuledger.sealing import NameSealer, load_or_create_key, load_or_create_secret
from gpuledger_agent.access import Access, Passwords, Tokens
from gpuledger_agent.config import AgentConfig, parse_listen
from gpuledger_agent.crash_file import CrashFile
from gpuledger_agent.exporter import AgentCollector, registry_of
from gpuledger_agent.holders import Holders
from gpuledger_agent.http import Guard, Service
from gpuledger_agent.journal import Journal
from gpuledger_agent.loop import Agent
from gpuledger_agent.nvml import Nvml
from gpuledger_agent.processes import ProcessTable
from gpuledger_agent.sealer import Sealer
from gpuledger_agent.server import Limits, Server, serve
from gpuledger_agent.tls import TlsContexts
from gpuledger_agent.witness import Witness, last_sealed

_log = logging.getLogger(__name__)

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_DAY_MS = 86_400_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What differs between the real node and a simulated one."""

    clock: Clock
    nvml: Nvml
    processes: ProcessTable
    stop: threading.Event
    is_catching_up: Callable[[], bool] = lambda: False
    """Whether a simulated past is being played: then an hour of sealed cells shares one fsync."""


def run(config: AgentConfig, parts: Parts) -> None:
    """Run the agent until `parts.stop`; raises GpuledgerError where it cannot start."""
    lock = lock_state_dir(config.state_dir)
    try:
        key = load_or_create_key(config.state_dir / "key.pem")
        sealer_of_names = NameSealer(load_or_create_secret(config.state_dir / "names.secret"))
        journal = Journal(config.state_dir / "journal", round(config.journal_days * _DAY_MS), config.journal_bytes)
        node_name = socket.gethostname() if config.node_name is None else config.node_name
        holders = Holders(
            parts.processes, sealer_of_names, os.getpid(), config.operator_users, config.operator_executables
        )
        witness = Witness(last_sealed(journal))
        sealer = Sealer(key, journal, CrashFile(config.state_dir / "open"), witness)
        agent = Agent(
            config=config,
            node_name=node_name,
            boot_id=_boot_id(),
            clock=parts.clock,
            nvml=parts.nvml,
            holders=holders,
            journal=journal,
            sealer=sealer,
            is_catching_up=parts.is_catching_up,
        )
        collector = AgentCollector(
            lambda: agent.view, key.node_id, node_name, config.interval_seconds, parts.nvml.is_simulated
        )
        service = Service(
            view=lambda: agent.view,
            journal=journal,
            key=key,
            node_name=node_name,
            is_simulated=parts.nvml.is_simulated,
            interval_ms=config.interval_ms,
            clock=parts.clock,
            registry=registry_of(collector),
            witness=witness,
        )
        server = open_port(config, service)
        listen = f"{parse_listen(config.listen)[0]}:{server.server_port}"
        facts: dict[str, Any] = {"listen": listen, "node": node_name, "node_id": key.node_id}
        _log.info("agent_started", extra=facts | {"simulated": parts.nvml.is_simulated})
        try:
            agent.run(parts.stop)
        finally:
            server.shutdown()
            server.server_close()
        _log.info("agent_stopped", extra={"last_sequence": journal.last.sequence})
    finally:
        os.close(lock)


def open_port(config: AgentConfig, service: Service) -> Server:
    """Serve as configured; raises ConfigurationError. Warns where others can reach the port and it is not protected."""
    files = config.tls
    tls = None if files is None else TlsContexts(files)
    access = Access(
        Passwords(dict(config.basic_auth_users)) if config.basic_auth_users else None,
        None if config.bearer_tokens_file is None else Tokens(config.bearer_tokens_file),
    )
    guard = Guard(service, access, is_healthz_open=config.is_healthz_open)
    host, port = parse_listen(config.listen)
    limits = Limits(connections=config.http_connections, request_s=config.http_request_seconds)
    server = serve(host, port, guard, limits, tls)
    missing = missing_protection(config, str(server.server_address[0]))
    if missing:
        _log.warning("port_unprotected", extra={"listen": config.listen, "missing": " and ".join(missing)})
    return server


def missing_protection(config: AgentConfig, address: str) -> tuple[str, ...]:
    """Return what a port on `address` (numeric) lacks; a port that only this machine reaches lacks nothing."""
    if ipaddress.ip_address(address).is_loopback:
        return ()
    files = config.tls
    is_login = bool(config.basic_auth_users) or config.bearer_tokens_file is not None
    is_mutual = files is not None and files.client_auth_type == "RequireAndVerifyClientCert"
    wanted = (("TLS", files is not None), ("a login", is_login or is_mutual))
    return tuple(name for name, is_there in wanted if not is_there)


def lock_state_dir(directory: Path) -> int:
    """Create the directory with mode 0700 and lock it for this process; returns the lock's descriptor.

    Raises StorageError where it cannot be used, others may write to it, or another agent has it.
    """
    try:
        if directory.exists() and not directory.is_dir():
            raise StorageError(f"{directory}: the state directory is not a directory")
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        mode = stat.S_IMODE(directory.stat().st_mode)
        if mode & 0o022:
            raise StorageError(f"{directory}: mode {mode:04o} lets others write to the state directory; set it to 0700")
        descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as exc:
        raise StorageError(f"{exc.filename or directory}: cannot use the state directory: {exc.strerror}") from exc
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as exc:
        os.close(descriptor)
        raise StorageError(f"{directory}: another gpuledger agent is running on this state directory") from exc
    except OSError as exc:
        os.close(descriptor)
        raise StorageError(f"{directory}: cannot lock the state directory: {exc.strerror}") from exc
    return descriptor


def _boot_id() -> str:
    with suppress(OSError):
        return _BOOT_ID.read_text(encoding="ascii").strip()
    return "unknown"
