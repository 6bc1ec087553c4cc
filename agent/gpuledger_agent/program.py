# SPDX-License-Identifier: Apache-2.0
"""Puts the agent together from its parts and runs it; the only place where they meet."""

from __future__ import annotations

import fcntl
import logging
import os
import random
import socket
import stat
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from gpuledger.clock import Clock
from gpuledger.credentials import Keyring
from gpuledger.errors import GpuledgerError, StorageError
from gpuledger.process_rules import load_rules
from gpuledger.protection import make_access
from gpuledger.sealing import NameSealer, load_or_create_key, load_or_create_secret
from gpuledger.tls import TlsContexts
from gpuledger_agent import exits
from gpuledger_agent.attribution import attribute
from gpuledger_agent.config import AgentConfig, parse_listen
from gpuledger_agent.crash_file import CrashFile
from gpuledger_agent.driver import Ending
from gpuledger_agent.exporter import AgentCollector, registry_of
from gpuledger_agent.feed import Feed
from gpuledger_agent.floors_file import FLOORS_FILE, FloorsFile
from gpuledger_agent.holders import Holders
from gpuledger_agent.http import Guard, Service
from gpuledger_agent.journal import Journal
from gpuledger_agent.loop import Agent
from gpuledger_agent.nvml import Nvml
from gpuledger_agent.passthrough import PCI_BOOK, PassedThrough, PciBook, PciBus, VirtualMachines
from gpuledger_agent.process_hints import ProcessHints
from gpuledger_agent.processes import ProcessTable, ProcessTree, read_boot_id
from gpuledger_agent.push import Pusher
from gpuledger_agent.sealer import Sealer
from gpuledger_agent.server import Limits, Server, serve
from gpuledger_agent.witness import Witness, last_sealed

_log = logging.getLogger(__name__)

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
    sysfs: Path | None = None
    """Where GPUs in the hands of virtual machines are looked for."""
    libvirt: tuple[Path, ...] = ()
    process_tree: ProcessTree | None = None
    """Where it is looked up what the processes of workloads are; None: nowhere."""


class DevicesGone(GpuledgerError):
    """The devices of this container were taken away."""

    exit_code = 4


def run(config: AgentConfig, parts: Parts) -> None:
    """Run the agent until `parts.stop`; raises GpuledgerError where it cannot start.

    Where the driver came back in another version, the process runs its command again. Raises DevicesGone where every
    GPU answers nothing but unknown errors, for a restart.
    """
    lock = lock_state_dir(config.state_dir)
    try:
        ending, stuck_calls = _live(config, parts)
        if ending is Ending.DRIVER_CHANGED:
            _begin_anew(lock)
        if ending is Ending.DEVICES_GONE:
            raise DevicesGone(
                "every GPU answers every call with an unknown error: the devices of this container were taken away; "
                "restart the container"
            )
        if stuck_calls > 0:
            _log.warning("left_at_once", extra={"stuck_calls": stuck_calls})
            exits.leave_at_once(0)
    finally:
        os.close(lock)


def _begin_anew(lock: int) -> None:
    try:
        exits.begin_anew(lock)
    except OSError as exc:
        raise GpuledgerError(f"the driver changed, and this command cannot be run again: {exc.strerror}") from exc


