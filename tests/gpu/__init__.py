# SPDX-License-Identifier: Apache-2.0
"""The real agent beside a real load on a real GPU: what it measures against what is known. Run by `make gpu-test`."""
