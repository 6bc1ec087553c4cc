# SPDX-License-Identifier: Apache-2.0
"""Starts real programs through their own entry points, on the CPU, and records their trees of processes."""
