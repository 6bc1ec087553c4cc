# SPDX-License-Identifier: Apache-2.0
"""What is said of an issued report where it is sent to: a subject, and a few sentences within a channel's limit. Pure.

Chat is read by many: names of tenants, users and workloads are in it only where the channel says so.
"""

from __future__ import annotations

from dataclasses import dataclass

from gpuledger_collector.issue.plan import Channel, ChannelKind
from gpuledger_collector.report import words
from gpuledger_collector.report.amounts import hours
from gpuledger_collector.report.idle_model import Holder
from gpuledger_collector.report.languages import Language
from gpuledger_collector.report.model import Weekly

BYTES_MAX = {
    ChannelKind.EMAIL: 1 << 20,
    ChannelKind.SLACK: 3_000,
    ChannelKind.TEAMS: 20_000,
    ChannelKind.FEISHU: 18_000,
    ChannelKind.DINGTALK: 18_000,
    ChannelKind.WECOM: 2_000,
}
"""Bytes of UTF-8 of a whole text, subject included, under what each service takes (Slack 3,000 characters of a block,
Teams 28 KB of a card, Feishu and DingTalk 20 kB, WeCom 2,048 bytes of text)."""
HOLDERS_MAX = 3
_CUT = " …"


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A subject in one line, and a text of plain lines."""

    subject: str
    text: str


def message_of(report: Weekly, channel: Channel, lang: Language) -> Message:
    """Return what a channel is told of a report."""
    subject = one_line(words.title(report, lang))
    lines = [words.headline(report, lang), *words.notices(report, lang)]
    if channel.has_names:
        held = [row for row in report.idle_list.held if row.held_slice_ms > 0][:HOLDERS_MAX]
        lines += [lang("issue.holder", **_holder(row, lang)) for row in held]
    text = cut("\n".join(lines), BYTES_MAX[channel.kind] - len(subject.encode()) - 2)
    return Message(subject=subject, text=text)


def one_line(text: str) -> str:
    """Return a text that can be a header: no line ends, nothing unprintable."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def cut(text: str, bytes_max: int) -> str:
    """Return the text in at most so many bytes of UTF-8, cut between characters and marked where it was."""
    data = text.encode()
    if len(data) <= bytes_max:
        return text
    room = max(0, bytes_max - len(_CUT.encode()))
    return data[:room].decode(errors="ignore").rstrip() + _CUT


def _holder(row: Holder, lang: Language) -> dict[str, str]:
    return {
        "user": lang.opened(row.user_name, row.user_digest),
        "workload": lang.opened(row.workload_name, row.workload_digest),
        "node": lang.name(row.node),
        "hours": hours(row.held_slice_ms),
    }
