# SPDX-License-Identifier: Apache-2.0
"""The table [report]: what may stand in it, and a sentence for what may not."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpuledger.errors import ConfigurationError
from gpuledger_collector.issue import plan_files
from gpuledger_collector.issue.plan import ChannelKind, Plan
from gpuledger_collector.issue.plan_files import load_plan
from gpuledger_collector.report.periods import PeriodKind


def written(folder: Path, text: str) -> Path:
    path = folder / "collector.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_example_is_read(tmp_path: Path) -> None:
    assert plan_files.__doc__ is not None
    plan = load_plan(written(tmp_path, plan_files.__doc__.partition("\n\n")[2]))
    assert (plan.kinds, plan.zone, plan.first) == ((PeriodKind.WEEK, PeriodKind.MONTH), "Europe/Berlin", "2026-W40")
    assert [channel.kind for channel in plan.channels] == [ChannelKind.SLACK, ChannelKind.EMAIL]
    assert plan.channels[1].recipients == ("lender@example.org",)
    assert plan.is_scheduled


def test_without_the_table_weekly_reports_go_nowhere(tmp_path: Path) -> None:
    assert load_plan(written(tmp_path, 'listen = "127.0.0.1:9401"\n')) == Plan()


MAIL = 'name="m"\nkind="email"\nhost="h"\nfrom="a@b"\nto=["c@d"]\n'


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("report = 1", "report is not a table"),
        ("[report]\nzoen = 'UTC'", "unknown key 'zoen'; legal keys: periods, zone"),
        ("[report]\nzone = 'Asia/Kolkata'", "not a whole number of hours from UTC"),
        ("[report]\nfirst = '2026-W54'", "2026 has weeks 2026-W01 to 2026-W53"),
        ("[report]\nperiods = ['day']", "'day' is not one of week, month"),
        ("[report]\nperiods = []", "periods: [] is not a list of week, month"),
        ("[report]\ngrace_hours = -1", "grace_hours: -1 is not from 0 to 336"),
        ("[report]\ngrace_hours = true", "grace_hours: True is not a number of hours"),
        ("[report]\nformats = ['doc']", "'doc' is not one of md"),
        ("[report]\nlangs = ['de']", "'de' is not one of en, zh-CN"),
        ("[report]\nschedule = 1", "schedule: 1 is neither true nor false"),
        ("[[report.channel]]\nkind = 'slack'", "report.channel 1: name is missing"),
        ("[[report.channel]]\nname = 'x'\nkind = 'irc'", "kind: 'irc' is not one of email, slack"),
        ("[[report.channel]]\nname = 'x'\nkind = 'slack'", "url_file (or url_env) is missing"),
        ("[[report.channel]]\nname = 'x'\nkind = 'slack'\nurl = 'https://x'", "unknown key 'url'"),
        ("[[report.channel]]\nname='x'\nkind='slack'\nurl_file='a'\nurl_env='b'", "give one of url_file and url_env"),
        (f"[[report.channel]]\n{MAIL}user = 'u'", "user and password_file (or password_env) go together"),
        (f"[[report.channel]]\n{MAIL}security='none'\nuser='u'\npassword_env='P'", "would be in the open"),
        (f"[[report.channel]]\n{MAIL}port = 0", "port: 0 is not a port"),
        (f"[[report.channel]]\n{MAIL}".replace("c@d", "c@d\\r\\nBcc: x@y"), "is not an address like ops@example.com"),
        (f"[[report.channel]]\n{MAIL}[[report.channel]]\n{MAIL}", "two channels are called 'm'"),
    ],
)
def test_what_is_wrong_is_named_with_file_table_and_key(tmp_path: Path, text: str, why: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ConfigurationError) as refused:
        load_plan(path)
    assert str(refused.value).startswith(f"{path}: report")
    assert why in str(refused.value)
