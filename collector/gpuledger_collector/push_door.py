# SPDX-License-Identifier: Apache-2.0
"""POST /v1/readings: a page's bytes from the network, bounded in size, time and number, to whoever takes them in."""

from __future__ import annotations

import asyncio

from aiohttp import web

from gpuledger_collector.receive import RETRY_S, PushFailure, Receipt, Receiver

PUSH_PATH = "/v1/readings"
SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


class PushDoor:
    """Answers pushes; without a receiver it refuses them all."""

    def __init__(self, receiver: Receiver | None, *, bytes_max: int, at_once: int, timeout_s: float) -> None:
        self._receiver, self._bytes_max, self._at_once, self._timeout_s = receiver, bytes_max, at_once, timeout_s
        self._open = 0

    async def answer(self, request: web.Request) -> web.Response:
        receiver = self._receiver
        if receiver is None:
            return _response(Receipt(status=403, body="this collector takes no pushed readings (push.enabled)"))
        if self._open >= self._at_once:
            text = f"{self._at_once} pages are being received already"
            return _response(receiver.fail(PushFailure.BUSY, 503, text))
        self._open += 1
        try:
            return _response(await self._receive(request, receiver))
        finally:
            self._open -= 1

    def note_denial(self) -> None:
        """Count a push from somebody without a login that allows it."""
        if self._receiver is not None:
            self._receiver.fail(PushFailure.DENIED, 401, "somebody pushed without a login that allows it")

    async def _receive(self, request: web.Request, receiver: Receiver) -> Receipt:
        encoding, after = request.headers.get("Content-Encoding", "identity"), request.query.get("after")
        if encoding not in {"gzip", "identity"}:
            return receiver.fail(PushFailure.NOT_JSON, 415, "the body is neither gzip nor plain")
        if after is not None and not (after.isascii() and after.isdecimal() and len(after) <= 19):
            return receiver.fail(PushFailure.REJECTED, 400, "after is not an integer from 0 to 2^63 - 1")
        too_large = f"the body is larger than {self._bytes_max} bytes"
        if (request.content_length or 0) > self._bytes_max:
            return receiver.fail(PushFailure.TOO_LARGE, 413, too_large)
        body = bytearray()
        try:
            async with asyncio.timeout(self._timeout_s):
                async for chunk in request.content.iter_any():
                    body += chunk
                    if len(body) > self._bytes_max:
                        return receiver.fail(PushFailure.TOO_LARGE, 413, too_large)
        except TimeoutError:
            text = f"the page did not come within {self._timeout_s:g} s"
            return receiver.fail(PushFailure.TIMEOUT, 408, text)
        except (ConnectionError, web.PayloadAccessError, web.RequestPayloadError) as exc:
            # Nobody is there to read the answer.
            return receiver.fail(PushFailure.DROPPED, 400, f"the page broke off: {exc}")
        position = None if after is None else int(after)
        return await receiver.receive(bytes(body), is_compressed=encoding == "gzip", after=position)


def _response(receipt: Receipt) -> web.Response:
    headers = dict(SECURITY_HEADERS)
    if receipt.status == 503:
        headers["Retry-After"] = str(RETRY_S)
    kind = "application/json" if receipt.is_json else "text/plain"
    answer = web.Response(status=receipt.status, text=f"{receipt.body}\n", headers=headers, content_type=kind)
    if receipt.status != 200:
        # There may be more of the body, which nobody reads.
        answer.force_close()
    return answer
