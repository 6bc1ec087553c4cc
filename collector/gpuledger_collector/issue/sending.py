# SPDX-License-Identifier: Apache-2.0
"""Sends one report to one channel, whichever kind it is."""

from __future__ import annotations

from collections.abc import Mapping

from gpuledger_collector.issue import chat, mail
from gpuledger_collector.issue.chart_png import daily_states_png
from gpuledger_collector.issue.message import message_of
from gpuledger_collector.issue.plan import Channel, ChannelKind, Issued
from gpuledger_collector.issue.secrets import read_secret
from gpuledger_collector.report.languages import language
from gpuledger_collector.report.model import Weekly


class Sender:
    """Reads secrets when they are needed, from files and this environment."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment

    def __call__(self, channel: Channel, issued: Issued, report: Weekly, files: Mapping[str, bytes]) -> None:
        """Send; raises DeliveryError where it did not arrive, ConfigurationError where it cannot be sent at all."""
        message = message_of(report, channel, language(channel.lang))
        where = f"channel {channel.name}"
        if channel.kind is not ChannelKind.EMAIL:
            assert channel.url is not None
            chat.post(channel, read_secret(channel.url, self._environment, where), message)
            return
        password = None if channel.password is None else read_secret(channel.password, self._environment, where)
        attached = {name: data for name, data in files.items() if name.rpartition(".")[2] in channel.formats}
        composed = mail.compose(channel, issued, message, attached, daily_states_png(report))
        mail.send(channel, composed, password)
