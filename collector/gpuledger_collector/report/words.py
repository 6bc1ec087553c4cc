# SPDX-License-Identifier: Apache-2.0
"""What is said of a report as a whole: title, headline, notices, names of states. All texts are the catalogues'."""

from __future__ import annotations

from gpuledger.states import State
from gpuledger_collector.report import source_words
from gpuledger_collector.report.amounts import hours
from gpuledger_collector.report.idle_model import FreeKind
from gpuledger_collector.report.languages import ENGLISH, Language
from gpuledger_collector.report.model import NoComparison, Period, Totals, Weekly, Withheld
from gpuledger_collector.report.periods import PeriodKind

SIMULATED = ENGLISH("name.simulated")
"""The same word in every language, so that nobody has to read one to see it."""


def may_say(report: Weekly, word: Withheld) -> bool:
    """Return whether enough was observed to say the word of the whole fleet."""
    return word not in report.withheld


def state_label(state: State, report: Weekly, lang: Language) -> str:
    """Return the state's name in this report; where "busy" is withheld, what was seen is all that is said."""
    if state is State.BUSY and not may_say(report, Withheld.BUSY):
        return lang("state.work_seen")
    return lang.state(state)


def state_letter(state: State, report: Weekly, lang: Language) -> str:
    """Return the state's letter, that of its label in this report."""
    if state is State.BUSY and not may_say(report, Withheld.BUSY):
        return lang("letter.work_seen")
    return lang(f"letter.{state.value}")


def busy_label(report: Weekly, lang: Language) -> str:
    """Return the heading of what is not idle."""
    return lang("tile.busy" if may_say(report, Withheld.BUSY) else "tile.work_seen")


# ----------------------------------------------------------------------------------------- title, headline, notices


def mark(report: Weekly, lang: Language) -> str:
    """Return what every title and heading of a simulated report begins with."""
    return lang("name.simulated_mark") if report.simulated else ""


def title(report: Weekly, lang: Language) -> str:
    """Return the title, which says what is withheld and that data are simulated."""
    if report.headline is None:
        return lang("title.without_figures", mark=mark(report, lang), period=named(report.period, lang))
    withheld = ""
    if report.withheld:
        words = _withheld_words(report.headline, lang)
        withheld = lang.plural("title.withheld", len(report.headline.withheld), words=words)
    return lang(
        "title.occupancy" if may_say(report, Withheld.OCCUPANCY) else "title.idle",
        mark=mark(report, lang),
        period=named(report.period, lang),
        scope=lang("title.scope", items=scope_text(report, lang)) if report.scope else "",
        sampled="" if report.source is None else lang("title.sampled", exporter=lang.name(report.source.exporter)),
        withheld=withheld,
    )


def scope_text(report: Weekly, lang: Language) -> str:
    """Return what an extract is of: "site north, pool h100"."""
    return lang.commas(
        lang("title.scope_item", field=lang(f"scope.{item.field}"), value=lang.name(item.value))
        for item in report.scope
    )


def kicker(report: Weekly, lang: Language) -> str:
    """Return the line above the title: what kind of report it is, and its span."""
    return lang(f"title.kicker_{report.period.kind.value}", span=period_text(report.period, lang))


def named(period: Period, lang: Language) -> str:
    """Return "week 2026-W47", or "2026-11-16 to 2026-11-18" where the period is neither week nor month."""
    return span_text(period.name, period.kind, lang)


def span_text(name: str, kind: PeriodKind, lang: Language) -> str:
    """Return a period by its name and kind, as `named`."""
    if kind is PeriodKind.SPAN:
        start, _, end = name.partition("--")
        return lang("period.span", **{"from": start, "to": end})
    return lang(f"period.{kind.value}", name=name)


def named_first(period: Period, lang: Language) -> str:
    """Return the period's name as a sentence begins."""
    if period.kind is PeriodKind.SPAN:
        return named(period, lang)
    return lang(f"period.{period.kind.value}_first", name=period.name)


