# SPDX-License-Identifier: Apache-2.0
"""Reports that are issued: which are due, each once, numbered, restated when the past changed, and delivered."""
