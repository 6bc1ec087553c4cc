# SPDX-License-Identifier: Apache-2.0
"""A SIMULATED site in one process: real agents and a real collector on one clock of virtual time, scraped as they go.

Only the clock, the NVML answers and the network are made up. What an engine would have scraped is kept as samples, and
what is true of the site can be asked of the agents and of the collector's ledger.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from json import loads
from pathlib import Path

from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from gpuledger.cells import CELL_MS
from gpuledger.process_rules import load_rules
from gpuledger.sealing import NameSealer, SigningKey, load_or_create_key, load_or_create_secret
from gpuledger_agent.config import AgentConfig
from gpuledger_agent.crash_file import CrashFile
from gpuledger_agent.exporter import AgentCollector, registry_of
from gpuledger_agent.feed import Feed
from gpuledger_agent.holders import Holders
from gpuledger_agent.journal import Journal
from gpuledger_agent.loop import Agent
from gpuledger_agent.nvml import Nvml
from gpuledger_agent.process_hints import ProcessHints
from gpuledger_agent.sealer import Sealer
from gpuledger_agent.simulate import SimulatedNvml, SimulatedProcesses
from gpuledger_agent.simulated_tree import SimulatedProcessTree
from gpuledger_collector.answers import PollFigures
from gpuledger_collector.config import CollectorConfig
from gpuledger_collector.live import LiveBoard
from gpuledger_collector.snapshot import Snapshot
from gpuledger_collector.state import State, open_state
from gpuledger_collector.workload_metrics import WorkloadMeter
from tests.fakes.clock import FakeClock

Samples = list[tuple[int, float]]
SeriesKey = tuple[str, tuple[tuple[str, str], ...]]
JOURNAL_MS = 30 * 86_400_000


@dataclass(frozen=True, slots=True, kw_only=True)
class NodePlan:
    """One node: what it plays, where it stands, and when it is switched off (POSIX ms; None: never)."""

    name: str
    scenario: str
    site: str
    off_ms: int | None = None


@dataclass(slots=True, kw_only=True)
class Node:
    """One node's agent and what is fetched from it."""

    plan: NodePlan
    agent: Agent
    feed: Feed
    collector: AgentCollector
    fetched: int = 0

    def is_on(self, now_ms: int) -> bool:
        return self.plan.off_ms is None or now_ms < self.plan.off_ms


@dataclass(slots=True)
class _Polling:
    """What the collector's poller would tell: everybody who is on answers."""

    targets: int
    up: dict[str, bool] = field(default_factory=dict)
    accepted: int = 0
    failures: dict[str, int] = field(default_factory=dict)
    has_asked_everyone: bool = True

    def figures(self) -> PollFigures:
        return PollFigures(
            targets=self.targets,
            up=dict(self.up),
            failures=dict(self.failures),
            accepted=self.accepted,
            refused={},
            troubles={},
        )