def noun(period: Period, lang: Language) -> str:
    """Return what the period is: "week", "month" or "period"."""
    return lang(f"period.noun_{period.kind.value}")


def _withheld_words(totals: Totals, lang: Language) -> str:
    return lang.listed(lang(f"word.{word.value}") for word in totals.withheld)


def _withheld_notice(totals: Totals, floor_tenths: int, lang: Language) -> str:
    parts = []
    if Withheld.OCCUPANCY in totals.withheld:
        key = "notice.nothing_to_observe" if totals.coverage is None else "notice.coverage"
        parts.append(lang(key, share=lang.percent(totals.coverage)))
    if Withheld.BUSY in totals.withheld:
        parts.append(lang("notice.measured", share=lang.percent(totals.measured)))
    return lang.plural(
        "notice.withheld",
        len(totals.withheld),
        parts=lang.commas(parts),
        floor=lang.tenths(floor_tenths),
        words=_withheld_words(totals, lang),
    )


def headline(report: Weekly, lang: Language = ENGLISH) -> str:
    """Return the headline: one sentence with both bounds, coverage, out and D', then what else a reader asks first."""
    totals, period = report.headline, report.period
    if totals is None:
        return mark(report, lang) + no_figures(report, lang)
    first = lang(
        "headline.idle_uncovered" if totals.coverage is None else "headline.idle",
        mark=mark(report, lang),
        period=named_first(period, lang),
        low=lang.percent(totals.idle.low),
        high=lang.percent(totals.idle.high),
        installed=hours(totals.installed_slice_ms),
        gpus=lang.count(totals.gpus, "gpu"),
        coverage=lang.percent(totals.coverage),
    )
    if totals.out is None or totals.declared_uncovered is None:
        sentences = [lang("headline.out_untold", sentence=first)]
    else:
        out, declared = lang.percent(totals.out), lang.percent(totals.declared_uncovered)
        sentences = [lang("headline.out", sentence=first, out=out, declared=declared)]
    if report.source is not None:
        kind = "counters" if report.source.is_counters else "gauges"
        tag, error = source_words.tag(report.source, lang), source_words.error(report, totals, lang)
        sentences.append(lang(f"headline.sampled_{kind}", tag=tag, error=error))
    sentences.append(_busy(totals, lang))
    worth = money_text(report, lang)
    if worth is not None:
        sentences.append(lang("headline.money", amount=worth))
    sentences.append(free_nodes(report, lang))
    return lang("headline.between").join(sentence for sentence in sentences if sentence)


def money_text(report: Weekly, lang: Language) -> str | None:
    """Return what free hours were worth, "CNY 1,234.56"; None where the price book is not there or lacks a price."""
    money = report.money
    if money is None or money.total.foregone_low is None or money.total.foregone_high is None:
        return None
    low, high = f"{money.total.foregone_low:,.2f}", f"{money.total.foregone_high:,.2f}"
    amount = low if low == high else lang("free.range", low=low, high=high)
    return lang("money.amount", currency=money.currency, amount=amount)


def _busy(totals: Totals, lang: Language) -> str:
    active = lang.percent(totals.engine_active)
    if totals.busy is None:
        return "" if totals.engine_active is None else lang("headline.active", active=active)
    low, high = lang.percent(totals.busy.low), lang.percent(totals.busy.high)
    if totals.engine_active is None:
        return lang("headline.busy", low=low, high=high)
    return lang("headline.busy_active", low=low, high=high, active=active)


def free_nodes(report: Weekly, lang: Language) -> str:
    """Return how many whole nodes were free all the time; whether that is a whole week depends on the period."""
    whole = sum(1 for node in report.idle_list.free if node.kind is FreeKind.ALL_WEEK)
    more = sum(1 for node in report.idle_list.free if node.kind is FreeKind.WHEN_OBSERVED)
    is_whole = report.period.is_complete and report.period.is_from_start and report.period.kind is not PeriodKind.SPAN
    span = lang(f"free.span_{report.period.kind.value if is_whole else 'covered'}")
    beside = lang("free.more", n=f"{more:,}") if more > 0 else ""
    if whole == 0:
        return lang("free.none_all", span=span, more=beside)
    return lang.plural("free.some", whole, span=span, more=beside)


