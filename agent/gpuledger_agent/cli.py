# SPDX-License-Identifier: Apache-2.0
"""`gpuledger agent run|release|resume|once|probe|credential|config`."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

import click

from gpuledger import logs
from gpuledger.clock import Clock, SystemClock
from gpuledger.credential_command import credential
from gpuledger.errors import ConfigurationError, GpuledgerError
from gpuledger.settings import describe
from gpuledger_agent import config as agent_config
from gpuledger_agent import passthrough, program, release
from gpuledger_agent.nvml import Nvml
from gpuledger_agent.processes import ProcessTable, SystemProcessTable, SystemProcessTree

_config_option = click.option(
    "--config", "config_file", type=click.Path(path_type=Path), help="TOML file with the agent's settings."
)
_listen_option = click.option("--listen", metavar="HOST:PORT", help="Where to serve metrics and readings.")
_state_dir_option = click.option("--state-dir", type=click.Path(path_type=Path), help="Key, journal and crash file.")
_interval_option = click.option("--interval", "interval_seconds", type=float, help="Seconds between two samples.")
_node_name_option = click.option("--node-name", help="Name of this node (default: its host name).")


@click.group()
def agent() -> None:
    """Meter this node's GPUs."""


@agent.command()
@_config_option
@_listen_option
@_state_dir_option
@_interval_option
@_node_name_option
@click.option("--simulate", metavar="SCENARIO", help="Play a SIMULATED node instead of reading NVML.")
@click.option("--simulate-from", metavar="POSIX_SECONDS", type=int, help="Play the simulated past from here first.")
@click.option("--simulate-until", metavar="POSIX_SECONDS", type=int, help="End the simulated node's life here.")
def run(
    config_file: Path | None,
    simulate: str | None,
    simulate_from: int | None,
    simulate_until: int | None,
    **flags: Any,
) -> None:
    """Sample, meter, seal and serve until SIGTERM or SIGINT.

    Where the driver comes back in another version the command runs itself again, in the same process.

    Exit codes: 0 stopped, 1 the state directory cannot be used, 2 usage or configuration, 4 the devices of this
    container were taken away: start it again.
    """
    config = agent_config.load(config_file, os.environ, flags).value
    logs.configure(config.log_level)
    stop = threading.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        # From a thread of its own: a handler runs on top of the loop, which may be inside of the event's lock.
        signal.signal(name, lambda *_: threading.Thread(target=stop.set).start())
    if simulate is None:
        if simulate_from is not None or simulate_until is not None:
            raise ConfigurationError("--simulate-from and --simulate-until need --simulate")
        parts = program.Parts(
            clock=SystemClock(),
            nvml=Nvml(),
            processes=SystemProcessTable(),
            stop=stop,
            sysfs=passthrough.SYSFS,
            libvirt=passthrough.LIBVIRT,
            process_tree=SystemProcessTree(),
        )
    else:
        from gpuledger_agent import simulate as simulator

        parts = simulator.parts(simulate, simulate_from, simulate_until, stop)
    program.run(config, parts)


@agent.command("release")
@_config_option
@_state_dir_option
@click.option(
    "--for",
    "for_seconds",
    type=click.IntRange(1, release.RELEASE_SECONDS_MAX),
    default=release.RELEASE_SECONDS,
    show_default=True,
    metavar="SECONDS",
    help="Take the driver up again by itself after so long.",
)
@click.option("--until-resumed", is_flag=True, help="Stay away until `gpuledger agent resume`.")
def release_driver(config_file: Path | None, for_seconds: int, until_resumed: bool, **flags: Any) -> None:
    """Make the running agent let go of the driver, and wait until it has: for a reset, an upgrade, a change of MIG.

    For root, or the user that the agent runs as. The time is not covered, reason `released`. A restart of the agent
    does not end it.

    Exit codes: 0 the agent has let go, 1 no agent runs on this state directory, 2 usage or configuration, 3 the agent
    runs and has not let go in time.
    """
    config = agent_config.load(config_file, os.environ, flags).value
    for_s = None if until_resumed else for_seconds
    click.echo(release.ask_release(config.state_dir, SystemClock(), for_s))


@agent.command("resume")
@_config_option
@_state_dir_option
def resume_driver(config_file: Path | None, **flags: Any) -> None:
    """End a release, and wait until the running agent has taken the driver up again, or cannot.

    Exit codes: 0 the release is over, 1 no agent runs on this state directory (the release is over all the same),
    2 usage or configuration, 3 the agent runs and has not answered in time.
    """
    config = agent_config.load(config_file, os.environ, flags).value
    click.echo(release.ask_resume(config.state_dir, SystemClock()))


@agent.command("once")
@_config_option
@click.option("--simulate", metavar="SCENARIO", help="Look at a SIMULATED node instead of reading NVML.")
@click.pass_context
def look_once(context: click.Context, config_file: Path | None, simulate: str | None) -> None:
    """Look at this node's GPUs for one second and print a table; nothing is written, kept or served.

    Exit codes: 0 every GPU was seen and none is down, 1 no usable driver or no GPU, 2 usage or configuration, 3 a GPU
    is down or could not be observed.
    """
    config = agent_config.load(config_file, os.environ, {}).value
    logs.configure("warning")
    clock, nvml, processes = _sources(simulate)
    # Here and not above: what looks once would stay in the memory of what runs for months.
    from gpuledger_agent import once

    host = once.Host(sysfs=passthrough.SYSFS, libvirt=passthrough.LIBVIRT) if simulate is None else None
    found = once.look(config, clock, nvml, processes, host)
    click.echo(once.render(found))
    if not found.is_whole:
        context.exit(3)


def _sources(simulate: str | None) -> tuple[Clock, Nvml, ProcessTable]:
    if simulate is None:
        return SystemClock(), Nvml(), SystemProcessTable()
    from gpuledger_agent import simulate as simulator

    parts = simulator.parts(simulate, None, None, threading.Event())
    return parts.clock, parts.nvml, parts.processes


@agent.command()
def probe() -> None:
    """Say whether this machine has an NVIDIA driver that answers, and which GPUs.

    Exit codes: 0 there are GPUs, 1 there is no usable driver or no GPU, 2 usage.
    """
    nvml = Nvml()
    nvml.attach()
    try:
        count = nvml.device_count()
        if count == 0:
            raise GpuledgerError("the NVIDIA driver answers and lists no GPU")
        click.echo(f"NVIDIA driver {nvml.driver_version() or 'of unknown version'}, {count} GPU(s)")
    finally:
        nvml.detach()


agent.add_command(credential)


@agent.command("config")
@_config_option
@_listen_option
@_state_dir_option
@_interval_option
@_node_name_option
def show_config(config_file: Path | None, **flags: Any) -> None:
    """Print each setting with where it comes from.

    Exit codes: 0 printed, 2 usage or configuration.
    """
    loaded = agent_config.load(config_file, os.environ, flags)
    for key, value, origin in describe(loaded):
        click.echo(f"{key} = {value!s}  # {origin}")
