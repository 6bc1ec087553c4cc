# SPDX-License-Identifier: Apache-2.0
"""Shared core of gpuledger: states, accounting, readings and their seals."""

__version__ = "0.1.0"