def no_figures(report: Weekly, lang: Language) -> str:
    """Return why the period has no figures."""
    period, first = report.period, named_first(report.period, lang)
    if period.ledger_from_ms is None or period.ledger_to_ms is None:
        return lang("headline.no_figures_empty", period=first)
    reach = {"from": lang.utc(period.ledger_from_ms), "to": lang.utc(period.ledger_to_ms)}
    if period.figures_from_ms is None:
        return lang("headline.no_figures_none", period=first, noun=noun(period, lang), **reach)
    return lang(f"headline.no_figures_{'scope' if report.scope else 'installed'}", period=first, **reach)


def period_text(period: Period, lang: Language) -> str:
    """Return "Mon 16 Nov 2026 00:00 UTC to Mon 23 Nov 2026 00:00 UTC"."""
    return lang("period.text", **{"from": lang.utc(period.start_ms), "to": lang.utc(period.end_ms)})


def notices(report: Weekly, lang: Language = ENGLISH) -> list[str]:
    """Return what must be known before any figure is read, most important first."""
    period, totals = report.period, report.headline
    lines = []
    if report.simulated:
        lines.append(lang("notice.simulated"))
    if report.issue is not None:
        key = "notice.issued" if report.issue.restates is None else "notice.restated"
        lines.append(lang(key, number=report.issue.number, restates=report.issue.restates))
    if totals is None:
        return lines
    if report.scope:
        lines.append(lang("notice.extract", scope=scope_text(report, lang), noun=noun(period, lang)))
    if not period.is_complete and period.figures_to_ms is not None:
        first = lang(f"period.noun_{period.kind.value}_first")
        lines.append(lang("notice.not_complete", noun=first, to=lang.utc(period.figures_to_ms)))
    if not period.is_from_start and period.figures_from_ms is not None:
        start = {"from": lang.utc(period.figures_from_ms)}
        lines.append(lang("notice.begins_within", noun=noun(period, lang), **start))
    if report.source is not None:
        lines += source_words.notices(report, report.source, lang)
    if totals.withheld:
        lines.append(_withheld_notice(totals, report.method.coverage_floor_tenths, lang))
    if report.method.are_intervals_mixed:
        listed = lang.commas(lang.seconds(interval) for interval in report.method.intervals_ms)
        lines.append(lang("notice.mixed", intervals=listed, noun=noun(period, lang)))
    return lines


def no_comparison(report: Weekly, lang: Language) -> str | None:
    """Return why there is no change to the period before, None where there is one."""
    comparison = report.comparison
    previous = "" if comparison.previous is None else span_text(comparison.previous, comparison.previous_kind, lang)
    key = {
        None: None,
        NoComparison.NO_FIGURES: "no_figures",
        NoComparison.NOT_WHOLE: "not_whole",
        NoComparison.PREVIOUS_NOT_IN_LEDGER: "previous_missing",
        NoComparison.PREVIOUS_NOT_WHOLE: "previous_not_whole",
        NoComparison.NONE_BEFORE: "not_a_week",
        NoComparison.NOT_ASKED_FOR: "not_asked",
    }[comparison.absent]
    return None if key is None else lang(f"change.none_{key}", noun=noun(report.period, lang), previous=previous)


def whole_nodes(report: Weekly, lang: Language) -> str:
    """Return "3", or "3 – 5" where more may have been free."""
    kinds = [node.kind for node in report.idle_list.free]
    low = kinds.count(FreeKind.ALL_WEEK)
    high = low + kinds.count(FreeKind.WHEN_OBSERVED)
    return f"{low:,}" if low == high else lang("free.range", low=f"{low:,}", high=f"{high:,}")
