# SPDX-License-Identifier: Apache-2.0
"""Reads a fleet from an engine that speaks Prometheus' HTTP API, into the rows that every ledger has."""
