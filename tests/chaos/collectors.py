# SPDX-License-Identifier: Apache-2.0
"""Collectors as processes of their own, killed and started again, some of their lives on a disk that takes no more."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from gpuledger.errors import StorageError
from gpuledger_collector.store import Store
from tests.chaos.weather import Weather
from tests.fakes.programs import python_environment

PATIENCE_S = 300
ROOM_BYTES = (0, 20_000, 400_000)
"""What a full disk still takes of each file, beyond what the largest has."""


@dataclass(slots=True)
class Collector:
    """One collector with its directory, its log of lives, and the weather between it and the agents."""

    folder: Path
    weather: Weather
    chance: Random
    process: subprocess.Popen[bytes] | None = None
    kills: int = 0
    full_lives: int = 0
    exits: list[int] = field(default_factory=list)

    @property
    def state_dir(self) -> Path:
        return self.folder / "state"

    @property
    def log(self) -> str:
        path = self.folder / "collector.log"
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""

    def start(self, *, is_disk_full: bool = False) -> str:
        if self.is_running:
            return f"{self.folder.name} runs already"
        self.folder.mkdir(parents=True, exist_ok=True)
        targets = [f"http://127.0.0.1:{port}" for port in self.weather.ports.values()]
        config = self.folder / "collector.toml"
        config.write_text(
            f'listen = "127.0.0.1:0"\nstate_dir = "{self.state_dir}"\npoll_interval_seconds = 1\n'
            "refresh_interval_seconds = 1\nlimits.poll_timeout_seconds = 2\n"
            f'[[group]]\nsite = "fra1"\npool = "h100"\ntargets = {json.dumps(targets)}\n'
        )
        room = self._room() if is_disk_full else None
        self.full_lives += is_disk_full

        with (self.folder / "collector.log").open("ab") as stream:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "gpuledger", "collector", "run", "--config", str(config)],
                env=python_environment(),
                stdout=stream,
                stderr=stream,
            )
        if room is not None:
            # Python ignores the signal: a write beyond it fails, as on a disk that is full.
            resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE, (room, room))
        return f"{self.folder.name} started" + ("" if room is None else f", no file over {room} bytes")

    def _room(self) -> int:
        sizes = [path.stat().st_size for path in self.state_dir.rglob("*") if path.is_file()]
        return max(sizes, default=0) + self.chance.choice(ROOM_BYTES)

    @property
    def is_running(self) -> bool:
        if self.process is not None and (code := self.process.poll()) is not None:
            self.exits.append(code)
            self.process = None
        return self.process is not None

    def kill(self) -> str:
        """End it as kill -9 does."""
        if not self.is_running or self.process is None:
            return f"{self.folder.name} does not run"
        self.process.kill()
        self.process.wait()
        self.process = None
        self.kills += 1
        return f"{self.folder.name} killed"

    def stop(self) -> int:
        """End it as a service manager does."""
        assert self.process is not None
        self.process.terminate()
        code = self.process.wait(PATIENCE_S)
        self.process = None
        return code

    def has_taken_in(self, journals: Mapping[tuple[str, str], int]) -> bool:
        """Return whether all of these journals, (node id, journal) -> last sequence, are in its index."""
        try:
            with Store(self.state_dir, read_only=True) as store:
                return all(store.cursor(*journal) >= last for journal, last in journals.items())
        except StorageError:
            return False
