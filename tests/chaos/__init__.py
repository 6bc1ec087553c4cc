# SPDX-License-Identifier: Apache-2.0
"""Faults of every kind at once, from a seed; the ledger must be that of an undisturbed run, or dark with a cause.

`make chaos` for two minutes, as CI does; `make chaos CHAOS_MINUTES=60` for an hour, CHAOS_SEED=7 for those of seed 7.
"""
