# SPDX-License-Identifier: Apache-2.0
"""The built-in schedule: the collector issues by itself what is due, as `gpuledger report due` would.

It is asked to every few minutes; which period is due follows from the clock and from what was issued, so a turn that
was missed, or ten, change nothing but the moment.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from gpuledger.clock import Clock
from gpuledger.errors import GpuledgerError
from gpuledger_collector.config import CollectorConfig
from gpuledger_collector.issue.due_command import ISSUED
from gpuledger_collector.issue.issued_files import AlreadyIssuingError, IssuedFiles
from gpuledger_collector.issue.issuing import issue_due
from gpuledger_collector.issue.ledger_reading import open_reading
from gpuledger_collector.issue.plan import Plan
from gpuledger_collector.issue.sending import Sender

TURN_S = 300.0

logger = logging.getLogger(__name__)


class Clerk:
    """Issues reports of one state directory; one turn at a time."""

    def __init__(self, plan: Plan, config: CollectorConfig, environment: Mapping[str, str], clock: Clock) -> None:
        self._plan, self._state_dir, self._prices, self._clock = plan, config.state_dir, config.prices, clock
        self._sender = Sender(environment)
        self._trouble: str | None = None

    def turn(self) -> None:
        """Issue what is due; what goes wrong is logged once, and tried again at the next turn."""
        files = IssuedFiles(self._state_dir / ISSUED)
        try:
            with files.locked():
                outcome = issue_due(
                    self._plan,
                    open_reading(self._state_dir, self._prices),
                    files,
                    self._sender,
                    self._clock.wall_ns() // 1_000_000,
                )
        except AlreadyIssuingError:
            return
        except GpuledgerError as exc:
            self._say(str(exc))
            return
        self._say("; ".join(why for _, _, why in outcome.failed) or None)

    def _say(self, trouble: str | None) -> None:
        if trouble is not None and trouble != self._trouble:
            logger.error("report_not_issued", extra={"why": trouble})
        if trouble is None and self._trouble is not None:
            logger.info("report_issuing_recovered")
        self._trouble = trouble
