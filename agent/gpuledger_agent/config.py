# SPDX-License-Identifier: Apache-2.0
"""The agent's settings: flags, GPULEDGER_AGENT_* variables, a TOML file, defaults, in that order."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gpuledger import settings
from gpuledger.addresses import read_address
from gpuledger.credentials import NO_CREDENTIALS, Credentials, check_credentials
from gpuledger.errors import ConfigurationError
from gpuledger.logs import LEVELS
from gpuledger.protection import PortConfig
from gpuledger.reading import TEXT_CHARACTERS_MAX, digest
from gpuledger.settings import Loaded, setting
from gpuledger.states import THETA_PPM
from gpuledger_agent.allocations import ORDERS, is_device_file
from gpuledger_agent.holders import IGNORABLE, IGNORABLE_VERSION
from gpuledger_agent.privacy import CHOICES, PLAIN, Privacy
from gpuledger_agent.push_plan import PushPlan
from gpuledger_agent.xids import FATAL, XIDS_VERSION

PREFIX = "GPULEDGER_AGENT"


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentConfig(PortConfig):
    """Everything that can be set; see docs/configuration.md."""

    listen: str = setting("listen", "HOST:PORT to serve metrics and readings on.", "127.0.0.1:9400")
    state_dir: Path = setting(
        "state_dir",
        "Directory of the key, the journal and the crash file; mode 0700.",
        Path("/var/lib/gpuledger-agent"),
    )
    node_name: str | None = setting("node_name", "Name of this node; its host name if not given.", None)
    interval_seconds: float = setting(
        "interval_seconds", "Time between two samples.", 1.0, low=0.5, high=300, flag="--interval"
    )
    journal_days: float = setting("journal.days", "How long sealed readings are kept.", 14.0, low=1, high=400)
    journal_bytes: int = setting(
        "journal.bytes", "How much disk sealed readings may take; the oldest go first.", 512 << 20, low=16 << 20
    )
    operator_users: tuple[str, ...] = setting(
        "operator.users", "Users whose processes are the operator's own load (burn-in, diagnostics).", ()
    )
    operator_executables: tuple[str, ...] = setting(
        "operator.executables", "Executables that are the operator's own load, by process name.", ()
    )
    operator_cgroups: tuple[str, ...] = setting(
        "operator.cgroups", "Cgroups whose processes are the operator's own load: paths (with all below) or globs.", ()
    )
    slurm_cluster: str | None = setting(
        "workloads.slurm_cluster", "Name of this node's Slurm cluster, to go into the names of its jobs.", None
    )
    pod_names_dir: Path = setting(
        "workloads.pod_names_dir",
        "Directory of the kubelet's links to logs; their names say what a pod's container is called.",
        Path("/var/log/containers"),
    )
    are_processes_looked_at: bool = setting(
        "workloads.process_hints",
        "Whether workloads' processes are held against rules that tell programs; no command line leaves.",
        True,
    )
    rules_file: Path | None = setting(
        "workloads.rules_file", "TOML file of the site's own rules that tell programs.", None
    )
    slurm_dir: Path | None = setting(
        "allocations.slurm_dir", "Directory that Slurm's prolog keeps a file for each job in (deploy/slurm).", None
    )
    slurm_gpu_order: str = setting(
        "allocations.slurm_gpu_order",
        "What Slurm's N-th GPU is: by NVML's index (AutoDetect=nvml), by /dev/nvidiaN, or only where both agree.",
        "same",
        choices=ORDERS,
    )
    slurm_gpu_files: tuple[str, ...] = setting(
        "allocations.slurm_gpu_files", "Slurm's GPUs in its order, as /dev/nvidiaN, where it has not all of them.", ()
    )
    pods_socket: Path | None = setting(
        "allocations.pods_socket",
        "The kubelet's socket for pod resources, /var/lib/kubelet/pod-resources/kubelet.sock as a rule.",
        None,
    )
    pods_seconds: float = setting(
        "allocations.pods_seconds", "Time between two questions to the kubelet.", 30.0, low=5, high=3600
    )
    lease_file: Path | None = setting("allocations.lease_file", "TOML file of leases of this node's GPUs.", None)
    privacy_users: str = setting(
        "privacy.users", "Whether the names behind the digests of users may leave the node.", PLAIN, choices=CHOICES
    )
    privacy_workloads: str = setting(
        "privacy.workloads", "The same for workloads: names of processes.", PLAIN, choices=CHOICES
    )
    push_url: str | None = setting(
        "push.url", "Collector to push readings to, http://HOST:PORT or https://HOST:PORT.", None
    )
    push_tls_ca_file: Path | None = setting(
        "push.tls_config.ca_file", "Who signs its certificate, PEM; the machine's authorities if not given.", None
    )
    push_tls_cert_file: Path | None = setting("push.tls_config.cert_file", "Certificate to show it, PEM.", None)
    push_tls_key_file: Path | None = setting("push.tls_config.key_file", "Its private key, PEM.", None)
    push_tls_server_name: str | None = setting(
        "push.tls_config.server_name", "Name to expect in its certificate instead of the address's.", None
    )
    push_bearer_token_file: Path | None = setting("push.bearer_token_file", "File with a token to log in with.", None)
    push_username: str | None = setting("push.basic_auth.username", "User to log in as.", None)
    push_password_file: Path | None = setting("push.basic_auth.password_file", "File with the password.", None)
    push_interval_seconds: float = setting("push.interval_seconds", "Time between two pushes.", 30.0, low=1, high=3600)
    push_timeout_seconds: float = setting("push.timeout_seconds", "Time for one push.", 30.0, low=1, high=300)
    push_batch_readings: int = setting("push.batch_readings", "Readings in one push.", 192, low=1, high=1000)
    push_batch_bytes: int = setting(
        "push.batch_bytes", "Their size, before compression; always one reading.", 2 << 20, low=1 << 17, high=64 << 20
    )
    http_connections: int = setting(
        "http.connections", "Connections served at once; more are refused.", 32, low=2, high=1024
    )
    http_request_seconds: float = setting(
        "http.request_seconds", "Time for one request, handshake and answer included.", 10.0, low=1, high=300
    )
    log_level: str = setting("log_level", "Least level of the log lines.", "info", choices=LEVELS)

    @property
    def interval_ms(self) -> int:
        return round(self.interval_seconds * 1000)

    @property
    def push(self) -> PushPlan | None:
        """Return where and how to push, None where nothing is pushed; raises ConfigurationError."""
        credentials = Credentials(
            ca_file=self.push_tls_ca_file,
            cert_file=self.push_tls_cert_file,
            key_file=self.push_tls_key_file,
            server_name=self.push_tls_server_name,
            bearer_token_file=self.push_bearer_token_file,
            username=self.push_username,
            password_file=self.push_password_file,
        )
        check_credentials(credentials, "push")
        if self.push_url is None:
            if credentials != NO_CREDENTIALS:
                raise ConfigurationError("push.url: missing, yet [push] says how to push")
            return None
        url = read_address(self.push_url, "push.url")
        if credentials != NO_CREDENTIALS and not url.startswith("https:"):
            raise ConfigurationError(
                f"push.url: {url} is not https, so what [push] trusts and shows would be in the open"
            )
        return PushPlan(
            url=url,
            credentials=credentials,
            interval_s=self.push_interval_seconds,
            timeout_s=self.push_timeout_seconds,
            batch_readings=self.push_batch_readings,
            batch_bytes=self.push_batch_bytes,
        )

    @property
    def privacy(self) -> Privacy:
        return Privacy(are_users_open=self.privacy_users == PLAIN, are_workloads_open=self.privacy_workloads == PLAIN)

    def _allocations(self) -> list[str]:
        """Return which sources of allocations there are, and how they are read."""
        slurm = None if self.slurm_dir is None else f"slurm {self.slurm_gpu_order} {' '.join(self.slurm_gpu_files)}"
        pods = None if self.pods_socket is None else "pods"
        leases = None if self.lease_file is None else "leases"
        return [source for source in (slurm, pods, leases) if source is not None]

    def digest(self) -> str:
        """Return the digest of everything that moves time between states; sealed in every reading."""
        facts = {
            "ignorable": sorted(IGNORABLE),
            "ignorable_version": IGNORABLE_VERSION,
            "interval_ms": self.interval_ms,
            "allocations": sorted(self._allocations()),
            "operator_cgroups": sorted(self.operator_cgroups),
            "operator_executables": sorted(self.operator_executables),
            "operator_users": sorted(self.operator_users),
            "theta_ppm": THETA_PPM,
            "xids_fatal": sorted(FATAL),
            "xids_version": XIDS_VERSION,
        }
        return digest(json.dumps(facts, sort_keys=True).encode("utf-8"))


def parse_listen(text: str) -> tuple[str, int]:
    """Return (host, port) of "HOST:PORT" or "[V6]:PORT"; raises ConfigurationError."""
    host, _, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    is_port = port.isascii() and port.isdigit() and len(port) <= 5 and int(port) <= 65535
    if not is_port or not host or not host.isprintable() or any(character in host for character in "[] /"):
        raise ConfigurationError(f"listen: {text!r} is not HOST:PORT with a port from 0 to 65535")
    return host, int(port)


def _check_node_name(name: str | None) -> None:
    if name is not None and not (0 < len(name) <= TEXT_CHARACTERS_MAX and name.isprintable()):
        raise ConfigurationError(
            f"node_name: {name[:40]!r} is not a printable text of 1 to {TEXT_CHARACTERS_MAX} characters"
        )


def _check_gpu_files(files: tuple[str, ...]) -> None:
    for file in files:
        if not is_device_file(file):
            raise ConfigurationError(f"allocations.slurm_gpu_files: {file[:40]!r} is not /dev/nvidiaN")


def load(file: Path | None, environment: Mapping[str, str], flags: Mapping[str, object | None]) -> Loaded[AgentConfig]:
    """Return the settings with their origins; raises ConfigurationError."""
    loaded = settings.load(AgentConfig, file=file, environment=environment, prefix=PREFIX, flags=flags)
    parse_listen(loaded.value.listen)
    _check_node_name(loaded.value.node_name)
    _check_gpu_files(loaded.value.slurm_gpu_files)
    _ = loaded.value.tls, loaded.value.push
    return loaded
