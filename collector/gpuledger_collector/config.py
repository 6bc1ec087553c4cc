# SPDX-License-Identifier: Apache-2.0
"""The collector's settings: flags, GPULEDGER_COLLECTOR_* variables, a TOML file, defaults, in that order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gpuledger import settings
from gpuledger.checkpoint import check_origin
from gpuledger.errors import ConfigurationError, SealError
from gpuledger.logs import LEVELS
from gpuledger.protection import PortConfig
from gpuledger.settings import Loaded, Pairs, setting
from gpuledger_collector.roster import UNKNOWN_PLACE
from gpuledger_collector.scheduler_files import TABLES

PREFIX = "GPULEDGER_COLLECTOR"
TARGETS_TABLE = "group"
"""Tables [[group]] of the same file say which agents to poll; `targets` reads them."""
REPORT_TABLE = "report"
"""The table [report] says which reports are issued and where they go; `issue.plan_files` reads it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Days that each kind is kept; None is for ever. Workloads never outlive their readings."""

    reading_days: int | None = None
    workload_days: int | None = None
    ledger_days: int | None = None
    finding_days: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectorConfig(PortConfig):
    """Everything that can be set; see docs/configuration.md."""

    listen: str = setting("listen", "HOST:PORT to serve page, API and metrics on.", "127.0.0.1:9401")
    state_dir: Path = setting(
        "state_dir", "Directory of the log, its index and the ledger; one collector each.", Path("/var/lib/gpuledger")
    )
    reports_dir: Path | None = setting(
        "reports_dir", "Directory of reports that the page lets people download (`report weekly --out`).", None
    )
    roster: Path | None = setting(
        "roster", "Declared roster, TOML or CSV (docs/roster.md); without one GPUs are discovered.", None
    )
    leases: Path | None = setting(
        "leases", "Lease book, TOML or CSV (docs/leases.md); without one time is of no lease.", None
    )
    prices: Path | None = setting(
        "prices", "Price book, TOML (docs/prices.md); without one reports give no amounts of money.", None
    )
    names_secret: Path | None = setting(
        "names_secret",
        "File of the secret of names' digests, mode 0600; the same for collectors of one site. Default: names.key in "
        "the state directory.",
        None,
    )
    enrolment: Path | None = setting(
        "enrolment", "File of the keys that may write (docs/log.md); without one a key counts at first sight.", None
    )
    process_rules: Path | None = setting(
        "process_rules", "The site's own rules about processes, as its agents have them (docs/classification.md).", None
    )
    declared_rules: Path | None = setting(
        "declared_rules", "The site's rules about what is declared: partitions, users, names.", None
    )
    log_origin: str | None = setting(
        "log_origin", "Name of a new log, like example.com/gpuledger/fra1; without one it is made of its key.", None
    )
    poll_interval_seconds: float = setting(
        "poll_interval_seconds", "Time between two polls of an agent.", 30.0, low=1, high=3600
    )
    settle_grace_seconds: float = setting(
        "settle_grace_seconds", "How long after its end a cell waits for its readings.", 90.0, low=0, high=3600
    )
    refresh_interval_seconds: float = setting(
        "refresh_interval_seconds", "Time between two refreshes of the ledger.", 30.0, low=1, high=3600
    )
    http_request_seconds: float = setting(
        "http.request_seconds",
        "Time for the head of a request, for a pushed page, and for an answer.",
        30.0,
        low=1,
        high=300,
    )
    is_unprotected_allowed: bool = setting(
        "http.allow_unprotected",
        "Listen without TLS or a login where others can reach it: the network then must keep strangers out.",
        False,
    )
    is_push_enabled: bool = setting("push.enabled", "Take in readings that agents push.", False)
    push_bearer_tokens_file: Path | None = setting(
        "push.bearer_tokens_file", "File of the tokens of those who may push and nothing else; mode 0600 or 0640.", None
    )
    push_basic_auth_users: Pairs = setting("push.basic_auth_users", "The same by user and digest of the password.", ())
    push_site: str = setting(
        "push.site", "Where nodes stand that only push, if no roster says otherwise.", UNKNOWN_PLACE
    )
    push_cluster: str = setting("push.cluster", "Their cluster.", UNKNOWN_PLACE)
    push_pool: str = setting("push.pool", "Their pool.", UNKNOWN_PLACE)
    accept_simulated: bool = setting(
        "accept_simulated", "Take in SIMULATED readings too; everything then says SIMULATED.", False
    )
    log_level: str = setting("log_level", "Least level of the log lines.", "info", choices=LEVELS)
    poll_timeout_seconds: float = setting(
        "limits.poll_timeout_seconds", "Time for one answer of an agent.", 10.0, low=0.1, high=600
    )
    concurrent_polls: int = setting("limits.concurrent_polls", "Agents asked at once.", 64, low=1, high=10_000)
    answer_bytes: int = setting(
        "limits.answer_bytes", "Size of one answer of an agent, and of one pushed page.", 8 << 20, low=1 << 17
    )
    concurrent_pushes: int = setting("limits.concurrent_pushes", "Pages received at once.", 16, low=1, high=1000)
    reading_age_days: int = setting(
        "limits.reading_age_days", "Readings that ended longer ago are refused: a wrong clock.", 90, low=15, high=3650
    )

    reading_days: int | None = setting(
        "retention.reading_days",
        "Days that readings stay in the log; none: for ever.",
        None,
        low=15,
    )
    workload_days: int | None = setting(
        "retention.workload_days", "Days that the workloads beside readings stay; none: as long as these.", None, low=15
    )
    ledger_days: int | None = setting(
        "retention.ledger_days", "Days that hourly rows stay in the ledger; none: for ever.", None, low=35
    )
    finding_days: int | None = setting(
        "retention.finding_days", "Days that findings are shown; none: for ever.", None, low=35
    )

    @property
    def policy(self) -> Policy:
        """Return what is kept for how long."""
        return Policy(
            reading_days=self.reading_days,
            workload_days=self.workload_days,
            ledger_days=self.ledger_days,
            finding_days=self.finding_days,
        )

    @property
    def pushers(self) -> tuple[Pairs, Path | None]:
        """Return the users and the file of tokens of those who may push; without any of their own, the port's."""
        if self.push_basic_auth_users or self.push_bearer_tokens_file is not None:
            return self.push_basic_auth_users, self.push_bearer_tokens_file
        return self.basic_auth_users, self.bearer_tokens_file

    def check_protection(self, address: str) -> tuple[str, ...]:
        """Return what a port on `address` (numeric) lacks and may lack; raises ConfigurationError where it may not."""
        missing = self.missing_protection(address)
        if missing and not self.is_unprotected_allowed:
            raise ConfigurationError(
                f"listen: anybody who reaches {address} could see who uses which GPU, and there is no "
                f"{' and no '.join(name.removeprefix('a ') for name in missing)}; set tls_server_config and "
                "bearer_tokens_file, basic_auth_users or certificates of clients, listen on 127.0.0.1, or, where the "
                "network keeps strangers out, set http.allow_unprotected"
            )
        return missing

    def check_push(self, address: str) -> None:
        """Raise ConfigurationError where anybody on the network could push to a port on `address` (numeric)."""
        users, tokens_file = self.pushers
        is_open = not users and tokens_file is None
        if self.is_push_enabled and is_open and "a login" in self.missing_protection(address):
            raise ConfigurationError(
                f"push.enabled: anybody who reaches {address} could push; set push.bearer_tokens_file or ask clients "
                "for certificates"
            )

    @property
    def settle_grace_ms(self) -> int:
        return round(self.settle_grace_seconds * 1000)