def _live(config: AgentConfig, parts: Parts) -> tuple[Ending, int]:
    """Run one agent to its end; returns why it ended, and how many calls into the driver hang then."""
    key = load_or_create_key(config.state_dir / "key.pem")
    sealer_of_names = NameSealer(load_or_create_secret(config.state_dir / "names.secret"))
    journal = Journal(config.state_dir / "journal", round(config.journal_days * _DAY_MS), config.journal_bytes)
    node_name = socket.gethostname() if config.node_name is None else config.node_name
    boot_id = read_boot_id()
    witness = Witness(last_sealed(journal))
    hints = _process_hints(config, parts)
    holders, reservations = attribute(config, parts.processes, sealer_of_names, boot_id, hints)
    agent = Agent(
        config=config,
        node_name=node_name,
        boot_id=boot_id,
        clock=parts.clock,
        nvml=parts.nvml,
        holders=holders,
        journal=journal,
        sealer=Sealer(key, journal, CrashFile(config.state_dir / "open"), config.privacy, witness),
        reservations=reservations,
        is_catching_up=parts.is_catching_up,
        floors_file=FloorsFile(config.state_dir / FLOORS_FILE),
        passed_through=_passed_through(config, parts, holders, key.node_id),
    )
    feed = Feed(
        view=lambda: agent.view,
        journal=journal,
        key=key,
        node_name=node_name,
        is_simulated=parts.nvml.is_simulated,
        interval_ms=config.interval_ms,
        privacy=config.privacy,
        witness=witness,
    )
    pusher = open_push(config, feed, parts.clock)
    collector = AgentCollector(
        lambda: agent.view,
        key.node_id,
        node_name,
        config.interval_seconds,
        parts.nvml.is_simulated,
        pushed=None if pusher is None else lambda: pusher.figures,
    )
    service = Service(
        view=lambda: agent.view,
        feed=feed,
        interval_ms=config.interval_ms,
        clock=parts.clock,
        registry=registry_of(collector),
        witness=witness,
    )
    server = open_port(config, service)
    listen = f"{parse_listen(config.listen)[0]}:{server.server_port}"
    facts: dict[str, Any] = {"listen": listen, "node": node_name, "node_id": key.node_id}
    _log.info("agent_started", extra=facts | {"simulated": parts.nvml.is_simulated})
    if hints is not None:
        hints.start()
    if pusher is not None:
        pusher.start()
    try:
        ending = agent.run(parts.stop)
        if pusher is not None:
            pusher.finish()
    finally:
        server.shutdown()
        server.server_close()
    _log.info("agent_stopped", extra={"last_sequence": journal.last.sequence, "why": ending.value})
    return ending, agent.stuck_calls


def _process_hints(config: AgentConfig, parts: Parts) -> ProcessHints | None:
    """Return what looks at processes, None where nothing does; raises ConfigurationError for a site's rules."""
    table = load_rules(config.rules_file)
    if parts.process_tree is None or not config.are_processes_looked_at:
        return None
    return ProcessHints(parts.process_tree, table, is_inline=parts.nvml.is_simulated)


def _passed_through(config: AgentConfig, parts: Parts, holders: Holders, node_id: str) -> PassedThrough | None:
    if parts.sysfs is None:
        return None
    book = PciBook(config.state_dir / PCI_BOOK)
    return PassedThrough(PciBus(parts.sysfs), book, VirtualMachines(parts.libvirt), holders, node_id)


def open_push(config: AgentConfig, feed: Feed, clock: Clock) -> Pusher | None:
    """Return what pushes, None where nothing is pushed; raises ConfigurationError."""
    plan = config.push
    if plan is None:
        return None
    Keyring().proof(plan.credentials)  # What cannot be used is said before anything is begun.
    host = urlsplit(plan.url).hostname or ""
    if plan.url.startswith("http:") and host not in {"localhost", "127.0.0.1", "::1"}:
        _log.warning("push_unprotected", extra={"url": plan.url, "missing": "TLS"})
    return Pusher(plan, feed, clock, random.Random())  # noqa: S311 - spreads requests, guards nothing


def open_port(config: AgentConfig, service: Service) -> Server:
    """Serve as configured; raises ConfigurationError. Warns where others can reach the port and it is not protected."""
    files = config.tls
    tls = None if files is None else TlsContexts(files)
    access = make_access(config.basic_auth_users, config.bearer_tokens_file)
    guard = Guard(service, access, is_healthz_open=config.is_healthz_open)
    host, port = parse_listen(config.listen)
    limits = Limits(connections=config.http_connections, request_s=config.http_request_seconds)
    server = serve(host, port, guard, limits, tls)
    missing = config.missing_protection(str(server.server_address[0]))
    if missing:
        _log.warning("port_unprotected", extra={"listen": config.listen, "missing": " and ".join(missing)})
    return server


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
        inherited = exits.inherited_lock(directory / "lock")
        if inherited is not None:
            return inherited
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
