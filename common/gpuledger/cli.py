# SPDX-License-Identifier: Apache-2.0
"""The command `gpuledger`: sub-commands are found by name and imported only when used.

Exit codes: 0 success, 1 the work failed, 2 usage or configuration.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

import click

from gpuledger import __version__
from gpuledger.errors import GpuledgerError


@dataclass(frozen=True, slots=True)
class _Entry:
    """Where a command lives, which extra brings what it needs, and what it does."""

    module: str
    attribute: str
    extra: str
    text: str


_COLLECTOR_CLI = "gpuledger_collector.cli"
_COMMANDS = {
    "agent": _Entry("gpuledger_agent.cli", "agent", "agent", "Meter this node's GPUs."),
    "collector": _Entry(_COLLECTOR_CLI, "collector", "collector", "Take in the fleet's readings and serve its page."),
    "demo": _Entry("gpuledger_collector.demo", "demo", "agent,collector", "Play a SIMULATED fleet."),
    "idle": _Entry("gpuledger_collector.idle_cli", "idle", "collector", "Print what is idle now."),
    "ledger": _Entry(_COLLECTOR_CLI, "ledger", "collector", "Rebuild or check the ledger."),
    "log": _Entry(_COLLECTOR_CLI, "log", "collector", "Check the log of sealed readings."),
    "report": _Entry("gpuledger_collector.report_cli", "report", "collector", "Write reports from the ledger."),
    "roster": _Entry("gpuledger_collector.roster_cli", "roster", "collector", "Check, compare or import rosters."),
    "run": _Entry("gpuledger_collector.demo", "run", "agent,collector", "Run everything on this machine."),
    "workload": _Entry("gpuledger_collector.workload_cli", "workload", "collector", "What workloads are for, and why."),
}


class _LazyGroup(click.Group):
    """Imports the module of a sub-command only when it is called; help needs none of them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = _COMMANDS.get(cmd_name)
        if entry is None:
            return None
        try:
            module = importlib.import_module(entry.module)
        except ModuleNotFoundError as exc:
            if exc.name is not None and exc.name.startswith("gpuledger."):
                raise
            raise click.ClickException(
                f"gpuledger {cmd_name} needs the Python package {exc.name}, which is not installed; "
                f"install it with: pip install 'gpuledger[{entry.extra}]'"
            ) from exc
        command: click.Command = getattr(module, entry.attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, _COMMANDS[name].text) for name in self.list_commands(ctx)])

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except GpuledgerError as exc:
            click.echo(f"Error: {exc}", err=True)
            ctx.exit(exc.exit_code)


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="gpuledger")
def main() -> None:
    """Account for every installed GPU-second, once, in one state."""
