# SPDX-License-Identifier: Apache-2.0
"""`python -m gpuledger`: the command, for programs that start it with their own interpreter."""

from __future__ import annotations

from gpuledger.cli import main

main(prog_name="gpuledger")
