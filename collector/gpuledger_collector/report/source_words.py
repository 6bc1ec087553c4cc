# SPDX-License-Identifier: Apache-2.0
"""What must be said of figures that an engine sampled: from whom, how often, how far off, what they do not tell."""

from __future__ import annotations

import math

from gpuledger_collector.report.amounts import hours, tenths_text
from gpuledger_collector.report.languages import ENGLISH, Language
from gpuledger_collector.report.model import Source, Totals, Weekly


def tag(source: Source, lang: Language = ENGLISH, key: str = "tag") -> str:
    """Return what stands beside every figure: "profile dcgm, sampled every 30 s"."""
    return lang(f"source.{key}", profile=lang.name(source.profile), intervals=_intervals(source, lang))


def tag_first(source: Source, lang: Language) -> str:
    """Return the tag as a sentence begins."""
    return tag(source, lang, "tag_first")


def error(
    report: Weekly,
    totals: Totals,
    lang: Language = ENGLISH,
    *,
    day_ms: int | None = None,
    place: tuple[str, str | None] | None = None,
) -> str:
    """Return the sampling error of one row's shares as "± 0.2", in percentage points; empty without gauges."""
    tenths = error_tenths(report, totals, day_ms=day_ms, place=place)
    return "" if tenths is None else lang("source.error", points=tenths_text(tenths))


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


def _intervals(source: Source, lang: Language) -> str:
    return lang.listed((lang.seconds(interval) for interval in source.intervals_ms), "or")


def notices(report: Weekly, source: Source, lang: Language) -> list[str]:
    """Return what must be known before any figure is read."""
    totals = report.headline
    fields = {
        "exporter": lang.name(source.exporter),
        "intervals": _intervals(source, lang),
        "off": "" if totals is None else lang("source.off", error=error(report, totals, lang)),
    }
    if source.is_counters:
        return [lang("source.notice_counters", **fields)]
    lines = [lang("source.notice_gauges", profile=lang.name(source.profile), **fields)]
    if source.contradicting_points > 0:
        samples = lang.count(source.contradicting_points, "sample")
        first, second = source.gauges[0].metric, source.gauges[1].metric
        lines.append(lang("source.contradicting", samples=samples, first=first, second=second))
    if source.points_without_memory > 0:
        samples = lang.count(source.points_without_memory, "sample")
        lines.append(lang("source.without_memory", samples=samples))
    return lines


def method_lines(report: Weekly, source: Source, lang: Language) -> list[tuple[str, str]]:
    """Return what the method box says of the source, as (term, text)."""
    inventory = (lang("source.inventory"), lang("source.inventory_text"))
    if source.is_counters:
        counters = (lang("source.counters"), lang("source.counters_text"))
        return [inventory, counters, (lang("source.error_term"), lang("source.ends_text"))]
    twice = lang.listed((lang.seconds(2 * interval) for interval in source.intervals_ms), "or")
    reserved = "reserved_text" if source.knows_workloads else "reserved_unknown"
    lines = [
        inventory,
        (lang("source.gauges"), lang("source.between").join(_gauge_texts(report, source, lang))),
        (lang("source.one_sample"), lang("source.one_sample_text", twice=twice)),
        (lang("source.error_term"), _derivation(report, source, lang)),
        (lang("source.held_or_free"), _held(source, lang)),
        (lang("source.reserved"), lang(f"source.{reserved}")),
        (lang("source.not_told"), lang("source.not_told_text")),
    ]
    if source.rejected_points > 0:
        samples = lang.count(source.rejected_points, "sample")
        lines.append((lang("source.rejected"), lang("source.rejected_text", samples=samples)))
    return lines


def _gauge_texts(report: Weekly, source: Source, lang: Language) -> list[str]:
    used = _used(report)
    interval = lang.seconds(source.update_interval_ms)
    texts = []
    for gauge in source.gauges:
        kind = "mean" if gauge.is_mean else "moment"
        key = f"source.gauge_{kind}" if gauge.metric in used else "source.gauge_unused"
        texts.append(lang(key, metric=gauge.metric, interval=interval))
    return texts


def _derivation(report: Weekly, source: Source, lang: Language) -> str:
    misplaced = sum(tally.misplaced_slice_ms for tally in source.tallies)
    is_unseen = is_between_unseen(report, source)
    return (
        lang("source.derivation", changes=lang.count(source.changes, "change"), hours=hours(misplaced))
        + lang(f"source.derivation_{'unseen' if is_unseen else 'seen'}", points=f"{source.points:,}")
        + lang("source.derivation_end")
    )


def _held(source: Source, lang: Language) -> str:
    if source.memory_metric is None or source.held_above_bytes is None:
        return lang("source.held_no_memory")
    mebibytes = f"{source.held_above_bytes >> 20:,}"
    return lang("source.held_memory", mebibytes=mebibytes, metric=source.memory_metric)
