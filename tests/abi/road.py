# SPDX-License-Identifier: Apache-2.0
"""The rest of the road: what the agent sealed, through intake, log and ledger, to the weekly report and back."""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from gpuledger.cells import CELL_MS, ceil_to
from gpuledger.reading import decode
from gpuledger.sealing import load_or_create_key, open_envelope
from gpuledger_agent.journal import Journal
from gpuledger_collector.config import CollectorConfig
from gpuledger_collector.report.periods import week_at
from gpuledger_collector.report.weekly import build_weekly
from gpuledger_collector.state import open_state

_ALL = 1 << 40


def answer_of(state_dir: Path) -> dict[str, object]:
    """Return what the agent that wrote `state_dir` would answer to GET /v1/readings, all of it."""
    journal = Journal(state_dir / "journal", _ALL, _ALL)
    records = [json.loads(record) for record in journal.read(0, 1_000_000, _ALL)]
    key = load_or_create_key(state_dir / "key.pem")
    first = decode(open_envelope(records[0]["envelope"].encode("ascii")).payload)
    return {
        "node_id": key.node_id,
        "node": first.node_name,
        "public_key": base64.b64encode(key.public_bytes).decode("ascii"),
        "journal": journal.id,
        "first_sequence": journal.first_sequence,
        "last_sequence": journal.last.sequence,
        "simulated": False,
        "readings": records,
        "live": None,
    }


def reported_ms(state_dir: Path, collector_dir: Path) -> Counter[str]:
    """Return the GPU-ms by state in the weekly report of all that the agent sealed; "dark" is what it did not cover."""
    answer = answer_of(state_dir)
    readings = answer["readings"]
    assert isinstance(readings, list)
    end_ms = max(record["end_ms"] for record in readings)
    config = CollectorConfig(state_dir=collector_dir, settle_grace_seconds=0, reading_age_days=100_000)
    with open_state(config, end_ms) as state:
        result = state.intake.accept_batch(answer, now_ms=end_ms)
        assert (result.accepted, result.refused) == (len(readings), {})
        state.keeper.refresh(ceil_to(end_ms, CELL_MS))
        report = build_weekly(state.files, week_at(end_ms - 1))
    assert report.headline is not None
    times = {time.state.value: time.slice_ms for time in report.headline.states}
    assert sum(times.values()) == report.headline.installed_slice_ms
    assert all(amount % 7 == 0 for amount in times.values())
    return Counter({state: amount // 7 for state, amount in times.items() if amount > 0})


def differences(reported: Counter[str], sealed: Counter[str]) -> Iterator[str]:
    """What the report says otherwise than the readings; time that nobody covered is dark and on no side."""
    for state in sorted({*reported, *sealed} - {"dark"}):
        if reported[state] != sealed[state]:
            yield f"the report has {reported[state]} ms {state}, the readings {sealed[state]} ms"