@dataclass(slots=True, kw_only=True)
class SimulatedSite:
    """All of it; `past` has the samples of every scrape by metric, as tests.integration.engines loads them."""

    clock: FakeClock
    nodes: list[Node]
    state: State
    snapshot: Snapshot
    polling: _Polling
    scrape_ms: int
    series: dict[SeriesKey, Samples] = field(default_factory=dict)

    @property
    def past(self) -> dict[str, list[tuple[dict[str, str], Samples]]]:
        found: dict[str, list[tuple[dict[str, str], Samples]]] = {}
        for (name, labels), samples in self.series.items():
            found.setdefault(name, []).append((dict(labels), samples))
        return found

    def run(self, until_ms: int) -> None:
        """Let time pass: agents tick and are scraped at every interval, the collector polls and settles cells."""
        while self.clock.wall_ms < until_ms:
            self.clock.advance_ms(self.scrape_ms)
            now_ms = self.clock.wall_ms
            for node in self.nodes:
                if node.is_on(now_ms):
                    node.agent.tick()
            if now_ms % CELL_MS < self.scrape_ms:
                self._poll(now_ms)
                self.snapshot.refresh()
            self._scrape(now_ms)

    def _poll(self, now_ms: int) -> None:
        for node in self.nodes:
            url = f"http://{node.plan.name}:9400"
            self.polling.up[url] = node.is_on(now_ms)
            if not node.is_on(now_ms):
                self.polling.failures["refused"] = self.polling.failures.get("refused", 0) + 1
                continue
            page = loads(node.feed.page(node.fetched, 100, 1 << 24))
            place = (node.plan.site, "sim", "sim-pool")
            result = self.state.intake.accept_batch(page, now_ms=now_ms, target=url, place=place)
            self.polling.accepted += result.accepted
            node.fetched = result.cursor

    def _scrape(self, now_ms: int) -> None:
        for node in self.nodes:
            if node.is_on(now_ms):
                target = {"job": "gpuledger-agent", "instance": f"{node.plan.name}:9400"}
                place = {"site": node.plan.site, "cluster": "sim", "pool": "sim-pool"}
                self._take(generate_latest(registry_of(node.collector)).decode(), now_ms, target | place)
        text = self.snapshot.prepare().metrics.body.decode()
        self._take(text, now_ms, {"job": "gpuledger-collector", "instance": "collector:9401"})

    def _take(self, exposition: str, now_ms: int, target: dict[str, str]) -> None:
        for family in text_string_to_metric_families(exposition):
            for sample in family.samples:
                # As Prometheus does without honor_labels, but no family here has a label of a target's name beside it.
                labels = {**target, **sample.labels}
                key = sample.name, tuple(sorted(labels.items()))
                self.series.setdefault(key, []).append((now_ms, sample.value))


@contextmanager
def simulated_site(
    plans: Sequence[NodePlan], begin_ms: int, folder: Path, *, scrape_ms: int = 60_000
) -> Iterator[SimulatedSite]:
    """A site whose time begins at `begin_ms`; every agent ticks once for each scrape."""
    clock = FakeClock(wall_ms=begin_ms)
    config = CollectorConfig(state_dir=folder / "collector", accept_simulated=True, settle_grace_seconds=0)
    with ExitStack() as stack:
        (folder / "collector").mkdir(mode=0o700)
        state = stack.enter_context(open_state(config, begin_ms))
        polling = _Polling(targets=len(plans))
        snapshot = Snapshot(
            keeper=state.keeper,
            counting=state.store,
            reader=state.files,
            polling=polling,
            board=LiveBoard(),
            workloads=WorkloadMeter(state.store),
            clock=clock,
        )
        nodes = [_node(plan, clock, folder / plan.name, scrape_ms) for plan in plans]
        yield SimulatedSite(
            clock=clock, nodes=nodes, state=state, snapshot=snapshot, polling=polling, scrape_ms=scrape_ms
        )


def _node(plan: NodePlan, clock: FakeClock, folder: Path, interval_ms: int) -> Node:
    folder.mkdir(mode=0o700)
    config = AgentConfig(state_dir=folder, interval_seconds=interval_ms / 1000)
    key: SigningKey = load_or_create_key(folder / "key.pem")
    names = NameSealer(load_or_create_secret(folder / "names.secret"))
    journal = Journal(folder / "journal", JOURNAL_MS, 1 << 30)
    hints = ProcessHints(SimulatedProcessTree(), load_rules(None), clock.boottime_ns, is_inline=True)
    nvml = Nvml(SimulatedNvml(plan.scenario, clock))
    agent = Agent(
        config=config,
        node_name=plan.name,
        boot_id="boot",
        clock=clock,
        nvml=nvml,
        holders=Holders(SimulatedProcesses(), names, own_pid=1, hints=hints),
        journal=journal,
        sealer=Sealer(key, journal, CrashFile(folder / "open")),
    )
    feed = Feed(
        view=lambda: agent.view,
        journal=journal,
        key=key,
        node_name=plan.name,
        is_simulated=True,
        interval_ms=interval_ms,
    )
    collector = AgentCollector(lambda: agent.view, key.node_id, plan.name, interval_ms / 1000, simulated=True)
    return Node(plan=plan, agent=agent, feed=feed, collector=collector)
