# SPDX-License-Identifier: Apache-2.0
"""The weekly report from the hourly rows of a SIMULATED fleet of any size: time, CPU time and memory of the command.

Rows are made by the ledger's own functions; a few hours are made row by row, and the week repeats them.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from gpuledger.accounting import Account
from gpuledger.cells import DAY_MS, HOUR_MS, SLICES_PER_GPU
from gpuledger.states import ACTIVITY_EDGES_PPM, State
from gpuledger_collector.day_files import write_day
from gpuledger_collector.ledger import HolderRow, HourRow, Ledger
from gpuledger_collector.ledger_files import DIRECTORY, LedgerFiles
from gpuledger_collector.store import Store
from tests.perf.scale_table import Reported

MONDAY_MS = 1_794_787_200_000
WEEK = "2026-W47"
HOURS = 7 * 24
PATTERNS = 3
PATIENCE_S = 400.0
SITES, GPUS_PER_NODE = 4, 8
HOUR_SLICE_MS = HOUR_MS * SLICES_PER_GPU
_TRAINING: Mapping[State, float] = {State.BUSY: 0.9, State.HELD: 0.1}
_SERVING: Mapping[State, float] = {State.BUSY: 0.5, State.FREE: 0.5}
_FREE: Mapping[State, float] = {State.FREE: 1.0}
_SHARES = (*[_TRAINING] * 5, *[_SERVING] * 2, {State.HELD: 1.0}, *[_FREE] * 2)
"""What nodes do, by tens."""


def rows_of(gpus: int, hour_ms: int, pattern: int) -> Iterator[tuple[HourRow, HolderRow | None]]:
    """Yield one GPU's hour after the other, with who had it."""
    for number in range(gpus):
        node = number // GPUS_PER_NODE
        shares = _SHARES[(node + pattern) % len(_SHARES)]
        states = {state: int(HOUR_SLICE_MS * share) for state, share in shares.items()}
        busy, held = states.get(State.BUSY, 0), states.get(State.HELD, 0)
        bins = [0] * len(ACTIVITY_EDGES_PPM)
        bins[1], bins[-2] = held, busy
        gpu, name = f"GPU-{number:08x}-0000-0000-0000-000000000000", f"sim-{node:05d}"
        row = HourRow(
            hour_ms=hour_ms,
            gpu=gpu,
            serial=f"SIM{number:010d}",
            model="SIMULATED NVIDIA H100 80GB HBM3",
            site=f"site-{node % SITES}",
            cluster="sim",
            pool="sim",
            node=name,
            simulated=True,
            account=Account(
                state_slice_ms=states,
                bin_slice_ms=tuple(bins),
                active_ns=busy // SLICES_PER_GPU * 700_000 + number,
                energy_mj={state.value: amount // 3 + number for state, amount in states.items()},
            ),
            active_known_ms=HOUR_MS,
            memory_used_bytes_max=(number % 80) << 30,
            intervals_ms=(1000,),
            activity_sources=("gpm",),
        )
        holder = None
        if busy + held > 0:
            holder = HolderRow(
                hour_ms=hour_ms,
                gpu=gpu,
                node=name,
                workload=f"{node:064x}",
                user=f"{node % 997:064x}",
                busy_slice_ms=busy,
                held_slice_ms=held,
                memory_bytes_max=70 << 30,
            )
        yield row, holder


def write_ledger(state_dir: Path, gpus: int) -> None:
    """Write a week of hourly rows of so many GPUs."""
    with Store(state_dir) as store:
        files = LedgerFiles(state_dir / DIRECTORY, store)
        tables: dict[str, list[Any]] = {"hours": [], "holders": []}
        for pattern in range(PATTERNS):
            pairs = list(rows_of(gpus, MONDAY_MS, pattern))
            hours, holders = tuple(row for row, _ in pairs), tuple(one for _, one in pairs if one is not None)
            files.write_hours(Ledger(hours=hours, holders=holders, findings=()), [MONDAY_MS])
            for table, found in tables.items():
                found.append(pq.read_table(_path(state_dir, table, MONDAY_MS), partitioning=None))
        for table, patterns in tables.items():
            for day_ms in range(MONDAY_MS, MONDAY_MS + 7 * DAY_MS, DAY_MS):
                parts = [_at(patterns[hour % PATTERNS], day_ms + hour * HOUR_MS) for hour in range(24)]
                write_day(_path(state_dir, table, day_ms), None, pa.concat_tables(parts), [])
        files.write_extent(MONDAY_MS, MONDAY_MS + 7 * DAY_MS)


def _path(state_dir: Path, table: str, day_ms: int) -> Path:
    return state_dir / DIRECTORY / table / f"{datetime.fromtimestamp(day_ms / 1000, UTC):%Y-%m-%d}.parquet"


def _at(rows: Any, hour_ms: int) -> Any:
    position = rows.schema.get_field_index("hour_ms")
    return rows.set_column(position, rows.schema.field(position), pa.array([hour_ms] * len(rows), pa.int64()))


def report(state_dir: Path, out: Path, gpus: int) -> Reported:
    """Run the command on the ledger in `state_dir`, and return what it took; a run that takes too long is ended."""
    command = [sys.executable, "-m", "gpuledger", "report", "weekly", "--state-dir", str(state_dir), "--week", WEEK]
    began_s = time.monotonic()
    process = subprocess.Popen(
        [*command, "--no-comparison", "--out", str(out)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    while True:
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        took_s = time.monotonic() - began_s
        if pid != 0:
            break
        if took_s > PATIENCE_S:
            process.kill()
            _, status, usage = os.wait4(process.pid, 0)
            break
        time.sleep(0.1)
    said = b"" if process.stderr is None else process.stderr.read()
    return Reported(
        gpus=gpus,
        rows=gpus * HOURS,
        seconds=took_s,
        cpu_s=usage.ru_utime + usage.ru_stime,
        memory_mib=usage.ru_maxrss / 1024,
        ledger_bytes=sum(path.stat().st_size for path in (state_dir / DIRECTORY).rglob("*.parquet")),
        why_not="" if status == 0 else said.decode("utf-8", "replace").strip()[-200:] or f"ended after {took_s:.0f} s",
    )
