# SPDX-License-Identifier: Apache-2.0
"""The meter on a GPU node: samples NVML, integrates seconds per state, seals readings."""
