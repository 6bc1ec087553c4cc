# SPDX-License-Identifier: Apache-2.0
"""A whole agent on fakes: real loop, meter, sealer, journal and crash file in a temporary directory."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from gpuledger.reading import PAYLOAD_TYPE, Reading, decode, digest
from gpuledger.sealing import NameSealer, SigningKey, verify_envelope
from gpuledger_agent.allocation_files import AllocationSource
from gpuledger_agent.config import AgentConfig
from gpuledger_agent.crash_file import CrashFile
from gpuledger_agent.feed import Feed
from gpuledger_agent.holders import Holders
from gpuledger_agent.journal import Journal
from gpuledger_agent.loop import Agent
from gpuledger_agent.nvml import Nvml
from gpuledger_agent.reservations import Reservations
from gpuledger_agent.sealer import Sealer
from gpuledger_agent.watchdog import NvmlThread
from gpuledger_agent.witness import Witness, last_sealed
from tests.fakes.clock import FakeClock
from tests.fakes.nvml import FakeGpu, FakeNvml
from tests.fakes.processes import FakeProcessTable

BIG = 1 << 40


class Rig:
    """One node. `start` begins an agent's life (again, after `kill`) on the same directory."""

    def __init__(
        self,
        directory: Path,
        devices: list[FakeGpu],
        clock: FakeClock | None = None,
        config: AgentConfig | None = None,
        sources: Sequence[AllocationSource] = (),
    ) -> None:
        self.directory = directory
        self.sources = sources
        self.clock = FakeClock() if clock is None else clock
        self.nvml = FakeNvml(self.clock, devices)
        self.processes = FakeProcessTable(p4100="python3")
        self.key = SigningKey.generate()
        self.config = AgentConfig(state_dir=directory, node_name="node-1") if config is None else config
        self.name = self.config.node_name or "node-1"
        self.agent: Agent
        self.journal: Journal
        self.holders: Holders
        self.sealer: Sealer
        self.witness: Witness
        self.start()

    @property
    def gpu(self) -> FakeGpu:
        return self.nvml.gpus[0]

    def start(self) -> None:
        self.nvml.attached = 0
        self.journal = Journal(self.directory / "journal", BIG, BIG)
        self.witness = Witness(last_sealed(self.journal))
        self.sealer = Sealer(
            self.key, self.journal, CrashFile(self.directory / "open"), self.config.privacy, self.witness
        )
        self.holders = Holders(self.processes, NameSealer(bytes(32)), own_pid=1)
        self.agent = Agent(
            config=self.config,
            node_name=self.name,
            boot_id="boot",
            clock=self.clock,
            nvml=Nvml(self.nvml),
            holders=self.holders,
            journal=self.journal,
            sealer=self.sealer,
            reservations=Reservations(self.holders, self.sources),
            thread=NvmlThread(now_ns=lambda: self.nvml.hung_ns),
        )

    def tick(self, count: int = 1, interval_ms: int = 1_000) -> None:
        """Let the interval pass and tick, so many times."""
        for _ in range(count):
            self.clock.advance_ms(interval_ms)
            self.agent.tick()

    def feed(self) -> Feed:
        """Return what hands out this life's readings."""
        return Feed(
            view=lambda: self.agent.view,
            journal=self.journal,
            key=self.key,
            node_name=self.name,
            is_simulated=False,
            interval_ms=1_000,
            privacy=self.config.privacy,
            witness=self.witness,
        )

    def readings(self) -> list[Reading]:
        return sealed(self.directory, self.key.public_bytes)


def records(directory: Path) -> list[dict[str, Any]]:
    """Return the journal's records as they are on disk."""
    paths = sorted((directory / "journal").glob("*.jsonl"))
    return [json.loads(line) for path in paths for line in path.read_bytes().splitlines()]


def sealed(directory: Path, public_key: bytes) -> list[Reading]:
    """Return the sealed readings, having verified signatures, sequence numbers and the chain of hashes."""
    readings: list[Reading] = []
    previous = "genesis"
    for number, record in enumerate(records(directory), 1):
        envelope = record["envelope"].encode("ascii")
        reading = decode(verify_envelope(envelope, public_key, PAYLOAD_TYPE))
        assert reading.sequence == record["sequence"] == number
        assert reading.previous == previous
        previous = digest(envelope)
        readings.append(reading)
    return readings


def spans(readings: list[Reading]) -> list[tuple[int, int]]:
    """Return the spans that readings account for, each once, having checked that none reaches into another."""
    found = sorted({(reading.start_ms, reading.end_ms) for reading in readings})
    for (_, end_ms), (start_ms, _) in pairwise(found):
        assert end_ms <= start_ms, f"[.., {end_ms}) and [{start_ms}, ..) overlap"
    return found
