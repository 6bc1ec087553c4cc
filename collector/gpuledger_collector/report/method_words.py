# SPDX-License-Identifier: Apache-2.0
"""The method box: what the figures rest on, as (term, text)."""

from __future__ import annotations

from gpuledger.cells import CELL_MS, SLICES_PER_GPU
from gpuledger.states import OUT, State
from gpuledger_collector.report import source_words, words
from gpuledger_collector.report.amounts import hours
from gpuledger_collector.report.languages import Language
from gpuledger_collector.report.model import TrustLevel, Weekly, Withheld


def method_lines(report: Weekly, lang: Language) -> list[tuple[str, str]]:
    """Return the method box as (term, text)."""
    method, totals, source = report.method, report.headline, report.source
    noun = words.noun(report.period, lang)
    kind = "text" if method.is_digest_of_rows else "files"
    busy = "busy" if words.may_say(report, Withheld.BUSY) else "work_seen"
    busy_text = lang("method.busy_text", busy=words.state_label(State.BUSY, report, lang))
    theta = lang.tenths(method.theta_ppm // 1000)
    lines = [
        (lang("method.installed"), lang(f"method.installed_{'roster' if source is None else 'engine'}")),
        (lang("method.idle"), lang("method.idle_text")),
        (lang(f"method.{busy}"), busy_text),
        *([(lang("method.out"), lang("method.out_text"))] if _tells_out(report) else []),
        (lang("method.coverage"), lang("method.coverage_text")),
        (lang("method.declared"), lang(f"method.declared_{'text' if source is None else 'engine'}")),
        (lang("method.threshold"), lang("method.threshold_text", theta=theta, cell=lang.seconds(CELL_MS))),
        (lang("method.rounding"), lang("method.rounding_text")),
        (lang("method.sampling"), _sampling(report, noun, lang)),
    ]
    if source is not None:
        lines += source_words.method_lines(report, source, lang)
    if totals is not None and (source is None or not source.is_counters):
        known = {"part": hours(totals.active_known_slice_ms), "whole": hours(totals.installed_slice_ms)}
        lines.append((lang("method.active"), lang("method.active_text", **known)))
    if method.hang_suspicion_ms > 0:
        amount = hours(method.hang_suspicion_ms * SLICES_PER_GPU)
        lines.append((lang("method.hangs"), lang("method.hangs_text", amount=amount)))
    lines += [
        (lang("method.trust"), _trust(report, lang)),
        (lang("method.not_shown"), lang(f"method.not_shown_{'text' if source is None else 'engine'}")),
        (lang("method.ledger"), lang(f"method.ledger_{kind}", noun=noun, digest=method.ledger_digest)),
    ]
    return lines


def _tells_out(report: Weekly) -> bool:
    return report.source is None or not OUT & set(report.source.untold)


def _trust(report: Weekly, lang: Language) -> str:
    level = {found: lang(f"method.trust_{found.value.lower()}") for found in TrustLevel}
    method = report.method
    if report.source is not None:
        return lang("method.trust_engine", level=level[method.readings_trust])
    return lang("method.trust_text", readings=level[method.readings_trust], roster=level[method.roster_trust])


def _sampling(report: Weekly, noun: str, lang: Language) -> str:
    method = report.method
    if not method.intervals_ms:
        return lang("method.sampling_none", noun=noun)
    intervals = lang.commas(lang.seconds(interval) for interval in method.intervals_ms)
    sources = lang.commas(lang.name(source) for source in method.activity_sources) or lang("method.sources_none")
    key = "method.sampling_mixed" if method.are_intervals_mixed else "method.sampling_text"
    return lang(key, intervals=intervals, sources=sources)
