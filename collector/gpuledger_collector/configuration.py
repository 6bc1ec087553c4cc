# SPDX-License-Identifier: Apache-2.0
"""The settings that bear on figures, in the log whenever they are others than those logged last."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict

from gpuledger import __version__
from gpuledger.errors import StorageError
from gpuledger_collector.catalog import Catalog
from gpuledger_collector.config import CollectorConfig
from gpuledger_collector.given_entries import ConfigurationEntry
from gpuledger_collector.scheduler_files import Scheduler

logger = logging.getLogger(__name__)


class ConfigurationRecord:
    """Logs the settings of this run once; no secrets, no paths, no addresses."""

    def __init__(self, catalog: Catalog, config: CollectorConfig, schedulers: Sequence[Scheduler]) -> None:
        self._catalog = catalog
        self._settings = settings_of(config, schedulers)
        self._is_logged = False

    def sync(self, now_ms: int) -> None:
        """Log them unless they are those logged last; a log that refuses is asked again next time."""
        if self._is_logged:
            return
        try:
            if self._catalog.store.configuration() != self._settings:
                self._catalog.commit([ConfigurationEntry(at_ms=now_ms, settings=self._settings)], now_ms=now_ms)
        except StorageError as exc:
            logger.warning("configuration_not_logged", extra={"why": str(exc)})
            return
        self._is_logged = True


def settings_of(config: CollectorConfig, schedulers: Sequence[Scheduler]) -> dict[str, str]:
    """Return the settings that bear on figures, as texts."""
    return {
        "version": __version__,
        "roster": "discovered" if config.roster is None else "declared",
        "leases": "none" if config.leases is None else "declared",
        "enrolment": "first sight" if config.enrolment is None else "declared",
        "settle_grace_ms": str(config.settle_grace_ms),
        "reading_age_days": str(config.reading_age_days),
        "accept_simulated": str(config.accept_simulated).lower(),
        "push": str(config.is_push_enabled).lower(),
        **{f"retention_{kind}": str(days) for kind, days in asdict(config.policy).items() if days is not None},
        **{f"scheduler {one.name}": f"{one.kind}, every {one.interval_s:g} s" for one in schedulers},
    }