def parse_listen(text: str) -> tuple[str, int]:
    """Return (host, port) of "HOST:PORT" or "[V6]:PORT"; raises ConfigurationError."""
    host, separator, port = text.rpartition(":")
    if not separator or not (port.isascii() and port.isdigit()) or int(port) > 65535 or not host:
        raise ConfigurationError(f"listen: {text!r} is not HOST:PORT with a port from 0 to 65535")
    return host.strip("[]"), int(port)


def _check_retention(config: CollectorConfig) -> None:
    """Raise ConfigurationError where a reading may come whose hour is final already."""
    for key, days in (
        ("reading_days", config.reading_days),
        ("workload_days", config.workload_days),
    ):
        if days is not None and days < config.reading_age_days:
            raise ConfigurationError(
                f"retention.{key}: {days} days are less than limits.reading_age_days, {config.reading_age_days}: "
                "readings would be taken in of hours that cannot be worked out any more"
            )


def load(
    file: Path | None, environment: Mapping[str, str], flags: Mapping[str, object | None]
) -> Loaded[CollectorConfig]:
    """Return the settings with their origins; raises ConfigurationError."""
    loaded = settings.load(
        CollectorConfig,
        file=file,
        environment=environment,
        prefix=PREFIX,
        flags=flags,
        foreign_tables=TABLES | {TARGETS_TABLE, REPORT_TABLE},
    )
    parse_listen(loaded.value.listen)
    _check_retention(loaded.value)
    _ = loaded.value.tls
    if loaded.value.log_origin is not None:
        try:
            check_origin(loaded.value.log_origin)
        except SealError as exc:
            raise ConfigurationError(f"log_origin: {exc}") from exc
    return loaded
