# SPDX-License-Identifier: Apache-2.0
"""What the collector's commands share: options, settings, and how a time is read and written."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from gpuledger.clock import SystemClock
from gpuledger.errors import ConfigurationError
from gpuledger_collector import config as collector_config
from gpuledger_collector.config import CollectorConfig

config_option = click.option(
    "--config", "config_file", type=click.Path(path_type=Path), help="TOML file with the collector's settings."
)
state_dir_option = click.option("--state-dir", type=click.Path(path_type=Path), help="Log, index and ledger.")


def settings_of(config_file: Path | None, **flags: Any) -> CollectorConfig:
    """Return the settings; raises ConfigurationError."""
    return collector_config.load(config_file, os.environ, flags).value


def now_ms() -> int:
    """Return POSIX milliseconds."""
    return SystemClock().wall_ns() // 1_000_000


def iso(time_ms: int) -> str:
    """Return a time as ISO 8601 in UTC."""
    found = datetime.fromtimestamp(time_ms / 1000, UTC)
    return found.isoformat(timespec="milliseconds" if time_ms % 1000 else "seconds").replace("+00:00", "Z")


def time_ms(text: str, flag: str) -> int:
    """Return the POSIX milliseconds of a flag's time, UTC where it has no offset; raises ConfigurationError."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError as exc:
        raise ConfigurationError(f"{flag}: {text!r} is not a time like 2026-11-02 or 2026-11-02T08:00Z") from exc
    return round((found if found.tzinfo is not None else found.replace(tzinfo=UTC)).timestamp() * 1000)


def require_directory(state_dir: Path) -> None:
    """Raise ConfigurationError unless the state directory is there."""
    if not state_dir.is_dir():
        raise ConfigurationError(f"state_dir: {state_dir} is not a directory")
