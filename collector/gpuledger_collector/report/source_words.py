# SPDX-License-Identifier: Apache-2.0
"""What must be said of figures that an engine sampled: from whom, how often, how far off, what they do not tell."""

from __future__ import annotations

import math

from gpuledger_collector.report.amounts import count, hours, seconds, tenths_text
from gpuledger_collector.report.model import Source, Totals, Weekly
from gpuledger_collector.report.names import shown

_COUNTERS = (
    "what a counter grew by between two samples was spent between them, so a scrape that failed loses nothing. Samples "
    "more than 70 min apart do not say when: that time is dark. A counter that fell began again at 0."
)
_ENDS = (
    "sums are exact but for the two ends of a day, each up to one interval off. In percentage points, rounded up; each "
    "row has its own."
)


def tag(source: Source) -> str:
    """Return what stands beside every figure: "profile dcgm, sampled every 30 s"."""
    return f"profile {shown(source.profile)}, sampled {_every(source)}"


def error(
    report: Weekly, totals: Totals, *, day_ms: int | None = None, place: tuple[str, str | None] | None = None
) -> str:
    """Return the sampling error of one row's shares as "± 0.2", in percentage points; empty without gauges."""
    tenths = error_tenths(report, totals, day_ms=day_ms, place=place)
    return "" if tenths is None else f"± {tenths_text(tenths)}"


def error_tenths(
    report: Weekly, totals: Totals, *, day_ms: int | None = None, place: tuple[str, str | None] | None = None
) -> int | None:
    """Return the sampling error of one row's shares in tenths of a percentage point, rounded up.

    The row is that of a day or of a place (site and model), or the whole report. None where there are no gauges.
    """
    source = report.source
    if source is None or totals.installed_slice_ms == 0:
        return None
    rows = [
        tally
        for tally in source.tallies
        if day_ms in {None, tally.day_ms} and (place is None or place == (tally.site, tally.model))
    ]
    # A change that was seen is at most an interval off.
    tenths = math.ceil(sum(tally.misplaced_slice_ms for tally in rows) * 1000 / totals.installed_slice_ms)
    points = sum(tally.points for tally in rows)
    if is_between_unseen(report, source) and points > 0:
        # Two standard errors of a share of independent samples, where they are largest: 2 x 0.5 / sqrt(n).
        tenths += math.ceil(1000 / math.sqrt(points))
    return tenths


def is_between_unseen(report: Weekly, source: Source) -> bool:
    """Return whether there is time between two samples about which neither says anything."""
    if source.is_counters:
        return False
    used = [gauge for gauge in source.gauges if gauge.metric in _used(report)]
    is_rarer = any(interval > source.update_interval_ms for interval in source.intervals_ms)
    return is_rarer or any(not gauge.is_mean for gauge in used)


def _used(report: Weekly) -> set[str]:
    return {name for sources in report.method.activity_sources for name in sources.split()}


def _every(source: Source) -> str:
    return "every " + " or ".join(seconds(interval) for interval in source.intervals_ms)


def notices(report: Weekly, source: Source) -> list[str]:
    """Return what must be known before any figure is read."""
    totals = report.headline
    off = "" if totals is None else f" Sampling error of the whole: {error(report, totals)} percentage points."
    if source.is_counters:
        counted = (
            f"From counters in an engine, not from sealed readings: {shown(source.exporter)} counted, and another "
            f"program sampled the counters {_every(source)}.{off} The fleet is what reported, from its first sample on."
        )
        return [counted]
    first = (
        f"From gauges, not from sealed readings: {shown(source.exporter)} showed them, and another program sampled "
        f"them {_every(source)} (profile {shown(source.profile)}).{off} The fleet is what reported: a GPU that never "
        "did is not known, and in no figure; one that reported once and no more is dark. What gauges do not tell: see "
        "Method."
    )
    lines = [first]
    if source.contradicting_points > 0:
        lines.append(
            f"At {count(source.contradicting_points, 'sample')} {source.gauges[0].metric} said that nothing was active "
            f"and {source.gauges[1].metric} that half or more was: one of them is stuck, so that time is unmeasured."
        )
    if source.points_without_memory > 0:
        lines.append(
            f"At {count(source.points_without_memory, 'sample')} memory in use was not known: without activity such "
            "time is held, since nothing shows that the GPU was free, and with activity it is unmeasured."
        )
    return lines


def method_lines(report: Weekly, source: Source) -> list[tuple[str, str]]:
    """Return what the method box says of the source, as (term, text)."""
    inventory = "what reported in this period or the seven days before, each GPU from its first sample on."
    if source.is_counters:
        return [("Inventory", inventory), ("Counters", _COUNTERS), ("Sampling error", _ENDS)]
    lines = [
        ("Inventory", inventory),
        ("Gauges", " ".join(_gauge_texts(report, source))),
        (
            "One sample",
            (
                f"stands for the time since the one before it, and for two intervals at most "
                f"({_twice(source)}); then the GPU is dark."
            ),
        ),
        ("Sampling error", _derivation(report, source)),
        ("Held or free", _held(source)),
        ("Reserved", _reserved(source)),
        (
            "Not told",
            (
                "faults, maintenance, standby and the operator's own load: such time stands where its gauges put it, "
                "or is dark. So nothing is said of what was out of service."
            ),
        ),
    ]
    if source.rejected_points > 0:
        lines.append(
            ("Rejected", f"{count(source.rejected_points, 'sample')} outside what they can be; counted as unknown.")
        )
    return lines


def _gauge_texts(report: Weekly, source: Source) -> list[str]:
    used = _used(report)
    texts = []
    for gauge in source.gauges:
        if gauge.metric not in used:
            texts.append(f"{gauge.metric} was not needed.")
        elif gauge.is_mean:
            texts.append(
                f"{gauge.metric}: each sample is a mean over the exporter's update interval "
                f"({seconds(source.update_interval_ms)} unless somebody changed it), and counts as a whole: a burst in "
                "it makes all of it work, or none."
            )
        else:
            texts.append(
                f"{gauge.metric}: each sample is of a moment, the driver's last sixth of a second to second; what was "
                "between two samples is not seen."
            )
    return texts


def _twice(source: Source) -> str:
    return " or ".join(seconds(2 * interval) for interval in source.intervals_ms)


def _derivation(report: Weekly, source: Source) -> str:
    misplaced = sum(tally.misplaced_slice_ms for tally in source.tallies)
    text = (
        f"{count(source.changes, 'change')} of state between samples, each up to one interval off: {hours(misplaced)} "
        "GPU-hours at most."
    )
    if is_between_unseen(report, source):
        text += (
            f" Between samples nothing is seen: to that are added two standard errors of a share of n independent "
            f"samples, 1 / √n (here n = {source.points:,}). Load in step with the sampling may be off by more; that "
            "cannot be told from the samples."
        )
    else:
        text += " Every update interval is seen, so nothing is added for what was between samples."
    return text + " In percentage points, rounded up; each row has its own."


def _held(source: Source) -> str:
    if source.memory_metric is None or source.held_above_bytes is None:
        return "gauges name no processes, and this profile has none of memory: nothing shows that a GPU was free."
    return (
        f"gauges name no processes: more than {source.held_above_bytes >> 20:,} MiB in {source.memory_metric} is taken "
        "for one (held, or busy with activity), less for none (free). Activity without it is unmeasured."
    )


def _reserved(source: Source) -> str:
    if not source.knows_workloads:
        return "no series named a workload, so reserved is not told from free."
    return (
        "a workload's name on the series and no memory in use. Names may stay up to half an hour after a pod ended, "
        "and go missing while it runs."
    )
