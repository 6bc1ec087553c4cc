# SPDX-License-Identifier: Apache-2.0
"""Reports delivered for real: by SMTP with TLS to a mail server, and to chat services through Apprise and a proxy."""

from __future__ import annotations

import io
import json
import logging
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, Envelope, LoginPassword, Session

from gpuledger.errors import ConfigurationError
from gpuledger_collector.issue import mail
from gpuledger_collector.issue.chart_png import daily_states_png
from gpuledger_collector.issue.chat import post
from gpuledger_collector.issue.issuing import digest_of
from gpuledger_collector.issue.mail import DeliveryError, compose, send
from gpuledger_collector.issue.message import BYTES_MAX, Message, cut, message_of, one_line
from gpuledger_collector.issue.plan import Channel, ChannelKind, Issued, Secret
from gpuledger_collector.issue.sending import Sender
from gpuledger_collector.report.languages import TAGS, language
from gpuledger_collector.report.periods import PeriodKind
from tests.fakes.certificates import Authority
from tests.fakes.issuing import a_report
from tests.fakes.web_beyond import web_beyond
from tests.integration.engines import free_port

pytestmark = [
    pytest.mark.slow,
    # Apprise imports what Python will drop.
    pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning"),
]

HOOKS = {
    ChannelKind.SLACK: "https://hooks.slack.com/services/T00000000/B00000000/XXXXXXXXXXXXXXXXXXXXXXXX",
    ChannelKind.TEAMS: "https://prod-25.westus.logic.azure.com/workflows/643e69f83c8944438d68119179a10a64/triggers/manual/"
    "paths/invoke?api-version=2016-06-01&sp=%2Ftriggers%2Fmanual%2Frun&sv=1.0&sig=KODuebWbDGYFr0z0eu-6Rj8aUKz7108W",
    ChannelKind.FEISHU: "https://open.feishu.cn/open-apis/bot/v2/hook/abcdef-0123-4567",
    ChannelKind.DINGTALK: "https://oapi.dingtalk.com/robot/send?access_token=abcdefabcdefabcdef",
    ChannelKind.WECOM: "https://qyapi.weixin.qq.com/cgi-bin/webhook/send?key=693a1116-7a0c-4bc4-97a0-0ec2b1fa5aaa",
}
HOSTS = (
    "hooks.slack.com",
    "prod-25.westus.logic.azure.com",
    "open.feishu.cn",
    "oapi.dingtalk.com",
    "qyapi.weixin.qq.com",
)
ISSUED = Issued(number=7, kind=PeriodKind.WEEK, period="2026-W47", issued_ms=0, digest=digest_of(a_report()))


def a_channel(kind: ChannelKind, **more: Any) -> Channel:
    return Channel(name="ops", kind=kind, url=Secret(variable="HOOK"), **more)


# --------------------------------------------------------------------------------------------------------- chat


@pytest.mark.parametrize("kind", HOOKS)
def test_each_chat_service_is_told_in_its_own_way(
    kind: ChannelKind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with web_beyond(tmp_path, HOSTS) as web, caplog.at_level(logging.DEBUG):
        if kind is ChannelKind.SLACK:
            web.body = b"ok"
        monkeypatch.setenv("HTTPS_PROXY", web.url)
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(web.ca))
        Sender({"HOOK": HOOKS[kind]})(a_channel(kind), ISSUED, a_report(), {})
        ((host, line, body),) = web.asked
    assert host == HOOKS[kind].split("/")[2]
    assert line.startswith("POST /")
    text = json.dumps(json.loads(body), ensure_ascii=False)
    assert "GPU" in text
    assert "2026-W47" in text
    secret = HOOKS[kind].rpartition("/")[2].rpartition("=")[2]
    assert secret not in caplog.text


