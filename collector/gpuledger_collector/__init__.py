# SPDX-License-Identifier: Apache-2.0
"""What runs once per site: it gathers readings, keeps the ledger and reports on the fleet."""

from gpuledger import __version__

__all__ = ["__version__"]
