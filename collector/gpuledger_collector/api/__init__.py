# SPDX-License-Identifier: Apache-2.0
"""The JSON interface below /api/v1: what is published, as integers, a page at a time; read-only (docs/api.md)."""
