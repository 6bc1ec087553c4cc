# SPDX-License-Identifier: Apache-2.0
"""What came in by polling and by push, as one."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from gpuledger_collector.answers import PollFigures
from gpuledger_collector.poll import Poller
from gpuledger_collector.receive import Receiver
from gpuledger_collector.scheduler_watch import SchedulerWatch
from gpuledger_collector.target_sources import Discovery


class Arrivals:
    """What came in by polling and by push, and how whom to poll is known; fulfils snapshot.Polling."""

    def __init__(
        self,
        poller: Poller,
        receiver: Receiver | None,
        discovery: Discovery | None,
        schedulers: SchedulerWatch | None = None,
    ) -> None:
        self._poller, self._receiver, self._discovery = poller, receiver, discovery
        self._schedulers = schedulers

    @property
    def has_asked_everyone(self) -> bool:
        # Who pushes cannot be asked: after a start, whoever waits for all must wait until it is quiet.
        is_list_known = self._discovery is None or self._discovery.is_complete
        return self._receiver is None and is_list_known and self._poller.has_asked_everyone

    def figures(self) -> PollFigures:
        found = self._poller.figures()
        if self._receiver is not None:
            pushed = self._receiver.figures()
            found = replace(
                found,
                accepted=found.accepted + pushed.accepted,
                refused=Counter(found.refused) + Counter(pushed.refused),
                pushed_pages=pushed.pages,
                push_failures=pushed.failures,
            )
        if self._discovery is not None:
            lists = self._discovery.figures()
            found = replace(found, lists_up=lists.up, list_failures=lists.failures, targets_refused=lists.refused)
        if self._schedulers is not None:
            schedulers = self._schedulers.figures()
            troubles = {
                f"scheduler {name}": f"scheduler {name}: {known.trouble}"
                for name, known in schedulers.items()
                if known.trouble is not None
            }
            found = replace(found, schedulers=schedulers, troubles={**found.troubles, **troubles})
        return found
