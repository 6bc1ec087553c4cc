# SPDX-License-Identifier: Apache-2.0
"""Tables of schedulers in the configuration file: what they mean, and one sentence for what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpuledger.errors import ConfigurationError
from gpuledger_collector.config import load
from gpuledger_collector.scheduler_files import CLUSTERS_MAX, Scheduler, load_schedulers
from gpuledger_collector.schedulers.kubernetes_watch import SERVICE_ACCOUNT, KubernetesCluster
from gpuledger_collector.schedulers.slurm_commands import SlurmCluster


def read(tmp_path: Path, text: str) -> tuple[Scheduler, ...]:
    path = tmp_path / "collector.toml"
    path.write_text(text, encoding="utf-8")
    load(path, {}, {})
    return load_schedulers(path)


def test_a_file_without_schedulers_has_none(tmp_path: Path) -> None:
    assert read(tmp_path, "") == ()


def test_schedulers_are_what_their_tables_say(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        '[[slurm]]\nname = "alpha"\nsqueue = "/usr/local/bin/squeue"\nconfig_file = "/etc/slurm/slurm.conf"\n'
        'host = "login1"\ninterval_seconds = 30\n[[kubernetes]]\nname = "k"\n'
        '[[kubernetes]]\nname = "far"\nserver = "https://k8s:6443"\ntoken_file = "/run/token"\n',
    )
    assert [(one.name, one.kind, one.interval_s, one.timeout_s) for one in found] == [
        ("alpha", "slurm", 30, 30),
        ("k", "kubernetes", 60, 30),
        ("far", "kubernetes", 60, 30),
    ]
    assert [one.cluster for one in found] == [
        SlurmCluster(
            name="alpha",
            squeue="/usr/local/bin/squeue",
            config_file=Path("/etc/slurm/slurm.conf"),
            host="login1",
        ),
        KubernetesCluster(name="k", ca_file=SERVICE_ACCOUNT / "ca.crt", token_file=SERVICE_ACCOUNT / "token"),
        KubernetesCluster(name="far", server="https://k8s:6443", ca_file=None, token_file=Path("/run/token")),
    ]


def test_commands_run_on_another_machine_by_ssh_with_its_time_in_utc() -> None:
    cluster = SlurmCluster(name="a", host="login1", config_file=Path("/etc/slurm conf"))
    assert cluster.command("squeue", "--json") == (
        "ssh",
        "-oBatchMode=yes",
        "-oConnectTimeout=10",
        "-T",
        "login1",
        "env TZ=UTC LC_ALL=C.UTF-8 'SLURM_CONF=/etc/slurm conf' squeue --json",
    )
    assert SlurmCluster(name="a").command("squeue", "--json") == ("squeue", "--json")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('slurm = "x"', "slurm is not a list of tables; write [[slurm]]"),
        ("[[slurm]]", "slurm 1: name is missing"),
        ('[[slurm]]\nname = ""', "slurm 1: name: '' is not a text"),
        ('[[slurm]]\nname = "a"\npath = "x"', "slurm 1: unknown key 'path'; legal keys: name, squeue"),
        ('[[slurm]]\nname = "a"\nhost = "-oProxyCommand=x"', "slurm 1: host: '-oProxyCommand=x' is not the name of"),
        ('[[slurm]]\nname = "a"\ninterval_seconds = 151', "interval_seconds: 151 is not a number from 1 to 150"),
        ('[[kubernetes]]\nname = "a"\nserver = "k8s:6443"', "kubernetes 1: server: 'k8s:6443' is not https://HOST"),
        (
            '[[kubernetes]]\nname = "a"\nserver = "http://k"\ntoken_file = "/t"',
            "kubernetes 1: token_file: the server is not https",
        ),
        ('[[slurm]]\nname = "a"\n[[kubernetes]]\nname = "a"', "a is the name of two schedulers"),
        ("".join(f'[[slurm]]\nname = "{number}"\n' for number in range(CLUSTERS_MAX + 1)), "more than 64 schedulers"),
    ],
)
def test_what_is_wrong_is_said_with_file_table_and_key(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read(tmp_path, text)
    assert str(caught.value).startswith(f"{tmp_path / 'collector.toml'}: ")
    assert said in str(caught.value)
