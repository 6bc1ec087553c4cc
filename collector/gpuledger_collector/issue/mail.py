# SPDX-License-Identifier: Apache-2.0
"""The only door to SMTP: one report as one message, with its chart inline and its files attached."""

from __future__ import annotations

import hashlib
import smtplib
import ssl
from collections.abc import Mapping
from email.message import EmailMessage
from email.policy import SMTP
from html import escape

from gpuledger.errors import GpuledgerError
from gpuledger_collector.issue.message import Message
from gpuledger_collector.issue.plan import Channel, Issued

TIMEOUT_S = 60
MAIL_BYTES_MAX = 20 << 20
"""What most servers take. Attachments beyond it are left out, and named in the text."""
_TYPES = {
    "pdf": ("application", "pdf"),
    "html": ("text", "html"),
    "csv": ("text", "csv"),
    "json": ("application", "json"),
    "md": ("text", "markdown"),
}


class DeliveryError(GpuledgerError):
    """A message did not arrive; the sentence names no secret. `may_have_arrived`: nobody can tell."""

    def __init__(self, text: str, *, may_have_arrived: bool = False) -> None:
        super().__init__(text)
        self.may_have_arrived = may_have_arrived


def compose(
    channel: Channel, issued: Issued, message: Message, files: Mapping[str, bytes], chart: bytes | None
) -> EmailMessage:
    """Return the message. Its Message-ID follows from what it is, so a server that sees it twice can tell."""
    mail = EmailMessage(policy=SMTP)
    mail["Subject"] = message.subject
    mail["From"] = channel.sender or ""
    mail["To"] = ", ".join(channel.recipients)
    identity = hashlib.sha256(f"{channel.name}/{issued.number}/{issued.digest}".encode()).hexdigest()[:32]
    domain = (channel.sender or "").rpartition("@")[2]
    mail["Message-ID"] = f"<{identity}@{domain}>"
    mail["Auto-Submitted"] = "auto-generated"
    room = MAIL_BYTES_MAX * 3 // 4 - sum(len(data) for data in (chart or b"", message.text.encode()))
    attached, left_out = {}, []
    for name, data in files.items():
        if len(data) <= room:
            attached[name], room = data, room - len(data)
        else:
            left_out.append(name)
    text = message.text + "".join(f"\n{name}: too large to be attached" for name in left_out)
    mail.set_content(text)
    paragraphs = "".join(f"<p>{escape(line)}</p>" for line in text.split("\n"))
    image = f'<p><img src="cid:{identity}" alt="{escape(message.subject, quote=True)}"></p>' if chart else ""
    mail.add_alternative(f"<html><body>{paragraphs}{image}</body></html>", subtype="html")
    if chart is not None:
        html = mail.get_payload()[1]  # type: ignore[index]
        html.add_related(chart, maintype="image", subtype="png", cid=f"<{identity}>")  # type: ignore[union-attr]
    for name, data in attached.items():
        maintype, subtype = _TYPES.get(name.rpartition(".")[2], ("application", "octet-stream"))
        mail.add_attachment(data, maintype=maintype, subtype=subtype, filename=name)
    return mail


def send(channel: Channel, mail: EmailMessage, password: str | None, context: ssl.SSLContext | None = None) -> None:
    """Hand the message to the channel's server; raises DeliveryError, unless every recipient was taken."""
    begun = False
    try:
        trust = ssl.create_default_context() if context is None else context
        if channel.security == "tls":
            server: smtplib.SMTP = smtplib.SMTP_SSL(channel.host or "", channel.port, timeout=TIMEOUT_S, context=trust)
        else:
            server = smtplib.SMTP(channel.host or "", channel.port, timeout=TIMEOUT_S)
        with server:
            if channel.security == "starttls":
                server.starttls(context=trust)
            if channel.user is not None:
                server.login(channel.user, password or "")
            begun = True
            refused = server.send_message(mail, from_addr=channel.sender, to_addrs=list(channel.recipients))
    except smtplib.SMTPAuthenticationError as exc:
        raise DeliveryError(f"{channel.name}: the mail server refused the login ({exc.smtp_code})") from exc
    except smtplib.SMTPResponseException as exc:
        raise DeliveryError(f"{channel.name}: the mail server refused the message ({exc.smtp_code})") from exc
    except smtplib.SMTPRecipientsRefused as exc:
        raise DeliveryError(f"{channel.name}: the mail server refused every recipient") from exc
    except smtplib.SMTPServerDisconnected as exc:
        text = f"{channel.name}: the mail server hung up"
        raise DeliveryError(text, may_have_arrived=begun) from exc
    except (smtplib.SMTPException, OSError) as exc:
        text = f"{channel.name}: the mail server cannot be reached: {exc}"
        raise DeliveryError(text, may_have_arrived=begun) from exc
    if refused:
        raise DeliveryError(f"{channel.name}: the mail server refused {len(refused)} recipients", may_have_arrived=True)
