# SPDX-License-Identifier: Apache-2.0
"""Puts the collector together from its parts and runs it; the only place where they meet."""

from __future__ import annotations

import asyncio
import base64
import logging
import os
import random
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gpuledger import __version__
from gpuledger.clock import Clock, SystemClock
from gpuledger.credentials import Keyring
from gpuledger.errors import StorageError
from gpuledger.protection import make_access
from gpuledger.tls import TlsContexts
from gpuledger_collector.answers import Answered, Cursor, Outcome
from gpuledger_collector.api import answers
from gpuledger_collector.arrivals import Arrivals
from gpuledger_collector.batch import BatchResult, Offer
from gpuledger_collector.beside import Place
from gpuledger_collector.config import CollectorConfig
from gpuledger_collector.configuration import ConfigurationRecord
from gpuledger_collector.http import Port, Server, open_listener
from gpuledger_collector.issue.clerk import TURN_S, Clerk
from gpuledger_collector.issue.plan import Plan
from gpuledger_collector.issue.plan_files import load_plan
from gpuledger_collector.live import LiveBoard
from gpuledger_collector.mirror import LogMirror
from gpuledger_collector.page.reports import Reports
from gpuledger_collector.page.routes import routes as page_routes
from gpuledger_collector.poll import Poller, PollLimits
from gpuledger_collector.receive import Pushed, Receiver
from gpuledger_collector.roster import UNKNOWN_PLACE
from gpuledger_collector.schedule import Schedule
from gpuledger_collector.schedule_book import ScheduleBook
from gpuledger_collector.scheduler_files import Scheduler, load_schedulers
from gpuledger_collector.scheduler_watch import SchedulerWatch
from gpuledger_collector.shelf import Shelf
from gpuledger_collector.snapshot import Snapshot
from gpuledger_collector.state import State, open_state
from gpuledger_collector.target_sources import Discovery
from gpuledger_collector.targets import Group, Target, UrlList, load_groups, static_targets
from gpuledger_collector.workload_metrics import WorkloadMeter
from gpuledger_collector.workload_verdicts import Verdicts

PREPARE_S = 2.0
PREPARE_SHARE_MAX = 0.1
REFRESH_SHARE_MAX = 0.5
ISSUE_SHARE_MAX = 0.5
"""What may be spent on it of the time: a large fleet is shown, and a backlog accounted for, in larger steps."""
BACKLOG_QUIET_NS = 3_000_000_000
BACKLOG_WAIT_NS_MAX = 45_000_000_000
"""How long no agent must have had more to hand over than fits a page before hours are worked out, and the most that
this may put off a refresh."""
STALLED_AFTER_S = 60.0
UPKEEP_S = 3600.0
BEGINNING_ENTRIES = 2
"""What a log has as soon as it is begun: its origin and a clock entry."""

logger = logging.getLogger(__name__)


