# SPDX-License-Identifier: Apache-2.0
"""Reading a fleet from an engine."""
