# SPDX-License-Identifier: Apache-2.0
"""The command `gpuledger`: sub-commands are found by name and imported only when used.

Exit codes: 0 success, 1 the work failed, 2 usage or configuration.
"""

from __future__ import annotations

import importlib
from typing import Any

import click

from gpuledger import __version__
from gpuledger.errors import GpuledgerError

_COMMANDS = {
    "agent": ("gpuledger_agent.cli", "agent", "agent"),
    "collector": ("gpuledger_collector.cli", "collector", "collector"),
    "ledger": ("gpuledger_collector.cli", "ledger", "collector"),
    "log": ("gpuledger_collector.cli", "log", "collector"),
    "report": ("gpuledger_collector.report.command", "report", "collector"),
    "roster": ("gpuledger_collector.cli", "roster", "collector"),
    "run": ("gpuledger_collector.demo", "run", "agent,collector"),
    "demo": ("gpuledger_collector.demo", "demo", "agent,collector"),
}
"""Command -> module, attribute, extra that brings what it needs."""


class _LazyGroup(click.Group):
    """Imports the module of a sub-command when it is called, and says which extra is missing when it cannot."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module_name, attribute, extra = _COMMANDS[cmd_name]
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as exc:
            raise click.ClickException(
                f"gpuledger {cmd_name} needs the Python package {exc.name}, which is not installed; "
                f"install it with: pip install 'gpuledger[{extra}]'"
            ) from exc
        command: click.Command = getattr(module, attribute)
        return command

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
