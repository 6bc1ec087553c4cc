# SPDX-License-Identifier: Apache-2.0
"""What is idle now, as rows: from a collector's interface or its ledger's last hour; and rows as a terminal table."""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from gpuledger.cells import DAY_MS, HOUR_MS, SLICES_PER_GPU, ceil_to
from gpuledger.credentials import Credentials, Keyring
from gpuledger.errors import GpuledgerError
from gpuledger.states import IDLE, State
from gpuledger_collector.node_figures import NodeTime, ReportReader
from gpuledger_collector.report.names import shown

PATH = "/api/v1/idle-blocks"
PAGES_MAX = 2_000
"""Of a thousand blocks each."""
ANSWER_BYTES_MAX = 16 << 20
SECONDS_MAX = 30
LOOKBACK_MS = 7 * DAY_MS


@dataclass(frozen=True, slots=True, kw_only=True)
class IdleRow:
    """GPUs of one node in one idle state; `gpus` is a number, of the last hour's time where it is from the ledger.

    `since_ms` is None where it is not known; `is_longer` says that it may be longer.
    """

    site: str
    pool: str
    node: str
    state: str
    gpus: float
    is_whole: bool
    since_ms: int | None
    is_longer: bool
    not_schedulable: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Idle:
    """All rows, the most GPUs first, and to which time they are."""

    to_ms: int | None
    simulated: bool
    rows: tuple[IdleRow, ...]


def idle_of_collector(url: str, credentials: Credentials, wanted: Mapping[str, Sequence[str]]) -> Idle:
    """Return what a collector says is idle; raises GpuledgerError naming the address where it cannot be asked."""
    if urllib.parse.urlsplit(url).scheme not in {"http", "https"}:
        raise GpuledgerError(f"{url}: give an address like http://127.0.0.1:9401")
    rows: list[IdleRow] = []
    after: str | None = None
    answer: dict[str, Any] = {}
    for _ in range(PAGES_MAX):
        answer = _ask(url, credentials, {**wanted, "limit": ["1000"], **({} if after is None else {"after": [after]})})
        try:
            rows += [_row(item) for item in answer["items"]]
            after = answer["next"]
        except (KeyError, TypeError, ValueError) as exc:
            raise GpuledgerError(f"{url}{PATH}: not an answer of a collector of this version ({exc!r})") from exc
        if after is None:
            break
    period = answer.get("period") or {}
    return Idle(to_ms=period.get("end_ms"), simulated=answer.get("simulated") is True, rows=_sorted(rows))


