# SPDX-License-Identifier: Apache-2.0
"""The agent's settings: flags, GPULEDGER_AGENT_* variables, a TOML file, defaults, in that order."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gpuledger import settings
from gpuledger.errors import ConfigurationError
from gpuledger.logs import LEVELS
from gpuledger.reading import TEXT_CHARACTERS_MAX, digest
from gpuledger.settings import Loaded, Pairs, setting
from gpuledger.states import THETA_PPM
from gpuledger_agent.allocations import ORDERS, is_device_file
from gpuledger_agent.holders import IGNORABLE, IGNORABLE_VERSION
from gpuledger_agent.tls import CLIENT_AUTH, MIN_VERSIONS, TlsFiles, tls_files
from gpuledger_agent.xids import FATAL, XIDS_VERSION

PREFIX = "GPULEDGER_AGENT"


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentConfig:
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
    tls_cert_file: Path | None = setting(
        "tls_server_config.cert_file", "Certificate (chain) to serve TLS with, PEM.", None
    )
    tls_key_file: Path | None = setting("tls_server_config.key_file", "Its private key, PEM.", None)
    tls_client_auth_type: str = setting(
        "tls_server_config.client_auth_type",
        "Whether clients need a certificate.",
        "NoClientCert",
        choices=tuple(CLIENT_AUTH),
    )
    tls_client_ca_file: Path | None = setting(
        "tls_server_config.client_ca_file", "Who signs the certificates of clients, PEM.", None
    )
    tls_min_version: str = setting(
        "tls_server_config.min_version", "Least version of TLS.", "TLS12", choices=tuple(MIN_VERSIONS)
    )
    basic_auth_users: Pairs = setting(
        "basic_auth_users", "User and digest of the password, from `gpuledger agent credential`.", ()
    )
    bearer_tokens_file: Path | None = setting(
        "bearer_tokens_file", "File of the SHA-256 of each bearer token, one a line; mode 0600.", None
    )
    is_healthz_open: bool = setting("http.healthz_open", "Answer /healthz without a login.", True)
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
    def tls(self) -> TlsFiles | None:
        """Return the files of TLS, None without; raises ConfigurationError for half a configuration."""
        return tls_files(
            self.tls_cert_file,
            self.tls_key_file,
            self.tls_client_auth_type,
            self.tls_client_ca_file,
            self.tls_min_version,
        )

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
    _ = loaded.value.tls
    return loaded