@pytest.mark.parametrize("kind", HOOKS)
def test_a_refusal_is_an_error_that_names_no_address(
    kind: ChannelKind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with web_beyond(tmp_path, HOSTS) as web:
        web.status = 403
        monkeypatch.setenv("HTTPS_PROXY", web.url)
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(web.ca))
        with pytest.raises(DeliveryError) as refused:
            post(a_channel(kind), HOOKS[kind], Message(subject="s", text="t"))
    assert str(refused.value) == f"ops: {kind.value} did not take the message"


@pytest.mark.parametrize("url", ["http://hooks.slack.com/services/T/B/X", "https://hooks.slack.com.evil.org/x", "x"])
def test_an_address_that_is_not_the_services_own_is_refused_without_being_said(url: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        post(a_channel(ChannelKind.SLACK), url, Message(subject="s", text="t"))
    assert url not in str(refused.value)


@pytest.mark.parametrize("tag", TAGS)
@pytest.mark.parametrize("kind", ChannelKind)
def test_a_message_fits_its_channel_and_names_nobody_unless_told_to(kind: ChannelKind, tag: str) -> None:
    report, lang = a_report(), language(tag)
    quiet = message_of(report, a_channel(kind), lang)
    assert len(quiet.subject.encode()) + len(quiet.text.encode()) <= BYTES_MAX[kind]
    names = {row.user_name for row in report.idle_list.held} | {row.workload_name for row in report.idle_list.held}
    assert not any(name in quiet.text for name in names - {None} if name is not None)
    told = message_of(report, a_channel(kind, has_names=True), lang)
    assert any(name in told.text for name in names - {None} if name is not None)


def test_texts_are_cut_between_characters_and_headers_have_one_line() -> None:
    assert cut("闲置" * 100, 20) == "闲置闲置闲 …"
    assert len(cut("闲置" * 100, 20).encode()) <= 20
    assert cut("short", 20) == "short"
    assert one_line("a\r\nBcc: x\x00\x1b[31m") == "a Bcc: x [31m"


# --------------------------------------------------------------------------------------------------------- mail


class Mailbox:
    """What a mail server took."""

    def __init__(self) -> None:
        self.taken: list[tuple[list[str], EmailMessage]] = []
        self.refusal = "250 OK"

    async def handle_DATA(self, server: object, session: Session, envelope: Envelope) -> str:  # noqa: N802 - its name
        if self.refusal.startswith("250"):
            assert isinstance(envelope.content, bytes)
            message = message_from_bytes(envelope.content, policy=default)
            assert isinstance(message, EmailMessage)
            self.taken.append((list(envelope.rcpt_tos), message))
        return self.refusal


@contextmanager
def mail_server(folder: Path, box: Mailbox) -> Iterator[tuple[int, ssl.SSLContext]]:
    """The port of a server that wants STARTTLS and a login, and what trusts it."""
    authority = Authority(folder)
    pair = authority.issue("mail")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.cert, pair.key)

    def login(server: object, session: object, envelope: object, mechanism: str, data: object) -> AuthResult:
        is_right = isinstance(data, LoginPassword) and (data.login, data.password) == (b"gpuledger", b"secret")
        return AuthResult(success=is_right, handled=False)

    controller = Controller(
        box,
        hostname="127.0.0.1",
        port=free_port(),
        tls_context=context,
        require_starttls=True,
        auth_required=True,
        authenticator=login,
        auth_exclude_mechanism=["LOGIN"],
        data_size_limit=64 << 20,
    )
    controller.start()
    try:
        yield controller.port, ssl.create_default_context(cafile=authority.ca)
    finally:
        controller.stop()


def mail_channel(port: int, **more: Any) -> Channel:
    settings: dict[str, Any] = {
        "name": "lenders",
        "kind": ChannelKind.EMAIL,
        "host": "127.0.0.1",
        "port": port,
        "user": "gpuledger",
        "password": Secret(variable="P"),
        "sender": "gpuledger@example.com",
        "recipients": ("lender@example.org", "ops@example.com"),
    }
    return Channel(**settings | more)


