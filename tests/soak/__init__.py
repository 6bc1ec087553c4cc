# SPDX-License-Identifier: Apache-2.0
"""The agent for long: what it takes does not grow, and what it seals is exact. `make soak` runs it for an hour."""
