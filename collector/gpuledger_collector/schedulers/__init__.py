# SPDX-License-Identifier: Apache-2.0
"""What only a cluster's scheduler knows: allocations, queues, and nodes that may not be used. One call a cluster."""