def run(config: CollectorConfig, config_file: Path | None) -> int:
    """Run the collector until SIGTERM or SIGINT and return 0; raises GpuledgerError where it cannot start."""
    groups = () if config_file is None else load_groups(config_file)
    schedulers = () if config_file is None else load_schedulers(config_file)
    plan = Plan() if config_file is None else load_plan(config_file)
    shown = {group.credentials for group in groups}
    shown |= {found.credentials for group in groups for found in group.lists if isinstance(found, UrlList)}
    for credentials in shown:
        Keyring().proof(credentials)  # What cannot be used is said before anything is begun.
    clock = SystemClock()
    with open_listener(config.listen) as listener:
        port = open_port(config, listener)
        with open_state(config, clock.wall_ns() // 1_000_000) as state:
            clerk = Clerk(plan, config, os.environ, clock) if plan.is_scheduled else None
            program = _Program(config, groups, schedulers, state, clock)
            asyncio.run(program.serve(listener, port, clerk))
    return 0


class AgentIntake:
    """Fulfils answers.Intake with the intake and the cursors of a state directory."""

    def __init__(self, state: State, clock: Clock, push_place: Place = (UNKNOWN_PLACE,) * 3) -> None:
        self._state, self._clock, self._push_place = state, clock, push_place
        self._polled = {contact.node_id for contact in state.store.contacts()}
        """The keys of agents that were polled ever: where they stand is what their targets say."""
        self.backlog_ns: int | None = None
        """When an agent last had more than one page could take, on CLOCK_BOOTTIME; None: never yet."""
        self._is_continued = state.catalog.log.size > BEGINNING_ENTRIES

    def checkpoint(self) -> Mapping[str, str]:
        log = self._state.catalog.log
        if log.line is None:
            return {}
        public_key = base64.b64encode(log.identity.key.public_bytes).decode("ascii")
        return {"checkpoint": log.line, "log_key": public_key}

    def is_continued(self) -> bool:
        return self._is_continued

    def examine(self, document: Mapping[str, Any]) -> None:
        self._state.intake.examine(document)

    def cursor(self, target: Target) -> Cursor | None:
        contact = self._state.store.contact(target.url)
        if contact is None:
            return None
        return Cursor(journal=contact.journal, sequence=self._state.store.cursor(contact.node_id, contact.journal))

    def accept_pushed(self, document: Mapping[str, Any], after: int | None, now_ms: int) -> Pushed:
        node_id = document.get("node_id")
        result = self._state.intake.accept_batch(
            document,
            now_ms=now_ms,
            asked=None if after is None else (str(document.get("journal")), after),
            place=None if node_id in self._polled else self._push_place,
        )
        if result.has_more:
            self.backlog_ns = self._clock.boottime_ns()
        is_enrolled = self._state.store.enrolment(result.node_id) is not None
        site, cluster, pool = self._push_place
        sender = Target(url=f"push:{result.node_id[:16]}", site=site, cluster=cluster, pool=pool)
        return Pushed(
            node=result.node,
            journal=result.journal,
            sequence=result.cursor,
            accepted=result.accepted,
            duplicates=result.duplicates,
            refused={reason.value: number for reason, number in result.refused.items()},
            sender=sender if is_enrolled else None,
            shown=self.checkpoint(),
        )

    def accept(self, answers: Sequence[Answered], now_ms: int) -> list[Outcome | Exception]:
        offers = [
            Offer(
                document=answer.document,
                asked=None if answer.asked is None else (answer.asked.journal, answer.asked.sequence),
                target=answer.target.url,
                place=(answer.target.site, answer.target.cluster, answer.target.pool),
            )
            for answer in answers
        ]
        return [self._outcome(found) for found in self._state.intake.accept_all(offers, now_ms=now_ms)]

    def _outcome(self, found: BatchResult | Exception) -> Outcome | Exception:
        if isinstance(found, Exception):
            return found
        self._polled.add(found.node_id)
        if found.has_more:
            self.backlog_ns = self._clock.boottime_ns()
        return Outcome(
            accepted=found.accepted,
            refused={reason.value: number for reason, number in found.refused.items()},
            cursor=Cursor(journal=found.journal, sequence=found.cursor),
            more=found.has_more,
        )


def open_port(config: CollectorConfig, listener: socket.socket) -> Port:
    """Return how the port is protected; raises ConfigurationError where others can reach it and it is not.

    Where that is allowed it is warned of.
    """
    address = str(listener.getsockname()[0])
    config.check_push(address)
    missing = config.check_protection(address)
    if missing:
        logger.warning("port_unprotected", extra={"listen": config.listen, "missing": " and ".join(missing)})
    files = config.tls
    return Port(
        tls=None if files is None else TlsContexts(files),
        readers=make_access(config.basic_auth_users, config.bearer_tokens_file),
        pushers=make_access(*config.pushers),
        is_healthz_open=config.is_healthz_open,
        request_s=config.http_request_seconds,
        push_bytes_max=config.answer_bytes,
        pushes_at_once=config.concurrent_pushes,
    )


class _Program:
    """One run of the collector."""

    def __init__(
        self,
        config: CollectorConfig,
        groups: Sequence[Group],
        schedulers: Sequence[Scheduler],
        state: State,
        clock: Clock,
    ) -> None:
        self._config, self._targets, self._clock = config, static_targets(groups), clock
        has_lists = any(group.lists for group in groups)
        self._board, self._shelf = LiveBoard(), Shelf()
        self._log = state.catalog.log
        self._mirror = LogMirror(self._log)
        self._intake = AgentIntake(state, clock, (config.push_site, config.push_cluster, config.push_pool))
        self._started_ns = clock.boottime_ns()
        self._poller = Poller(
            self._targets,
            intake=self._intake,
            board=self._board,
            clock=clock,
            limits=PollLimits(
                interval_s=config.poll_interval_seconds,
                timeout_s=config.poll_timeout_seconds,
                concurrency=config.concurrent_polls,
                body_bytes_max=config.answer_bytes,
            ),
            chance=random.Random(),  # noqa: S311 - spreads requests, guards nothing
            is_list_fixed=not has_lists,
        )
        self._discovery = None
        if has_lists:
            chance = random.Random()  # noqa: S311 - as above
            self._discovery = Discovery(groups, self._poller.set_targets, chance)
        self._receiver = None
        if config.is_push_enabled:
            self._receiver = Receiver(
                intake=self._intake, board=self._board, clock=clock, page_bytes_max=config.answer_bytes
            )
        self._schedulers = SchedulerWatch(schedulers, ScheduleBook(state.catalog, state.namer), clock)
        self._configuration = ConfigurationRecord(state.catalog, config, schedulers)
        self._snapshot = Snapshot(
            keeper=state.keeper,
            counting=state.store,
            reader=state.files,
            polling=Arrivals(self._poller, self._receiver, self._discovery, self._schedulers),
            board=self._board,
            clock=clock,
            workloads=WorkloadMeter(state.store),
            verdicts=Verdicts(state.store, state.workloads),
            upkeep=lambda: state.upkeep.figures,
        )
        self._upkeep = _Paced(lambda: state.upkeep.turn(clock.wall_ns() // 1_000_000), clock, REFRESH_SHARE_MAX)
        self._refresh = _Paced(self._refresh_now, clock, REFRESH_SHARE_MAX)
        self._refreshed_ns: int | None = None
        self._prepare = _Paced(self._prepare_now, clock, PREPARE_SHARE_MAX)
        self._prepared_ns = clock.boottime_ns()
        self._prepare_error: str | None = None

    async def serve(self, listener: socket.socket, port: Port, clerk: Clerk | None = None) -> None:
        """Serve until a signal asks to stop; a bug in any part ends all of them and is raised here."""
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        server = Server(
            self._shelf,
            listener,
            self._trouble,
            port=port,
            receiver=self._receiver,
            log=self._mirror,
            routes={**page_routes(Reports(self._config.reports_dir)), **answers.routes()},
        )
        schedule = Schedule()
        await server.start()
        facts = {"listen": server.address, "targets": len(self._targets), "version": __version__}
        logger.info("collector_started", extra=facts | {"state_dir": str(self._config.state_dir)})
        if not self._targets and self._receiver is None and self._discovery is None:
            text = "no [[group]] of the configuration file names an agent to poll, and none may push"
            logger.warning("no_targets", extra={"text": text})
        schedule.repeat(self._refresh, self._config.refresh_interval_seconds)
        schedule.repeat(self._prepare, PREPARE_S)
        schedule.repeat(self._upkeep, UPKEEP_S)
        if clerk is not None:
            schedule.repeat(_Paced(clerk.turn, self._clock, ISSUE_SHARE_MAX), TURN_S)
        schedule.start()
        tasks = [
            asyncio.create_task(work, name=name)
            for name, work in (
                ("first", self._begin()),
                ("polling", self._poller.run()),
                ("discovery", _wait(asyncio.Event()) if self._discovery is None else self._discovery.run()),
                ("schedulers", self._schedulers.run()),
                ("schedule", schedule.failure()),
                ("stop", _wait(stop)),
            )
        ]
        try:
            await _first_to_end(tasks)
        finally:
            schedule.stop()
            await server.stop()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if self._receiver is not None:
                self._receiver.close()
            self._schedulers.finish()
        logger.info("collector_stopped")

    async def _begin(self) -> None:
        """Show what is known already, then wait for ever: the schedule does the rest."""
        await self._prepare()
        await self._refresh()
        await self._prepare()
        await self._upkeep()
        await asyncio.Event().wait()

    def _refresh_now(self) -> None:
        """Runs in a thread of its own; waits while agents hand over a backlog, each page of which reopens hours."""
        now_ns = self._clock.boottime_ns()
        behind_ns = self._intake.backlog_ns
        is_behind = behind_ns is not None and now_ns - behind_ns < BACKLOG_QUIET_NS
        if is_behind and now_ns - (self._started_ns if self._refreshed_ns is None else self._refreshed_ns) < (
            BACKLOG_WAIT_NS_MAX
        ):
            return
        self._refreshed_ns = now_ns
        self._configuration.sync(self._clock.wall_ns() // 1_000_000)
        self._snapshot.refresh()

    def _prepare_now(self) -> None:
        """Runs in a thread of its own."""
        try:
            self._shelf.renew(self._snapshot.prepare)
        except StorageError as exc:
            if self._prepare_error != str(exc):
                logger.error("prepare_failed", extra={"why": str(exc)})  # noqa: TRY400 - the sentence says it all
            self._prepare_error = str(exc)
            return
        self._prepare_error = None
        self._prepared_ns = self._clock.boottime_ns()

    def _trouble(self) -> str | None:
        """Return what is wrong right now in one sentence, or None."""
        if self._log.refusal is not None:
            return self._log.refusal
        now_ns = self._clock.boottime_ns()
        if self._poller.is_stalled(now_ns):
            return f"polling has made no progress for {(now_ns - self._poller.last_beat_ns) / 1e9:.0f} s"
        refresh_s = STALLED_AFTER_S + 3 * max(self._config.refresh_interval_seconds, self._refresh.cycle_s)
        if (trouble := self._snapshot.refresh_trouble(now_ns, refresh_s)) is not None:
            return trouble
        prepared_s = (now_ns - self._prepared_ns) / 1e9
        if prepared_s > STALLED_AFTER_S + 3 * self._prepare.cycle_s:
            why = "" if self._prepare_error is None else f": {self._prepare_error}"
            return f"page and metrics were not prepared for {prepared_s:.0f} s{why}"
        return None


class _Paced:
    """Blocking work, called in a thread: one run at a time, and for at most a share of the time."""

    def __init__(self, work: Callable[[], None], clock: Clock, share_max: float) -> None:
        self._work, self._clock, self._share_max = work, clock, share_max
        self._is_running = False
        self._next_ns = 0
        self.cycle_s = 0.0
        """How long the last run and the rest after it take together."""

    async def __call__(self) -> None:
        begun_ns = self._clock.boottime_ns()
        if self._is_running or begun_ns < self._next_ns:
            return
        self._is_running = True
        try:
            await asyncio.to_thread(self._work)
        finally:
            self._is_running = False
            cycle_ns = round((self._clock.boottime_ns() - begun_ns) / self._share_max)
            self._next_ns, self.cycle_s = begun_ns + cycle_ns, cycle_ns / 1e9


async def _wait(stop: asyncio.Event) -> None:
    await stop.wait()


async def _first_to_end(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Wait until any of the tasks ends, and raise what it raised."""
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        task.result()
