# SPDX-License-Identifier: Apache-2.0
"""Queries as text. Pure: what is asked is decided here, who is asked and what comes of it elsewhere.

Every gauge is asked for on a grid: point t stands for the time (t - step, t], and its value is the newest sample at
most `stand_ms` old, whatever an engine's look-back would be (a range of 1 ms less, since older engines take the sample
at its left edge too and newer ones do not).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from gpuledger_collector.engine.profile import Activity

Matchers = Mapping[str, Sequence[str]]
"""Label -> the values it may have."""

_SPECIAL = re.compile(r"([\\.+*?()|\[\]{}^$])")


def quoted(text: str) -> str:
    """Return a PromQL string."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


def selector(metric: str, matchers: Matchers) -> str:
    """Return `metric{label="value",other=~"one|two"}`, labels in order."""
    parts = []
    for label, values in sorted(matchers.items()):
        if len(values) == 1:
            parts.append(f"{label}={quoted(values[0])}")
        else:
            one_of = "|".join(_SPECIAL.sub(r"\\\1", value) for value in values)
            parts.append(f"{label}=~{quoted(one_of)}")
    return f"{metric}{{{','.join(parts)}}}"


def newest(metric: str, matchers: Matchers, stand_ms: int) -> str:
    """Return the newest sample at most `stand_ms` old of each series."""
    return f"last_over_time({selector(metric, matchers)}[{stand_ms - 1}ms])"


def second_opinion(first: Activity, second: Activity, matchers: Matchers, stand_ms: int) -> str:
    """Return the second gauge of activity, only where it decides.

    That is where the first says nothing, and where it says nearly nothing while the second says half or more.
    """
    other = newest(second.metric, matchers, stand_ms)
    one = f"({newest(first.metric, matchers, stand_ms)} >= 0 <= {first.full:g})"
    is_low = f"({newest(first.metric, matchers, stand_ms)} < {first.full / 100:g})"
    return f"({other} unless {one}) or (({other} >= {second.full / 2:g}) and {is_low})"


def largest_at_edges(metric: str, gpu_label: str, matchers: Matchers, stand_ms: int) -> str:
    """Return one value for each GPU, however many series repeat it."""
    return f"max by ({gpu_label}) ({newest(metric, matchers, stand_ms)})"


def owners_in_cells(metric: str, gpu_label: str, owner: Sequence[str], matchers: Matchers, cell_ms: int) -> str:
    """Return one value for each GPU and owner with a process in the cell that ends at a point."""
    labels = ", ".join((gpu_label, *owner))
    return f"max by ({labels}) (last_over_time({selector(metric, matchers)}[{cell_ms - 1}ms]))"


def fullest(metric: str, matchers: Matchers, span_ms: int, count: int) -> str:
    """Return the `count` series with most samples in the span."""
    return f"topk({count}, count_over_time({selector(metric, matchers)}[{span_ms}ms]))"


def samples(metric: str, matchers: Matchers, span_ms: int) -> str:
    """Return the samples of the span with their own times; an instant query."""
    return f"{selector(metric, matchers)}[{span_ms}ms]"


def count(metric: str, matchers: Matchers, span_ms: int) -> str:
    """Return how many samples each series has in the span before a point."""
    return f"count_over_time({selector(metric, matchers)}[{span_ms - 1}ms])"
