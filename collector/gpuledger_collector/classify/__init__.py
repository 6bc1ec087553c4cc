# SPDX-License-Identifier: Apache-2.0
"""What workloads are for: evidence from sealed readings and declarations in, verdicts out (docs/classification.md)."""
