# SPDX-License-Identifier: Apache-2.0
"""The report as JSON: the model field by field, the source for programs; ASCII only, so no name can harm a terminal.

Beside every field `*_slice_ms` stands `*_gpu_hours`, beside every POSIX time `*_ms` stands `*_utc`, beside every
`tenths` stands `percent`: for people; the integers are the figures.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from datetime import date
from decimal import Decimal
from enum import Enum

from gpuledger_collector.report import amounts, source_words, words
from gpuledger_collector.report.languages import ENGLISH, Language
from gpuledger_collector.report.model import Weekly
from gpuledger_collector.report.periods import iso

_TIMES = frozenset(
    {
        "start_ms",
        "end_ms",
        "figures_from_ms",
        "figures_to_ms",
        "ledger_from_ms",
        "ledger_to_ms",
        "day_ms",
        "first_ms",
        "last_ms",
        "first_hour_ms",
        "last_hour_ms",
        "first_dark_hour_ms",
        "last_seen_hour_ms",
        "dark_since_ms",
        "since_ms",
    }
)
"""Fields that are points in time; all other `*_ms` are durations."""


def weekly_to_json(report: Weekly, lang: Language = ENGLISH) -> str:
    """Return the report as JSON text with a final line feed; only title, sentence and notices are in a language."""
    document = {
        "schema": report.schema,
        "schema_version": report.schema_version,
        "simulated": report.simulated,
        "language": lang.tag,
        "title": words.title(report, lang),
        "sentence": words.headline(report, lang),
        "notices": words.notices(report, lang),
    }
    if report.headline is not None and report.source is not None:
        tenths = source_words.error_tenths(report, report.headline)
        document["sampling_error_points"] = None if tenths is None else tenths / 10
    fields = _plain(report)
    assert isinstance(fields, dict)
    return "".join(_pieces(document | fields, "")) + "\n"


def _pieces(value: object, indent: str) -> Iterator[str]:
    """Yield JSON text with one line for each object or list that holds no other, so that lists read as rows."""
    if isinstance(value, dict) and any(isinstance(item, dict | list) and item for item in value.values()):
        inner = indent + "  "
        for number, (key, item) in enumerate(value.items()):
            yield f"{',' if number else '{'}\n{inner}{json.dumps(key)}: "
            yield from _pieces(item, inner)
        yield f"\n{indent}}}"
    elif isinstance(value, list) and any(isinstance(item, dict | list) and item for item in value):
        inner = indent + "  "
        for number, item in enumerate(value):
            yield f"{',' if number else '['}\n{inner}"
            yield from _pieces(item, inner)
        yield f"\n{indent}]"
    else:
        yield json.dumps(value)


def _plain(value: object) -> object:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields: dict[str, object] = {}
        for field in dataclasses.fields(value):
            found = getattr(value, field.name)
            fields[field.name] = _plain(found)
            beside = _beside(field.name, found)
            if beside is not None:
                fields[beside[0]] = beside[1]
        return fields
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Decimal):
        return str(value)  # a number of JSON would be read as a float
    if isinstance(value, date):
        return value.isoformat()
    return value.value if isinstance(value, Enum) else value


BESIDE = {"hours": "number", "utc": "string", "points": "number", "percent": "number"}
"""What stands beside a figure for people, by the last word of its name, and its type in JSON."""


def beside_name(name: str) -> str | None:
    """Return the name of what stands beside a field for people, if anything does."""
    if name.endswith("slice_ms"):
        return name.removesuffix("slice_ms") + "gpu_hours"
    if name in _TIMES:
        return name.removesuffix("ms") + "utc"
    if name == "difference_tenths" or name.endswith("_difference_tenths"):
        return name.removesuffix("tenths") + "points"
    if name == "tenths" or name.endswith("_tenths"):
        return name.removesuffix("tenths") + "percent"
    return None


def _beside(name: str, value: object) -> tuple[str, object] | None:
    """Return the field for people that stands beside a figure, if any; an absent figure has an absent one."""
    found = beside_name(name)
    if found is None:
        return None
    if not isinstance(value, int):
        return found, None
    if found.endswith("gpu_hours"):
        return found, round(value / amounts.GPU_HOUR_SLICE_MS, 4)
    return found, iso(value) if found.endswith("utc") else value / 10
