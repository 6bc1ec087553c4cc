# SPDX-License-Identifier: Apache-2.0
"""Why a poll failed, as a label and as a sentence."""

from __future__ import annotations

import json
import ssl
from enum import Enum
from typing import Any

import aiohttp

_ERROR_CHARACTERS_MAX = 200


class Failure(str, Enum):
    """Why a poll failed; the value is the metric label."""

    UNREACHABLE = "unreachable"
    REFUSED = "refused"
    TIMEOUT = "timeout"
    TLS = "tls"
    CREDENTIALS = "credentials"
    """A file of ours with a certificate, token or password cannot be used."""
    DROPPED = "dropped"
    """The connection ended, or what came over it was not HTTP."""
    HTTP_STATUS = "http_status"
    TOO_LARGE = "too_large"
    NOT_JSON = "not_json"
    REJECTED = "rejected"
    """JSON, but as a whole not an answer that can be taken in."""
    STUCK = "stuck"
    """The agent says that more waits, and the next page leads no further."""
    STORAGE = "storage"
    """Our own disk: the agent is asked again, nothing is lost."""
    INTERNAL = "internal"
    """An error of ours that this answer brings out; it must not take the other targets down with it."""


class PollError(Exception):
    """One poll failed; the text goes on from the target's address."""

    def __init__(self, failure: Failure, text: str) -> None:
        super().__init__(text)
        self.failure = failure


def document_of(body: bytes) -> dict[str, Any]:
    """Return the JSON object of an answer; raises PollError."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as exc:
        raise PollError(Failure.NOT_JSON, f"does not answer with JSON ({shorten(exc)})") from exc
    if not isinstance(document, dict):
        raise PollError(Failure.NOT_JSON, f"answers with a JSON {type(document).__name__}, not with an object")
    return document


def shorten(error: Exception) -> str:
    """Return an error in one line of a bounded length."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= _ERROR_CHARACTERS_MAX else text[: _ERROR_CHARACTERS_MAX - 1] + "…"


def explain(error: Exception, timeout_s: float) -> tuple[Failure, str]:
    """Return the reason for a failed request, and a sentence that goes on from the target's address."""
    if isinstance(error, TimeoutError):
        return Failure.TIMEOUT, f"did not answer within {timeout_s:g} s"
    if isinstance(error, aiohttp.ClientSSLError | ssl.SSLError) or isinstance(error.__cause__, ssl.SSLError):
        return Failure.TLS, f"cannot be trusted or does not speak TLS: {shorten(error)}"
    if isinstance(error, aiohttp.ClientConnectorError):
        if isinstance(error.os_error, ConnectionRefusedError):
            return Failure.REFUSED, "refuses the connection: no agent listens there"
        return Failure.UNREACHABLE, f"cannot be reached: {shorten(error.os_error)}"
    return Failure.DROPPED, f"broke off or does not speak HTTP: {shorten(error)}"
