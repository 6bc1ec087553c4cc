# SPDX-License-Identifier: Apache-2.0
"""The only door to Apprise, which knows how each chat service wants to be told."""

from __future__ import annotations

import logging
from urllib.parse import parse_qs, urlsplit

from gpuledger.errors import ConfigurationError
from gpuledger_collector.issue.mail import DeliveryError
from gpuledger_collector.issue.message import Message
from gpuledger_collector.issue.plan import Channel, ChannelKind

_HOSTS = {
    ChannelKind.SLACK: ("hooks.slack.com",),
    ChannelKind.TEAMS: (".logic.azure.com",),
    ChannelKind.FEISHU: ("open.feishu.cn", "open.larksuite.com"),
    ChannelKind.DINGTALK: ("oapi.dingtalk.com",),
    ChannelKind.WECOM: ("qyapi.weixin.qq.com",),
}
"""Where a webhook of each kind lives: an address elsewhere is a mistake, or somebody's trap."""


def check_url(kind: ChannelKind, url: str, where: str) -> None:
    """Raise ConfigurationError for an address that is not one of the service's; it is a secret, so it is not said."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    is_known = any(host.endswith(known) if known.startswith(".") else host == known for known in _HOSTS[kind])
    if parts.scheme != "https" or not is_known:
        raise ConfigurationError(f"{where}: not an https address of {kind.value} ({', '.join(_HOSTS[kind])})")


def service_url(kind: ChannelKind, url: str) -> str:
    """Return the webhook's address as Apprise takes it: for two services it knows no webhook by its own address."""
    parts = urlsplit(url)
    if kind is ChannelKind.DINGTALK:
        return "dingtalk://" + "".join(parse_qs(parts.query).get("access_token", [""])[:1])
    if kind is ChannelKind.FEISHU and parts.hostname == "open.feishu.cn":
        return "feishu://" + parts.path.rstrip("/").rpartition("/")[2]
    return url


def post(channel: Channel, url: str, message: Message) -> None:
    """Post the message; raises DeliveryError where the service did not take it, without a word about the address."""
    check_url(channel.kind, url, f"channel {channel.name}: its address")
    # Here and not above: it is slow to import, and only who has such a channel needs it.
    try:
        import apprise  # noqa: PLC0415
    except ImportError as exc:
        raise ConfigurationError("chat channels need the extra `report`: pip install 'gpuledger[report]'") from exc
    # They log addresses; what matters of a failure is said here.
    for name in ("apprise", "urllib3"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    service = apprise.Apprise()
    if not service.add(service_url(channel.kind, url)):
        raise ConfigurationError(f"channel {channel.name}: its address is not one that {channel.kind.value} hands out")
    if not service.notify(title=message.subject, body=message.text, body_format=apprise.NotifyFormat.TEXT):
        raise DeliveryError(f"{channel.name}: {channel.kind.value} did not take the message", may_have_arrived=False)
