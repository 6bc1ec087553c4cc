# SPDX-License-Identifier: Apache-2.0
"""What came in by polling and by push, as one."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from gpuledger_collector.answers import PollFigures
from gpuledger_collector.poll import Poller
from gpuledger_collector.receive import Receiver


class Arrivals:
    """What came in by polling and by push, together; fulfils snapshot.Polling."""

    def __init__(self, poller: Poller, receiver: Receiver | None) -> None:
        self._poller, self._receiver = poller, receiver

    @property
    def has_asked_everyone(self) -> bool:
        # Who pushes cannot be asked: after a start, whoever waits for all must wait until it is quiet.
        return self._receiver is None and self._poller.has_asked_everyone

    def figures(self) -> PollFigures:
        polled = self._poller.figures()
        if self._receiver is None:
            return polled
        pushed = self._receiver.figures()
        return replace(
            polled,
            accepted=polled.accepted + pushed.accepted,
            refused=Counter(polled.refused) + Counter(pushed.refused),
            pushed_pages=pushed.pages,
            push_failures=pushed.failures,
        )
