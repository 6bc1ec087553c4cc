# SPDX-License-Identifier: Apache-2.0
"""`gpuledger report` with all its commands: those that write what they are asked for, and the one that issues."""

from gpuledger_collector.issue.due_command import due
from gpuledger_collector.report.command import report

report.add_command(due)

__all__ = ["report"]