def composed(channel: Channel, files: dict[str, bytes]) -> EmailMessage:
    report = a_report()
    message = message_of(report, channel, language("en"))
    return compose(channel, ISSUED, message, files, daily_states_png(report))


def test_a_mail_arrives_with_its_chart_inside_and_its_files_attached(tmp_path: Path) -> None:
    box = Mailbox()
    with mail_server(tmp_path, box) as (port, trust):
        channel = mail_channel(port)
        files = {"weekly-2026-W47.html": b"<p>x</p>\n", "weekly-2026-W47.zh-CN.pdf": b"%PDF-1.7 x"}
        send(channel, composed(channel, files), "secret", trust)
    ((recipients, found),) = box.taken
    assert recipients == ["lender@example.org", "ops@example.com"]
    assert str(found["Subject"]).startswith("GPU idle time, week 2026-W47")
    attached = {part.get_filename(): part.get_content() for part in found.iter_attachments()}
    assert {name: data.encode() if isinstance(data, str) else data for name, data in attached.items()} == files
    html = found.get_body(("html",))
    assert html is not None
    images = [part for part in found.walk() if part.get_content_type() == "image/png"]
    assert f'src="cid:{images[0]["Content-ID"].strip("<>")}"' in html.get_content()
    assert images[0].get_content().startswith(b"\x89PNG")
    plain = found.get_body(("plain",))
    assert plain is not None
    assert "idle" in plain.get_content()


def test_the_same_report_has_the_same_message_id_and_the_same_chart() -> None:
    channel = mail_channel(25)
    assert composed(channel, {})["Message-ID"] == composed(channel, {})["Message-ID"]
    assert daily_states_png(a_report()) == daily_states_png(a_report())


def test_the_chart_has_a_bar_for_each_day() -> None:
    from PIL import Image  # noqa: PLC0415 - a test of nothing else needs it

    data = daily_states_png(a_report())
    assert data is not None
    image = Image.open(io.BytesIO(data))
    row = [image.getpixel((x, image.height // 2)) for x in range(image.width)]
    gaps = sum(1 for before, after in pairwise(row) if after == (255, 255, 255) != before)
    assert gaps == 7


def test_what_is_too_large_is_left_out_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mail, "MAIL_BYTES_MAX", 40_000)
    found = composed(mail_channel(25), {"a.pdf": b"x" * 50_000, "b.csv": b"y"})
    assert [part.get_filename() for part in found.iter_attachments()] == ["b.csv"]
    plain = found.get_body(("plain",))
    assert plain is not None
    assert "a.pdf: too large to be attached" in plain.get_content()


@pytest.mark.parametrize(
    ("password", "refusal", "why"),
    [
        ("wrong", "250 OK", "refused the login (535)"),
        ("secret", "552 too much", "refused the message (552)"),
    ],
)
def test_what_the_server_refuses_is_a_sentence_without_the_password(
    tmp_path: Path, password: str, refusal: str, why: str
) -> None:
    box = Mailbox()
    box.refusal = refusal
    with mail_server(tmp_path, box) as (port, trust):
        channel = mail_channel(port)
        with pytest.raises(DeliveryError, match="lenders: the mail server") as refused:
            send(channel, composed(channel, {}), password, trust)
    assert why in str(refused.value)
    assert not refused.value.may_have_arrived
    assert "secret" not in str(refused.value)


def test_a_server_whose_certificate_nobody_signed_gets_no_password(tmp_path: Path) -> None:
    box = Mailbox()
    with mail_server(tmp_path, box) as (port, _):
        channel = mail_channel(port)
        with pytest.raises(DeliveryError, match="CERTIFICATE_VERIFY_FAILED"):
            send(channel, composed(channel, {}), "secret")
    assert box.taken == []


def test_nobody_there_is_a_sentence() -> None:
    channel = mail_channel(9, host="127.0.0.1")
    with pytest.raises(DeliveryError, match="lenders: the mail server cannot be reached"):
        send(channel, composed(channel, {}), "secret")
