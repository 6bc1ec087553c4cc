# SPDX-License-Identifier: Apache-2.0
"""The fleet program: takes in sealed readings, keeps the ledger, writes reports."""
