# SPDX-License-Identifier: Apache-2.0
"""The report as CSV for spreadsheets: RFC 4180, UTF-8 with a byte order mark, decimal points, ISO times.

Three files: states (one row per site, model and state, zeros included), the idle list (one row per entry, every list
whole) and days (one row per node and day). Headings are in a language, values are not: state names are the ledger's
identifiers whatever is withheld; the column `withheld` names the words that no figure of the row may be called.
`profile` and the sampling error are there where figures come from gauges, which do not tell some of the states. A text
that a spreadsheet could take for a formula gets a leading quote.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain

from gpuledger.cells import DAY_MS, floor_to
from gpuledger_collector.report import amounts, source_words, words
from gpuledger_collector.report.languages import ENGLISH, Language
from gpuledger_collector.report.model import Weekly
from gpuledger_collector.report.names import cleaned
from gpuledger_collector.report.periods import iso
from gpuledger_collector.report.shares import share_down, share_up

Value = str | int | float | None

BYTE_ORDER_MARK = "\N{ZERO WIDTH NO-BREAK SPACE}"
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")

STATE_COLUMNS = (
    "simulated",
    "period",
    "figures_from_utc",
    "figures_to_utc",
    "site",
    "model",
    "gpus",
    "state",
    "gpu_hours",
    "installed_gpu_hours",
    "percent",
    "slice_ms",
    "installed_slice_ms",
    "withheld",
    "profile",
    "sampling_error_points",
)
IDLE_COLUMNS = (
    "simulated",
    "period",
    "list",
    "site",
    "pool",
    "node",
    "gpu",
    "user",
    "user_digest",
    "workload",
    "workload_digest",
    "gpus",
    "gpu_hours",
    "installed_gpu_hours",
    "dark_gpu_hours",
    "busy_gpu_hours",
    "memory_bytes_max",
    "first_hour_utc",
    "last_hour_utc",
    "last_seen_hour_utc",
    "dark_since_utc",
    "since_utc",
    "slice_ms",
    "profile",
)
DAY_COLUMNS = (
    "simulated",
    "period",
    "day",
    "site",
    "node",
    "idle_gpu_hours_min",
    "idle_gpu_hours_max",
    "dark_gpu_hours",
    "installed_gpu_hours",
    "idle_percent_min",
    "idle_percent_max",
    "profile",
)


def states_to_csv(report: Weekly, lang: Language = ENGLISH) -> str:
    """Return the states file; only its heading where the report has no figures."""
    period = report.period
    rows: list[dict[str, Value]] = []
    for place in report.places:
        totals = place.totals
        error = source_words.error_tenths(report, totals, place=(place.site, place.model))
        rows.extend(
            {
                "figures_from_utc": _time(period.figures_from_ms),
                "figures_to_utc": _time(period.figures_to_ms),
                "site": place.site,
                "model": place.model,
                "gpus": totals.gpus,
                "state": time.state.value,
                "gpu_hours": _hours(time.slice_ms),
                "installed_gpu_hours": _hours(totals.installed_slice_ms),
                "percent": time.share.tenths / 10,
                "slice_ms": time.slice_ms,
                "installed_slice_ms": totals.installed_slice_ms,
                "withheld": " ".join(word.value for word in totals.withheld) or None,
                "sampling_error_points": None if error is None else error / 10,
            }
            for time in totals.states
        )
    return _write(report, STATE_COLUMNS, rows, lang)


def idle_list_to_csv(report: Weekly, lang: Language = ENGLISH) -> str:
    """Return the idle list: every entry of every list, named by the column `list`."""
    rows = (_blocks(report), _free(report), _held(report), _reserved(report), _dark(report), _down(report))
    return _write(report, IDLE_COLUMNS, chain.from_iterable(rows), lang)


def days_to_csv(report: Weekly, lang: Language = ENGLISH) -> str:
    """Return the days: how idle every node was on every UTC day on which it was installed."""
    return _write(report, DAY_COLUMNS, _days(report), lang)


def _days(report: Weekly) -> Iterator[dict[str, Value]]:
    days = range(floor_to(report.period.start_ms, DAY_MS), report.period.end_ms, DAY_MS)
    for row in report.heat_days:
        for day_ms, cell in zip(days, row.cells, strict=True):
            if cell is None:
                continue
            high = cell.idle_slice_ms + cell.unknown_slice_ms
            yield {
                "day": iso(day_ms)[:10],
                "site": row.site,
                "node": row.node,
                "idle_gpu_hours_min": _hours(cell.idle_slice_ms),
                "idle_gpu_hours_max": _hours(high),
                "dark_gpu_hours": _hours(cell.dark_slice_ms),
                "installed_gpu_hours": _hours(cell.installed_slice_ms),
                "idle_percent_min": share_down(cell.idle_slice_ms, cell.installed_slice_ms).tenths / 10,
                "idle_percent_max": share_up(high, cell.installed_slice_ms).tenths / 10,
            }


def _blocks(report: Weekly) -> Iterator[dict[str, Value]]:
    for block in report.blocks:
        for row in block.nodes:
            yield {
                "list": "sellable",
                "site": block.site,
                "pool": block.pool,
                "node": row.node,
                "gpus": row.gpus,
                "gpu_hours": _hours(row.free_slice_ms),
                "since_utc": iso(row.since_ms),
                "slice_ms": row.free_slice_ms,
            }


def _reserved(report: Weekly) -> Iterator[dict[str, Value]]:
    for row in report.idle_list.reserved:
        yield {
            "list": "reserved",
            "site": row.site,
            "node": row.node,
            "gpus": row.gpus,
            "gpu_hours": _hours(row.reserved_slice_ms),
            "installed_gpu_hours": _hours(row.installed_slice_ms),
            "slice_ms": row.reserved_slice_ms,
        }


def _free(report: Weekly) -> Iterator[dict[str, Value]]:
    for row in report.idle_list.free:
        yield {
            "list": f"free_{row.kind.value}",
            "site": row.site,
            "node": row.node,
            "gpus": row.gpus,
            "gpu_hours": _hours(row.free_slice_ms),
            "installed_gpu_hours": _hours(row.installed_slice_ms),
            "dark_gpu_hours": _hours(row.dark_slice_ms),
            "slice_ms": row.free_slice_ms,
        }


def _held(report: Weekly) -> Iterator[dict[str, Value]]:
    for row in report.idle_list.held:
        yield {
            "list": "held",
            "site": row.site,
            "node": row.node,
            "user": row.user_name,
            "user_digest": row.user_digest,
            "workload": row.workload_name,
            "workload_digest": row.workload_digest,
            "gpus": row.gpus,
            "gpu_hours": _hours(row.held_slice_ms),
            "busy_gpu_hours": _hours(row.busy_slice_ms),
            "memory_bytes_max": row.memory_bytes_max,
            "first_hour_utc": iso(row.first_hour_ms),
            "last_hour_utc": iso(row.last_hour_ms),
            "slice_ms": row.held_slice_ms,
        }
    rest = report.idle_list.held_without_holder_slice_ms
    if rest > 0:
        yield {"list": "held_without_holder", "gpu_hours": _hours(rest), "slice_ms": rest}


def _dark(report: Weekly) -> Iterator[dict[str, Value]]:
    for row in report.idle_list.dark:
        yield {
            "list": "dark",
            "site": row.site,
            "node": row.node,
            "gpus": row.gpus,
            "gpu_hours": _hours(row.dark_slice_ms),
            "installed_gpu_hours": _hours(row.installed_slice_ms),
            "first_hour_utc": iso(row.first_dark_hour_ms),
            "last_seen_hour_utc": _time(row.last_seen_hour_ms),
            "dark_since_utc": _time(row.dark_since_ms),
            "slice_ms": row.dark_slice_ms,
        }


def _down(report: Weekly) -> Iterator[dict[str, Value]]:
    for row in report.idle_list.down:
        yield {
            "list": "down",
            "site": row.site,
            "node": row.node,
            "gpu": row.gpu,
            "gpus": 1,
            "gpu_hours": _hours(row.down_slice_ms),
            "installed_gpu_hours": _hours(row.installed_slice_ms),
            "slice_ms": row.down_slice_ms,
        }


def _hours(slice_ms: int) -> float:
    return round(slice_ms / amounts.GPU_HOUR_SLICE_MS, 4)


def _time(time_ms: int | None) -> str | None:
    return None if time_ms is None else iso(time_ms)


def _write(report: Weekly, columns: tuple[str, ...], rows: Iterable[Mapping[str, Value]], lang: Language) -> str:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow([lang(f"csv.{column}") for column in columns])
    everywhere: dict[str, Value] = {
        "simulated": words.SIMULATED if report.simulated else None,
        "period": report.period.name,
        "profile": None if report.source is None else report.source.profile,
    }
    for row in rows:
        fields = everywhere | dict(row)
        writer.writerow([_safe(fields.get(column)) for column in columns])
    return BYTE_ORDER_MARK + text.getvalue()


def _safe(value: Value) -> Value:
    """Return numbers as they are and texts so that no spreadsheet computes them; absent stays empty."""
    if not isinstance(value, str):
        return value
    # Spreadsheets skip what is blank before a formula, so the first character that shows decides.
    is_formula = value.startswith(_FORMULA_STARTS) or value.lstrip().startswith(_FORMULA_STARTS)
    return ("'" if is_formula else "") + cleaned(value)