def _ask(url: str, credentials: Credentials, query: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    proof = Keyring().proof(credentials)
    address = f"{url.rstrip('/')}{PATH}?{urllib.parse.urlencode(query, doseq=True)}"
    request = urllib.request.Request(address, headers=dict(proof.headers))  # noqa: S310 - the scheme was looked at
    try:
        with urllib.request.urlopen(request, timeout=SECONDS_MAX, context=proof.context) as found:  # noqa: S310
            data = found.read(ANSWER_BYTES_MAX + 1)
    except urllib.error.HTTPError as exc:
        raise GpuledgerError(f"{url}{PATH}: the collector answered {exc.code} {exc.reason}") from exc
    except (OSError, ValueError) as exc:
        raise GpuledgerError(f"{url}: the collector cannot be asked: {getattr(exc, 'reason', exc)}") from exc
    if len(data) > ANSWER_BYTES_MAX:
        raise GpuledgerError(f"{url}{PATH}: an answer of more than {ANSWER_BYTES_MAX} bytes")
    try:
        document = json.loads(data)
    except ValueError as exc:
        raise GpuledgerError(f"{url}{PATH}: the answer is not JSON") from exc
    if not isinstance(document, dict):
        raise GpuledgerError(f"{url}{PATH}: the answer is no JSON object")
    return document


def _row(item: Mapping[str, Any]) -> IdleRow:
    why = item["not_schedulable"]
    return IdleRow(
        site=str(item["site"]),
        pool=str(item["pool"]),
        node=str(item["node"]),
        state=State(item["state"]).value,
        gpus=len(item["gpus"]),
        is_whole=bool(item["whole"]),
        since_ms=int(item["since_ms"]),
        is_longer=not item["since_is_exact"],
        not_schedulable=None if why is None else str(why.get("why", "yes")),
    )


def idle_of_ledger(reader: ReportReader, wanted: Mapping[str, Sequence[str]]) -> Idle:
    """Return what was idle in the last hour that a ledger accounts for; since when is told of wholly free nodes."""
    extent = reader.extent()
    if extent is None:
        return Idle(to_ms=None, simulated=False, rows=())
    end_ms = ceil_to(extent[1], HOUR_MS)
    last = reader.node_times(end_ms - HOUR_MS, end_ms)
    past = {(row.site, row.pool, row.node): row for row in reader.node_times(end_ms - LOOKBACK_MS, end_ms)}
    simulated = any(group.simulated for group in reader.sum_by(["site"], end_ms - HOUR_MS, end_ms))
    rows = [
        _ledger_row(node, past[node.site, node.pool, node.node], state, extent[1])
        for node in last
        for state in State
        if state in IDLE and node.slice_ms(state) > 0
    ]
    kept = [row for row in rows if all(getattr(row, field) in values for field, values in wanted.items())]
    return Idle(to_ms=extent[1], simulated=simulated, rows=_sorted(kept))


def _ledger_row(node: NodeTime, past: NodeTime, state: State, to_ms: int) -> IdleRow:
    length_ms = to_ms - node.first_hour_ms
    is_whole = node.slice_ms(state) == node.installed_slice_ms
    since_ms = None
    if state is State.FREE and is_whole:
        since_ms = past.first_hour_ms if past.last_unfree_hour_ms is None else past.last_unfree_hour_ms + HOUR_MS
    return IdleRow(
        site=node.site,
        pool=node.pool,
        node=node.node,
        state=state.value,
        gpus=round(node.slice_ms(state) / (length_ms * SLICES_PER_GPU), 1) if length_ms > 0 else 0,
        is_whole=is_whole,
        since_ms=since_ms,
        is_longer=since_ms is not None and past.last_unfree_hour_ms is None,
    )


def _sorted(rows: Sequence[IdleRow]) -> tuple[IdleRow, ...]:
    order = [state.value for state in State]
    return tuple(sorted(rows, key=lambda row: (order.index(row.state), -row.gpus, row.site, row.node)))


# --------------------------------------------------------------------------------------------------------- table

_HEADINGS = ("STATE", "SITE", "POOL", "NODE", "GPUS", "WHOLE", "SINCE (UTC)", "NOTE")


def table_of(idle: Idle) -> list[str]:
    """Return the rows as lines of a table, and a last line with what they sum to."""
    lines = [_HEADINGS]
    for row in idle.rows:
        since = "" if row.since_ms is None else _time(row.since_ms) + (" or longer" if row.is_longer else "")
        note = "" if row.not_schedulable is None else f"not schedulable: {row.not_schedulable}"
        lines.append(
            (
                row.state,
                shown(row.site, 20),
                shown(row.pool, 20),
                shown(row.node, 32),
                f"{row.gpus:g}",
                "yes" if row.is_whole else "",
                since,
                shown(note, 40) if note else "",
            )
        )
    widths = [max(len(line[index]) for line in lines) for index in range(len(_HEADINGS))]
    texts = ["  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    sums: dict[str, float] = {}
    for row in idle.rows:
        sums[row.state] = sums.get(row.state, 0) + row.gpus
    listed = ", ".join(f"{amount:g} {state}" for state, amount in sums.items()) or "nothing is idle"
    mark = "SIMULATED: " if idle.simulated else ""
    to = "the ledger is empty" if idle.to_ms is None else f"to {_time(idle.to_ms)} UTC"
    return [*(texts if idle.rows else []), f"{mark}GPUs {listed}; {to}"]


def _time(time_ms: int) -> str:
    return f"{datetime.fromtimestamp(time_ms / 1000, UTC):%Y-%m-%d %H:%M}"
