# SPDX-License-Identifier: Apache-2.0
"""How good verdicts are, on real recordings and on process trees: `make eval` writes docs/classification.md."""
