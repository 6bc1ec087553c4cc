# SPDX-License-Identifier: Apache-2.0
"""Shared core of gpuledger: states, figures, readings, seals. Pure, standard library (+ cryptography)."""

__version__ = "0.1.0"
